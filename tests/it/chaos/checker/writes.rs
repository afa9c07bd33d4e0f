//! What writers were told against what the journal says.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Findings;
use super::line::Line;
use super::view::{Applied, Operation, View};
use crate::chaos::history::{Asked, Condition, Event, Outcome, Record, Revision};

/// W1, W5: what was reported as applied is in the journal of its history, with the very texts; and what a history hands on
/// to the next one for certain is there.
pub(super) fn durable(view: &View<'_>, findings: &mut Findings<'_>) {
    for applied in view.applied() {
        let (record, revision) = (applied.returned, applied.place.revision);
        let name = applied.operation.name;
        let Some(line) = view.line_of(applied.place) else {
            findings.add(
                record,
                revision,
                format!("the revision of {name} in a journal"),
                "none",
            );
            continue;
        };
        if !applied.changed || applied.replayed {
            continue;
        }
        let items = &applied.operation.request.items;
        let asked = |item: &&Asked| line.text(&item.key, revision).0 != item.new.as_deref();
        if let Some(lost) = items.iter().find(asked) {
            let held = line.text(&lost.key, revision).0;
            let expected = format!("{} = {:?} by {name}", lost.key, lost.new);
            findings.add(record, revision, expected, format!("{held:?}"));
        } else if !items
            .iter()
            .any(|item| line.text(&item.key, revision).1 == revision)
        {
            let expected = format!("a change by {name}");
            findings.add(
                record,
                revision,
                expected,
                "none of its keys in that revision",
            );
        }
    }
    for (line, next) in view.lines.iter().zip(view.lines.iter().skip(1)) {
        handed_on(view, line, next, findings);
    }
}

/// What one history leaves to the next.
fn handed_on(view: &View<'_>, line: &Line<'_>, next: &Line<'_>, findings: &mut Findings<'_>) {
    for revision in &line.truth.revisions {
        let other = next.revision(revision.revision);
        let kept = revision.revision <= line.kept_up_to && revision.revision > next.base();
        let same = other.is_some_and(|other| other.rid == revision.rid);
        if (kept && !same) || (same && other != Some(revision)) {
            let expected = format!("revision {} as it was before", revision.rid);
            let seen = other.map_or("none", |_| "another");
            findings.add(view.end.record, revision.revision, expected, seen);
        }
    }
}

/// W5: what was reported as not applied is in no journal, ever.
pub(super) fn not_applied(view: &View<'_>, findings: &mut Findings<'_>) {
    let refused = |operation: &Operation<'_>| {
        let outcome = operation.returned.map(|(_, outcome)| outcome);
        matches!(
            outcome,
            Some(Outcome::Conflict | Outcome::NotApplied { .. })
        )
    };
    let mut texts: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for operation in view
        .operations
        .iter()
        .filter(|operation| !refused(operation))
    {
        let request = operation.request;
        names.extend(request.idempotency_key.as_deref());
        let items = request.items.iter();
        texts.extend(items.filter_map(|item| Some((item.key.as_str(), item.new.as_deref()?))));
    }
    let mut made: HashMap<(&str, &str), u64> = HashMap::new();
    let mut named: HashMap<&str, u64> = HashMap::new();
    for revision in view.lines.iter().flat_map(|line| &line.truth.revisions) {
        let key = revision.idempotency_key.as_deref();
        named.extend(key.map(|key| (key, revision.revision)));
        let changes = revision.changes.iter();
        let new = changes.filter_map(|change| Some((change.key.as_str(), change.new.as_deref()?)));
        made.extend(new.map(|new| (new, revision.revision)));
    }
    for operation in view
        .operations
        .iter()
        .filter(|operation| refused(operation))
    {
        let request = operation.request;
        let key = request
            .idempotency_key
            .as_deref()
            .filter(|key| !names.contains(key));
        let by_key = key.and_then(|key| named.get(key));
        let items = request.items.iter();
        let mut asked = items.filter_map(|item| Some((item.key.as_str(), item.new.as_deref()?)));
        let by_text = asked.find_map(|asked| made.get(&asked).filter(|_| !texts.contains(&asked)));
        if let (Some(found), Some((record, _))) = (by_key.or(by_text), operation.returned) {
            let expected = format!("no trace of {}, which was not applied", operation.name);
            findings.add(record, *found, expected, "it in a journal");
        }
    }
}

/// W5: sent again under the same idempotency key, a write makes at most one revision.
pub(super) fn idempotent(view: &View<'_>, findings: &mut Findings<'_>) {
    for line in &view.lines {
        let mut made: BTreeMap<&str, u64> = BTreeMap::new();
        for revision in &line.truth.revisions {
            let Some(key) = &revision.idempotency_key else {
                continue;
            };
            if let Some(first) = made.insert(key, revision.revision) {
                let expected = format!("one revision of {key}, {first}");
                findings.add(view.end.record, revision.revision, expected, "another one");
            }
        }
        for applied in view.applied() {
            let key = applied.operation.request.idempotency_key.as_deref();
            let made = key.and_then(|key| made.get(key)).copied();
            let Some(made) = made.filter(|_| applied.changed && line.has(applied.place)) else {
                continue;
            };
            if made != applied.place.revision {
                let expected = format!("revision {made}, that of its idempotency key");
                let seen = applied.place.revision;
                findings.add(applied.returned, seen, expected, seen.to_string());
            }
        }
    }
}

/// W2, W3: revisions are dense, each has an id of its own, and each change goes out from what was there; the journal leads to
/// exactly the table.
pub(super) fn dense(view: &View<'_>, findings: &mut Findings<'_>) {
    for line in &view.lines {
        let (truth, record) = (line.truth, view.end.record);
        let (mut expected, mut ids) = (line.base(), BTreeSet::new());
        for revision in &truth.revisions {
            expected += 1;
            if revision.revision != expected {
                findings.add(
                    record,
                    revision.revision,
                    format!("revision {expected}"),
                    "a gap",
                );
                expected = revision.revision;
            }
            if !ids.insert(&revision.rid) {
                findings.add(
                    record,
                    revision.revision,
                    "an id of its own",
                    revision.rid.as_str(),
                );
            }
            if let Some(wrong) = torn(line, revision) {
                findings.add(
                    record,
                    revision.revision,
                    "changes from what was there",
                    wrong,
                );
            }
        }
        if expected != truth.head {
            findings.add(
                record,
                truth.head,
                "a journal up to the head",
                expected.to_string(),
            );
        }
        let altered = view.altered("", line.lost_at.min(record.at));
        if !altered && line.state(truth.head) != truth.table {
            findings.add(record, truth.head, "a table as the journal says", "another");
        }
    }
}

fn torn(line: &Line<'_>, revision: &Revision) -> Option<String> {
    let sorted = revision
        .changes
        .is_sorted_by(|one, next| one.key < next.key);
    if revision.changes.is_empty() || !sorted {
        return Some("no changes, or a key twice".to_owned());
    }
    let before = |key| line.text(key, revision.revision - 1).0;
    let mut changes = revision.changes.iter();
    let wrong = changes
        .find(|change| change.old == change.new || change.old.as_deref() != before(&change.key))?;
    let (key, held) = (&wrong.key, before(&wrong.key));
    Some(format!(
        "{key}: {:?} -> {:?} after {held:?}",
        wrong.old, wrong.new
    ))
}

/// W3: a write that began after another was answered has a later revision.
pub(super) fn commit_order(view: &View<'_>, findings: &mut Findings<'_>) {
    for applied in view
        .applied()
        .filter(|applied| applied.changed && !applied.replayed)
    {
        let Some(line) = view.line_of(applied.place) else {
            continue;
        };
        let before = view.committed_before(line, applied.operation.invoked.at);
        if before > line.base() && applied.place.revision <= before {
            let (seen, expected) = (applied.place.revision, format!("a revision after {before}"));
            findings.add(applied.returned, seen, expected, seen.to_string());
        }
    }
}

/// W4: conditions are decided in commit order. One that was found to hold did so just before its revision; one that was found
/// not to hold did not at some moment of the operation; a write without effect found its texts there at such a moment.
pub(super) fn conditions(view: &View<'_>, findings: &mut Findings<'_>) {
    for applied in view.applied().filter(|applied| !applied.replayed) {
        let Some(line) = view.line_of(applied.place) else {
            continue;
        };
        let (items, at) = (&applied.operation.request.items, applied.place.revision);
        if applied.changed {
            let broken = items
                .iter()
                .find(|item| at > 0 && !holds(line, item, at - 1));
            if let Some(item) = broken.filter(|_| at > line.base()) {
                let before = line.text(&item.key, at - 1);
                let expected = format!("{} to be {:?} before", item.key, item.condition);
                findings.add(applied.returned, at, expected, format!("{before:?}"));
            }
        } else if !was_there(view, line, applied) {
            let expected = format!("the texts of {} there already", applied.operation.name);
            findings.add(applied.returned, at, expected, "others");
        }
    }
    for operation in &view.operations {
        if let Some((record, Outcome::Conflict)) = operation.returned {
            refused(view, operation, record, findings);
        }
    }
}

fn was_there(view: &View<'_>, line: &Line<'_>, applied: Applied<'_>) -> bool {
    let from = view.committed_before(line, applied.operation.invoked.at);
    let items = &applied.operation.request.items;
    let fits = |item: &Asked, at| {
        line.text(&item.key, at).0 == item.new.as_deref() && holds(line, item, at)
    };
    let to = applied.place.revision;
    (from.min(to)..=to).any(|at| items.iter().all(|item| fits(item, at)))
}

fn refused(
    view: &View<'_>,
    operation: &Operation<'_>,
    record: &Record,
    findings: &mut Findings<'_>,
) {
    let items = &operation.request.items;
    let failed = |line: &Line<'_>| {
        let from = view.committed_before(line, operation.invoked.at);
        let to = view.possible_at(line, record.at);
        (from..=to).any(|at| items.iter().any(|item| !holds(line, item, at)))
    };
    debug_assert!(matches!(record.event, Event::Returned { .. }));
    if !view.lines.iter().any(failed) {
        let expected = format!(
            "{} applied, its condition held all the time",
            operation.name
        );
        findings.add(record, None, expected, "a conflict");
    }
}

fn holds(line: &Line<'_>, item: &Asked, at: u64) -> bool {
    let (text, revision) = line.text(&item.key, at);
    match item.condition {
        None => true,
        Some(Condition::Absent) => text.is_none(),
        Some(Condition::Present) => text.is_some(),
        Some(Condition::Revision(expected)) => text.is_some() && revision == expected,
    }
}
