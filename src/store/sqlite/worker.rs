//! A thread with a connection: SQLite's calls block, and nothing else of this program may wait for them.
//!
//! Guarantees: jobs run in the order in which they were given; one that nobody waits for any more is not begun; a panic ends
//! its job and not the thread; after [`Worker::close`] the thread is gone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::InterruptHandle;
use tokio::sync::{oneshot, watch};

use crate::error::{Error, Kind, Result};

type Job<D> = Box<dyn FnOnce(&mut D) + Send>;

/// What ends the statement that a connection is at.
pub(super) type Interrupt = Arc<Mutex<Option<InterruptHandle>>>;

/// A thread that owns a `D` and works on it.
pub(super) struct Worker<D> {
    jobs: Mutex<Option<mpsc::Sender<Job<D>>>>,
    running: watch::Receiver<()>,
    interrupt: Interrupt,
}

impl<D: Send + 'static> Worker<D> {
    /// Starts the thread. After each job, and whenever the time is over that it answered last, `tick` is called; with `None`
    /// it waits for the next job.
    pub(super) fn start(
        name: &str,
        interrupt: Interrupt,
        desk: D,
        mut tick: impl FnMut(&mut D) -> Option<Duration> + Send + 'static,
    ) -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job<D>>();
        let (runs, running) = watch::channel(());
        let work = move || {
            // In this order: the connection is closed before the end is told.
            let _runs = runs;
            let (mut desk, mut pause) = (desk, None);
            loop {
                let job = match pause {
                    Some(pause) => queue.recv_timeout(pause),
                    None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                };
                match job {
                    Ok(job) => guarded(|| job(&mut desk)),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                guarded(|| pause = tick(&mut desk));
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread
            .spawn(work)
            .map_err(|error| Error::unavailable("starting a thread for SQLite", error))?;
        Ok(Self {
            jobs: Mutex::new(Some(jobs)),
            running,
            interrupt,
        })
    }

    /// Gives it a job, and answers with what came of it.
    ///
    /// # Cancellation
    ///
    /// A job that has begun goes on; one that has not is left out.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce(&mut D) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.put(move |desk| {
            if !answer.is_closed() {
                drop(answer.send(work(desk)));
            }
        })?;
        answered
            .await
            .unwrap_or_else(|_| Err(Error::unavailable(what, "the work on it has ended")))
    }

    /// Gives it a job that nobody waits for.
    pub(super) fn put(&self, job: impl FnOnce(&mut D) + Send + 'static) -> Result<()> {
        let given = lock(&self.jobs)
            .as_ref()
            .is_some_and(|jobs| jobs.send(Box::new(job)).is_ok());
        if given {
            Ok(())
        } else {
            Err(Kind::Closed.into())
        }
    }

    /// Takes no further jobs, ends those that wait, and waits until the thread is gone. What is read is given up, if `reads`.
    pub(super) async fn close(&self, reads: bool) {
        lock(&self.jobs).take();
        if let Some(interrupt) = lock(&self.interrupt).as_ref()
            && reads
        {
            interrupt.interrupt();
        }
        let mut running = self.running.clone();
        // It never changes: the thread's end drops its sender.
        while running.changed().await.is_ok() {}
    }
}

/// Runs a piece of work that may be defective.
fn guarded(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!("work on SQLite panicked, which is a defect of this program");
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
