//! The revision is taken at commit: dense, in commit order, without harm to other transactions.

#![allow(
    clippy::disallowed_methods,
    reason = "how long a wait takes is what two tests are about"
)]

use std::time::{Duration, Instant};

use sync_config::schema::migrate;

use crate::schema_store::{TestStore, code, fails, heard, listen, names, run};

#[tokio::test(flavor = "multi_thread")]
async fn eight_writers_with_rollbacks_get_dense_revisions_in_commit_order() {
    let store = TestStore::new().await;
    let (_listener, mut notices) = listen(&store.db, "cfg_changes").await;
    let mut writers = Vec::new();
    for writer in 0..8_u32 {
        let client = store.db.client().await;
        writers.push(tokio::spawn(async move {
            let mut committed = 0_i64;
            for round in 0..40_u32 {
                let end = if (writer + round) % 5 == 0 {
                    "ROLLBACK"
                } else {
                    "COMMIT"
                };
                // own keys in one order and shared keys one at a time: nothing here can deadlock by itself
                let sql = format!(
                    "BEGIN;
                     INSERT INTO cfg (key, value) VALUES ('own{writer}', '{round}')
                         ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value;
                     SELECT pg_sleep(0.00{});
                     INSERT INTO cfg (key, value) VALUES ('shared{}', '\"{writer}-{round}\"')
                         ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value;
                     {end}",
                    round % 4,
                    round % 3
                );
                run(&client, &sql).await;
                committed += i64::from(end == "COMMIT");
            }
            committed
        }));
    }
    let mut committed = 0;
    for writer in writers {
        committed += writer.await.unwrap();
    }
    assert_eq!(store.revision().await, committed);
    store.check().await;
    let heard = heard(&store.client, "cfg_changes", &mut notices).await;
    let revisions: Vec<i64> = heard
        .iter()
        .map(|payload| payload.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(
        revisions,
        (1..=committed).collect::<Vec<_>>(),
        "one notice a revision, in order"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_written_in_opposite_orders_do_not_deadlock() {
    let store = TestStore::new().await;
    migrate(&store.client, &names("other"), "cfg_changes")
        .await
        .unwrap();
    let mut writers = Vec::new();
    for writer in 0..6_u32 {
        let client = store.db.client().await;
        writers.push(tokio::spawn(async move {
            let (first, second) = if writer % 2 == 0 {
                ("cfg", "other")
            } else {
                ("other", "cfg")
            };
            for round in 0..40 {
                let sql = format!(
                    "BEGIN; INSERT INTO {first} (key, value) VALUES ('{writer}-{round}', '1');
                     INSERT INTO {second} (key, value) VALUES ('{writer}-{round}', '1'); COMMIT"
                );
                run(&client, &sql).await;
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(store.revision().await, 240);
    store.check().await;
    let deadlocks: i64 = store
        .one("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        .await;
    assert_eq!(deadlocks, 0);
    let both: bool = store.one("SELECT bool_and(revision = 240) FROM (SELECT revision FROM cfg_head UNION ALL SELECT revision FROM other_head) h").await;
    assert!(both);
}

#[tokio::test]
async fn two_stores_do_not_disturb_each_other() {
    let store = TestStore::new().await;
    migrate(&store.client, &names("other"), "cfg_changes")
        .await
        .unwrap();
    store
        .run("INSERT INTO other (key, value) VALUES ('a', '1')")
        .await;
    assert_eq!(store.revision().await, 0);
    store.run("BEGIN; INSERT INTO other (key, value) VALUES ('b', '1'); INSERT INTO {table} (key, value) VALUES ('b', '2'); COMMIT").await;
    assert_eq!(store.revision().await, 1);
    assert_eq!(store.journal(1).await, "b: - -> 2");
    store.check().await;
}

#[tokio::test]
async fn a_forged_list_of_pending_stores_runs_nothing() {
    let store = TestStore::new().await;
    migrate(&store.client, &names("other"), "cfg_changes")
        .await
        .unwrap();
    store
        .run(
            "CREATE TABLE ran (at timestamptz);
             CREATE FUNCTION x_seal() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS
                 'INSERT INTO ran VALUES (now()) RETURNING 1::bigint';
             CREATE TABLE x_pending ()",
        )
        .await;
    store
        .run(
            "BEGIN; SELECT set_config('sync_config.pending', 'x_seal'::regproc::oid::text || ',7,-1,junk,;', true);
             INSERT INTO {table} (key, value) VALUES ('a', '1'); COMMIT",
        )
        .await;
    let ran: i64 = store.one("SELECT count(*) FROM ran").await;
    assert_eq!(ran, 0);
    store.check().await;
    assert_eq!(store.revision().await, 1);
}

#[tokio::test]
async fn a_bulk_update_is_one_revision_and_one_small_notice() {
    let store = TestStore::new().await;
    let (_listener, mut notices) = listen(&store.db, "cfg_changes").await;
    store.run("INSERT INTO {table} (key, value) SELECT 'secret' || n, '\"hidden\"' FROM generate_series(1, 100000) n").await;
    store.run("UPDATE {table} SET value = '\"hidden2\"'").await;
    store.check().await;
    let changes: i32 = store
        .one("SELECT changes FROM {revision} WHERE revision = 2")
        .await;
    assert_eq!(changes, 100_000);
    let epoch: String = store.one("SELECT epoch::text FROM {head}").await;
    let heard = heard(&store.client, "cfg_changes", &mut notices).await;
    assert_eq!(heard, [format!("c1 {epoch} 1"), format!("c1 {epoch} 2")]);
    assert!(heard.iter().all(|payload| payload.len() < 64));
    // with the longest number there is, it still fits
    store.run("UPDATE {head} SET revision = 9223372036854775806; DELETE FROM {table} WHERE key = 'secret1'").await;
    let heard = self::heard(&store.client, "cfg_changes", &mut notices).await;
    assert!(
        heard[0].len() < 64 && heard[0].ends_with(" 9223372036854775807"),
        "{heard:?}"
    );
}

#[tokio::test]
async fn the_notice_asks_the_queue_first() {
    let store = TestStore::new().await;
    // a server whose queue is half full takes minutes to make: see that each notice stands behind the guard
    let unguarded: i64 = store
        .one(
            "SELECT count(*) FROM pg_proc WHERE proname LIKE 'cfg\\_%'
                 AND prosrc LIKE '%pg_notify(%' AND prosrc NOT LIKE '%pg_notification_queue_usage() < 0.5%'",
        )
        .await;
    assert_eq!(unguarded, 0);
    // and that the write goes through when the guard says no
    store
        .run(
            "DO $$ DECLARE body text; BEGIN
                 body := replace(pg_get_functiondef('cfg_number'::regproc), 'pg_notification_queue_usage()', '0.5');
                 EXECUTE body; END $$",
        )
        .await;
    let (_listener, mut notices) = listen(&store.db, "cfg_changes").await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1')")
        .await;
    assert_eq!(store.revision().await, 1);
    assert!(
        heard(&store.client, "cfg_changes", &mut notices)
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn a_write_after_the_revision_was_taken_extends_it() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1'), ('z', '1')")
        .await;
    let (_listener, mut notices) = listen(&store.db, "cfg_changes").await;
    let journal = store
        .journaled(
            "BEGIN; SET CONSTRAINTS ALL IMMEDIATE;
             UPDATE {table} SET value = '2' WHERE key = 'a';
             INSERT INTO {table} (key, value) VALUES ('b', '1'), ('c', '1');
             UPDATE {table} SET value = '3' WHERE key = 'a';
             DELETE FROM {table} WHERE key IN ('c', 'z'); COMMIT",
        )
        .await;
    assert_eq!(journal, "a: 1 -> 3, b: - -> 1, z: 1 -> -");
    assert_eq!(
        heard(&store.client, "cfg_changes", &mut notices)
            .await
            .len(),
        1
    );
    let journal = store
        .journaled(
            "BEGIN; INSERT INTO {table} (key, value) VALUES ('d', '1'); SET CONSTRAINTS ALL IMMEDIATE;
             TRUNCATE {table}; INSERT INTO {table} (key, value) VALUES ('a', '3'); COMMIT",
        )
        .await;
    assert_eq!(
        journal, "a: 3 -> 3, b: 1 -> -",
        "a key that ended where it began did get this revision"
    );
}

#[tokio::test]
async fn an_idle_writer_does_not_block_others() {
    let store = TestStore::new().await;
    let idle = store.db.client().await;
    run(
        &idle,
        "BEGIN; INSERT INTO cfg (key, value) VALUES ('idle', '1')",
    )
    .await;
    // Whoever is blocked runs into the limit.
    store
        .run("SET statement_timeout = '4s'; INSERT INTO {table} (key, value) VALUES ('b', '1')")
        .await;
    assert_eq!(store.journal(1).await, "b: - -> 1");
    run(&idle, "COMMIT").await;
    assert_eq!(store.journal(2).await, "idle: - -> 1");
    store.check().await;
}

#[tokio::test]
async fn the_wait_for_the_head_row_is_bounded() {
    let store = TestStore::new().await;
    let holder = store.db.client().await;
    run(&holder, "BEGIN; SELECT FROM cfg_head FOR UPDATE").await;
    let started = Instant::now();
    assert_eq!(
        store
            .fails("INSERT INTO {table} (key, value) VALUES ('a', '1')")
            .await,
        "55P03"
    );
    let waited = started.elapsed();
    assert!(
        waited > Duration::from_secs(4) && waited < Duration::from_secs(20),
        "{waited:?}"
    );
    run(&holder, "COMMIT").await;
    let rows: i64 = store.one("SELECT count(*) FROM {table}").await;
    assert_eq!((rows, store.revision().await), (0, 0));
}

#[tokio::test]
async fn a_repeatable_read_writer_fails_as_any_conflict_does() {
    let store = TestStore::new().await;
    let other = store.db.client().await;
    run(
        &other,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO cfg (key, value) VALUES ('a', '1')",
    )
    .await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('b', '1')")
        .await;
    assert_eq!(fails(&other, "COMMIT").await, "40001");
    store.check().await;
}

#[tokio::test]
async fn a_prepared_transaction_is_refused_by_name() {
    let store = TestStore::new().await;
    run(
        &store.client,
        "BEGIN; INSERT INTO cfg (key, value) VALUES ('a', '1')",
    )
    .await;
    let error = store
        .client
        .batch_execute("PREPARE TRANSACTION 'x'")
        .await
        .unwrap_err();
    assert!(
        ["0A000", "55000"].contains(&code(&error).as_str()),
        "{error:?}"
    );
    assert_eq!(store.revision().await, 0);
}

#[tokio::test]
async fn the_actor_is_the_session_user_or_the_one_named() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1')")
        .await;
    store
        .run("BEGIN; SET LOCAL sync_config.actor = 'ann'; DELETE FROM {table}; COMMIT")
        .await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '2')")
        .await;
    let same: bool = store
        .one("SELECT array_agg(actor ORDER BY revision) = ARRAY[session_user, 'ann', session_user]::text[] FROM {revision}")
        .await;
    assert!(same);
}
