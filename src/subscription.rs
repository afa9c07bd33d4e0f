//! What a subscriber asks for and what it is told.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::core::{Change, ChangeSet, Entry, Key, Snapshot};

/// Which changes a subscriber hears about.
///
/// ```
/// use sync_config::Filter;
/// let limits = Filter::prefix("limit:").with_state();
/// assert!(limits.matches("limit:login") && !limits.matches("feature:new_ui"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    scope: Scope,
    pub(crate) state: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    All,
    Key(String),
    Prefix(String),
}

impl Filter {
    /// All keys.
    #[must_use]
    pub fn all() -> Self {
        Self {
            scope: Scope::All,
            state: false,
        }
    }

    /// One key.
    #[must_use]
    pub fn key(key: impl Into<String>) -> Self {
        Self {
            scope: Scope::Key(key.into()),
            state: false,
        }
    }

    /// The keys that begin with a prefix.
    #[must_use]
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self {
            scope: Scope::Prefix(prefix.into()),
            state: false,
        }
    }

    /// Begins with [`Event::State`]: the state at some revision r, followed by exactly r + 1 and so on.
    #[must_use]
    pub fn with_state(mut self) -> Self {
        self.state = true;
        self
    }

    /// Whether a key is concerned.
    #[must_use]
    pub fn matches(&self, key: &str) -> bool {
        match &self.scope {
            Scope::All => true,
            Scope::Key(only) => only == key,
            Scope::Prefix(prefix) => key.starts_with(prefix.as_str()),
        }
    }

    /// The matching part of a set; `None` when nothing matches.
    pub(crate) fn apply(&self, set: &Arc<ChangeSet>) -> Option<Arc<ChangeSet>> {
        let concerned = |change: &Change| self.matches(change.key());
        if set.changes.iter().all(concerned) {
            return if set.changes.is_empty() {
                None
            } else {
                Some(set.clone())
            };
        }
        let changes: Vec<Change> = set
            .changes
            .iter()
            .filter(|change| concerned(change))
            .cloned()
            .collect();
        if changes.is_empty() {
            None
        } else {
            Some(Arc::new(ChangeSet { changes, ..**set }))
        }
    }

    /// The matching part of a snapshot.
    pub(crate) fn narrow(&self, snapshot: &Arc<Snapshot>) -> Arc<Snapshot> {
        let entries = match &self.scope {
            Scope::All => return snapshot.clone(),
            Scope::Key(key) => snapshot.get(key).cloned().into_iter().collect(),
            Scope::Prefix(prefix) => snapshot.prefixed(prefix).to_vec(),
        };
        Arc::new(Snapshot::new(snapshot.cursor(), entries))
    }
}

/// What a subscriber is told, in revision order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The state a subscription begins with, if it asked for it. Exactly the next revision follows.
    State(Arc<Snapshot>),
    /// The matching changes of one revision, together. Reads show this revision or a later one.
    Changed(Arc<ChangeSet>),
    /// A full resync ended: the matching true differences, which may be none.
    Resynced(Arc<ChangeSet>),
    /// The subscriber was too slow for its queue. So many revisions were dropped; this is the state after them, and
    /// exactly the next revision follows.
    Lagged {
        /// How many revisions with matching changes were dropped.
        missed: u64,
        /// The state after them.
        state: Arc<Snapshot>,
    },
}

/// What is called with each event, one after the other, never two at once for the same subscription.
pub type Callback = Box<dyn FnMut(&Event) + Send>;

/// Names a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(pub(crate) u64);

/// Follows one key through the events of a subscription: what it was, what it is.
#[derive(Debug)]
pub(crate) struct Follower {
    key: Key,
    last: Option<Arc<Entry>>,
}

/// A decoded value, or absence.
type Decoded<T> = Option<Arc<T>>;

impl Follower {
    pub(crate) fn new(key: Key) -> Self {
        Self { key, last: None }
    }

    /// The key's values before and after an event, if it made a difference. The state at the beginning is taken in
    /// silently; a value of another type is logged and counts as if it had not come.
    pub(crate) fn follow<T: DeserializeOwned + Send + Sync + 'static>(
        &mut self,
        event: &Event,
    ) -> Option<(Decoded<T>, Decoded<T>)> {
        let (new, first) = match event {
            Event::State(state) => (state.get(&self.key).cloned(), true),
            Event::Lagged { state, .. } => (state.get(&self.key).cloned(), false),
            Event::Changed(set) | Event::Resynced(set) => (
                set.changes()
                    .iter()
                    .find(|change| change.key() == &self.key)?
                    .new()
                    .cloned(),
                false,
            ),
        };
        let decoded = match new.as_ref().map(|entry| entry.decode::<T>()) {
            Some(Ok(value)) => Some(value),
            None => None,
            Some(Err(error)) => {
                let revision = new.as_ref().map_or(0, |entry| entry.revision().get());
                tracing::warn!(key = %self.key.escape_debug(), revision, %error, "a subscriber's value has another type");
                return None;
            }
        };
        let old = std::mem::replace(&mut self.last, new);
        let same = old.as_ref().map(|entry| entry.as_json())
            == self.last.as_ref().map(|entry| entry.as_json());
        if first || same {
            None
        } else {
            Some((old.and_then(|entry| entry.decode().ok()), decoded))
        }
    }
}
