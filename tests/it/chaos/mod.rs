//! Several processes on one PostgreSQL, faults of every kind, and a checker that proves the contract from what was recorded.
//!
//! `tests/README.md` tells what is promised, how it is attacked and what the checker proves. `SYNC_CONFIG_TEST_SEED` repeats
//! a seed that failed, as far as the timing of real processes lets it; `SYNC_CONFIG_CHAOS_MINUTES` makes it long.
//! `SYNC_CONFIG_CHAOS_HISTORY` names the directory of a history that was kept, to be checked again instead.

#![allow(
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "the seed of a failure and the figures have to be seen; faults last for a time"
)]

mod checker;
mod history;

#[cfg(all(feature = "server", feature = "testing"))]
mod database;
#[cfg(all(feature = "server", feature = "testing"))]
mod disk;
#[cfg(all(feature = "server", feature = "testing"))]
mod faults;
#[cfg(all(feature = "server", feature = "testing"))]
mod figures;
#[cfg(all(feature = "server", feature = "testing"))]
mod instance;
#[cfg(all(feature = "server", feature = "testing"))]
mod replaced;
#[cfg(all(feature = "server", feature = "testing"))]
mod request;
#[cfg(all(feature = "server", feature = "testing"))]
mod run;
#[cfg(all(feature = "server", feature = "testing"))]
mod sql;
#[cfg(all(feature = "server", feature = "testing"))]
mod storm;
#[cfg(all(feature = "server", feature = "testing"))]
mod storms;
#[cfg(all(feature = "server", feature = "testing"))]
mod streams;
#[cfg(all(feature = "server", feature = "testing"))]
mod writers;
