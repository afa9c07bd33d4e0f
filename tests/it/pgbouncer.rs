//! Behind a real transaction pooler: writes work, nothing depends on a session, and what does not arrive is polled for.

use std::sync::Arc;
use std::time::Duration;

use sync_config::Mode as How;
use sync_config::prelude::*;
use tokio_postgres::Client;

use crate::fleet::{in_step, record, until_status};
use crate::ground::{
    beating, changed_revisions, equal_to_the_table, head, one, quick, rows, run, start,
};
use crate::support::pgbouncer::{PgBouncer, SERVER_CONNECTIONS};
use crate::support::postgres::{OwnCluster, TestDb};
use crate::support::wait::{PATIENCE, eventually};

/// A server of the test's own, a database on it, and a pooler in front.
struct Pooled {
    pooler: PgBouncer,
    db: TestDb,
    own: OwnCluster,
}

impl Pooled {
    /// `None` without PgBouncer, which was said then.
    async fn start() -> Option<Self> {
        let mut own = OwnCluster::start();
        let pooler = PgBouncer::before(&mut own).await?;
        Some(Self::of(own, pooler).await)
    }

    /// The same with a pooler that lets the settings of a session fall without a word.
    async fn careless() -> Option<Self> {
        let mut own = OwnCluster::start();
        let pooler = PgBouncer::careless(&mut own).await?;
        Some(Self::of(own, pooler).await)
    }

    async fn of(own: OwnCluster, pooler: PgBouncer) -> Self {
        let db = TestDb::on(&own).await;
        Self { pooler, db, own }
    }

    /// The address through the pooler.
    fn url(&self) -> String {
        self.pooler.url(self.db.name())
    }

    /// How many connections the pooler has to the database.
    async fn server_connections(&self, admin: &Client) -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        one(admin, sql).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_pooler_alone_everything_works_by_polling_and_the_reason_names_it() {
    let Some(pooled) = Pooled::start().await else {
        return;
    };
    let settings = quick(Settings::new(pooled.url())).max_connections(8);
    let (writer, reader) = (start(settings.clone()).await, start(settings).await);
    for service in [&writer, &reader] {
        until_status(service, "poll, for the pooler", |status| {
            let why = status.reason.as_deref().unwrap_or_default();
            status.mode == How::Poll && why.contains("pooler")
        })
        .await;
    }
    let seen = record(&reader, Filter::all());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..36u64 {
        let writer = writer.clone();
        tasks.spawn(async move { writer.set(&format!("k{number}"), number).await });
    }
    while let Some(written) = tasks.join_next().await {
        written.unwrap().expect("every concurrent write is applied");
    }
    let entry = writer.get("k0").unwrap().unwrap();
    let guarded =
        |value: u64, revision| Batch::new().put_if("k0", value, Precondition::Revision(revision));
    writer.write(guarded(100, entry.revision())).await.unwrap();
    let stale = writer.write(guarded(200, entry.revision())).await;
    assert!(stale.unwrap_err().is_conflict());
    let admin = pooled.db.client().await;
    assert!(pooled.server_connections(&admin).await <= SERVER_CONNECTIONS);
    run(
        &admin,
        "UPDATE sync_config SET value = '300' WHERE key = 'k1'",
    )
    .await;
    let newest = head(&admin).await;
    let events = seen
        .until("psql's edit too", |seen| {
            changed_revisions(seen).last() == Some(&newest)
        })
        .await;
    let all = (1..=newest).collect::<Vec<_>>();
    assert_eq!(changed_revisions(&events), all);
    assert_eq!(reader.get_i64("k1", 0), 300);
    equal_to_the_table(&[&writer, &reader], &admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_direct_address_to_listen_on_news_is_pushed() {
    let Some(pooled) = Pooled::start().await else {
        return;
    };
    let settings = quick(Settings::new(pooled.url())).listen_database_url(pooled.db.url());
    let (writer, reader) = (start(settings.clone()).await, start(settings).await);
    assert_eq!(writer.status().mode, How::Push);
    assert_eq!(reader.status().mode, How::Push);
    let seen = record(&reader, Filter::all());
    for number in 0..50u64 {
        writer.set("k", number).await.unwrap();
    }
    let events = seen
        .until("all", |seen| changed_revisions(seen).len() >= 50)
        .await;
    assert_eq!(changed_revisions(&events), (1..=50).collect::<Vec<_>>());
    assert_eq!(reader.status().mode, How::Push, "still");
}

/// Writes keys of its own one after the other until told to stop, and says of each whether it was applied (`None`: it is
/// unknown).
async fn write_on(
    service: Arc<ConfigService>,
    name: u64,
    stop: tokio::sync::watch::Receiver<bool>,
) -> Vec<(String, Option<bool>)> {
    let mut told = Vec::new();
    for number in 0u64.. {
        if *stop.borrow() {
            break;
        }
        let key = format!("w{name}:{number}");
        let outcome = match service.set(&key, number).await {
            Ok(_) => Some(true),
            Err(error) if error.is_outcome_unknown() => None,
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await; // the pooler is away
                Some(false)
            }
        };
        told.push((key, outcome));
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_is_killed_loses_no_write_and_makes_none_up() {
    let Some(mut pooled) = Pooled::start().await else {
        return;
    };
    let settings = quick(Settings::new(pooled.url())).max_connections(4);
    let polling = start(settings.clone()).await;
    let pushed = start(settings.listen_database_url(pooled.db.url())).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writers: Vec<_> = (0..6u64)
        .map(|name| {
            let service = if name % 2 == 0 { &polling } else { &pushed };
            tokio::spawn(write_on(service.clone(), name, stopped.clone()))
        })
        .collect();
    for _ in 0..3 {
        let before = pushed.status().revision.get();
        until_status(&pushed, "writes on the way", |status| {
            status.revision.get() >= before + 50
        })
        .await;
        pooled.pooler.kill();
        until_status(&polling, "offline", |status| status.mode == How::Offline).await;
        pooled.pooler.start().await;
    }
    stop.send_replace(true);
    let mut told = Vec::new();
    for writer in writers {
        told.extend(writer.await.unwrap());
    }
    let after = eventually("a write", PATIENCE, async || polling.set("after", 1).await).await;
    in_step(&[&polling, &pushed], after.revision()).await;
    let admin = pooled.db.client().await;
    equal_to_the_table(&[&polling, &pushed], &admin).await;
    let table = rows(&admin).await;
    let count = |wanted| {
        told.iter()
            .filter(|(_, outcome)| *outcome == wanted)
            .count()
    };
    assert!(count(Some(true)) >= 150 && count(Some(false)) > 0);
    for (key, outcome) in &told {
        let there = table.iter().any(|(found, _)| found == key);
        assert!(
            outcome.is_none_or(|outcome| outcome == there),
            "{key}: told {outcome:?}, is {there}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_mixed_calls_never_meet_a_prepared_statement() {
    if let Some(pooled) = Pooled::start().await {
        mixed_calls(pooled).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_lets_settings_fall_is_told_from_a_server_by_its_sessions() {
    if let Some(pooled) = Pooled::careless().await {
        mixed_calls(pooled).await;
    }
}

async fn mixed_calls(mut pooled: Pooled) {
    let settings = beating(Settings::new(pooled.url())).max_connections(6);
    let (one_, two) = (start(settings.clone()).await, start(settings).await);
    let begin = one_.set("begin", 1).await.unwrap().cursor();
    for round in 0..60u64 {
        let key = format!("k{}", round % 7);
        let (a, b, c) = tokio::join!(
            one_.set(&key, round),
            two.write(Batch::new().put("x", round).put("y", round).delete("z")),
            two.set("z", round),
        );
        a.and(b).and(c).unwrap();
        two.history(begin, 100).await.unwrap();
        one_.delete(&key).await.unwrap();
        if round % 10 == 0 {
            two.sync().await.unwrap();
        }
    }
    until_status(&one_, "a heartbeat sent", |status| {
        status.heartbeat.last_sent.is_some()
    })
    .await;
    eventually("an audit by one of them", PATIENCE, async || {
        let audited = |service: &ConfigService| service.status().heartbeat.last_audit;
        audited(&one_).or(audited(&two))
    })
    .await;
    let admin = pooled.db.client().await;
    equal_to_the_table(&[&one_, &two], &admin).await;
    for service in [&one_, &two] {
        let status = service.status();
        assert_eq!(status.counters.sessions_lost, 0, "{status:?}");
    }
    let logs = pooled.own.server().log_tail() + &pooled.pooler.log();
    assert!(!logs.contains("prepared statement"), "{logs}");
}
