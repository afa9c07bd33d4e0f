//! The stock `sqlite3` program beside processes of this library: whole transactions, whoever writes.

use std::collections::BTreeSet;

use serde_json::Value;
use sync_config::prelude::*;

use crate::fleet::{in_step, record};
use crate::sqlite::{checksum_of, journal, start};
use crate::support::program::on_store;
use crate::support::sqlite::SqliteFile;
use crate::support::wait::{PATIENCE, eventually};

/// Transactions of a shell.
const TIMES: u32 = 40;

/// Transactions that put the same number to both keys of a pair, in two statements each; every third replaces, every fifth deletes
/// both first.
fn pairs(name: &str) -> String {
    let mut script = ".bail on\n.timeout 20000\n".to_owned();
    for turn in 1..=TIMES {
        script += "BEGIN IMMEDIATE;\n";
        if turn % 5 == 0 {
            script += &format!("DELETE FROM sync_config WHERE key LIKE '{name}:%';\n");
        }
        for key in ["one", "two"] {
            let value = format!("'{{\"n\":{turn}}}'");
            script += &if turn % 3 == 0 {
                format!("REPLACE INTO sync_config (key, value) VALUES ('{name}:{key}', {value});\n")
            } else {
                format!(
                    "INSERT INTO sync_config (key, value) VALUES ('{name}:{key}', {value})
                     ON CONFLICT (key) DO UPDATE SET value = excluded.value;\n"
                )
            };
        }
        script += "COMMIT;\n";
    }
    script
}

/// Runs a script in a process of its own, on a thread of its own.
async fn shell(file: &SqliteFile, script: String) {
    let file = file.clone();
    let said = tokio::task::spawn_blocking(move || file.stock_shell(&script));
    assert_eq!(said.await.unwrap(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_several_shells_may_share_a_revision_and_none_is_split() {
    let file = SqliteFile::new();
    let (one, two) = tokio::join!(start(&file), start(&file));
    let seen = record(&one, Filter::all());
    let ours = async {
        for turn in 1..=TIMES {
            let batch = Batch::new().put("ours:one", turn).put("ours:two", turn);
            two.write(batch).await.unwrap();
        }
    };
    let shells = (shell(&file, pairs("red")), shell(&file, pairs("blue")));
    tokio::join!(shells.0, shells.1, ours);
    let number = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let both = ["red", "blue", "ours"].map(|name| [format!("{name}:one"), format!("{name}:two")]);
    eventually("the last of each shell", PATIENCE, || async {
        let last = |key: &str| {
            two.get(key)
                .unwrap()
                .map(|entry| entry.as_json().to_owned())
        };
        let done = format!("{{\"n\": {TIMES}}}");
        (last("red:two") == Some(done.clone()) && last("blue:two") == Some(done)).then_some(())
    })
    .await;
    // Nobody writes any more, so that this is the last one.
    let revision = two.snapshot().unwrap().revision();
    let checksum = in_step(&[&one, &two], revision).await;
    let journal = journal(&one).await;
    assert_eq!(u64::try_from(journal.len()).unwrap(), revision.get());
    for changes in &journal {
        for [first, second] in &both {
            let of = |key: &String| changes.iter().find(|(name, ..)| name == key);
            let texts = [first, second].map(|key| of(key).map(|(_, old, new)| (old, new)));
            assert_eq!(texts[0], texts[1], "a transaction was split: {changes:?}");
        }
    }
    let told: BTreeSet<u64> = seen.seen().iter().map(|seen| seen.revision()).collect();
    assert!(told.len() <= journal.len(), "no revision twice");
    // The two shells take turns with each other and with us: some share a revision, all of them at the most.
    let foreign = journal
        .iter()
        .filter(|changes| !changes[0].0.starts_with("ours"));
    let foreign = foreign.count();
    assert!((1..=2 * TIMES as usize).contains(&foreign), "{foreign}");
    assert_eq!(checksum, checksum_of(&file.shell()));
    let last = one.get("red:one").unwrap().unwrap();
    assert_eq!(number(last.as_json())["n"], TIMES);
    tokio::join!(one.shutdown(), two.shutdown()).0.unwrap();
}

#[tokio::test]
async fn what_shells_wrote_while_nobody_ran_is_whole_at_the_next_command() {
    let file = SqliteFile::new();
    on_store(&file.url(), 0, &["migrate"]).await;
    tokio::join!(shell(&file, pairs("red")), shell(&file, pairs("blue")));
    let (exported, _) = on_store(&file.url(), 0, &["export"]).await;
    let exported: Value = serde_json::from_str(&exported).unwrap();
    let expected = serde_json::json!({ "n": TIMES });
    for key in ["red:one", "red:two", "blue:one", "blue:two"] {
        assert_eq!(exported[key], expected, "{key}");
    }
    let (status, _) = on_store(&file.url(), 0, &["status"]).await;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["revision"], 1, "all of it is one revision");
}

#[tokio::test]
async fn a_shell_that_is_killed_within_a_transaction_leaves_nothing_of_it() {
    let file = SqliteFile::new();
    on_store(&file.url(), 0, &["set", "k", "1"]).await;
    let config = start(&file).await;
    // `.shell` ends the program that runs it, as a crash would.
    let script = "BEGIN IMMEDIATE; UPDATE sync_config SET value = '2'; INSERT INTO sync_config (key, value) VALUES ('l', '2');
        .shell kill -KILL $PPID\n";
    file.stock_shell(script);
    config.set("m", 3).await.unwrap();
    assert_eq!(journal(&config).await.len(), 2);
    assert_eq!(config.get_i64("k", 0), 1);
    assert!(config.get("l").unwrap().is_none());
    config.shutdown().await.unwrap();
}
