//! The store of one test.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::faults::Faults;
use super::session::FaultyStore;
use crate::core::{Cursor, Revision};
use crate::error::{Kind, Result};
use crate::runtime::{Clock, ManualClock};
use crate::service::{Builder, ConfigService};
use crate::settings::Settings;
use crate::store::memory::MemoryDatabase;

/// Far beyond what anything in memory takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// An instance reads again so soon after a read that found nothing, and once more if that found a part.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSES: u32 = 2;

/// Threads that call back tell nobody that they are done.
const LOOK: Duration = Duration::from_millis(1);

/// A store in memory for one test: services started on it are instances of one fleet, and nobody else's. Clones are the same
/// store. See the [module](super) for how to use it.
#[derive(Clone)]
pub struct TestStore {
    database: MemoryDatabase,
    faults: Faults,
    clock: Option<ManualClock>,
    identity: String,
    instances: Arc<Mutex<Vec<Weak<ConfigService>>>>,
}

/// Why a store is not settled.
enum Unsettled {
    Behind(String),
    CallingBack,
}

impl Default for TestStore {
    fn default() -> Self {
        Self::new()
    }
}

impl TestStore {
    /// Makes an empty store on the real clock. Every interval is short: a head check each 50 ms, a heartbeat each 300 ms.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let database = MemoryDatabase::new();
        Self {
            faults: Faults::new(database.clone()),
            database,
            clock: None,
            identity: format!("a test's store {}", COUNT.fetch_add(1, Ordering::Relaxed)),
            instances: Arc::default(),
        }
    }

    /// Makes an empty store on a clock that the test moves, with the intervals of [`Settings::default`]. Random numbers
    /// (names of instances and epochs, jitter) are drawn from the same seed in every run; threads that race may draw them in
    /// another order.
    #[must_use]
    pub fn with_clock(clock: &ManualClock) -> Self {
        Self {
            clock: Some(clock.clone()),
            ..Self::new()
        }
    }

    /// Starts an instance; returns loaded and listening.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`], with the faults that are switched on.
    pub async fn instance(&self) -> Result<Arc<ConfigService>> {
        self.instance_with(|settings| settings).await
    }

    /// Starts an instance with changed settings.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`].
    pub async fn instance_with(
        &self,
        change: impl FnOnce(Settings) -> Settings,
    ) -> Result<Arc<ConfigService>> {
        let settings = change(match &self.clock {
            Some(_) => Settings::default(),
            None => quick(),
        });
        let clock = self.clock.clone().map_or_else(Clock::start, Clock::Manual);
        let (sources, limit) = (clock.sources(), settings.request_timeout);
        let (this, own) = (self.clone(), clock.clone());
        let store = Box::new(move |instance| {
            Arc::new(FaultyStore {
                inner: this.database.store(instance, sources),
                faults: this.faults,
                clock: own,
                limit,
                identity: this.identity,
            }) as Arc<_>
        });
        let service = Builder::given(settings, store, clock).start().await?;
        let mut instances = self
            .instances
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        instances.push(Arc::downgrade(&service));
        Ok(service)
    }

    /// What goes wrong.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The store's newest revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.database.head().revision
    }

    /// Waits until every instance that runs shows the store's newest revision and every callback of it has returned.
    /// Answers that revision. A manual clock moves on by 10 ms at most: instances pause for 5 ms after a read that found
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`](crate::Error::is_timeout), saying what is still to come: after 20 s; on a manual clock as soon
    /// as nothing but its advance could bring it.
    pub async fn settled(&self) -> Result<Revision> {
        let settling = async {
            let mut pauses = 0;
            loop {
                if let Some(clock) = &self.clock {
                    clock.at_rest().await?;
                }
                let head = self.database.head();
                match self.unsettled(head) {
                    None => return Ok(head.revision),
                    Some(Unsettled::Behind(who)) if pauses == PAUSES => {
                        return Err(late(&who, PAUSE * PAUSES));
                    }
                    Some(unsettled) => match (&self.clock, unsettled) {
                        (Some(clock), Unsettled::Behind(_)) => {
                            pauses += 1;
                            clock.advance(PAUSE).await?;
                        }
                        (None, _) | (_, Unsettled::CallingBack) => tokio::time::sleep(LOOK).await,
                    },
                }
            }
        };
        match tokio::time::timeout(PATIENCE, settling).await {
            Ok(settled) => settled,
            Err(_) => Err(match self.unsettled(self.database.head()) {
                Some(Unsettled::Behind(who)) => late(&who, PATIENCE),
                _ => late("callbacks are running", PATIENCE),
            }),
        }
    }

    fn unsettled(&self, head: Cursor) -> Option<Unsettled> {
        let mut instances = self
            .instances
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        instances.retain(|instance| instance.strong_count() > 0);
        let instances: Vec<_> = instances.iter().filter_map(Weak::upgrade).collect();
        let mut unsettled = None;
        for instance in instances {
            let Some((shown, at_ease)) = instance.at_ease() else {
                continue;
            };
            if shown != Some(head) {
                let revision = shown.map_or(Revision::ZERO, |shown| shown.revision);
                let of = head.revision;
                return Some(Unsettled::Behind(format!(
                    "an instance shows revision {revision}, the store has {of}"
                )));
            }
            if !at_ease {
                unsettled = Some(Unsettled::CallingBack);
            }
        }
        unsettled
    }
}

impl fmt::Debug for TestStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestStore")
            .field("database", &self.database)
            .field("faults", &self.faults)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}

fn late(who: &str, after: Duration) -> crate::Error {
    let what = format!("settling ({who})");
    Kind::Timeout { what, after }.into()
}

/// The shortest intervals that settings take, and heartbeats that do not drown the rest.
fn quick() -> Settings {
    let millis = Duration::from_millis;
    Settings::default()
        .check_interval(millis(50))
        .poll_interval(millis(50))
        .poll_jitter(millis(5))
        .reconnect_interval(millis(100))
        .heartbeat_interval(millis(300))
}
