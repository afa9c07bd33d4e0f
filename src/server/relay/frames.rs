//! Messages as the bytes that a transport sends, made once for everybody who is sent the same.
//!
//! Guarantees: one revision is one message, or several parts of which only the last has a cursor, so that a client that
//! resumes never has half a revision behind it. A WebSocket's frame is never longer than the bound: what does not fit,
//! because a single value is as long as that, comes as the pieces of its text.

use std::iter::Peekable;
use std::time::SystemTime;

use axum::body::Bytes;
use serde_json::Value;

use crate::core::Cursor;
use crate::server::message;
use crate::wire::timestamp;

/// An event's data is split beyond this: it is the bound of a value. One item may be longer, having an old and a new one.
const MAX_DATA: usize = 1_048_576;

/// What a frame holds beside the list of a part: the envelope, a cursor of two places, numbers.
const ENVELOPE: usize = 768;

/// How messages are put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// `event:`, `id:` and the bare payload as `data:`.
    Sse,
    /// One text frame with the payload in an envelope, at most so many bytes.
    WebSocket { most: usize },
}

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    Ack,
    Snapshot,
    Changed,
    Progress,
    /// What came before does not lead here.
    Reset,
    Head,
    Pong,
    Error,
    /// Events that came before are not to be had any more.
    Missed,
    /// A type that somebody published.
    Published(&'a str),
}

impl Kind<'_> {
    fn event(&self) -> &str {
        match self {
            Self::Ack => "ack",
            Self::Snapshot => "snapshot",
            Self::Changed => "change",
            Self::Progress => "progress",
            Self::Reset => "reset",
            Self::Head => "head",
            Self::Pong => "pong",
            Self::Error => "error",
            Self::Missed => "events.missed",
            Self::Published(name) => name,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Ack => "connection.ack",
            Self::Snapshot => "config.snapshot",
            Self::Changed => "config.changed",
            Self::Progress => "config.progress",
            Self::Reset => "config.reset",
            other => other.event(),
        }
    }
}

/// The place of a client that is told of two stores in the one that a message is not of, written behind the message's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Other {
    #[default]
    None,
    /// Where it is among the events.
    Events(Cursor),
    /// Where it is in the configuration, which an event's own place stands behind.
    Config(Cursor),
}

impl Other {
    /// The text of both places.
    pub(super) fn beside(&self, own: Cursor) -> String {
        let (own, id) = (message::id(own), message::id);
        match self {
            Self::None => own,
            Self::Events(events) => format!("{own}~{}", id(*events)),
            Self::Config(config) => format!("{}~{own}", id(*config)),
        }
    }
}

/// One message.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: Kind<'a>,
    /// JSON on one line.
    pub(super) payload: &'a str,
    /// Where a client that has it resumes.
    pub(super) cursor: Option<&'a str>,
    pub(super) correlation: &'a str,
    pub(super) at: SystemTime,
    /// Members beside the payload, each with its comma; a WebSocket's only.
    pub(super) beside: &'a str,
}

impl Framing {
    /// Adds a message's frames.
    pub(super) fn push(self, message: &Message<'_>, out: &mut Vec<Bytes>) {
        match self {
            Self::Sse => out.push(event(message)),
            Self::WebSocket { most } => {
                let (before, after) = envelope(message);
                let length = before.len() + message.payload.len() + after.len();
                if length <= most {
                    out.push(text_frame(&[&before, message.payload, &after]));
                } else {
                    let whole = [before.as_str(), message.payload, &after].concat();
                    pieces(&whole, message, most, out);
                }
            }
        }
    }

    /// How long the list of one part may be.
    fn list(self) -> usize {
        match self {
            Self::Sse => MAX_DATA,
            Self::WebSocket { most } => most.saturating_sub(ENVELOPE),
        }
    }
}

fn event(message: &Message<'_>) -> Bytes {
    let (event, payload) = (message.kind.event(), message.payload);
    let text = match message.cursor {
        Some(id) => format!("event: {event}\nid: {id}\ndata: {payload}\n\n"),
        None => format!("event: {event}\ndata: {payload}\n\n"),
    };
    text.into()
}

/// What stands before a payload and after it.
fn envelope(message: &Message<'_>) -> (String, String) {
    let kind = quoted(message.kind.name());
    let (at, correlation) = (timestamp(message.at), quoted(message.correlation));
    let cursor = message.cursor.map(|id| format!(",\"cursor\":\"{id}\""));
    (
        format!("{{\"type\":{kind},\"payload\":"),
        format!(
            ",\"timestamp\":\"{at}\",\"correlationId\":{correlation}{}{}}}",
            cursor.unwrap_or_default(),
            message.beside,
        ),
    )
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Cuts the text of a message into pieces that fit: JSON strings which together are that text.
fn pieces(whole: &str, message: &Message<'_>, most: usize, out: &mut Vec<Bytes>) {
    let room = most.saturating_sub(ENVELOPE).max(1);
    let (mut rest, mut number) = (whole, 0_u64);
    while !rest.is_empty() {
        let mut escaped = 0;
        let end = rest.char_indices().find_map(|(at, character)| {
            escaped += match character {
                '"' | '\\' => 2,
                control if control < ' ' => 6,
                other => other.len_utf8(),
            };
            (escaped > room && at > 0).then_some(at)
        });
        let (piece, left) = rest.split_at(end.unwrap_or(rest.len()));
        (rest, number) = (left, number + 1);
        let (last, of) = (rest.is_empty(), quoted(message.kind.name()));
        let (text, correlation) = (quoted(piece), quoted(message.correlation));
        out.push(text_frame(&[&format!(
            "{{\"type\":\"config.chunk\",\"payload\":{{\"of\":{of},\"chunk\":{number},\"last\":{last},\"text\":{text}}},\"timestamp\":\"{}\",\"correlationId\":{correlation}}}",
            timestamp(message.at)
        )]));
    }
}

/// An unfragmented text frame as a server sends it: unmasked.
fn text_frame(texts: &[&str]) -> Bytes {
    const TEXT: u8 = 0x81;
    let length: usize = texts.iter().map(|text| text.len()).sum();
    let mut frame = Vec::with_capacity(length + 10);
    frame.push(TEXT);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => frame.push(short),
        (_, Ok(middle)) => {
            frame.push(126);
            frame.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    for text in texts {
        frame.extend_from_slice(text.as_bytes());
    }
    frame.into()
}

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

/// Says how far a client has come, or that it has to begin there.
pub(super) fn place(
    framing: Framing,
    kind: Kind<'_>,
    cursor: Cursor,
    other: &Other,
    at: SystemTime,
) -> Vec<Bytes> {
    let mut out = Vec::with_capacity(1);
    let message = Message {
        kind,
        payload: &format!("{{\"revision\":{}}}", cursor.revision),
        cursor: Some(&other.beside(cursor)),
        correlation: &cursor.id.to_string(),
        at,
        beside: "",
    };
    framing.push(&message, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Epoch, Revision, RevisionId};

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
    fn a_frame_names_its_length_in_all_three_ways() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let text = "x".repeat(length);
            let frame = text_frame(&[&text]);
            let header = match length {
                0..126 => 2,
                126..65_536 => 4,
                _ => 10,
            };
            assert_eq!(frame.len(), header + length);
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
