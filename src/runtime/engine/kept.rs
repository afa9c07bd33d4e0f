//! What the engine gives to the state file and takes from it.

use std::time::Duration;

use tokio::sync::watch;

use super::Engine;
use crate::core::replica::Input;
use crate::core::{Cursor, Replica};
use crate::runtime::saved::{Fresh, Kept};
use crate::status::Stale;

impl Engine {
    /// Shows a state that was kept, unless the database's own was faster.
    pub(crate) fn restore(&self, kept: Kept) {
        let cursor = kept.loaded.cursor;
        self.book.open().stale = Some(Stale {
            epoch: cursor.epoch,
            revision: cursor.revision,
            written_at: kept.written_at,
            proven_at: kept.proven_at,
            age: Duration::ZERO,
        });
        self.feed(Input::Restored(kept.loaded));
        if let Some(Stale { revision, age, .. }) = self.stale(&self.replica()) {
            let age_s = age.as_secs();
            tracing::info!(%revision, age_s, "the state that was kept is served, marked stale, until the store has been asked");
        }
    }

    /// How old the state is that stands in for the database, if one does.
    pub(super) fn stale(&self, replica: &Replica) -> Option<Stale> {
        if !replica.restored() {
            return None;
        }
        let stale = self.book.open().stale.clone()?;
        let age = self.clock.wall().duration_since(stale.proven_at);
        // From ahead of this machine's clock, by less than is refused: as good as now.
        let age = age.unwrap_or_default();
        Some(Stale { age, ..stale })
    }

    #[cfg(feature = "server")]
    pub(crate) fn stale_now(&self) -> Option<Stale> {
        self.stale(&self.replica())
    }

    /// For how long the database has not proven what is shown to be its newest; `None` when nothing is shown.
    #[cfg(feature = "server")]
    pub(crate) fn unproven(&self) -> Option<Duration> {
        let replica = self.replica();
        if let Some(stale) = self.stale(&replica) {
            return Some(stale.age);
        }
        let proven_at = replica.proven_at()?;
        Some(self.clock.now().saturating_sub(proven_at))
    }

    pub(crate) fn watch_shown(&self) -> watch::Receiver<Option<Cursor>> {
        self.shown.subscribe()
    }

    /// The state, if the database gave it, with the time of its last proof.
    pub(crate) fn fresh(&self) -> Option<Fresh> {
        let replica = self.replica();
        let proven_at = replica.proven_at().filter(|_| !replica.restored())?;
        let snapshot = self.current(&replica)?.snapshot.clone();
        drop(replica);
        let proven_at = self.clock.wall_at(proven_at);
        Some(Fresh {
            snapshot,
            proven_at,
        })
    }

    /// Which state that would be, and when it was proven by this engine's clock: cheap.
    pub(crate) fn fresh_cursor(&self) -> Option<(Cursor, Duration)> {
        let replica = self.replica();
        let proven_at = replica.proven_at().filter(|_| !replica.restored())?;
        Some((replica.cursor()?, proven_at))
    }
}
