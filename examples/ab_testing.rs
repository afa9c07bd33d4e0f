//! A/B testing: the definition of an experiment lives in the store, the assignment is computed wherever it is needed. See
//! `experiment/mod.rs` for how.
//!
//! Run it with `cargo run --example ab_testing`. It ends by itself.

#![allow(
    clippy::print_stdout,
    reason = "an example prints what a reader should see"
)]

mod common;
mod experiment;

use std::collections::BTreeMap;

use common::{Database, Outcome, PATIENCE};
use experiment::{Experiment, bucket};
use serde::Deserialize;
use serde_json::{Value, json};
use sync_config::prelude::*;
use tokio::time::timeout;

const KEY: &str = "experiment:checkout";
const USERS: u32 = 10_000;

#[tokio::main]
async fn main() -> Outcome {
    common::run(example).await
}

async fn example(database: &mut Database) -> Outcome {
    let (admin, web) = (database.instance().await?, database.instance().await?);
    let checkout = web.live(KEY, Experiment::nobody())?;
    println!(
        "No experiment: user 42 sees {:?}.",
        checkout.load().variant("42")
    );

    define(&admin, &web, definition(2_000, 2_500)).await?;
    let before = assign(&checkout.load());
    println!("20 % take part: {}.", count(&before));

    define(&admin, &web, definition(5_000, 2_500)).await?;
    let after = assign(&checkout.load());
    let moved = before
        .iter()
        .filter(|(user, variant)| after.get(*user) != Some(*variant));
    println!(
        "50 % take part: {}; moved to another variant: {}.",
        count(&after),
        moved.count()
    );

    // 9,500 in all: refused where it is entered; and when somebody writes past that, the definition before stays.
    let wrong = definition(5_000, 2_000);
    if let Err(error) = Experiment::deserialize(&wrong) {
        println!("Refused: {error}.");
    }
    let sql = format!("UPDATE sync_config SET value = '{wrong}' WHERE key = '{KEY}'");
    let mut changes = web.changes(Filter::key(KEY))?;
    database.psql(&sql).await?;
    timeout(PATIENCE, changes.next())
        .await?
        .ok_or("the store closed")?;
    let same = assign(&checkout.load()) == after;
    println!("psql writes it all the same; nobody moves: {same}.");
    if let Some(rejected) = checkout.rejected() {
        println!("  {rejected}.");
    }

    // The same in SQL, for those who analyse: no assignment has to be stored or shipped.
    let (client, connection) = database.client().await?;
    let sql = "SELECT mod(('x' || left(encode(sha256(convert_to($1 || ':' || $2 || ':' || $3, 'UTF8')), 'hex'), 8))::bit(32)::bigint, 10000)";
    let mut equal = 0;
    for user in 0..100 {
        let user = user.to_string();
        let row = client
            .query_one(sql, &[&"checkout-1", &"variant", &user])
            .await?;
        let there: i64 = row.try_get(0)?;
        equal += u32::from(there == i64::from(bucket("checkout-1", "variant", &user)));
    }
    println!("PostgreSQL computes the same bucket for {equal} of 100 users.");
    drop(client);
    connection.await?;

    admin.shutdown().await?;
    web.shutdown().await?;
    Ok(())
}

/// What an administrator writes.
fn definition(allocation: u32, one_page: u32) -> Value {
    json!({
        "salt": "checkout-1",
        "allocation": allocation,
        "variants": [
            { "name": "control", "weight": 5_000 },
            { "name": "one_page", "weight": one_page },
            { "name": "express", "weight": 2_500 },
        ],
    })
}

async fn define(admin: &ConfigService, web: &ConfigService, definition: Value) -> Outcome {
    let written = admin.set(KEY, definition).await?;
    web.wait_for(written.cursor().into(), PATIENCE).await?;
    Ok(())
}

/// The variants of users 0, 1, 2 and so on, as far as they take part.
fn assign(experiment: &Experiment) -> BTreeMap<u32, String> {
    let variant = |user: u32| Some((user, experiment.variant(&user.to_string())?.to_owned()));
    (0..USERS).filter_map(variant).collect()
}

fn count(assigned: &BTreeMap<u32, String>) -> String {
    let mut counts = BTreeMap::new();
    for variant in assigned.values() {
        *counts.entry(variant.as_str()).or_insert(0) += 1;
    }
    let counts = counts.iter().map(|(name, count)| format!("{count} {name}"));
    format!(
        "{} of {USERS}: {}",
        assigned.len(),
        counts.collect::<Vec<_>>().join(", ")
    )
}
