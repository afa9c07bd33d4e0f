//! A whole state that arrives in pieces.
//!
//! Guarantees: it is taken as a whole or not at all; its entries are in the order of their keys, each key once, and none is newer
//! than the state; beside the entries one of them at most is held as a text.

use std::sync::Arc;

use super::elements::{Elements, Part, Strange};
use super::wire::{self, MAX_ENTRY};
use crate::core::{Cursor, Entry};

/// The largest state, as bytes of its answer: more would not fit beside itself on a common machine.
const MAX_STATE: usize = 8 * 1_024 * 1_048_576;

/// What has come of a state.
pub(super) struct Gathered {
    cursor: Cursor,
    cutter: Elements,
    entries: Vec<Arc<Entry>>,
    /// Whether it said the revision of its cursor.
    numbered: bool,
    bytes: usize,
}

impl Gathered {
    /// Begins with the place that the answer's header told.
    pub(super) fn at(cursor: Cursor) -> Self {
        Self {
            cursor,
            cutter: Elements::new(MAX_ENTRY),
            entries: Vec::new(),
            numbered: false,
            bytes: 0,
        }
    }

    /// Takes in the next piece.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), Strange> {
        self.bytes = self.bytes.saturating_add(piece.len());
        if self.bytes > MAX_STATE {
            return Err(Strange::new("its state is larger than 8 GiB"));
        }
        let (revision, entries) = (self.cursor.revision, &mut self.entries);
        let numbered = &mut self.numbered;
        self.cutter.push(piece, &mut |part| match part {
            Part::Element {
                name: "entries",
                text,
            } => {
                let entry = wire::entry(text, revision)?;
                if entries.last().is_some_and(|last| last.key() >= entry.key()) {
                    return Err(Strange::new("its state is not in the order of the keys"));
                }
                entries.push(Arc::new(entry));
                Ok(())
            }
            Part::Member {
                name: "revision",
                text,
            } => {
                *numbered = text.parse() == Ok(revision.get());
                Ok(())
            }
            _ => Ok(()),
        })
    }

    /// The entries, if the state has come whole.
    pub(super) fn finish(self) -> Result<Vec<Arc<Entry>>, Strange> {
        self.cutter.finish()?;
        if self.numbered {
            Ok(self.entries)
        } else {
            Err(Strange::new(
                "its state has another revision than its cursor",
            ))
        }
    }
}
