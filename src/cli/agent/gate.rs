//! Subscribers whose callbacks a test keeps from coming back.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub(super) struct Gate {
    held: Mutex<BTreeSet<String>>,
    freed: Condvar,
}

impl Gate {
    pub(super) fn hold(&self, subscriber: &str) {
        let _new = self.lock().insert(subscriber.to_owned());
    }

    pub(super) fn free(&self, subscriber: &str) {
        let _held = self.lock().remove(subscriber);
        self.freed.notify_all();
    }

    /// Comes back when the subscriber is not held.
    pub(super) fn pass(&self, subscriber: &str) {
        let held = self.lock();
        let freed = self
            .freed
            .wait_while(held, |held| held.contains(subscriber));
        drop(freed);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
