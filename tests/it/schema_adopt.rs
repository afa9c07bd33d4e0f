//! Migrations: adoption, refusals, repetition, removal, and names of any kind.

#![allow(clippy::panic, reason = "support code fails its test by panicking")]

use std::process::Stdio;

use sync_config::schema::{
    Installed, MigrateError, Migrated, installed, migrate, script, uninstall,
};
use sync_config::schema::{Names, QualifiedName};
use tokio::io::AsyncWriteExt;

use crate::schema_store::{TestStore, migrations, names};

const SEED: &str = "CREATE TABLE cfg (key VARCHAR(255) PRIMARY KEY, value JSONB NOT NULL,
        updated_at TIMESTAMP NOT NULL DEFAULT NOW());
    CREATE FUNCTION notify_config_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_notify('config_changes', json_build_object('action', TG_OP, 'key', NEW.key, 'value', NEW.value)::text);
        RETURN NEW; END $$;
    CREATE TRIGGER \"Config Changes\" AFTER INSERT OR UPDATE ON cfg FOR EACH ROW EXECUTE FUNCTION notify_config_change();
    CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER mine BEFORE INSERT ON cfg FOR EACH ROW EXECUTE FUNCTION mine();
    INSERT INTO cfg (key, value) VALUES ('a', '1'), ('b', '{\"x\": 1.50}');";

async fn refused(sql: &str) -> String {
    let store = TestStore::plain("cfg").await;
    store.run(sql).await;
    match migrate(&store.client, &store.names, "c").await {
        Err(error @ MigrateError::Refused { .. }) => error.to_string(),
        other => panic!("{sql}: {other:?}"),
    }
}

#[tokio::test]
async fn the_seeds_table_is_adopted_with_its_rows() {
    let mut store = TestStore::plain("cfg").await;
    store.run(SEED).await;
    let migrated = store.migrate().await;
    assert!(migrated.adopted);
    assert_eq!(migrated.replaced_trigger.as_deref(), Some("Config Changes"));
    assert_eq!(migrated.applied.len(), migrations());
    assert!(migrated.out_of_bounds.is_empty());
    let first: String = store.one("SELECT concat_ws(' ', h.revision, r.changes, m.floor) FROM {head} h JOIN {revision} r USING (revision), {meta} m").await;
    assert_eq!(first, "1 2 2");
    assert_eq!(
        store
            .one::<i64>("SELECT count(*) FROM {key} WHERE revision = 1")
            .await,
        2
    );
    assert_eq!(store.journal(1).await, "");
    store.check().await;
    let triggers: i64 = store
        .one("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'cfg'::regclass AND tgname = 'mine'")
        .await;
    assert_eq!(triggers, 1, "other triggers stay");
    assert_eq!(
        store
            .journaled("UPDATE {table} SET value = '2' WHERE key = 'a'")
            .await,
        "a: 1 -> 2"
    );
}

#[tokio::test]
async fn an_empty_table_is_adopted_at_revision_0() {
    let mut store = TestStore::plain("cfg").await;
    store.run("CREATE TABLE cfg (updated_at timestamptz NOT NULL, extra int, value jsonb NOT NULL, key text COLLATE \"en_US\" NOT NULL UNIQUE)".replace(" COLLATE \"en_US\"", " COLLATE \"POSIX\"").as_str()).await;
    assert!(store.migrate().await.adopted);
    assert_eq!(
        store
            .one::<String>("SELECT concat_ws(' ', h.revision, m.floor) FROM {head} h, {meta} m")
            .await,
        "0 1"
    );
    assert_eq!(
        store
            .journaled("INSERT INTO {table} (key, value) VALUES ('a', '1')")
            .await,
        "a: - -> 1"
    );
    assert_eq!(
        store
            .journaled(
                "BEGIN; UPDATE {table} SET value = '2'; UPDATE {table} SET value = '3'; COMMIT"
            )
            .await,
        "a: 1 -> 3"
    );
    let rows = store
        .write(&["a", "b"], &[Some("4"), Some("1")], Some(&[2, 0]), None)
        .await
        .unwrap();
    assert_eq!(rows[0].get::<_, i64>("revision"), 3);
    assert_eq!(
        store.journaled("TRUNCATE {table}").await,
        "a: 4 -> -, b: 1 -> -"
    );
}

#[tokio::test]
async fn rows_beyond_the_bounds_stay_and_are_named() {
    let mut store = TestStore::plain("cfg").await;
    store
        .run(
            "CREATE TABLE cfg (key text PRIMARY KEY, value jsonb NOT NULL, updated_at timestamptz NOT NULL);
             INSERT INTO cfg VALUES ('', '1', now()), ('big', to_jsonb(repeat('x', 1048576)), now()), ('ok', '1', now());
             INSERT INTO cfg SELECT repeat('k', 1021) || n, '1', now() FROM generate_series(1, 200) n",
        )
        .await;
    let migrated = store.migrate().await;
    assert_eq!(
        (migrated.out_of_bounds.len(), migrated.out_of_bounds_total),
        (100, 202)
    );
    assert_eq!(
        migrated.out_of_bounds[..2],
        ["".to_owned(), "big".to_owned()]
    );
    assert_eq!(store.one::<i64>("SELECT count(*) FROM {table}").await, 203);
    store.check().await;
    assert_eq!(
        store
            .fails("UPDATE {table} SET value = value || '[]' WHERE key = 'big'")
            .await,
        "23514"
    );
    assert_eq!(
        store
            .journaled("UPDATE {table} SET value = '1' WHERE key = 'big'")
            .await
            .len(),
        "big: \"\" -> 1".len() + 1_048_576
    );
}

#[tokio::test]
async fn migrating_again_changes_nothing_nor_the_channel_of_all() {
    let mut store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1')")
        .await;
    assert_eq!(store.migrate().await, Migrated::default());
    assert_eq!(store.revision().await, 1);
    store
        .run("DELETE FROM {migration} WHERE name = '0005_maintenance'")
        .await;
    // An upgrade by an instance with another setting.
    let upgraded = migrate(&store.client, &store.names, "other").await.unwrap();
    assert_eq!(upgraded.applied, ["0005_maintenance"]);
    match installed(&store.client, &store.names).await.unwrap() {
        Installed::Yes {
            major,
            channel,
            applied,
            missing,
            newer,
        } => {
            assert_eq!((major, channel.as_str()), (1, "cfg_changes"));
            assert_eq!(
                (applied.len(), missing.len(), newer.len()),
                (migrations(), 0, 0)
            );
        }
        Installed::No => panic!("it is installed"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_processes_may_migrate_at_once() {
    let store = TestStore::plain("cfg").await;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let (client, names) = (store.db.client().await, store.names.clone());
        tasks.push(tokio::spawn(async move {
            migrate(&client, &names, "c").await.unwrap().applied.len()
        }));
    }
    let mut applied = Vec::new();
    for task in tasks {
        applied.push(task.await.unwrap());
    }
    applied.sort_unstable();
    assert_eq!(applied, [0, 0, 0, migrations()]);
}

#[tokio::test]
async fn versions_are_told_apart() {
    let store = TestStore::new().await;
    store
        .run("INSERT INTO {migration} (name, checksum) VALUES ('0099_later', 1)")
        .await;
    let found = installed(&store.client, &store.names).await.unwrap();
    assert!(
        matches!(found, Installed::Yes { newer, .. } if newer == ["0099_later"]),
        "a newer minor is served"
    );
    store
        .run("UPDATE {migration} SET checksum = checksum + 1 WHERE name = '0003_seal'")
        .await;
    let changed = migrate(&store.client, &store.names, "c").await.unwrap_err();
    assert!(
        matches!(&changed, MigrateError::ChangedMigration { name, .. } if name == "0003_seal"),
        "{changed:?}"
    );
    store.run("UPDATE {meta} SET major = 2").await;
    let newer = migrate(&store.client, &store.names, "c").await.unwrap_err();
    assert!(
        matches!(newer, MigrateError::NewerMajor { found: 2, .. }),
        "{newer:?}"
    );
}

#[tokio::test]
async fn uninstalling_leaves_the_plain_table() {
    let mut store = TestStore::new().await;
    store
        .run("INSERT INTO {table} (key, value) VALUES ('a', '1')")
        .await;
    uninstall(&store.client, &store.names).await.unwrap();
    let left: String = store
        .one(
            "SELECT concat_ws(' ', (SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace),
                 (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace),
                 (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'cfg'::regclass),
                 (SELECT string_agg(conname, ',') FROM pg_constraint WHERE conrelid = 'cfg'::regclass AND contype IN ('c', 'p')))",
        )
        .await;
    assert_eq!(left, "cfg,cfg_pkey 0 0 cfg_pkey");
    store.run("UPDATE {table} SET value = '2'").await;
    assert_eq!(
        installed(&store.client, &store.names).await.unwrap(),
        Installed::No
    );
    uninstall(&store.client, &store.names).await.unwrap();
    assert!(store.migrate().await.adopted);
    assert_eq!(store.revision().await, 1);
}

#[tokio::test]
async fn names_of_any_kind_work() {
    for (schema, table, channel) in [
        ("My \"Schema\"", "Ta'ble; DROP x --", "Ch'an\"nel \\"),
        (
            "$sync_config$",
            "$sync_config_text$ {head}",
            "%s {table} :x",
        ),
        ("ünï", &"x".repeat(48), &"c".repeat(48)),
    ] {
        let mut store = TestStore::plain("cfg").await;
        store.names = Names::new(QualifiedName::parse(schema, table).unwrap());
        let schema = schema.replace('"', "\"\"");
        store.run(&format!("CREATE SCHEMA \"{schema}\"")).await;
        migrate(&store.client, &store.names, channel).await.unwrap();
        assert_eq!(
            store
                .journaled("INSERT INTO {table} (key, value) VALUES ('a', '1')")
                .await,
            "a: - -> 1"
        );
        let rows = store
            .write(&["a", "b"], &[Some("2"), Some("3")], Some(&[1, 0]), None)
            .await
            .unwrap();
        assert_eq!(rows[1].get::<_, i64>("revision"), 2);
        store.run("SELECT {fn_trim}('0s', 10), {fn_reconcile}(ARRAY['a'], ARRAY['2'], 'me'), {fn_claim}('audit', '1s', 'me')").await;
        store
            .run("BEGIN; SET CONSTRAINTS ALL IMMEDIATE; DELETE FROM {table}; COMMIT")
            .await;
        store.check().await;
        assert_eq!(
            store.one::<String>("SELECT channel FROM {meta}").await,
            channel
        );
        uninstall(&store.client, &store.names).await.unwrap();
    }
}

#[tokio::test]
async fn unfit_tables_are_refused_by_name_with_what_to_do() {
    let columns = "key text PRIMARY KEY, value jsonb NOT NULL, updated_at timestamptz NOT NULL";
    for (sql, wanted) in [
        (
            format!("CREATE TABLE cfg ({columns}) PARTITION BY HASH (key)"),
            "partitioned",
        ),
        (
            format!("CREATE TABLE base ({columns}); CREATE VIEW cfg AS TABLE base"),
            "view",
        ),
        (
            format!("CREATE TABLE base ({columns}); CREATE MATERIALIZED VIEW cfg AS TABLE base"),
            "materialized",
        ),
        (
            format!(
                "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE cfg ({}) SERVER s",
                columns.replace(" PRIMARY KEY", "")
            ),
            "foreign",
        ),
        (
            format!("CREATE TABLE cfg ({columns}); ALTER TABLE cfg ENABLE ROW LEVEL SECURITY"),
            "row security",
        ),
        (format!("CREATE UNLOGGED TABLE cfg ({columns})"), "unlogged"),
        (
            format!("CREATE TABLE cfg ({columns}); CREATE TABLE child () INHERITS (cfg)"),
            "inheritance",
        ),
        (
            "CREATE TABLE cfg (key text PRIMARY KEY, value json NOT NULL)".to_owned(),
            "column updated_at is missing",
        ),
        (
            "CREATE TABLE cfg (key text PRIMARY KEY, value json NOT NULL)".to_owned(),
            "column value is of type json;",
        ),
        (
            columns
                .replace(" PRIMARY KEY", " NOT NULL")
                .replace("key", "CREATE TABLE cfg (key")
                + ")",
            "PRIMARY KEY",
        ),
        (
            columns
                .replace("text PRIMARY", "text UNIQUE, PRIMARY")
                .replace("PRIMARY KEY", "id int PRIMARY KEY")
                .replacen("key", "CREATE TABLE cfg (key", 1)
                + ")",
            "column id is NOT NULL without a default",
        ),
        (
            columns
                .replace("text PRIMARY", "text UNIQUE, id int PRIMARY")
                .replacen("key", "CREATE TABLE cfg (key", 1)
                + ")",
            "column key allows NULL",
        ),
        (
            format!("CREATE TABLE cfg ({columns}, n int NOT NULL)"),
            "column n is NOT NULL without a default",
        ),
        (
            format!(
                "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false); CREATE TABLE cfg ({})",
                columns.replace("text", "text COLLATE ci")
            ),
            "nondeterministic collation ci",
        ),
        ("CREATE TABLE cfg_key ()".to_owned(), "\"cfg_key\" is taken"),
        ("DROP SCHEMA public".to_owned(), "CREATE SCHEMA \"public\""),
    ] {
        let reason = refused(&sql).await;
        assert!(
            reason.contains(wanted) && reason.contains("\"public\".\"cfg\""),
            "{sql}: {reason}"
        );
    }
}

#[tokio::test]
async fn a_database_of_another_encoding_is_refused() {
    let store = TestStore::plain("cfg").await;
    let name = format!("{}_ascii", store.db.name());
    store
        .run(&format!("CREATE DATABASE {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"))
        .await;
    let url = store.db.url().replace(store.db.name(), &name);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let error = migrate(&client, &store.names, "c")
        .await
        .unwrap_err()
        .to_string();
    drop(client);
    connection.await.unwrap().unwrap();
    store.run(&format!("DROP DATABASE {name}")).await;
    assert!(
        error.contains("SQL_ASCII") && error.contains("ENCODING 'UTF8'"),
        "{error}"
    );
}

#[tokio::test]
async fn a_table_locked_by_somebody_is_told_after_a_bounded_wait() {
    let store = TestStore::plain("cfg").await;
    store.run(SEED).await;
    let holder = store.db.client().await;
    holder
        .batch_execute("BEGIN; SELECT FROM cfg")
        .await
        .unwrap();
    let error = migrate(&store.client, &store.names, "c").await.unwrap_err();
    assert!(matches!(error, MigrateError::Locked { .. }), "{error:?}");
    assert_eq!(
        store
            .one::<i64>(
                "SELECT count(*) FROM pg_class WHERE relname LIKE 'cfg\\_%' AND relkind = 'r'"
            )
            .await,
        0
    );
}

#[tokio::test]
async fn the_printed_script_does_what_a_migration_does() {
    let text = script(&names("cfg"), "cfg_changes").unwrap();
    assert!(text.starts_with("\\set ON_ERROR_STOP on"));
    let mut store = TestStore::plain("cfg").await;
    store.run(SEED).await;
    let mut psql = tokio::process::Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--dbname", store.db.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("tests need psql, the client that comes with PostgreSQL");
    for _ in 0..2 {
        // twice: the owner may run it again
        psql.stdin
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .await
            .unwrap();
    }
    drop(psql.stdin.take());
    assert!(psql.wait().await.unwrap().success());
    let triggers: i64 = store.one("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'cfg'::regclass AND tgname = 'Config Changes'").await;
    assert_eq!(triggers, 0);
    assert_eq!(
        store.migrate().await,
        Migrated::default(),
        "nothing is left to do"
    );
    assert_eq!(
        store
            .journaled("UPDATE {table} SET value = '3' WHERE key = 'a'")
            .await,
        "a: 1 -> 3"
    );
}
