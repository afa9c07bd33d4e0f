//! Writes that join a transaction of the caller's.

use crate::core::{Epoch, Key, Revision};

/// A write that has joined a transaction of the caller's. After the commit, [`crate::ConfigService::committed`] tells its
/// revision.
#[derive(Clone, Debug)]
#[must_use = "ask `committed` for its revision after the commit, or drop it on purpose"]
pub struct Joined {
    pub(crate) epoch: Epoch,
    /// The head when it joined: its revision is a later one.
    pub(crate) head: Revision,
    /// Names the transaction's changes in its store; `None` when there are none.
    pub(crate) change: Option<i64>,
    pub(crate) changed: Vec<Key>,
}

impl Joined {
    /// The keys that this write changed, in the order written. What the rest of the transaction does to them is its own.
    #[must_use]
    pub fn changed_keys(&self) -> &[Key] {
        &self.changed
    }
}
