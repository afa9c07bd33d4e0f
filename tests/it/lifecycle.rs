//! Starting, sharing a database with others, and ending without a trace.

use std::sync::Arc;
use std::time::Duration;

use sync_config::prelude::*;
use sync_config::{Mode as How, Value};
use tokio_postgres::Client;

use crate::fleet::{in_step, record, until_status};
use crate::ground::{beating, capture, equal_to_the_table, head, one, quick, run, start};
use crate::support::postgres::{OwnCluster, TestDb};
use crate::support::wait::{PATIENCE, eventually};

/// How many connections of an instance the server has.
async fn connections(client: &Client, name: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'");
    one(client, &sql).await
}

async fn until_gone(client: &Client, name: &str) {
    eventually(
        "no connection left",
        PATIENCE,
        async || match connections(client, name).await {
            0 => Ok(()),
            left => Err(format!("{left} connections")),
        },
    )
    .await;
}

fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

async fn until_tasks(baseline: usize) {
    eventually("no task left", PATIENCE, async || match tasks() {
        alive if alive <= baseline => Ok(()),
        alive => Err(format!("{alive} tasks alive, {baseline} before")),
    })
    .await;
}

/// An instance under a name of its own, in the midst of everything it does.
async fn busy(db: &TestDb) -> (String, Arc<ConfigService>) {
    let name = format!("{}_busy", db.name());
    let settings = beating(Settings::new(db.url())).instance_name(&name);
    let service = start(settings).await;
    let (a, b) = tokio::join!(service.set("a", 1), service.set("b", 2));
    a.and(b).unwrap();
    until_status(&service, "a heartbeat", |status| {
        status.heartbeat.last_sent.is_some()
    })
    .await;
    (name, service)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_shutdown_no_task_and_no_connection_is_left() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let baseline = tasks();
    let (name, service) = busy(&db).await;
    assert!(connections(&client, &name).await >= 2);
    service.shutdown().await.unwrap();
    until_gone(&client, &name).await;
    until_tasks(baseline).await;
    service
        .shutdown()
        .await
        .expect("a second shutdown does nothing");
    assert_eq!(service.get_i64("a", 0), 1, "reads go on");
    assert!(service.set("a", 2).await.unwrap_err().is_closed());
    assert!(service.sync().await.unwrap_err().is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_last_handle_ends_everything_too() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let baseline = tasks();
    let (name, service) = busy(&db).await;
    let seen = record(&service, Filter::all());
    drop(service);
    until_gone(&client, &name).await;
    until_tasks(baseline).await;
    assert!(seen.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_does_not_wait_for_a_frozen_server() {
    let mut own = OwnCluster::start();
    let db = TestDb::on(&own).await;
    let baseline = tasks();
    let (_, service) = busy(&db).await;
    own.server().pause().unwrap();
    // In the midst of whatever it does now: a head check, a heartbeat, an audit and a write, all without an answer.
    let writer = service.clone();
    let write = tokio::spawn(async move { writer.set("a", 3).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    // An answer would be waited for as long as `request_timeout`, which is 10 s.
    let ended = tokio::time::timeout(Duration::from_secs(9), service.shutdown()).await;
    ended.expect("it does not wait for the server").unwrap();
    assert!(service.get("a").unwrap().is_some());
    own.server().resume().unwrap();
    let outcome = tokio::time::timeout(PATIENCE, write)
        .await
        .expect("bounded")
        .unwrap();
    assert!(outcome.map_or_else(
        |error| error.is_outcome_unknown() || error.is_closed(),
        |_| true
    ));
    drop(service);
    until_tasks(baseline).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fails_leaves_nothing_behind() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let baseline = tasks();
    let name = format!("{}_fails", db.name());
    let settings = Settings::new(db.url()).instance_name(&name);
    let error = Builder::new(settings.clone().migrate(false))
        .start()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("sync-config migrate"), "{error}");
    until_gone(&client, &name).await;
    drop(start(settings.clone()).await);
    let error = Builder::new(settings.clone().channel("elsewhere").migrate(false))
        .start()
        .await
        .unwrap_err();
    assert!(
        error.is_invalid_input() && error.to_string().contains("config_changes"),
        "{error}"
    );
    until_gone(&client, &name).await;
    // A listening session that cannot be opened, although everything else works.
    let wrong =
        settings.listen_database_url(db.url().replace(db.name(), "there_is_no_such_database"));
    let error = Builder::new(wrong.request_timeout(Duration::from_secs(1)))
        .start()
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    until_gone(&client, &name).await;
    until_tasks(baseline).await;
}

#[tokio::test]
async fn settings_out_of_bounds_are_refused_at_the_start_by_name() {
    let url = "postgres://app@127.0.0.1:1/app";
    let second = Duration::from_secs(1);
    let wrong = [
        (
            "check_interval",
            Settings::new(url).check_interval(Duration::ZERO),
        ),
        (
            "heartbeat_interval",
            Settings::new(url).heartbeat_interval(second * 1_000_000),
        ),
        (
            "request_timeout",
            Settings::new(url).request_timeout(second * 100_000),
        ),
        ("max_connections", Settings::new(url).max_connections(0)),
        ("channel", Settings::new(url).channel("x".repeat(64))),
        ("table_name", Settings::new(url).table_name("")),
        ("database_url", Settings::new("postgres://app:hunter2@")),
        (
            "listen_database_url",
            Settings::new(url).listen_database_url("hunter2"),
        ),
        ("database_url", Settings::default()),
    ];
    for (name, settings) in wrong {
        let error = Builder::new(settings).start().await.unwrap_err();
        assert!(error.is_invalid_input(), "{name}: {error}");
        assert!(
            error.to_string().contains(name) && !error.to_string().contains("hunter2"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_address_that_is_wrong_in_any_way_is_refused_at_the_start_and_never_shown() {
    for (address, problem) in [
        ("", "is empty"),
        ("hunter2", "no address"),
        ("u:hunter2@h/d", "no address"),
        ("http://u:hunter2@h/d", ""),
        ("mysql://u:hunter2@h/d", "must begin with postgres://"),
        ("postgres://", "no host"),
        ("postgres://u:hunter2@", "no host"),
        ("postgres://u:hunter2@/d", "no host"),
        ("postgres://h/d", "no user"),
        ("postgres://u:hunter2@h:port/d", "from 1 to 65535"),
        ("postgres://u:hunter2@h:0/d", "from 1 to 65535"),
        ("postgres://u:hunter2@h:99999/d", "from 1 to 65535"),
        ("postgres://u:hunter2%2@h/d", "%25"),
        ("postgres://u:hunter2%zz@h/d", "%25"),
        ("postgres://u:hunter2@h/%ff", "%25"),
        ("postgres://u:hunter2@h o s t/d", "%20"),
        (" postgres://u:hunter2@h/d", "must begin with postgres://"),
        ("postgres://u:hunter2@h/d\u{0}", "%20"),
        ("postgres://u:hun@ter2@h/d", "%40"),
        ("postgres://u:hunter2@höst/d", "localhost:5432"),
        ("postgres://u:hunter2@[::1/d", "[::1]:5432"),
        ("postgres://u:hunter2@[::zz]/d", "[::1]:5432"),
        ("postgres://u:hunter2@[::1]5432/d", "[::1]:5432"),
        ("postgres://u:hunter2@::1/d", "[::1]:5432"),
        ("postgres://u:hunter2@h/d?colour=2", ""),
        ("postgres://u:hunter2@h/d?connect_timeout=hunter2", ""),
        ("postgres://u:hunter2@h/d?sslmode", "name=value"),
        ("host=h user=u hunter2", ""),
        ("host=h user=u password='hunter2", ""),
        ("password=hunter2 user=u", "no host"),
    ] {
        let good = Settings::new("postgres://app@127.0.0.1:1/app");
        for (name, settings) in [
            ("setting database_url", Settings::new(address)),
            (
                "setting listen_database_url",
                good.listen_database_url(address),
            ),
        ] {
            let error = Builder::new(settings).start().await.unwrap_err();
            let said = error.to_string();
            assert!(
                error.is_invalid_input() && said.contains(name),
                "{address}: {said}"
            );
            assert!(said.contains(problem), "{address}: {said}");
            let shown = format!("{said}{error:?}");
            assert!(!shown.contains("hun"), "{shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_on_one_channel_do_not_disturb_each_other() {
    let db = TestDb::new().await;
    let settings = beating(Settings::new(db.url()));
    let (left, right) = (
        settings.clone().table_name("left"),
        settings.table_name("right"),
    );
    let left = [start(left.clone()).await, start(left).await];
    let right = [start(right.clone()).await, start(right).await];
    let (in_left, in_right) = (
        record(&left[1], Filter::all()),
        record(&right[1], Filter::all()),
    );
    for number in 0..20 {
        let (a, b) = tokio::join!(left[0].set("k", number), right[0].set("k", -number - 1));
        in_step(&[&left[0], &left[1]], a.unwrap().revision()).await;
        in_step(&[&right[0], &right[1]], b.unwrap().revision()).await;
    }
    // One transaction over both makes one revision of each.
    let client = db.client().await;
    run(&client, "BEGIN; INSERT INTO \"left\" VALUES ('both', '1'); INSERT INTO \"right\" VALUES ('both', '2'); COMMIT").await;
    let (a, b) = (
        in_left.until("left", |seen| seen.len() == 21).await,
        in_right.until("right", |seen| seen.len() == 21).await,
    );
    assert_eq!((a[20].revision(), b[20].revision()), (21, 21));
    for service in left.iter().chain(&right) {
        let status = until_status(service, "a heartbeat heard", |status| {
            status.heartbeat.last_heard.is_some()
        })
        .await;
        assert_eq!(
            (
                status.heartbeat.mismatches,
                status.heartbeat.resyncs,
                status.counters.notices_missed
            ),
            (0, 0, 0)
        );
    }
}

/// Creates roles that can log in, with rights on a migrated table, and their URLs.
struct Roles {
    writer: String,
    reader: String,
    db: TestDb,
}

impl Roles {
    async fn new() -> Self {
        let db = TestDb::new().await;
        let client = db.client().await;
        let (writer, reader) = (format!("{}_lw", db.name()), format!("{}_lr", db.name()));
        for role in [&writer, &reader] {
            run(
                &client,
                &format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'x'"),
            )
            .await;
        }
        // The owner migrates, grants, and migrates again so that the helpers follow.
        start(Settings::new(db.url()))
            .await
            .shutdown()
            .await
            .unwrap();
        run(
            &client,
            &format!("GRANT SELECT, INSERT, UPDATE, DELETE ON sync_config TO {writer}; GRANT SELECT ON sync_config TO {reader}"),
        )
        .await;
        let names = sync_config::schema::Names::new(
            sync_config::schema::QualifiedName::parse("public", "sync_config").unwrap(),
        );
        sync_config::schema::migrate(&client, &names, "config_changes")
            .await
            .unwrap();
        Self { writer, reader, db }
    }

    fn url(&self, role: &str) -> String {
        let (_, server) = self.db.url().rsplit_once('@').unwrap();
        format!("postgres://{role}:x@{server}")
    }

    async fn end(self) {
        let (writer, reader) = (&self.writer, &self.reader);
        let client = self.db.client().await;
        run(
            &client,
            &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('{writer}', '{reader}')"),
        )
        .await;
        run(
            &client,
            &format!("DROP OWNED BY {writer}, {reader}; DROP ROLE {writer}, {reader}"),
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_migrate_works_on_a_migrated_database() {
    let roles = Roles::new().await;
    let service = start(beating(Settings::new(roles.url(&roles.writer)))).await;
    assert_eq!(service.status().mode, How::Push);
    service.set("k", 1).await.unwrap();
    until_status(&service, "an audit", |status| {
        status.heartbeat.last_audit.is_some()
    })
    .await;
    equal_to_the_table(&[&service], &roles.db.client().await).await;
    service.shutdown().await.unwrap();
    roles.end().await;
}

#[tokio::test]
async fn a_role_that_may_only_read_follows_and_is_denied_in_peace() {
    let capture = capture(tracing::Level::INFO);
    let roles = Roles::new().await;
    let writer = start(quick(Settings::new(roles.url(&roles.writer)))).await;
    let settings = beating(Settings::new(roles.url(&roles.reader)))
        .cleanup_interval(Duration::from_millis(300));
    let reader = start(settings).await;
    assert_eq!(reader.status().mode, How::Push);
    let written = writer.set("k", 1).await.unwrap();
    in_step(&[&writer, &reader], written.revision()).await;
    let client = roles.db.client().await;
    for batch in [
        Batch::new().put("k", 2),
        Batch::new().delete("k"),
        Batch::new()
            .put_value("n", Value::parse("1").unwrap(), None)
            .idempotency_key("x"),
    ] {
        let error = reader.write(batch).await.unwrap_err();
        assert!(error.is_denied() && !error.is_retryable(), "{error}");
    }
    assert_eq!(head(&client).await, 1);
    // Several turns to audit and to trim, each of them denied.
    let sent = crate::support::wait::Probe::new();
    eventually("six heartbeats", PATIENCE, async || {
        let last = reader.status().heartbeat.last_sent;
        if last.is_some() && sent.seen().last() != Some(&last) {
            sent.push(last);
        }
        (sent.seen().len() >= 6).then_some(())
    })
    .await;
    let denied: Vec<String> = capture.log.lines("permission denied");
    assert!(denied.len() <= 2, "each is said once: {denied:?}");
    assert_eq!(reader.status().mode, How::Push);
    assert_eq!(reader.sync().await.unwrap(), 0);
    let written = writer.set("k", 3).await.unwrap();
    in_step(&[&writer, &reader], written.revision()).await;
    writer.shutdown().await.unwrap();
    reader.shutdown().await.unwrap();
    roles.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_the_pool_are_kept_through_heartbeats_and_audits() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let (name, service) = busy(&db).await;
    let sql = format!(
        "SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity WHERE application_name = '{name}'"
    );
    let before: Vec<i32> = one(&client, &sql).await;
    let seq = "SELECT audit_seq FROM sync_config_meta";
    let audits: i64 = one(&client, seq).await;
    eventually("three audits", PATIENCE, async || {
        (one::<i64>(&client, seq).await >= audits + 3).then_some(())
    })
    .await;
    let after: Vec<i32> = one(&client, &sql).await;
    assert!(
        before.iter().all(|pid| after.contains(pid)),
        "none was closed: {before:?}, {after:?}"
    );
    service.shutdown().await.unwrap();
}
