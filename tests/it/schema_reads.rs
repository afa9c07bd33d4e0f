//! What the statements of a program read, and that they read no more than they need.

use tokio_postgres::types::{FromSql, Type};

use crate::schema_store::{TestStore, code, one, run};
use crate::support::postgres::{TestDb, newest_cluster};

const WRITE: &str = include_str!("../../sql/postgres/queries/write.sql");
const PUT: &str = include_str!("../../sql/postgres/queries/put.sql");
const PUT_GROUP: &str = include_str!("../../sql/postgres/queries/put_group.sql");
const PAGE: &str = include_str!("../../sql/postgres/queries/page.sql");
const HISTORY: &str = include_str!("../../sql/postgres/queries/history.sql");
const HEAD: &str = include_str!("../../sql/postgres/queries/head.sql");
const ENTRIES: &str = include_str!("../../sql/postgres/queries/entries.sql");
const FOLD: &str = include_str!("../../sql/postgres/queries/fold.sql");
const ALTERED: &str = include_str!("../../sql/postgres/queries/altered.sql");

/// A time as the server sends it, with a time zone or without: microseconds. The library takes it as it comes.
struct Since2000(i64);

const MICROS_1970_TO_2000: i64 = 946_684_800_000_000;
const MICROS_OF_8000_YEARS: i64 = 8_000 * 365 * 86_400_000_000;

impl Since2000 {
    fn shows(&self) -> bool {
        self.0
            .checked_abs()
            .is_some_and(|micros| micros < MICROS_OF_8000_YEARS)
    }
}

impl<'a> FromSql<'a> for Since2000 {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::TIMESTAMP | Type::TIMESTAMPTZ)
    }
}

impl TestStore {
    /// How often this session read each of the store's larger tables from end to end, and how many of its rows by an index, as
    /// far as not yet reported.
    async fn reads(&self) -> Vec<(String, i64, i64)> {
        let rows = self
            .client
            .query(
                "SELECT relname::text, seq_scan, idx_tup_fetch FROM pg_stat_xact_user_tables
                 WHERE relname IN ('cfg', 'cfg_journal', 'cfg_key', 'cfg_revision') ORDER BY 1",
                &[],
            )
            .await
            .unwrap();
        let read = |row: &tokio_postgres::Row| (row.get(0), row.get(1), row.get(2));
        rows.iter().map(read).collect()
    }

    /// Runs a statement in a transaction of its own, and says which of the store's larger tables it read whole.
    async fn read_whole(&self, sql: &str) -> Vec<String> {
        self.run("BEGIN").await;
        let before = self.reads().await;
        self.run(sql).await;
        let after = self.reads().await;
        self.run("COMMIT").await;
        let whole = |(table, scans, rows): (String, i64, i64)| {
            let was = before.iter().find(|was| was.0 == table);
            let (scanned, fetched) = was.map_or((0, 0), |was| (was.1, was.2));
            (scans > scanned || rows >= fetched + 10_000).then_some(table)
        };
        after.into_iter().filter_map(whole).collect()
    }

    /// Runs a statement with parameters that are given as SQL.
    async fn executes(&self, name: &str, sql: &str, parameters: &str) -> Vec<String> {
        self.run(&format!("DEALLOCATE ALL; PREPARE {name} AS {sql}"))
            .await;
        self.read_whole(&format!("EXECUTE {name} ({parameters})"))
            .await
    }

    async fn fill(&self, rows: u32) {
        self.run(&format!(
            "INSERT INTO {{table}} (key, value) SELECT 'k' || n, '1' FROM generate_series(1, {rows}) n"
        ))
        .await;
    }
}

#[tokio::test]
async fn a_write_reads_its_own_rows_alone_whatever_the_statistics() {
    let store = TestStore::new().await;
    let one_key = "ARRAY['k5'], ARRAY['2'], NULL, NULL, NULL, NULL";
    let conditional =
        "ARRAY['k5', 'new', 'k7'], ARRAY['3', '1', NULL], ARRAY[-1, 0, NULL], NULL, 'once', NULL";
    let array = |item: fn(u32) -> String| (1..=1000).map(item).collect::<Vec<_>>().join("','");
    let many = format!(
        "ARRAY['{}'], ARRAY['{}'], NULL, NULL, NULL, NULL",
        array(|n| format!("k{n}")),
        array(|n| n.to_string())
    );
    let group = format!(
        "ARRAY['{}'], ARRAY['{}'], NULL, NULL",
        array(|n| format!("k{n}")),
        array(|n| (n + 1).to_string())
    );
    // The plans of a session are made while the table is empty, and kept.
    store
        .run("SELECT {fn_put}('p', '1', NULL, NULL), {fn_put}('q', '0', NULL, NULL)")
        .await;
    store
        .run("SELECT {fn_put_group}(ARRAY['p', 'q'], ARRAY['3', '4'], NULL, NULL)")
        .await;
    store.run("SELECT * FROM {fn_write}(ARRAY['x', 'y'], ARRAY['1', NULL], ARRAY[0, NULL], NULL, 'x', NULL)").await;
    store
        .run("SELECT * FROM {fn_write}(ARRAY['x'], ARRAY['2'], NULL, NULL, NULL, NULL)")
        .await;
    store.fill(30_000).await;
    let others = "INSERT INTO {revision} SELECT n, gen_random_uuid(), n, 0, now(), now(), 'me' FROM generate_series(-30000, -1) n";
    store.run(others).await;
    for analyzed in [false, true] {
        if analyzed {
            store.run("DELETE FROM {table} WHERE key = 'new'").await;
            store.run("VACUUM ANALYZE").await;
        }
        for parameters in [one_key, conditional, &many] {
            let whole = store
                .executes(
                    "w",
                    WRITE,
                    &parameters.replace("once", &format!("once {analyzed}")),
                )
                .await;
            assert!(
                whole.is_empty(),
                "{:.60}, analyzed {analyzed}: {whole:?}",
                parameters
            );
        }
        for (sql, parameters) in [(PUT, "'k5', '7', NULL, NULL"), (PUT_GROUP, &group)] {
            let whole = store.executes("p", sql, parameters).await;
            assert!(whole.is_empty(), "{sql}, analyzed {analyzed}: {whole:?}");
        }
    }
    store.run("DELETE FROM {revision} WHERE revision < 0").await;
    store.check().await;
}

#[tokio::test]
async fn a_write_waits_at_most_5_s_for_a_row() {
    let store = TestStore::new().await;
    store.fill(2).await;
    let holder = store.db.client().await;
    run(
        &holder,
        "BEGIN; SELECT FROM cfg WHERE key = 'k1' FOR UPDATE",
    )
    .await;
    let asked = tokio::time::timeout(
        std::time::Duration::from_secs(20),
        store.write(&["k1"], &[Some("2")], None, None),
    );
    let error = asked.await.expect("bounded").unwrap_err();
    assert_eq!(code(&error), "55P03");
}

#[tokio::test]
async fn a_page_and_a_trim_read_the_journal_by_its_index_whatever_the_statistics() {
    let store = TestStore::new().await;
    store.fill(30_000).await;
    for n in 0..20 {
        store
            .run(&format!(
                "UPDATE {{table}} SET value = '{n}' WHERE key = 'k7'"
            ))
            .await;
    }
    for analyzed in [false, true] {
        if analyzed {
            // One change has nearly all rows: any other is expected to have as many.
            store.run("VACUUM ANALYZE").await;
        }
        for (sql, parameters) in [
            (PAGE, "20, 20000"),
            (PAGE, "15, 20000"),
            (HISTORY, "18, 10"),
        ] {
            let mut whole = store.executes("p", sql, parameters).await;
            whole.retain(|table| table == "cfg_journal");
            assert!(whole.is_empty(), "{parameters}, analyzed {analyzed}");
        }
    }
    store
        .run("UPDATE {revision} SET sealed_at = sealed_at - interval '2h' WHERE revision <= 1")
        .await;
    // The large revision in parts: each call reads no more than it deletes, not even what was deleted before.
    while store.one::<i64>("SELECT count(*) FROM {journal}").await > 10_020 {
        store.run("SELECT {fn_trim}('1h', 10)").await;
    }
    store.run("BEGIN").await;
    let fetched =
        "SELECT idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'cfg_journal'";
    let before: i64 = store.one(fetched).await;
    store.run("SELECT {fn_trim}('1h', 10)").await;
    let read = store.one::<i64>(fetched).await - before;
    assert!(read <= 10_001, "{read} rows were read to delete 10,000");
    store.run("COMMIT").await;
    while store.one::<i32>("SELECT {fn_trim}('1h', 10)").await > 0 {}
    store.fill(0).await;
    store
        .run("UPDATE {revision} SET sealed_at = sealed_at - interval '2h' WHERE revision <= 3")
        .await;
    let whole = store.read_whole("SELECT {fn_trim}('1h', 10)").await;
    assert!(!whole.contains(&"cfg_journal".to_owned()));
    assert_eq!(store.one::<i64>("SELECT floor FROM {meta}").await, 4);
}

#[tokio::test]
async fn a_page_that_was_planned_when_the_store_was_tiny_reads_no_table_whole() {
    let store = TestStore::new().await;
    store.fill(3).await;
    store.run("VACUUM ANALYZE").await;
    // As the listening session is opened.
    store
        .run("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off")
        .await;
    store
        .run(&format!(
            "PREPARE kept AS {PAGE}; EXECUTE kept (0, 20000); EXECUTE kept (1, 20000)"
        ))
        .await;
    store.run("UPDATE {table} SET value = '2'").await;
    store
        .run("INSERT INTO {table} (key, value) SELECT 'l' || n, '1' FROM generate_series(1, 30000) n")
        .await;
    store
        .run("UPDATE {table} SET value = '3' WHERE key = 'k1'")
        .await;
    let whole = store.read_whole("EXECUTE kept (3, 20000)").await;
    assert!(whole.is_empty(), "{whole:?}");
}

#[tokio::test]
async fn a_page_ends_with_the_whole_revision_that_reaches_its_rows() {
    let store = TestStore::new().await;
    for n in 1..=4 {
        store
            .run(&format!(
                "INSERT INTO {{table}} (key, value) SELECT '{n}.' || m, '1' FROM generate_series(1, 9) m"
            ))
            .await;
    }
    let page = |after: i64, rows: i64| {
        let sql = PAGE.replace("$1", &format!("{after}::bigint"));
        let sql = sql.replace("$2", &rows.to_string());
        format!(
            "SELECT concat_ws(' ', min(p.revision), max(p.revision), count(p.key), count(*))
             FROM ({sql}) p (epoch, head, floor, revision, id, at, origin, key, new)"
        )
    };
    for (after, rows, found) in [
        (0, 9, "1 1 9 9"),
        (0, 10, "1 2 18 18"),
        (2, 1, "2 3 9 10"),
        (2, 10, "2 4 18 19"),
        (4, 10, "4 4 0 1"),
        (i64::MAX, 10, "0 1"),
    ] {
        let page: String = store.one(&page(after, rows)).await;
        assert_eq!(page, found, "after {after}, {rows} rows");
    }
}

#[tokio::test]
async fn a_page_is_in_the_order_of_revision_and_key() {
    let store = TestStore::new().await;
    for n in 1..=3 {
        store
            .run(&format!(
                "INSERT INTO {{table}} (key, value) VALUES ('b', '{n}'), ('a', '{n}'), ('é', '{n}'), ('B', '{n}')
                 ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
            ))
            .await;
    }
    let rows = store
        .client
        .query(&store.names.render(PAGE), &[&1i64, &20_000i64])
        .await
        .unwrap();
    let order: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.get::<_, Option<i64>>(3).unwrap(),
                row.get::<_, Option<String>>(7).unwrap_or_default(),
            )
        })
        .collect();
    let mut wanted = vec![(1, String::new())];
    for revision in [2, 3] {
        wanted.extend(["B", "a", "b", "é"].map(|key| (revision, key.to_owned())));
    }
    assert_eq!(order, wanted);
    let empty = store
        .client
        .query(&store.names.render(PAGE), &[&9i64, &20_000i64])
        .await
        .unwrap();
    assert_eq!(
        empty.len(),
        1,
        "the head stands there without a revision too"
    );
    assert_eq!(
        (empty[0].get::<_, i64>(1), empty[0].get::<_, Option<i64>>(3)),
        (3, None)
    );
}

#[tokio::test]
async fn the_head_tells_the_channel_and_when_the_last_audit_was() {
    let store = TestStore::new().await;
    let head = store.names.render(HEAD);
    let row = store.client.query_one(&head, &[&0i64]).await.unwrap();
    assert_eq!(
        (
            row.get::<_, String>(8).as_str(),
            row.get::<_, Option<i64>>(9)
        ),
        ("cfg_changes", None)
    );
    store.run("SELECT {fn_report_audit}(0, 0, 'me')").await;
    let row = store.client.query_one(&head, &[&0i64]).await.unwrap();
    let exact: i64 = store
        .one("SELECT (extract(epoch FROM audit_at) * 1000000)::bigint FROM {meta}")
        .await;
    assert_eq!(row.get::<_, Option<i64>>(9), Some(exact));
}

#[tokio::test]
async fn times_and_nulls_that_nobody_can_show_fail_no_reader() {
    for column in ["timestamptz", "timestamp"] {
        let mut store = TestStore::plain("cfg").await;
        store
            .run(&format!("CREATE TABLE {{table}} (key text PRIMARY KEY, value jsonb NOT NULL, updated_at {column} NOT NULL DEFAULT now())"))
            .await;
        store.migrate().await;
        store.run("INSERT INTO {table} (key, value) VALUES ('a', '1'), ('b', '2'), ('c', '3'), ('d', '4'), ('e', '5'), ('f', '6')").await;
        store
            .run(
                "ALTER TABLE {table} DISABLE TRIGGER USER, DROP CONSTRAINT cfg_pkey, ALTER key DROP NOT NULL,
                     ALTER value DROP NOT NULL, ALTER updated_at DROP NOT NULL;
                 UPDATE {table} SET updated_at = '-infinity' WHERE key = 'a';
                 UPDATE {table} SET updated_at = 'infinity' WHERE key = 'b';
                 UPDATE {table} SET updated_at = NULL WHERE key = 'c';
                 UPDATE {table} SET updated_at = '294276-12-31' WHERE key = 'd';
                 UPDATE {table} SET value = NULL WHERE key = 'e';
                 INSERT INTO {table} (key, value) VALUES (NULL, '7')",
            )
            .await;
        let loaded = store
            .client
            .query(&store.names.render(ENTRIES), &[])
            .await
            .unwrap();
        let mut loaded: Vec<(String, String, bool)> = loaded
            .iter()
            .map(|row| {
                let at: Option<Since2000> = row.get(2);
                (row.get(0), row.get(1), !at.is_some_and(|at| at.shows()))
            })
            .collect();
        loaded.sort();
        let shown: Vec<_> = loaded
            .iter()
            .map(|(key, _, zero)| format!("{key} {zero}"))
            .collect();
        assert_eq!(
            shown,
            ["a true", "b true", "c true", "d true", "f false"],
            "{column}"
        );
        let folded = store
            .client
            .query(&store.names.render(FOLD), &[])
            .await
            .unwrap();
        let folded: Vec<String> = folded.iter().map(|row| row.get(0)).collect();
        assert_eq!(folded, ["a", "b", "c", "d", "f"]);
        let altered = store
            .client
            .query(&store.names.render(ALTERED), &[])
            .await
            .unwrap();
        let altered: Vec<(String, Option<String>)> =
            altered.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(altered, [("e".to_owned(), Some("5".to_owned()))]);
        let repaired: Option<i64> = store
            .one("SELECT {fn_reconcile}(ARRAY['e'], ARRAY['5'], 'me')")
            .await;
        assert_eq!(repaired, Some(2));
        assert_eq!(store.journal(2).await, "e: 5 -> -");
        let altered = store
            .client
            .query(&store.names.render(ALTERED), &[])
            .await
            .unwrap();
        assert!(altered.is_empty());
        store.run("DELETE FROM {table} WHERE key IS NULL OR key = 'e'; ALTER TABLE {table} ENABLE TRIGGER USER; ALTER TABLE {table} ADD PRIMARY KEY (key)").await;
        store.run("ALTER TABLE {table} DISABLE TRIGGER USER; UPDATE {table} SET updated_at = 'infinity'").await;
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 6] = [
            &vec!["a"],
            &vec![Some("1")],
            &None::<Vec<i64>>,
            &None::<&str>,
            &None::<&str>,
            &None::<&str>,
        ];
        let row = store
            .client
            .query_one(&store.names.render(WRITE), &parameters)
            .await
            .unwrap();
        assert_eq!(row.get::<_, Option<i64>>(9), Some(0));
    }
}

#[tokio::test]
async fn a_repair_sets_the_present_time_where_the_triggers_are_disabled() {
    for column in ["timestamptz", "timestamp"] {
        let mut store = TestStore::plain("cfg").await;
        store
            .run(&format!(
                "SET TimeZone = 'Asia/Kolkata';
                 CREATE TABLE {{table}} (key text PRIMARY KEY, value jsonb NOT NULL, updated_at {column} NOT NULL DEFAULT now())"
            ))
            .await;
        store.migrate().await;
        store
            .run("INSERT INTO {table} (key, value) VALUES ('a', '1'), ('b', '1')")
            .await;
        store
            .run("ALTER TABLE {table} DISABLE TRIGGER USER; UPDATE {table} SET value = '2'")
            .await;
        assert_eq!(
            one::<Option<i64>>(
                &store.client,
                "SELECT cfg_reconcile(ARRAY['a', 'b'], ARRAY['1', '1'], 'me')"
            )
            .await,
            Some(2)
        );
        let rows = store
            .client
            .query(&store.names.render(ENTRIES), &[])
            .await
            .unwrap();
        let at: i64 = store
            .one("SELECT (extract(epoch FROM at) * 1000000)::bigint FROM {head}")
            .await;
        assert!(
            rows.iter()
                .all(|row| row.get::<_, Since2000>(2).0 + MICROS_1970_TO_2000 == at),
            "{column}"
        );
        let zone: String = store.one("SHOW TimeZone").await;
        assert_eq!(zone, "Asia/Kolkata");
    }
}

#[tokio::test]
async fn the_readmes_checksum_in_sql_is_the_one_it_tabulates() {
    let readme = include_str!("../../README.md");
    let (_, sql) = readme
        .split_once("compare the bytes or their md5):\n\n```sql\n")
        .expect("it stands there");
    let (sql, _) = sql.split_once(';').unwrap();
    let Some(newest) = newest_cluster() else {
        return;
    };
    let db = TestDb::on(newest).await;
    let client = db.client().await;
    run(&client, "CREATE TABLE sync_config (key text, value jsonb)").await;
    for (rows, wanted) in [
        ("SELECT 'a', '1' WHERE false", "00000000"),
        ("VALUES ('k', '169')", "002a57f5"),
        ("VALUES ('b', '2'), ('a', '1')", "5f9c514f"),
        (
            r#"VALUES ('feature:new_ui', 'true'), ('limit:login', '100'), ('ä', '"ö"')"#,
            "9d889403",
        ),
    ] {
        let fill = format!(
            "TRUNCATE sync_config; INSERT INTO sync_config SELECT k, v::jsonb FROM ({rows}) r (k, v)"
        );
        run(&client, &fill).await;
        assert_eq!(one::<String>(&client, sql).await, wanted, "{rows}");
    }
}
