//! What a writer is told when something goes wrong: applied, not applied, or unknown; and never the wrong one.

use std::time::Duration;

use futures_util::future::join_all;
use sync_config::Value;
use sync_config::prelude::*;

use crate::fleet::{in_step, until_status};
use crate::ground::{equal_to_the_table, head, one, quick, rows, run, start, until_waiting};
use crate::support::deaf::DeafProxy;
use crate::support::postgres::{TestDb, cluster};
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost_is_unknown_and_sending_it_again_makes_one_revision() {
    let db = TestDb::new().await;
    let proxy = Proxy::to(cluster().address()).await;
    let settings = quick(Settings::new(db.url_through(&proxy)))
        .listen_database_url(db.url())
        .request_timeout(Duration::from_secs(4));
    let service = start(settings).await;
    let admin = db.client().await;
    service.set("warm", 1).await.unwrap();
    for round in 0..3u64 {
        let batch = || {
            Batch::new()
                .put("k", round)
                .idempotency_key(format!("round {round}"))
        };
        // A lock on the row keeps the statement at work in the database while its connection is cut.
        run(&admin, "BEGIN; LOCK TABLE sync_config IN EXCLUSIVE MODE").await;
        let before = head(&admin).await;
        let (outcome, ()) = tokio::join!(service.write(batch()), async {
            until_waiting(&db, 1).await;
            proxy.cut().await;
        });
        let error = outcome.unwrap_err();
        assert!(
            error.is_outcome_unknown() && !error.is_retryable(),
            "{error}"
        );
        run(&admin, "COMMIT").await;
        let written = eventually("sent again", PATIENCE, async || {
            service.write(batch()).await
        })
        .await;
        assert_eq!(written.revision().get(), before + 1);
        let again = service.write(batch()).await.unwrap();
        assert!(again.replayed() && again.revision() == written.revision());
        assert_eq!(head(&admin).await, before + 1, "at most one revision");
    }
    equal_to_the_table(&[&service], &admin).await;
}

/// Sends writes of which one deletes a key that somebody else has made, but not committed, when it is looked for.
async fn delete_what_is_made_meanwhile(batches: Vec<Batch>, transactions: i64) {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    let (holder, maker) = (db.client().await, db.client().await);
    run(&holder, "BEGIN; SELECT FROM sync_config_head FOR UPDATE").await;
    let made = "INSERT INTO sync_config (key, value) VALUES ('made', '1')";
    let made = async { run(&maker, made).await };
    let written = async {
        until_waiting(&db, 1).await;
        join_all(batches.into_iter().map(|batch| service.write(batch))).await
    };
    let released = async {
        until_waiting(&db, 1 + transactions).await;
        run(&holder, "COMMIT").await;
    };
    let ((), written, ()) = tokio::join!(made, written, released);
    for written in written {
        let written = written.unwrap();
        let deleted = written
            .keys()
            .iter()
            .find(|key| key.key().as_str() == "made");
        if let Some(deleted) = deleted {
            assert!(deleted.changed() && deleted.entry().is_none());
            assert!(written.revision().get() > 1, "after the one that made it");
        }
    }
    assert!(service.get("made").unwrap().is_none());
    equal_to_the_table(&[&service], &maker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_deletes_what_was_made_before_it_had_its_revision() {
    let batch = Batch::new().put("a", 1).delete("made");
    delete_what_is_made_meanwhile(vec![batch], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_of_what_has_to_be_absent_deletes_nothing_that_was_made_meanwhile() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    let (holder, maker, mut joins) = (db.client().await, db.client().await, db.client().await);
    let batch = |key: &str| {
        let absent = Precondition::Absent;
        Batch::new().put(key, 1).delete_if("made", absent)
    };
    // The put comes after the look at the conditions and before the delete, and waits for whoever makes its key.
    let held = "BEGIN; INSERT INTO sync_config (key, value) VALUES ('held', '0')";
    let made = "INSERT INTO sync_config (key, value) VALUES ('made', '1')";
    let meanwhile = async || {
        until_waiting(&db, 1).await;
        run(&maker, made).await;
        run(&holder, "COMMIT").await;
    };
    run(&holder, held).await;
    let (refused, ()) = tokio::join!(service.write(batch("held")), meanwhile());
    let error = refused.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    eventually("both are shown", PATIENCE, async || {
        (service.get_i64("made", 0) == 1 && service.get_i64("held", 1) == 0).then_some(())
    })
    .await;

    run(&maker, "DELETE FROM sync_config").await;
    let transaction = joins.transaction().await.unwrap();
    run(&holder, held).await;
    let (refused, ()) = tokio::join!(service.write_in(&transaction, batch("held")), meanwhile());
    let error = refused.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    transaction.commit().await.unwrap();
    assert_eq!(rows(&maker).await.len(), 2, "held and made");
    equal_to_the_table(&[&service], &maker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_shares_a_transaction_deletes_what_was_made_before_it_had_its_revision() {
    let put = |key: &str| Batch::new().put(key, 1);
    let batches = vec![put("a"), put("b").delete("made"), put("c")];
    delete_what_is_made_meanwhile(batches, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_was_prepared_before_an_upgrade_is_written_all_the_same() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url())).max_connections(1)).await;
    let admin = db.client().await;
    service.set("k", 1).await.unwrap();
    // What a later version may do: the function tells one thing more.
    let function: String = one(
        &admin,
        "SELECT pg_get_functiondef('sync_config_put'::regproc)",
    )
    .await;
    let later = function.replacen(
        ", OUT others boolean)",
        ", OUT others boolean, OUT more text)",
        1,
    );
    assert_ne!(later, function);
    run(
        &admin,
        &format!("BEGIN; DROP FUNCTION sync_config_put; {later}; COMMIT"),
    )
    .await;
    for value in 2..5 {
        let written = service.set("k", value).await.unwrap();
        assert_eq!(written.revision().get(), value);
    }
    equal_to_the_table(&[&service], &admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_does_not_come_is_unknown_at_the_deadline_and_harms_no_later_write() {
    let db = TestDb::new().await;
    let proxy = Proxy::to(cluster().address()).await;
    let settings = quick(Settings::new(db.url_through(&proxy)))
        .listen_database_url(db.url())
        .max_connections(2)
        .request_timeout(Duration::from_secs(2));
    let service = start(settings).await;
    service.set("k", 0).await.unwrap();
    proxy.set(Mode::BlackholeToClient).await;
    // On a connection of the pool that has not written before, not even the statement is prepared in time.
    eventually("an unknown outcome", PATIENCE, async || {
        let outcome = service.set("k", 1).await;
        let unknown = outcome
            .as_ref()
            .is_err_and(|error| error.is_outcome_unknown());
        if unknown {
            Ok(())
        } else {
            Err(format!("{outcome:?}"))
        }
    })
    .await;
    // It did arrive: the journal tells this instance what its own writer could not.
    eventually("the write", PATIENCE, async || {
        (service.get_i64("k", 0) == 1).then_some(())
    })
    .await;
    proxy.set(Mode::Pass).await;
    let written = service
        .set("k", 2)
        .await
        .expect("the bad connection is not used again");
    assert_eq!(written.revision().get(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_connections_of_the_pool_are_replaced_and_never_add_up() {
    let db = TestDb::new().await;
    let proxy = DeafProxy::to(cluster().address()).await;
    let settings = quick(Settings::new(proxy.url(db.url())))
        .listen_database_url(db.url())
        .heartbeat_interval(Duration::from_millis(200))
        .max_connections(2)
        .request_timeout(Duration::from_secs(2));
    let service = start(settings).await;
    tokio::join!(service.set("a", 0), service.set("b", 0))
        .0
        .unwrap();
    let sent = eventually("a heartbeat", PATIENCE, async || {
        service.status().heartbeat.last_sent
    })
    .await;
    proxy.forget_connections();
    // Heartbeats and audits get stuck on the two connections of the pool. Were these given back, nothing would ever work again.
    eventually("a write", PATIENCE, async || service.set("k", 1).await).await;
    assert_eq!(service.get_i64("k", 0), 1);
    eventually("heartbeats and audits again", PATIENCE, async || {
        let heartbeat = service.status().heartbeat;
        (heartbeat.last_sent > Some(sent) && heartbeat.last_audit > Some(sent)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exhausted_pool_refuses_in_time_and_says_that_nothing_was_written() {
    let db = TestDb::new().await;
    let manager = deadpool_postgres::Manager::new(db.url().parse().unwrap(), tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager)
        .max_size(1)
        .build()
        .unwrap();
    let settings = quick(Settings::default())
        .listen_database_url(db.url())
        .request_timeout(Duration::from_secs(2));
    let service = Builder::new(settings)
        .pool(pool.clone())
        .start()
        .await
        .unwrap();
    let taken = pool.get().await.unwrap();
    let error = service.set("k", 1).await.unwrap_err();
    assert!(error.is_unavailable() && error.is_retryable(), "{error}");
    drop(taken);
    assert_eq!(
        service.set("k", 2).await.unwrap().revision().get(),
        1,
        "not applied, ever"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_postgresql_cannot_hold_is_invalid_input_and_its_key_is_named() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    let error = service.set("nul:key", "a\u{0}b").await.unwrap_err();
    assert!(
        error.is_invalid_input() && error.to_string().contains("nul:key"),
        "{error}"
    );
    let batch = Batch::new()
        .put("fine", 1)
        .put("nul:key", vec!["x", "secret\u{0}"])
        .put("fine too", 2);
    let error = service.write(batch).await.unwrap_err();
    assert!(
        error.is_invalid_input() && error.to_string().contains("nul:key"),
        "{error}"
    );
    assert!(!error.to_string().contains("secret"), "{error}");
    // A backslash before it makes it six harmless characters.
    assert!(service.set("harmless", "\\u0000").await.unwrap().changed());
    for there in [false, true] {
        let odd = ["1e2000000", "1e-20000", "\"\\ud800\"", "\"\\u0000\""];
        for text in odd {
            let value = Value::parse(text).expect("JSON, by its grammar");
            let batch = Batch::new()
                .put("fine", 1)
                .put_value("odd:key", value, None);
            let error = service.write(batch).await.unwrap_err();
            assert!(
                error.is_invalid_input() && error.to_string().contains("odd:key"),
                "{there}: {error}"
            );
        }
        if !there {
            assert_eq!(rows(&db.client().await).await.len(), 1);
            let both = Batch::new().put("fine", 0).put("odd:key", 0);
            service.write(both).await.unwrap();
        }
    }
    assert_eq!(service.get_i64("fine", 1), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_expands_beyond_the_bound_is_too_large_and_its_key_is_named() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    let bomb = format!("[{}]", vec!["1e131071"; 100].join(","));
    let error = service
        .set_value("bomb", Value::parse(&bomb).unwrap())
        .await
        .unwrap_err();
    assert!(
        error.is_too_large() && error.to_string().contains("bomb"),
        "{error}"
    );
    let batch = Batch::new()
        .put("a", 1)
        .put_value("bomb", Value::parse(&bomb).unwrap(), None);
    let error = service.write(batch).await.unwrap_err();
    assert!(
        error.is_too_large() && error.to_string().contains("bomb"),
        "{error}"
    );
    assert!(error.to_string().len() < 300, "the value is no part of it");
    assert!(rows(&db.client().await).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_instance_that_sets_what_it_holds_writes_all_the_same() {
    let db = TestDb::new().await;
    let proxy = Proxy::to(cluster().address()).await;
    let settings = quick(Settings::new(db.url()));
    let fresh = start(settings.clone()).await;
    let stale = start(
        settings
            .listen_database_url(db.url_through(&proxy))
            .request_timeout(Duration::from_secs(2)),
    )
    .await;
    let written = fresh.set("k", 1).await.unwrap();
    in_step(&[&fresh, &stale], written.revision()).await;
    proxy.set(Mode::Freeze).await;
    fresh.set("k", 2).await.unwrap();
    assert_eq!(stale.get_i64("k", 0), 1, "it knows of nothing");
    let written = stale.set("k", 1).await.unwrap();
    assert!(written.changed() && written.revision().get() == 3);
    assert!(!written.visible(), "it says that it could not follow");
    fresh
        .wait_for(written.cursor().into(), PATIENCE)
        .await
        .unwrap();
    assert_eq!(fresh.get_i64("k", 0), 1);
    proxy.set(Mode::Pass).await;
    equal_to_the_table(&[&fresh, &stale], &db.client().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_given_up_is_not_applied_later() {
    let db = TestDb::new().await;
    let settings = quick(Settings::new(db.url()))
        .request_timeout(Duration::from_secs(2))
        .statement_timeout(Duration::ZERO);
    let service = start(settings).await;
    service.set("k", 1).await.unwrap();
    let admin = db.client().await;
    run(
        &admin,
        "BEGIN; UPDATE sync_config SET value = '2' WHERE key = 'k'",
    )
    .await;
    let error = service.set("k", 3).await.unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    let watcher = db.client().await;
    eventually("the server gives the statement up", PATIENCE, async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        (one::<i64>(&watcher, waiting).await == 0).then_some(())
    })
    .await;
    run(&admin, "COMMIT").await;
    until_status(&service, "psql's edit", |status| status.revision.get() == 2).await;
    assert_eq!((service.get_i64("k", 0), head(&admin).await), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_takes_too_long_is_ended_by_the_server_and_known_not_to_be_applied() {
    let db = TestDb::new().await;
    // The server's limit is nine tenths of it: half a second is left for its answer.
    let settings = quick(Settings::new(db.url())).request_timeout(Duration::from_secs(5));
    let service = start(settings).await;
    service.set("k", 1).await.unwrap();
    let admin = db.client().await;
    run(
        &admin,
        "BEGIN; UPDATE sync_config SET value = '2' WHERE key = 'k'",
    )
    .await;
    let error = service.set("k", 3).await.unwrap_err();
    assert!(
        error.is_retryable() && error.to_string().contains("57014"),
        "{error}"
    );
    run(&admin, "COMMIT").await;
    until_status(&service, "psql's edit", |status| status.revision.get() == 2).await;
    assert_eq!(service.get_i64("k", 0), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_waits_for_a_lock_as_long_as_the_setting_says() {
    let db = TestDb::new().await;
    let settings = quick(Settings::new(db.url())).lock_timeout(Duration::from_millis(200));
    let service = start(settings).await;
    service.set("k", 1).await.unwrap();
    let admin = db.client().await;
    run(&admin, "BEGIN; LOCK TABLE sync_config").await;
    let error = service.set("k", 3).await.unwrap_err();
    assert!(
        error.is_retryable() && error.to_string().contains("55P03"),
        "{error}"
    );
    run(&admin, "ROLLBACK").await;
    eventually("a write", PATIENCE, async || service.set("k", 4).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_that_a_database_sets_for_others_do_not_cut_a_load_short() {
    let db = TestDb::new().await;
    let admin = db.client().await;
    start(Settings::new(db.url()))
        .await
        .shutdown()
        .await
        .unwrap();
    run(
        &admin,
        "INSERT INTO sync_config (key, value) SELECT 'k' || n, to_jsonb(repeat('x', 200)) FROM generate_series(1, 20000) n",
    )
    .await;
    let limit = format!("ALTER DATABASE {} SET statement_timeout = '1ms'", db.name());
    run(&admin, &limit).await;
    let service = start(quick(Settings::new(db.url()))).await;
    assert_eq!(service.status().entries, 20_000);
    service.set("k1", 1).await.unwrap();
    assert_eq!(service.sync().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_keys_that_are_there_waits_for_whoever_holds_the_table() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    let both = |value| Batch::new().put("a", value).put("b", value);
    service.write(both(1)).await.unwrap();
    let other = db.client().await;
    run(
        &other,
        "BEGIN; LOCK TABLE sync_config IN SHARE ROW EXCLUSIVE MODE",
    )
    .await;
    let writing = tokio::spawn({
        let service = service.clone();
        async move { service.write(both(2)).await }
    });
    let admin = db.client().await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
         AND clock_timestamp() - query_start > interval '400 milliseconds'";
    eventually("the way that waits", PATIENCE, async || {
        (one::<i64>(&admin, waits).await == 1).then_some(())
    })
    .await;
    run(&other, "COMMIT").await;
    assert!(writing.await.unwrap().unwrap().changed());
    assert_eq!(service.get_i64("b", 0), 2);
}
