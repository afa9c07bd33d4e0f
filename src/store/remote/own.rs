//! Which revisions this instance's own writes made, so that its subscribers are told so.
//!
//! A server's journal does not say who wrote what: it says which server did. Guarantees: a revision is told as this instance's
//! own only if its answer named it and every key of it was in that write. Not guaranteed: that each is; one that is pushed
//! before its answer waits for that no longer than [`PATIENCE`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::core::{Cursor, Journaled, Key};

/// An answer comes a millisecond or two beside its revision; on a slow network no later than its acknowledgement.
const PATIENCE: Duration = Duration::from_millis(100);

/// Revisions remembered: more than can be under way.
const MADE: usize = 1_024;

/// This instance's writes.
#[derive(Debug, Default)]
pub(super) struct Own {
    book: Mutex<Book>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Book {
    next: u64,
    under_way: HashMap<u64, Vec<Key>>,
    made: VecDeque<(Cursor, HashSet<Key>)>,
}

/// A write under way.
pub(super) struct UnderWay<'a> {
    own: &'a Own,
    number: u64,
}

impl Own {
    /// Says that a write of these keys is under way, for as long as what it returns lives.
    pub(super) fn begins(&self, keys: Vec<Key>) -> UnderWay<'_> {
        let mut book = self.book();
        book.next += 1;
        let number = book.next;
        book.under_way.insert(number, keys);
        UnderWay { own: self, number }
    }

    /// Waits a moment while the next revision may be of a write whose answer is still to come.
    pub(super) async fn settle(&self, next: &Journaled) {
        let settled = async {
            loop {
                let mut ended = std::pin::pin!(self.ended.notified());
                ended.as_mut().enable();
                if !self.book().may_come(next) {
                    return;
                }
                ended.await;
            }
        };
        // Later it is somebody else's news for all that is known.
        drop(tokio::time::timeout(PATIENCE, settled).await);
    }

    /// Marks a revision that is this instance's own.
    pub(super) fn sign(&self, revision: &mut Journaled, cursor: Cursor, instance: u64) {
        let book = self.book();
        let made = book.made.iter().find(|(made, _)| *made == cursor);
        let own = |keys: &HashSet<Key>| revision.changes.iter().all(|one| keys.contains(&one.key));
        if !revision.changes.is_empty() && made.is_some_and(|(_, keys)| own(keys)) {
            revision.origin = Some(instance);
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Whether all keys of a revision are in writes under way.
    fn may_come(&self, next: &Journaled) -> bool {
        let awaited = |key: &Key| self.under_way.values().any(|keys| keys.contains(key));
        !self.under_way.is_empty() && next.changes.iter().all(|change| awaited(&change.key))
    }
}

impl UnderWay<'_> {
    /// Notes which revision it made. Writes that the server joined to one revision each add their keys.
    pub(super) fn made(&self, cursor: Cursor, keys: impl IntoIterator<Item = Key>) {
        let mut book = self.own.book();
        match book.made.iter_mut().find(|(made, _)| *made == cursor) {
            Some((_, known)) => known.extend(keys),
            None => {
                if book.made.len() == MADE {
                    book.made.pop_front();
                }
                book.made.push_back((cursor, keys.into_iter().collect()));
            }
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.own.book().under_way.remove(&self.number);
        self.own.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Epoch, JournaledChange, Revision, RevisionId};

    fn revision(number: u64, keys: &[&str]) -> (Journaled, Cursor) {
        let cursor = Cursor {
            epoch: Epoch::from_u128(1),
            revision: Revision::new(number),
            id: RevisionId::from_u128(number.into()),
        };
        let change = |key: &&str| JournaledChange {
            key: Key::stored(key),
            new: None,
        };
        let journaled = Journaled {
            revision: cursor.revision,
            id: cursor.id,
            at_micros: 0,
            origin: None,
            changes: keys.iter().map(change).collect(),
        };
        (journaled, cursor)
    }

    fn keys(names: &[&str]) -> Vec<Key> {
        names.iter().map(|name| Key::stored(name)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_revision_that_comes_before_its_answer_waits_for_it_a_moment() {
        let own = Own::default();
        let (mut pushed, cursor) = revision(5, &["a"]);
        let write = own.begins(keys(&["a", "b"]));
        tokio::join!(own.settle(&pushed), async {
            tokio::task::yield_now().await;
            write.made(cursor, keys(&["a"]));
            drop(write);
        });
        own.sign(&mut pushed, cursor, 7);
        assert_eq!(pushed.origin, Some(7));
        let _never_answered = own.begins(keys(&["a"]));
        own.settle(&pushed).await;
    }

    #[tokio::test(start_paused = true)]
    async fn others_news_do_not_wait_and_are_not_signed() {
        let own = Own::default();
        let _under_way = own.begins(keys(&["a"]));
        let (mut pushed, cursor) = revision(5, &["a", "theirs"]);
        let waited = tokio::time::timeout(Duration::ZERO, own.settle(&pushed)).await;
        assert!(waited.is_ok());
        _under_way.made(cursor, keys(&["a"]));
        own.sign(&mut pushed, cursor, 7);
        assert_eq!(pushed.origin, None, "part of it is another's");
        _under_way.made(cursor, keys(&["theirs"]));
        own.sign(&mut pushed, cursor, 7);
        assert_eq!(pushed.origin, Some(7), "two of our writes shared it");
        let (mut other, mut elsewhere) = revision(5, &["a"]);
        elsewhere.id = RevisionId::from_u128(9);
        own.sign(&mut other, elsewhere, 7);
        assert_eq!(other.origin, None, "another past");
    }
}
