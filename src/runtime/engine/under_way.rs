//! Which transactions of this instance's are under way, so that their notices are not taken for others' news.

use std::sync::atomic::Ordering;

use super::Engine;
use crate::core::Epoch;
use crate::core::notice::Notice;

/// A transaction under way. When it ends, the driver hands on the notices that were kept for its answer.
pub(crate) struct UnderWay<'a> {
    engine: &'a Engine,
    /// The epoch that was shown when it began.
    shown: Option<Epoch>,
}

impl UnderWay<'_> {
    /// Whether the epoch of its answer was shown when it began. Then another one that is shown by now began after it.
    pub(crate) fn followed(&self, answered: Epoch) -> bool {
        self.shown == Some(self.engine.replica().shown_epoch(answered))
    }
}

impl Engine {
    /// Says that a transaction is under way, for as long as what it returns lives.
    pub(crate) fn write_begins(&self) -> UnderWay<'_> {
        self.writing.fetch_add(1, Ordering::AcqRel);
        let shown = self.shown.borrow().map(|cursor| cursor.epoch);
        UnderWay {
            engine: self,
            shown,
        }
    }

    /// Whether one is under way.
    pub(crate) fn writes(&self) -> bool {
        self.writing.load(Ordering::Acquire) > 0
    }

    /// Whether all that a notice tells of may come from transactions under way: no more revisions than those lie ahead.
    pub(crate) fn may_be_own(&self, notice: Notice) -> bool {
        let under_way = self.writing.load(Ordering::Acquire) as u64;
        let (Notice::Changed { epoch, revision }, Some(shown)) = (notice, *self.shown.borrow())
        else {
            return false;
        };
        let ahead = revision.get().checked_sub(shown.revision.get());
        epoch == shown.epoch && ahead.is_some_and(|ahead| (1..=under_way).contains(&ahead))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.engine.writing.fetch_sub(1, Ordering::AcqRel);
        self.engine.rescheduled.notify_one();
    }
}
