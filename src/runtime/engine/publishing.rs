//! How news reach readers, live handles, those who wait for a revision, and subscribers: in this order.

use super::{Engine, Shown};
use crate::core::replica::Publication;
use crate::subscription::Event;

impl Engine {
    /// Shows news, to whoever waits for it only if it is to `wake` them.
    pub(super) fn publish(&self, publication: Publication, wake: bool) {
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
        self.subscriptions.publish(&event);
    }
}
