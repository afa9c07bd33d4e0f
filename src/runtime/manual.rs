//! A clock that a test moves, which knows whether the services on it have anything to do.
//!
//! Guarantees: time stands still but for [`ManualClock::advance`], which stops at every moment that somebody waits for and
//! goes on only when all work of that moment is done. It counts the runtime's tasks that were woken and have not come to
//! rest again; what threads of an application do meanwhile, callbacks too, it does not know.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use crate::error::{Kind, Result};

/// Work at one instant of a manual clock is done in memory: so long it takes only if it never ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// The wall clock at the start: 2001-09-09 01:46:40 UTC, a billion seconds after 1970.
const BEGINNING: Duration = Duration::from_secs(1_000_000_000);

/// How often a clock that seems at rest is looked at again: a task that the scheduler has set aside for fairness is woken
/// a moment later.
const LOOKS: u32 = 3;

/// A clock that moves when a test says so: heartbeats, checks, retention and timeouts of every service on it happen then,
/// in order, and no real time passes. Clones are the same clock.
///
/// What the test's own tasks do while it moves it does not know: wait for them first, or they find that time has passed.
///
/// Hand it to [`TestStore::with_clock`](crate::testing::TestStore::with_clock). It does not need, and should not be
/// mixed with, tokio's paused time.
#[derive(Clone)]
pub struct ManualClock {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// The last task has come to rest.
    rested: Notify,
}

#[derive(Default)]
struct State {
    now: Duration,
    sleepers: BTreeMap<(Duration, u64), Waker>,
    named: u64,
    /// Tasks that have something to do.
    busy: usize,
    /// How often one was woken.
    woken: u64,
    drawn: u64,
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl ManualClock {
    /// Makes a clock that stands still, on 2001-09-09 01:46:40 UTC.
    #[must_use]
    pub fn new() -> Self {
        let shared = Arc::default();
        Self { shared }
    }

    /// The time since it was made, by itself.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.shared.state().now
    }

    /// What services on it take for the wall clock.
    #[must_use]
    pub fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + BEGINNING + self.elapsed()
    }

    /// Lets time pass. It stops at each moment for which a service waits, and goes on when the work of that moment is
    /// done: five minutes at the default settings are about 150 stops for each instance, some milliseconds together.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`](crate::Error::is_timeout) when the work of one moment does not end within 20 s of real time.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the clock where it has come to.
    pub async fn advance(&self, time: Duration) -> Result<()> {
        let target = self.elapsed().saturating_add(time);
        loop {
            self.at_rest().await?;
            let next = self.shared.state().next();
            match next.filter(|next| *next <= target) {
                Some(next) => self.shared.set(next),
                None if self.elapsed() < target => self.shared.set(target),
                None => return Ok(()),
            }
        }
    }

    /// Waits until no task of a service on this clock has anything to do before time goes on.
    pub(crate) async fn at_rest(&self) -> Result<()> {
        let rest = async {
            let mut looks = 0;
            let mut seen = None;
            while looks < LOOKS {
                let rested = self.shared.rested.notified();
                let (busy, woken) = self.shared.state().activity();
                if busy > 0 {
                    looks = 0;
                    rested.await;
                    continue;
                }
                looks = if seen == Some(woken) { looks + 1 } else { 0 };
                seen = Some(woken);
                tokio::task::yield_now().await;
            }
        };
        let ended = tokio::time::timeout(PATIENCE, rest).await;
        ended.map_err(|_| {
            let busy = self.shared.state().busy;
            let what = format!("waiting for the work of one moment ({busy} tasks go on and on)");
            let after = PATIENCE;
            Kind::Timeout { what, after }.into()
        })
    }

    /// Waits for a moment.
    pub(super) fn sleep_until(&self, at: Duration) -> impl Future<Output = ()> + Send + use<> {
        Sleep {
            shared: self.shared.clone(),
            at,
            name: None,
        }
    }

    /// Counts a task as busy from each time it is woken until it waits again.
    pub(super) fn track<F>(&self, work: F) -> impl Future<Output = ()> + Send + use<F>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.shared.begin();
        let task = Arc::new(Task {
            shared: self.shared.clone(),
            state: Mutex::new(TaskState {
                busy: true,
                woken: false,
                outer: None,
            }),
        });
        Tracked {
            work: Box::pin(work),
            task,
        }
    }

    /// A number that looks random: the nth is the same in every run.
    pub(super) fn random(&self) -> u64 {
        let mut state = self.shared.state();
        state.drawn = state.drawn.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state.drawn;
        drop(state);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state();
        f.debug_struct("ManualClock")
            .field("elapsed", &state.now)
            .field("busy", &state.busy)
            .finish()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn begin(&self) {
        let mut state = self.state();
        state.busy += 1;
        state.woken += 1;
    }

    fn end(&self) {
        let mut state = self.state();
        state.busy -= 1;
        let rested = state.busy == 0;
        drop(state);
        if rested {
            self.rested.notify_waiters();
        }
    }

    /// Moves to a moment and wakes who waited for it.
    fn set(&self, moment: Duration) {
        let mut state = self.state();
        let now = state.now.max(moment);
        state.now = now;
        let after = (now.saturating_add(Duration::from_nanos(1)), 0);
        let later = state.sleepers.split_off(&after);
        let due = std::mem::replace(&mut state.sleepers, later);
        drop(state);
        due.into_values().for_each(Waker::wake);
    }
}

impl State {
    fn next(&self) -> Option<Duration> {
        self.sleepers.keys().next().map(|(at, _)| *at)
    }

    fn activity(&self) -> (usize, u64) {
        (self.busy, self.woken)
    }
}

struct Sleep {
    shared: Arc<Shared>,
    at: Duration,
    name: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (at, mut name) = (self.at, self.name);
        let mut state = self.shared.state();
        let polled = if state.now >= at {
            Poll::Ready(())
        } else {
            let named = *name.get_or_insert(state.named);
            state.named = state.named.max(named + 1);
            state.sleepers.insert((at, named), cx.waker().clone());
            Poll::Pending
        };
        drop(state);
        self.name = name;
        polled
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(name) = self.name {
            let forgotten = self.shared.state().sleepers.remove(&(self.at, name));
            drop(forgotten);
        }
    }
}

struct Tracked<F> {
    work: Pin<Box<F>>,
    task: Arc<Task>,
}

struct Task {
    shared: Arc<Shared>,
    state: Mutex<TaskState>,
}

struct TaskState {
    /// It is counted.
    busy: bool,
    /// It was woken since its last poll began.
    woken: bool,
    outer: Option<Waker>,
}

impl Task {
    /// Counts it, if it is not counted already.
    fn begin(&self, state: &mut TaskState) {
        if !std::mem::replace(&mut state.busy, true) {
            self.shared.begin();
        }
    }

    fn end(&self, state: &mut TaskState) {
        if std::mem::replace(&mut state.busy, false) {
            self.shared.end();
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let mut state = lock(&self.state);
        state.woken = true;
        self.begin(&mut state);
        let outer = state.outer.clone();
        drop(state);
        if let Some(outer) = outer {
            outer.wake();
        }
    }
}

impl<F: Future<Output = ()>> Future for Tracked<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.task.state);
        state.outer = Some(cx.waker().clone());
        state.woken = false;
        self.task.begin(&mut state);
        drop(state);
        let waker = Waker::from(self.task.clone());
        let polled = self.work.as_mut().poll(&mut Context::from_waker(&waker));
        let mut state = lock(&self.task.state);
        if polled.is_ready() || !state.woken {
            self.task.end(&mut state);
        }
        drop(state);
        polled
    }
}

impl<F> Drop for Tracked<F> {
    fn drop(&mut self) {
        let mut state = lock(&self.task.state);
        self.task.end(&mut state);
        // It would hold the task that holds it.
        let outer = state.outer.take();
        drop(state);
        drop(outer);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
