//! What is remembered of the recent past.

use std::sync::Arc;

use super::Engine;
use crate::core::{ChangeSet, Cursor, Snapshot};

impl Engine {
    /// Whether a revision put a key that was absent before; `None` when it is not among those remembered.
    pub(crate) fn created(&self, cursor: Cursor, key: &str) -> Option<bool> {
        let replica = self.replica();
        let set = replica.remembered(cursor)?;
        let change = set
            .changes()
            .iter()
            .find(|change| change.key().as_str() == key)?;
        Some(change.old().is_none() && change.new().is_some())
    }

    /// The present state with what the revisions after a cursor changed, oldest first; `None` when they are not all remembered.
    pub(crate) fn since(&self, cursor: Cursor) -> Option<(Arc<Snapshot>, Vec<Arc<ChangeSet>>)> {
        let replica = self.replica();
        let later = replica.sets_after(cursor)?;
        Some((self.current(&replica)?.snapshot.clone(), later))
    }
}
