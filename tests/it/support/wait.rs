//! Waiting for events instead of for time.

#![allow(
    clippy::disallowed_methods,
    reason = "a deadline for tests needs a real clock"
)]

use std::fmt::{Debug, Display};
use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// When a [`Probe`] gives up: far beyond anything a loaded machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An answer to "is it so yet?": an `Option`, or a `Result` whose error says what is seen instead.
pub(crate) trait Seen {
    type Value;

    fn seen(self) -> Result<Self::Value, String>;
}

impl<T> Seen for Option<T> {
    type Value = T;

    fn seen(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl<T, E: Display> Seen for Result<T, E> {
    type Value = T;

    fn seen(self) -> Result<T, String> {
        self.map_err(|error| error.to_string())
    }
}

/// Asks until the answer is there. Only for what sends no event to wait for; otherwise use a
/// [`Probe`].
pub(crate) async fn eventually<S: Seen, F: Future<Output = S>>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> F,
) -> S::Value {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    let mut last = "no answer".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, ask()).await {
            Ok(answer) => match answer.seen() {
                Ok(value) => return value,
                Err(instead) => last = instead,
            },
            Err(_) => panic!("{what}: not within {limit:?}; last seen: {last}"),
        }
        assert!(
            Instant::now() < deadline,
            "{what}: not within {limit:?}; last seen: {last}"
        );
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// A recorder of events: callbacks push, the test waits. Clones share one record.
#[derive(Debug, Clone)]
pub(crate) struct Probe<T> {
    record: watch::Sender<Vec<T>>,
}

impl<T: Clone + Debug> Probe<T> {
    /// Makes an empty record.
    pub(crate) fn new() -> Self {
        Self {
            record: watch::Sender::new(Vec::new()),
        }
    }

    /// Adds an event.
    pub(crate) fn push(&self, event: T) {
        self.record.send_modify(|events| events.push(event));
    }

    /// Everything recorded so far.
    pub(crate) fn seen(&self) -> Vec<T> {
        self.record.borrow().clone()
    }

    /// Waits until the record fulfils a condition, and returns the record.
    pub(crate) async fn until(&self, what: &str, condition: impl FnMut(&[T]) -> bool) -> Vec<T> {
        self.until_within(what, PATIENCE, condition).await
    }

    /// As [`until`](Self::until), with a limit of your own.
    pub(crate) async fn until_within(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&[T]) -> bool,
    ) -> Vec<T> {
        let mut record = self.record.subscribe();
        let fulfilled = record.wait_for(|events| condition(events));
        if let Ok(Ok(events)) = timeout(limit, fulfilled).await {
            return events.clone();
        }
        panic!("{what}: not within {limit:?}; recorded: {:?}", self.seen());
    }
}
