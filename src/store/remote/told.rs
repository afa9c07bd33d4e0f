//! What a server told on one connection, taken in message by message.
//!
//! Guarantees: a revision counts when it has come whole, and in order; whatever a server leaves out, repeats or makes up leads
//! to a read of the journal, to nothing, or to the end of the connection, never to a state that was not told. Memory is that
//! of the buffer and of one revision under way.

use super::buffer::{Buffer, Following, Pushed};
use super::elements::Strange;
use super::wire::{self, Changed, Chunk, HeadAnswer, MAX_ENTRY, MAX_REVISION, Message};
use crate::core::notice::Notice;
use crate::core::replica::AuditReport;
use crate::core::{Cursor, JournaledChange, Revision, RevisionId};

/// A message that comes in pieces holds one item: an old and a new value of the largest kind with their keys.
const MAX_CHUNKED: usize = 2 * MAX_ENTRY;

/// What has been told.
#[derive(Debug)]
pub(super) struct Told {
    buffer: Buffer,
    /// The newest place that the server is known to show.
    shown: Cursor,
    /// A revision of which not all parts have come.
    parts: Option<Parts>,
    /// The text of a message that comes in pieces, and the number of the last one.
    chunks: Option<(u64, String)>,
}

/// What a message leads to.
#[derive(Debug)]
pub(super) enum Effect {
    Nothing,
    /// There may be something to read.
    News(Notice),
    /// An answer to a question.
    Head(u64, HeadTold),
    Pong,
    /// The server could not answer a question; why is its own words.
    Refused(Option<u64>, String),
}

/// What a server says of its head.
#[derive(Clone, Debug)]
pub(super) struct HeadTold {
    pub(super) cursor: Cursor,
    pub(super) own_id: Option<RevisionId>,
    /// How long ago that was last proven the newest.
    pub(super) stale_ms: Option<u64>,
    /// Why it cannot ask its own store.
    pub(super) away: Option<String>,
    pub(super) audit: Option<AuditReport>,
}

#[derive(Debug)]
struct Parts {
    revision: u64,
    /// The number of the part that came last.
    part: u64,
    changes: Vec<JournaledChange>,
    at: Option<i64>,
    bytes: usize,
}

impl Told {
    /// Begins after a place, on a server that shows another one or the same.
    pub(super) fn at(base: Cursor, shown: Cursor) -> Self {
        Self {
            buffer: Buffer::at(base),
            shown,
            parts: None,
            chunks: None,
        }
    }

    /// The newest place of which all that led there was told, or that the server said it shows.
    pub(super) fn newest(&self) -> Cursor {
        let head = self.buffer.head();
        if self.shown.epoch == head.epoch && head.revision >= self.shown.revision {
            head
        } else {
            self.shown
        }
    }

    /// The revisions after one, if they were all told, and whether more of them are still to come.
    pub(super) fn after(&mut self, after: Revision) -> Option<(Following, Cursor, bool)> {
        let following = self.buffer.after(after)?;
        let head = self.buffer.head();
        let awaited = self.newest() != head || self.parts.is_some();
        Some((following, head, awaited))
    }

    /// Takes a message in.
    pub(super) fn take(&mut self, text: &str) -> Result<Effect, Strange> {
        let message = Message::read(text)?;
        match &*message.kind {
            "config.chunk" => self.chunk(&message.payload()?),
            "config.changed" => self.changed(&message, text.len()),
            "config.snapshot" | "config.progress" | "config.reset" => match message.cursor()? {
                Some(cursor) => self.elsewhere(cursor),
                None => Ok(Effect::Nothing),
            },
            "head" => {
                let head = head_told(&message.payload()?)?;
                if head.cursor.epoch != self.newest().epoch {
                    self.restart(head.cursor);
                }
                match message.number() {
                    Some(number) => Ok(Effect::Head(number, head)),
                    None => Err(Strange::new("an answer says not to what")),
                }
            }
            "pong" => Ok(Effect::Pong),
            "error" => {
                let refused = message.payload::<Refused>().unwrap_or_default();
                Ok(Effect::Refused(message.number(), refused.problem))
            }
            _ => Ok(Effect::Nothing),
        }
    }

    /// Takes in a piece of a message that is too long for one.
    fn chunk(&mut self, chunk: &Chunk<'_>) -> Result<Effect, Strange> {
        let (before, mut whole) = match self.chunks.take() {
            _ if chunk.chunk == 1 => (0, String::new()),
            Some(before) => before,
            None => (0, String::new()),
        };
        if chunk.chunk != before + 1 {
            return Err(Strange::new("a piece of a message is missing"));
        }
        if whole.len() + chunk.text.len() > MAX_CHUNKED {
            return Err(Strange(format!(
                "a message is longer than {MAX_CHUNKED} bytes"
            )));
        }
        whole.push_str(&chunk.text);
        if !chunk.last {
            self.chunks = Some((chunk.chunk, whole));
            return Ok(Effect::Nothing);
        }
        if Message::read(&whole)?.kind == "config.chunk" {
            return Err(Strange::new("a piece of a message is made of pieces"));
        }
        self.take(&whole)
    }

    /// Takes in one revision, or a part of one.
    fn changed(&mut self, message: &Message<'_>, bytes: usize) -> Result<Effect, Strange> {
        let changed: Changed<'_> = message.payload()?;
        let (changes, at) = changed.changes()?;
        let part = changed.part.unwrap_or(1);
        let last = changed.last.unwrap_or(changed.part.is_none());
        let before = self.parts.take();
        let mut parts = match before {
            _ if part == 1 => Parts {
                revision: changed.revision,
                part: 0,
                changes: Vec::new(),
                at: None,
                bytes: 0,
            },
            Some(before) if before.revision == changed.revision => before,
            _ => return Err(Strange::new("a part of a revision is missing")),
        };
        if part != parts.part + 1 {
            return Err(Strange::new("a part of a revision is missing"));
        }
        parts.part = part;
        parts.at = parts.at.max(at);
        parts.bytes = parts.bytes.saturating_add(bytes);
        // One that is too large to hold is counted and read in another way.
        if parts.bytes <= MAX_REVISION {
            parts.changes.extend(changes);
        } else {
            parts.changes = Vec::new();
        }
        if !last {
            self.parts = Some(parts);
            return Ok(Effect::Nothing);
        }
        let cursor = message.cursor()?;
        let cursor = cursor.ok_or_else(|| Strange::new("a revision has no cursor"))?;
        if cursor.revision != wire::revision(parts.revision)? {
            return Err(Strange::new("a revision has the cursor of another"));
        }
        self.whole(cursor, parts)
    }

    fn whole(&mut self, cursor: Cursor, parts: Parts) -> Result<Effect, Strange> {
        let head = self.buffer.head();
        if cursor.epoch == head.epoch && cursor.revision <= head.revision {
            if cursor.revision == head.revision && cursor.id != head.id {
                return Err(Strange::new(
                    "a revision is told a second time and is another one",
                ));
            }
            return Ok(Effect::Nothing);
        }
        let bytes = parts.bytes;
        if bytes > MAX_REVISION {
            return self.elsewhere(cursor);
        }
        let pushed = Pushed {
            cursor,
            journaled: wire::journaled(cursor, parts.changes, parts.at),
            bytes,
        };
        if self.buffer.push(pushed) {
            Ok(Effect::News(news(cursor)))
        } else {
            self.elsewhere(cursor)
        }
    }

    /// The server shows another place, and what led there was not told.
    fn elsewhere(&mut self, cursor: Cursor) -> Result<Effect, Strange> {
        let newest = self.newest();
        if cursor == newest {
            return Ok(Effect::Nothing);
        }
        if cursor.epoch != newest.epoch {
            self.restart(cursor);
            return Ok(Effect::News(Notice::Changed {
                epoch: newest.epoch,
                revision: Revision::ZERO,
            }));
        }
        let head = self.buffer.head();
        if cursor.revision < head.revision {
            return Err(Strange::new("its state went back within one history"));
        }
        if cursor.revision > head.revision {
            self.restart(cursor);
            return Ok(Effect::News(news(cursor)));
        }
        Ok(Effect::Nothing)
    }

    fn restart(&mut self, cursor: Cursor) {
        self.buffer = Buffer::at(cursor);
        self.shown = cursor;
        self.parts = None;
    }
}

fn news(cursor: Cursor) -> Notice {
    let Cursor {
        epoch, revision, ..
    } = cursor;
    Notice::Changed { epoch, revision }
}

fn head_told(answer: &HeadAnswer<'_>) -> Result<HeadTold, Strange> {
    let away = (answer.mode == "offline").then(|| {
        let why = answer.reason.as_deref().unwrap_or("its own store is away");
        crate::core::shown_start(why)
    });
    Ok(HeadTold {
        cursor: answer.cursor()?,
        own_id: answer.own_id()?,
        stale_ms: answer.stale_ms,
        away,
        audit: answer.audit()?,
    })
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Refused {
    problem: String,
}

#[cfg(test)]
mod tests {
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
}
