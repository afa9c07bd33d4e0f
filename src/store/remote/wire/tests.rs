//! What servers say, and what somebody says in their place.

use super::*;
use crate::core::Epoch;
use proptest::prelude::*;

fn at(revision: u64) -> Cursor {
    Cursor {
        epoch: Epoch::from_u128(7),
        revision: Revision::new(revision),
        id: RevisionId::from_u128(9),
    }
}

#[test]
fn an_entry_keeps_the_bytes_of_its_value() {
    let text = r#"{"key":"a\"ö","value":{"a": [1e400, 2.50]},"revision":3,"updatedAt":"2026-01-02T03:04:05.000006Z","more":1}"#;
    let read = entry(text, Revision::new(3)).unwrap();
    assert_eq!(read.key().as_str(), "a\"ö");
    assert_eq!(read.as_json(), r#"{"a": [1e400, 2.50]}"#);
    assert_eq!(read.revision().get(), 3);
    assert_eq!(read.updated_micros() % 1_000_000, 6);
}

#[test]
fn an_entry_that_cannot_be_is_refused_and_its_value_is_not_told() {
    let with = |key: &str, value: &str, revision: &str, time: &str| {
        format!(r#"{{"key":{key},"value":{value},"revision":{revision},"updatedAt":{time}}}"#)
    };
    let (time, long) = (
        "\"2026-01-02T03:04:05Z\"",
        format!("\"{}\"", "k".repeat(2_000)),
    );
    assert!(entry(&with("\"k\"", "1", "3", time), Revision::new(3)).is_ok());
    for wrong in [
        with("\"k\"", "hunter2", "3", time),
        with("\"k\"", "\"hunter2", "3", time),
        with("\"k\"", "1", "4", time),
        with("\"k\"", "1", "-1", time),
        with("\"k\"", "1", "99999999999999999999", time),
        with("\"k\"", "1", "3", "\"hunter2\""),
        with("\"k\"", "1", "3", "\"1969-12-31T00:00:00Z\""),
        with(&long, "1", "3", time),
        with("7", "\"hunter2\"", "3", time),
    ] {
        let strange = entry(&wrong, Revision::new(3)).unwrap_err();
        assert!(!strange.0.contains("hunter2"), "{strange:?}");
    }
}

#[test]
fn a_revision_of_the_journal_is_read_with_both_texts_and_its_time() {
    let cursor = at(5).to_text();
    let text = format!(
        r#"{{"revision":5,"cursor":"{cursor}","committedAt":"2026-01-01T00:00:00.000002Z","changes":[
        {{"key":"a","kind":"put","old":null,"new":2.50}},{{"key":"b","kind":"delete","old":"x"}}]}}"#
    );
    let recorded = Recorded::read(&text).unwrap();
    let [a, b] = &recorded.both().unwrap()[..] else {
        panic!("two changes")
    };
    assert_eq!(
        (a.old.as_deref(), a.new.as_deref()),
        (Some("null"), Some("2.50"))
    );
    assert_eq!((b.old.as_deref(), b.new.as_deref()), (Some("\"x\""), None));
    let journaled = recorded.journaled(recorded.cursor().unwrap()).unwrap();
    assert_eq!(
        (journaled.revision.get(), journaled.at_micros % 1_000_000),
        (5, 2)
    );
}

#[test]
fn a_batch_is_answered_with_the_state_of_each_key() {
    let text = format!(
        r#"{{"revision":5,"cursor":"{}","epoch":"e","changed":true,"replayed":false,"keys":[
        {{"key":"a","changed":true,"revision":5,"updatedAt":"2026-01-01T00:00:00Z","value":null}},{{"key":"b","changed":false}}]}}"#,
        at(5).to_text()
    );
    let answer = BatchAnswer::read(&text).unwrap();
    assert_eq!(answer.cursor().unwrap(), at(5));
    let [a, b] = &answer.keys[..] else {
        panic!("two keys")
    };
    assert_eq!(a.entry().unwrap().unwrap().0.get(), 5);
    assert_eq!(a.value.map(RawValue::get), Some("null"));
    assert!(b.entry().unwrap().is_none() && b.value.is_none());
}

#[test]
fn a_problem_that_is_none_says_nothing() {
    for body in ["", "<html>", "[]", "{\"detail\":1}"] {
        let problem = Problem::read(body.as_bytes());
        assert!(problem.slug().is_none() && problem.detail.is_empty());
    }
}

proptest! {
    #[test]
    fn whatever_is_read_is_read_or_refused(text: String, words in proptest::collection::vec(
        prop_oneof![
            Just("{"), Just("}"), Just("["), Just("]"), Just(","), Just(":"), Just("\"type\""), Just("\"head\""),
            Just("\"payload\""), Just("\"cursor\""), Just("\"key\""), Just("\"kind\""), Just("\"put\""), Just("null"),
            Just("\"changes\""), Just("1"), Just("-1"), Just("1e400"), Just("\"\\ud800\""),
        ], 0..16)) {
        for text in [text, words.concat()] {
            drop(entry(&text, Revision::new(1)));
            drop(Message::read(&text).and_then(|message| message.payload::<Changed<'_>>().map(drop)));
            drop(Recorded::read(&text).and_then(|recorded| recorded.both()));
            drop(BatchAnswer::read(&text).and_then(|answer| answer.cursor()));
            drop(Problem::read(text.as_bytes()));
        }
    }
}
