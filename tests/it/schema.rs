//! What makes a revision: row changes of any kind, seen through the journal.

use crate::schema_store::TestStore;

#[tokio::test]
async fn an_insert_makes_one_revision() {
    let store = TestStore::new().await;
    assert_eq!(store.revision().await, 0);
    let journal = store
        .journaled(r#"INSERT INTO {table} (key, value) VALUES ('a', '{"x":  1}'), ('b', 'null')"#)
        .await;
    assert_eq!(journal, r#"a: - -> {"x": 1}, b: - -> null"#);
}

#[tokio::test]
async fn an_update_journals_only_what_changed() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1'), ('b', '2')")
        .await;
    let journal = store.journaled("UPDATE {table} SET value = '2'").await;
    assert_eq!(journal, "a: 1 -> 2");
}

#[tokio::test]
async fn one_and_one_point_zero_are_different_values() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1')")
        .await;
    let before: bool = store
        .one("SELECT updated_at = (SELECT at FROM {revision}) FROM {table}")
        .await;
    assert!(before);
    assert_eq!(
        store.journaled("UPDATE {table} SET value = '1.0'").await,
        "a: 1 -> 1.0"
    );
    let touched: bool = store
        .one("SELECT t.updated_at = h.at FROM {table} t, {head} h")
        .await;
    assert!(touched);
    let rows = store
        .write(&["a"], &[Some("1.00")], None, None)
        .await
        .unwrap();
    assert!(rows[0].get::<_, bool>("changed"));
    assert_eq!(rows[0].get::<_, String>("value"), "1.00");
}

#[tokio::test]
async fn a_renamed_key_is_a_delete_and_a_put() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1')")
        .await;
    assert_eq!(
        store.journaled("UPDATE {table} SET key = 'b'").await,
        "a: 1 -> -, b: - -> 1"
    );
}

#[tokio::test]
async fn keys_that_swap_or_shift_change_values() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('1', '1'), ('2', '2'), ('3', '3')")
        .await;
    let swap = "BEGIN;
        UPDATE {table} SET key = 'x' WHERE key = '1';
        UPDATE {table} SET key = '1' WHERE key = '2';
        UPDATE {table} SET key = '2' WHERE key = 'x';
        COMMIT";
    assert_eq!(store.journaled(swap).await, "1: 1 -> 2, 2: 2 -> 1");
    let shift = "UPDATE {table} SET key = (key::int + 10)::text";
    assert_eq!(
        store.journaled(shift).await,
        "1: 2 -> -, 11: - -> 2, 12: - -> 1, 13: - -> 3, 2: 1 -> -, 3: 3 -> -"
    );
}

#[tokio::test]
async fn a_delete_is_not_a_null() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1'), ('b', 'null')")
        .await;
    assert_eq!(
        store.journaled("DELETE FROM {table}").await,
        "a: 1 -> -, b: null -> -"
    );
}

#[tokio::test]
async fn truncate_deletes_every_row_in_one_revision() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1'), ('b', '2')")
        .await;
    assert_eq!(
        store.journaled("TRUNCATE {table}").await,
        "a: 1 -> -, b: 2 -> -"
    );
    store.run("TRUNCATE {table}").await;
    assert_eq!(
        store.revision().await,
        2,
        "an empty table has nothing to journal"
    );
    let mixed = "BEGIN; INSERT INTO {table} (key, value) VALUES ('c', '1'), ('d', '1');
        TRUNCATE {table}; INSERT INTO {table} (key, value) VALUES ('d', '2'); COMMIT";
    assert_eq!(store.journaled(mixed).await, "d: - -> 2");
}

#[tokio::test]
async fn copy_makes_one_revision() {
    use futures_util::SinkExt;
    let store = TestStore::new().await;
    let sql = store.names.render("COPY {table} (key, value) FROM STDIN");
    let sink = store.client.copy_in::<_, &[u8]>(&sql).await.unwrap();
    tokio::pin!(sink);
    sink.send(b"a\t1\nb\t2\n").await.unwrap();
    sink.finish().await.unwrap();
    store.check().await;
    assert_eq!(store.revision().await, 1);
    assert_eq!(store.journal(1).await, "a: - -> 1, b: - -> 2");
}

#[tokio::test]
async fn an_upsert_makes_one_journal_row() {
    let store = TestStore::new().await;
    let upsert = "INSERT INTO {table} (key, value) VALUES ('a', '1'), ('b', '2')
        ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value, updated_at = now()";
    assert_eq!(store.journaled(upsert).await, "a: - -> 1, b: - -> 2");
    store.run(upsert).await;
    assert_eq!(
        store.revision().await,
        1,
        "the same values again change nothing"
    );
    let mixed = upsert
        .replace("'a', '1'", "'a', '3'")
        .replace("'b', '2'", "'c', '4'");
    assert_eq!(store.journaled(&mixed).await, "a: 1 -> 3, c: - -> 4");
}

#[tokio::test]
async fn a_rolled_back_savepoint_leaves_no_trace() {
    let store = TestStore::new().await;
    let sql =
        "BEGIN; SAVEPOINT s; INSERT INTO {table} (key, value) VALUES ('a', '1'); ROLLBACK TO s;
        INSERT INTO {table} (key, value) VALUES ('b', '1'); COMMIT";
    assert_eq!(store.journaled(sql).await, "b: - -> 1");
    let later = "BEGIN; UPDATE {table} SET value = '2'; SAVEPOINT s; UPDATE {table} SET value = '3'; ROLLBACK TO s; COMMIT";
    assert_eq!(store.journaled(later).await, "b: 1 -> 2");
    store
        .run("BEGIN; SAVEPOINT s; DELETE FROM {table}; ROLLBACK TO s; COMMIT")
        .await;
    assert_eq!(store.revision().await, 2);
    store.check().await;
}

#[tokio::test]
async fn a_released_savepoint_belongs_to_its_transaction() {
    let store = TestStore::new().await;
    let sql = "BEGIN; SAVEPOINT s; INSERT INTO {table} (key, value) VALUES ('a', '1'); RELEASE s;
        INSERT INTO {table} (key, value) VALUES ('b', '1'); COMMIT";
    assert_eq!(store.journaled(sql).await, "a: - -> 1, b: - -> 1");
}

#[tokio::test]
async fn several_statements_are_journaled_net() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1'), ('b', '1'), ('c', '1')")
        .await;
    let sql = "BEGIN; UPDATE {table} SET value = '2'; DELETE FROM {table} WHERE key = 'b';
        UPDATE {table} SET value = '1' WHERE key = 'c'; INSERT INTO {table} (key, value) VALUES ('d', '1');
        DELETE FROM {table} WHERE key = 'd'; INSERT INTO {table} (key, value) VALUES ('b', '5'); COMMIT";
    assert_eq!(store.journaled(sql).await, "a: 1 -> 2, b: 1 -> 5");
    let unchanged: i64 = store
        .one("SELECT revision FROM {key} WHERE key = 'c'")
        .await;
    assert_eq!(
        unchanged, 1,
        "a key that ended where it began keeps its revision"
    );
}

#[tokio::test]
async fn net_nothing_makes_no_revision() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1')")
        .await;
    for nothing in [
        "BEGIN; UPDATE {table} SET value = '2'; UPDATE {table} SET value = '1'; COMMIT",
        "BEGIN; INSERT INTO {table} (key, value) VALUES ('b', '1'); DELETE FROM {table} WHERE key = 'b'; COMMIT",
        "BEGIN; DELETE FROM {table}; INSERT INTO {table} (key, value) VALUES ('a', '1'); COMMIT",
        "UPDATE {table} SET value = value",
        "UPDATE {table} SET updated_at = '2001-01-01'",
        "DELETE FROM {table} WHERE false",
        "BEGIN; DELETE FROM {table}; ROLLBACK",
    ] {
        store.run(nothing).await;
        assert_eq!(store.revision().await, 1, "{nothing}");
        store.check().await;
    }
}

#[tokio::test]
async fn a_trigger_of_somebody_else_that_writes_again_is_journaled_as_it_ends() {
    let store = TestStore::new().await;
    store
        .run(
            "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 UPDATE {table} SET value = '9' WHERE key = NEW.key AND value <> '9'; RETURN NULL; END $$;
             CREATE TRIGGER zz AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION again()",
        )
        .await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1'), ('b', '1')")
        .await;
    store.check().await;
    assert_eq!(store.revision().await, 1);
    store.run("WITH d AS (DELETE FROM {table} WHERE key = 'a' RETURNING key) INSERT INTO {table} (key, value) SELECT key, '7' FROM d").await;
    store.check().await;
}

#[tokio::test]
async fn a_replica_session_is_journaled_too() {
    let store = TestStore::new().await;
    let sql = "SET session_replication_role = replica;
        INSERT INTO {table} (key, value, updated_at) VALUES ('a', '1', '2001-01-01')";
    assert_eq!(store.journaled(sql).await, "a: - -> 1");
    assert_eq!(
        store.journaled("UPDATE {table} SET value = '2'").await,
        "a: 1 -> 2"
    );
    assert_eq!(store.journaled("TRUNCATE {table}").await, "a: 2 -> -");
}

#[tokio::test]
async fn updated_at_is_the_time_of_the_revision() {
    for column in [
        "timestamptz NOT NULL DEFAULT now()",
        "timestamp NOT NULL DEFAULT now()",
    ] {
        let mut store = TestStore::plain("cfg").await;
        store
            .run(&format!(
                "SET TimeZone = 'Asia/Kolkata';
                 CREATE TABLE {{table}} (key varchar(255) PRIMARY KEY, value jsonb NOT NULL, updated_at {column})"
            ))
            .await;
        store.migrate().await;
        for sql in [
            "INSERT INTO {table} (key, value) VALUES ('a', '1')",
            "INSERT INTO {table} (key, value, updated_at) VALUES ('b', '1', '2001-01-01')",
            "UPDATE {table} SET value = '2'",
            "UPDATE {table} SET value = '3', updated_at = 'infinity'",
            "UPDATE {table} SET value = '3.0'",
            "UPDATE {table} SET key = key || 'x'",
            "INSERT INTO {table} (key, value) VALUES ('ax', '7') ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value",
        ] {
            store.run(sql).await;
            let exact: bool = store
                .one(
                    "SELECT bool_and(r.at = CASE pg_typeof(t.updated_at) WHEN 'timestamptz'::regtype
                         THEN t.updated_at::text::timestamptz ELSE t.updated_at::text::timestamp AT TIME ZONE 'UTC' END)
                     FROM {table} t JOIN {key} k USING (key) JOIN {revision} r USING (revision)",
                )
                .await;
            assert!(exact, "{column}: {sql}");
        }
        store
            .run("UPDATE {table} SET updated_at = '2001-01-01'")
            .await;
        let kept: bool = store
            .one("SELECT min(updated_at) > '2020-01-01' FROM {table}")
            .await;
        assert!(kept, "{column}: a time set by hand is replaced");
    }
}

#[tokio::test]
async fn big_values_do_not_abort_a_write_and_bombs_do() {
    let store = TestStore::new().await;
    store.run("INSERT INTO {table} (key, value) VALUES (repeat('k', 255), to_jsonb(repeat('x', 262144)))").await;
    store.run("INSERT INTO {table} (key, value) VALUES (repeat('😀', 255), to_jsonb(repeat('😀', 65536)))").await;
    store.check().await;
    let check = "23514";
    let bomb = "INSERT INTO {table} (key, value) SELECT 'bomb', jsonb_agg('1e131071'::jsonb) FROM generate_series(1, 9)";
    assert_eq!(store.fails(bomb).await, check);
    assert_eq!(
        store
            .fails("INSERT INTO {table} (key, value) VALUES ('', '1')")
            .await,
        check
    );
    assert_eq!(
        store
            .fails("INSERT INTO {table} (key, value) VALUES (repeat('k', 256), '1')")
            .await,
        "22001"
    );
    assert_eq!(store.revision().await, 2);
}
