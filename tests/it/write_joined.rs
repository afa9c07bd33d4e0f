//! Writes within the application's own transaction.

use sync_config::prelude::*;
use sync_config::{Cause, MemoryDatabase};

use crate::ground::{equal_to_the_table, head, one, quick, rows, run, start};
use crate::support::postgres::TestDb;
use crate::support::wait::{PATIENCE, Probe, eventually};

const ACCOUNTS: &str = "CREATE TABLE account (id int PRIMARY KEY, plan text)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn business_and_configuration_are_committed_together_or_not_at_all() {
    let db = TestDb::new().await;
    let (service, other) = (
        start(quick(Settings::new(db.url()))).await,
        start(quick(Settings::new(db.url()))).await,
    );
    let (mut client, admin) = (db.client().await, db.client().await);
    run(&client, ACCOUNTS).await;
    let told = Probe::new();
    let tell = told.clone();
    let _subscription = service
        .on_change(Filter::all(), move |event| {
            if let Event::Changed(set) = event {
                tell.push((set.revision().get(), set.cause(), set.changes().len()));
            }
        })
        .unwrap();

    let transaction = client.transaction().await.unwrap();
    transaction
        .execute("INSERT INTO account VALUES (42, 'pro')", &[])
        .await
        .unwrap();
    let joined = service
        .write_in(
            &transaction,
            Batch::new()
                .put("tenant:42:limit", 10_000)
                .put("tenant:42:plan", "pro"),
        )
        .await
        .unwrap();
    let more = service
        .write_in(
            &transaction,
            Batch::new().delete("nothing").put("tenant:42:on", true),
        )
        .await
        .unwrap();
    assert_eq!(joined.changed_keys().len(), 2);
    assert_eq!(more.changed_keys()[0].as_str(), "tenant:42:on");
    assert_eq!(service.committed(&joined).await.unwrap(), None, "not yet");
    assert!(rows(&admin).await.is_empty());
    transaction.commit().await.unwrap();
    let cursor = service
        .committed(&joined)
        .await
        .unwrap()
        .expect("committed");
    assert_eq!(service.get_i64("tenant:42:limit", 0), 10_000);
    assert_eq!(
        service.committed(&more).await.unwrap(),
        Some(cursor),
        "one transaction, one revision"
    );
    other.wait_for(cursor.into(), PATIENCE).await.unwrap();
    assert!(other.get_bool("tenant:42:on", false));
    let seen = told.until("the change", |seen| !seen.is_empty()).await;
    assert_eq!(seen, [(1, Cause::Local, 3)]);

    let transaction = client.transaction().await.unwrap();
    transaction
        .execute("UPDATE account SET plan = 'free'", &[])
        .await
        .unwrap();
    let joined = service
        .write_in(&transaction, Batch::new().put("tenant:42:plan", "free"))
        .await
        .unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(service.committed(&joined).await.unwrap(), None);
    assert_eq!(
        one::<String>(&admin, "SELECT plan FROM account").await,
        "pro"
    );
    assert_eq!(service.get_string("tenant:42:plan", ""), "pro");
    equal_to_the_table(&[&service, &other], &admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_lingers_holds_up_no_writer_of_other_keys() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    let mut client = db.client().await;
    let transaction = client.transaction().await.unwrap();
    let joined = service
        .write_in(&transaction, Batch::new().put("slow", 1))
        .await
        .unwrap();
    for number in 0..5 {
        service.set("quick", number).await.unwrap();
    }
    transaction.commit().await.unwrap();
    let cursor = service.committed(&joined).await.unwrap().unwrap();
    assert_eq!(
        cursor.revision.get(),
        6,
        "its revision is that of its commit"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_condition_writes_nothing_and_the_transaction_goes_on() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    let first = service.set("a", 1).await.unwrap().revision();
    let mut client = db.client().await;
    let transaction = client.transaction().await.unwrap();
    let refused = [
        (
            Batch::new()
                .put("b", 1)
                .put_if("a", 2, Precondition::Absent),
            "absent",
        ),
        (
            Batch::new().put_if("c", 2, Precondition::Present),
            "present",
        ),
        (
            Batch::new().delete_if("a", Precondition::Revision(first.next())),
            "at revision 2",
        ),
    ];
    for (batch, wanted) in refused {
        let error = service.write_in(&transaction, batch).await.unwrap_err();
        assert!(
            error.is_conflict() && error.to_string().contains(wanted),
            "{error}"
        );
    }
    let batch = Batch::new()
        .put_if("a", 2, Precondition::Revision(first))
        .put_if("b", 1, Precondition::Absent);
    let joined = service.write_in(&transaction, batch).await.unwrap();
    // Its new revision is not known before the commit, so that nothing can be conditional on it.
    let again = Batch::new().put_if("a", 3, Precondition::Revision(first));
    let error = service.write_in(&transaction, again).await.unwrap_err();
    assert!(
        error.is_conflict()
            && error
                .to_string()
                .contains("changed earlier in this transaction"),
        "{error}"
    );
    transaction.commit().await.unwrap();
    assert!(service.committed(&joined).await.unwrap().is_some());
    assert_eq!((service.get_i64("a", 0), service.get_i64("b", 0)), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_somebody_else_makes_meanwhile_is_no_longer_absent() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    let (mut client, rival, watcher) = (db.client().await, db.client().await, db.client().await);
    run(
        &rival,
        "BEGIN; INSERT INTO sync_config (key, value) VALUES ('k', '1')",
    )
    .await;
    let transaction = client.transaction().await.unwrap();
    let batch = Batch::new()
        .put("other", 1)
        .put_if("k", 2, Precondition::Absent);
    let (outcome, ()) = tokio::join!(service.write_in(&transaction, batch), async {
        eventually("it waits", PATIENCE, async || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
            (one::<i64>(&watcher, sql).await == 1).then_some(())
        })
        .await;
        run(&rival, "COMMIT").await;
    });
    let error = outcome.unwrap_err();
    assert!(
        error.is_conflict() && error.to_string().contains("\"k\""),
        "{error}"
    );
    transaction.commit().await.unwrap();
    assert_eq!(rows(&rival).await, [("k".to_owned(), "1".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_changes_nothing_in_the_end_has_no_revision() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    service.set("k", 1).await.unwrap();
    let mut client = db.client().await;
    let transaction = client.transaction().await.unwrap();
    let same = service
        .write_in(&transaction, Batch::new().put("k", 1))
        .await
        .unwrap();
    let there = service
        .write_in(&transaction, Batch::new().put("k", 2))
        .await
        .unwrap();
    let back = service
        .write_in(&transaction, Batch::new().put("k", 1))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    assert!(same.changed_keys().is_empty() && !there.changed_keys().is_empty());
    for joined in [same, there, back] {
        assert_eq!(service.committed(&joined).await.unwrap(), None);
    }
    assert_eq!(head(&client).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn immediate_constraints_and_a_pool_s_transaction_do_as_well() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    let manager = deadpool_postgres::Manager::new(db.url().parse().unwrap(), tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).build().unwrap();
    let mut client = pool.get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction
        .batch_execute("SET CONSTRAINTS ALL IMMEDIATE")
        .await
        .unwrap();
    let joined = service
        .write_in(&transaction, Batch::new().put("a", 1))
        .await
        .unwrap();
    let more = service
        .write_in(&transaction, Batch::new().put("b", 2))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    let cursor = service.committed(&joined).await.unwrap().unwrap();
    assert_eq!(service.committed(&more).await.unwrap(), Some(cursor));
    assert_eq!((service.get_i64("a", 0), service.get_i64("b", 0)), (1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_join_is_refused_by_name() {
    let db = TestDb::new().await;
    let service = start(quick(Settings::new(db.url()))).await;
    let memory = Builder::memory(&MemoryDatabase::new())
        .start()
        .await
        .unwrap();
    let mut client = db.client().await;
    let transaction = client.transaction().await.unwrap();
    let keyed = Batch::new().put("k", 1).idempotency_key("once");
    let error = service.write_in(&transaction, keyed).await.unwrap_err();
    assert!(error.to_string().contains("idempotency key"), "{error}");
    let error = memory
        .write_in(&transaction, Batch::new().put("k", 1))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("PostgreSQL"), "{error}");
    let error = service
        .write_in(&transaction, Batch::new().put("", 1))
        .await
        .unwrap_err();
    assert!(error.is_invalid_input(), "{error}");
    transaction.commit().await.unwrap();
    assert!(rows(&client).await.is_empty());
}
