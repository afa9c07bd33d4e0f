//! The only place that looks at a clock or draws randomness.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant, SystemTime};

/// Tells the time since it was made, and the wall clock for people.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// The time since the start, which never goes back.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// A moment of this clock for the runtime's timers.
    pub(crate) fn at(&self, moment: Duration) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + moment)
    }

    /// What the wall clock said at a moment of this clock: steps of the wall clock since then do not matter.
    pub(crate) fn wall_at(&self, moment: Duration) -> SystemTime {
        wall() - self.now().saturating_sub(moment)
    }
}

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// A random number: the standard library seeds its hashers from the system's generator.
pub(crate) fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(0);
    hasher.finish()
}
