//! The driver that feeds the core and runs its actions, with the cache and the subscribers it serves.
//!
//! Guarantees: whatever the core publishes reaches the cache first, then live handles, then waiting writers, then subscribers, in revision
//! order; every task belongs to the driver and is gone after its end.

mod book;
mod cache;
pub(crate) mod clock;
mod delivery;
mod driver;
mod engine;
mod errands;
mod followers;
mod news;
mod subscriptions;
mod trim;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use driver::Driver;
pub(crate) use engine::Engine;
pub(crate) use errands::Intervals;
pub(crate) use writer::Writer;
