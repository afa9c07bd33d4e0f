//! Waiting for whatever is shown next.

use tokio::sync::watch;

use crate::core::Cursor;

/// What is shown, as it changes.
pub(crate) struct News {
    shown: watch::Receiver<Option<Cursor>>,
    closed: watch::Receiver<bool>,
}

impl News {
    pub(super) fn new(
        shown: watch::Receiver<Option<Cursor>>,
        closed: watch::Receiver<bool>,
    ) -> Self {
        Self { shown, closed }
    }

    /// Waits until something else is shown than when it was last asked. False when nothing will come.
    pub(crate) async fn next(&mut self) -> bool {
        tokio::select! {
            biased;
            _ = self.closed.wait_for(|closed| *closed) => false,
            changed = self.shown.changed() => changed.is_ok(),
        }
    }
}
