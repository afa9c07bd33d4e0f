//! Followers: who is shown the values of a key while the engine takes them in, before anybody waits no longer.
//!
//! Guarantees: shown in revision order, one at a time; one that panics harms nobody; one that is gone leaves no more
//! behind than as many again as there are.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Weak};

use foldhash::fast::RandomState;

use super::engine::lock;
use crate::core::{ChangeSet, Entry, Key, Snapshot};
use crate::subscription::{Follow, rejected};

/// Fewer followers than these are not worth a look for those that are gone.
const FEW: usize = 64;

#[derive(Default)]
pub(super) struct Followers(Mutex<Known>);

#[derive(Default)]
struct Known {
    by_key: HashMap<Key, Vec<Weak<dyn Follow>>, RandomState>,
    /// How many there are, those that are gone among them.
    size: usize,
    /// How many there were after the last look for those that are gone.
    kept: usize,
}

/// Who is shown what.
type Showing = Vec<(Weak<dyn Follow>, Option<Arc<Entry>>)>;

impl Followers {
    /// Adds a follower. The caller holds the engine's lock, so that no revision slips by before it is shown the first.
    pub(super) fn add(&self, key: Key, follower: Weak<dyn Follow>) {
        let mut known = lock(&self.0);
        if known.size >= known.kept * 2 + FEW {
            known.sweep();
        }
        known.by_key.entry(key).or_default().push(follower);
        known.size += 1;
    }

    /// Shows what a revision changed. Answers how many values were rejected.
    pub(super) fn changed(&self, set: &ChangeSet, silent: &[Arc<Entry>]) -> u64 {
        let known = lock(&self.0);
        if known.by_key.is_empty() {
            return 0;
        }
        let mut showing = Showing::new();
        // A handful of followers and a million changes, or the other way round.
        if known.by_key.len() < set.changes.len() {
            for (key, followers) in &known.by_key {
                let found = set.changes.binary_search_by(|change| change.key.cmp(key));
                if let Some(change) = found.ok().and_then(|at| set.changes.get(at)) {
                    show_all(followers, change.new.as_ref(), &mut showing);
                }
            }
        } else {
            for change in &set.changes {
                if let Some(followers) = known.by_key.get(&change.key) {
                    show_all(followers, change.new.as_ref(), &mut showing);
                }
            }
        }
        for entry in silent {
            if let Some(followers) = known.by_key.get(entry.key()) {
                show_all(followers, Some(entry), &mut showing);
            }
        }
        drop(known);
        run(&showing)
    }

    /// Shows everyone what a snapshot holds. Answers how many values were rejected.
    pub(super) fn loaded(&self, snapshot: &Snapshot) -> u64 {
        let known = lock(&self.0);
        let mut showing = Showing::new();
        for (key, followers) in &known.by_key {
            show_all(followers, snapshot.get(key), &mut showing);
        }
        drop(known);
        run(&showing)
    }

    /// Shows an entry to a follower that is still there. True if it was rejected. The engine's lock is held.
    pub(super) fn show(follower: &Weak<dyn Follow>, entry: Option<&Arc<Entry>>) -> bool {
        let Some(follower) = follower.upgrade() else {
            return false;
        };
        let shown = catch_unwind(AssertUnwindSafe(move || follower.show(entry)));
        match shown {
            Ok(Ok(())) => false,
            Ok(Err(error)) => {
                rejected(&error, entry);
                true
            }
            Err(_) => {
                let key = entry.map(|entry| entry.key().to_string());
                tracing::error!(
                    key,
                    "a follower of a key panicked; it may show an older value"
                );
                false
            }
        }
    }

    #[cfg(test)]
    fn size(&self) -> usize {
        lock(&self.0).size
    }
}

fn show_all(followers: &[Weak<dyn Follow>], entry: Option<&Arc<Entry>>, showing: &mut Showing) {
    let shown = |follower: &Weak<dyn Follow>| (follower.clone(), entry.cloned());
    showing.extend(followers.iter().map(shown));
}

fn run(showing: &Showing) -> u64 {
    let rejected = |(follower, entry): &&(Weak<dyn Follow>, _)| {
        Followers::show(follower, Option::as_ref(entry))
    };
    showing.iter().filter(rejected).count() as u64
}

impl Known {
    /// Forgets those that are gone. Their turn comes when there are twice as many as were left the last time, so that
    /// each costs a constant, however many come and go.
    fn sweep(&mut self) {
        self.by_key.retain(|_, followers| {
            followers.retain(|follower| follower.strong_count() > 0);
            !followers.is_empty()
        });
        self.by_key.shrink_to(self.by_key.len() * 2);
        self.size = self.by_key.values().map(Vec::len).sum();
        self.kept = self.size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Cause, Change, Cursor, DecodeError, Epoch, Revision, RevisionId, Value};

    #[derive(Default)]
    struct Seen(Mutex<Vec<Option<String>>>);

    impl Follow for Seen {
        fn show(&self, entry: Option<&Arc<Entry>>) -> Result<(), DecodeError> {
            let text = entry.map(|entry| entry.as_json().to_owned());
            assert!(text.as_deref() != Some("\"panic\""), "on purpose");
            lock(&self.0).push(text);
            entry.map_or(Ok(()), |entry| entry.decode::<i64>().map(drop))
        }
    }

    fn follower(seen: &Arc<Seen>) -> Weak<dyn Follow> {
        let seen: Arc<dyn Follow> = seen.clone();
        Arc::downgrade(&seen)
    }

    fn set(changes: &[(&str, &str)]) -> ChangeSet {
        let entry = |key: &str, text: &str| {
            let (key, value) = (Key::stored(key), Value::stored(text));
            Arc::new(Entry::new(key, value, Revision::new(1), 0))
        };
        let change = |(key, text): &(&str, &str)| Change {
            key: Key::stored(key),
            old: None,
            new: (!text.is_empty()).then(|| entry(key, text)),
        };
        ChangeSet {
            cursor: Cursor {
                epoch: Epoch::from_u128(1),
                revision: Revision::new(1),
                id: RevisionId::from_u128(1),
            },
            cause: Cause::Remote,
            changes: changes.iter().map(change).collect(),
        }
    }

    #[test]
    fn a_million_followers_that_come_and_go_leave_no_more_than_a_few_behind() {
        let followers = Followers::default();
        let stays = Arc::new(Seen::default());
        followers.add(Key::stored("k"), follower(&stays));
        let keys = ["a", "b", "c"].map(Key::stored);
        for number in 0..1_000_000 {
            let gone = Arc::new(Seen::default());
            followers.add(keys[number % 3].clone(), follower(&gone));
            drop(gone);
            assert!(followers.size() <= 2 * FEW + 2);
        }
        followers.changed(&set(&[("k", "1")]), &[]);
        assert_eq!(lock(&stays.0).len(), 1);
    }

    #[test]
    fn each_is_shown_its_own_key_alone_in_small_and_in_large_revisions() {
        let followers = Followers::default();
        let (one, two) = (Arc::new(Seen::default()), Arc::new(Seen::default()));
        followers.add(Key::stored("b"), follower(&one));
        followers.add(Key::stored("d"), follower(&two));
        let small = followers.changed(&set(&[("b", "1")]), &[]);
        let large = set(&[("a", "1"), ("b", ""), ("c", "1"), ("d", "\"x\"")]);
        let rejected = followers.changed(&large, &[]);
        assert_eq!((small, rejected), (0, 1));
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(*lock(&one.0), [text("1"), None]);
        assert_eq!(*lock(&two.0), [text("\"x\"")]);
    }

    #[test]
    fn one_that_panics_harms_no_other() {
        let followers = Followers::default();
        let all = [(); 3].map(|()| Arc::new(Seen::default()));
        for (one, key) in all.iter().zip(["a", "b", "b"]) {
            followers.add(Key::stored(key), follower(one));
        }
        followers.changed(&set(&[("a", "\"panic\""), ("b", "7")]), &[]);
        assert_eq!(all.map(|one| lock(&one.0).len()), [0, 1, 1]);
    }
}
