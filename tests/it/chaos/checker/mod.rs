//! Proves the contract from a recorded history: one validator for each guarantee, over every process' own account and what the
//! database says at the end.
//!
//! Validators are apart from each other on purpose: a fault of one kind is named by the guarantee that it breaks. What is
//! excused is said by the history itself: a fault that concerns a process excuses it from being late until it is healed, and
//! values that were altered on purpose excuse it from being right until then.

mod freshness;
mod line;
mod reads;
mod subscribers;
#[cfg(test)]
mod tests;
mod view;
mod writes;

use std::fmt;

use self::view::View;
use super::history::{Micros, Record};

/// What a run promises about time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// A database that is cut off is noticed after this: check interval, timeout and some time for a busy machine.
    pub(crate) notice: Micros,
    /// News arrives, and a fault is come to terms with, after this.
    pub(crate) converge: Micros,
    /// Clocks of one machine agree so far, and a line is written so fast after what it tells.
    pub(crate) slack: Micros,
}

/// A guarantee that the history breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The validator, by the name of its guarantee.
    pub(crate) guarantee: &'static str,
    pub(crate) process: String,
    pub(crate) incarnation: u32,
    pub(crate) at: Micros,
    pub(crate) revision: Option<u64>,
    pub(crate) expected: String,
    pub(crate) seen: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let revision = self
            .revision
            .map_or_else(|| "-".to_owned(), |revision| revision.to_string());
        write!(
            f,
            "{}: {}/{} at {} revision {revision}: expected {}, seen {}",
            self.guarantee, self.process, self.incarnation, self.at, self.expected, self.seen
        )
    }
}

/// What a history shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) violations: Vec<Violation>,
    /// How long after each healed fault every running instance had come to terms, in order of the faults.
    pub(crate) converged: Vec<Micros>,
}

impl Report {
    /// The names of the guarantees that are broken, each once.
    pub(crate) fn broken(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self
            .violations
            .iter()
            .map(|violation| violation.guarantee)
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// Collects what one validator finds.
struct Findings<'v> {
    guarantee: &'static str,
    found: &'v mut Vec<Violation>,
}

impl Findings<'_> {
    fn add(
        &mut self,
        record: &Record,
        revision: impl Into<Option<u64>>,
        expected: impl Into<String>,
        seen: impl Into<String>,
    ) {
        self.found.push(Violation {
            guarantee: self.guarantee,
            process: record.process.clone(),
            incarnation: record.incarnation,
            at: record.at,
            revision: revision.into(),
            expected: expected.into(),
            seen: seen.into(),
        });
    }
}

type Validator = fn(&View<'_>, &mut Findings<'_>);

/// Each guarantee with its validator.
const VALIDATORS: [(&str, Validator); 24] = [
    ("durable", writes::durable),
    ("not applied", writes::not_applied),
    ("idempotent", writes::idempotent),
    ("dense", writes::dense),
    ("commit order", writes::commit_order),
    ("conditions", writes::conditions),
    ("checksums", reads::checksums),
    ("monotonic", reads::monotonic),
    ("one past", reads::one_past),
    ("read your writes", reads::read_your_writes),
    ("reads", reads::exact),
    ("ordered", subscribers::ordered),
    ("once", subscribers::once),
    ("complete or told", subscribers::complete),
    ("atomic", subscribers::atomic),
    ("resets", subscribers::resets),
    ("bookmarks", subscribers::bookmarks),
    ("scope", subscribers::scope),
    ("proven", freshness::proven),
    ("mode", freshness::mode),
    ("starts", freshness::starts),
    ("convergence", freshness::convergence),
    ("end", freshness::end),
    ("unpinned", freshness::unpinned),
];

/// Judges a history.
///
/// A history without an end proves nothing, and is refused as that.
pub(crate) fn check(records: &[Record], bounds: Bounds) -> Report {
    let mut report = Report::default();
    let Some(view) = View::of(records, bounds) else {
        report.violations.push(Violation {
            guarantee: "end",
            process: "orchestrator".to_owned(),
            incarnation: 0,
            at: records.last().map_or(0, |last| last.at),
            revision: None,
            expected: "the database's own account at the end".to_owned(),
            seen: "none".to_owned(),
        });
        return report;
    };
    for (guarantee, validator) in VALIDATORS {
        let found = &mut report.violations;
        validator(&view, &mut Findings { guarantee, found });
    }
    report.converged = freshness::healing(&view);
    report
}
