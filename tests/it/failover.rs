//! Several hosts: the primary is found, and found again when it is another one.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use sync_config::Mode as How;
use sync_config::prelude::*;

use crate::fleet::{in_step, record, until_status};
use crate::ground::{
    changed_revisions, equal_to_the_table, head, one, quick, run, start, until_push,
};
use crate::support::postgres::{OwnCluster, TestDb, connect};
use crate::support::wait::{PATIENCE, eventually};

/// A primary, a standby that follows it, and a database on both.
struct Pair {
    primary: OwnCluster,
    standby: OwnCluster,
    db: TestDb,
}

impl Pair {
    async fn start() -> Self {
        let (mut primary, mut standby) = (OwnCluster::start(), OwnCluster::start());
        primary.server().stop_fast().unwrap();
        standby.server().stop_fast().unwrap();
        let data = |own: &mut OwnCluster| own.server().home().join("data");
        let (from, to) = (data(&mut primary), data(&mut standby));
        std::fs::remove_dir_all(&to).unwrap();
        copy(&from, &to);
        copy(&from.join("PG_VERSION"), &to.join("standby.signal"));
        let source = format!(
            "primary_conninfo = 'host=127.0.0.1 port={} user=postgres'\n",
            primary.server().port()
        );
        let settings = to.join("postgresql.auto.conf");
        std::fs::write(&settings, source).unwrap(); // the file's owner stays
        primary.server().restart().unwrap();
        standby.server().restart().unwrap();
        let db = TestDb::on(&primary).await;
        Self {
            primary,
            standby,
            db,
        }
    }

    /// Both hosts, the standby first.
    fn url(&mut self) -> String {
        let [standby, primary] =
            [&mut self.standby, &mut self.primary].map(|own| own.server().port());
        let database = self.db.name();
        format!("postgres://postgres@127.0.0.1:{standby},127.0.0.1:{primary}/{database}")
    }

    /// The standby's own address.
    fn standby_url(&self) -> String {
        self.standby.url(self.db.name())
    }

    /// Waits until the standby has everything: first the database, then the table, then its newest revision.
    async fn level(&self, revision: u64) {
        eventually("the standby is level", PATIENCE, async || {
            let url = self.standby_url();
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
                .await
                .map_err(|error| error.to_string())?;
            let connection = tokio::spawn(connection);
            let row = client
                .query_one("SELECT revision FROM sync_config_head", &[])
                .await
                .map_err(|error| error.to_string())?;
            connection.abort();
            let found = u64::try_from(row.get::<_, i64>(0)).unwrap();
            if found == revision {
                Ok(())
            } else {
                Err(found.to_string())
            }
        })
        .await;
    }

    /// Makes the standby the primary.
    async fn promote(&self) {
        let standby = connect(&self.standby_url()).await;
        let promoted: bool = one(&standby, "SELECT pg_promote()").await;
        assert!(promoted);
    }
}

/// Copies with owners and permissions.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success(), "{} is copied", from.display());
}

/// Writes until it succeeds; what fails in between was not applied, or is unknown.
async fn until_written(service: &Arc<ConfigService>, key: &str) -> u64 {
    let written = eventually("a write", PATIENCE, async || {
        let written = service.set(key, true).await;
        if let Err(error) = &written {
            assert!(
                error.is_retryable() || error.is_outcome_unknown(),
                "{error}"
            );
        }
        written
    })
    .await;
    written.revision().get()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_primary_dies_the_promoted_standby_is_found_and_the_history_goes_on() {
    let mut pair = Pair::start().await;
    let settings = quick(Settings::new(pair.url()));
    let (writer, reader) = (start(settings.clone()).await, start(settings).await);
    let epoch = reader.status().epoch;
    let seen = record(&reader, Filter::all());
    for number in 0..20u64 {
        writer
            .set("k", number)
            .await
            .expect("the standby is passed over");
    }
    let last = writer.status().revision.get();
    pair.level(last).await;
    pair.primary.server().stop_immediate().unwrap();
    pair.promote().await;
    let revision = until_written(&writer, "after").await;
    for service in [&writer, &reader] {
        until_push(service).await;
    }
    in_step(&[&writer, &reader], writer.status().revision).await;
    let client = connect(&pair.standby_url()).await;
    equal_to_the_table(&[&writer, &reader], &client).await;
    let events = seen
        .until("all", |seen| {
            seen.last().is_some_and(|seen| seen.revision() >= revision)
        })
        .await;
    assert_eq!(
        changed_revisions(&events),
        (1..=revision).collect::<Vec<_>>()
    );
    let status = reader.status();
    assert_eq!((status.epoch, status.counters.forks), (epoch, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_a_server_that_takes_no_writes_any_more_are_left_for_the_one_that_does() {
    let mut pair = Pair::start().await;
    let settings = quick(Settings::new(pair.url())).max_connections(3);
    let service = start(settings).await;
    let writes = (0..3u64).map(|number| {
        let service = service.clone();
        tokio::spawn(async move { service.set(&format!("k{number}"), number).await })
    });
    for written in writes.collect::<Vec<_>>() {
        written.await.unwrap().unwrap();
    }
    let old = pair.db.client().await;
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sync-config' AND datname = current_database()";
    assert!(one::<i64>(&old, sessions).await >= 2);
    pair.level(head(&old).await).await;
    pair.promote().await;
    // No connection is cut: the old primary only begins to refuse writes.
    run(&old, "ALTER SYSTEM SET default_transaction_read_only = on").await;
    run(&old, "SELECT pg_reload_conf()").await;
    eventually("the old primary refuses writes", PATIENCE, async || {
        let refuses: String = one(&old, "SHOW transaction_read_only").await;
        (refuses == "on").then_some(())
    })
    .await;
    let new = connect(&pair.standby_url()).await;
    // A session of the old one may not have read its configuration again yet.
    let there = eventually("a write at the new primary", PATIENCE, async || {
        let revision = until_written(&service, "after").await;
        (head(&new).await == revision).then_some(revision)
    });
    let revision = there.await;
    eventually("nobody stays", PATIENCE, async || {
        let left: i64 = one(&old, sessions).await;
        if left == 0 {
            Ok(())
        } else {
            Err(left.to_string())
        }
    })
    .await;
    until_push(&service).await;
    run(
        &new,
        "UPDATE sync_config SET value = '\"psql\"' WHERE key = 'k0'",
    )
    .await;
    until_status(&service, "psql's edit at the new primary", |status| {
        status.revision.get() == revision + 1 && status.mode == How::Push
    })
    .await;
    assert_eq!(service.get_string("k0", ""), "psql");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_silent_leaves_time_for_the_next_and_the_error_names_them_all() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap().port(); // held, and never answered
    let db = TestDb::new().await;
    let (scheme, rest) = db.url().split_once("://").unwrap();
    let (user, server) = rest.split_once('@').unwrap();
    // The longer one is what the driver and a write allow for all hosts together, and more.
    for timeout in [1, 30] {
        let url =
            format!("{scheme}://{user}@127.0.0.1:{silent},{server}?connect_timeout={timeout}");
        let settings = Settings::new(url).request_timeout(Duration::from_secs(8));
        let service = start(quick(settings)).await;
        service.set("k", timeout).await.unwrap();
        service.shutdown().await.unwrap();
    }

    let closed = "postgres://postgres@127.0.0.1:1,127.0.0.1:2/d";
    let settings = Settings::new(closed).request_timeout(Duration::from_secs(2));
    let error = Builder::new(settings).start().await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    for host in ["127.0.0.1:1: ", "127.0.0.1:2: "] {
        assert!(error.to_string().contains(host), "{error}");
    }
}
