//! Threads that call subscribers back: as many as callbacks run at once, kept for a while, then gone.
//!
//! Own threads rather than the async runtime's: a callback that blocks takes no worker from the application, and one that
//! never returns does not keep the process from ending.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A thread without work ends after this long; starting one costs about 20 µs.
const IDLE: Duration = Duration::from_secs(10);

/// How long `close` waits for running callbacks.
const FAREWELL: Duration = Duration::from_secs(2);

/// Something to be run on a thread.
pub(crate) trait Job: Send + Sync + 'static {
    fn run(&self);
}

pub(crate) struct Delivery {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Default)]
struct Work {
    jobs: VecDeque<Arc<dyn Job>>,
    idle: usize,
    threads: usize,
    closed: bool,
}

impl Delivery {
    pub(crate) fn new() -> Self {
        Self {
            shared: Arc::default(),
        }
    }

    /// Runs a job soon, on a thread of its own.
    pub(crate) fn run(&self, job: Arc<dyn Job>) {
        let mut work = self.shared.lock();
        if work.closed {
            return;
        }
        work.jobs.push_back(job);
        if work.idle >= work.jobs.len() {
            drop(work);
            self.shared.changed.notify_one();
            return;
        }
        work.threads += 1;
        drop(work);
        let shared = self.shared.clone();
        let spawned = std::thread::Builder::new()
            .name("sync-config-callbacks".to_owned())
            .spawn(move || shared.serve());
        if let Err(error) = spawned {
            self.shared.lock().threads -= 1;
            tracing::error!(%error, "no thread for callbacks could be started; they wait for one that is running");
        }
    }

    /// Lets threads end and waits for them a moment.
    pub(crate) fn close(&self) {
        let mut work = self.shared.lock();
        work.closed = true;
        work.jobs.clear();
        self.shared.changed.notify_all();
        let (mut work, timeout) = self
            .shared
            .changed
            .wait_timeout_while(work, FAREWELL, |work| work.threads > own_thread())
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            tracing::warn!(
                threads = work.threads,
                "callbacks are still running after the shutdown"
            );
        }
        work.jobs.clear();
    }
}

/// One if the present thread is a callback's own: a callback may shut its service down.
fn own_thread() -> usize {
    usize::from(std::thread::current().name() == Some("sync-config-callbacks"))
}

impl Shared {
    fn serve(&self) {
        loop {
            let mut work = self.lock();
            if work.jobs.is_empty() && !work.closed {
                work.idle += 1;
                let idle = |work: &mut Work| work.jobs.is_empty() && !work.closed;
                work = self
                    .changed
                    .wait_timeout_while(work, IDLE, idle)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                work.idle -= 1;
            }
            let Some(job) = work.jobs.pop_front() else {
                work.threads -= 1;
                self.changed.notify_all();
                return;
            };
            drop(work);
            job.run();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
