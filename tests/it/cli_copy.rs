//! `sync-config copy`: a store is moved between the databases, whole or not at all.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use crate::support::postgres::TestDb;
use crate::support::program::{on_store, program, run, told};
use crate::support::sqlite::SqliteFile;
use crate::support::wait::PATIENCE;

async fn status(url: &str) -> Value {
    let (printed, _) = on_store(url, 0, &["status"]).await;
    serde_json::from_str(&printed).unwrap()
}

async fn copy(from: &str, to: &str, code: i32, more: &[&str]) -> (String, String) {
    let args = [&["copy", "--from", from, "--to", to], more].concat();
    let mut command = program(None, &args);
    // Twenty thousand entries are one write.
    let command = command.env("SYNC_CONFIG_REQUEST_TIMEOUT", "2m");
    told(&run(command).await, code)
}

/// A database with keys and values that a careless copy would change.
async fn stored() -> TestDb {
    let db = TestDb::new().await;
    on_store(db.url(), 0, &["migrate"]).await;
    let sql = "INSERT INTO sync_config (key, value)
        SELECT 'limit:' || n, to_jsonb(n) FROM generate_series(1, 20000) n;
        INSERT INTO sync_config (key, value) VALUES
            ('number', '1.50'), ('large', '123456789012345678901234567890'), ('tiny', '1e-300'),
            ('null', 'null'), ('ä😀 \"', '{\"b\": [1, {\"\": \"\u{1}\\\\n\"}], \"aa\": null}'), ('Z', '\"\"')";
    let client = db.client().await;
    client
        .batch_execute(&sql.replace('\u{1}', "\\u0001"))
        .await
        .unwrap();
    db
}

#[tokio::test]
async fn a_store_comes_back_from_the_other_database_as_it_was() {
    let (db, back) = tokio::join!(stored(), TestDb::new());
    let file = SqliteFile::new();
    let (printed, said) = copy(db.url(), &file.url(), 0, &[]).await;
    assert!(
        printed.contains("20006 added, 0 replaced, 0 deleted"),
        "{printed}"
    );
    assert!(
        said.contains("writing 20006 keys in one revision"),
        "{said}"
    );
    let (there, here) = (status(db.url()).await, status(&file.url()).await);
    assert_eq!(here["checksum"], there["checksum"]);
    assert!(printed.contains(here["checksum"].as_str().unwrap()));
    assert_eq!(
        (&here["entries"], &here["revision"]),
        (&json!(20_006), &json!(1))
    );
    let (printed, _) = copy(&file.url(), back.url(), 0, &["--json"]).await;
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(
        (&printed["added"], &printed["revision"]),
        (&json!(20_006), &json!(1))
    );
    assert_eq!(printed["checksum"], there["checksum"]);
    assert_eq!(printed["from"]["checksum"], there["checksum"]);
    let texts =
        "SELECT string_agg(key || value::text, E'\\n' ORDER BY key COLLATE \"C\") FROM sync_config";
    let mut all = Vec::new();
    for db in [&db, &back] {
        let row = db.client().await.query_one(texts, &[]).await.unwrap();
        all.push(row.get::<_, String>(0));
    }
    assert_eq!(all[0], all[1]);
    let again = copy(&file.url(), back.url(), 0, &[]).await.0;
    assert!(again.contains("0 added") && again.contains("20006 equal"));
    assert_eq!(status(back.url()).await["revision"], 1);
}

#[tokio::test]
async fn what_the_target_has_is_only_lost_if_that_is_asked_for() {
    let (one, two) = (SqliteFile::new(), SqliteFile::new());
    let (from, to) = (one.url(), two.url());
    for (url, key, value) in [
        (&from, "same", "1"),
        (&from, "differs", "1"),
        (&from, "new", "1"),
        (&to, "same", "1"),
        (&to, "differs", "2"),
        (&to, "extra", "3"),
    ] {
        on_store(url, 0, &["set", key, value]).await;
    }
    let (_, said) = copy(&from, &to, 4, &[]).await;
    for named in ["--overwrite", "extra", "--delete-extra", "--keep-extra"] {
        assert!(said.contains(named), "{said}");
    }
    copy(&from, &to, 4, &["--overwrite"]).await;
    copy(&from, &to, 4, &["--keep-extra"]).await;
    assert_eq!(status(&to).await["revision"], 3, "nothing was written");
    let args = ["--overwrite", "--delete-extra", "--dry-run"];
    let (printed, _) = copy(&from, &to, 0, &args).await;
    assert!(
        printed.contains("1 would be added, 1 would be replaced, 1 would be deleted; 1 equal"),
        "{printed}"
    );
    assert_eq!(status(&to).await["revision"], 3, "nothing was written");
    copy(&from, &to, 0, &["--overwrite", "--keep-extra"]).await;
    let entries = |listed: String| -> Value {
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let entries = listed["entries"].as_array().unwrap().iter();
        entries
            .map(|entry| json!([entry["key"], entry["value"]]))
            .collect()
    };
    let (listed, _) = on_store(&to, 0, &["list", "--json"]).await;
    assert_eq!(
        entries(listed),
        json!([["differs", 1], ["extra", 3], ["new", 1], ["same", 1]])
    );
    copy(&from, &to, 0, &["--delete-extra"]).await;
    let (one, two) = (status(&from).await, status(&to).await);
    assert_eq!(one["checksum"], two["checksum"]);
    assert_eq!(two["revision"], 5, "each copy is one revision");
}

#[tokio::test]
async fn a_dry_run_makes_no_store_and_a_prefix_leaves_others_alone() {
    let (one, two) = (SqliteFile::new(), SqliteFile::new());
    let (from, to) = (one.url(), two.url());
    for key in ["a:1", "a:2", "b:1"] {
        on_store(&from, 0, &["set", key, "1"]).await;
    }
    let (_, said) = copy(&from, &to, 2, &["--dry-run"]).await;
    assert!(said.contains("migrate") && !two.path().exists(), "{said}");
    on_store(&to, 0, &["set", "c:1", "7"]).await;
    copy(&from, &to, 0, &["--prefix", "a:", "--quiet"]).await;
    let (listed, _) = on_store(&to, 0, &["export"]).await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed, json!({ "a:1": 1, "a:2": 1, "c:1": 7 }));
}

#[tokio::test]
async fn a_key_that_somebody_writes_meanwhile_is_not_overwritten_and_nothing_else_is_written() {
    let (one, two) = (SqliteFile::new(), SqliteFile::new());
    let (from, to) = (one.url(), two.url());
    for key in ["a", "b"] {
        on_store(&from, 0, &["set", key, "1"]).await;
    }
    on_store(&to, 0, &["set", "b", "0"]).await;
    // The copy has seen the target when it waits for this lock.
    let shell = two.shell();
    shell.run("BEGIN IMMEDIATE; UPDATE sync_config SET value = '2' WHERE key = 'b'");
    let args = ["copy", "--from", &from, "--to", &to, "--overwrite"];
    let mut command = program(None, &args);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut heard = Vec::new();
    while !heard
        .last()
        .is_some_and(|line: &String| line.starts_with("writing "))
    {
        let line = timeout(PATIENCE, said.next_line()).await.unwrap().unwrap();
        heard.push(line.unwrap_or_else(|| panic!("{heard:?}")));
    }
    shell.run("COMMIT");
    let ended = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(4));
    let (listed, _) = on_store(&to, 0, &["export"]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&listed).unwrap(),
        json!({ "b": 2 })
    );
}

#[tokio::test]
async fn wrong_addresses_are_named_by_their_argument_and_never_shown() {
    let file = SqliteFile::new();
    let url = file.url();
    on_store(&url, 0, &["set", "k", "1"]).await;
    let (_, said) = copy(&url, "mysql://u:hunter2@h/d", 2, &[]).await;
    assert!(said.contains("--to") && !said.contains("hunter2"), "{said}");
    let (_, said) = copy("@/nowhere/url", &url, 2, &[]).await;
    assert!(
        said.contains("--from") && said.contains("/nowhere/url"),
        "{said}"
    );
    let (_, said) = copy(&url, &url, 2, &[]).await;
    assert!(said.contains("the same table"), "{said}");
    copy(&url, &url, 0, &["--to-table", "other"]).await;
    let secret = file.directory().join("url");
    std::fs::write(&secret, format!("{url}\n")).unwrap();
    let by_file = format!("@{}", secret.display());
    let to = SqliteFile::new();
    copy(&by_file, &to.url(), 0, &[]).await;
    assert_eq!(on_store(&to.url(), 0, &["get", "k"]).await.0, "1\n");
    let args = ["--url", &url, "copy", "--to", &to.url()];
    told(&run(&mut program(None, &args)).await, 0);
}
