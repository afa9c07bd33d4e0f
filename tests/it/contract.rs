//! The contract that every store keeps: one suite, run on the memory store, on PostgreSQL, on SQLite and on a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sync_config::prelude::*;
use sync_config::{Revision, Value};

use crate::fleet::{Fleet, Seen, in_step, record};
use crate::support::wait::{PATIENCE, Probe};

/// Runs each function on every store.
macro_rules! on_every_store {
    ($($name:ident)*) => {
        mod on_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::fleet::Fleet::memory()).await; })*
        }
        mod on_newest_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::fleet::Fleet::newest_postgres().await).await; })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::fleet::Fleet::postgres().await).await; })*
        }
        #[cfg(feature = "sqlite")]
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::fleet::Fleet::sqlite()).await; })*
        }
        #[cfg(all(feature = "remote", feature = "server"))]
        mod on_remote {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::fleet::Fleet::remote().await).await; })*
        }
    };
}

on_every_store! {
    a_write_is_read_here_at_once_and_everywhere_soon
    revisions_are_dense_and_a_write_without_effect_makes_none
    a_write_of_what_another_wrote_is_read_here_at_once_too
    null_absence_and_delete_are_three_things
    preconditions_decide_and_a_refused_batch_writes_nothing
    one_of_many_conditional_writers_wins
    a_batch_is_seen_whole_or_not_at_all
    concurrent_writers_are_heard_once_each_and_in_order
    a_subscription_with_state_has_no_hole_and_no_overlap
    causes_tell_own_writes_from_others
    a_panicking_or_blocking_callback_harms_nobody_else
    a_slow_subscriber_is_told_how_far_it_lags_and_goes_on_from_a_state
    callbacks_may_read_subscribe_and_unsubscribe
    after_unsubscribe_no_callback_starts
    typed_reads_and_typed_callbacks
    an_idempotency_key_makes_a_second_write_none
    wait_for_tells_what_it_waited_for
    a_resync_without_differences_changes_nothing
    a_status_tells_the_checksum_of_its_own_revision
    after_shutdown_reads_go_on_and_writes_are_refused
    bad_input_is_refused_by_name_and_changes_nothing
    a_new_instance_loads_what_the_others_hold
    a_value_has_one_text_whichever_way_it_was_written
}

async fn a_write_is_read_here_at_once_and_everywhere_soon(fleet: Fleet) {
    let (one, two) = (fleet.start().await, fleet.start().await);
    let written = one.set("feature:new_ui", true).await.unwrap();
    assert!(written.changed() && written.visible());
    assert!(one.get_bool("feature:new_ui", false));
    two.wait_for(written.cursor().into(), PATIENCE)
        .await
        .unwrap();
    assert!(two.get_bool("feature:new_ui", false));
    let entry = two.get("feature:new_ui").unwrap().unwrap();
    assert_eq!(entry.revision(), written.revision());
    let told = written.keys()[0].entry().unwrap();
    assert_eq!(
        (told.updated_at(), told.as_json()),
        (entry.updated_at(), "true")
    );
    in_step(&[&one, &two], written.revision()).await;
}

async fn revisions_are_dense_and_a_write_without_effect_makes_none(fleet: Fleet) {
    let one = fleet.start().await;
    assert_eq!(one.set("a", 1).await.unwrap().revision().get(), 1);
    assert_eq!(one.set("b", 2).await.unwrap().revision().get(), 2);
    let again = one.set("a", 1).await.unwrap();
    assert!(!again.changed());
    assert_eq!(again.keys()[0].entry().unwrap().revision().get(), 1);
    let missing = one.delete("nothing").await.unwrap();
    assert!(!missing.changed() && missing.keys()[0].entry().is_none());
    let batch = Batch::new()
        .put("a", 10)
        .put("b", 2)
        .put("c", 3)
        .delete("nothing");
    let written = one.write(batch).await.unwrap();
    assert_eq!(written.revision().get(), 3);
    let changed: Vec<bool> = written.keys().iter().map(|key| key.changed()).collect();
    assert_eq!(changed, [true, false, true, false]);
    let revisions: Vec<u64> = one
        .get_all()
        .unwrap()
        .iter()
        .map(|entry| entry.revision().get())
        .collect();
    assert_eq!(revisions, [3, 2, 3]);
    assert_eq!(
        one.set("a", 1.0).await.unwrap().revision().get(),
        4,
        "1 and 1.0 differ in their bytes"
    );
}

async fn a_write_of_what_another_wrote_is_read_here_at_once_too(fleet: Fleet) {
    let (one, two) = (fleet.start().await, fleet.start().await);
    for number in 0..100 {
        one.set("k", number).await.unwrap();
        let written = two.set("k", number).await.unwrap();
        assert!(written.visible() && !written.changed());
        assert_eq!(two.get_i64("k", -1), number);
    }
}

async fn null_absence_and_delete_are_three_things(fleet: Fleet) {
    let (one, two) = (fleet.start().await, fleet.start().await);
    let seen = record(&two, Filter::key("k"));
    one.set("k", ()).await.unwrap();
    assert!(one.get("k").unwrap().unwrap().value().is_null());
    assert_eq!(
        one.get_as::<Option<i64>>("k").unwrap().as_deref(),
        Some(&None)
    );
    one.delete("k").await.unwrap();
    assert!(one.get("k").unwrap().is_none());
    let events = seen.until("both changes", |seen| seen.len() == 2).await;
    let null = Some("null".to_owned());
    assert_eq!(
        events[0],
        Seen::Changed(1, "Remote".into(), vec![("k".into(), None, null.clone())])
    );
    assert_eq!(
        events[1],
        Seen::Changed(2, "Remote".into(), vec![("k".into(), null, None)])
    );
}

async fn preconditions_decide_and_a_refused_batch_writes_nothing(fleet: Fleet) {
    let one = fleet.start().await;
    let first = one
        .write(Batch::new().put_if("k", 1, Precondition::Absent))
        .await
        .unwrap();
    let refused = one
        .write(
            Batch::new()
                .put("other", 1)
                .put_if("k", 2, Precondition::Absent),
        )
        .await
        .unwrap_err();
    assert!(
        refused.is_conflict() && !refused.is_retryable(),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("\"k\"") && refused.to_string().contains("at revision 1"),
        "{refused}"
    );
    assert!(one.get("other").unwrap().is_none());
    let at = Precondition::Revision(first.revision());
    assert!(
        one.write(Batch::new().put_if("k", 2, at))
            .await
            .unwrap()
            .changed()
    );
    assert!(
        one.write(Batch::new().put_if("k", 3, at))
            .await
            .unwrap_err()
            .is_conflict()
    );
    assert!(
        one.write(Batch::new().put_if("new", 3, Precondition::Present))
            .await
            .unwrap_err()
            .is_conflict()
    );
    assert!(
        one.write(Batch::new().delete_if("new", Precondition::Present))
            .await
            .unwrap_err()
            .is_conflict()
    );
    let zero = Precondition::Revision(Revision::ZERO);
    assert!(
        one.write(Batch::new().put_if("new", 3, zero))
            .await
            .unwrap_err()
            .is_conflict()
    );
    assert!(
        one.write(Batch::new().delete_if("k", Precondition::Present))
            .await
            .unwrap()
            .changed()
    );
    assert_eq!(one.status().revision.get(), 3);
}

async fn one_of_many_conditional_writers_wins(fleet: Fleet) {
    let services = [fleet.start().await, fleet.start().await];
    let first = services[0].set("counter", 0).await.unwrap();
    in_step(&[&services[0], &services[1]], first.revision()).await;
    let wins = Arc::new(AtomicU64::new(0));
    let tasks = (0..8).map(|task| {
        let (config, wins) = (services[task % 2].clone(), wins.clone());
        tokio::spawn(async move {
            let mut done = 0;
            while done < 10 {
                let entry = config.get("counter").unwrap().unwrap();
                let next = entry.as_i64().unwrap() + 1;
                let batch =
                    Batch::new().put_if("counter", next, Precondition::Revision(entry.revision()));
                match config.write(batch).await {
                    Ok(written) => {
                        assert!(written.changed());
                        wins.fetch_add(1, Ordering::Relaxed);
                        done += 1;
                    }
                    Err(error) if error.is_conflict() => {
                        config
                            .wait_for(entry.revision().next().into(), PATIENCE)
                            .await
                            .unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    in_step(&[&services[0], &services[1]], Revision::new(81)).await;
    assert_eq!(
        (
            services[1].get_i64("counter", 0),
            wins.load(Ordering::Relaxed)
        ),
        (80, 80)
    );
}

async fn a_batch_is_seen_whole_or_not_at_all(fleet: Fleet) {
    let (one, two) = (fleet.start().await, fleet.start().await);
    let reader = two.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let checks = std::thread::spawn(move || {
        let (mut stopped, mut checks) = (stopped, 0u64);
        while stopped.try_recv().is_err() {
            let snapshot = reader.snapshot().unwrap();
            let value = |key: &str| snapshot.get(key).map(|entry| entry.as_json().to_owned());
            assert_eq!(
                value("left"),
                value("right"),
                "at revision {}",
                snapshot.revision()
            );
            checks += 1;
        }
        checks
    });
    let mut last = Revision::ZERO;
    for number in 0..100 {
        last = one
            .write(Batch::new().put("left", number).put("right", number))
            .await
            .unwrap()
            .revision();
    }
    in_step(&[&one, &two], last).await;
    stop.send(()).unwrap();
    assert!(checks.join().unwrap() > 0);
    assert_eq!(last.get(), 100);
}

async fn concurrent_writers_are_heard_once_each_and_in_order(fleet: Fleet) {
    let services = [
        fleet.start().await,
        fleet.start().await,
        fleet.start().await,
    ];
    let probes: Vec<Probe<Seen>> = services
        .iter()
        .map(|service| record(service, Filter::all()))
        .collect();
    let mut tasks = Vec::new();
    for (number, service) in services.iter().enumerate().take(2) {
        for lane in 0..4 {
            let config = service.clone();
            tasks.push(tokio::spawn(async move {
                let mut newest = 0;
                for turn in 0..20 {
                    let key = format!("k:{lane}");
                    let written = config.set(&key, format!("{number}-{turn}")).await;
                    newest = written.unwrap().revision().get();
                }
                newest
            }));
        }
    }
    let mut newest = 0;
    for task in tasks {
        newest = task.await.unwrap().max(newest);
    }
    assert!((20..=160).contains(&newest), "writes may share a revision");
    let all: Vec<_> = services.iter().collect();
    in_step(&all, Revision::new(newest)).await;
    for probe in probes {
        let seen = probe
            .until("every revision", |seen| seen.len() as u64 >= newest)
            .await;
        let revisions: Vec<u64> = seen.iter().map(Seen::revision).collect();
        assert_eq!(revisions, (1..=newest).collect::<Vec<_>>());
        let mut table = std::collections::BTreeMap::new();
        let mut heard = 0;
        for event in seen {
            let Seen::Changed(_, _, changes) = event else {
                panic!("{event:?}")
            };
            for (key, old, new) in changes {
                assert_eq!(table.insert(key, new.clone()).flatten(), old);
                heard += 1;
            }
        }
        assert_eq!(heard, 160, "each write once");
    }
}

async fn a_subscription_with_state_has_no_hole_and_no_overlap(fleet: Fleet) {
    let one = fleet.start().await;
    let writer = one.clone();
    let writing = tokio::spawn(async move {
        for number in 0..200 {
            writer.set("n", number).await.unwrap();
        }
    });
    let mut probes = Vec::new();
    while !writing.is_finished() {
        probes.push(record(&one, Filter::prefix("n").with_state()));
        one.wait_for(one.status().revision.next().into(), PATIENCE)
            .await
            .unwrap_or_default();
        if probes.len() >= 20 {
            break;
        }
    }
    writing.await.unwrap();
    for probe in probes {
        let seen = probe
            .until("the last revision", |seen| {
                seen.last().is_some_and(|last| last.revision() == 200)
            })
            .await;
        assert!(matches!(seen[0], Seen::State(..)), "{seen:?}");
        for pair in seen.windows(2) {
            assert_eq!(pair[1].revision(), pair[0].revision() + 1);
        }
    }
}

async fn a_status_tells_the_checksum_of_its_own_revision(fleet: Fleet) {
    let one = fleet.start().await;
    let reader = one.clone();
    let reading = std::thread::spawn(move || {
        let mut checksums = std::collections::BTreeMap::new();
        while reader.get_i64("n", 0) < 100 {
            let (status, snapshot) = (reader.status(), reader.snapshot().unwrap());
            for (revision, checksum) in [
                (status.revision, status.checksum.unwrap()),
                (snapshot.revision(), snapshot.checksum()),
            ] {
                let known = *checksums.entry(revision).or_insert(checksum);
                assert_eq!(checksum, known, "at revision {revision}");
            }
        }
    });
    for number in 1..=100 {
        one.set("n", number).await.unwrap();
    }
    reading.join().unwrap();
}

async fn causes_tell_own_writes_from_others(fleet: Fleet) {
    let (one, two) = (fleet.start().await, fleet.start().await);
    let (here, there) = (record(&one, Filter::all()), record(&two, Filter::all()));
    for number in 0..50 {
        one.set("k", number).await.unwrap();
    }
    let cause = |seen: &Seen| match seen {
        Seen::Changed(_, cause, _) => cause.clone(),
        other => panic!("{other:?}"),
    };
    let here = here.until("own writes", |seen| seen.len() == 50).await;
    let there = there
        .until("the other's writes", |seen| seen.len() == 50)
        .await;
    assert!(here.iter().all(|seen| cause(seen) == "Local"), "{here:?}");
    assert!(
        there.iter().all(|seen| cause(seen) == "Remote"),
        "{there:?}"
    );
}

async fn a_panicking_or_blocking_callback_harms_nobody_else(fleet: Fleet) {
    let one = fleet.start().await;
    one.on_change(Filter::all(), |_| panic!("on purpose"))
        .unwrap();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    one.on_change(Filter::all(), move |_| {
        // Blocks until the test lets go.
        let _released = blocked.recv();
    })
    .unwrap();
    let seen = record(&one, Filter::all());
    for number in 0..10 {
        one.set("k", number).await.unwrap();
    }
    seen.until("all changes", |seen| seen.len() == 10).await;
    crate::fleet::until_status(&one, "ten panics counted", |status| {
        status.counters.callback_panics == 10
    })
    .await;
    drop(release);
    one.shutdown().await.unwrap();
}

async fn a_slow_subscriber_is_told_how_far_it_lags_and_goes_on_from_a_state(fleet: Fleet) {
    let one = fleet.start().await;
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let (probe, mut first) = (Probe::new(), true);
    let seen = probe.clone();
    one.on_change(Filter::all(), move |event| {
        seen.push(Seen::of(event));
        if std::mem::take(&mut first) {
            let _released = blocked.recv();
        }
    })
    .unwrap();
    for number in 0..1_200 {
        one.set("k", number).await.unwrap();
    }
    release.send(()).unwrap();
    let events = probe
        .until("the lag and the end", |seen| {
            seen.iter().any(|s| matches!(s, Seen::Lagged(..)))
        })
        .await;
    let at = events
        .iter()
        .position(|seen| matches!(seen, Seen::Lagged(..)))
        .unwrap();
    let Seen::Lagged(missed, state) = events[at] else {
        unreachable!()
    };
    assert_eq!(
        (at as u64 + missed, state),
        (1_200, 1_200),
        "every revision was heard or told as missed"
    );
    one.set("k", "after").await.unwrap();
    let events = probe
        .until("the next revision", |seen| seen.len() > at + 1)
        .await;
    assert_eq!(events[at + 1].revision(), 1_201);
}

async fn callbacks_may_read_subscribe_and_unsubscribe(fleet: Fleet) {
    let one = fleet.start().await;
    let (config, probe) = (Arc::downgrade(&one), Probe::new());
    let (seen, nested) = (probe.clone(), Arc::new(std::sync::Mutex::new(None)));
    one.on_change(Filter::key("k"), move |event| {
        let Some(config) = config.upgrade() else {
            return;
        };
        let shown = config.snapshot().unwrap().revision();
        assert!(shown.get() >= Seen::of(event).revision() && config.get("k").unwrap().is_some());
        let mut nested = nested.lock().unwrap();
        if let Some(id) = nested.take() {
            assert!(config.unsubscribe(id));
        } else {
            let seen = seen.clone();
            *nested = Some(
                config
                    .on_change(Filter::key("k"), move |event| seen.push(Seen::of(event)))
                    .unwrap(),
            );
        }
        seen.push(Seen::of(event));
    })
    .unwrap();
    for number in 0..4 {
        one.set("k", number).await.unwrap();
        probe
            .until("the change", |seen| {
                seen.iter().any(|seen| seen.revision() == number + 1)
            })
            .await;
    }
}

async fn after_unsubscribe_no_callback_starts(fleet: Fleet) {
    let one = fleet.start().await;
    let probe = Probe::new();
    let seen = probe.clone();
    let id = one
        .on_change(Filter::all(), move |event| seen.push(Seen::of(event)))
        .unwrap();
    let marker = record(&one, Filter::all());
    one.set("k", 1).await.unwrap();
    probe
        .until("the first change", |seen| seen.len() == 1)
        .await;
    assert!(one.unsubscribe(id) && !one.unsubscribe(id));
    one.set("k", 2).await.unwrap();
    marker
        .until("the second change elsewhere", |seen| seen.len() == 2)
        .await;
    assert_eq!(probe.seen().len(), 1);
}

async fn typed_reads_and_typed_callbacks(fleet: Fleet) {
    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    struct Limit {
        per_minute: u32,
        burst: u32,
    }
    let (one, two) = (fleet.start().await, fleet.start().await);
    let probe = Probe::new();
    let seen = probe.clone();
    two.subscribe_as::<i64>("limit:login", move |old, new| {
        seen.push((old.copied(), new.copied()));
    })
    .unwrap();
    one.set("limit:login", 100).await.unwrap();
    one.set("limit:login", "not a number").await.unwrap();
    one.set("limit:login", 200).await.unwrap();
    one.delete("limit:login").await.unwrap();
    let calls = probe.until("three calls", |seen| seen.len() == 3).await;
    assert_eq!(
        calls,
        [(None, Some(100)), (Some(100), Some(200)), (Some(200), None)]
    );
    let limit = Limit {
        per_minute: 60,
        burst: 5,
    };
    one.set("limit:api", &limit).await.unwrap();
    assert_eq!(*one.get_as::<Limit>("limit:api").unwrap().unwrap(), limit);
    assert!(one.get_as::<bool>("limit:api").unwrap_err().is_wrong_type());
    let dynamic: Arc<dyn SyncConfig> = one.clone();
    assert_eq!(dynamic.get_i64("limit:api", 7), 7);
    dynamic.set("rate", 0.5).await.unwrap();
    assert_eq!(
        (
            dynamic.get_f64("rate", 0.0),
            dynamic.get_string("rate", "x")
        ),
        (0.5, "x".to_owned())
    );
}

async fn an_idempotency_key_makes_a_second_write_none(fleet: Fleet) {
    let one = fleet.start().await;
    let batch = || {
        Batch::new()
            .put("k", 1)
            .idempotency_key("order-7")
            .actor("alice")
    };
    let first = one.write(batch()).await.unwrap();
    one.set("k", 2).await.unwrap();
    let second = one.write(batch()).await.unwrap();
    assert!(second.replayed() && !first.replayed());
    assert_eq!(second.revision(), first.revision());
    assert_eq!((one.get_i64("k", 0), one.status().revision.get()), (2, 2));
}

async fn wait_for_tells_what_it_waited_for(fleet: Fleet) {
    let one = fleet.start().await;
    let timeout = one
        .wait_for(Revision::new(5).into(), crate::fleet::SHORT)
        .await
        .unwrap_err();
    assert!(
        timeout.is_timeout() && timeout.to_string().contains("revision 5"),
        "{timeout}"
    );
    let written = one.set("k", 1).await.unwrap();
    let mut cursor = written.cursor();
    cursor.epoch = sync_config::Epoch::from_u128(1);
    assert!(
        one.wait_for(cursor.into(), PATIENCE)
            .await
            .unwrap_err()
            .is_other_epoch()
    );
}

async fn a_resync_without_differences_changes_nothing(fleet: Fleet) {
    let one = fleet.start().await;
    one.set("k", 1).await.unwrap();
    let (before, seen) = (one.checksum().unwrap(), record(&one, Filter::all()));
    assert_eq!(one.sync().await.unwrap(), 0);
    assert_eq!(
        (one.checksum().unwrap(), one.status().heartbeat.resyncs),
        (before, 1)
    );
    assert_eq!(
        seen.until("the mark", |seen| !seen.is_empty()).await,
        [Seen::Resynced(1, vec![])]
    );
}

async fn after_shutdown_reads_go_on_and_writes_are_refused(fleet: Fleet) {
    let one = fleet.start().await;
    one.set("k", 1).await.unwrap();
    one.shutdown().await.unwrap();
    one.shutdown().await.unwrap();
    assert_eq!(one.get_i64("k", 0), 1);
    assert!(one.set("k", 2).await.unwrap_err().is_closed());
    assert!(
        one.on_change(Filter::all(), |_| {})
            .unwrap_err()
            .is_closed()
    );
    assert!(one.sync().await.unwrap_err().is_closed());
}

async fn bad_input_is_refused_by_name_and_changes_nothing(fleet: Fleet) {
    let one = fleet.start().await;
    let long = "k".repeat(256);
    for key in ["", "a\0b", long.as_str()] {
        let error = one.set(key, 1).await.unwrap_err();
        assert!(error.is_invalid_input(), "{error}");
    }
    let huge = one.set("big", "x".repeat(1_048_577)).await.unwrap_err();
    assert!(
        huge.is_too_large()
            && huge.to_string().contains("\"big\"")
            && huge.to_string().contains("1048576"),
        "{huge}"
    );
    let fits = one.set("big", "x".repeat(1_048_574)).await.unwrap();
    assert_eq!(one.get_string("big", "").len(), 1_048_574);
    let twice = one
        .write(Batch::new().put("a", 1).delete("a"))
        .await
        .unwrap_err();
    assert!(
        twice.is_invalid_input() && twice.to_string().contains("\"a\""),
        "{twice}"
    );
    assert!(
        one.write(Batch::new())
            .await
            .unwrap_err()
            .is_invalid_input()
    );
    assert!(Value::parse("{").is_err());
    assert_eq!(one.status().revision, fits.revision());
}

async fn a_new_instance_loads_what_the_others_hold(fleet: Fleet) {
    let one = fleet.start().await;
    let mut batch = Batch::new();
    for number in 0..1_000 {
        batch = batch.put(
            &format!("key:{number:04}"),
            serde_json::json!({ "number": number, "name": "x" }),
        );
    }
    let written = one.write(batch).await.unwrap();
    let two = fleet.start().await;
    assert_eq!(
        (two.status().entries, two.status().revision),
        (1_000, written.revision())
    );
    in_step(&[&one, &two], written.revision()).await;
    let snapshot = two.snapshot().unwrap();
    assert_eq!(snapshot.checksum(), two.checksum().unwrap());
    assert_eq!(snapshot.prefixed("key:000").len(), 10);
}

async fn a_value_has_one_text_whichever_way_it_was_written(fleet: Fleet) {
    let (one, two) = (fleet.start().await, fleet.start().await);
    let put = async |text: &str| {
        let written = one.set_value("k", Value::parse(text).unwrap()).await;
        written.unwrap()
    };
    for (written, canonical) in [
        ("-0.0", "0.0"),
        ("2.50e1", "25.0"),
        ("[1,2]", "[1, 2]"),
        (
            r#"{"bb":1,"c":2,"a":[{}],"bb":3}"#,
            r#"{"a": [{}], "c": 2, "bb": 3}"#,
        ),
        (r#""\u0041\/\u000A\u001F\ud83e\udd80""#, r#""A/\n\u001f🦀""#),
    ] {
        let first = put(written).await;
        assert_eq!(first.keys()[0].entry().unwrap().as_json(), canonical);
        in_step(&[&one, &two], first.revision()).await;
        assert_eq!(two.get("k").unwrap().unwrap().as_json(), canonical);
        for again in [written, canonical] {
            assert!(!put(again).await.changed(), "{again} is there already");
        }
    }
    let checksum = one.checksum().unwrap().to_string();
    assert_eq!(checksum, "79cf9a54", "on every store the same");
    assert!(put("1").await.changed());
    assert!(!put("1e0").await.changed(), "1 in another way");
    assert!(put("1.0").await.changed(), "another text");
    assert!(!put("10e-1").await.changed(), "1.0 in another way");
    assert_eq!(one.status().revision.get(), 7);
}
