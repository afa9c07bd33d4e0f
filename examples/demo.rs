//! Three instances on one PostgreSQL: a write and how soon the others read it, an edit by plain SQL, the listener killed
//! and back, a row altered behind the triggers and healed by the heartbeat, and equal checksums at the end.
//!
//! Run it with `cargo run --example demo`. It takes a few seconds and ends by itself.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a demonstration prints and measures"
)]

mod common;

use std::time::{Duration, Instant};

use common::{Database, Outcome, until};
use sync_config::Mode;
use sync_config::prelude::*;

#[tokio::main]
async fn main() -> Outcome {
    common::run(example).await
}

async fn example(database: &mut Database) -> Outcome {
    let name = format!("demo-{}", std::process::id());
    let settings = (database.settings())
        .instance_name(&name)
        .heartbeat_interval(Duration::from_secs(2));
    let mut instances = Vec::new();
    for _ in 0..3 {
        instances.push(Builder::new(settings.clone()).start().await?);
    }
    let [one, two, three] = &instances[..] else {
        return Err("three instances".into());
    };
    println!("1. Three instances are loaded and listening.");

    let started = Instant::now();
    let written = one.set("feature:new_ui", true).await?;
    println!(
        "2. Instance 1 sets feature:new_ui = true: durable as revision {} after {:?}.",
        written.revision(),
        started.elapsed()
    );
    for (number, other) in [(2, two), (3, three)] {
        other
            .wait_for(written.cursor().into(), Duration::from_secs(5))
            .await?;
        let value = other.get_bool("feature:new_ui", false);
        println!(
            "   Instance {number} reads {value}, {:?} after the call.",
            started.elapsed()
        );
    }

    let (told, heard) = std::sync::mpsc::channel();
    three.subscribe_as::<i64>("limit:login", move |old, new| {
        let _gone = told.send((old.copied(), new.copied()));
    })?;
    let insert = "INSERT INTO sync_config (key, value) VALUES ('limit:login', '100')";
    database.psql(insert).await?;
    let (old, new) = heard.recv_timeout(Duration::from_secs(5))?;
    println!(
        "3. psql inserts limit:login = 100: instance 3 is called back with {old:?} -> {new:?}."
    );

    let lost = two.status().counters.sessions_lost;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name";
    database.psql(&format!("{kill} = '{name}'")).await?;
    until(&**two, "the loss is noticed", |status| {
        status.counters.sessions_lost > lost
    })
    .await?;
    let killed = Instant::now();
    let update = "UPDATE sync_config SET value = '200' WHERE key = 'limit:login'";
    database.psql(update).await?;
    until(&**two, "the listener is back", |status| {
        status.mode == Mode::Push && status.revision.get() >= written.revision().get() + 2
    })
    .await?;
    println!(
        "4. The listeners' connections are killed. Instance 2 listens again {:?} later and reads {}.",
        killed.elapsed(),
        two.get_i64("limit:login", 0)
    );

    let sneaky = "ALTER TABLE sync_config DISABLE TRIGGER USER; UPDATE sync_config SET value = '300' WHERE key = 'limit:login';
         ALTER TABLE sync_config ENABLE ALWAYS TRIGGER sync_config_touch_insert; ALTER TABLE sync_config ENABLE ALWAYS TRIGGER sync_config_touch_update;
         ALTER TABLE sync_config ENABLE ALWAYS TRIGGER sync_config_insert; ALTER TABLE sync_config ENABLE ALWAYS TRIGGER sync_config_update;
         ALTER TABLE sync_config ENABLE ALWAYS TRIGGER sync_config_delete; ALTER TABLE sync_config ENABLE ALWAYS TRIGGER sync_config_truncate";
    database.psql(sneaky).await?;
    println!(
        "5. A row is altered behind the triggers, to 300; the instances still read {}.",
        three.get_i64("limit:login", 0)
    );
    for (number, instance) in [(1, one), (2, two), (3, three)] {
        until(&**instance, "the audit heals it", |_| {
            instance.get_i64("limit:login", 0) == 300
        })
        .await?;
        println!(
            "   Instance {number} is healed by the heartbeat's audit and reads 300 at revision {}.",
            instance.status().revision
        );
    }

    let newest = instances
        .iter()
        .map(|instance| instance.status().revision)
        .max()
        .unwrap_or_default();
    for (number, instance) in instances.iter().enumerate() {
        instance
            .wait_for(newest.into(), Duration::from_secs(5))
            .await?;
        let status = instance.status();
        println!(
            "6. Instance {}: revision {}, {} entries, checksum {}.",
            number + 1,
            status.revision,
            status.entries,
            instance.checksum()?
        );
    }
    for instance in &instances {
        assert_eq!(
            instance.checksum()?,
            one.checksum()?,
            "all instances are equal"
        );
        instance.shutdown().await?;
    }
    println!("All equal.");
    Ok(())
}
