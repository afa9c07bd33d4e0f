//! Concurrent writes of one instance: they share transactions, and each is told what became of it and of nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::join_all;
use sync_config::prelude::*;
use sync_config::{Error, Value, Written};

use crate::fleet::{Fleet, in_step};
use crate::ground::{equal_to_the_table, head, one, quick, rows, run, start, until_waiting};
use crate::support::postgres::{TestDb, cluster};
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::{PATIENCE, eventually};

type Outcome = Result<Written, Error>;

/// Sends writes at once: the first goes out alone, the others together after it.
async fn at_once(service: &Arc<ConfigService>, batches: Vec<Batch>) -> Vec<Outcome> {
    let first = service.set("first of all", 0);
    let others = join_all(batches.into_iter().map(|batch| service.write(batch)));
    let (first, others) = tokio::join!(first, others);
    first.unwrap();
    others
}

/// Begins a write, which puts it into its place.
fn poll<F: Future>(write: &mut std::pin::Pin<Box<F>>) -> Poll<F::Output> {
    write.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn revisions<'a>(written: impl IntoIterator<Item = &'a Outcome>) -> BTreeSet<u64> {
    let told = written
        .into_iter()
        .filter_map(|outcome| outcome.as_ref().ok());
    told.map(|written| written.revision().get()).collect()
}

async fn together_on(fleet: &Fleet) {
    let (service, other) = (fleet.start().await, fleet.start().await);
    let held = service.set("held", 1).await.unwrap().revision();
    let mut batches: Vec<Batch> = (0..60)
        .map(|number| Batch::new().put(&format!("k:{number:02}"), number))
        .collect();
    batches.push(Batch::new().put_if("held", 2, Precondition::Absent));
    batches.push(Batch::new().put_if("held:2", 2, Precondition::Present));
    batches.push(
        Batch::new()
            .put("x", 1)
            .put_if("y", 1, Precondition::Revision(held)),
    );
    batches.push(
        Batch::new()
            .put_if("held", 3, Precondition::Revision(held))
            .delete("nothing"),
    );
    let told = at_once(&service, batches).await;

    for refused in &told[60..63] {
        let error = refused.as_ref().unwrap_err();
        assert!(error.is_conflict(), "{error}");
    }
    for (refused, key) in told[60..63].iter().zip(["held", "held:2", "y"]) {
        let error = refused.as_ref().unwrap_err().to_string();
        assert!(error.contains(&format!("\"{key}\"")), "{error}");
    }
    let last = told[63].as_ref().unwrap();
    assert!(last.keys()[0].changed() && !last.keys()[1].changed());
    // The first of all, and then the others: all together unless the machine is busy with something else.
    let revisions = revisions(&told);
    assert!(revisions.len() <= 20, "{revisions:?}");
    for (number, written) in told[..60].iter().enumerate() {
        let written = written.as_ref().unwrap();
        let key = &written.keys()[0];
        assert!(written.changed() && written.visible() && !written.replayed());
        assert_eq!(key.entry().unwrap().as_json(), number.to_string());
        assert_eq!(key.entry().unwrap().revision(), written.revision());
        let shown = service.get(key.key()).unwrap().unwrap();
        assert_eq!(shown.revision(), written.revision());
    }
    assert_eq!(
        service.get("x").unwrap().map(|entry| entry.revision()),
        None,
        "all or nothing"
    );
    assert_eq!(service.get_i64("held", 0), 3);
    let newest = *revisions.last().unwrap();
    in_step(&[&service, &other], sync_config::Revision::new(newest)).await;
    assert_eq!(service.checksum().unwrap(), other.checksum().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_share_a_transaction_and_a_refusal_is_its_caller_s_alone_in_memory() {
    together_on(&Fleet::memory()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_share_a_transaction_and_a_refusal_is_its_caller_s_alone() {
    let fleet = Fleet::postgres().await;
    together_on(&fleet).await;
    let client = fleet.db().client().await;
    let mismatched: i64 = one(
        &client,
        "SELECT count(*) FROM sync_config t LEFT JOIN sync_config_key k USING (key)
         LEFT JOIN sync_config_revision r ON r.revision = k.revision
         LEFT JOIN sync_config_journal j ON j.change = r.change AND j.key = t.key
         WHERE j.new IS DISTINCT FROM t.value::text",
    )
    .await;
    assert_eq!(
        mismatched, 0,
        "the journal holds each write under its revision"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_one_key_keep_their_order_and_each_gets_its_own_revision() {
    for fleet in [Fleet::memory(), Fleet::postgres().await] {
        let service = fleet.start().await;
        let batches = (0..40)
            .map(|number| Batch::new().put("k", number))
            .collect();
        let told = at_once(&service, batches).await;
        let order: Vec<u64> = told
            .iter()
            .map(|one| one.as_ref().unwrap().revision().get())
            .collect();
        assert!(
            order.is_sorted() && revisions(&told).len() == 40,
            "{order:?}"
        );
        assert_eq!(service.get_i64("k", -1), 39);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authors_never_share_a_revision_and_idempotency_keys_each_have_their_own() {
    for fleet in [Fleet::memory(), Fleet::postgres().await] {
        let service = fleet.start().await;
        let authors = (0..8).map(|number| {
            let batch = Batch::new().put(&format!("by:{number}"), number);
            batch.actor(["ann", "bob"][number % 2])
        });
        let keyed = (0..4).map(|number| {
            let batch = Batch::new().put(&format!("once:{number}"), number);
            batch.idempotency_key(format!("key {number}"))
        });
        let told = at_once(&service, authors.chain(keyed).collect()).await;
        let by = |odd: usize| revisions(told[..8].iter().skip(odd).step_by(2));
        assert!(by(0).is_disjoint(&by(1)));
        assert_eq!(revisions(&told[8..]).len(), 4);
        // Sent again among others, each is answered with what it did before.
        let batches = (0..4).map(|number| {
            let batch = Batch::new().put(&format!("once:{number}"), "later");
            batch.idempotency_key(format!("key {number}"))
        });
        let others = (0..4).map(|number| Batch::new().put(&format!("other:{number}"), 1));
        let again = at_once(&service, others.chain(batches).collect()).await;
        for (one, before) in again[4..].iter().zip(&told[8..]) {
            let (one, before) = (one.as_ref().unwrap(), before.as_ref().unwrap());
            assert!(one.replayed() && one.revision() == before.revision());
        }
        assert_eq!(service.get_i64("once:3", -1), 3);
        if let Fleet::Postgres(db) = &fleet {
            let wrong: i64 = one(
                &db.client().await,
                "SELECT count(*) FROM sync_config_revision r JOIN sync_config_journal j USING (change)
                 WHERE j.key LIKE 'by:%' AND r.actor NOT IN ('ann', 'bob')",
            )
            .await;
            assert_eq!(wrong, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_somebody_else_has_locked_holds_up_only_its_own_writer() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    service.set("locked", 0).await.unwrap();
    let admin = db.client().await;
    run(
        &admin,
        "BEGIN; SELECT FROM sync_config WHERE key = 'locked' FOR UPDATE",
    )
    .await;
    let held = tokio::spawn({
        let service = service.clone();
        // In the middle of others, so that it is found locked in their transaction.
        async move {
            let mut batches: Vec<Batch> = (0..9)
                .map(|number| Batch::new().put(&format!("k:{number}"), 1))
                .collect();
            batches.insert(4, Batch::new().put("locked", 1));
            at_once(&service, batches).await
        }
    });
    eventually("the others", PATIENCE, async || {
        (service.get_i64("k:8", 0) == 1).then_some(())
    })
    .await;
    // Later ones pass it too, a second of the same key does not.
    let (later, ()) = tokio::join!(service.set("later", 1), async {});
    let passed = later.unwrap().revision();
    assert_eq!(service.get_i64("locked", 7), 0);
    run(&admin, "COMMIT").await;
    let told = held.await.unwrap();
    let own = told[4].as_ref().unwrap().revision();
    assert!(own > passed, "{own} after {passed}");
    equal_to_the_table(&[&service], &admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locked_rows_never_take_all_connections() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url())).max_connections(3)).await;
    let keys: Vec<String> = (0..8).map(|number| format!("locked:{number}")).collect();
    let batch = keys
        .iter()
        .fold(Batch::new(), |batch, key| batch.put(key, 0));
    service.write(batch).await.unwrap();
    let admin = db.client().await;
    run(&admin, "BEGIN; SELECT FROM sync_config FOR UPDATE").await;
    let waiting = tokio::spawn({
        let service = service.clone();
        async move { join_all(keys.iter().map(|key| service.set(key, 1))).await }
    });
    until_waiting(&db, 2).await;
    for number in 0..5 {
        service.set("free", number).await.unwrap();
    }
    run(&admin, "COMMIT").await;
    for outcome in waiting.await.unwrap() {
        assert!(outcome.unwrap().changed());
    }
    equal_to_the_table(&[&service], &admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_postgresql_refuses_fails_only_its_own_caller() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    // Numbers of this length are beyond numeric's bounds, which no look at the text would tell.
    let odd = Value::parse(&"9".repeat(200_000)).unwrap();
    let mut batches: Vec<Batch> = (0..9)
        .map(|number| Batch::new().put(&format!("k:{number}"), 1))
        .collect();
    batches.insert(3, Batch::new().put_value("odd", odd, None));
    batches.insert(6, Batch::new().put("nul", "a\0b"));
    let told = at_once(&service, batches).await;
    for (place, key) in [(3, "odd"), (6, "nul")] {
        let error = told[place].as_ref().unwrap_err();
        assert!(
            error.is_invalid_input() && error.to_string().contains(key),
            "{error}"
        );
    }
    assert_eq!(told.iter().filter(|one| one.is_ok()).count(), 9);
    assert_eq!(rows(&db.client().await).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_unknown_to_exactly_those_whom_it_concerns() {
    let db = TestDb::new().await;
    let proxy = Proxy::to(cluster().address()).await;
    let settings = quick(Settings::new(db.url_through(&proxy)))
        .listen_database_url(db.url())
        .max_connections(1)
        .request_timeout(Duration::from_secs(10));
    let service = start(settings).await;
    service.set("warm", 1).await.unwrap();
    let admin = db.client().await;
    // The first turn is stopped at its commit, and another waits behind it.
    run(&admin, "BEGIN; SELECT FROM sync_config_head FOR UPDATE").await;
    let write = |key: &'static str| {
        let service = service.clone();
        tokio::spawn(async move { service.set(key, 1).await })
    };
    let sent = write("sent");
    until_waiting(&db, 1).await;
    let waiting: Vec<_> = ["w:0", "w:1", "w:2"].into_iter().map(write).collect();
    proxy.cut().await;
    let error = sent.await.unwrap().unwrap_err();
    assert!(
        error.is_outcome_unknown() && error.to_string().contains("\"sent\""),
        "{error}"
    );
    run(&admin, "COMMIT").await;
    for outcome in waiting {
        assert!(outcome.await.unwrap().unwrap().changed());
    }
    equal_to_the_table(&[&service], &admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_a_transaction_whose_answer_is_lost_are_told_so_and_can_be_sent_again() {
    let db = TestDb::new().await;
    let proxy = Proxy::to(cluster().address()).await;
    let settings = quick(Settings::new(db.url_through(&proxy)))
        .listen_database_url(db.url())
        .request_timeout(Duration::from_secs(4));
    let service = start(settings).await;
    service.set("warm", 1).await.unwrap();
    let admin = db.client().await;
    run(&admin, "BEGIN; SELECT FROM sync_config_head FOR UPDATE").await;
    let batch = |number: usize| {
        let batch = Batch::new().put(&format!("k:{number}"), number);
        if number == 2 {
            batch.idempotency_key("two")
        } else {
            batch
        }
    };
    let sent = tokio::spawn({
        let service = service.clone();
        async move { join_all((0..5).map(|number| service.write(batch(number)))).await }
    });
    until_waiting(&db, 2).await;
    proxy.set(Mode::BlackholeToClient).await;
    run(&admin, "COMMIT").await;
    for (number, outcome) in sent.await.unwrap().into_iter().enumerate() {
        let error = outcome.unwrap_err();
        assert!(error.is_outcome_unknown(), "{error}");
        assert!(
            error.to_string().contains(&format!("\"k:{number}\"")),
            "{error}"
        );
    }
    proxy.set(Mode::Pass).await;
    let again = service.write(batch(2)).await.unwrap();
    assert!(again.replayed(), "it had been applied");
    equal_to_the_table(&[&service], &admin).await;
    assert_eq!(service.get_i64("k:4", 0), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_sent_by_its_deadline_is_not_written_ever() {
    const WRITES: usize = 1_400;
    let db = TestDb::new().await;
    let settings = quick(Settings::new(db.url()))
        .max_connections(1)
        .request_timeout(Duration::from_secs(4))
        .statement_timeout(Duration::ZERO);
    let service = start(settings).await;
    let admin = db.client().await;
    run(&admin, "BEGIN; SELECT FROM sync_config_head FOR UPDATE").await;
    let told = join_all((0..WRITES).map(|number| {
        let service = service.clone();
        async move { service.set(&format!("k:{number:04}"), number).await }
    }))
    .await;
    run(&admin, "COMMIT").await;
    let mut unknown = BTreeSet::new();
    for (number, outcome) in told.iter().enumerate() {
        let error = outcome.as_ref().unwrap_err();
        if error.is_outcome_unknown() {
            unknown.insert(format!("k:{number:04}"));
        } else {
            assert!(error.is_retryable(), "{error}");
        }
    }
    assert!(!unknown.is_empty(), "one was sent");
    // What is said not to be written is not written later either.
    service.set("later", 1).await.unwrap();
    for (key, _) in rows(&admin).await {
        assert!(key == "later" || unknown.contains(&key), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_caller_went_away_while_it_waited_is_not_sent() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url())).max_connections(1)).await;
    let admin = db.client().await;
    run(&admin, "BEGIN; SELECT FROM sync_config_head FOR UPDATE").await;
    let sent = tokio::spawn({
        let service = service.clone();
        async move { service.set("sent", 1).await }
    });
    until_waiting(&db, 1).await;
    let mut gone = Box::pin(service.set("gone", 1));
    let mut stays = Box::pin(service.set("stays", 1));
    assert!(poll(&mut gone).is_pending());
    assert!(poll(&mut stays).is_pending());
    drop(gone);
    run(&admin, "COMMIT").await;
    assert!(stays.await.unwrap().changed());
    assert!(sent.await.unwrap().unwrap().changed());
    let keys: Vec<String> = rows(&admin).await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["sent", "stays"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_refuses_what_waits_and_answers_what_was_sent() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url())).max_connections(1)).await;
    let admin = db.client().await;
    run(&admin, "BEGIN; SELECT FROM sync_config_head FOR UPDATE").await;
    let mut sent = Box::pin(service.set("sent", 1));
    assert!(poll(&mut sent).is_pending());
    until_waiting(&db, 1).await;
    let mut waits = Box::pin(service.set("waits", 1));
    assert!(poll(&mut waits).is_pending());
    let ending = tokio::spawn({
        let service = service.clone();
        async move { service.shutdown().await }
    });
    let error = waits.await.unwrap_err();
    assert!(error.is_closed(), "{error}");
    run(&admin, "COMMIT").await;
    assert!(sent.await.unwrap().changed());
    ending.await.unwrap().unwrap();
    assert!(service.set("later", 1).await.unwrap_err().is_closed());
    assert_eq!(head(&admin).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_that_write_the_same_keys_at_once_lose_nothing() {
    let db = TestDb::new().await;
    let (one, two) = (
        start(quick(Settings::new(db.url()))).await,
        start(quick(Settings::new(db.url()))).await,
    );
    let key = |number: usize| format!("k:{:02}", number % 20);
    for round in 0..5 {
        let writes = |service: Arc<ConfigService>, name: &'static str| async move {
            join_all((0..60).map(|number| {
                let service = service.clone();
                async move {
                    service
                        .set(&key(number), format!("{name} {round} {number}"))
                        .await
                }
            }))
            .await
        };
        let (ones, twos) = tokio::join!(writes(one.clone(), "one"), writes(two.clone(), "two"));
        for outcome in ones.into_iter().chain(twos) {
            let written = outcome.unwrap();
            assert!(written.changed() && written.visible());
        }
    }
    let admin = db.client().await;
    equal_to_the_table(&[&one, &two], &admin).await;
    let journaled: i64 =
        crate::ground::one(&admin, "SELECT count(*) FROM sync_config_journal").await;
    assert_eq!(journaled, 2 * 5 * 60, "each write is in the journal");
}
