//! Sessions that hear nothing, or not everything: they say so, poll, and lose nothing.

use std::time::Duration;

use sync_config::Mode as How;
use sync_config::prelude::*;

use crate::fleet::{in_step, record, until_status};
use crate::ground::{
    changed_revisions, equal_to_the_table, quick, run, start, terminate, until_push,
};
use crate::support::deaf::DeafProxy;
use crate::support::postgres::{TestDb, cluster};
use crate::support::wait::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_without_notifications_polls_says_why_and_loses_nothing() {
    let db = TestDb::new().await;
    let proxy = DeafProxy::to(cluster().address()).await;
    proxy.deafen();
    let direct = quick(Settings::new(db.url()));
    let writer = start(direct.clone()).await;
    let reader =
        start(direct.listen_database_url(format!("{}?application_name=ears", proxy.url(db.url()))))
            .await;
    let status = reader.status();
    assert_eq!(status.mode, How::Poll, "the start waits until it is known");
    assert!(status.reason.unwrap().contains("did not come back"));
    let seen = record(&reader, Filter::all());
    for number in 0..20 {
        writer.set("k", number).await.unwrap();
    }
    let events = seen
        .until("all", |seen| changed_revisions(seen).len() >= 20)
        .await;
    assert_eq!(changed_revisions(&events), (1..=20).collect::<Vec<_>>());
    assert!(proxy.swallowed() >= 20 && proxy.passed() == 0);

    proxy.heal();
    assert_eq!(terminate(&db.client().await, "ears").await, 1);
    until_push(&reader).await;
    let written = writer.set("k", "pushed").await.unwrap();
    in_step(&[&writer, &reader], written.revision()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_goes_deaf_later_is_found_out_by_what_it_misses() {
    let db = TestDb::new().await;
    let proxy = DeafProxy::to(cluster().address()).await;
    let direct = quick(Settings::new(db.url()));
    let writer = start(direct.clone()).await;
    let reader = start(direct.listen_database_url(proxy.url(db.url()))).await;
    assert_eq!(reader.status().mode, How::Push);
    proxy.deafen();
    // A session is put to the proof again 10 s after the last one at the earliest.
    let seen = record(&reader, Filter::all());
    eventually("poll", PATIENCE * 2, async || {
        let written = writer.set("k", seen.seen().len()).await.unwrap();
        let revision = written.revision().get();
        seen.until("the change", |seen| {
            seen.last().is_some_and(|seen| seen.revision() == revision)
        })
        .await;
        tokio::time::sleep(Duration::from_millis(250)).await; // beyond a check
        let status = reader.status();
        let deaf = status
            .reason
            .as_deref()
            .is_some_and(|why| why.contains("did not come back"));
        if status.mode == How::Poll && deaf {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    assert!(reader.status().counters.notices_missed > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_lost_notice_is_found_at_the_next_head_check_and_counted() {
    let db = TestDb::new().await;
    let proxy = DeafProxy::to(cluster().address()).await;
    let direct = quick(Settings::new(db.url()));
    let writer = start(direct.clone()).await;
    let reader = start(direct.listen_database_url(proxy.url(db.url()))).await;
    let seen = record(&reader, Filter::all());
    // The first change's notice has passed, and two checks since: no older notice is left that could be swallowed
    // instead, and no page is under way that could find the next revision.
    let passed = proxy.passed();
    writer.set("k", 0).await.unwrap();
    seen.until("the first change", |seen| seen.len() == 1).await;
    eventually("its notice", PATIENCE, async || {
        (proxy.passed() > passed).then_some(())
    })
    .await;
    for check in ["a check", "another check"] {
        // The wall clock's share of it trembles by microseconds.
        let before = reader
            .status()
            .proven_at
            .map(|at| at + Duration::from_millis(50));
        until_status(&reader, check, |status| status.proven_at > before).await;
    }
    proxy.swallow(1);
    writer.set("k", 1).await.unwrap();
    seen.until("the change, by the check", |seen| seen.len() == 2)
        .await;
    assert_eq!(proxy.swallowed(), 1);
    until_status(&reader, "the missed notice counted", |status| {
        status.counters.notices_missed == 1
    })
    .await;
    writer.set("k", 2).await.unwrap();
    let events = seen.until("the next", |seen| seen.len() == 3).await;
    assert_eq!(changed_revisions(&events), [1, 2, 3]);
    assert_eq!(until_push(&reader).await.counters.notices_missed, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_notifications_instances_poll_and_converge() {
    let db = TestDb::new().await;
    let settings = quick(Settings::new(db.url())).enable_notification(false);
    let (one, two) = (start(settings.clone()).await, start(settings).await);
    let status = two.status();
    assert_eq!(status.mode, How::Poll);
    assert_eq!(
        status.reason.as_deref(),
        Some("notifications are switched off")
    );
    let seen = record(&two, Filter::all());
    for number in 0..10 {
        one.set("k", number).await.unwrap();
    }
    let events = seen
        .until("all", |seen| changed_revisions(seen).len() >= 10)
        .await;
    assert_eq!(changed_revisions(&events), (1..=10).collect::<Vec<_>>());
    equal_to_the_table(&[&one, &two], &db.client().await).await;
    assert_eq!(two.status().counters.notices_missed, 0, "none was expected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_was_changed_elsewhere_is_said_and_polled_around() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    until_push(&service).await;
    let client = db.client().await;
    run(&client, "UPDATE sync_config_meta SET channel = 'elsewhere'").await;
    let deaf = |status: &sync_config::Status| {
        let why = status.reason.as_deref().unwrap_or_default();
        status.mode == How::Poll && why.contains("elsewhere")
    };
    until_status(&service, "deaf by name", deaf).await;
    run(
        &client,
        "INSERT INTO sync_config (key, value) VALUES ('k', '1')",
    )
    .await;
    until_status(&service, "polled", |status| status.revision.get() == 1).await;
    assert_eq!(service.get_i64("k", 0), 1);
}
