//! What an operator's instruments read: cheap enough to be asked every few seconds, with a million entries too.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Engine;
use crate::core::Cursor;
use crate::core::replica::Mode;
use crate::runtime::book::Tally;
use crate::status::{Counters, HeartbeatStatus, Mode as ShownMode, SlowConsumer};

/// A moment's numbers.
#[derive(Clone, Debug)]
pub(crate) struct Vitals {
    pub(crate) cursor: Option<Cursor>,
    pub(crate) entries: usize,
    pub(crate) mode: ShownMode,
    /// For how long the database has not proven what is shown to be its newest.
    pub(crate) unproven: Option<Duration>,
    /// A kept state stands in for the database.
    pub(crate) stands_in: bool,
    pub(crate) heartbeat: HeartbeatStatus,
    pub(crate) counters: Counters,
    pub(crate) tally: Tally,
    pub(crate) subscriptions: usize,
    pub(crate) slow_subscribers: usize,
    pub(crate) slow_consumers: Vec<SlowConsumer>,
}

impl Engine {
    pub(crate) fn vitals(&self) -> Vitals {
        let unproven = self.unproven();
        let replica = self.replica();
        let (cursor, entries, stands_in) = (replica.cursor(), replica.len(), replica.restored());
        let mode = match replica.mode() {
            Mode::Push => ShownMode::Push,
            Mode::Poll { .. } => ShownMode::Poll,
            Mode::Offline { .. } => ShownMode::Offline,
        };
        drop(replica);
        let slow_subscribers = self.subscriptions.slow().len();
        let subscriptions = self.subscriptions.len();
        let pages = self.book.open();
        let mut counters = pages.counters.clone();
        counters.callback_panics = self.subscriptions.tally.panics.load(Ordering::Relaxed);
        counters.subscribers_lagged = self.subscriptions.tally.lagged.load(Ordering::Relaxed);
        Vitals {
            cursor,
            entries,
            mode,
            unproven,
            stands_in,
            heartbeat: pages.heartbeat.clone(),
            counters,
            tally: pages.tally.clone(),
            subscriptions,
            slow_subscribers,
            slow_consumers: pages.slow_consumers.clone(),
        }
    }
}
