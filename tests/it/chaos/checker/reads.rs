//! What instances showed against the states of the journal.

use std::collections::BTreeSet;

use super::Findings;
use super::line::Line;
use super::view::{How, Life, Name, View};
use crate::chaos::history::{Event, Place, Record};

/// R2: what is published at a revision is the state of exactly that revision.
pub(super) fn checksums(view: &View<'_>, findings: &mut Findings<'_>) {
    for life in view.lives.values() {
        let shown = life
            .shown
            .iter()
            .map(|shown| (shown.record, shown.record.at, shown.place, shown.checksum));
        let told = life.statuses.iter();
        let told = told.filter_map(|(record, status)| {
            let asked = record.at.saturating_sub(status.took);
            let (place, checksum) = (status.place.as_ref()?, status.checksum.as_deref()?);
            Some((*record, asked, place, checksum))
        });
        for (record, since, place, checksum) in shown.chain(told) {
            let lines: Vec<_> = view.lines.iter().filter(|line| line.has(place)).collect();
            let right = |line: &&Line<'_>| line.checksum(place.revision) == checksum;
            if !lines.is_empty()
                && !lines.iter().any(right)
                && !view.altered(&record.process, since)
            {
                let expected = lines[0].checksum(place.revision);
                findings.add(record, place.revision, expected, checksum);
            }
        }
    }
}

/// R2: revisions never go backwards within an epoch, and an epoch that was left does not come back.
pub(super) fn monotonic(view: &View<'_>, findings: &mut Findings<'_>) {
    for life in view.lives.values() {
        let shown = life.shown.iter().map(|shown| (shown.record, shown.place));
        only_forward(shown, findings);
        let told = life.statuses.iter();
        let told = told.filter_map(|(record, status)| Some((*record, status.place.as_ref()?)));
        only_forward(told, findings);
    }
}

fn only_forward<'a>(
    places: impl Iterator<Item = (&'a Record, &'a Place)>,
    findings: &mut Findings<'_>,
) {
    let (mut last, mut left): (Option<&Place>, BTreeSet<&str>) = (None, BTreeSet::new());
    for (record, place) in places {
        if left.contains(place.epoch.as_str()) {
            let seen = format!("epoch {}", place.epoch);
            findings.add(record, place.revision, "no epoch that was left", seen);
        }
        match last {
            Some(last) if last.epoch != place.epoch => {
                left.insert(&last.epoch);
            }
            Some(last) if place.revision < last.revision => {
                let expected = format!("{} or later", last.revision);
                findings.add(record, place.revision, expected, place.revision.to_string());
            }
            Some(_) | None => {}
        }
        last = Some(place);
    }
}

/// W3: within an epoch an instance and a subscriber follow one past: a revision of a history that was replaced is not gone on
/// from with revisions of the one that took its place. Nor is it shown once there was time to notice.
pub(super) fn one_past(view: &View<'_>, findings: &mut Findings<'_>) {
    for (name, life) in &view.lives {
        let mut last: Option<&Place> = None;
        for shown in &life.shown {
            let (record, place) = (shown.record, shown.place);
            joined(view, last, record, place, findings);
            last = Some(place);
            left_behind(view, *name, record, place, findings);
        }
        for (record, status) in &life.statuses {
            if let Some(place) = status.place.as_ref().filter(|_| !status.stale) {
                left_behind(view, *name, record, place, findings);
            }
        }
    }
    for subscriber in view.subscribers.values() {
        let mut last: Option<&Place> = None;
        for (record, step) in &subscriber.steps {
            use super::view::Step::{Began, Told};
            let place = match step {
                Began(from) => {
                    last = *from;
                    continue;
                }
                Told(place, _) => *place,
            };
            use crate::chaos::history::Told::Changed;
            let changed = matches!(step, Told(_, Changed(_)));
            if changed && last.is_some_and(|last| last.epoch != place.epoch) {
                let expected = "a reset before another epoch";
                findings.add(record, place.revision, expected, place.epoch.as_str());
            }
            joined(view, last, record, place, findings);
            last = Some(place);
        }
    }
}

fn joined(
    view: &View<'_>,
    last: Option<&Place>,
    record: &Record,
    place: &Place,
    findings: &mut Findings<'_>,
) {
    let id = place.rid.as_deref().unwrap_or("without id");
    if view.line_of(place).is_none() {
        let expected = "a revision of some journal";
        findings.add(
            record,
            place.revision,
            expected,
            format!("{id}, which is in none"),
        );
    } else if let Some(last) = last.filter(|last| last.epoch == place.epoch)
        && view.line_of(last).is_some()
        && view.common(last, place).is_none()
    {
        let expected = format!("one past with revision {} before it", last.revision);
        findings.add(record, place.revision, expected, format!("{id} of another"));
    }
}

fn left_behind(
    view: &View<'_>,
    name: Name<'_>,
    record: &Record,
    place: &Place,
    findings: &mut Findings<'_>,
) {
    let Some(line) = view.lines.iter().rev().find(|line| line.has(place)) else {
        return;
    };
    let late = record.at.saturating_sub(view.bounds.converge);
    if line.lost_at < late && !view.disturbed(name.0, late, record.at) {
        let expected = "the history that took over";
        findings.add(
            record,
            place.revision,
            expected,
            "one that was lost long before",
        );
    }
}

/// R3: after a write was answered, its instance reads it or what came later.
pub(super) fn read_your_writes(view: &View<'_>, findings: &mut Findings<'_>) {
    for (name, life) in &view.lives {
        let own = view.applied().filter(|applied| {
            let by = applied.operation.invoked;
            applied.visible && (by.process.as_str(), by.incarnation) == *name
        });
        let own: Vec<_> = own
            .map(|applied| (applied.returned.at, applied.place))
            .collect();
        for record in &life.reads {
            let before = own.iter().filter(|(at, _)| *at < record.at);
            let before: Vec<_> = before.map(|(_, place)| *place).collect();
            if !view.altered(name.0, record.at) {
                reads_own(view, record, &before, findings);
            }
        }
    }
}

fn reads_own(view: &View<'_>, record: &Record, own: &[&Place], findings: &mut Findings<'_>) {
    let Event::Read {
        key,
        text,
        place,
        exact,
    } = &record.event
    else {
        return;
    };
    let of_epoch = own.iter().filter(|own| {
        let place = place.as_ref();
        place.is_none_or(|place| own.epoch == place.epoch)
    });
    let Some(newest) = of_epoch.max_by_key(|place| place.revision) else {
        return;
    };
    let floor = newest.revision;
    let Some(line) = view.line_of(newest) else {
        return;
    };
    let shown = place.as_ref().map_or(0, |place| place.revision);
    if place.is_some() && shown < floor {
        findings.add(
            record,
            shown,
            format!("revision {floor} or later"),
            shown.to_string(),
        );
        return;
    }
    let later = |line: &Line<'_>, from: u64| {
        let first = line.text(key, from).0 == text.as_deref();
        let mut changes = line
            .truth
            .revisions
            .iter()
            .filter(|revision| revision.revision > from);
        first
            || changes.any(|revision| {
                revision
                    .changes
                    .iter()
                    .any(|change| change.key == *key && change.new == *text)
            })
    };
    // Another history may have taken over, whose texts are as good: from the same revision on if it has that, too.
    let mut after = view.lines.iter().skip(line.index + 1);
    let mut elsewhere = || {
        after.any(|line| {
            later(
                line,
                if line.has(newest) {
                    floor.max(shown)
                } else {
                    0
                },
            )
        })
    };
    if !exact && !later(line, floor.max(shown)) && !elsewhere() {
        let expected = format!("{key} as of revision {} or later", floor.max(shown));
        findings.add(record, shown, expected, format!("{text:?}"));
    }
}

/// R6: a read of a snapshot is what the key was at its revision; and no read is of a text that the key never had.
pub(super) fn exact(view: &View<'_>, findings: &mut Findings<'_>) {
    for record in view.lives.values().flat_map(|life: &Life<'_>| &life.reads) {
        let Event::Read {
            key,
            text,
            place,
            exact,
        } = &record.event
        else {
            continue;
        };
        let right = match place.as_ref().filter(|_| *exact) {
            Some(place) => {
                let mut lines = view.lines.iter().filter(|line| line.has(place));
                lines.any(|line| line.text(key, place.revision).0 == text.as_deref())
            }
            None => {
                text.is_none()
                    || view
                        .lines
                        .iter()
                        .any(|line| line.ever(key, text.as_deref()))
            }
        };
        if !right && !view.altered(&record.process, record.at) {
            let at = place.as_ref().filter(|_| *exact);
            let held = at.and_then(|at| view.line_of(at)?.text(key, at.revision).0);
            let revision = place.as_ref().map(|place| place.revision);
            let expected = at.map_or_else(
                || format!("a text that {key} had"),
                |_| format!("{key} = {held:?}"),
            );
            findings.add(record, revision, expected, format!("{text:?}"));
        }
    }
}

/// The first thing that a life shows has to be a load.
pub(super) fn begins_with_a_load(life: &Life<'_>) -> bool {
    let first = life.shown.first();
    first.is_none_or(|first| matches!(first.how, How::Loaded { .. }))
}
