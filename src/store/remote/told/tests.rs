//! Messages in order, out of order and out of nothing.

use super::*;
use crate::core::Epoch;
use proptest::prelude::*;

fn cursor(epoch: u128, revision: u64) -> Cursor {
    Cursor {
        epoch: Epoch::from_u128(epoch),
        revision: Revision::new(revision),
        id: RevisionId::from_u128(u128::from(revision) + 100),
    }
}

fn told() -> Told {
    Told::at(cursor(1, 4), cursor(1, 4))
}

fn changed(at: Cursor, part: &str, changes: &str, ends: bool) -> String {
    let cursor = match ends {
        true => format!(r#","cursor":"{}""#, at.to_text()),
        false => String::new(),
    };
    let revision = at.revision;
    format!(
        r#"{{"type":"config.changed","payload":{{"revision":{revision}{part},"changes":[{changes}]}}{cursor}}}"#
    )
}

const PUT: &str =
    r#"{"key":"k","kind":"put","old":1,"new":null,"updatedAt":"2026-01-01T00:00:00.000001Z"}"#;
const DELETE: &str = r#"{"key":"gone","kind":"delete","old":1}"#;

fn revisions(told: &mut Told, after: u64) -> Option<Vec<u64>> {
    let (following, ..) = told.after(Revision::new(after))?;
    Some(
        following
            .revisions
            .iter()
            .map(|one| one.revision.get())
            .collect(),
    )
}

#[test]
fn whole_revisions_and_their_parts_become_pages() {
    let mut told = told();
    let effect = told.take(&changed(cursor(1, 5), "", PUT, true)).unwrap();
    assert!(
        matches!(effect, Effect::News(Notice::Changed { revision, .. }) if revision.get() == 5)
    );
    let at = cursor(1, 6);
    for (part, change, last) in [(1, PUT, false), (2, DELETE, false), (3, "", true)] {
        let part = format!(r#","part":{part},"last":{last}"#);
        let effect = told.take(&changed(at, &part, change, last)).unwrap();
        assert_eq!(matches!(effect, Effect::News(_)), last);
    }
    let (following, head, awaited) = told.after(Revision::new(4)).unwrap();
    assert_eq!((head, awaited), (at, false));
    let [five, six] = &following.revisions[..] else {
        panic!("{following:?}")
    };
    assert_eq!(
        five.changes[0].new.as_deref(),
        Some("null"),
        "null is a value"
    );
    assert!(five.at_micros % 1_000_000 == 1 && five.origin.is_none());
    assert_eq!(
        (six.changes.len(), six.changes[1].new.as_deref()),
        (2, None)
    );
}

#[test]
fn a_gap_leads_to_the_journal_and_another_epoch_to_the_head() {
    let mut told = told();
    let effect = told.take(&changed(cursor(1, 9), "", PUT, true)).unwrap();
    assert!(matches!(effect, Effect::News(_)));
    assert_eq!(
        (revisions(&mut told, 4), told.newest()),
        (None, cursor(1, 9))
    );
    assert_eq!(revisions(&mut told, 9), Some(vec![]));
    let effect = told.take(&changed(cursor(2, 3), "", PUT, true)).unwrap();
    let Effect::News(Notice::Changed { epoch, revision }) = effect else {
        panic!("{effect:?}")
    };
    assert_eq!((epoch.as_u128(), revision), (1, Revision::ZERO));
    let snapshot = format!(
        r#"{{"type":"config.snapshot","payload":{{"revision":7,"entries":[]}},"cursor":"{}"}}"#,
        cursor(2, 7).to_text()
    );
    assert!(matches!(told.take(&snapshot).unwrap(), Effect::News(_)));
    assert_eq!(told.newest(), cursor(2, 7));
}

#[test]
fn a_server_that_goes_back_repeats_or_leaves_out_is_found_out() {
    let part = |part: u64, last: bool| format!(r#","part":{part},"last":{last}"#);
    for (first, then) in [
        (
            changed(cursor(1, 5), "", PUT, true),
            changed(
                Cursor {
                    id: RevisionId::from_u128(1),
                    ..cursor(1, 5)
                },
                "",
                PUT,
                true,
            ),
        ),
        (
            changed(cursor(1, 5), &part(1, false), PUT, false),
            changed(cursor(1, 5), &part(3, true), PUT, true),
        ),
        (
            changed(cursor(1, 5), &part(1, false), PUT, false),
            changed(cursor(1, 6), &part(2, true), PUT, true),
        ),
        (
            changed(cursor(1, 5), "", PUT, true),
            format!(
                r#"{{"type":"config.progress","payload":{{}},"cursor":"{}"}}"#,
                cursor(1, 3).to_text()
            ),
        ),
        (
            changed(cursor(1, 5), "", PUT, true),
            changed(cursor(1, 6), "", PUT, false),
        ),
        (
            changed(cursor(1, 5), "", PUT, true),
            changed(cursor(1, 6), "", r#"{"key":"k","kind":"put"}"#, true),
        ),
        (
            changed(cursor(1, 5), "", PUT, true),
            changed(
                cursor(1, 6),
                "",
                r#"{"key":"k","kind":"delete","new":1}"#,
                true,
            ),
        ),
        (changed(cursor(1, 5), "", PUT, true), "{}".to_owned()),
    ] {
        let mut told = told();
        told.take(&first).unwrap();
        assert!(told.take(&then).is_err(), "{then}");
    }
    let mut told = told();
    told.take(&changed(cursor(1, 5), "", PUT, true)).unwrap();
    let again = told.take(&changed(cursor(1, 5), "", PUT, true)).unwrap();
    assert!(matches!(again, Effect::Nothing));
}

#[test]
fn a_message_in_pieces_is_put_together_or_refused() {
    let whole = changed(cursor(1, 5), "", PUT, true);
    let chunk = |number: u64, last: bool, text: &str| {
        serde_json::json!({ "type": "config.chunk", "payload": { "of": "config.changed", "chunk": number, "last": last, "text": text } })
            .to_string()
    };
    let (one, two) = whole.split_at(40);
    let mut told = told();
    assert!(matches!(
        told.take(&chunk(1, false, one)).unwrap(),
        Effect::Nothing
    ));
    assert!(matches!(
        told.take(&chunk(2, true, two)).unwrap(),
        Effect::News(_)
    ));
    assert_eq!(revisions(&mut told, 4), Some(vec![5]));
    for wrong in [
        chunk(2, true, two),
        chunk(1, true, one),
        chunk(1, true, &chunk(1, true, "{}")),
    ] {
        assert!(
            Told::at(cursor(1, 4), cursor(1, 4)).take(&wrong).is_err(),
            "{wrong}"
        );
    }
    let large = "x".repeat(MAX_CHUNKED / 2);
    told.take(&chunk(1, false, &large)).unwrap();
    told.take(&chunk(2, false, &large)).unwrap();
    assert!(told.take(&chunk(3, false, "x")).is_err());
}

#[test]
fn a_head_says_how_old_it_is_and_whose_store_is_away() {
    let mut told = told();
    let text = format!(
        r#"{{"type":"head","id":3,"payload":{{"epoch":"x","revision":4,"cursor":"{}","ownId":"{}","staleMs":1500,
        "mode":"offline","reason":"gone","audit":{{"number":2,"revision":3,"checksum":"0000000a"}}}}}}"#,
        cursor(1, 4).to_text(),
        RevisionId::from_u128(104)
    );
    let Effect::Head(3, head) = told.take(&text).unwrap() else {
        panic!("a head")
    };
    assert_eq!(
        (head.stale_ms, head.away.as_deref()),
        (Some(1500), Some("gone"))
    );
    assert_eq!(head.own_id, Some(RevisionId::from_u128(104)));
    assert_eq!(head.audit.unwrap().checksum.get(), 10);
}

proptest! {
    #[test]
    fn no_message_makes_it_panic_or_go_back(
        words in proptest::collection::vec(
            (prop_oneof![Just(1u128), Just(2)], 0u64..12, 0u64..4, any::<bool>(), any::<bool>(),
             prop_oneof![Just(PUT), Just(DELETE), Just(""), Just("{"), Just("null")]),
            0..24,
        ),
    ) {
        let mut told = told();
        for (epoch, revision, part, last, ends, change) in words {
            let part = if part == 0 { String::new() } else { format!(r#","part":{part},"last":{last}"#) };
            let before = told.buffer.head();
            if told.take(&changed(cursor(epoch, revision), &part, change, ends)).is_err() {
                break;
            }
            let after = told.buffer.head();
            prop_assert!(after.epoch != before.epoch || after.revision >= before.revision);
            let (following, head, _) = told.after(told.buffer.head().revision).unwrap();
            prop_assert!(following.revisions.is_empty() && head == after);
        }
    }
}
