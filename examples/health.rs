//! A health endpoint: what to answer to a load balancer and to a person, while the database is there, while it is away,
//! and when it is back. It starts a private PostgreSQL, also when `DATABASE_URL` is set, since it stops it.
//!
//! Run it with `cargo run --example health`. It ends by itself.

#![allow(
    clippy::print_stdout,
    reason = "an example prints what a reader should see"
)]

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Database, Outcome, until};
use serde::Serialize;
use sync_config::prelude::*;
use sync_config::{Checksum, Mode};

/// Beyond this an instance that cannot ask the database any more should say so aloud: many check intervals.
const STALE: Duration = Duration::from_secs(30);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    status: &'static str,
    /// Whether to send requests here: it is loaded, and reads go on from memory whatever the database does.
    ready: bool,
    checksum: Option<Checksum>,
    count: usize,
    mode: Mode,
    /// How long ago the entries were last proven to be the table's.
    proven_seconds_ago: Option<u64>,
}

struct HealthService {
    config: Arc<dyn SyncConfig>,
}

impl HealthService {
    /// The status code and the body. A server passes `SystemTime::now()`.
    fn check(&self, now: SystemTime) -> (u16, Health) {
        let status = self.config.status();
        let age = status
            .proven_at
            .map(|then| now.duration_since(then).unwrap_or_default());
        let word = match (status.ready, status.mode) {
            (false, _) => "loading",
            (true, _) if age.is_none_or(|age| age > STALE) => "stale",
            (true, Mode::Offline) => "database away",
            (true, Mode::Push | Mode::Poll) => "healthy",
        };
        let health = Health {
            status: word,
            ready: status.ready,
            checksum: status.checksum,
            count: status.entries,
            mode: status.mode,
            proven_seconds_ago: age.map(|age| age.as_secs()),
        };
        (if health.ready { 200 } else { 503 }, health)
    }
}

#[tokio::main]
async fn main() -> Outcome {
    common::run_on_private_server(example).await
}

async fn example(database: &mut Database) -> Outcome {
    let quick = Duration::from_millis(200);
    let settings = database
        .settings()
        .check_interval(quick)
        .reconnect_interval(quick);
    let config = Builder::new(settings.clone()).start().await?;
    let health = HealthService {
        config: config.clone(),
    };
    config.set("limit:login", 100).await?;
    config.set("feature:new_ui", true).await?;
    show("In step", health.check(after(0, &config)))?;

    let server = database
        .server
        .as_mut()
        .ok_or("the server is the program's own")?;
    server.stop_fast()?;
    until(&*config, "the loss is noticed", |status| {
        status.mode == Mode::Offline
    })
    .await?;
    show("The database is stopped", health.check(after(0, &config)))?;
    println!(
        "  Reads go on: limit:login is {}.",
        config.get_i64("limit:login", 0)
    );
    if let Err(error) = config.set("limit:login", 200).await {
        println!(
            "  A write says that nothing was written: {}.",
            error.is_unavailable()
        );
    }
    show("A minute later", health.check(after(60, &config)))?;

    // A process that starts now: it lives, and is not ready.
    let late = Builder::new(settings).without_waiting().start().await?;
    let starting = HealthService {
        config: late.clone(),
    };
    show(
        "Another one starts meanwhile",
        starting.check(after(0, &late)),
    )?;

    server.restart()?;
    for (when, config, health) in [
        ("The database is back", &config, &health),
        ("The other one has loaded", &late, &starting),
    ] {
        until(&**config, "it is in step", |status| {
            status.ready && status.mode == Mode::Push
        })
        .await?;
        show(when, health.check(after(0, config)))?;
    }

    config.shutdown().await?;
    late.shutdown().await?;
    Ok(())
}

/// So many seconds after the last proof, and a little. Time is an argument here, so that this prints the same each time.
fn after(seconds: u64, config: &ConfigService) -> SystemTime {
    let proven_at = config.status().proven_at.unwrap_or(UNIX_EPOCH);
    proven_at + Duration::from_secs(seconds) + Duration::from_millis(1)
}

fn show(when: &str, (code, health): (u16, Health)) -> Outcome {
    println!("{when}: {code}\n  {}", serde_json::to_string(&health)?);
    Ok(())
}
