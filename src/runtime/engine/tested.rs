//! What a test asks of an engine, and does to it.

use std::sync::Arc;

use super::Engine;
use crate::core::{Cursor, Entry};
use crate::error::{Kind, Result};

impl Engine {
    /// What is shown, and whether every callback of it has returned.
    pub(crate) fn at_ease(&self) -> (Option<Cursor>, bool) {
        // No revision is half told while this is held.
        let replica = self.replica();
        (replica.cursor(), self.subscriptions.at_ease())
    }

    /// Breaks this instance's copy of a key.
    pub(crate) fn falsify(&self, entry: Arc<Entry>) -> Result<()> {
        let mut replica = self.replica();
        if !replica.falsify(entry.clone()) {
            return Err(Kind::NotReady.into());
        }
        self.cache.falsify(entry);
        self.snapshot.store(None);
        Ok(())
    }
}
