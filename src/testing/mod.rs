//! For tests of programs that use this library: a store in memory with faults, and a clock that a test moves.
//!
//! Guarantees: a [`TestStore`] shares nothing with any other, so tests run side by side; the services on it are the real
//! ones, with the real replica, cache and subscriptions, and only the database is played. What it cannot show is what
//! PostgreSQL itself does: triggers and locks. The texts of values are those that it prints.
//!
//! Add the library to the development dependencies once more, with the feature:
//!
//! ```toml
//! [dev-dependencies]
//! sync-config = { version = "0.1", features = ["testing"] }
//! ```
//!
//! # A test of a service
//!
//! ```
//! use std::sync::Arc;
//! use sync_config::prelude::*;
//! use sync_config::testing::{Fault, TestStore};
//!
//! /// What is tested: it is given its configuration as any service is.
//! struct RateLimits { config: Arc<dyn SyncConfig> }
//!
//! impl RateLimits {
//!     fn of(&self, endpoint: &str) -> i64 { self.config.get_i64(&format!("limit:{endpoint}"), 100) }
//!
//!     async fn tighten(&self, endpoint: &str) -> bool {
//!         self.config.set(&format!("limit:{endpoint}"), 10).await.is_ok()
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> sync_config::Result<()> {
//! let store = TestStore::new();
//! let (here, elsewhere) = (store.instance().await?, store.instance().await?);
//! let limits = RateLimits { config: here };
//! assert_eq!(limits.of("login"), 100);
//!
//! elsewhere.set("limit:login", 50).await?;   // somebody else, on another machine
//! store.settled().await?;                    // everybody shows it, and every callback has run
//! assert_eq!(limits.of("login"), 50);
//!
//! store.faults().fail_writes(Fault::Unavailable, 1);
//! assert!(!limits.tighten("login").await);
//! assert_eq!(limits.of("login"), 50, "reads go on");
//! assert!(limits.tighten("login").await);
//! # Ok(())
//! # }
//! ```
//!
//! # Faults
//!
//! | [`Faults`] | what it plays | what a service sees |
//! | --- | --- | --- |
//! | `drop_notices(true)` | a pooler, a full queue | changes come with the next check; `counters.notices_missed` |
//! | `fail_writes(fault, times)` | a write that is refused, or whose answer is lost | the error of that kind |
//! | `freeze()`, `thaw()` | a peer that hangs | reads go on, `mode` turns *offline*, `proven_at` grows old |
//! | `away(true)`, `away(false)` | a server that is stopped and comes back | the same at once; writes are *unavailable* |
//! | `cut()` | a killed session | a new session, nothing lost |
//! | `rewind(revision)` | a failover that lost commits | a new epoch, a resync, `counters.forks` |
//! | `edit_behind(key, value)` | a row altered with triggers disabled | found by the heartbeat's audit, numbered |
//! | `falsify(&service, key, value)` | a flipped bit in one instance's memory | found by the heartbeat, repaired |
//!
//! # Time
//!
//! On a [`TestStore::new`] time is real and every interval short. On a [`TestStore::with_clock`] time stands still until
//! [`ManualClock::advance`], and the intervals are those of [`Settings::default`](crate::Settings): a heartbeat comes each
//! five minutes of that clock, at once by yours. Timeouts given to [`SyncConfig::wait_for`](crate::SyncConfig::wait_for)
//! and the like are of that clock too.
//!
//! ```
//! use std::time::Duration;
//! use sync_config::prelude::*;
//! use sync_config::testing::{ManualClock, TestStore};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> sync_config::Result<()> {
//! let clock = ManualClock::new();
//! let store = TestStore::with_clock(&clock);
//! let config = store.instance().await?;
//! config.set("feature:new_ui", true).await?;
//! store.faults().falsify(&config, "feature:new_ui", false)?;
//! assert!(!config.get_bool("feature:new_ui", true), "wrong, and nobody knows");
//! clock.advance(Duration::from_secs(6 * 60)).await?;      // a heartbeat with its audit
//! assert!(config.get_bool("feature:new_ui", false));
//! assert_eq!(config.status().heartbeat.resyncs, 1);
//! # Ok(())
//! # }
//! ```

mod consumers;
mod faults;
#[doc(hidden)]
pub mod hostile;
mod session;
mod store;

pub use self::faults::{Fault, Faults};
pub use self::store::TestStore;
pub use crate::runtime::ManualClock;
