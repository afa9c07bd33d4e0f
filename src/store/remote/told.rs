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
                let why = crate::core::shown_start(&refused.problem);
                Ok(Effect::Refused(message.number(), why))
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
mod tests;
