//! The writer: one queue for all writes of a service, whose turns share transactions.
//!
//! PostgreSQL lets one transaction with a notice commit at a time, so that 64 connections write little more than one; one
//! connection that takes whatever waits writes 13 times as much at a tenth of the p99. Hence no timer and no batch size to
//! tune: a lone write goes out at once, and what comes while it is under way goes out together after it.
//!
//! Guarantees
//! - Each write is decided by itself: a refused condition or a bad value fails its caller only.
//! - Writes go out in the order in which they were called; one never overtakes another of the same key. A write whose row
//!   somebody else has locked waits on a connection of its own, and only writes of other keys pass it.
//! - What waits is bounded ([`QUEUE`]). A write that is not sent by its deadline is not written, ever; one whose answer does
//!   not come is *unknown*, and so is each one that shared its transaction.
//! - A write that nobody waits for any more is not sent; what is under way for nobody is given up.

mod queue;
#[cfg(test)]
mod tests;

use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError, oneshot, watch};

use self::queue::{Queue, Ticket, Turn, Way};
use super::Engine;
use super::engine::lock;
use crate::error::{Error, Kind, Result};
use crate::store::{Answered, Member, Store, WriteRequest};

/// Units of [`UNIT`] bytes that may wait or be under way: 64 MiB, or 1,024 writes.
const QUEUE: u32 = 65_536;

/// Bytes in a unit of the queue.
const UNIT: usize = 1_024;

/// Units that the smallest write takes: 1,024 writes fill the queue.
const LEAST: u32 = 64;

/// A turn that takes longer than this waits for somebody else, and the next may begin beside it: a transaction takes a
/// millisecond or two, on a slow disk ten.
const PATIENCE: Duration = Duration::from_millis(50);

/// A write under way at its deadline is waited for so much longer: its turn has a deadline of its own, a moment later, and
/// then knows whether it was sent at all.
const GRACE: Duration = Duration::from_millis(100);

/// How long an end waits for writes under way.
const FAREWELL: Duration = Duration::from_secs(2);

/// How far a write has come, so that its caller knows what its deadline means.
const WAITS: u8 = 0;
const SENT: u8 = 1;
const GIVEN_UP: u8 = 2;

pub(crate) struct Writer {
    shared: Arc<Shared>,
    room: Semaphore,
}

/// What a caller is answered, and whether the epoch it was written in had been shown before.
pub(crate) type Outcome = Result<(Answered, bool)>;

struct Shared {
    engine: Arc<Engine>,
    store: Arc<dyn Store>,
    /// The service's own runtime: that of a caller may end while others wait.
    runtime: Handle,
    queue: Mutex<Queue<Caller>>,
    /// How many lanes are at work.
    lanes: watch::Sender<usize>,
    /// Ends them at once.
    stop: watch::Sender<bool>,
}

/// Who waits for an answer.
#[derive(Debug)]
struct Caller {
    stage: Arc<AtomicU8>,
    answer: oneshot::Sender<Outcome>,
}

type Waiting = queue::Waiting<Caller>;

impl Writer {
    /// Makes a writer on the present runtime.
    pub(crate) fn new(engine: Arc<Engine>, store: Arc<dyn Store>) -> Self {
        let queue = Mutex::new(Queue::new(store.writers()));
        let shared = Arc::new(Shared {
            engine,
            store,
            runtime: Handle::current(),
            queue,
            lanes: watch::Sender::new(0),
            stop: watch::Sender::new(false),
        });
        let room = Semaphore::new(QUEUE as usize);
        Self { shared, room }
    }

    /// Writes, at most until the deadline.
    pub(crate) async fn write(&self, request: WriteRequest, deadline: Duration) -> Outcome {
        let what = request.what();
        let units = u32::try_from(request.bytes().div_ceil(UNIT)).unwrap_or(QUEUE);
        let _room = self
            .room(units.clamp(LEAST, QUEUE), &what, deadline)
            .await?;
        let stage = GivenUp(Arc::new(AtomicU8::new(WAITS)));
        let (answer, answered) = oneshot::channel();
        let caller = Caller {
            stage: stage.0.clone(),
            answer,
        };
        self.shared.put(Waiting::new(request, caller))?;
        let mut answered = answered;
        let clock = &self.shared.engine.clock;
        let left = deadline.saturating_sub(clock.now());
        let in_time = match clock.timeout(left, &mut answered).await {
            Ok(told) => Some(told),
            Err(_) if stage.now() => {
                return Err(Error::unavailable(what, "it could not be sent in time"));
            }
            Err(_) => clock.timeout(GRACE, answered).await.ok(),
        };
        match in_time {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) if stage.now() => Err(Error::unavailable(what, "its runtime has ended")),
            Some(Err(_)) => Err(Error::unknown(what, "its transaction was abandoned")),
            None => Err(Error::unknown(what, "no answer in time")),
        }
    }

    /// Waits for room in the queue. Where there is room a caller takes its place at once, also one who calls a thousand times
    /// without a pause, whom the runtime would otherwise make wait.
    async fn room(
        &self,
        units: u32,
        what: &str,
        deadline: Duration,
    ) -> Result<SemaphorePermit<'_>> {
        match self.room.try_acquire_many(units) {
            Ok(room) => return Ok(room),
            Err(TryAcquireError::Closed) => return Err(Kind::Closed.into()),
            Err(TryAcquireError::NoPermits) => {}
        }
        let clock = &self.shared.engine.clock;
        let left = deadline.saturating_sub(clock.now());
        match clock.timeout(left, self.room.acquire_many(units)).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) => Err(Kind::Closed.into()),
            Err(_) => {
                let problem = "1,024 writes, or 64 MiB of them, were waiting before it";
                Err(Error::unavailable(what, problem))
            }
        }
    }

    /// Takes no further writes, refuses those that wait, and waits until those under way are answered: at most 2 s, after
    /// which they are given up and unknown.
    pub(crate) async fn close(&self) {
        self.room.close();
        let refused = lock(&self.shared.queue).close();
        for waiting in refused {
            waiting.caller.tell(Err(Kind::Closed.into()));
        }
        let mut lanes = self.shared.lanes.subscribe();
        // The sender lives as long as this writer.
        let none_left = lanes.wait_for(|lanes| *lanes == 0);
        let clock = &self.shared.engine.clock;
        let in_time = clock.timeout(FAREWELL, none_left).await.is_ok();
        if !in_time {
            self.shared.stop.send_replace(true);
            drop(lanes.wait_for(|lanes| *lanes == 0).await);
        }
    }
}

/// Marks a write as given up when its caller goes.
struct GivenUp(Arc<AtomicU8>);

impl GivenUp {
    /// Whether it is given up before it was sent, so that it never is.
    fn now(&self) -> bool {
        step(&self.0, WAITS, GIVEN_UP)
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.now();
    }
}

impl Caller {
    /// Marks its write as sent; false when nobody waits for it.
    fn send(&self) -> bool {
        !self.answer.is_closed() && step(&self.stage, WAITS, SENT)
    }

    /// Marks its write as waiting again, after it was sent in vain.
    fn back(&self) {
        step(&self.stage, SENT, WAITS);
    }

    fn tell(self, outcome: Outcome) {
        // Whoever asked may have stopped waiting.
        let _gone = self.answer.send(outcome);
    }
}

fn step(stage: &AtomicU8, from: u8, to: u8) -> bool {
    stage
        .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
        .is_ok()
}

impl Shared {
    fn put(self: &Arc<Self>, waiting: Waiting) -> Result<()> {
        let turn = {
            let mut queue = self.queue();
            queue.put(waiting)?;
            queue.next()
        };
        self.begin(turn);
        Ok(())
    }

    /// Begins a lane with a turn, if there is one.
    fn begin(self: &Arc<Self>, turn: Option<Turn<Caller>>) {
        if let Some(Turn {
            writes,
            patient,
            ticket,
        }) = turn
        {
            self.lanes.send_modify(|lanes| *lanes += 1);
            let lane = Lane {
                shared: self.clone(),
                ran: false,
                ticket: Some(ticket),
            };
            let _entered = self.runtime.enter();
            drop(self.engine.clock.spawn(lane.run(writes, patient)));
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Caller>> {
        lock(&self.queue)
    }

    /// Carries out one turn. Answers with the writes that have to be sent anew, in their order.
    async fn turn(&self, mut writes: Vec<Waiting>, patient: bool) -> Vec<Waiting> {
        writes.retain(|waiting| waiting.caller.send());
        if writes.len() > 1 || !patient {
            return self.together(writes).await;
        }
        if let Some(only) = writes.pop() {
            self.alone(only).await;
        }
        Vec::new()
    }

    /// Waits until nobody waits for an answer any more, or the end has come.
    async fn given_up(&self, callers: &mut [Caller]) {
        let mut stop = self.stop.subscribe();
        let gone = async {
            for caller in callers {
                caller.answer.closed().await;
            }
        };
        tokio::select! {
            () = gone => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn alone(&self, waiting: Waiting) {
        let Waiting {
            request,
            mut caller,
            ..
        } = waiting;
        let under_way = self.engine.write_begins();
        let answer = tokio::select! {
            answer = self.store.write(&request) => answer,
            () = self.given_up(std::slice::from_mut(&mut caller)) => return,
        };
        caller.tell(answer.map(|answer| {
            let writes = u64::from(answer.answered.is_news());
            self.engine.committed(answer.committed, writes);
            let followed = under_way.followed(answer.answered.cursor.epoch);
            (answer.answered, followed)
        }));
    }

    async fn together(&self, writes: Vec<Waiting>) -> Vec<Waiting> {
        if writes.is_empty() {
            return Vec::new();
        }
        let (requests, mut callers): (Vec<WriteRequest>, Vec<Caller>) = writes
            .into_iter()
            .map(|waiting| (waiting.request, waiting.caller))
            .unzip();
        let borrowed: Vec<&WriteRequest> = requests.iter().collect();
        let under_way = self.engine.write_begins();
        let answer = tokio::select! {
            answer = self.store.write_group(&borrowed) => answer,
            () = self.given_up(&mut callers) => return Vec::new(),
        };
        let pairs = requests.into_iter().zip(callers);
        match answer {
            Ok(answer) => {
                let news =
                    |member: &&Member| matches!(member, Member::Answered(one) if one.is_news());
                let writes = answer.members.iter().filter(news).count();
                self.engine.committed(answer.committed, writes as u64);
                let mut again = Vec::new();
                for ((request, caller), member) in pairs.zip(answer.members) {
                    match member {
                        Member::Answered(answered) => {
                            let followed = under_way.followed(answered.cursor.epoch);
                            caller.tell(Ok((answered, followed)));
                        }
                        Member::Refused(error) => caller.tell(Err(error)),
                        Member::Held => again.push(sent_in_vain(request, caller)),
                    }
                }
                again
            }
            Err(error)
                if error.is_outcome_unknown() || error.is_unavailable() || error.is_closed() =>
            {
                for (request, caller) in pairs {
                    caller.tell(Err(error.retold(request.what())));
                }
                Vec::new()
            }
            // The database refused the statement, so that nothing was written, and does not say whose fault it is.
            Err(error) => {
                tracing::debug!(%error, "writes that shared a transaction are sent one by one");
                pairs
                    .map(|(request, caller)| sent_in_vain(request, caller))
                    .collect()
            }
        }
    }
}

fn sent_in_vain(request: WriteRequest, caller: Caller) -> Waiting {
    caller.back();
    Waiting {
        request,
        caller,
        way: Way::Alone,
    }
}

/// One connection's work: a turn after the other, until nothing waits that may go out.
struct Lane {
    shared: Arc<Shared>,
    /// False until it is polled, which an ended runtime never does.
    ran: bool,
    /// Of the turn under way.
    ticket: Option<Ticket>,
}

impl Lane {
    async fn run(mut self, mut writes: Vec<Waiting>, mut patient: bool) {
        self.ran = true;
        loop {
            let again = {
                let shared = self.shared.clone();
                let mut work = pin!(shared.turn(writes, patient));
                match shared.engine.clock.timeout(PATIENCE, &mut work).await {
                    Ok(again) => again,
                    Err(_) => {
                        self.be_slow();
                        work.await
                    }
                }
            };
            let next = {
                let mut queue = self.shared.queue();
                queue.end(self.ticket.take(), again);
                queue.next()
            };
            let Some(turn) = next else { return };
            self.ticket = Some(turn.ticket);
            (writes, patient) = (turn.writes, turn.patient);
        }
    }

    /// Lets another lane begin beside this one.
    fn be_slow(&mut self) {
        let turn = {
            let mut queue = self.shared.queue();
            if let Some(ticket) = &mut self.ticket {
                queue.slow(ticket);
            }
            queue.next()
        };
        self.shared.begin(turn);
    }
}

impl Drop for Lane {
    /// Also when the turn panicked or its runtime ended: the others that wait go on, or learn of it. All of them at once: a
    /// lane for each, begun in the end of the one before, would go a thousand calls deep.
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let (turn, abandoned) = {
                let mut queue = self.shared.queue();
                queue.end(Some(ticket), Vec::new());
                if self.ran {
                    (queue.next(), None)
                } else {
                    (None, Some(queue.abandon()))
                }
            };
            self.shared.begin(turn);
            drop(abandoned);
        }
        self.shared.lanes.send_modify(|lanes| *lanes -= 1);
    }
}
