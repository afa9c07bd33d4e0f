//! What waits to be written, and which of it goes out together.
//!
//! Guarantees: what is not handed out stays in order; no key is under way twice; one turn runs at a time, unless it is slow.

use std::collections::{HashSet, VecDeque};

use crate::core::Key;
use crate::error::{Kind, Result};
use crate::store::WriteRequest;

/// Writes in one turn. Beyond this a transaction gains nothing and its callers wait longer.
const TURN_WRITES: usize = 256;

/// Keys in one turn of several writes.
const TURN_KEYS: usize = 1_000;

/// Bytes in one turn of several writes.
const TURN_BYTES: usize = 1_048_576;

/// A write with whoever waits for its answer.
#[derive(Debug)]
pub(super) struct Waiting<C> {
    pub(super) request: WriteRequest,
    pub(super) caller: C,
    pub(super) way: Way,
}

/// With whom a write may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// With others.
    Together,
    /// In a transaction of its own: it is large, or the database might refuse it and with it all others, or somebody else
    /// has locked one of its rows.
    Alone,
}

/// Writes that go out in one transaction.
#[derive(Debug)]
pub(super) struct Turn<C> {
    pub(super) writes: Vec<Waiting<C>>,
    /// Whether it may wait for a row that somebody else has locked.
    pub(super) patient: bool,
    pub(super) ticket: Ticket,
}

/// What a turn under way counts as.
#[derive(Debug)]
pub(super) struct Ticket {
    keys: Vec<Key>,
    /// Whether it may wait for a row that somebody else has locked.
    patient: bool,
    slow: bool,
}

#[derive(Debug)]
pub(super) struct Queue<C> {
    waiting: VecDeque<Waiting<C>>,
    /// The keys of all turns under way.
    under_way: HashSet<Key>,
    turns: usize,
    /// Turns under way that take long.
    slow: usize,
    /// Turns under way that seem to wait for a row that somebody else has locked.
    held: usize,
    /// Turns at most.
    most: usize,
    closed: bool,
}

impl<C> Waiting<C> {
    pub(super) fn new(request: WriteRequest, caller: C) -> Self {
        let large = request.items.len() > TURN_KEYS || request.bytes() > TURN_BYTES;
        let way = if large || doubtful(&request) {
            Way::Alone
        } else {
            Way::Together
        };
        Self {
            request,
            caller,
            way,
        }
    }
}

/// Whether the database might refuse a value that is JSON by its grammar: NUL and lone surrogates are written as escapes,
/// numbers that it cannot hold mostly with an exponent. What this misses only costs a turn.
fn doubtful(request: &WriteRequest) -> bool {
    let odd = |pair: &[u8]| matches!(pair, [b'\\', b'u'] | [b'0'..=b'9', b'e' | b'E']);
    let values = request.items.iter().filter_map(|item| item.value.as_ref());
    values
        .map(|value| value.as_json().as_bytes())
        .any(|text| text.windows(2).any(odd))
}

impl<C> Queue<C> {
    pub(super) fn new(most: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            under_way: HashSet::new(),
            turns: 0,
            slow: 0,
            held: 0,
            most: most.max(1),
            closed: false,
        }
    }

    pub(super) fn put(&mut self, waiting: Waiting<C>) -> Result<()> {
        if self.closed {
            return Err(Kind::Closed.into());
        }
        self.waiting.push_back(waiting);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Refuses what comes, and hands out what waits.
    pub(super) fn close(&mut self) -> VecDeque<Waiting<C>> {
        self.closed = true;
        self.abandon()
    }

    /// Hands out what waits, which nobody is going to send.
    pub(super) fn abandon(&mut self) -> VecDeque<Waiting<C>> {
        std::mem::take(&mut self.waiting)
    }

    /// Hands out the next turn, unless another is under way that is not slow. Where there are several, the last one waits
    /// for nobody's rows, so that rows that stay locked never hold up the writers of others.
    pub(super) fn next(&mut self) -> Option<Turn<C>> {
        if self.turns > self.slow || self.turns >= self.most {
            return None;
        }
        let any = self.most == 1 || self.held + 1 < self.most;
        let writes = self.take(any);
        if writes.is_empty() {
            return None;
        }
        let patient = any && writes.len() == 1;
        let keys = writes.iter().flat_map(|waiting| waiting.request.keys());
        let keys: Vec<Key> = keys.cloned().collect();
        self.under_way.extend(keys.iter().cloned());
        self.turns += 1;
        let ticket = Ticket {
            keys,
            patient,
            slow: false,
        };
        Some(Turn {
            writes,
            patient,
            ticket,
        })
    }

    /// Notes that a turn takes long.
    pub(super) fn slow(&mut self, ticket: &mut Ticket) {
        if !std::mem::replace(&mut ticket.slow, true) {
            self.slow += 1;
            self.held += usize::from(ticket.patient);
        }
    }

    /// Ends a turn and takes back what has to go out anew, before everything else.
    pub(super) fn end(&mut self, ticket: Option<Ticket>, again: Vec<Waiting<C>>) {
        if let Some(ticket) = ticket {
            for key in &ticket.keys {
                self.under_way.remove(key);
            }
            self.turns -= 1;
            self.slow -= usize::from(ticket.slow);
            self.held -= usize::from(ticket.slow && ticket.patient);
        }
        for waiting in again.into_iter().rev() {
            self.waiting.push_front(waiting);
        }
    }

    /// Takes the first writes that may go out together; `any` says that they may be such as go alone. One that shares a key
    /// with a turn under way, or with a write that stays, stays.
    fn take(&mut self, any: bool) -> Vec<Waiting<C>> {
        let mut turn = Gathered::default();
        let mut staying: HashSet<Key> = HashSet::new();
        let mut place = 0;
        while let Some(waiting) = self.waiting.get(place) {
            let request = &waiting.request;
            let met = |key: &Key| self.under_way.contains(key) || staying.contains(key);
            if request.keys().any(met) || (waiting.way == Way::Alone && !any) {
                staying.extend(request.keys().cloned());
                place += 1;
            } else if turn.takes(waiting) {
                turn.add(waiting);
                turn.writes.extend(self.waiting.remove(place));
                if turn.alone {
                    break;
                }
            } else {
                break;
            }
        }
        turn.writes
    }
}

/// A turn that is being gathered.
struct Gathered<C> {
    writes: Vec<Waiting<C>>,
    keys: HashSet<Key>,
    bytes: usize,
    actor: Option<String>,
    keyed: bool,
    alone: bool,
}

impl<C> Default for Gathered<C> {
    fn default() -> Self {
        Self {
            writes: Vec::new(),
            keys: HashSet::new(),
            bytes: 0,
            actor: None,
            keyed: false,
            alone: false,
        }
    }
}

impl<C> Gathered<C> {
    /// Whether a write may join: a revision has one author and at most one idempotency key, and each of its keys one value.
    fn takes(&self, waiting: &Waiting<C>) -> bool {
        let request = &waiting.request;
        self.writes.is_empty()
            || (waiting.way == Way::Together
                && self.writes.len() < TURN_WRITES
                && self.keys.len() + request.items.len() <= TURN_KEYS
                && self.bytes + request.bytes() <= TURN_BYTES
                && self.actor == request.actor
                && !(self.keyed && request.idempotency_key.is_some())
                && !request.keys().any(|key| self.keys.contains(key)))
    }

    fn add(&mut self, waiting: &Waiting<C>) {
        let request = &waiting.request;
        self.keys.extend(request.keys().cloned());
        self.bytes += request.bytes();
        self.actor.clone_from(&request.actor);
        self.keyed |= request.idempotency_key.is_some();
        self.alone = waiting.way != Way::Together;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Batch;

    fn write(batch: Batch) -> Waiting<usize> {
        let (actor, idempotency_key) = (batch.actor.clone(), batch.idempotency_key.clone());
        let request = WriteRequest {
            items: batch.into_items().unwrap(),
            actor,
            idempotency_key,
        };
        Waiting::new(request, 0)
    }

    /// A queue of writes that are named by their places.
    fn queue(most: usize, batches: impl IntoIterator<Item = Batch>) -> Queue<usize> {
        let mut queue = Queue::new(most);
        for (number, batch) in batches.into_iter().enumerate() {
            let caller = number;
            queue
                .put(Waiting {
                    caller,
                    ..write(batch)
                })
                .unwrap();
        }
        queue
    }

    fn put(key: &str) -> Batch {
        Batch::new().put(key, 1)
    }

    fn callers(turn: &Turn<usize>) -> Vec<usize> {
        turn.writes.iter().map(|waiting| waiting.caller).collect()
    }

    /// The turns, one after the other.
    fn turns(queue: &mut Queue<usize>) -> Vec<Vec<usize>> {
        let next = || {
            let turn = queue.next()?;
            let callers = callers(&turn);
            queue.end(Some(turn.ticket), Vec::new());
            Some(callers)
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn what_waits_goes_out_together_up_to_the_first_that_cannot() {
        let keyed = |key: &str| put(key).idempotency_key(key);
        let batches = [
            put("a"),
            put("b"),
            put("a"),
            put("c"), // the same key
            put("d").actor("ann"),
            put("e").actor("ann"),
            put("f"), // another author
            keyed("g"),
            put("h"),
            keyed("i"), // a second idempotency key
            Batch::new().put("j", "a\0b"),
            put("k"), // a doubtful value
            Batch::new().put("l", 1e300),
            put("m"),
        ];
        let together: [&[usize]; 9] = [
            &[0, 1],
            &[2, 3],
            &[4, 5],
            &[6, 7, 8],
            &[9],
            &[10],
            &[11],
            &[12],
            &[13],
        ];
        assert_eq!(turns(&mut queue(1, batches)), together);
    }

    #[test]
    fn a_turn_is_bounded_and_a_large_write_goes_alone() {
        let small = (0..600).map(|number| put(&format!("{number}")));
        let sizes: Vec<usize> = turns(&mut queue(1, small)).iter().map(Vec::len).collect();
        assert_eq!(sizes, [256, 256, 88]);
        let bytes =
            (0..5).map(|number| Batch::new().put(&format!("{number}"), "x".repeat(400_000)));
        let sizes: Vec<usize> = turns(&mut queue(1, bytes)).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 2, 1]);
        let author = "x".repeat(400_000);
        let named = (0..5).map(|number| put(&format!("{number}")).actor(&*author));
        let sizes: Vec<usize> = turns(&mut queue(1, named)).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 2, 1], "the author's name counts too");
        let many = (0..1_001).fold(Batch::new(), |batch, number| {
            batch.put(&format!("{number}"), 1)
        });
        assert_eq!(
            turns(&mut queue(1, [put("a"), many, put("b"), put("c")])),
            [&[0][..], &[1], &[2, 3]]
        );
    }

    #[test]
    fn one_turn_at_a_time_unless_it_is_slow_and_no_key_is_under_way_twice() {
        let mut queue = queue(3, [put("a")]);
        let mut first = queue.next().unwrap();
        for key in ["b", "a", "c"] {
            queue.put(write(put(key))).unwrap();
        }
        assert!(queue.next().is_none());
        queue.slow(&mut first.ticket);
        let second = queue.next().unwrap();
        let keys: Vec<&str> = second.ticket.keys.iter().map(Key::as_str).collect();
        assert_eq!(keys, ["b", "c"], "a waits for a");
        assert!(queue.next().is_none());
        queue.end(Some(first.ticket), Vec::new());
        assert!(
            queue.next().is_none(),
            "the second is under way and not slow"
        );
        queue.end(Some(second.ticket), Vec::new());
        assert_eq!(queue.next().unwrap().writes.len(), 1);
    }

    #[test]
    fn the_last_turn_waits_for_nobody_and_what_was_sent_in_vain_comes_first() {
        let mut queue = queue(2, [put("locked:1")]);
        let mut first = queue.next().unwrap();
        assert!(first.patient);
        queue.slow(&mut first.ticket);
        for key in ["locked:2", "free"] {
            queue.put(write(put(key))).unwrap();
        }
        let second = queue.next().unwrap();
        assert!(!second.patient && second.writes.len() == 2);
        let held = second.writes.into_iter().take(1).map(|waiting| Waiting {
            way: Way::Alone,
            ..waiting
        });
        queue.end(Some(second.ticket), held.collect());
        assert!(queue.next().is_none(), "it would take the last turn");
        queue.put(write(put("later"))).unwrap();
        let third = queue.next().unwrap();
        assert_eq!((third.writes.len(), third.patient), (1, false));
        queue.end(Some(first.ticket), Vec::new());
        queue.end(Some(third.ticket), Vec::new());
        assert!(queue.next().unwrap().patient, "now it may wait");
    }
}
