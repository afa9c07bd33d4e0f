//! Which transactions of this instance's are under way, so that their notices are not taken for others' news.

use std::sync::atomic::Ordering;

use super::Engine;

/// A transaction under way. When it ends, the driver hands on the notices that were kept for its answer.
pub(crate) struct UnderWay<'a>(&'a Engine);

impl Engine {
    /// Says that a transaction is under way, for as long as what it returns lives.
    pub(crate) fn write_begins(&self) -> UnderWay<'_> {
        self.writing.fetch_add(1, Ordering::AcqRel);
        UnderWay(self)
    }

    /// Whether one is under way.
    pub(crate) fn writes(&self) -> bool {
        self.writing.load(Ordering::Acquire) > 0
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.writing.fetch_sub(1, Ordering::AcqRel);
        self.0.rescheduled.notify_one();
    }
}
