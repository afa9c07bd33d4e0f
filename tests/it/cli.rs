//! The command line: what it prints and how it ends.

use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use crate::support::postgres::{TestDb, cluster};
use crate::support::program::{program, run, signal};
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::{PATIENCE, eventually};

/// Runs a command and checks how it ends. Answers with stdout.
async fn ends(db: &TestDb, code: i32, args: &[&str]) -> String {
    let output = run(&mut program(Some(db.url()), args)).await;
    assert_code(&output, code);
    String::from_utf8(output.stdout).unwrap()
}

fn assert_code(output: &Output, code: i32) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert_eq!(code != 0, !said.is_empty(), "{said}");
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn an_entry_is_set_read_listed_and_deleted() {
    let db = TestDb::new().await;
    let set = ends(&db, 0, &["set", "limit:login", "1.50"]).await;
    assert_eq!(
        parsed(&set),
        json!({ "key": "limit:login", "revision": 1, "changed": true })
    );
    assert_eq!(ends(&db, 0, &["get", "limit:login"]).await, "1.50\n");
    ends(&db, 0, &["set", "greeting", "hello \"you\"", "--string"]).await;
    assert_eq!(
        ends(&db, 0, &["get", "greeting"]).await,
        "\"hello \\\"you\\\"\"\n"
    );
    let same = ends(&db, 0, &["set", "limit:login", "1.50"]).await;
    assert_eq!(
        parsed(&same),
        json!({ "key": "limit:login", "revision": 1, "changed": false })
    );
    ends(&db, 0, &["set", "negative", "-3"]).await;
    let table = ends(&db, 0, &["list"]).await;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4);
    let column = lines[0].find("VALUE").unwrap();
    let values: Vec<&str> = lines[1..].iter().map(|line| &line[column..]).collect();
    assert_eq!(values, ["\"hello \\\"you\\\"\"", "1.50", "-3"]);
    let listed = parsed(&ends(&db, 0, &["list", "limit:", "--json"]).await);
    assert_eq!(listed["revision"], 3);
    assert_eq!(listed["entries"][0]["key"], "limit:login");
    assert_eq!(listed["entries"].as_array().unwrap().len(), 1);
    let deleted = ends(&db, 0, &["delete", "greeting"]).await;
    assert_eq!(
        parsed(&deleted),
        json!({ "key": "greeting", "revision": 4 })
    );
    assert_eq!(ends(&db, 3, &["delete", "greeting"]).await, "");
    assert_eq!(ends(&db, 3, &["get", "greeting"]).await, "");
}

#[tokio::test]
async fn a_value_is_read_from_stdin() {
    let db = TestDb::new().await;
    let mut command = program(Some(db.url()), &["set", "k", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"{\"a\": [1, 2]}\n").await.unwrap();
    drop(stdin);
    assert_eq!(
        timeout(PATIENCE, child.wait())
            .await
            .unwrap()
            .unwrap()
            .code(),
        Some(0)
    );
    assert_eq!(ends(&db, 0, &["get", "k"]).await, "{\"a\": [1, 2]}\n");
}

#[tokio::test]
async fn a_condition_that_does_not_hold_ends_with_4() {
    let db = TestDb::new().await;
    ends(&db, 0, &["set", "k", "1", "--if-absent"]).await;
    ends(&db, 4, &["set", "k", "2", "--if-absent"]).await;
    ends(&db, 0, &["set", "k", "2", "--if-revision", "1"]).await;
    ends(&db, 4, &["set", "k", "3", "--if-revision", "1"]).await;
    ends(&db, 4, &["set", "none", "3", "--if-revision", "1"]).await;
    assert_eq!(ends(&db, 0, &["get", "k"]).await, "2\n");
}

#[tokio::test]
async fn bad_input_ends_with_2_and_names_the_bound() {
    let db = TestDb::new().await;
    let long = "k".repeat(256);
    let wrong: [&[&str]; 9] = [
        &[],
        &["get"],
        &["get", ""],
        &["get", &long],
        &["set", "k", "{"],
        &["set", "k", "1", "--if-absent", "--if-revision", "1"],
        &["list", "--table", ""],
        &["migrate", "--uninstall"],
        &["frobnicate"],
    ];
    for args in wrong {
        assert_eq!(ends(&db, 2, args).await, "", "{args:?}");
    }
    let mut bare = program(Some(db.url()), &["list"]);
    let output = run(bare.env("SYNC_CONFIG_POLL_INTERVAL", "5")).await;
    assert_code(&output, 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("5s"));
    let output = run(&mut program(None, &["list"])).await;
    assert_code(&output, 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("DATABASE_URL"));
}

#[tokio::test]
async fn reading_creates_no_schema() {
    let db = TestDb::new().await;
    for args in [&["list"][..], &["get", "k"], &["status"], &["watch"]] {
        ends(&db, 1, args).await;
    }
    let tables = "SELECT count(*) FROM pg_class WHERE relname LIKE 'sync_config%'";
    let count: i64 = db
        .client()
        .await
        .query_one(tables, &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(count, 0);
}

#[tokio::test]
async fn an_unreachable_database_ends_with_5_and_a_lost_answer_with_6() {
    let db = TestDb::new().await;
    ends(&db, 0, &["set", "k", "1"]).await;
    let proxy = Proxy::to(cluster().address()).await;
    proxy.set(Mode::Refuse).await;
    let url = db.url_through(&proxy).replacen("@", ":hunter2@", 1);
    for args in [
        &["get", "k"][..],
        &["set", "k", "2"],
        &["migrate"],
        &["new-epoch"],
    ] {
        let output = run(&mut program(Some(&url), args)).await;
        assert_code(&output, 5);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !said.contains("hunter2") && !said.contains("postgres://"),
            "{said}"
        );
    }
    let holder = db.client().await;
    holder
        .batch_execute("BEGIN; UPDATE sync_config SET value = '2'")
        .await
        .unwrap();
    let output = eventually("a write is sent in time", PATIENCE, async || {
        let mut set = program(Some(db.url()), &["set", "k", "3"]);
        // With a limit of its own the server would say in time that it did not apply it.
        set.env("SYNC_CONFIG_STATEMENT_TIMEOUT", "0s");
        let output = run(set.env("SYNC_CONFIG_REQUEST_TIMEOUT", "2s")).await;
        (output.status.code() != Some(5)).then_some(output)
    })
    .await;
    assert_code(&output, 6);
}

#[tokio::test]
async fn a_watch_prints_a_line_for_each_revision_until_sigint() {
    let db = TestDb::new().await;
    ends(&db, 0, &["set", "limit:a", "1"]).await;
    let mut command = program(Some(db.url()), &["watch", "limit:"]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = timeout(PATIENCE, said.next_line()).await.unwrap().unwrap();
    assert_eq!(first.as_deref(), Some("watching from revision 1"));
    let sql = "BEGIN; UPDATE sync_config SET value = 'null'; INSERT INTO sync_config VALUES ('limit:b', '[2]'), ('x', '1'); COMMIT;
        BEGIN; DELETE FROM sync_config WHERE key = 'x'; COMMIT; BEGIN; DELETE FROM sync_config; COMMIT";
    db.client().await.batch_execute(sql).await.unwrap();
    let mut lines = Vec::new();
    for _ in 0..2 {
        let line = timeout(PATIENCE, told.next_line()).await.unwrap().unwrap();
        lines.push(parsed(&line.unwrap()));
    }
    assert_eq!(
        lines[0],
        json!({ "revision": 2, "cause": "remote", "changes": [
            { "key": "limit:a", "kind": "put", "old": 1, "new": null },
            { "key": "limit:b", "kind": "put", "new": [2] },
        ]})
    );
    assert_eq!(lines[1]["revision"], 4);
    signal(child.id().unwrap(), "INT").await;
    assert_eq!(
        timeout(PATIENCE, child.wait())
            .await
            .unwrap()
            .unwrap()
            .code(),
        Some(0)
    );
    assert_eq!(told.next_line().await.unwrap(), None);
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let db = TestDb::new().await;
    ends(&db, 0, &["migrate"]).await;
    let sql = "INSERT INTO sync_config SELECT 'k' || n, to_jsonb(repeat('x', 1000)) FROM generate_series(1, 3000) n";
    let client = db.client().await;
    client.batch_execute(sql).await.unwrap();
    for args in [
        &["list"][..],
        &["list", "--json"],
        &["watch"],
        &["migrate", "--print"],
    ] {
        let mut command = program(Some(db.url()), args);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut text = String::new();
        if args == ["watch"] {
            timeout(PATIENCE, said.read_line(&mut text))
                .await
                .unwrap()
                .unwrap();
            client
                .batch_execute("DELETE FROM sync_config")
                .await
                .unwrap();
        }
        let ended = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        timeout(PATIENCE, said.read_to_string(&mut text))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(ended.code(), Some(0), "{args:?}: {text}");
        assert!(!text.contains("panicked"), "{text}");
        client.batch_execute(sql).await.ok();
    }
}

#[tokio::test]
async fn the_status_tells_what_the_store_holds() {
    let db = TestDb::new().await;
    ends(&db, 0, &["set", "k", "1"]).await;
    let status = parsed(&ends(&db, 0, &["status"]).await);
    assert_eq!(
        (&status["revision"], &status["entries"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(status["mode"], "push");
    assert!(status["epoch"].is_string() && status["checksum"].is_string());
}

#[tokio::test]
async fn migrate_adopts_a_table_and_says_what_it_did() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let seed = "CREATE TABLE sync_config (key varchar(255) PRIMARY KEY, value jsonb NOT NULL, updated_at timestamptz NOT NULL DEFAULT now());
        INSERT INTO sync_config (key, value) VALUES ('old', '1'), ('large', to_jsonb(repeat('x', 1100000)))";
    client.batch_execute(seed).await.unwrap();
    let output = run(&mut program(Some(db.url()), &["migrate"])).await;
    let (done, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        done.contains("adopted") && done.contains("applied 0001_tables"),
        "{done}"
    );
    assert!(
        said.contains("1 rows") && said.contains("large") && !said.contains("xxx"),
        "{said}"
    );
    assert!(ends(&db, 0, &["migrate"]).await.contains("up to date"));
    assert_eq!(ends(&db, 0, &["get", "old"]).await, "1\n");
    assert!(
        ends(&db, 0, &["migrate", "--uninstall", "--yes"])
            .await
            .contains("removed")
    );
    ends(&db, 1, &["get", "old"]).await;
    let rows: i64 = client
        .query_one("SELECT count(*) FROM sync_config", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(rows, 2);
}

#[tokio::test]
async fn migrate_alone_changes_the_channel_of_an_installed_store() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let channel = async || -> String {
        let row = client.query_one("SELECT channel FROM sync_config_meta", &[]);
        row.await.unwrap().get(0)
    };
    ends(&db, 0, &["migrate"]).await;
    assert_eq!(channel().await, "config_changes");
    for name in ["Other \"one\"", "Other \"one\"", "config_changes"] {
        let mut command = program(Some(db.url()), &["migrate"]);
        let output = run(command.env("SYNC_CONFIG_CHANNEL", name)).await;
        assert_code(&output, 0);
        assert_eq!(channel().await, name);
    }
}

#[tokio::test]
async fn the_printed_migration_is_the_one_that_is_run() {
    let db = TestDb::new().await;
    let script = ends(
        &db,
        0,
        &["migrate", "--print", "--table", "app", "--channel", "news"],
    )
    .await;
    let sql: Vec<&str> = script
        .lines()
        .filter(|line| !line.starts_with('\\'))
        .collect();
    db.client()
        .await
        .batch_execute(&sql.join("\n"))
        .await
        .unwrap();
    let args = ["--table", "app", "--channel", "news"];
    let with = |more: &[&'static str]| [more, &args[..]].concat();
    assert!(
        ends(&db, 0, &with(&["migrate"]))
            .await
            .contains("up to date")
    );
    ends(&db, 0, &with(&["set", "k", "1"])).await;
    assert_eq!(ends(&db, 0, &with(&["get", "k"])).await, "1\n");
    let offline = run(&mut program(None, &["migrate", "--print", "--schema", "s"])).await;
    assert_code(&offline, 0);
    assert!(String::from_utf8_lossy(&offline.stdout).contains("\"s\".\"sync_config\""));
}

#[tokio::test]
async fn a_new_epoch_keeps_entries_and_revisions() {
    let db = TestDb::new().await;
    ends(&db, 0, &["set", "k", "1"]).await;
    let before = parsed(&ends(&db, 0, &["status"]).await);
    let output = run(&mut program(Some(db.url()), &["new-epoch"])).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let epochs = parsed(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(epochs["old"], before["epoch"]);
    let after = parsed(&ends(&db, 0, &["status"]).await);
    assert_eq!(after["epoch"], epochs["new"]);
    assert_eq!(
        (&after["revision"], &after["checksum"]),
        (&json!(1), &before["checksum"])
    );
}

#[tokio::test]
async fn consumers_are_listed_named_when_they_are_slow_and_removed() {
    let db = TestDb::new().await;
    ends(&db, 0, &["set", "k", "1"]).await;
    let empty = ends(&db, 0, &["consumers", "list", "--json"]).await;
    assert_eq!(parsed(&empty), json!([]));
    let client = db.client().await;
    let sql =
        "SELECT sync_config_consume('billing', true), sync_config_consume('audit log', false);
        UPDATE sync_config_revision SET sealed_at = sealed_at - interval '20h'";
    client.batch_execute(sql).await.unwrap();
    let listed = parsed(&ends(&db, 0, &["consumers", "list", "--json"]).await);
    let states = |at: usize| {
        (
            &listed[at]["name"],
            &listed[at]["behind"],
            &listed[at]["follows"],
        )
    };
    assert_eq!(states(0), (&json!("audit log"), &json!(0), &json!(true)));
    assert_eq!(states(1), (&json!("billing"), &json!(1), &json!(true)));
    let table = ends(&db, 0, &["consumers"]).await;
    assert_eq!(table.lines().count(), 3);
    assert!(table.contains("billing") && table.contains("follows"));
    let status = parsed(&ends(&db, 0, &["status"]).await);
    let [slow] = status["slowConsumers"].as_array().unwrap().as_slice() else {
        panic!("{status}");
    };
    assert_eq!(
        (&slow["name"], &slow["behind"]),
        (&json!("billing"), &json!(1))
    );
    let left = slow["trimmedInSeconds"].as_u64().unwrap();
    assert!((3 * 3_600..=4 * 3_600).contains(&left), "{left}");
    let gone = ends(&db, 0, &["consumers", "remove", "billing"]).await;
    assert_eq!(parsed(&gone), json!({ "removed": "billing" }));
    ends(&db, 3, &["consumers", "remove", "billing"]).await;
    ends(&db, 2, &["consumers", "remove", ""]).await;
    let status = parsed(&ends(&db, 0, &["status"]).await);
    assert_eq!(status["slowConsumers"], json!([]));
}

#[tokio::test]
async fn the_help_documents_the_exit_codes_and_hides_the_password() {
    let url = "postgres://u:hunter2@h/d";
    let output = run(&mut program(Some(url), &["--help"])).await;
    assert_code(&output, 0);
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        help.contains("Exit codes:") && help.contains("  6  "),
        "{help}"
    );
    assert!(!help.contains("hunter2"));
}

#[tokio::test]
async fn a_watch_whose_reader_has_stopped_reading_ends_with_sigint_too() {
    let db = TestDb::new().await;
    ends(&db, 0, &["set", "k", "1"]).await;
    let mut command = program(Some(db.url()), &["watch"]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    timeout(PATIENCE, said.next_line()).await.unwrap().unwrap();
    // Far more than a pipe takes, of which only the beginning is read.
    let sql = "UPDATE sync_config SET value = to_jsonb(repeat('x', 1000000))";
    db.client().await.batch_execute(sql).await.unwrap();
    let mut told = BufReader::new(child.stdout.take().unwrap());
    timeout(PATIENCE, told.fill_buf()).await.unwrap().unwrap();
    signal(child.id().unwrap(), "INT").await;
    let ended = timeout(PATIENCE, child.wait()).await;
    assert_eq!(ended.expect("it ends").unwrap().code(), Some(0));
}
