//! Faults that need a hand on the store's own connections.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::{Sources, SqliteStore};
use crate::core::{Key, Revision, Value};
use crate::error::Result;
use crate::settings::Settings;
use crate::store::{Store, WriteAnswer, WriteRequest};
use crate::write::Item;

/// A directory of a test, removed with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let directory =
            std::env::temp_dir().join(format!("sync-config-sqlite-{}-{name}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    fn file(&self) -> PathBuf {
        self.0.join("config.db")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn sources() -> Sources {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    Sources {
        wall: Arc::new(|| SystemTime::UNIX_EPOCH + Duration::from_secs(1_785_000_000)),
        random: Arc::new(|| NUMBER.fetch_add(1, Ordering::Relaxed)),
        #[cfg(feature = "remote")]
        steady: Arc::new(|| Duration::ZERO),
    }
}

fn store(file: &Path, read_only: bool) -> SqliteStore {
    let settings = Settings::default().request_timeout(Duration::from_secs(20));
    SqliteStore::open_as(&settings, file, 1, sources(), read_only).unwrap()
}

async fn put(store: &SqliteStore, key: &str, json: &str) -> Result<WriteAnswer> {
    let item = Item {
        key: Key::parse(key).unwrap(),
        value: Some(Value::parse(json).unwrap()),
        precondition: None,
    };
    let request = WriteRequest {
        items: vec![item],
        actor: None,
        idempotency_key: None,
    };
    store.write(&request).await
}

async fn texts(store: &SqliteStore) -> (u64, Vec<String>) {
    let listener = store.open().await.unwrap();
    let loaded = listener.snapshot().await.unwrap();
    listener.close().await;
    let texts = loaded.entries.iter();
    let mut texts: Vec<String> = texts
        .map(|entry| format!("{}={}", entry.key(), entry.as_json()))
        .collect();
    texts.sort();
    (loaded.cursor.revision.get(), texts)
}

#[tokio::test]
async fn a_full_disk_leaves_the_file_as_it_was_and_is_told() {
    let scratch = Scratch::new("full");
    let store = store(&scratch.file(), false);
    put(&store, "small", "1").await.unwrap();
    let bound = |pages: u32| {
        store.writer.run("a test", move |desk| {
            let connection = desk.connection("a test")?;
            connection
                .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
                .unwrap();
            Ok(())
        })
    };
    bound(1).await.unwrap();
    let large = format!("\"{}\"", "x".repeat(200_000));
    let error = put(&store, "large", &large).await.unwrap_err();
    assert!(
        error.is_unavailable() && !error.is_outcome_unknown(),
        "{error}"
    );
    assert!(
        error.to_string().contains("disk is full") && error.to_string().contains("\"large\""),
        "{error}"
    );
    assert_eq!(texts(&store).await, (1, vec!["small=1".to_owned()]));
    let answer = put(&store, "large", "2").await.unwrap();
    assert_eq!(answer.answered.cursor.revision, Revision::new(2));
    store.close().await;
}

#[tokio::test]
async fn every_connection_keeps_a_log_and_the_one_that_writes_syncs_it_at_each_commit() {
    let scratch = Scratch::new("pragmas");
    let store = store(&scratch.file(), false);
    put(&store, "k", "1").await.unwrap();
    let found = store.writer.run("a test", |desk| {
        let connection = desk.connection("a test")?;
        let number = |name| {
            let value = connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            value.unwrap()
        };
        let mode = connection.pragma_query_value(None, "journal_mode", |row| row.get(0));
        let mode: String = mode.unwrap();
        Ok((mode, number("synchronous"), number("foreign_keys")))
    });
    assert_eq!(found.await.unwrap(), ("wal".to_owned(), 2, 1));
    store.close().await;
}

#[tokio::test]
async fn a_file_that_may_only_be_read_is_read_and_each_write_is_refused_by_name() {
    let scratch = Scratch::new("read-only");
    let writer = store(&scratch.file(), false);
    put(&writer, "k", "1").await.unwrap();
    let reader = store(&scratch.file(), true);
    assert_eq!(texts(&reader).await, (1, vec!["k=1".to_owned()]));
    let error = put(&reader, "k", "2").await.unwrap_err();
    assert!(error.is_denied(), "{error}");
    assert!(error.to_string().contains("writing key \"k\""), "{error}");
    put(&writer, "k", "3").await.unwrap();
    assert_eq!(texts(&reader).await, (2, vec!["k=3".to_owned()]));
    reader.close().await;
    writer.close().await;
}

#[tokio::test]
async fn a_write_that_is_given_up_while_it_waits_for_the_lock_is_never_made() {
    let scratch = Scratch::new("given-up");
    let store = store(&scratch.file(), false);
    put(&store, "k", "1").await.unwrap();
    let other = rusqlite::Connection::open(scratch.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    {
        let mut write = Box::pin(put(&store, "k", "2"));
        let waits = tokio::time::timeout(Duration::from_millis(100), &mut write).await;
        assert!(waits.is_err(), "{waits:?}");
    }
    other.execute_batch("COMMIT").unwrap();
    // In the same queue, so that the one before it has been decided.
    put(&store, "l", "1").await.unwrap();
    let seen = vec!["k=1".to_owned(), "l=1".to_owned()];
    assert_eq!(texts(&store).await, (2, seen));
    store.close().await;
}

#[tokio::test]
async fn a_revision_too_large_for_one_trim_goes_in_several() {
    let scratch = Scratch::new("trim");
    let store = store(&scratch.file(), false);
    let other = rusqlite::Connection::open(scratch.file()).unwrap();
    store.prepare().await.unwrap();
    let many = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 25000)
                INSERT INTO sync_config (key, value) SELECT 'k' || n, '1' FROM n";
    other.execute_batch(many).unwrap();
    put(&store, "last", "1").await.unwrap();
    other
        .execute_batch("UPDATE sync_config_revision SET at = 0")
        .unwrap();
    let mut calls = Vec::new();
    loop {
        let trimmed = store.trim(Duration::ZERO, Duration::ZERO, 5_000).await;
        let trimmed = trimmed.unwrap();
        let left: i64 = other
            .query_row("SELECT count(*) FROM sync_config_journal", [], |row| {
                row.get(0)
            })
            .unwrap();
        calls.push((trimmed, left));
        if trimmed == 0 {
            break;
        }
    }
    assert_eq!(calls, [(1, 15_001), (1, 5_001), (1, 1), (0, 1)]);
    assert_eq!(texts(&store).await.1.len(), 25_001);
    store.close().await;
}
