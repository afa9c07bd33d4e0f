//! The readers of what servers say, for properties that hold of every text.

use std::sync::Arc;

use super::state::Gathered;
use super::told::Told;
use crate::core::{Cursor, Entry, Journaled, Revision};

/// What a server tells on one connection.
pub(crate) struct Ear(Told);

impl Ear {
    pub(crate) fn at(cursor: Cursor) -> Self {
        Self(Told::at(cursor, cursor))
    }

    /// Takes a message in; why it cannot be understood otherwise.
    pub(crate) fn hear(&mut self, text: &str) -> Result<(), String> {
        self.0.take(text).map(drop).map_err(|strange| strange.0)
    }

    /// The revisions after one, if they were all told, and the newest place.
    pub(crate) fn after(&mut self, after: Revision) -> Option<(Vec<Journaled>, Cursor)> {
        let (following, head, _) = self.0.after(after)?;
        Some((following.revisions, head))
    }
}

/// Reads a state that comes in pieces.
pub(crate) fn state(cursor: Cursor, body: &[u8], piece: usize) -> Result<Vec<Arc<Entry>>, String> {
    let mut gathered = Gathered::at(cursor);
    for piece in body.chunks(piece.max(1)) {
        gathered.push(piece).map_err(|strange| strange.0)?;
    }
    gathered.finish().map_err(|strange| strange.0)
}
