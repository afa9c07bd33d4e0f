//! Heartbeats and audits: what is wrong is found and healed, and what is merely claimed does little.

use std::sync::Arc;
use std::time::Duration;

use sync_config::prelude::*;
use tokio_postgres::Client;

use crate::fleet::{Seen, in_step, record, until_status};
use crate::ground::{
    alter, beating, capture, duration, equal_to_the_table, head, one, quick, rows, run, start,
    table_checksum,
};
use crate::support::postgres::TestDb;
use crate::support::wait::{PATIENCE, Probe, eventually};

const CHANNEL: &str = "config_changes";

/// Starts instances that beat, and a client.
async fn fleet(db: &TestDb, count: usize, settings: &Settings) -> Vec<Arc<ConfigService>> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(start(settings.clone()).await);
    }
    drop(db.client().await);
    all
}

async fn notify(client: &Client, text: &str) {
    client
        .execute("SELECT pg_notify($1, $2)", &[&CHANNEL, &text])
        .await
        .unwrap();
}

/// A heartbeat of an instance that does not exist.
fn forged(service: &ConfigService, checksum: u32) -> String {
    let status = service.status();
    let epoch = status.epoch.unwrap();
    format!(
        "h1 {epoch} {} {checksum:08x} 00000000deadbeef -",
        status.revision
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_hear_each_other_and_agree() {
    let db = TestDb::new().await;
    let all = fleet(&db, 2, &beating(Settings::new(db.url()))).await;
    all[0].set("k", 1).await.unwrap();
    for service in &all {
        let status = until_status(service, "a heartbeat each way", |status| {
            status.heartbeat.last_sent.is_some() && status.heartbeat.last_heard.is_some()
        })
        .await;
        assert_eq!(
            (status.heartbeat.mismatches, status.heartbeat.resyncs),
            (0, 0)
        );
        assert_eq!(status.heartbeat.last_cause, None);
    }
    eventually("an audit by one of them", PATIENCE, async || {
        all.iter()
            .find_map(|service| service.status().heartbeat.last_audit)
    })
    .await;
    let json = serde_json::to_value(all[0].status()).unwrap();
    assert!(
        json["heartbeat"]["lastHeard"]
            .as_str()
            .unwrap()
            .ends_with('Z'),
        "{json}"
    );
    assert_eq!(json["heartbeat"]["mismatches"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_peer_costs_one_resync_and_then_ever_fewer() {
    let db = TestDb::new().await;
    // The real interval, so that only the forged heartbeats are heard; the cool-down begins at 400 ms.
    let service = start(beating(Settings::new(db.url()))).await;
    service.set("k", 1).await.unwrap();
    let seen = record(&service, Filter::all());
    let client = db.client().await;
    for number in 1..=60u32 {
        notify(&client, &forged(&service, number)).await;
        tokio::time::sleep(Duration::from_millis(50)).await; // a peer that goes on being wrong, for 3 s
    }
    let status = until_status(&service, "all heard", |status| {
        status.heartbeat.mismatches >= 55
    })
    .await;
    // 0.4 s, 0.8 s, 1.6 s … of disbelief: at most four of the sixty led to a resync.
    assert!((1..=4).contains(&status.heartbeat.resyncs), "{status:?}");
    assert_eq!(
        status.heartbeat.needless_resyncs, status.heartbeat.resyncs,
        "none of them had anything to put right"
    );
    assert_eq!(
        status.heartbeat.last_cause.as_deref(),
        Some("peer mismatch")
    );
    let told = seen.seen();
    assert!(
        told.iter()
            .all(|seen| matches!(seen, Seen::Resynced(1, changes) if changes.is_empty())),
        "{told:?}"
    );
    assert_eq!((head(&client).await, service.get_i64("k", 0)), (1, 1));
    equal_to_the_table(&[&service], &client).await;
}

/// How often the revision table's index was looked into: each head check and each page does so.
async fn scans(client: &Client) -> i64 {
    run(client, "SELECT pg_stat_clear_snapshot()").await;
    one(client, "SELECT idx_scan + seq_scan FROM pg_stat_user_tables WHERE relname = 'sync_config_revision'").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_forged_notices_by_a_stranger_costs_bounded_reads_and_changes_nothing() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    service.set("k", 1).await.unwrap();
    let client = db.client().await;
    let role = format!("{}_stranger", db.name());
    run(&client, &format!("CREATE ROLE {role}; SET ROLE {role}")).await;
    let epoch = service.status().epoch.unwrap();
    let before = scans(&client).await;
    let started = tokio::time::Instant::from_std(now());
    let mut sent = 0u32;
    while started.elapsed() < Duration::from_secs(2) || sent <= 300 {
        let ahead = format!("c1 {epoch} {}", 1_000_000_000_000u64 + u64::from(sent));
        let texts = [
            &ahead,
            &format!("c1 {epoch} 0"),
            "nonsense",
            &forged(&service, sent),
            "n1 0000000000000001",
            "c1 x 9",
        ];
        for text in texts {
            notify(&client, text).await;
        }
        // Identical notices of one transaction are folded, so each goes alone.
        sent += 6;
    }
    let took = started.elapsed();
    let written = service.set("k", 2).await.unwrap();
    assert_eq!(written.revision().get(), 2);
    run(&client, &format!("RESET ROLE; DROP ROLE {role}")).await;
    service.shutdown().await.unwrap(); // a backend tells of its reads when it ends
    tokio::time::sleep(Duration::from_millis(100)).await;
    let reads = u32::try_from(scans(&client).await - before).unwrap();
    // 5 ms between reads that found nothing, twice as many for what one read touches and for the head checks.
    let bound = (took.as_secs_f64() * 200.0 * 2.0) as u32 + 50;
    assert!(reads < bound, "{reads} reads of {sent} notices in {took:?}");
    assert_eq!(service.get_i64("k", 0), 2);
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures how long something takes"
)]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Alters a row, adds one and removes one behind the triggers, and waits until every instance and the journal know.
async fn altered_rows_are_healed(db: &TestDb, all: &[Arc<ConfigService>]) {
    let client = db.client().await;
    let batch = Batch::new()
        .put("altered", 1)
        .put("removed", 2)
        .put("same", 3);
    let written = all[0].write(batch).await.unwrap();
    let services: Vec<&Arc<ConfigService>> = all.iter().collect();
    in_step(&services, written.revision()).await;
    let seen: Vec<Probe<Seen>> = all
        .iter()
        .map(|service| record(service, Filter::all()))
        .collect();
    alter(
        &client,
        "UPDATE sync_config SET value = '10' WHERE key = 'altered'; DELETE FROM sync_config WHERE key = 'removed';
         INSERT INTO sync_config (key, value) VALUES ('added', '4')",
    )
    .await;
    let table = table_checksum(&client).await;
    eventually("healed and numbered", PATIENCE, async || {
        let healed = all
            .iter()
            .all(|service| service.checksum().is_ok_and(|sum| sum == table));
        let status: Vec<_> = all.iter().map(|service| service.status()).collect();
        if healed && head(&client).await == 2 {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    equal_to_the_table(&services, &client).await;
    let mark: String = one(
        &client,
        "SELECT mark FROM sync_config_revision WHERE revision = 2",
    )
    .await;
    assert_eq!(mark, "audit");
    let journal: String = one(
        &client,
        "SELECT string_agg(concat_ws(' ', key, coalesce(old, '-'), coalesce(new, '-')), ', ' ORDER BY key)
         FROM sync_config_journal JOIN sync_config_revision USING (change) WHERE revision = 2",
    )
    .await;
    assert_eq!(journal, "added - 4, altered 1 10, removed 2 -");
    let text = |text: &str| Some(text.to_owned());
    let expected = vec![
        ("added".to_owned(), None, text("4")),
        ("altered".to_owned(), text("1"), text("10")),
        ("removed".to_owned(), text("2"), None),
    ];
    for probe in &seen {
        let changes = |seen: &Seen| match seen {
            Seen::Changed(_, _, changes) | Seen::Resynced(_, changes) => changes.clone(),
            Seen::State(..) | Seen::Lagged(..) => panic!("{seen:?}"),
        };
        let told = probe.until("what was altered", |seen| {
            seen.iter().flat_map(changes).count() >= expected.len()
        });
        let told: Vec<_> = told.await.iter().flat_map(changes).collect();
        assert_eq!(told, expected, "each change once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_altered_behind_the_triggers_are_healed_and_numbered_in_a_fleet() {
    let db = TestDb::new().await;
    let all = fleet(&db, 3, &beating(Settings::new(db.url()))).await;
    altered_rows_are_healed(&db, &all).await;
    let next = all[1].set("after", 1).await.unwrap();
    assert_eq!(next.revision().get(), 3);
    equal_to_the_table(&all.iter().collect::<Vec<_>>(), &db.client().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_altered_behind_the_triggers_are_healed_by_a_single_instance() {
    let db = TestDb::new().await;
    let all = fleet(&db, 1, &beating(Settings::new(db.url()))).await;
    altered_rows_are_healed(&db, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_altered_behind_the_triggers_are_healed_without_notifications() {
    let db = TestDb::new().await;
    let settings = beating(Settings::new(db.url())).enable_notification(false);
    let all = fleet(&db, 2, &settings).await;
    altered_rows_are_healed(&db, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_sync_on_mismatch_off_a_mismatch_is_reported_and_nothing_is_touched() {
    let db = TestDb::new().await;
    let settings = beating(Settings::new(db.url())).sync_on_mismatch(false);
    let all = fleet(&db, 2, &settings).await;
    let written = all[0].set("k", 1).await.unwrap();
    in_step(&[&all[0], &all[1]], written.revision()).await;
    let client = db.client().await;
    alter(&client, "UPDATE sync_config SET value = '2'").await;
    for service in &all {
        let status = until_status(service, "mismatches", |status| {
            status.heartbeat.mismatches >= 2
        })
        .await;
        assert_eq!(
            (status.heartbeat.resyncs, status.heartbeat.last_cause),
            (0, None)
        );
        assert_eq!(service.get_i64("k", 0), 1, "unhealed");
    }
    assert_eq!(head(&client).await, 1);
    assert_eq!(
        all[0].sync().await.unwrap(),
        1,
        "who asks for a resync gets one"
    );
    assert_eq!(all[0].get_i64("k", 0), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn constant_writes_cause_no_mismatch_and_no_resync() {
    let db = TestDb::new().await;
    let settings = quick(Settings::new(db.url())).heartbeat_interval(Duration::from_millis(300));
    let all = fleet(&db, 3, &settings).await;
    let length = duration(Duration::from_secs(8), Duration::from_secs(60));
    let deadline = tokio::time::Instant::from_std(now()) + length;
    let mut writers = tokio::task::JoinSet::new();
    for (at, service) in all.iter().cloned().enumerate() {
        writers.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(6));
            let mut count = 0u64;
            while tokio::time::Instant::from_std(now()) < deadline {
                pace.tick().await;
                service
                    .set(&format!("{at}:{}", count % 50), count)
                    .await
                    .unwrap();
                count += 1;
            }
            count
        });
    }
    let written: u64 = writers.join_all().await.into_iter().sum();
    let client = db.client().await;
    equal_to_the_table(&all.iter().collect::<Vec<_>>(), &client).await;
    assert_eq!(head(&client).await, written);
    for service in &all {
        let status = service.status();
        assert_eq!(
            (status.heartbeat.mismatches, status.heartbeat.resyncs),
            (0, 0),
            "{status:?}"
        );
        assert!(status.heartbeat.last_heard.is_some());
        assert_eq!(
            status.counters.notices_missed, 0,
            "late is not missed: {status:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_is_audited_once_for_each_interval_and_fleet() {
    let db = TestDb::new().await;
    let settings = quick(Settings::new(db.url())).heartbeat_interval(Duration::from_millis(500));
    let all = fleet(&db, 3, &settings).await;
    all[0].set("k", 1).await.unwrap();
    let client = db.client().await;
    let audits = async || one::<i64>(&client, "SELECT audit_seq FROM sync_config_meta").await;
    eventually("the first audit", PATIENCE, async || {
        (audits().await > 0).then_some(())
    })
    .await;
    let (before, started) = (audits().await, now());
    eventually("six more", PATIENCE, async || {
        (audits().await >= before + 6).then_some(())
    })
    .await;
    // A turn lasts 0.8 of an interval; the first of the six may come at once.
    let each = started.elapsed() / 5;
    assert!(each >= Duration::from_millis(370), "an audit each {each:?}");
    assert!(
        all.iter()
            .any(|service| service.status().heartbeat.last_audit.is_some())
    );
}

#[tokio::test]
async fn the_log_of_a_mismatch_says_what_differed_and_never_a_value() {
    let capture = capture(tracing::Level::TRACE);
    let log = &capture.log;
    let db = TestDb::new().await;
    let service = start(beating(Settings::new(db.url()))).await;
    let batch = Batch::new()
        .put("a", "hunter2-old")
        .put("b", "hunter2-kept");
    service.write(batch).await.unwrap();
    let before = service.checksum().unwrap();
    let client = db.client().await;
    alter(
        &client,
        "UPDATE sync_config SET value = '\"hunter2-new\"' WHERE key = 'a'",
    )
    .await;
    let after = table_checksum(&client).await;
    eventually("healed and numbered", PATIENCE, async || {
        (head(&client).await == 2).then_some(())
    })
    .await;
    until_status(&service, "followed", |status| status.revision.get() == 2).await;
    assert!(service.set("nul", "hunter2-\u{0}").await.is_err());
    let found = log.lines("checksum mismatch");
    let fields = [
        "revision=1".to_owned(),
        format!("ours={before}"),
        format!("theirs={after}"),
    ];
    assert!(
        found
            .iter()
            .any(|line| line.contains("WARN") && fields.iter().all(|field| line.contains(field))),
        "{found:?}"
    );
    let fields = [
        format!("before={before}"),
        format!("after={after}"),
        "changed=1".to_owned(),
    ];
    eventually("the resync is told", PATIENCE, async || {
        let done = log.lines("full resync done");
        let whole = |line: &String| fields.iter().all(|field| line.contains(field));
        done.iter()
            .any(whole)
            .then_some(())
            .ok_or(format!("{done:?}"))
    })
    .await;
    let ours = log.lines("sync_config");
    assert!(
        !ours.is_empty() && ours.iter().all(|line| !line.contains("hunter2")),
        "a value in the log"
    );
    assert_eq!(rows(&client).await.len(), 2);
}

#[tokio::test]
async fn a_row_altered_before_anybody_started_is_numbered_all_the_same() {
    let db = TestDb::new().await;
    let before = start(beating(Settings::new(db.url()))).await;
    before.set("k", 1).await.unwrap();
    before.shutdown().await.unwrap();
    let client = db.client().await;
    alter(
        &client,
        "UPDATE sync_config SET value = '2' WHERE key = 'k'",
    )
    .await;
    let after = start(beating(Settings::new(db.url()))).await;
    assert_eq!(after.get_i64("k", 0), 2);
    until_status(&after, "numbered", |status| status.revision.get() == 2).await;
    let journal = "SELECT j.old || ' -> ' || j.new || ' ' || r.mark FROM sync_config_journal j
                   JOIN sync_config_revision r USING (change) WHERE r.revision = 2";
    assert_eq!(one::<String>(&client, journal).await, "1 -> 2 audit");
}
