//! The whole of it in one program: typed values in and out, defaults, errors, a callback for every change, one snapshot,
//! the checksum.
//!
//! Run it with `cargo run --example basics`. It ends by itself.

#![allow(
    clippy::print_stdout,
    reason = "an example prints what a reader should see"
)]

mod common;

use std::sync::Arc;

use common::{Database, Outcome, PATIENCE};
use sync_config::prelude::*;
use tokio::sync::mpsc;
use tokio::time::timeout;

#[tokio::main]
async fn main() -> Outcome {
    common::run(example).await
}

async fn example(database: &mut Database) -> Outcome {
    let one: Arc<dyn SyncConfig> = database.instance().await?;
    let two: Arc<dyn SyncConfig> = database.instance().await?;

    one.set("app_name", "Shop").await?;
    one.set("max_connections", 500).await?;
    one.set("tax_rate", 0.19).await?;
    let written = one.set("languages", ["de", "en"]).await?;
    two.wait_for(written.cursor().into(), PATIENCE).await?;
    println!(
        "Another instance reads {:?}, {}, {}; the default of an absent key: {}.",
        two.get_string("app_name", "MyApp"),
        two.get_i64("max_connections", 100),
        two.get_f64("tax_rate", 0.0),
        two.get_bool("maintenance_mode", false),
    );
    let languages = two.get_as::<Vec<String>>("languages")?;
    println!("Any type that serde decodes: {languages:?}.");

    // A callback hands over and returns: what takes time happens elsewhere.
    let (told, mut heard) = mpsc::unbounded_channel();
    let subscription = two.on_change(Filter::all(), move |event| {
        if let Event::Changed(set) | Event::Resynced(set) = event {
            for change in set.changes() {
                let _nobody_listens = told.send(change.clone());
            }
        }
    })?;
    one.set("maintenance_mode", true).await?;
    one.delete("tax_rate").await?;
    for _ in 0..2 {
        let change = timeout(PATIENCE, heard.recv())
            .await?
            .ok_or("the store closed")?;
        match (change.key().as_str(), change.new()) {
            ("maintenance_mode", Some(now)) => {
                println!("Told: maintenance_mode is {:?} now.", now.as_bool());
            }
            (key, Some(_)) => println!("Told: {key} was put."),
            (key, None) => println!("Told: {key} was deleted."),
        }
    }
    two.unsubscribe(subscription);

    if let Err(error) = one.set("", 1).await {
        println!("Refused: {error}.");
    }
    if let Err(error) = two.get_as::<i64>("app_name") {
        println!("Not a number: {}.", error.is_wrong_type());
    }
    println!(
        "An absent key is no error: {:?}.",
        two.get("nothing")?.is_none()
    );

    let now = two.snapshot()?;
    for entry in now.iter() {
        println!("  {} = {}", entry.key(), entry.as_json());
    }
    println!(
        "{} entries at revision {}, checksum {}, the same on both instances: {}.",
        now.len(),
        now.revision(),
        now.checksum(),
        one.checksum()? == two.checksum()?
    );
    one.shutdown().await?;
    two.shutdown().await?;
    Ok(())
}
