//! The SQLite store: what others write to the file is seen, numbered and shown like any write.

use std::sync::Arc;

use sync_config::prelude::*;
use sync_config::{Checksum, Revision};

use crate::fleet::{Seen, in_step, record};
use crate::ground::quick;
use crate::support::sqlite::{Shell, SqliteFile};
use crate::support::wait::{PATIENCE, Probe};

pub(crate) async fn start(file: &SqliteFile) -> Arc<ConfigService> {
    start_with(file, quick(Settings::default())).await
}

pub(crate) async fn start_with(file: &SqliteFile, settings: Settings) -> Arc<ConfigService> {
    let builder = Builder::sqlite(file.path()).settings(settings);
    builder.start().await.expect("the service starts")
}

/// A key with its texts before and after.
pub(crate) type Change = (String, Option<String>, Option<String>);

pub(crate) fn change(key: &str, old: Option<&str>, new: Option<&str>) -> Change {
    let text = |text: Option<&str>| text.map(str::to_owned);
    (key.to_owned(), text(old), text(new))
}

fn remote(seen: &[Seen]) -> Vec<Vec<Change>> {
    let changes = seen.iter().map(|seen| match seen {
        Seen::Changed(_, cause, changes) if cause == "Remote" => changes.clone(),
        other => panic!("{other:?}"),
    });
    changes.collect()
}

/// What the next revision that is recorded holds.
async fn next(probe: &Probe<Seen>, before: usize) -> Vec<Change> {
    let seen = probe
        .until("the next revision", |seen| seen.len() > before)
        .await;
    remote(&seen)[before].clone()
}

/// Every revision that the journal holds after the first state, with its changes.
pub(crate) async fn journal(config: &ConfigService) -> Vec<Vec<Change>> {
    let mut zero = config.snapshot().unwrap().cursor();
    zero.revision = Revision::ZERO;
    let recorded = config.history(zero, 1_024).await.unwrap().unwrap();
    let changes = recorded.iter().map(|recorded| {
        let changes = recorded.changes().iter();
        changes
            .map(|one| change(one.key(), one.old(), one.new_text()))
            .collect()
    });
    changes.collect()
}

/// The checksum by its definition, over what the table holds.
pub(crate) fn checksum_of(shell: &Shell) -> Checksum {
    let sql = "SELECT key, value FROM sync_config ORDER BY key";
    let mut statement = shell.0.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let mut folded = Vec::new();
    for row in rows.unwrap() {
        let texts: (String, String) = row.unwrap();
        for text in [texts.0, texts.1] {
            folded.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
            folded.extend_from_slice(text.as_bytes());
        }
    }
    Checksum::new(crc32fast::hash(&folded))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_edit_of_a_shell_is_one_revision_with_its_net_changes() {
    let file = SqliteFile::new();
    let config = start(&file).await;
    let (shell, probe) = (file.shell(), record(&config, Filter::all()));
    let edits: [(&str, Vec<Change>); 9] = [
        (
            "INSERT INTO sync_config (key, value) VALUES ('a', '1')",
            vec![change("a", None, Some("1"))],
        ),
        (
            "INSERT INTO sync_config (key, value) VALUES ('a', '2'), ('b', '2')
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            vec![
                change("a", Some("1"), Some("2")),
                change("b", None, Some("2")),
            ],
        ),
        (
            "UPDATE sync_config SET value = '3' WHERE key = 'b'",
            vec![change("b", Some("2"), Some("3"))],
        ),
        (
            "UPDATE sync_config SET key = 'c' WHERE key = 'b'",
            vec![
                change("b", Some("3"), None),
                change("c", None, Some("3")),
            ],
        ),
        (
            "INSERT OR REPLACE INTO sync_config (key, value) VALUES ('a', '\"new\"')",
            vec![change("a", Some("2"), Some("\"new\""))],
        ),
        (
            "BEGIN; UPDATE sync_config SET value = '4' WHERE key = 'c'; REPLACE INTO sync_config (key, value) VALUES ('c', '5');
             INSERT INTO sync_config (key, value) VALUES ('d', 'null'), ('e', '6'); DELETE FROM sync_config WHERE key = 'e'; COMMIT",
            vec![
                change("c", Some("3"), Some("5")),
                change("d", None, Some("null")),
            ],
        ),
        (
            "UPDATE OR REPLACE sync_config SET key = 'a' WHERE key = 'c'",
            vec![
                change("a", Some("\"new\""), Some("5")),
                change("c", Some("5"), None),
            ],
        ),
        (
            "DELETE FROM sync_config WHERE key = 'd'",
            vec![change("d", Some("null"), None)],
        ),
        ("DELETE FROM sync_config", vec![change("a", Some("5"), None)]),
    ];
    for (number, (edit, expected)) in edits.into_iter().enumerate() {
        shell.run(edit);
        assert_eq!(next(&probe, number).await, expected, "{edit}");
        assert_eq!(journal(&config).await[number], expected, "{edit}");
        assert_eq!(
            config.status().revision,
            Revision::new(number as u64 + 1),
            "{edit}"
        );
    }
    let marks: i64 = shell.one("SELECT count(*) FROM sync_config_revision WHERE mark = 'foreign'");
    assert_eq!(marks, 9);
    config.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_rolled_back_or_changes_nothing_makes_no_revision() {
    let file = SqliteFile::new();
    let config = start(&file).await;
    let (shell, probe) = (file.shell(), record(&config, Filter::all()));
    config.set("k", 1).await.unwrap();
    for edit in [
        "BEGIN; INSERT INTO sync_config (key, value) VALUES ('gone', '1'); DELETE FROM sync_config WHERE key = 'k'; ROLLBACK",
        "UPDATE sync_config SET value = '1'",
        "INSERT OR IGNORE INTO sync_config (key, value) VALUES ('k', '2')",
        "REPLACE INTO sync_config (key, value) VALUES ('k', '1')",
        "BEGIN; UPDATE sync_config SET value = '2'; UPDATE sync_config SET value = ' 1 '; COMMIT",
        "BEGIN; SAVEPOINT s; DELETE FROM sync_config; ROLLBACK TO s; COMMIT",
        "DELETE FROM sync_config WHERE key = 'nothing'",
    ] {
        shell.run(edit);
    }
    shell.run("INSERT INTO sync_config (key, value) VALUES ('last', '1')");
    let seen = probe.until("the last edit", |seen| seen.len() == 2).await;
    let last = change("last", None, Some("1"));
    assert_eq!(remote(&seen[1..]), [[last.clone()]]);
    assert_eq!(journal(&config).await[1..], [[last]]);
    assert_eq!(
        (config.status().revision, config.get_i64("k", 0)),
        (Revision::new(2), 1)
    );
    let text: String = shell.one("SELECT value FROM sync_config WHERE key = 'k'");
    assert_eq!(
        text, "1",
        "the text in the table is the canonical one again"
    );
    config.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_edited_while_nobody_ran_is_one_revision_at_the_next_start() {
    let file = SqliteFile::new();
    let config = start(&file).await;
    config
        .write(Batch::new().put("a", 1).put("b", 1).put("c", 1))
        .await
        .unwrap();
    config.shutdown().await.unwrap();
    let shell = file.shell();
    for edit in [
        "UPDATE sync_config SET value = '2' WHERE key = 'a'",
        "REPLACE INTO sync_config (key, value) VALUES ('a', '3')",
        "BEGIN; UPDATE sync_config SET key = 'd' WHERE key = 'b'; DELETE FROM sync_config WHERE key = 'c'; COMMIT",
        "INSERT INTO sync_config (key, value) VALUES ('c', '1')",
        "INSERT INTO sync_config (key, value) VALUES ('e', '1'); DELETE FROM sync_config WHERE key = 'e'",
    ] {
        shell.run(edit);
    }
    let config = start(&file).await;
    assert_eq!(config.status().revision, Revision::new(2));
    assert_eq!(
        journal(&config).await[1],
        [
            change("a", Some("1"), Some("3")),
            change("b", Some("1"), None),
            change("d", None, Some("1")),
        ]
    );
    assert_eq!(config.checksum().unwrap(), checksum_of(&shell));
    let revision = |key: &str| config.get(key).unwrap().unwrap().revision().get();
    assert_eq!((revision("a"), revision("c"), revision("d")), (2, 1, 2));
    config.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_of_the_librarys_comes_after_what_others_wrote_and_is_decided_on_it() {
    let file = SqliteFile::new();
    let config = start(&file).await;
    let first = config.set("k", 1).await.unwrap();
    let shell = file.shell();
    for round in 0..20 {
        let before = config.status().revision;
        shell.run(&format!(
            "REPLACE INTO sync_config (key, value) VALUES ('k', '\"shell {round}\"')"
        ));
        let at = Precondition::Revision(first.revision());
        let late = Batch::new().put_if("k", "too late", at);
        assert!(config.write(late).await.unwrap_err().is_conflict());
        let written = config.set("k", format!("own {round}")).await.unwrap();
        assert!(written.visible());
        assert_eq!(written.revision().get(), before.get() + 2);
        let revisions = journal(&config).await;
        let own = format!("\"own {round}\"");
        let shells = format!("\"shell {round}\"");
        assert_eq!(
            *revisions.last().unwrap(),
            [change("k", Some(&shells), Some(&own))]
        );
    }
    config.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_others_are_canonical_in_table_and_journal_and_checksums_agree() {
    let file = SqliteFile::new();
    let (one, two) = (start(&file).await, start(&file).await);
    let shell = file.shell();
    shell.run(
        "INSERT INTO sync_config (key, value) VALUES
         ('object', ' { \"a\" : [ 1 , 2 ] ,\n\"b\" : \"x  y\\\" z\" } '), ('ä', '\"ö\"'), ('number', 100), ('large', '1e400')",
    );
    let newest = one.wait_for(Revision::new(1).into(), PATIENCE).await;
    let checksum = in_step(&[&one, &two], newest.unwrap()).await;
    assert_eq!(checksum, checksum_of(&shell));
    let held: String = shell.one("SELECT value FROM sync_config WHERE key = 'object'");
    assert!(
        !held.contains('\n') && held.contains(r#""x  y\" z""#),
        "{held}"
    );
    assert_eq!(one.get("object").unwrap().unwrap().as_json(), held);
    let journaled: String = shell.one("SELECT new FROM sync_config_journal WHERE key = 'object'");
    assert_eq!(journaled, held);
    let again = one.set(
        "object",
        serde_json::json!({ "b": "x  y\" z", "a": [1, 2] }),
    );
    assert!(!again.await.unwrap().changed(), "it is the same value");
    assert_eq!(two.get_i64("number", 0), 100);
    assert!(two.get_as::<f64>("large").is_err(), "it loads all the same");
    one.shutdown().await.unwrap();
    two.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shells_mistakes_are_refused_with_words() {
    let file = SqliteFile::new();
    let config = start(&file).await;
    let shell = file.shell();
    for (values, words) in [
        ("('k', 'a string')", "a value is one JSON text"),
        ("('k', '')", "a value is one JSON text"),
        ("('k', x'31')", "a value is one JSON text"),
        (
            "('k', '\"' || printf('%1048576d', 0) || '\"')",
            "a value has at most 1048576 bytes",
        ),
        ("('', '1')", "a key is a text of 1 to 255 characters"),
        (
            "(printf('%256d', 0), '1')",
            "a key is a text of 1 to 255 characters",
        ),
        (
            "('a' || char(0) || 'b', '1')",
            "a key is a text of 1 to 255 characters",
        ),
        ("(NULL, '1')", "NOT NULL"),
    ] {
        let refused = shell.refused(&format!(
            "INSERT INTO sync_config (key, value) VALUES {values}"
        ));
        assert!(refused.contains(words), "{values}: {refused}");
    }
    let written = config.set("k", 1).await.unwrap();
    assert_eq!(written.revision(), Revision::new(1), "none of it was noted");
    config.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_have_a_revision_stays_and_hides_itself_alone() {
    let file = SqliteFile::new();
    let config = start(&file).await;
    config.set("bad", "good").await.unwrap();
    let shell = file.shell();
    shell.run("PRAGMA ignore_check_constraints = ON");
    let deep = "[".repeat(200) + &"]".repeat(200);
    shell.run(&format!(
        "BEGIN; UPDATE sync_config SET value = '{{not json' WHERE key = 'bad';
         INSERT INTO sync_config (key, value) VALUES ('deep', '{deep}'), ('fine', '1'),
         ('latin', CAST(x'22e422' AS TEXT)), (CAST(x'e4' AS TEXT), '1'); COMMIT"
    ));
    let probe = record(&config, Filter::all().with_state());
    probe
        .until("the row that is fine", |seen| {
            seen.last().is_some_and(|last| last.revision() == 2)
        })
        .await;
    assert_eq!(config.get_i64("fine", 0), 1);
    assert_eq!(config.get_string("bad", ""), "good", "as it was before");
    assert!(config.get("deep").unwrap().is_none());
    let problem: String = shell.one("SELECT problem FROM sync_config_pending WHERE key = 'deep'");
    assert!(problem.contains("127"), "{problem}");
    let encodings: i64 =
        shell.one("SELECT count(*) FROM sync_config_pending WHERE problem LIKE '%not UTF-8'");
    assert_eq!(encodings, 2);
    let held: String = shell.one("SELECT value FROM sync_config WHERE key = 'bad'");
    assert_eq!(held, "{not json", "nothing is lost");
    let other = start(&file).await;
    in_step(&[&config, &other], Revision::new(2)).await;
    assert_eq!(
        other.sync().await.unwrap(),
        0,
        "the table is as it is shown"
    );
    // Put right by its author, or written over by the library.
    shell.run("UPDATE sync_config SET value = '\"mended\"' WHERE key = 'bad'");
    other
        .wait_for(Revision::new(3).into(), PATIENCE)
        .await
        .unwrap();
    assert_eq!(other.get_string("bad", ""), "mended");
    let written = config.set("deep", 1).await.unwrap();
    assert_eq!(written.revision(), Revision::new(4));
    shell.run("DELETE FROM sync_config WHERE key IN ('latin', CAST(x'e4' AS TEXT))");
    let written = config.set("end", 1).await.unwrap();
    assert_eq!(written.revision(), Revision::new(5));
    let left: i64 = shell.one("SELECT count(*) FROM sync_config_pending");
    assert_eq!((left, config.checksum().unwrap()), (0, checksum_of(&shell)));
    config.shutdown().await.unwrap();
    other.shutdown().await.unwrap();
}
