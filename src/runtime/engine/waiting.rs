//! How callers wait: until a revision is shown, the database has answered, or it is known whether notices arrive.
//!
//! Guarantees: nobody holds the engine's lock while waiting; what is sought or asked for ends with the engine.

use std::time::Duration;

use super::Engine;
use crate::core::replica::Input;
use crate::core::{Cursor, Epoch, Revision};
use crate::error::{Error, Kind, Result};
use crate::sync_config::Target;

impl Engine {
    /// Waits until it is known whether notices arrive.
    pub(crate) async fn settled(&self) {
        let mut settled = self.settled.subscribe();
        // The sender lives as long as this engine.
        drop(settled.wait_for(|known| *known).await);
    }

    /// Waits until reads show what the database answered a write with, at most until `deadline`. `followed` says that its
    /// epoch was shown when the write began.
    pub(crate) async fn shows(
        &self,
        epoch: Epoch,
        revision: Revision,
        mut followed: bool,
        deadline: Duration,
    ) -> bool {
        let mut shown = self.shown.subscribe();
        let epoch = Some(self.replica().shown_epoch(epoch));
        let seen = async {
            loop {
                let cursor = *shown.borrow_and_update();
                followed |= cursor.map(|cursor| cursor.epoch) == epoch;
                match self.sought(Target { revision, epoch }).await {
                    // Its epoch was shown and has ended: what is shown now was read after the write.
                    Err(error) if error.is_other_epoch() && followed => return true,
                    // It stands on a newer history than the one shown, which is on its way.
                    Err(error) if error.is_other_epoch() && shown.changed().await.is_ok() => {}
                    // So it does where the history shown is known to be lost, though no epoch tells the two apart yet.
                    Ok(_)
                        if self.replica().shows_what_is_lost() && shown.changed().await.is_ok() => {
                    }
                    reached => return reached.is_ok(),
                }
            }
        };
        let left = deadline.saturating_sub(self.clock.now());
        self.clock.timeout(left, seen).await.unwrap_or(false)
    }

    /// Waits until reads show a revision of the database's, whose id is known: not another one of its number, which was lost.
    pub(crate) async fn reads(&self, cursor: Cursor) -> Result<()> {
        let mut shown = self.shown.subscribe();
        loop {
            self.sought(cursor.into()).await?;
            shown.borrow_and_update();
            {
                let replica = self.replica();
                if !replica.shows_what_is_lost() && !replica.contradicts(cursor) {
                    return Ok(());
                }
            }
            self.feed(Input::Look);
            if shown.changed().await.is_err() {
                return Err(Kind::Closed.into());
            }
        }
    }

    /// Asks the database for something, for no longer than a limit, and not beyond the end.
    pub(crate) async fn ask<T>(
        &self,
        what: &str,
        limit: Duration,
        asked: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            answer = self.clock.timeout(limit, asked) => {
                answer.unwrap_or_else(|_| Err(Error::unavailable(what, "no answer in time")))
            }
            _ = closed.wait_for(|closed| *closed) => Err(Kind::Closed.into()),
        }
    }

    /// Waits until a revision is shown.
    pub(crate) async fn reached(&self, target: Target) -> Result<Revision> {
        let mut shown = self.shown.subscribe();
        loop {
            let cursor = *shown.borrow_and_update();
            if let Some(cursor) = cursor {
                if target.epoch.is_some_and(|epoch| epoch != cursor.epoch) {
                    return Err(Kind::OtherEpoch {
                        wanted: target.revision,
                    }
                    .into());
                }
                if cursor.revision >= target.revision {
                    return Ok(cursor.revision);
                }
            }
            if shown.changed().await.is_err() {
                return Err(Kind::Closed.into());
            }
        }
    }

    /// Waits until a revision is shown, asking for it at once and then again and again, ever less often: notices may not
    /// arrive, and the next poll may be far. Nothing comes after the end.
    pub(crate) async fn sought(&self, target: Target) -> Result<Revision> {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            reached = self.asked_for(target) => reached,
            _ = closed.wait_for(|closed| *closed) => Err(Kind::Closed.into()),
        }
    }

    async fn asked_for(&self, target: Target) -> Result<Revision> {
        let mut pause = Duration::ZERO;
        loop {
            match self.clock.timeout(pause, self.reached(target)).await {
                Ok(reached) => return reached,
                Err(_) => {
                    pause = (pause * 2).clamp(Duration::from_millis(50), Duration::from_secs(2));
                }
            }
            self.feed(Input::Look);
        }
    }
}
