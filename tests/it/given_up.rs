//! What is given up on a connection of the pool: nobody gets that connection again, and the server stops working on it.

use std::time::Duration;

use deadpool_postgres::Pool;
use sync_config::prelude::*;
use tokio_postgres::Client;

use crate::ground::{one, quick, run, start, until_push};
use crate::support::postgres::TestDb;
use crate::support::wait::{PATIENCE, eventually};

/// A pool of the application's, whose sessions are named `pooled`: the server does not bound their statements.
fn pool(db: &TestDb, connections: usize) -> Pool {
    let url = format!("{}?application_name=pooled", db.url());
    let manager = deadpool_postgres::Manager::new(url.parse().unwrap(), tokio_postgres::NoTls);
    Pool::builder(manager)
        .max_size(connections)
        .build()
        .unwrap()
}

/// The server's process of the pool's session that waits for a lock, with a query that has these words in it.
async fn until_it_waits(client: &Client, words: &str) -> i32 {
    let waiting = format!(
        "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE application_name = 'pooled'
         AND datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%{words}%'"
    );
    eventually("a session of the pool waits", PATIENCE, async || {
        let found: i32 = one(client, &waiting).await;
        (found != 0).then_some(found)
    })
    .await
}

/// Waits until a process is gone, while the lock that it waits for is still held.
async fn until_gone(client: &Client, process: i32) {
    let there = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {process}");
    eventually("the session is gone", PATIENCE, async || {
        (one::<i64>(client, &there).await == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_at_the_schema_that_takes_too_long_leaves_no_busy_connection() {
    let db = TestDb::new().await;
    let (holder, client, pool) = (db.client().await, db.client().await, pool(&db, 1));
    let first = start(quick(Settings::new(db.url()))).await;
    first.shutdown().await.unwrap();
    run(
        &holder,
        "BEGIN; LOCK TABLE sync_config_meta IN ACCESS EXCLUSIVE MODE",
    )
    .await;
    let settings = quick(Settings::default())
        .listen_database_url(db.url())
        .request_timeout(Duration::from_secs(3));
    let starting = Builder::new(settings.clone()).pool(pool.clone()).start();
    let starting = tokio::spawn(starting);
    let process = until_it_waits(&client, "").await;
    let error = starting.await.unwrap().unwrap_err();
    assert!(
        error.is_unavailable() && error.to_string().contains("looking at the schema"),
        "{error}"
    );
    until_gone(&client, process).await;
    run(&holder, "COMMIT").await;
    let again = Builder::new(settings).pool(pool).start().await.unwrap();
    again.set("k", 1).await.unwrap();
}

/// On one thread, so that its time can be moved.
#[tokio::test]
async fn a_migration_that_takes_too_long_leaves_no_open_transaction() {
    let db = TestDb::new().await;
    let (holder, client, pool) = (db.client().await, db.client().await, pool(&db, 1));
    run(
        &holder,
        "CREATE TABLE sync_config (key varchar(255) COLLATE \"C\" PRIMARY KEY, value jsonb NOT NULL, updated_at timestamptz NOT NULL DEFAULT now())",
    )
    .await;
    run(
        &holder,
        "BEGIN; LOCK TABLE sync_config IN ACCESS EXCLUSIVE MODE",
    )
    .await;
    let settings = quick(Settings::default()).listen_database_url(db.url());
    let starting = Builder::new(settings.clone()).pool(pool.clone()).start();
    let starting = tokio::spawn(starting);
    let process = until_it_waits(&client, "").await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1_801)).await;
    tokio::time::resume();
    let error = starting.await.unwrap().unwrap_err();
    assert!(
        error.is_unavailable() && error.to_string().contains("migrating the schema"),
        "{error}"
    );
    until_gone(&client, process).await;
    run(&holder, "COMMIT").await;
    let again = Builder::new(settings).pool(pool).start().await.unwrap();
    again.set("k", 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_that_stalls_leaves_no_busy_connection() {
    let db = TestDb::new().await;
    // One for the audit, and one for the look at the consumers, which reads the head too.
    let (holder, client, pool) = (db.client().await, db.client().await, pool(&db, 2));
    // Whoever is given the connection next waits long enough to be seen waiting.
    let settings = quick(Settings::default())
        .listen_database_url(db.url())
        .heartbeat_interval(Duration::from_millis(200))
        .request_timeout(Duration::from_secs(60));
    let service = Builder::new(settings).pool(pool).start().await.unwrap();
    service.set("k", 1).await.unwrap();
    run(
        &holder,
        "BEGIN; LOCK TABLE sync_config_head IN ACCESS EXCLUSIVE MODE",
    )
    .await;
    let process = until_it_waits(&client, "own_id").await;
    until_gone(&client, process).await;
    run(&holder, "COMMIT").await;
    eventually("a write", PATIENCE, async || service.set("k", 2).await).await;
    assert_eq!(service.get_i64("k", 0), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_given_back_in_a_failed_transaction_is_met_once() {
    let db = TestDb::new().await;
    let pool = pool(&db, 1);
    let settings = quick(Settings::default()).listen_database_url(db.url());
    let builder = Builder::new(settings).pool(pool.clone());
    let service = builder.start().await.unwrap();
    until_push(&service).await;
    let begin = service.set("k", -1).await.unwrap().cursor();
    for number in 0..3 {
        let careless = pool.get().await.unwrap();
        careless
            .batch_execute("BEGIN; SELECT 1/0")
            .await
            .unwrap_err();
        drop(careless);
        let error = match number {
            0 => service.set("k", number).await.unwrap_err(),
            1 => service.consumers().await.unwrap_err(),
            _ => service.history(begin, 10).await.unwrap_err(),
        };
        assert!(error.to_string().contains("25P02"), "{error}");
        service.set("k", number).await.unwrap();
    }
}
