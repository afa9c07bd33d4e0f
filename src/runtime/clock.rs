//! The only place that looks at a clock, waits for one, or draws randomness.
//!
//! With feature `testing` a service may have a clock of its own that a test moves; without it there is only the real one.

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
#[cfg(feature = "testing")]
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::task::{JoinHandle, JoinSet};

#[cfg(feature = "testing")]
use super::manual::ManualClock;
use crate::core::replica::EMPTY_READ_PAUSE;
use crate::store::Sources;

/// Tells the time since it was made and the wall clock for people, and waits.
#[derive(Clone, Debug)]
pub(crate) enum Clock {
    Real {
        start: Instant,
        /// Microseconds by which a test has stepped the wall clock.
        #[cfg(feature = "testing")]
        stepped: Arc<AtomicI64>,
    },
    #[cfg(feature = "testing")]
    Manual(ManualClock),
}

/// The answer to a write comes a tenth of a millisecond after its notice. What is not answered by then is somebody else's, and
/// comes so much later.
const OWN_NEWS_PAUSE: Duration = Duration::from_millis(1);

/// The clock begins so long before this process, where the machine's own reaches back: what a server had proven before then
/// has a time on it, too. Nobody keeps a state for longer by default.
const BEFORE: Duration = Duration::from_secs(7 * 86_400);

/// A wait ended before what it waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elapsed;

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub(crate) fn start() -> Self {
        let now = Instant::now();
        Self::Real {
            start: now.checked_sub(BEFORE).unwrap_or(now),
            #[cfg(feature = "testing")]
            stepped: Arc::default(),
        }
    }

    /// The time since the start, which never goes back.
    pub(crate) fn now(&self) -> Duration {
        match self {
            Self::Real { start, .. } => start.elapsed(),
            #[cfg(feature = "testing")]
            Self::Manual(clock) => clock.elapsed(),
        }
    }

    /// How far a read that found nothing puts the next one off. A clock that moves by hand would let a write wait for ever
    /// that only its own news can end.
    pub(crate) fn empty_read_pause(&self) -> Duration {
        match self {
            Self::Real { .. } => EMPTY_READ_PAUSE,
            #[cfg(feature = "testing")]
            Self::Manual(_) => Duration::ZERO,
        }
    }

    /// How long notices wait for the answer to a write of this instance's own; with a clock that moves by hand not at all.
    pub(super) fn own_news_pause(&self) -> Duration {
        match self {
            Self::Real { .. } => OWN_NEWS_PAUSE,
            #[cfg(feature = "testing")]
            Self::Manual(_) => Duration::ZERO,
        }
    }

    /// The wall clock.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub(crate) fn wall(&self) -> SystemTime {
        match self {
            #[cfg(not(feature = "testing"))]
            Self::Real { .. } => SystemTime::now(),
            #[cfg(feature = "testing")]
            Self::Real { stepped, .. } => {
                let micros = stepped.load(Ordering::Relaxed);
                let step = Duration::from_micros(micros.unsigned_abs());
                if micros < 0 {
                    SystemTime::now() - step
                } else {
                    SystemTime::now() + step
                }
            }
            #[cfg(feature = "testing")]
            Self::Manual(clock) => clock.wall(),
        }
    }

    /// Steps the wall clock as an administrator or NTP does: the steady clock goes on. A clock that moves by hand has no
    /// other steps than its own.
    #[cfg(all(feature = "testing", feature = "cli"))]
    pub(crate) fn step(&self, micros: i64) {
        if let Self::Real { stepped, .. } = self {
            stepped.fetch_add(micros, Ordering::Relaxed);
        }
    }

    /// What the wall clock said at a moment of this clock: steps of the wall clock since then do not matter.
    pub(crate) fn wall_at(&self, moment: Duration) -> SystemTime {
        self.wall() - self.now().saturating_sub(moment)
    }

    /// Waits for a moment of this clock.
    pub(crate) async fn sleep_until(&self, moment: Duration) {
        match self {
            Self::Real { start, .. } => match start.checked_add(moment) {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            },
            #[cfg(feature = "testing")]
            Self::Manual(clock) => clock.sleep_until(moment).await,
        }
    }

    /// Waits for some time.
    pub(crate) async fn sleep(&self, time: Duration) {
        match self {
            Self::Real { .. } => tokio::time::sleep(time).await,
            #[cfg(feature = "testing")]
            Self::Manual(clock) => {
                let until = clock.elapsed().saturating_add(time);
                clock.sleep_until(until).await;
            }
        }
    }

    /// Gives work up after a while. It is polled once even if no time is left.
    pub(crate) async fn timeout<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        match self {
            Self::Real { .. } => tokio::time::timeout(limit, work).await.map_err(|_| Elapsed),
            #[cfg(feature = "testing")]
            Self::Manual(_) => tokio::select! {
                biased;
                done = work => Ok(done),
                () = self.sleep(limit) => Err(Elapsed),
            },
        }
    }

    /// Starts a task of the runtime. A manual clock knows whether it has something to do.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        match self {
            Self::Real { .. } => tokio::spawn(work),
            #[cfg(feature = "testing")]
            Self::Manual(clock) => tokio::spawn(clock.track(work)),
        }
    }

    /// Starts a task of the runtime that is one of a set.
    pub(crate) fn spawn_on(
        &self,
        set: &mut JoinSet<()>,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        match self {
            Self::Real { .. } => drop(set.spawn(work)),
            #[cfg(feature = "testing")]
            Self::Manual(clock) => drop(set.spawn(clock.track(work))),
        }
    }

    /// A random number: the standard library seeds its hashers from the system's generator.
    pub(crate) fn random(&self) -> u64 {
        match self {
            Self::Real { .. } => {
                let mut hasher = RandomState::new().build_hasher();
                hasher.write_u64(0);
                hasher.finish()
            }
            #[cfg(feature = "testing")]
            Self::Manual(clock) => clock.random(),
        }
    }

    /// This clock for a store in this process.
    pub(crate) fn sources(&self) -> Sources {
        let (wall, random) = (self.clone(), self.clone());
        #[cfg(feature = "remote")]
        let steady = self.clone();
        Sources {
            wall: Arc::new(move || wall.wall()),
            random: Arc::new(move || random.random()),
            #[cfg(feature = "remote")]
            steady: Arc::new(move || steady.now()),
        }
    }
}
