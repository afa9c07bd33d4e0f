//! Time and randomness for the stores that live in this process.

use std::sync::Arc;
#[cfg(feature = "remote")]
use std::time::Duration;
use std::time::SystemTime;

/// Time and randomness, which come from outside.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) wall: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    pub(crate) random: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// The time since some moment, which never goes back.
    #[cfg(feature = "remote")]
    pub(crate) steady: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl Sources {
    /// Random bits for an id.
    pub(crate) fn bits(&self) -> u128 {
        (u128::from((self.random)()) << 64) | u128::from((self.random)())
    }
}

/// A time in microseconds since 1970; 0 for one before.
pub(crate) fn micros(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
