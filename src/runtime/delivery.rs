//! Threads that call subscribers back: as many as callbacks run at once up to a bound, kept for a while, then gone.
//!
//! Own threads rather than the async runtime's: a callback that blocks takes no worker from the application, and one that
//! never returns does not keep the process from ending.
//!
//! Guarantees: `run` never starts a callback's thread itself, since its caller holds the engine's lock: a dispatcher
//! does. A thread that cannot be started is tried again. Jobs beyond the bound take turns.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// Callbacks that run at once. So many blocked at the same time delay all others.
const THREADS: usize = 256;

/// A thread without work ends after this long; starting one costs about 20 µs.
const IDLE: Duration = Duration::from_secs(10);

/// How long to wait after a thread could not be started.
const PAUSE: Duration = Duration::from_millis(100);

/// How long `close` waits for running callbacks.
const FAREWELL: Duration = Duration::from_secs(2);

/// Something to be run on a thread, piece by piece.
pub(crate) trait Job: Send + Sync + 'static {
    /// Runs a piece. False when there is no more: then the job is run again only when it is handed over again.
    fn step(self: Arc<Self>) -> bool;
}

/// Starts a thread.
type Start = fn(Box<dyn FnOnce() + Send>) -> io::Result<()>;

pub(crate) struct Delivery {
    shared: Arc<Shared>,
}

struct Shared {
    start: Start,
    work: Mutex<Work>,
    /// There is a job for an idle thread, or an end.
    job: Condvar,
    /// There is something for the dispatcher.
    backlog: Condvar,
    /// How many threads there are, the dispatcher among them.
    alive: watch::Sender<usize>,
}

#[derive(Default)]
struct Work {
    jobs: VecDeque<Arc<dyn Job>>,
    /// Threads that wait for a job, or have been started to.
    idle: usize,
    threads: usize,
    dispatched: bool,
    closed: bool,
}

thread_local! {
    /// The address of what this thread serves.
    static SERVES: Cell<usize> = const { Cell::new(0) };
}

fn start(run: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    std::thread::Builder::new()
        .name("sync-config-callbacks".to_owned())
        .spawn(run)
        .map(drop)
}

impl Delivery {
    pub(crate) fn new() -> Self {
        Self::with(start)
    }

    fn with(start: Start) -> Self {
        Self {
            shared: Arc::new(Shared {
                start,
                work: Mutex::default(),
                job: Condvar::new(),
                backlog: Condvar::new(),
                alive: watch::Sender::new(0),
            }),
        }
    }

    /// Makes sure that there is a dispatcher. Called before the first `run`, without a lock.
    pub(crate) fn prepare(&self) {
        let mut work = self.shared.lock();
        if work.dispatched || work.closed {
            return;
        }
        work.dispatched = true;
        let shared = self.shared.clone();
        let started = (self.shared.start)(Box::new(move || shared.dispatch()));
        if let Err(error) = started {
            work.dispatched = false;
            tracing::error!(%error, "no thread for callbacks could be started; the next event tries again");
        }
        self.shared.count(&work);
    }

    /// Runs a job soon, on a thread of its own.
    pub(crate) fn run(&self, job: Arc<dyn Job>) {
        let mut work = self.shared.lock();
        if work.closed {
            return;
        }
        work.jobs.push_back(job);
        let (dispatched, served) = (work.dispatched, work.idle >= work.jobs.len());
        drop(work);
        if served {
            self.shared.job.notify_one();
        } else if dispatched {
            self.shared.backlog.notify_one();
        } else {
            self.prepare();
        }
    }

    /// Lets threads end and waits for them a moment, but not for the one that asks: a callback may shut its service down.
    pub(crate) async fn close(&self) {
        let left = std::mem::take(&mut self.shared.lock().jobs);
        drop(left);
        self.shared.end();
        let own = usize::from(SERVES.get() == Arc::as_ptr(&self.shared).addr());
        let mut alive = self.shared.alive.subscribe();
        let gone = alive.wait_for(|threads| *threads <= own);
        if tokio::time::timeout(FAREWELL, gone).await.is_err() {
            let threads = *self.shared.alive.borrow();
            tracing::warn!(threads, "callbacks are still running after the shutdown");
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Shared {
    fn end(&self) {
        self.lock().closed = true;
        self.job.notify_all();
        self.backlog.notify_all();
    }

    /// Starts threads while there are more jobs than threads that wait for one.
    fn dispatch(self: &Arc<Self>) {
        let mut work = self.lock();
        loop {
            work = self
                .backlog
                .wait_while(work, |work| !work.wants_thread() && !work.closed)
                .unwrap_or_else(PoisonError::into_inner);
            if !work.wants_thread() {
                break;
            }
            work.threads += 1;
            work.idle += 1;
            self.count(&work);
            drop(work);
            let shared = self.clone();
            let started = (self.start)(Box::new(move || shared.serve()));
            work = self.lock();
            let Err(error) = started else { continue };
            work.threads -= 1;
            work.idle -= 1;
            self.count(&work);
            tracing::error!(%error, threads = work.threads, "a thread for callbacks could not be started; trying again");
            work = self
                .backlog
                .wait_timeout_while(work, PAUSE, |work| !work.closed)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if work.closed {
                break;
            }
        }
        work.dispatched = false;
        self.count(&work);
    }

    /// Runs jobs. This thread has been counted as an idle one before its start.
    fn serve(self: &Arc<Self>) {
        SERVES.set(Arc::as_ptr(self).addr());
        let mut work = self.lock();
        loop {
            work = self
                .job
                .wait_timeout_while(work, IDLE, |work| work.jobs.is_empty() && !work.closed)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            work.idle -= 1;
            let Some(mut job) = work.jobs.pop_front() else {
                work.threads -= 1;
                self.count(&work);
                return;
            };
            drop(work);
            while job.clone().step() {
                let mut work = self.lock();
                // With all threads taken, those that wait have their turn.
                if work.threads >= THREADS
                    && let Some(next) = work.jobs.pop_front()
                {
                    work.jobs.push_back(std::mem::replace(&mut job, next));
                }
            }
            drop(job);
            work = self.lock();
            work.idle += 1;
        }
    }

    /// Tells how many threads there are.
    fn count(&self, work: &Work) {
        self.alive
            .send_replace(work.threads + usize::from(work.dispatched));
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    fn wants_thread(&self) -> bool {
        self.jobs.len() > self.idle && self.threads < THREADS
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Long enough for anything that is to come.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Tells that it runs, and waits until it may return.
    struct Blocked(Mutex<Sender<()>>, Arc<Mutex<()>>);

    impl Job for Blocked {
        fn step(self: Arc<Self>) -> bool {
            self.0.lock().unwrap().send(()).unwrap();
            drop(self.1.lock());
            false
        }
    }

    #[test]
    fn threads_are_bounded_and_every_job_has_its_turn() {
        const JOBS: usize = 3 * THREADS;
        let delivery = Delivery::new();
        let (started, starts) = channel();
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock().unwrap();
        delivery.prepare();
        for _ in 0..JOBS {
            let started = Mutex::new(started.clone());
            delivery.run(Arc::new(Blocked(started, gate.clone())));
        }
        for _ in 0..THREADS {
            starts.recv_timeout(PATIENCE).unwrap();
        }
        let work = delivery.shared.lock();
        assert_eq!((work.threads, work.jobs.len()), (THREADS, JOBS - THREADS));
        drop((work, closed));
        for _ in THREADS..JOBS {
            starts.recv_timeout(PATIENCE).unwrap();
        }
    }

    /// Always has more to do, until told to stop.
    struct Endless(Arc<AtomicBool>);

    impl Job for Endless {
        fn step(self: Arc<Self>) -> bool {
            std::thread::yield_now();
            !self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn jobs_without_end_do_not_keep_others_from_their_turn() {
        let delivery = Delivery::new();
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..THREADS {
            delivery.run(Arc::new(Endless(stop.clone())));
        }
        let (started, starts) = channel();
        delivery.run(Arc::new(Blocked(Mutex::new(started), Arc::default())));
        starts.recv_timeout(PATIENCE).unwrap();
        stop.store(true, Ordering::Relaxed);
    }

    #[test]
    fn a_thread_that_cannot_be_started_is_tried_again() {
        static TRIES: AtomicUsize = AtomicUsize::new(0);
        fn scarce(run: Box<dyn FnOnce() + Send>) -> io::Result<()> {
            match TRIES.fetch_add(1, Ordering::Relaxed) {
                1 | 2 => Err(io::Error::other("too many threads")),
                _ => start(run),
            }
        }
        let delivery = Delivery::with(scarce);
        let (started, starts) = channel();
        delivery.run(Arc::new(Blocked(Mutex::new(started), Arc::default())));
        starts.recv_timeout(PATIENCE).unwrap();
        assert_eq!(TRIES.load(Ordering::Relaxed), 4);
    }

    struct Closes(Arc<Delivery>, Mutex<Sender<usize>>);

    impl Job for Closes {
        fn step(self: Arc<Self>) -> bool {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            runtime.block_on(self.0.close());
            let left = *self.0.shared.alive.borrow();
            self.1.lock().unwrap().send(left).unwrap();
            false
        }
    }

    #[test]
    fn a_callback_that_closes_leaves_its_own_thread_out_but_no_other_services() {
        let (one, other) = (Arc::new(Delivery::new()), Arc::new(Delivery::new()));
        let (told, hears) = channel();
        let (started, starts) = channel();
        other.run(Arc::new(Blocked(Mutex::new(started), Arc::default())));
        starts.recv_timeout(PATIENCE).unwrap();
        one.run(Arc::new(Closes(other, Mutex::new(told.clone()))));
        assert_eq!(hears.recv_timeout(PATIENCE), Ok(0));
        one.run(Arc::new(Closes(one.clone(), Mutex::new(told))));
        assert_eq!(hears.recv_timeout(PATIENCE), Ok(1));
    }

    #[test]
    fn a_delivery_that_is_dropped_finishes_its_jobs_and_leaves_no_thread() {
        let delivery = Delivery::new();
        let shared = delivery.shared.clone();
        let (started, starts) = channel();
        for _ in 0..3 {
            let started = Mutex::new(started.clone());
            delivery.run(Arc::new(Blocked(started, Arc::default())));
        }
        drop(delivery);
        for _ in 0..3 {
            starts.recv_timeout(PATIENCE).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut alive = shared.alive.subscribe();
            let gone = alive.wait_for(|threads| *threads == 0);
            tokio::time::timeout(PATIENCE, gone).await.unwrap().unwrap();
        });
    }
}
