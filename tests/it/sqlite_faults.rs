//! The SQLite store among faults: killed processes, locks, files that are none, schemas of others.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use sync_config::Revision;
use sync_config::prelude::*;

use crate::fleet::{SHORT, in_step};
use crate::sqlite::{checksum_of, start, start_with};
use crate::support::sqlite::SqliteFile;
use crate::support::wait::PATIENCE;

/// Tells a process of this test program that it is the one that writes until it is killed.
const CHILD: &str = "SCTEST_SQLITE_FILE";

/// Writes for ever where a parent asks for it; by itself it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_a_child_it_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let config = Builder::sqlite(path).start().await.unwrap();
    for number in 0u64.. {
        let batch = Batch::new()
            .put(&format!("child:{}", number % 10), number)
            .put("child:last", number);
        config.write(batch).await.unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nreported {number}").unwrap();
        out.flush().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_while_it_writes_loses_nothing_it_reported() {
    let file = SqliteFile::new();
    let config = start(&file).await;
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("sqlite_faults::as_a_child_it_writes_until_it_is_killed")
            .env(CHILD, file.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut reported = None;
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("reported ") {
                reported = number.parse::<u64>().ok();
            }
            if reported == Some(20 + round) {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let reported = reported.unwrap();
        let written = config.set("parent", round).await.unwrap();
        let last = u64::try_from(config.get_i64("child:last", -1)).unwrap();
        assert!(
            (reported..=reported + 1).contains(&last),
            "reported {reported}, found {last}"
        );
        let key = format!("child:{}", last % 10);
        assert_eq!(
            config.get_i64(&key, -1).unsigned_abs(),
            last,
            "never half a write"
        );
        let other = start(&file).await;
        in_step(&[&config, &other], written.revision()).await;
        assert_eq!(config.checksum().unwrap(), checksum_of(&file.shell()));
        other.shutdown().await.unwrap();
    }
    let check: String = file.shell().one("PRAGMA integrity_check");
    assert_eq!(check, "ok");
    config.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_meets_a_lock_is_refused_in_time_and_may_be_tried_again() {
    let file = SqliteFile::new();
    let settings = Settings::default().request_timeout(Duration::from_secs(2));
    let config = start_with(&file, settings).await;
    config.set("k", 1).await.unwrap();
    let shell = file.shell();
    shell.run("BEGIN IMMEDIATE; UPDATE sync_config SET value = '2'");
    let error = config.set("k", 3).await.unwrap_err();
    assert!(
        error.is_retryable() && error.is_unavailable() && !error.is_outcome_unknown(),
        "{error}"
    );
    for words in ["\"k\"", "write lock", "nothing was written"] {
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_eq!(config.get_i64("k", 0), 1, "reads go on");
    shell.run("COMMIT");
    config
        .wait_for(Revision::new(2).into(), PATIENCE)
        .await
        .unwrap();
    assert_eq!(config.get_i64("k", 0), 2);
    assert_eq!(
        config.set("k", 3).await.unwrap().revision(),
        Revision::new(3)
    );
    config.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_shorter_than_the_deadline_is_waited_for() {
    let file = SqliteFile::new();
    let config = start(&file).await;
    config.set("k", 1).await.unwrap();
    let shell = file.shell();
    shell.run("BEGIN IMMEDIATE");
    let writer = config.clone();
    let mut write = tokio::spawn(async move { writer.set("k", 2).await });
    let early = tokio::time::timeout(SHORT, &mut write).await;
    assert!(early.is_err(), "{early:?}");
    shell.run("COMMIT");
    assert_eq!(write.await.unwrap().unwrap().revision(), Revision::new(2));
    config.shutdown().await.unwrap();
}

async fn refusal(file: &SqliteFile) -> String {
    let error = Builder::sqlite(file.path()).start().await.unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let file = SqliteFile::new();
    let text = "these are notes of somebody, and no database\n".repeat(100);
    std::fs::write(file.path(), &text).unwrap();
    let error = refusal(&file).await;
    assert!(error.contains("is not an SQLite database"), "{error}");
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), text);
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let file = SqliteFile::new();
    let config = start(&file).await;
    config.set("k", "x".repeat(100_000)).await.unwrap();
    config.shutdown().await.unwrap();
    let mut bytes = std::fs::read(file.path()).unwrap();
    // All but the header page.
    bytes[4096..].fill(0xff);
    std::fs::write(file.path(), &bytes).unwrap();
    let error = refusal(&file).await;
    assert!(error.contains("damaged"), "{error}");
}

#[tokio::test]
async fn a_directory_that_is_missing_is_told() {
    let file = SqliteFile::new();
    let path = file.directory().join("missing").join("config.db");
    let error = Builder::sqlite(path).start().await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(
        error.to_string().contains("is its directory there"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_a_newer_program_is_refused_and_left_as_it_is() {
    let file = SqliteFile::new();
    let config = start(&file).await;
    config.set("k", 1).await.unwrap();
    config.shutdown().await.unwrap();
    let shell = file.shell();
    shell.run("UPDATE sync_config_meta SET major = 2");
    let error = refusal(&file).await;
    assert!(
        error.contains("version is 2") && error.contains("take a newer program"),
        "{error}"
    );
    shell.run("UPDATE sync_config_meta SET major = 1; PRAGMA user_version = 2");
    assert!(refusal(&file).await.contains("version is 2"));
    shell.run("PRAGMA user_version = 1; UPDATE sync_config_migration SET checksum = 1 WHERE name = '0001_tables'");
    assert!(refusal(&file).await.contains("0001_tables"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_with_a_piece_missing_is_refused_by_name_and_a_trigger_is_made_again() {
    let file = SqliteFile::new();
    start(&file).await.shutdown().await.unwrap();
    let shell = file.shell();
    shell.run("DROP TRIGGER sync_config_on_delete");
    let config = start(&file).await;
    config.set("k", 1).await.unwrap();
    shell.run("DELETE FROM sync_config");
    config
        .wait_for(Revision::new(2).into(), PATIENCE)
        .await
        .unwrap();
    config.shutdown().await.unwrap();
    shell.run("DROP TABLE sync_config_consumer");
    assert!(refusal(&file).await.contains("sync_config_consumer"));
}

#[tokio::test]
async fn without_migrate_nothing_is_made() {
    let file = SqliteFile::new();
    let settings = Settings::default().migrate(false);
    let error = Builder::sqlite(file.path())
        .settings(settings.clone())
        .start()
        .await
        .unwrap_err();
    assert!(!file.path().exists() && error.is_unavailable(), "{error}");
    start(&file).await.shutdown().await.unwrap();
    start_with(&file, settings).await.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_there_is_adopted_in_a_file_of_the_applications_own() {
    let file = SqliteFile::new();
    let shell = file.shell();
    shell.run(
        "PRAGMA application_id = 7; PRAGMA user_version = 42; CREATE TABLE account (id INTEGER PRIMARY KEY);
         CREATE TABLE app_config (key TEXT PRIMARY KEY, value TEXT, updated_at TEXT, note TEXT);
         INSERT INTO app_config VALUES ('a', ' 1 ', '2026-01-02 03:04:05', 'kept'), ('b', 'no json', NULL, NULL)",
    );
    let settings = || Settings::default().table_name("app_config");
    let config = start_with(&file, settings()).await;
    assert_eq!(
        (config.status().revision, config.status().entries),
        (Revision::new(1), 1)
    );
    assert_eq!(config.get_i64("a", 0), 1);
    shell.run("UPDATE app_config SET value = '2' WHERE key = 'a'");
    config
        .wait_for(Revision::new(2).into(), PATIENCE)
        .await
        .unwrap();
    let kept: String = shell.one("SELECT note FROM app_config WHERE key = 'a'");
    let left: String = shell.one("SELECT value FROM app_config WHERE key = 'b'");
    assert_eq!((kept.as_str(), left.as_str()), ("kept", "no json"));
    let ids: (i64, i64) = (
        shell.one("PRAGMA application_id"),
        shell.one("PRAGMA user_version"),
    );
    assert_eq!(ids, (7, 42), "they are the application's");
    config.shutdown().await.unwrap();
    shell.run("CREATE TABLE other (key TEXT, value TEXT, updated_at TEXT)");
    let builder = Builder::sqlite(file.path()).settings(Settings::default().table_name("other"));
    let error = builder.start().await.unwrap_err().to_string();
    assert!(
        error.contains("\"other\"") && error.contains("unique key"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_in_one_file_do_not_meet() {
    let file = SqliteFile::new();
    let one = start(&file).await;
    let two = start_with(&file, Settings::default().table_name("it's \"mine\"")).await;
    one.set("k", 1).await.unwrap();
    let written = two.set("k", 2).await.unwrap();
    assert_eq!(written.revision(), Revision::new(1));
    assert_eq!((one.get_i64("k", 0), two.get_i64("k", 0)), (1, 2));
    one.shutdown().await.unwrap();
    two.shutdown().await.unwrap();
}
