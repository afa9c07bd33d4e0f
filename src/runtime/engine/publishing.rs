//! How news reach readers, live handles, those who wait for a revision, and subscribers: in this order.

use std::sync::Arc;

use super::{Engine, Shown};
use crate::core::replica::Publication;
use crate::core::{Change, ChangeSet, Entry};
use crate::subscription::Event;

impl Engine {
    /// Shows news, to whoever waits for it only if it is to `wake` them.
    pub(super) fn publish(&self, publication: Publication, wake: bool) {
        let mut exact = None;
        let (cursor, rejected, event) = match publication {
            Publication::Loaded(snapshot) => {
                self.cache.replace(&snapshot);
                tracing::info!(revision = %snapshot.revision(), entries = snapshot.len(), "loaded");
                self.snapshot.store(Some(Shown::new(snapshot.clone())));
                let rejected = self.followers.loaded(&snapshot);
                (snapshot.cursor(), rejected, Event::State(snapshot))
            }
            Publication::Changed { set, silent } => {
                self.cache.apply(&set, &silent);
                self.snapshot.store(None);
                self.book.open().counters.revisions += 1;
                let rejected = self.followers.changed(&set, &silent);
                exact = with_silent(&set, silent);
                (set.cursor(), rejected, Event::Changed(set))
            }
            Publication::Resynced { set, now, cause } => {
                let rejected = if cause.replaces() {
                    self.cache.replace(&now);
                    self.followers.loaded(&now)
                } else {
                    self.cache.apply(&set, &[]);
                    self.followers.changed(&set, &[])
                };
                self.snapshot.store(Some(Shown::new(now)));
                (set.cursor(), rejected, Event::Resynced(set))
            }
        };
        self.note_rejected(rejected);
        self.shown.send_if_modified(|shown| {
            *shown = Some(cursor);
            wake
        });
        match exact {
            Some(exact) => self.subscriptions.publish_exactly(&event, &exact),
            None => self.subscriptions.publish(&event),
        }
    }
}

/// The changes with those of entries that kept their value and got a new revision, whose old and new entry are the same one.
fn with_silent(set: &ChangeSet, silent: Vec<Arc<Entry>>) -> Option<Event> {
    if silent.is_empty() {
        return None;
    }
    let mut changes = set.changes.clone();
    changes.extend(silent.into_iter().map(|entry| Change {
        key: entry.key().clone(),
        old: Some(entry.clone()),
        new: Some(entry),
    }));
    changes.sort_by(|one, two| one.key.cmp(&two.key));
    Some(Event::Changed(Arc::new(ChangeSet { changes, ..*set })))
}
