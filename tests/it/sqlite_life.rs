//! The life of an SQLite file: opened again, audited, trimmed, restored from a backup, shared with an application.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use sync_config::prelude::*;
use sync_config::{Cursor, Mode, Revision, Value};

use crate::fleet::{in_step, until_status};
use crate::ground::beating;
use crate::sqlite::{Change, change, checksum_of, journal, start, start_with};
use crate::support::sqlite::{Shell, SqliteFile};
use crate::support::wait::{PATIENCE, Probe, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_opened_again_holds_everything() {
    let file = SqliteFile::new();
    let config = start(&file).await;
    let batch = Batch::new().put("a", 1).put("ä", "ö").put("gone", ());
    config.write(batch).await.unwrap();
    config.delete("gone").await.unwrap();
    let key = || Batch::new().put("b", 2).idempotency_key("once");
    let written = config.write(key()).await.unwrap();
    let before = config.snapshot().unwrap();
    config.shutdown().await.unwrap();
    let beside = file.directory().join("config.db-wal");
    assert!(!beside.exists(), "every connection was closed");
    let again = start(&file).await;
    let after = again.snapshot().unwrap();
    let facts = |snapshot: &sync_config::Snapshot| {
        let entries = snapshot.iter().map(|entry| {
            let (key, text) = (entry.key().to_string(), entry.as_json().to_owned());
            (key, (text, entry.revision(), entry.updated_at()))
        });
        let entries: BTreeMap<_, _> = entries.collect();
        (snapshot.cursor(), snapshot.checksum(), entries)
    };
    assert_eq!(facts(&before), facts(&after));
    let replayed = again.write(key()).await.unwrap();
    assert!(replayed.replayed());
    assert_eq!(replayed.cursor(), written.cursor());
    assert_eq!(again.checksum().unwrap(), checksum_of(&file.shell()));
    assert_eq!(journal(&again).await.len(), 3);
    again.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_push_beat_and_audit() {
    let file = SqliteFile::new();
    let settings = || beating(Settings::default());
    let one = start_with(&file, settings()).await;
    let two = start_with(&file, settings()).await;
    one.set("k", 1).await.unwrap();
    for service in [&one, &two] {
        let status = until_status(service, "it hears and was audited", |status| {
            let beat = &status.heartbeat;
            status.mode == Mode::Push && beat.last_heard.is_some() && beat.last_audit.is_some()
        });
        let status = status.await;
        assert_eq!(status.heartbeat.mismatches, 0, "{status:?}");
        assert_eq!(status.counters.notices_missed, 0, "{status:?}");
    }
    one.shutdown().await.unwrap();
    two.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_altered_behind_the_triggers_is_found_healed_and_numbered() {
    let file = SqliteFile::new();
    let config = start_with(&file, beating(Settings::default())).await;
    config
        .write(Batch::new().put("a", 1).put("b", 1))
        .await
        .unwrap();
    let shell = file.shell();
    let trigger: String =
        shell.one("SELECT sql FROM sqlite_schema WHERE name = 'sync_config_on_update'");
    shell.run(&format!(
        "BEGIN; DROP TRIGGER sync_config_on_update; UPDATE sync_config SET value = '9' WHERE key = 'a'; {trigger}; COMMIT"
    ));
    let status = until_status(&config, "the next revision", |status| {
        status.revision == Revision::new(2)
    });
    let status = status.await;
    assert!(status.heartbeat.mismatches > 0, "{status:?}");
    assert_eq!(config.get_i64("a", 0), 9);
    let mark: String = shell.one("SELECT mark FROM sync_config_revision WHERE revision = 2");
    assert_eq!(mark, "audit");
    assert_eq!(
        journal(&config).await[1],
        [change("a", Some("1"), Some("9"))]
    );
    config.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_the_journal_no_longer_leads_to_takes_the_whole_table() {
    let file = SqliteFile::new();
    let hour = std::time::Duration::from_secs(3_600);
    let deaf = Settings::default()
        .enable_notification(false)
        .poll_interval(hour);
    let late = start_with(&file, deaf).await;
    let config = start(&file).await;
    for number in 0..10 {
        config.set("k", number).await.unwrap();
    }
    config.delete("k").await.unwrap();
    config.set("l", 1).await.unwrap();
    let shell = file.shell();
    shell.run("UPDATE sync_config_revision SET at = 0");
    let second = std::time::Duration::from_secs(1);
    let trimming = Settings::default()
        .event_retention(second)
        .cleanup_interval(second / 10);
    let trimmer = start_with(&file, trimming).await;
    eventually("the journal is trimmed", PATIENCE, async || {
        let floor: i64 = shell.one("SELECT floor FROM sync_config_meta");
        if floor == 12 {
            Ok(())
        } else {
            Err(floor.to_string())
        }
    })
    .await;
    late.wait_for(Revision::new(12).into(), PATIENCE)
        .await
        .unwrap();
    assert_eq!(
        late.status().heartbeat.last_cause.as_deref(),
        Some("below floor")
    );
    in_step(&[&config, &late, &trimmer], Revision::new(12)).await;
    assert!(late.get("k").unwrap().is_none() && late.get_i64("l", 0) == 1);
    for service in [config, late, trimmer] {
        service.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_put_back_under_running_instances_begins_a_new_epoch() {
    let file = SqliteFile::new();
    let (one, two) = (start(&file).await, start(&file).await);
    let mut backup = None;
    let mut last: Option<Cursor> = None;
    for number in 1..=10 {
        if number == 6 {
            backup = Some(file.copy("backup.db"));
        }
        last = Some(one.set("k", number).await.unwrap().cursor());
    }
    let last = last.unwrap();
    in_step(&[&one, &two], last.revision).await;
    put_back(&file, &backup.unwrap());
    for service in [&one, &two] {
        let status = until_status(service, "the new epoch", |status| {
            status.epoch.is_some_and(|epoch| epoch != last.epoch) && status.mode == Mode::Push
        });
        assert_eq!(status.await.revision, Revision::new(5));
    }
    let written = two.set("k", "after").await.unwrap();
    assert_eq!(written.revision(), Revision::new(6));
    in_step(&[&one, &two], written.revision()).await;
    assert_eq!(one.checksum().unwrap(), checksum_of(&file.shell()));
    one.shutdown().await.unwrap();
    two.shutdown().await.unwrap();
}

/// Puts a file in the place of the one that is open, as the manual says: the log belongs to the file that goes.
fn put_back(file: &SqliteFile, backup: &std::path::Path) {
    for beside in ["config.db-wal", "config.db-shm"] {
        std::fs::remove_file(file.directory().join(beside)).unwrap();
    }
    std::fs::rename(backup, file.path()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_without_its_triggers_gets_them_again_under_a_running_instance() {
    let file = SqliteFile::new();
    let config = start(&file).await;
    let before = config.set("k", 1).await.unwrap().cursor();
    let backup = file.copy("backup.db");
    Shell(rusqlite::Connection::open(&backup).unwrap())
        .run("DROP TRIGGER sync_config_on_insert; DROP TRIGGER sync_config_on_update");
    config.set("k", 2).await.unwrap();
    put_back(&file, &backup);
    until_status(&config, "the backup's state", |status| {
        status.epoch != Some(before.epoch) && status.mode == Mode::Push
    })
    .await;
    file.shell().run("UPDATE sync_config SET value = '3'");
    config
        .wait_for(Revision::new(2).into(), PATIENCE)
        .await
        .unwrap();
    assert_eq!(config.get_i64("k", 0), 3);
    config.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_a_newer_program_that_is_put_in_place_is_neither_read_nor_written() {
    let file = SqliteFile::new();
    let config = start(&file).await;
    let first = config.set("k", 1).await.unwrap();
    let newer = file.copy("newer.db");
    Shell(rusqlite::Connection::open(&newer).unwrap())
        .run("UPDATE sync_config_meta SET major = 2; UPDATE sync_config SET value = '7'");
    put_back(&file, &newer);
    // Before anybody has looked at it too: whoever comes first makes sure.
    let error = config.set("k", 2).await.unwrap_err();
    assert!(
        error.to_string().contains("take a newer program"),
        "{error}"
    );
    let status = until_status(&config, "it is told", |status| {
        let why = status.reason.as_deref().unwrap_or_default();
        status.mode == Mode::Offline && why.contains("take a newer program")
    })
    .await;
    assert_eq!(
        (status.revision, config.get_i64("k", 0)),
        (first.revision(), 1)
    );
    let found: String = file.shell().one("SELECT value FROM sync_config");
    assert_eq!(found, "7");
    file.shell().run("UPDATE sync_config_meta SET major = 1");
    until_status(&config, "it is one that is known", |status| {
        status.mode == Mode::Push
    })
    .await;
    config.set("k", 8).await.unwrap();
    config.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_joins_a_transaction_of_the_callers_and_gets_its_revision_after_the_commit() {
    let file = SqliteFile::new();
    let (config, other) = (start(&file).await, start(&file).await);
    let first = config.set("k", 1).await.unwrap();
    let mut shell = file.shell();
    shell.run("CREATE TABLE account (id INTEGER PRIMARY KEY, plan TEXT)");
    let transaction = shell.0.transaction().unwrap();
    transaction
        .execute("INSERT INTO account VALUES (42, 'pro')", [])
        .unwrap();
    let at = Precondition::Revision(first.revision());
    let batch = Batch::new()
        .put_if("k", 2, at)
        .put("l", "x")
        .delete("nothing");
    let joined = config.write_in_sqlite(&transaction, batch).unwrap();
    let changed: Vec<&str> = joined.changed_keys().iter().map(|key| &**key).collect();
    assert_eq!(changed, ["k", "l"]);
    let again = Batch::new().put_if("k", 3, at);
    let error = config.write_in_sqlite(&transaction, again).unwrap_err();
    assert!(error.is_conflict(), "{error}");
    assert!(
        error.to_string().contains("without a revision yet"),
        "{error}"
    );
    transaction.commit().unwrap();
    let cursor = config.committed(&joined).await.unwrap().unwrap();
    assert_eq!(cursor.revision, Revision::new(2));
    assert_eq!(
        (config.get_i64("k", 0), config.get_string("l", "")),
        (2, "x".to_owned())
    );
    in_step(&[&config, &other], cursor.revision).await;
    assert_eq!(other.committed(&joined).await.unwrap(), Some(cursor));

    let transaction = shell.0.transaction().unwrap();
    let rolled_back = config.write_in_sqlite(&transaction, Batch::new().put("k", 9));
    transaction.rollback().unwrap();
    assert_eq!(config.committed(&rolled_back.unwrap()).await.unwrap(), None);
    let transaction = shell.0.transaction().unwrap();
    let batch = Batch::new().put("k", 2);
    let unchanged = config.write_in_sqlite(&transaction, batch).unwrap();
    transaction.commit().unwrap();
    assert_eq!(config.committed(&unchanged).await.unwrap(), None);
    let keyed = Batch::new().put("k", 3).idempotency_key("once");
    let transaction = shell.0.transaction().unwrap();
    assert!(config.write_in_sqlite(&transaction, keyed).is_err());
    drop(transaction);
    assert_eq!(config.status().revision, Revision::new(2));
    config.shutdown().await.unwrap();
    other.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joined_write_of_what_cannot_be_stored_leaves_the_transaction_as_it_was() {
    let file = SqliteFile::new();
    let config = start(&file).await;
    let first = config.set("a", 1).await.unwrap();
    let mut shell = file.shell();
    shell.run("CREATE TABLE account (id INTEGER PRIMARY KEY, plan TEXT)");
    let before = shell.0.total_changes();
    let transaction = shell.0.transaction().unwrap();
    let odd = Value::parse("\"\\u0000\"").unwrap();
    let batch = Batch::new().put("a", 2).put_value("b", odd, None);
    let error = config.write_in_sqlite(&transaction, batch).unwrap_err();
    let said = error.to_string();
    assert!(error.is_invalid_input() && said.contains("\"b\""), "{said}");
    assert_eq!(transaction.total_changes(), before, "nothing was written");
    transaction
        .execute("INSERT INTO account VALUES (42, 'pro')", [])
        .unwrap();
    transaction.commit().unwrap();
    assert_eq!(shell.one::<i64>("SELECT count(*) FROM account"), 1);
    let next = config.set("c", 3).await.unwrap();
    assert_eq!(next.revision(), first.revision().next());
    assert_eq!(config.get_i64("a", 0), 1);
    config.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_start_at_once_on_a_new_file_share_one_store() {
    let file = SqliteFile::new();
    let services = join_all((0..8).map(|_| start(&file))).await;
    let written = services[0].set("k", 1).await.unwrap();
    assert_eq!(written.revision(), Revision::new(1));
    in_step(&services.iter().collect::<Vec<_>>(), written.revision()).await;
    for service in services {
        service.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shells_and_instances_write_at_once_and_no_transaction_is_ever_seen_in_half() {
    let file = SqliteFile::new();
    let (one, two) = (start(&file).await, start(&file).await);
    let halves = Probe::new();
    for service in [&one, &two] {
        let (reader, halves) = (service.clone(), halves.clone());
        let filter = Filter::prefix("pair:");
        let look = move |_: &Event| {
            let snapshot = reader.snapshot().unwrap();
            let half = |key: &str| snapshot.get(key).map(|entry| entry.as_json().to_owned());
            if half("pair:left") != half("pair:right") {
                halves.push(snapshot.revision());
            }
        };
        service.on_change(filter, look).unwrap();
    }
    let shells = (0..2).map(|shell| {
        let file = file.clone();
        std::thread::spawn(move || {
            let connection = file.shell();
            let patience = std::time::Duration::from_secs(20);
            connection.0.busy_timeout(patience).unwrap();
            for number in 0..100 {
                let value = format!("'\"{shell}-{number}\"'");
                connection.run(&format!(
                    "BEGIN IMMEDIATE; REPLACE INTO sync_config (key, value) VALUES ('pair:left', {value});
                     REPLACE INTO sync_config (key, value) VALUES ('pair:right', {value}); COMMIT"
                ));
            }
        })
    });
    let shells: Vec<_> = shells.collect();
    let mut last = Revision::ZERO;
    for number in 0..100 {
        last = one.set("own", number).await.unwrap().revision();
        last = two.set("other", number).await.unwrap().revision().max(last);
    }
    for shell in shells {
        shell.join().unwrap();
    }
    last = one.set("own", "end").await.unwrap().revision().max(last);
    in_step(&[&one, &two], last).await;
    assert_eq!(halves.seen(), []);
    assert_eq!(one.checksum().unwrap(), checksum_of(&file.shell()));
    let revisions = journal(&one).await;
    for changes in &revisions {
        let half = |key: &str| changes.iter().find(|change| change.0 == key);
        let (left, right) = (half("pair:left"), half("pair:right"));
        let texts = |half: Option<&Change>| half.map(|half| (half.1.clone(), half.2.clone()));
        assert_eq!(texts(left), texts(right), "{changes:?}");
    }
    one.shutdown().await.unwrap();
    two.shutdown().await.unwrap();
}
