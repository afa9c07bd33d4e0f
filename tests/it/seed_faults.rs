//! The known faults of the systems this one grew out of, each caused on purpose: none of them is possible here.

use std::future::poll_fn;
use std::time::Duration;

use sync_config::Mode as How;
use sync_config::prelude::*;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::fleet::{Seen, in_step, record, until_status};
use crate::ground::{
    alter, beating, changed_revisions, equal_to_the_table, quick, run, start, until_push,
};
use crate::support::postgres::{TestDb, cluster};
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::{PATIENCE, Probe};

/// A listener of PostgreSQL's own kind: what anybody hears on the channel.
async fn eavesdrop(db: &TestDb) -> (Client, Probe<String>) {
    let (client, mut connection) = tokio_postgres::connect(db.url(), NoTls).await.unwrap();
    let heard = Probe::new();
    let probe = heard.clone();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notice) = message {
                probe.push(notice.payload().to_owned());
            }
        }
    });
    run(&client, "LISTEN config_changes").await;
    (client, heard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_while_an_instance_starts_is_in_it() {
    let db = TestDb::new().await;
    let first = start(quick(Settings::new(db.url()))).await;
    let client = db.client().await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let hammer = tokio::spawn(async move {
        let mut count = 0u64;
        while !*stopped.borrow() {
            count += 1;
            run(&client, &format!("INSERT INTO sync_config VALUES ('k{}', '{count}') ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value", count % 7)).await;
        }
        count
    });
    // Neither a head check nor a poll nor an audit helps within the test: only the order of LISTEN and load does.
    let alone = Settings::new(db.url()).check_interval(Duration::from_secs(3_600));
    let mut all = vec![first];
    let mut seen = Vec::new();
    for _ in 0..12 {
        let service = start(alone.clone()).await;
        seen.push(record(&service, Filter::all().with_state()));
        all.push(service);
    }
    stop.send_replace(true);
    let written = hammer.await.unwrap();
    equal_to_the_table(&all.iter().collect::<Vec<_>>(), &db.client().await).await;
    for probe in &seen {
        let events = probe
            .until("the last revision", |seen| {
                seen.last().is_some_and(|seen| seen.revision() == written)
            })
            .await;
        let revisions: Vec<u64> = events.iter().map(Seen::revision).collect();
        assert!(
            revisions.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "{revisions:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_whose_connection_ends_listens_again_and_has_what_it_missed() {
    let db = TestDb::new().await;
    let proxy = Proxy::to(cluster().address()).await;
    let settings = quick(Settings::new(db.url())).listen_database_url(db.url_through(&proxy));
    let reader = start(settings).await;
    let client = db.client().await;
    proxy.set(Mode::Refuse).await;
    proxy.cut().await;
    run(
        &client,
        "INSERT INTO sync_config VALUES ('while:deaf', '1')",
    )
    .await;
    until_status(&reader, "offline", |status| status.mode == How::Offline).await;
    assert!(reader.get("while:deaf").unwrap().is_none());
    proxy.set(Mode::Pass).await;
    until_push(&reader).await;
    equal_to_the_table(&[&reader], &client).await;
    run(
        &client,
        "INSERT INTO sync_config VALUES ('afterwards', '1')",
    )
    .await;
    equal_to_the_table(&[&reader], &client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_is_short_and_carries_no_key_and_no_value_whatever_is_written() {
    let db = TestDb::new().await;
    let (writer, reader) = (
        start(quick(Settings::new(db.url()))).await,
        start(quick(Settings::new(db.url()))).await,
    );
    let (_listening, heard) = eavesdrop(&db).await;
    let secret = "hunter2".repeat(256 * 1024 / 7);
    let written = writer
        .set("secret:key", &secret)
        .await
        .expect("8,000 bytes are no limit");
    in_step(&[&writer, &reader], written.revision()).await;
    assert_eq!(reader.get_string("secret:key", ""), secret);
    let client = db.client().await;
    run(
        &client,
        "UPDATE sync_config SET key = 'secret:renamed'; DELETE FROM sync_config",
    )
    .await;
    writer.set("last", 1).await.unwrap();
    // One revision for the two statements of one message, and one more.
    let heard = heard
        .until("three changes", |heard| {
            heard.iter().filter(|text| text.starts_with("c1 ")).count() >= 2
        })
        .await;
    for text in heard {
        assert!(
            text.len() < 64 && !text.contains("secret") && !text.contains("hunter2"),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_notices_of_one_transaction_fold_and_the_last_value_stands_everywhere() {
    let db = TestDb::new().await;
    let (one_, two) = (
        start(quick(Settings::new(db.url()))).await,
        start(quick(Settings::new(db.url()))).await,
    );
    let seen = record(&two, Filter::all());
    let client = db.client().await;
    run(
        &client,
        "BEGIN; INSERT INTO sync_config VALUES ('k', '1'); UPDATE sync_config SET value = '2';
         UPDATE sync_config SET value = '1'; UPDATE sync_config SET value = '2'; COMMIT",
    )
    .await;
    equal_to_the_table(&[&one_, &two], &client).await;
    assert_eq!((one_.get_i64("k", 0), two.get_i64("k", 0)), (2, 2));
    let events = seen.until("one change", |seen| !seen.is_empty()).await;
    assert_eq!(
        events,
        [Seen::Changed(
            1,
            "Remote".into(),
            vec![("k".into(), None, Some("2".into()))]
        )]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_who_forges_notices_changes_no_cache() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    service.set("k", 1).await.unwrap();
    let seen = record(&service, Filter::all());
    let client = db.client().await;
    let role = format!("{}_forger", db.name());
    run(&client, &format!("CREATE ROLE {role}; SET ROLE {role}")).await;
    let epoch = service.status().epoch.unwrap();
    for text in [
        r#"{"action":"set","key":"k","value":666}"#,
        r#"{"action":"delete","key":"k"}"#,
        &format!("c1 {epoch} 9223372036854775807"),
        &format!("c1 {epoch} 0"),
        &format!("h1 {epoch} 1 00000666 0000000000000666 a"),
        &format!("h1 {epoch} 9223372036854775807 00000666 0000000000000666 a"),
        "c1 00000000-0000-0000-0000-000000000000 9",
    ] {
        client
            .execute("SELECT pg_notify('config_changes', $1)", &[&text])
            .await
            .unwrap();
    }
    let written = service.set("after", 1).await.unwrap();
    seen.until("the change after them", |seen| {
        // A resync that a forged heartbeat leads to may come after it.
        changed_revisions(seen).last() == Some(&written.revision().get())
    })
    .await;
    assert_eq!((service.get_i64("k", 0), written.revision().get()), (1, 2));
    run(&client, &format!("RESET ROLE; DROP ROLE {role}")).await;
    equal_to_the_table(&[&service], &client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_agree_with_each_other_and_not_with_the_table_are_found_out() {
    let db = TestDb::new().await;
    let settings = beating(Settings::new(db.url()));
    let (one_, two) = (start(settings.clone()).await, start(settings).await);
    let written = one_.set("k", 1).await.unwrap();
    let agreed = in_step(&[&one_, &two], written.revision()).await;
    let client = db.client().await;
    alter(&client, "UPDATE sync_config SET value = '2'").await;
    equal_to_the_table(&[&one_, &two], &client).await;
    assert_eq!((one_.get_i64("k", 0), two.get_i64("k", 0)), (2, 2));
    assert!(one_.checksum().unwrap() != agreed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_is_merely_behind_is_no_mismatch() {
    let db = TestDb::new().await;
    let proxy = Proxy::to(cluster().address()).await;
    let settings = quick(Settings::new(db.url())).heartbeat_interval(Duration::from_millis(150));
    let writer = start(settings.clone()).await;
    let behind = start(settings.listen_database_url(db.url_through(&proxy))).await;
    for round in 0..3 {
        proxy.set(Mode::Freeze).await;
        for number in 0..20 {
            writer.set("k", round * 20 + number).await.unwrap();
        }
        // Heartbeats go both ways meanwhile: those of the one behind through the pool, which is not frozen.
        let sent = behind.status().heartbeat.last_sent;
        until_status(&behind, "heartbeats from behind", |status| {
            status.heartbeat.last_sent > sent
        })
        .await;
        let heard = writer.status().heartbeat.last_heard;
        until_status(&writer, "heartbeats heard", |status| {
            status.heartbeat.last_heard > heard
        })
        .await;
        proxy.set(Mode::Pass).await;
        equal_to_the_table(&[&writer, &behind], &db.client().await).await;
    }
    for service in [&writer, &behind] {
        let heartbeat = service.status().heartbeat;
        assert_eq!(
            (heartbeat.mismatches, heartbeat.resyncs),
            (0, 0),
            "{heartbeat:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncate_in_the_midst_of_an_audit_or_a_load_is_no_mismatch() {
    let db = TestDb::new().await;
    let proxy = Proxy::to(cluster().address()).await;
    let settings = quick(Settings::new(db.url_through(&proxy)))
        .heartbeat_interval(Duration::from_millis(100))
        .check_interval(Duration::from_secs(3_600));
    let service = start(settings).await;
    let seen = record(&service, Filter::all());
    let client = db.client().await;
    // Between the statements of an audit, and of a resync, lies time enough for a TRUNCATE.
    proxy.set(Mode::Delay(Duration::from_millis(15))).await;
    for round in 0..25 {
        let fill = format!(
            "INSERT INTO sync_config SELECT n::text, '{round}' FROM generate_series(1, 3) n"
        );
        run(&client, &fill).await;
        let (changed, ()) = tokio::join!(service.sync(), async {
            tokio::time::sleep(Duration::from_millis(10 + round * 4)).await;
            run(&client, "TRUNCATE sync_config").await;
        });
        assert_eq!(changed.unwrap(), 0, "nothing went past the journal");
    }
    let events = seen
        .until("all", |seen| changed_revisions(seen).len() == 50)
        .await;
    let all_at_once = |seen: &Seen| match seen {
        Seen::Changed(_, _, changes) => changes.len() == 3,
        Seen::Resynced(_, changes) => changes.is_empty(),
        Seen::State(..) | Seen::Lagged(..) => false,
    };
    assert!(events.iter().all(all_at_once), "{events:?}");
    assert_eq!(service.status().heartbeat.mismatches, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_began_early_and_commits_late_is_seen_everywhere() {
    let db = TestDb::new().await;
    let all = [
        start(quick(Settings::new(db.url()))).await,
        start(quick(Settings::new(db.url()))).await,
    ];
    let seen = record(&all[1], Filter::all());
    let (early, late) = (db.client().await, db.client().await);
    run(
        &early,
        "BEGIN; INSERT INTO sync_config VALUES ('early', '1')",
    )
    .await;
    for number in 0..5 {
        run(
            &late,
            &format!("INSERT INTO sync_config VALUES ('late{number}', '1')"),
        )
        .await;
    }
    all[0].set("own", 1).await.unwrap();
    equal_to_the_table(&[&all[0], &all[1]], &late).await;
    run(&early, "COMMIT").await;
    equal_to_the_table(&[&all[0], &all[1]], &late).await;
    let events = seen.until("seven", |seen| seen.len() == 7).await;
    assert_eq!(changed_revisions(&events), (1..=7).collect::<Vec<_>>());
    assert!(
        all[1]
            .get("early")
            .unwrap()
            .is_some_and(|entry| entry.revision().get() == 7)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_comes_once_for_each_change_in_order_on_the_writer_too() {
    let db = TestDb::new().await;
    let all = [
        start(quick(Settings::new(db.url()))).await,
        start(quick(Settings::new(db.url()))).await,
    ];
    let seen = [
        record(&all[0], Filter::all()),
        record(&all[1], Filter::all()),
    ];
    let write = async |at: usize| {
        for number in 0..100 {
            all[at]
                .set(&format!("k{}", number % 3), at * 1_000 + number)
                .await
                .unwrap();
        }
    };
    tokio::join!(write(0), write(1));
    for probe in &seen {
        let events = probe.until("all", |seen| seen.len() >= 200).await;
        assert_eq!(changed_revisions(&events), (1..=200).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_never_overwrites_newer_data() {
    let db = TestDb::new().await;
    let settings = quick(Settings::new(db.url()));
    let (one_, two) = (start(settings.clone()).await, start(settings).await);
    let seen = record(&two, Filter::all());
    let reload = {
        let two = two.clone();
        tokio::spawn(async move {
            let mut count = 0u32;
            while two.get_i64("done", 0) == 0 {
                assert_eq!(two.sync().await.unwrap(), 0, "nothing differs");
                count += 1;
            }
            count
        })
    };
    for number in 0..300 {
        let writer = if number % 3 == 0 { &two } else { &one_ };
        writer.set("k", number).await.unwrap();
        assert_eq!(
            writer.get_i64("k", -1),
            number,
            "its own write or a newer one, and there is none"
        );
        let other = if number % 3 == 0 { &one_ } else { &two };
        other
            .wait_for(writer.status().revision.into(), PATIENCE)
            .await
            .unwrap();
    }
    let last = one_.set("done", 1).await.unwrap().revision().get();
    assert!(reload.await.unwrap() > 10);
    let events = seen
        .until("the last", |seen| {
            changed_revisions(seen).last() == Some(&last)
        })
        .await;
    assert_eq!(changed_revisions(&events), (1..=last).collect::<Vec<_>>());
    let revisions: Vec<u64> = events.iter().map(Seen::revision).collect();
    assert!(revisions.is_sorted(), "never back");
    assert!(
        events
            .iter()
            .all(|seen| !matches!(seen, Seen::Resynced(_, changes) if !changes.is_empty()))
    );
    equal_to_the_table(&[&one_, &two], &db.client().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_key_and_a_null_are_told_apart() {
    let db = TestDb::new().await;
    let reader = start(quick(Settings::new(db.url()))).await;
    let seen = record(&reader, Filter::all());
    let client = db.client().await;
    for sql in [
        "INSERT INTO sync_config VALUES ('k', 'null')",
        "DELETE FROM sync_config",
        "INSERT INTO sync_config VALUES ('k', '0')",
        "UPDATE sync_config SET value = 'null'",
    ] {
        run(&client, sql).await;
    }
    let events = seen.until("four", |seen| seen.len() == 4).await;
    let null = || Some("null".to_owned());
    let zero = || Some("0".to_owned());
    let expected = [
        (None, null()),
        (null(), None),
        (None, zero()),
        (zero(), null()),
    ];
    for (at, (seen, (old, new))) in events.into_iter().zip(expected).enumerate() {
        assert_eq!(
            seen,
            Seen::Changed(at as u64 + 1, "Remote".into(), vec![("k".into(), old, new)])
        );
    }
    assert!(reader.get("k").unwrap().unwrap().value().is_null());
}
