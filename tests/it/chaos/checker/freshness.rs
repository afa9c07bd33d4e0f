//! How fresh instances were, and how fresh they said they were.

use super::Findings;
use super::line::Line;
use super::reads::begins_with_a_load;
use super::view::{Fault, How, Life, Name, View};
use crate::chaos::history::{FaultKind, Micros, Place, Record};

/// R5: staleness is never under-reported. Who says that its state was proven at a time shows everything that was committed
/// before then, and nothing is proven while the database is cut off.
pub(super) fn proven(view: &View<'_>, findings: &mut Findings<'_>) {
    for ((process, _), life) in &view.lives {
        for (record, status) in &life.statuses {
            let (Some(ago), Some(place)) = (status.proven_ago, &status.place) else {
                continue;
            };
            // The earliest time that it may mean.
            let proven = record.at.saturating_sub(status.took).saturating_sub(ago);
            // A question may be asked of a frozen database, and answered once that goes on: then it proves what it asked.
            let during = |fault: &&Fault<'_>| {
                let since = fault.in_effect.unwrap_or(Micros::MAX);
                proven > since.saturating_add(view.bounds.slack) && record.at < fault.mending
            };
            if let Some(fault) = cuts(view, process).find(during) {
                let since = proven - fault.in_effect.unwrap_or(proven);
                let seen = format!("{since} µs after the database was cut off");
                findings.add(record, place.revision, "a proof from before", seen);
                continue;
            }
            let lines = view.lines.iter().filter(|line| line.has(place));
            let committed = lines.map(|line| view.committed_before(line, proven)).min();
            if let Some(committed) = committed.filter(|committed| *committed > place.revision) {
                let expected = format!("revision {committed}, committed before the proof");
                findings.add(record, place.revision, expected, place.revision.to_string());
            }
        }
    }
}

fn cuts<'v, 'a>(view: &'v View<'a>, process: &'v str) -> impl Iterator<Item = &'v Fault<'a>> {
    let cuts = view
        .faults
        .iter()
        .filter(|fault| *fault.what == FaultKind::CutOff);
    cuts.filter(|fault| fault.concerns(process))
}

/// R5: who is cut off says so, once there was time to notice.
pub(super) fn mode(view: &View<'_>, findings: &mut Findings<'_>) {
    for ((process, _), life) in &view.lives {
        for (record, status) in &life.statuses {
            let asked = record.at.saturating_sub(status.took);
            let unnoticed = |fault: &&Fault<'_>| {
                let since = fault.in_effect.unwrap_or(Micros::MAX);
                asked > since.saturating_add(view.bounds.notice) && record.at < fault.mending
            };
            if status.mode != "offline" && cuts(view, process).any(|fault| unnoticed(&fault)) {
                let revision = status.place.as_ref().map(|place| place.revision);
                findings.add(record, revision, "offline", status.mode.as_str());
            }
        }
    }
}

/// R7: an instance begins with a whole state, not older than what was committed before it was started.
pub(super) fn starts(view: &View<'_>, findings: &mut Findings<'_>) {
    for life in view.lives.values() {
        let Some(first) = life.shown.first() else {
            continue;
        };
        let revision = first.place.revision;
        if !begins_with_a_load(life) {
            findings.add(
                first.record,
                revision,
                "a load first",
                format!("{:?}", first.how),
            );
        }
        // A place before a fork lies on several lines, of which the last may be the one it was loaded from.
        let lines = view.lines.iter().filter(|line| line.has(first.place));
        let before = life
            .started
            .and_then(|started| lines.map(|line| view.committed_before(line, started)).min());
        let Some(before) = before else { continue };
        if first.how == (How::Loaded { kept: false }) && revision < before {
            let expected = format!("revision {before} or later");
            findings.add(first.record, revision, expected, revision.to_string());
        }
    }
}

/// When a life showed what.
struct Course<'a> {
    name: Name<'a>,
    life: &'a Life<'a>,
    /// For each line: times with the newest revision of it shown by then.
    reached: Vec<Vec<(Micros, u64)>>,
}

impl<'a> Course<'a> {
    fn of(view: &View<'_>, name: Name<'a>, life: &'a Life<'a>) -> Self {
        let shown = life
            .shown
            .iter()
            .map(|shown| (shown.record.at, shown.place));
        let told = life.statuses.iter();
        let told = told.filter_map(|(record, status)| Some((record.at, status.place.as_ref()?)));
        let mut places: Vec<(Micros, &Place)> = shown.chain(told).collect();
        places.sort_by_key(|(at, _)| *at);
        let reached = view.lines.iter().map(|line| {
            let mut newest = 0;
            let places = places.iter().map(|(at, place)| {
                let later = |line: &Line<'_>| line.has(place);
                if line.has(place) {
                    newest = newest.max(place.revision);
                } else if view.lines[line.index + 1..].iter().any(later) {
                    newest = u64::MAX;
                }
                (*at, newest)
            });
            places.collect()
        });
        Self {
            name,
            life,
            reached: reached.collect(),
        }
    }

    /// When it first showed a revision of a line, or one of a later line.
    fn when(&self, line: usize, revision: u64) -> Option<Micros> {
        let course = &self.reached[line];
        let at = course.partition_point(|(_, reached)| *reached < revision);
        course.get(at).map(|(at, _)| *at)
    }

    /// Whether it had loaded before a time.
    fn loaded_by(&self, at: Micros) -> bool {
        self.life
            .shown
            .first()
            .is_some_and(|first| first.record.at <= at)
    }

    /// Until when it is to be judged.
    fn until(&self, view: &View<'_>) -> Micros {
        let end = if self.life.stays {
            view.end.record.at
        } else {
            self.last()
        };
        self.life.stopped.unwrap_or(end)
    }

    fn last(&self) -> Micros {
        let last = |course: &Vec<(Micros, u64)>| course.last().map_or(0, |(at, _)| *at);
        self.reached.iter().map(last).max().unwrap_or_default()
    }

    /// The last thing that it showed.
    fn record(&self) -> Option<&'a Record> {
        self.life.shown.last().map(|shown| shown.record)
    }
}

fn courses<'v>(view: &'v View<'_>) -> Vec<Course<'v>> {
    let seen = view.lives.iter().filter(|(_, life)| !life.shown.is_empty());
    seen.map(|(name, life)| Course::of(view, *name, life))
        .collect()
}

/// R4: while the store answers, an instance shows each committed revision within a bound; and after a fault was healed, too.
pub(super) fn convergence(view: &View<'_>, findings: &mut Findings<'_>) {
    let courses = courses(view);
    let committed = view
        .applied()
        .filter(|applied| applied.changed && !applied.replayed);
    let committed = committed.filter_map(|applied| {
        let line = view.line_of(applied.place)?;
        Some((line, applied.place.revision, applied.returned.at))
    });
    let healed = view
        .faults
        .iter()
        .filter(|fault| fault.healed < Micros::MAX)
        .map(|fault| {
            let line = line_at(view, fault.healed);
            (
                line,
                view.committed_before(line, fault.healed),
                fault.healed,
            )
        });
    for (line, revision, from) in committed.chain(healed) {
        let until = from.saturating_add(view.bounds.converge);
        // What is lost meanwhile need not be shown.
        let lines = view
            .lines
            .iter()
            .filter(|line| line.revision(revision).is_some());
        if line.lost_at <= until || lines.count() == 0 {
            continue;
        }
        for course in &courses {
            let judged = course.loaded_by(from)
                && until < course.until(view)
                && !view.disturbed(course.name.0, from + 1, until);
            let reached = course.when(line.index, revision);
            // Who never got there and is still there is told so at the end.
            let late = reached.map_or(!course.life.stays, |at| at > until);
            if let Some(record) = course.record().filter(|_| judged && late) {
                let seen =
                    reached.map_or_else(|| "never".to_owned(), |at| format!("{} µs", at - from));
                let bound = view.bounds.converge;
                findings.add(
                    record,
                    revision,
                    format!("it shown within {bound} µs"),
                    seen,
                );
            }
        }
    }
}

/// The history that the database followed at a time.
fn line_at<'v, 'a>(view: &'v View<'a>, at: Micros) -> &'v Line<'a> {
    let line = view.lines.iter().find(|line| line.lost_at > at);
    line.unwrap_or_else(|| view.last())
}

/// For each healed fault, how long it took until every instance that then ran showed what was committed by then.
pub(super) fn healing(view: &View<'_>) -> Vec<Micros> {
    let courses = courses(view);
    let healed = view
        .faults
        .iter()
        .filter(|fault| fault.healed < Micros::MAX);
    let time = |fault: &Fault<'_>| {
        let line = line_at(view, fault.healed);
        let target = view.committed_before(line, fault.healed);
        let ran = courses
            .iter()
            .filter(|course| course.loaded_by(fault.healed) && course.until(view) > fault.healed);
        let reached = ran.filter_map(|course| course.when(line.index, target));
        reached
            .map(|at| at.saturating_sub(fault.healed))
            .max()
            .unwrap_or_default()
    };
    healed.map(time).collect()
}

/// R4: at the end every running instance shows the table's head, with its checksum, and in its epoch.
pub(super) fn end(view: &View<'_>, findings: &mut Findings<'_>) {
    let (line, truth) = (view.last(), view.end.truth);
    let expected = format!(
        "{} at {} in {}",
        line.checksum(truth.head),
        truth.head,
        truth.epoch
    );
    for process in view.end.processes {
        let mut lives = view.lives.iter();
        let life = lives.find(|(name, life)| name.0 == process && life.stays);
        let shown = life.and_then(|(_, life)| {
            let shown = life
                .shown
                .last()
                .map(|last| (last.record.at, last.place, Some(last.checksum)));
            let told = life.statuses.last().and_then(|(record, status)| {
                Some((
                    record.at,
                    status.place.as_ref()?,
                    status.checksum.as_deref(),
                ))
            });
            shown.into_iter().chain(told).max_by_key(|(at, ..)| *at)
        });
        let Some((_, place, checksum)) = shown else {
            findings.add(
                view.end.record,
                truth.head,
                expected.as_str(),
                format!("nothing of {process}"),
            );
            continue;
        };
        let there = place.epoch == truth.epoch && place.revision == truth.head && line.has(place);
        let right = checksum.is_none_or(|checksum| checksum == line.checksum(truth.head));
        // A wrong checksum of a right place is told as that.
        if !there {
            let seen = format!(
                "{process}: {checksum:?} at {} in {}",
                place.revision, place.epoch
            );
            findings.add(view.end.record, place.revision, expected.as_str(), seen);
        } else if !right && view.altered(process, view.end.record.at) {
            let seen = format!("{process}: still altered");
            findings.add(view.end.record, place.revision, expected.as_str(), seen);
        }
    }
}

/// F11, F25: at the end nobody holds back the notification queue or VACUUM.
pub(super) fn unpinned(view: &View<'_>, findings: &mut Findings<'_>) {
    let end = &view.end;
    if end.queue_usage > 0.0 {
        let seen = end.queue_usage.to_string();
        findings.add(end.record, None, "an empty notification queue", seen);
    }
    if !end.pinned_by.is_empty() {
        findings.add(
            end.record,
            None,
            "no session that holds VACUUM back",
            end.pinned_by.join(", "),
        );
    }
}
