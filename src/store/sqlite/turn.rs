//! Waiting for the file's write lock, which one process holds at a time.
//!
//! Guarantees: a change that is given up before it holds the lock is never made; whoever gives it up knows which it is.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::worker::lock;

const WAITS: u8 = 0;
const BEGUN: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Looks at the lock, one after another: a commit takes a millisecond or a few.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(4)];

/// So many looks at first come after the shorter pause.
const SHORT: i32 = 8;

/// Work that nobody waits for stops asking for the lock after so many looks, some 200 ms: what comes after it in the queue
/// has a deadline.
const BRIEF: i32 = 55;

/// How far a change has come.
#[derive(Debug, Default)]
pub(super) struct Turn(AtomicU8);

impl Turn {
    /// The lock is held: the change is made now, unless it was given up.
    pub(super) fn begin(&self) -> bool {
        self.step(BEGUN)
    }

    /// Whether it is given up before it began, so that it never does.
    pub(super) fn give_up(&self) -> bool {
        self.step(GIVEN_UP)
    }

    fn given_up(&self) -> bool {
        self.0.load(Ordering::Acquire) == GIVEN_UP
    }

    fn step(&self, to: u8) -> bool {
        let step = self
            .0
            .compare_exchange(WAITS, to, Ordering::AcqRel, Ordering::Acquire);
        step.is_ok()
    }
}

/// Gives a change up when its caller goes.
pub(super) struct GivenUp(pub(super) Arc<Turn>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// What a connection asks when it meets somebody else's lock.
#[derive(Debug, Default)]
pub(super) struct Patience(Mutex<Option<Arc<Turn>>>);

impl Patience {
    /// From now on the connection waits for as long as the change of this turn is wanted; without one, briefly.
    pub(super) fn set(&self, turn: Option<&Arc<Turn>>) {
        *lock(&self.0) = turn.cloned();
    }

    /// Waits for a moment; false when it was long enough.
    pub(super) fn waits(&self, looks: i32) -> bool {
        let turn = lock(&self.0).clone();
        let goes_on = match turn {
            Some(turn) => !turn.given_up(),
            None => looks < BRIEF,
        };
        if goes_on {
            let [short, long] = PAUSES;
            std::thread::sleep(if looks < SHORT { short } else { long });
        }
        goes_on
    }
}
