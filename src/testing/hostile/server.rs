//! What a server says, or whoever answers in its place.

use super::{SECRET, Target, assert_secret};
use crate::core::{Cursor, Epoch, Revision, RevisionId};
use crate::store::remote::tested::{Ear, state};

pub(super) const NEWS: Target = Target {
    name: "server_news",
    holds: news,
    words: &[
        "\n",
        "{\"type\":\"config.changed\",\"payload\":",
        "{\"type\":\"config.snapshot\",\"payload\":{}",
        "{\"type\":\"config.progress\",\"payload\":{}",
        "{\"type\":\"config.reset\",\"payload\":{}",
        "{\"type\":\"config.chunk\",\"payload\":{\"chunk\":1,\"last\":true,\"text\":\"{}\"}}",
        "{\"type\":\"head\",\"id\":1,\"payload\":{\"cursor\":",
        "\"mode\":\"offline\",\"reason\":\"hunter2\"",
        "{\"revision\":5,\"changes\":[",
        "{\"revision\":6,\"part\":1,\"last\":false,\"changes\":[",
        "{\"revision\":6,\"part\":2,\"last\":true,\"changes\":[",
        "{\"key\":\"k\",\"kind\":\"put\",\"new\":\"hunter2\"}",
        "{\"key\":\"k\",\"kind\":\"delete\",\"old\":null}",
        "]}",
        ",\"cursor\":\"00000000000000000000000000000007-5-00000000000000000000000000000069\"}",
        ",\"cursor\":\"00000000000000000000000000000007-6-0000000000000000000000000000006a\"}",
        ",\"cursor\":\"00000000000000000000000000000008-3-00000000000000000000000000000009\"}",
        ",\"cursor\":\"00000000000000000000000000000007-9223372036854775807-00000000000000000000000000000009\"}",
        "null",
        "1e400",
        "\"\\ud800\"",
        "}",
    ],
};

pub(super) const STATE: Target = Target {
    name: "server_state",
    holds: whole,
    words: &[
        "{\"revision\":5,\"entries\":[",
        "{\"key\":\"a\",\"value\":\"hunter2\",\"revision\":5,\"updatedAt\":\"2026-01-01T00:00:00.000001Z\"}",
        "{\"key\":\"b\",\"value\":[1e400,{}],\"revision\":1,\"updatedAt\":\"2026-01-01T00:00:00Z\"}",
        "{\"key\":\"c\",\"value\":null,\"revision\":6,\"updatedAt\":\"2026-01-01T00:00:00Z\"}",
        ",",
        "]}",
        "]",
        "}",
        "{",
        "[",
        "\"",
        "\\",
        "\"more\":",
        "1969-01-01T00:00:00Z",
        "\u{0}",
    ],
};

fn begun() -> Cursor {
    Cursor {
        epoch: Epoch::from_u128(7),
        revision: Revision::new(4),
        id: RevisionId::from_u128(0x68),
    }
}

/// Line by line: whatever is told, what comes of it goes on without a gap, and never back.
fn news(data: &[u8]) {
    let mut ear = Ear::at(begun());
    let mut before = begun();
    for line in String::from_utf8_lossy(data).lines() {
        let heard = ear.hear(line);
        if let Err(why) = &heard {
            assert_secret(why);
        }
        let Some((rest, head)) = ear.after(before.revision) else {
            // The place is another one: the journal is read.
            return;
        };
        let mut expected = before.revision;
        for revision in rest {
            expected = expected.next();
            assert_eq!(revision.revision, expected);
        }
        if head.epoch == before.epoch {
            assert!(head.revision >= before.revision, "it went back");
            assert_eq!(head.revision, expected);
        }
        before = head;
        if heard.is_err() {
            return;
        }
    }
}

/// In pieces of a length that the first byte chooses: the same as in one.
fn whole(data: &[u8]) {
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let cursor = Cursor {
        revision: Revision::new(5),
        ..begun()
    };
    let (cut, read) = (
        state(cursor, body, usize::from(*first)),
        state(cursor, body, body.len()),
    );
    assert_eq!(cut.as_ref().err(), read.as_ref().err());
    match (cut, read) {
        (Ok(cut), Ok(read)) => {
            let texts = |entries: &[std::sync::Arc<crate::core::Entry>]| -> Vec<(String, String)> {
                let text = |entry: &std::sync::Arc<crate::core::Entry>| {
                    (entry.key().to_string(), entry.as_json().to_owned())
                };
                entries.iter().map(text).collect()
            };
            assert_eq!(texts(&cut), texts(&read));
            assert!(texts(&cut).is_sorted_by(|one, next| one.0 < next.0));
            let ahead =
                |entry: &std::sync::Arc<crate::core::Entry>| entry.revision() > cursor.revision;
            assert!(!cut.iter().any(ahead));
            for entry in &cut {
                assert!(
                    serde_json::from_str::<&serde_json::value::RawValue>(entry.as_json()).is_ok()
                );
            }
        }
        (Err(cut), Err(read)) => {
            assert_secret(&cut);
            assert!(!read.contains(SECRET));
        }
        // What is refused in one way is refused in the other.
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => {}
    }
}
