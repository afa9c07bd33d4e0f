//! How a test breaks one replica's copy.

use std::sync::Arc;

use super::Replica;
use crate::core::Entry;

impl Replica {
    /// Puts an entry into the table that no revision has brought, as a flipped bit would. False before the first load.
    pub(crate) fn falsify(&mut self, entry: Arc<Entry>) -> bool {
        let Some(state) = &mut self.state else {
            return false;
        };
        let key = entry.key().clone();
        drop(state.table.set(&key, Some(entry)));
        state.checksum = None;
        true
    }
}
