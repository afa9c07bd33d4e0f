//! What a subscriber asks for and what it is told.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use serde::de::DeserializeOwned;

use crate::core::{Change, ChangeSet, DecodeError, Entry, Key, Prefix, Snapshot};

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
    pub(crate) name: Option<String>,
    /// What waits behind the callback, where that hands over to a queue of its own.
    pub(crate) behind: Option<Behind>,
    /// Revisions without a matching change are told, too.
    pub(crate) every: bool,
}

/// How much waits in a queue that a callback fills, and how much may: revisions and bytes.
#[derive(Clone, Debug)]
pub(crate) struct Behind {
    pub(crate) queued: Arc<AtomicUsize>,
    pub(crate) bytes: Arc<AtomicUsize>,
    pub(crate) most: (usize, usize),
}

impl PartialEq for Behind {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.queued, &other.queued)
    }
}

impl Eq for Behind {}

/// A subscriber's name in bytes, as a consumer's; the rest is cut off.
const MAX_NAME: usize = 48;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    All,
    Key(String),
    Prefix(String),
}

impl Filter {
    fn of(scope: Scope) -> Self {
        Self {
            scope,
            state: false,
            name: None,
            behind: None,
            every: false,
        }
    }

    /// All keys.
    #[must_use]
    pub fn all() -> Self {
        Self::of(Scope::All)
    }

    /// One key.
    #[must_use]
    pub fn key(key: impl Into<String>) -> Self {
        Self::of(Scope::Key(key.into()))
    }

    /// The keys that begin with a prefix.
    #[must_use]
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self::of(Scope::Prefix(prefix.into()))
    }

    /// Begins with [`Event::State`]: the state at some revision r, followed by exactly r + 1 and so on.
    #[must_use]
    pub fn with_state(mut self) -> Self {
        self.state = true;
        self
    }

    /// Names the subscriber in the status when it is slow; beyond 48 bytes the name is cut.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        let mut name = name.into();
        while name.len() > MAX_NAME {
            let _last = name.pop();
        }
        self.name = Some(name);
        self
    }

    /// Counts a queue that the callback fills as the subscriber's own.
    pub(crate) fn before(mut self, behind: Behind) -> Self {
        self.behind = Some(behind);
        self
    }

    /// Asks for every revision, those without a matching change included: a copy that counts revisions misses none.
    #[cfg(feature = "server")]
    pub(crate) fn every(mut self) -> Self {
        self.every = true;
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

    /// The same for the keys of a view, as its store names them.
    pub(crate) fn within(self, prefix: &Prefix) -> Self {
        let join = |text: &str| format!("{}{text}", prefix.as_str());
        let scope = match &self.scope {
            Scope::All => Scope::Prefix(join("")),
            Scope::Key(key) => Scope::Key(join(key)),
            Scope::Prefix(text) => Scope::Prefix(join(text)),
        };
        Self { scope, ..self }
    }

    /// How many revisions wait behind the callback, and whether half of what may wait there does.
    pub(crate) fn behind(&self) -> (usize, bool) {
        if let Some(behind) = &self.behind {
            let queued = behind.queued.load(Ordering::Relaxed);
            let bytes = behind.bytes.load(Ordering::Relaxed);
            let filling = queued > behind.most.0 / 2 || bytes > behind.most.1 / 2;
            return (queued, filling);
        }
        (0, false)
    }

    /// The matching part of a set; `None` when nothing matches. Costs a search and a copy of what matches: there may be
    /// many subscribers and a million changes.
    pub(crate) fn apply(&self, set: &Arc<ChangeSet>) -> Option<Arc<ChangeSet>> {
        let matching = self.matching(&set.changes);
        if matching.is_empty() {
            None
        } else if matching.len() == set.changes.len() {
            Some(set.clone())
        } else {
            let changes = matching.to_vec();
            Some(Arc::new(ChangeSet { changes, ..**set }))
        }
    }

    /// The matching ones of changes that are in byte order of their keys.
    fn matching<'a>(&self, changes: &'a [Change]) -> &'a [Change] {
        let first = match &self.scope {
            Scope::All => return changes,
            Scope::Key(first) | Scope::Prefix(first) => first.as_str(),
        };
        let from = changes.partition_point(|change| change.key().as_str() < first);
        let rest = changes.get(from..).unwrap_or_default();
        let length = rest.partition_point(|change| self.matches(change.key()));
        rest.get(..length).unwrap_or_default()
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
    /// The subscriber was too slow for its queue of 1,024 revisions and 32 MiB. So many revisions were dropped; this is the state after them, and
    /// exactly the next revision follows.
    Lagged {
        /// How many revisions with matching changes were dropped.
        missed: u64,
        /// The state after them.
        state: Arc<Snapshot>,
    },
}

/// What is called with each event, one after the other, never two at once for the same subscription.
///
/// Callbacks of up to 256 subscriptions run at once. One that blocks delays nobody else, but 256 that block at the same
/// time delay all others until one of them returns.
pub type Callback = Box<dyn FnMut(&Event) + Send>;

/// Names a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct SubscriptionId(pub(crate) u64);

/// Is shown the value of one key and every later one: see [`SyncConfig::follow`](crate::SyncConfig::follow).
pub trait Follow: Send + Sync {
    /// Takes the key's entry; `None` is absence. Called in the order of the revisions, never twice at once. A view's
    /// follower is shown the store's own entries, whose keys carry the view's prefix.
    ///
    /// It has to be quick and must not call the store: the store may be locked meanwhile.
    ///
    /// # Errors
    ///
    /// Says that the value cannot be used and that nobody reported this yet; the store counts and logs it.
    fn show(&self, entry: Option<&Arc<Entry>>) -> Result<(), DecodeError>;
}

/// Shows an event of a subscription with state to a follower of one key, if that is still there.
pub(crate) fn show(key: &Key, event: &Event, follower: &Weak<dyn Follow>) {
    let (Some(follower), Some(new)) = (follower.upgrade(), newest(key, event)) else {
        return;
    };
    if let Err(error) = follower.show(new) {
        rejected(&error, new);
    }
}

/// Logs a value that a follower cannot use.
pub(crate) fn rejected(error: &DecodeError, entry: Option<&Arc<Entry>>) {
    let revision = entry.map_or(0, |entry| entry.revision().get());
    tracing::warn!(revision, %error, "a live handle keeps its previous value");
}

/// What an event says of a key now; `None` when it says nothing of it.
fn newest<'a>(key: &Key, event: &'a Event) -> Option<Option<&'a Arc<Entry>>> {
    match event {
        Event::State(state) | Event::Lagged { state, .. } => Some(state.get(key)),
        Event::Changed(set) | Event::Resynced(set) => {
            let changes = set.changes();
            let at = changes.binary_search_by(|change| change.key().cmp(key));
            Some(changes.get(at.ok()?)?.new())
        }
    }
}

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
        let new = newest(&self.key, event)?.cloned();
        let first = matches!(event, Event::State(_));
        let decoded = match new.as_ref().map(|entry| entry.decode::<T>()) {
            Some(Ok(value)) => Some(value),
            None => None,
            Some(Err(error)) => {
                let revision = new.as_ref().map_or(0, |entry| entry.revision().get());
                tracing::warn!(key = %self.key, revision, %error, "a subscriber's value has another type");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Cause, Cursor, Epoch, Revision, RevisionId};

    fn set(keys: &[&str]) -> Arc<ChangeSet> {
        let cursor = Cursor {
            epoch: Epoch::from_u128(1),
            revision: Revision::new(1),
            id: RevisionId::from_u128(1),
        };
        let change = |key: &&str| Change {
            key: Key::stored(key),
            old: None,
            new: None,
        };
        let changes = keys.iter().map(change).collect();
        Arc::new(ChangeSet {
            cursor,
            cause: Cause::Remote,
            changes,
        })
    }

    #[test]
    fn a_filter_finds_what_matches_in_any_part_of_a_set() {
        let keys = ["B", "a", "a:", "a:1", "a:1:x", "a:2", "b", "ä", "ä1"];
        for length in 0..=keys.len() {
            for from in 0..=length {
                let set = set(&keys[from..length]);
                for text in keys.into_iter().chain(["", "A", "a:3", "z", "ö", "\0"]) {
                    for filter in [Filter::all(), Filter::key(text), Filter::prefix(text)] {
                        let all = set.changes.iter().map(Change::key);
                        let wanted: Vec<&Key> = all.filter(|key| filter.matches(key)).collect();
                        let found = filter.apply(&set);
                        let found = found.as_deref().map_or(&[][..], ChangeSet::changes);
                        let found: Vec<&Key> = found.iter().map(Change::key).collect();
                        assert_eq!(found, wanted, "{filter:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_set_that_matches_as_a_whole_is_shared() {
        let set = set(&["a:1", "a:2"]);
        for filter in [Filter::all(), Filter::prefix(""), Filter::prefix("a:")] {
            assert!(Arc::ptr_eq(&filter.apply(&set).unwrap(), &set));
        }
    }

    /// 2 × 10^9 comparisons if each subscriber looked at each change: minutes in a test, which nobody would wait for.
    #[test]
    fn ten_thousand_subscribers_to_a_key_each_share_a_large_revision_quickly() {
        let keys: Vec<String> = (0..200_000)
            .map(|number| format!("k:{number:06}"))
            .collect();
        let set = set(&keys.iter().map(String::as_str).collect::<Vec<_>>());
        for number in 0..10_000 {
            let key = format!("k:{:06}", number * 20);
            let found = Filter::key(&key).apply(&set).unwrap();
            assert_eq!(found.changes().len(), 1);
            assert_eq!(found.changes()[0].key().as_str(), key);
        }
    }
}
