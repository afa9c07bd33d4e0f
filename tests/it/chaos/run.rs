//! What everybody who takes part in a run shares: the history, counters and numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::watch;

use super::figures::Figures;
use super::history::{Asked, Event, Outcome, Place, Recorder, Request};

/// Writes that were begun under an idempotency key and whose outcome is unknown are sent again so often.
const RESENDS: u32 = 3;

/// One run on one database.
#[derive(Debug)]
pub(crate) struct Run {
    directory: PathBuf,
    pub(crate) book: Recorder,
    numbers: AtomicU64,
    stop: watch::Sender<bool>,
    kept: AtomicBool,
    figures: Mutex<Figures>,
    epochs: Mutex<BTreeSet<String>>,
    revisions: Mutex<HashMap<String, u64>>,
    /// Writes with an idempotency key, by operation: what was asked, and how often it may be sent again.
    keyed: Mutex<BTreeMap<String, (Request, u32)>>,
    /// Those that have to be sent again.
    again: Mutex<Vec<(Request, u32)>>,
}

impl Run {
    pub(crate) fn new(directory: &Path) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let book = directory.join("orchestrator.jsonl");
        Self {
            directory: directory.to_owned(),
            book: Recorder::append(&book, "orchestrator", 1).unwrap(),
            numbers: AtomicU64::new(1),
            stop: watch::Sender::new(false),
            kept: AtomicBool::new(false),
            figures: Mutex::default(),
            epochs: Mutex::default(),
            revisions: Mutex::default(),
            keyed: Mutex::default(),
            again: Mutex::default(),
        }
    }

    /// Where the history is kept.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A number that nobody has yet.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// A name for an operation.
    pub(crate) fn operation(&self) -> String {
        format!("op{}", self.number())
    }

    /// A value that nobody has written yet, as PostgreSQL prints it.
    pub(crate) fn text(&self) -> String {
        let number = self.number();
        match number % 4 {
            0 => format!("{number}"),
            1 => format!("\"v{number}\""),
            2 => format!("{{\"n\": {number}, \"on\": true}}"),
            _ => format!("[{number}, 1.0]"),
        }
    }

    pub(crate) fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap()
    }

    /// Ends the writers.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Says that nobody shall empty the table for a while, or may again.
    pub(crate) fn keep_all(&self, yes: bool) {
        self.kept.store(yes, Ordering::SeqCst);
    }

    pub(crate) fn keeps_all(&self) -> bool {
        self.kept.load(Ordering::SeqCst)
    }

    pub(crate) fn know_epoch(&self, epoch: &str) {
        let mut epochs = self.epochs.lock().unwrap();
        if !epochs.contains(epoch) {
            epochs.insert(epoch.to_owned());
        }
    }

    /// The epoch that begins so, as far as anybody has told of it.
    pub(crate) fn epoch(&self, beginning: &str) -> Option<String> {
        let epochs = self.epochs.lock().unwrap();
        epochs
            .iter()
            .find(|epoch| epoch.starts_with(beginning))
            .cloned()
    }

    pub(crate) fn know_revision(&self, key: &str, revision: u64) {
        self.revisions
            .lock()
            .unwrap()
            .insert(key.to_owned(), revision);
    }

    /// The revision of a key, as far as known here: good for a condition that may hold.
    pub(crate) fn revision(&self, key: &str) -> Option<u64> {
        self.revisions.lock().unwrap().get(key).copied()
    }

    /// Remembers a write that may be sent again.
    pub(crate) fn keyed(&self, operation: &str, write: &Request, left: u32) {
        if write.idempotency_key.is_some() {
            let remembered = (write.clone(), left);
            self.keyed
                .lock()
                .unwrap()
                .insert(operation.to_owned(), remembered);
        }
    }

    pub(crate) fn resends() -> u32 {
        RESENDS
    }

    /// A write of unknown outcome that has to be sent again.
    pub(crate) fn again(&self) -> Option<(Request, u32)> {
        self.again.lock().unwrap().pop()
    }

    /// Takes note of an answer.
    pub(crate) fn returned(&self, operation: &str, outcome: &Outcome) {
        let keyed = self.keyed.lock().unwrap().remove(operation);
        let mut figures = self.figures();
        match outcome {
            Outcome::Applied { place, .. } => {
                figures.applied += 1;
                drop(figures);
                self.know_epoch(&place.epoch);
            }
            Outcome::Conflict => figures.conflicts += 1,
            Outcome::NotApplied { .. } => figures.refused += 1,
            Outcome::Unknown { .. } => {
                figures.unknown += 1;
                if let Some((write, left)) = keyed.filter(|(_, left)| *left > 0) {
                    figures.resent += 1;
                    self.again.lock().unwrap().push((write, left - 1));
                }
            }
        }
    }

    /// Records that an operation on an instance begins.
    pub(crate) fn invoke(&self, of: &str, incarnation: u32, operation: &str, items: Vec<Asked>) {
        let request = Request {
            items,
            idempotency_key: None,
        };
        let operation = operation.to_owned();
        self.book
            .note_of(of, incarnation, Event::Invoked { operation, request });
    }

    /// Records its answer.
    pub(crate) fn answer(&self, of: &str, incarnation: u32, operation: &str, outcome: Outcome) {
        self.returned(operation, &outcome);
        let operation = operation.to_owned();
        self.book
            .note_of(of, incarnation, Event::Returned { operation, outcome });
    }
}

/// A place without its random id.
pub(crate) fn at(epoch: &str, revision: u64) -> Place {
    Place {
        epoch: epoch.to_owned(),
        revision,
        rid: None,
    }
}

/// A put, or a delete without a text.
pub(crate) fn asked(key: &str, new: Option<&str>) -> Asked {
    Asked {
        key: key.to_owned(),
        new: new.map(str::to_owned),
        condition: None,
    }
}
