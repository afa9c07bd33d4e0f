//! The driver that feeds the core and runs its actions, with the cache and the subscribers it serves.
//!
//! Guarantees: whatever the core publishes reaches the cache first, then live handles, then waiting writers, then subscribers, in revision
//! order; every task belongs to the driver and is gone after its end.

mod book;
mod cache;
mod clock;
mod delivery;
mod driver;
mod engine;
mod errands;
mod followers;
#[cfg(feature = "testing")]
mod manual;
mod news;
pub(crate) mod saved;
mod subscriptions;
mod trim;
mod writer;

#[cfg(test)]
mod own_news_tests;
#[cfg(test)]
mod tests;

pub(crate) use clock::Clock;
pub(crate) use driver::Driver;
pub(crate) use engine::Engine;
#[cfg(feature = "server")]
pub(crate) use engine::{Glance, Vitals};
pub(crate) use errands::Intervals;
#[cfg(feature = "testing")]
pub use manual::ManualClock;
pub(crate) use saved::{Keeper, Refusal, StateFile};
pub(crate) use writer::Writer;
