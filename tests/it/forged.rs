//! Forged notices: any role may NOTIFY on the channel. Whatever it says costs a bounded number of reads and changes nothing.

use std::sync::Arc;
use std::time::Duration;

use sync_config::prelude::*;
use tokio_postgres::Client;

use crate::fleet::{Seen, in_step, record};
use crate::ground::{beating, changed_revisions, equal_to_the_table, one, quick, run, start};
use crate::support::postgres::{TestDb, connect};
use crate::support::wait::{PATIENCE, eventually};

/// A role without any right, logged in.
struct Stranger {
    client: Client,
    role: String,
}

impl Stranger {
    async fn new(db: &TestDb) -> Self {
        let role = format!("{}_stranger", db.name());
        run(
            &db.client().await,
            &format!("CREATE ROLE {role} LOGIN PASSWORD 'x'"),
        )
        .await;
        let (_, server) = db.url().rsplit_once('@').unwrap();
        let client = connect(&format!("postgres://{role}:x@{server}")).await;
        assert!(
            client
                .batch_execute("SELECT FROM sync_config")
                .await
                .is_err()
        );
        Self { client, role }
    }

    /// Sends as many notices in one transaction, each with the number `g` in it.
    async fn flood(&self, count: u32, text: &str) {
        let sql = format!(
            "SELECT count(pg_notify('config_changes', {text})) FROM generate_series(1, {count}) g"
        );
        assert_eq!(one::<i64>(&self.client, &sql).await, i64::from(count));
    }

    async fn end(self, db: &TestDb) {
        drop(self.client);
        run(&db.client().await, &format!("DROP ROLE {}", self.role)).await;
    }
}

/// What has been asked of the database, once nobody but `client` is connected to it: a server's process tells at its end.
/// The transactions, and how often the whole table was read.
async fn asked(client: &Client) -> (i64, i64) {
    let others = "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    eventually("the others' end", PATIENCE, async || {
        (one::<i64>(client, others).await == 0).then_some(())
    })
    .await;
    run(client, "SELECT pg_stat_clear_snapshot()").await;
    let transactions =
        "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    let scans =
        "SELECT coalesce(seq_scan, 0) FROM pg_stat_user_tables WHERE relname = 'sync_config'";
    (one(client, transactions).await, one(client, scans).await)
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures how long something takes"
)]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Texts as SQL: revisions far ahead and behind, the end of the number range, other epochs, other and own instances, other
/// versions, garbage of every length.
fn kinds(service: &Arc<ConfigService>) -> Vec<String> {
    let status = service.status();
    let (epoch, revision, own) = (
        status.epoch.unwrap(),
        status.revision.get(),
        status.instance,
    );
    let ahead = revision + 1_000;
    vec![
        format!("'c1 {epoch} ' || {ahead} + g"),
        format!("'c1 {epoch} ' || 9223372036854775807 - g"),
        format!("'c1 {epoch} ' || -g"),
        format!("'c1 {epoch} ' || g % {revision}"),
        format!("'c1 {epoch} 9' || lpad(g::text, 30, '0')"),
        "'c1 ' || gen_random_uuid() || ' ' || g".to_owned(),
        "'c1 ' || gen_random_uuid() || ' 0'".to_owned(),
        format!(
            "'h1 {epoch} {revision} ' || lpad(to_hex(g), 8, '0') || ' ' || lpad(to_hex(g), 16, '0') || ' -'"
        ),
        format!("'h1 {epoch} {revision} ' || lpad(to_hex(g), 8, '0') || ' {own} a'"),
        format!(
            "'h1 {epoch} ' || g % {revision} || ' ' || lpad(to_hex(g), 8, '0') || ' 00000000deadbeef a'"
        ),
        format!(
            "'h1 {epoch} ' || 9223372036854775807 - g || ' 00000000 ' || lpad(to_hex(g), 16, '0') || ' a'"
        ),
        "'h1 ' || gen_random_uuid() || ' ' || g || ' 00000000 0 -'".to_owned(),
        "'n1 ' || lpad(to_hex(g), 16, '0')".to_owned(),
        format!("'c2 {epoch} ' || g"),
        "repeat(md5(g::text), 1 + g % 200)".to_owned(),
        "chr(1 + g % 50000) || ' c1 h1 ' || g".to_owned(),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_forged_notices_of_all_kinds_cost_bounded_reads_and_change_nothing() {
    let db = TestDb::new().await;
    let settings = quick(Settings::new(db.url()));
    let all = [start(settings.clone()).await, start(settings).await];
    let services = [&all[0], &all[1]];
    for number in 1..=20 {
        all[0].set("k", number).await.unwrap();
    }
    in_step(&services, sync_config::Revision::new(20)).await;
    let client = db.client().await;
    let stranger = Stranger::new(&db).await;
    let seen = services.map(|service| record(service, Filter::all()));
    // what was asked so far is told late; it is far below what is allowed
    let started = now();
    let mut sent = 0;
    for kind in kinds(&all[0]) {
        stranger.flood(7_000, &kind).await;
        sent += 7_000;
        let written = all[0].set("k", format!("after {sent}")).await.unwrap();
        in_step(&services, written.revision()).await;
    }
    equal_to_the_table(&services, &client).await;
    let took = started.elapsed();
    for seen in seen {
        let told = seen.seen();
        let revisions = changed_revisions(&told);
        assert!(
            revisions.windows(2).all(|pair| pair[0] + 1 == pair[1]),
            "{revisions:?}"
        );
        let wrong = |seen: &&Seen| !matches!(seen, Seen::Changed(..));
        let idle: Vec<_> = told.iter().filter(wrong).collect();
        let empty = |seen: &&Seen| matches!(seen, Seen::Resynced(_, changes) if changes.is_empty());
        assert!(idle.iter().all(empty), "nothing was different: {idle:?}");
    }
    for service in services {
        let status = service.status();
        assert_eq!(status.mode, sync_config::Mode::Push);
        assert_eq!(
            (status.counters.forks, status.counters.sessions_lost),
            (0, 0)
        );
        assert!(
            status.heartbeat.resyncs <= 1 + started.elapsed().as_secs() / 10,
            "peers are believed once in ten seconds: {status:?}"
        );
        service.shutdown().await.unwrap();
    }
    stranger.end(&db).await;
    let (transactions, scans) = asked(&client).await;
    // 200 reads a second and instance, and as many head checks for notices that tell of a new epoch.
    let bound = (took.as_secs_f64() * 400.0 * 2.0) as i64 + 400;
    assert!(sent > 100_000);
    assert!(
        transactions < bound,
        "{transactions} transactions for {sent} notices in {took:?}"
    );
    assert!(scans <= 20, "the whole table was read {scans} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_false_heartbeat_among_constant_writes_leads_to_no_endless_resync() {
    let db = TestDb::new().await;
    let service = start(beating(Settings::new(db.url()))).await;
    service.set("k", 0).await.unwrap();
    let stranger = Stranger::new(&db).await;
    let epoch = service.status().epoch.unwrap();
    let started = now();
    let mut number = 0;
    while started.elapsed() < Duration::from_secs(4) {
        number += 1;
        let written = service.set("k", number).await.unwrap();
        let text = format!(
            "'h1 {epoch} {} ' || lpad(to_hex(g), 8, '0') || ' 00000000deadbeef -'",
            written.revision()
        );
        stranger.flood(20, &text).await;
    }
    let status = service.status();
    assert!(status.heartbeat.mismatches > 20, "{status:?}");
    // 0.4 s, 0.8 s, 1.6 s … of disbelief
    assert!(status.heartbeat.resyncs <= 5, "{status:?}");
    assert_eq!(service.get_i64("k", 0), number);
    equal_to_the_table(&[&service], &db.client().await).await;
    service.shutdown().await.unwrap();
    stranger.end(&db).await;
}
