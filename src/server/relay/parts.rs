//! A revision or a state as messages: one, or several parts.
//!
//! Guarantees: each item stays whole; only the last part has a cursor, so that a client that resumes never has half a revision
//! behind it. Parts are made when they are asked for.

use std::iter::Peekable;
use std::time::SystemTime;

use axum::body::Bytes;

use super::frames::{Framing, Kind, Message};
use crate::core::Cursor;

/// JSON texts, made when they are asked for.
pub(super) type Items = Box<dyn Iterator<Item = String> + Send>;

/// The messages of one revision or state: each item stays whole.
pub(super) struct Parts {
    framing: Framing,
    kind: Kind<'static>,
    list: &'static str,
    cursor: Cursor,
    id: String,
    at: SystemTime,
    items: Peekable<Items>,
    made: usize,
    done: bool,
}

impl Parts {
    pub(super) fn snapshot(
        framing: Framing,
        place: (Cursor, String),
        at: SystemTime,
        entries: Items,
    ) -> Self {
        Self::new(framing, Kind::Snapshot, "entries", place, at, entries)
    }

    pub(super) fn changed(
        framing: Framing,
        place: (Cursor, String),
        at: SystemTime,
        changes: Items,
    ) -> Self {
        Self::new(framing, Kind::Changed, "changes", place, at, changes)
    }

    fn new(
        framing: Framing,
        kind: Kind<'static>,
        list: &'static str,
        (cursor, id): (Cursor, String),
        at: SystemTime,
        items: Items,
    ) -> Self {
        Self {
            framing,
            kind,
            list,
            cursor,
            id,
            at,
            items: items.peekable(),
            made: 0,
            done: false,
        }
    }

    /// Adds the frames of the next part. False when there is none.
    pub(super) fn push_next(&mut self, out: &mut Vec<Bytes>) -> bool {
        if self.done {
            return false;
        }
        let (mut list, most) = (String::new(), self.framing.list());
        while let Some(item) = self
            .items
            .next_if(|item| list.is_empty() || list.len() + item.len() < most)
        {
            if !list.is_empty() {
                list.push(',');
            }
            // A line break ends an event's field. In JSON it stands between tokens only, where a blank does as well.
            if item.contains(['\n', '\r']) {
                list.push_str(&item.replace(['\n', '\r'], " "));
            } else {
                list.push_str(&item);
            }
        }
        self.made += 1;
        self.done = self.items.peek().is_none();
        let part = if self.done && self.made == 1 {
            String::new()
        } else {
            format!("\"part\":{},\"last\":{},", self.made, self.done)
        };
        let (revision, name) = (self.cursor.revision, self.list);
        let message = Message {
            kind: self.kind,
            payload: &format!("{{\"revision\":{revision},{part}\"{name}\":[{list}]}}"),
            cursor: self.done.then_some(self.id.as_str()),
            correlation: &self.cursor.id.to_string(),
            at: self.at,
            beside: "",
        };
        self.framing.push(&message, out);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::MAX_DATA;
    use super::*;
    use crate::core::{Epoch, Revision, RevisionId};
    use crate::server::message;
    use serde_json::Value;

    const WHEN: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(revision: u64) -> Cursor {
        Cursor {
            epoch: Epoch::from_u128(7),
            revision: Revision::new(revision),
            id: RevisionId::from_u128(9),
        }
    }

    fn frames(framing: Framing, items: Vec<String>) -> Vec<Bytes> {
        let place = (at(3), message::id(at(3)));
        let mut parts = Parts::changed(framing, place, WHEN, Box::new(items.into_iter()));
        let mut out = Vec::new();
        while parts.push_next(&mut out) {}
        out
    }

    fn texts(items: Vec<String>) -> Vec<String> {
        let frames = frames(Framing::Sse, items);
        let text = |part: &Bytes| String::from_utf8(part.to_vec()).unwrap();
        frames.iter().map(text).collect()
    }

    /// The JSON of a text frame.
    fn unframed(frame: &Bytes) -> Value {
        assert_eq!(frame[0], 0x81);
        let (skip, length) = match frame[1] {
            126 => (4, u64::from(u16::from_be_bytes([frame[2], frame[3]]))),
            127 => (10, u64::from_be_bytes(frame[2..10].try_into().unwrap())),
            short => (2, u64::from(short)),
        };
        assert_eq!(frame.len() as u64, skip + length);
        serde_json::from_slice(&frame[usize::try_from(skip).unwrap()..]).unwrap()
    }

    #[test]
    fn a_small_revision_is_one_message_with_its_id() {
        let [only] = &texts(vec!["1".to_owned(), "[\n2]".to_owned()])[..] else {
            panic!("one message was expected");
        };
        let id = message::id(at(3));
        assert_eq!(
            *only,
            format!("event: change\nid: {id}\ndata: {{\"revision\":3,\"changes\":[1,[ 2]]}}\n\n")
        );
        assert_eq!(texts(Vec::new()).len(), 1);
    }

    #[test]
    fn a_large_revision_comes_in_parts_and_only_the_last_has_an_id() {
        let item = format!("\"{}\"", "x".repeat(MAX_DATA / 2));
        let parts = texts(vec![item.clone(); 3]);
        assert_eq!(parts.len(), 3);
        for (at, part) in parts.iter().enumerate() {
            assert_eq!(part.contains("\nid: "), at == 2);
            assert!(part.contains(&format!("\"part\":{},\"last\":{}", at + 1, at == 2)));
        }
        let frames = frames(Framing::WebSocket { most: MAX_DATA }, vec![item; 3]);
        assert_eq!(frames.len(), 3);
        for (number, frame) in frames.iter().enumerate() {
            let json = unframed(frame);
            assert_eq!(json["type"], "config.changed");
            assert_eq!(json["payload"]["part"], number + 1);
            assert_eq!(json["cursor"].is_string(), number == 2);
        }
    }

    #[test]
    fn what_is_longer_than_a_frame_comes_in_pieces_that_are_its_text() {
        let most = 4_096;
        let item = format!("\"{}\"", "\u{e4}\\\"\\u0007 ".repeat(3_000));
        let frames = frames(
            Framing::WebSocket { most },
            vec![item.clone(), "7".to_owned()],
        );
        let mut text = String::new();
        let (mut pieces, mut rest) = (0, Vec::new());
        for frame in &frames {
            assert!(frame.len() <= most + 10, "{}", frame.len());
            let json = unframed(frame);
            if json["type"] == "config.chunk" {
                pieces += 1;
                assert_eq!(json["payload"]["chunk"], pieces);
                text.push_str(json["payload"]["text"].as_str().unwrap());
            } else {
                rest.push(json);
            }
        }
        let whole: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            whole["payload"]["changes"][0].to_string(),
            serde_json::from_str::<Value>(&item).unwrap().to_string()
        );
        assert!(pieces > 5 && whole.get("cursor").is_none());
        assert_eq!(rest[0]["payload"]["last"], true);
        assert!(rest[0]["cursor"].is_string());
    }
}
