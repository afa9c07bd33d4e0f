//! Messages as the bytes that a transport sends, made once for everybody who is sent the same.
//!
//! Guarantees: one revision is one message, or several parts of which only the last has a cursor, so that a client that
//! resumes never has half a revision behind it. A WebSocket's frame is never longer than the bound: what does not fit,
//! because a single value is as long as that, comes as the pieces of its text.

use std::time::SystemTime;

use axum::body::Bytes;
use serde_json::Value;

use crate::core::Cursor;
use crate::server::message;
use crate::wire::timestamp;

/// An event's data is split beyond this: it is the bound of a value. One item may be longer, having an old and a new one.
pub(super) const MAX_DATA: usize = 1_048_576;

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
    pub(super) fn list(self) -> usize {
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
}
