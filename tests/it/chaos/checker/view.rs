//! A history in the order in which validators ask for it.

use std::collections::{BTreeMap, HashMap};

use super::Bounds;
use super::line::Line;
use crate::chaos::history::{
    Event, FaultKind, Micros, Outcome, Place, Record, Request, Scope, Status, Told, Truth,
};

/// An operation with its answer, if one came.
pub(super) struct Operation<'a> {
    pub(super) name: &'a str,
    pub(super) invoked: &'a Record,
    pub(super) request: &'a Request,
    pub(super) returned: Option<(&'a Record, &'a Outcome)>,
}

/// An operation that was applied, and where.
#[derive(Clone, Copy)]
pub(super) struct Applied<'a> {
    pub(super) operation: &'a Operation<'a>,
    pub(super) returned: &'a Record,
    pub(super) place: &'a Place,
    pub(super) changed: bool,
    pub(super) visible: bool,
    pub(super) replayed: bool,
}

/// How an instance came to show something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Loaded { kept: bool },
    Applied,
    Reset,
}

pub(super) struct Shown<'a> {
    pub(super) record: &'a Record,
    pub(super) place: &'a Place,
    pub(super) checksum: &'a str,
    pub(super) how: How,
}

/// One life of a process.
#[derive(Default)]
pub(super) struct Life<'a> {
    pub(super) started: Option<Micros>,
    pub(super) stopped: Option<Micros>,
    pub(super) shown: Vec<Shown<'a>>,
    pub(super) statuses: Vec<(&'a Record, &'a Status)>,
    pub(super) reads: Vec<&'a Record>,
    /// Times at which a subscriber was held or freed, in order, with what was shown.
    pub(super) held: Vec<(&'a Record, &'a str, &'a Place)>,
    /// The last one of its process, which is there at the end.
    pub(super) stays: bool,
}

/// What a subscriber was told, and when it began anew.
pub(super) struct Subscriber<'a> {
    pub(super) name: &'a str,
    pub(super) scope: &'a Scope,
    pub(super) steps: Vec<(&'a Record, Step<'a>)>,
    pub(super) ended: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Step<'a> {
    Began(Option<&'a Place>),
    Told(&'a Place, &'a Told),
}

pub(super) struct Fault<'a> {
    pub(super) what: &'a FaultKind,
    pub(super) processes: &'a [String],
    pub(super) from: Micros,
    pub(super) in_effect: Option<Micros>,
    pub(super) mending: Micros,
    pub(super) healed: Micros,
}

impl Fault<'_> {
    pub(super) fn concerns(&self, process: &str) -> bool {
        self.processes.is_empty() || self.processes.iter().any(|one| one == process)
    }
}

/// Times in ascending order, each with a revision.
type Times = Vec<(Micros, u64)>;

pub(super) type Name<'a> = (&'a str, u32);

/// The end of the run.
pub(super) struct End<'a> {
    pub(super) record: &'a Record,
    pub(super) truth: &'a Truth,
    pub(super) processes: &'a [String],
    pub(super) queue_usage: f64,
    pub(super) pinned_by: &'a [String],
}

pub(super) struct View<'a> {
    pub(super) bounds: Bounds,
    pub(super) lines: Vec<Line<'a>>,
    pub(super) operations: Vec<Operation<'a>>,
    pub(super) lives: BTreeMap<Name<'a>, Life<'a>>,
    pub(super) subscribers: BTreeMap<(Name<'a>, &'a str), Subscriber<'a>>,
    pub(super) faults: Vec<Fault<'a>>,
    /// Answers that nobody has defined.
    pub(super) unexpected: Vec<(&'a Record, &'a str)>,
    pub(super) end: End<'a>,
    /// For each line when answers told of its revisions, with the newest told by then.
    told: Vec<Times>,
    /// For each line when writes were begun, with the oldest revision that one begun then or later made.
    begun: Vec<Times>,
}

impl<'a> View<'a> {
    /// None where the history has no end: then it proves nothing.
    pub(super) fn of(records: &'a [Record], bounds: Bounds) -> Option<Self> {
        let end = records.iter().rev().find_map(end)?;
        let mut lost: Vec<_> = records.iter().filter_map(lost).collect();
        lost.sort_by_key(|(at, ..)| *at);
        let last = Line::new(lost.len(), end.truth, Micros::MAX, end.truth.head);
        let lost = lost.into_iter().enumerate();
        let lost = lost.map(|(index, (at, truth, kept))| Line::new(index, truth, at, kept));
        let mut view = Self {
            bounds,
            lines: lost.chain([last]).collect(),
            operations: operations(records),
            lives: BTreeMap::new(),
            subscribers: BTreeMap::new(),
            faults: faults(records),
            unexpected: Vec::new(),
            end,
            told: Vec::new(),
            begun: Vec::new(),
        };
        for record in records {
            view.take(record);
        }
        (view.told, view.begun) = (0..view.lines.len()).map(|at| view.times(at)).unzip();
        let stay = view.end.processes.iter().filter_map(|process| {
            let of_it = view.lives.keys().filter(|name| name.0 == process);
            of_it.max().copied()
        });
        for name in stay.collect::<Vec<_>>() {
            view.lives.entry(name).or_default().stays = true;
        }
        Some(view)
    }

    fn take(&mut self, record: &'a Record) {
        let name = (record.process.as_str(), record.incarnation);
        let mut show = |place, checksum: &'a str, how| {
            let shown = Shown {
                record,
                place,
                checksum,
                how,
            };
            self.lives.entry(name).or_default().shown.push(shown);
        };
        match &record.event {
            Event::Loaded {
                place,
                checksum,
                kept,
            } => {
                show(place, checksum, How::Loaded { kept: *kept });
            }
            Event::Applied { place, checksum } => show(place, checksum, How::Applied),
            Event::Reset {
                place, checksum, ..
            } => show(place, checksum, How::Reset),
            Event::Started => {
                let life = self.lives.entry(name).or_default();
                life.started = life.started.or(Some(record.at));
            }
            Event::Stopped => self.lives.entry(name).or_default().stopped = Some(record.at),
            Event::Status(status) => {
                self.lives
                    .entry(name)
                    .or_default()
                    .statuses
                    .push((record, status));
            }
            Event::Read { .. } => self.lives.entry(name).or_default().reads.push(record),
            Event::Subscribed {
                subscriber,
                filter,
                from,
            } => {
                let known = self.subscribers.entry((name, subscriber));
                let known = known.or_insert_with(|| Subscriber {
                    name: subscriber,
                    scope: filter,
                    steps: Vec::new(),
                    ended: false,
                });
                known.ended = false;
                known.steps.push((record, Step::Began(from.as_ref())));
            }
            Event::Delivered {
                subscriber,
                place,
                told,
            } => {
                if let Some(known) = self.subscribers.get_mut(&(name, subscriber.as_str())) {
                    known.steps.push((record, Step::Told(place, told)));
                }
            }
            Event::Ended { subscriber } => {
                if let Some(known) = self.subscribers.get_mut(&(name, subscriber.as_str())) {
                    known.ended = true;
                }
            }
            Event::Held { subscriber, place } | Event::Freed { subscriber, place } => {
                let life = self.lives.entry(name).or_default();
                life.held.push((record, subscriber, place));
            }
            Event::Unexpected { what } => self.unexpected.push((record, what)),
            Event::Invoked { .. }
            | Event::Returned { .. }
            | Event::Fault { .. }
            | Event::InEffect { .. }
            | Event::Mending { .. }
            | Event::Healed { .. }
            | Event::Branch { .. }
            | Event::Final { .. } => {}
        }
    }

    /// When writes to a line were begun and answered.
    fn times(&self, line: usize) -> (Times, Times) {
        let line = &self.lines[line];
        let on_it = || {
            self.applied()
                .filter(|applied| applied.changed && line.has(applied.place))
        };
        let answer = |applied: Applied<'_>| (applied.returned.at, applied.place.revision);
        let mut told: Vec<_> = on_it().map(answer).collect();
        told.sort_unstable();
        let mut newest = 0;
        for (_, revision) in &mut told {
            newest = newest.max(*revision);
            *revision = newest;
        }
        let begin = |applied: Applied<'_>| (applied.operation.invoked.at, applied.place.revision);
        let made = on_it().filter(|applied| !applied.replayed);
        let mut begun: Vec<_> = made.map(begin).collect();
        begun.sort_unstable();
        let mut oldest = u64::MAX;
        for (_, revision) in begun.iter_mut().rev() {
            oldest = oldest.min(*revision);
            *revision = oldest;
        }
        (told, begun)
    }

    /// The newest revision of a line that was certainly committed before a time.
    pub(super) fn committed_before(&self, line: &Line<'_>, at: Micros) -> u64 {
        let told = &self.told[line.index];
        let before = told.partition_point(|(when, _)| *when < at.saturating_sub(self.bounds.slack));
        told[..before]
            .last()
            .map_or(line.base(), |(_, revision)| *revision)
    }

    /// The newest revision of a line that may have been committed at a time.
    pub(super) fn possible_at(&self, line: &Line<'_>, at: Micros) -> u64 {
        let begun = &self.begun[line.index];
        let later = begun.partition_point(|(when, _)| *when <= at + self.bounds.slack);
        let next = begun.get(later).map_or(u64::MAX, |(_, revision)| *revision);
        line.truth.head.min(next.saturating_sub(1))
    }

    /// The line that a place lies on; of several the first, they agree up to there.
    pub(super) fn line_of(&self, place: &Place) -> Option<&Line<'a>> {
        self.lines.iter().find(|line| line.has(place))
    }

    /// The line that two places lie on.
    pub(super) fn common(&self, one: &Place, other: &Place) -> Option<&Line<'a>> {
        self.lines
            .iter()
            .find(|line| line.has(one) && line.has(other))
    }

    pub(super) fn last(&self) -> &Line<'a> {
        &self.lines[self.lines.len() - 1]
    }

    pub(super) fn applied(&self) -> impl Iterator<Item = Applied<'_>> {
        self.operations
            .iter()
            .filter_map(|operation| match operation.returned? {
                (
                    returned,
                    Outcome::Applied {
                        place,
                        changed,
                        visible,
                        replayed,
                    },
                ) => Some(Applied {
                    operation,
                    returned,
                    place,
                    changed: *changed,
                    visible: *visible,
                    replayed: *replayed,
                }),
                (_, Outcome::Conflict | Outcome::NotApplied { .. } | Outcome::Unknown { .. }) => {
                    None
                }
            })
    }

    /// Whether what a process holds was altered on purpose around that time. That excuses nothing but texts, of a process
    /// whose memory was edited or, for the second that an audit takes, of all: what is told of revisions stays judged.
    pub(super) fn altered(&self, process: &str, at: Micros) -> bool {
        self.altered_between(process, at, at)
    }

    fn altered_between(&self, process: &str, from: Micros, to: Micros) -> bool {
        let alters = |fault: &&Fault<'_>| {
            matches!(fault.what, FaultKind::Falsified | FaultKind::Altered)
                && fault.concerns(process)
        };
        let mut faults = self.faults.iter().filter(alters);
        faults.any(|fault| fault.from <= to && from <= fault.healed)
    }

    /// The same for what a subscriber was told, which may be long after the process showed it.
    pub(super) fn told_altered(&self, record: &Record, place: &Place) -> bool {
        let name = (record.process.as_str(), record.incarnation);
        let shown = self
            .lives
            .get(&name)
            .into_iter()
            .flat_map(|life| &life.shown);
        let shown = shown.filter(|shown| shown.place == place);
        // Either line may be written a moment after what it tells.
        let mut at = shown.map(|shown| shown.record.at).chain([record.at]);
        at.any(|at| self.altered_between(&record.process, at.saturating_sub(self.bounds.slack), at))
    }

    /// Whether a fault that concerns a process overlaps a time.
    pub(super) fn disturbed(&self, process: &str, from: Micros, to: Micros) -> bool {
        let mut faults = self.faults.iter().filter(|fault| fault.concerns(process));
        faults.any(|fault| fault.from <= to && from <= fault.healed)
    }
}

fn end(record: &Record) -> Option<End<'_>> {
    let Event::Final {
        truth,
        processes,
        queue_usage,
        pinned_by,
    } = &record.event
    else {
        return None;
    };
    Some(End {
        record,
        truth,
        processes,
        queue_usage: *queue_usage,
        pinned_by,
    })
}

fn lost(record: &Record) -> Option<(Micros, &Truth, u64)> {
    match &record.event {
        Event::Branch { truth, kept_up_to } => Some((record.at, truth, *kept_up_to)),
        _ => None,
    }
}

fn operations(records: &[Record]) -> Vec<Operation<'_>> {
    let mut answers = HashMap::new();
    for record in records {
        if let Event::Returned { operation, outcome } = &record.event {
            answers.insert(operation.as_str(), (record, outcome));
        }
    }
    let mut operations = Vec::new();
    for record in records {
        if let Event::Invoked { operation, request } = &record.event {
            operations.push(Operation {
                name: operation,
                invoked: record,
                request,
                returned: answers.get(operation.as_str()).copied(),
            });
        }
    }
    operations
}

fn faults(records: &[Record]) -> Vec<Fault<'_>> {
    let mut times: HashMap<&str, [Option<Micros>; 3]> = HashMap::new();
    for record in records {
        let (fault, step) = match &record.event {
            Event::InEffect { fault } => (fault, 0),
            Event::Mending { fault } => (fault, 1),
            Event::Healed { fault } => (fault, 2),
            _ => continue,
        };
        times.entry(fault).or_default()[step] = Some(record.at);
    }
    let mut faults = Vec::new();
    for record in records {
        if let Event::Fault {
            fault,
            what,
            processes,
        } = &record.event
        {
            let times = times.get(fault.as_str()).copied().unwrap_or_default();
            let [in_effect, mending, healed] = times;
            let healed = healed.unwrap_or(Micros::MAX);
            faults.push(Fault {
                what,
                processes,
                from: record.at,
                in_effect,
                mending: mending.unwrap_or(healed),
                healed,
            });
        }
    }
    faults
}
