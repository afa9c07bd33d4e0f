//! Changes: what the journal says of a revision, and what subscribers are told of it.

use std::sync::Arc;

use super::{Cursor, Entry, Key, Revision, RevisionId};

/// One revision as the journal holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Journaled {
    pub(crate) revision: Revision,
    pub(crate) id: RevisionId,
    /// When its transaction began, in microseconds since 1970 by the database's clock.
    pub(crate) at_micros: i64,
    /// The instance that wrote it through the library, if one did.
    pub(crate) origin: Option<u64>,
    pub(crate) changes: Vec<JournaledChange>,
}

/// A key and what the revision made of it: a text, or absence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JournaledChange {
    pub(crate) key: Key,
    pub(crate) new: Option<Arc<str>>,
}

/// Why a change is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Cause {
    /// This instance wrote it.
    Local,
    /// Another instance, or any other client of the database, wrote it.
    Remote,
    /// A full resync found it: the table and this instance's copy of it had come apart, or the history was replaced.
    Resync,
}

/// What a change did to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ChangeKind {
    /// The key has a value now.
    Put,
    /// The key is absent now.
    Delete,
}

/// A key with what it was before and what it is now. Absence is `None`; JSON's `null` is a value.
#[derive(Clone, Debug)]
pub struct Change {
    pub(crate) key: Key,
    pub(crate) old: Option<Arc<Entry>>,
    pub(crate) new: Option<Arc<Entry>>,
}

impl Change {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The entry before the change.
    #[must_use]
    pub fn old(&self) -> Option<&Arc<Entry>> {
        self.old.as_ref()
    }

    /// The entry after the change.
    #[must_use]
    #[allow(clippy::new_ret_no_self, reason = "old and new are the words for it")]
    pub fn new(&self) -> Option<&Arc<Entry>> {
        self.new.as_ref()
    }

    /// Whether the key was put or deleted.
    #[must_use]
    pub fn kind(&self) -> ChangeKind {
        if self.new.is_some() {
            ChangeKind::Put
        } else {
            ChangeKind::Delete
        }
    }
}

/// All changes of one revision, together.
#[derive(Clone, Debug)]
pub struct ChangeSet {
    pub(crate) cursor: Cursor,
    pub(crate) cause: Cause,
    pub(crate) changes: Vec<Change>,
}

impl ChangeSet {
    /// The revision that made these changes; for a resync the revision it ended at.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.cursor.revision
    }

    /// The revision with its epoch and random id, to resume from.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Who made them.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// The changes, in byte order of their keys.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// How much memory this may hold while it waits that would be free without it: the changes and their texts.
    pub(crate) fn weight(&self) -> usize {
        let text = |entry: Option<&Arc<Entry>>| entry.map_or(0, |entry| entry.as_json().len());
        let weight = |change: &Change| {
            // The old text is the one that the event before brought, unless this is all that is left of the key.
            let text = text(change.new().or(change.old()));
            size_of::<Change>() + change.key().len() + text
        };
        self.changes.iter().map(weight).sum()
    }
}
