//! What subscribers were told against the journal.

use std::collections::{BTreeMap, BTreeSet};

use super::Findings;
use super::line::Line;
use super::view::{Step, Subscriber, View};
use crate::chaos::history::{Change, Place, Record, Revision, Scope, Texts, Told};

/// What a subscriber was told in one go: from a place on, until it was told to begin anew.
#[derive(Default)]
struct Stretch<'a> {
    start: Option<&'a Place>,
    /// What it was told with that.
    given: Option<&'a Told>,
    changed: Vec<(&'a Record, &'a Place, &'a [Change])>,
    bookmarks: Vec<(&'a Record, &'a Place, usize)>,
    /// The reset that ended it.
    reset: Option<(&'a Record, &'a Place, &'a Told)>,
}

impl<'a> Stretch<'a> {
    /// The furthest place.
    fn last(&self) -> Option<&'a Place> {
        let changed = self.changed.iter().map(|(_, place, _)| *place);
        self.start
            .into_iter()
            .chain(changed)
            .max_by_key(|place| place.revision)
    }

    /// Whether it began with all that a revision of an audit says: rows that were altered behind the triggers are found,
    /// and may be told by a resync or with a state, before they are numbered. Of no other revision: a delete, or a text that
    /// comes again, would be taken for told because the beginning looked the same.
    fn foretold(&self, revision: &Revision, scope: &Scope) -> bool {
        if !revision.audited {
            return false;
        }
        let had = |change: &Change| match self.given {
            Some(Told::Resynced(found)) => {
                let mut found = found.iter();
                found.any(|found| found.key == change.key && found.new == change.new)
            }
            Some(Told::State(state) | Told::Lagged { state, .. }) => {
                state.get(&change.key) == change.new.as_ref()
            }
            _ => false,
        };
        let mut changes = revision.changes.iter();
        changes.all(|change| !scope.matches(&change.key) || had(change))
    }

    /// How far the revisions go that were told before a bookmark.
    fn told(&self, count: usize) -> BTreeSet<u64> {
        let changed = self.changed[..count].iter();
        changed.map(|(_, place, _)| place.revision).collect()
    }

    /// Where the search for what is missing begins. Who was given no state begins with the first it hears.
    fn from(&self) -> Option<u64> {
        let first = self.changed.first().map(|(_, place, _)| place.revision);
        self.start.map(|start| start.revision).or(first)
    }
}

fn stretches<'a>(subscriber: &Subscriber<'a>) -> Vec<Stretch<'a>> {
    let (mut all, mut now) = (Vec::new(), Stretch::default());
    let mut fresh = true;
    for (record, step) in &subscriber.steps {
        match *step {
            Step::Began(from) => {
                let next = Stretch {
                    start: from,
                    ..Stretch::default()
                };
                all.push(std::mem::replace(&mut now, next));
                fresh = from.is_none();
            }
            Step::Told(place, Told::Changed(changes)) => {
                now.changed.push((record, place, changes));
                fresh = false;
            }
            Step::Told(place, Told::Bookmark) => {
                now.bookmarks.push((record, place, now.changed.len()));
            }
            // The state that a subscription begins with.
            Step::Told(place, told @ Told::State(_)) if fresh => {
                now.start = Some(place);
                now.given = Some(told);
                fresh = false;
            }
            Step::Told(place, told) => {
                now.reset = Some((record, place, told));
                let next = Stretch {
                    start: Some(place),
                    given: Some(told),
                    ..Stretch::default()
                };
                all.push(std::mem::replace(&mut now, next));
                fresh = false;
            }
        }
    }
    all.push(now);
    all
}

fn of_all<'v, 'a>(
    view: &'v View<'a>,
) -> impl Iterator<Item = (&'v Subscriber<'a>, Vec<Stretch<'a>>)> {
    let all = view.subscribers.values();
    all.map(|subscriber| (subscriber, stretches(subscriber)))
}

/// S1: revisions come in ascending order within an epoch, resets among them.
pub(super) fn ordered(view: &View<'_>, findings: &mut Findings<'_>) {
    for (_, stretches) in of_all(view) {
        for stretch in stretches {
            let (mut seen, mut last, mut epoch) = (BTreeSet::new(), 0, "");
            for (record, place, _) in &stretch.changed {
                if place.epoch != epoch {
                    (seen, last, epoch) = (BTreeSet::new(), 0, &place.epoch);
                }
                if place.revision < last && !seen.contains(&place.revision) {
                    let expected = format!("a revision after {last}");
                    findings.add(record, place.revision, expected, place.revision.to_string());
                }
                seen.insert(place.revision);
                last = last.max(place.revision);
            }
            let Some((record, place, _)) = stretch.reset else {
                continue;
            };
            let last = stretch.last().filter(|last| last.epoch == place.epoch);
            if let Some(last) = last.filter(|last| place.revision < last.revision) {
                let expected = format!("a reset to {} or later", last.revision);
                findings.add(record, place.revision, expected, place.revision.to_string());
            }
        }
    }
}

/// S2: no revision twice, and none that the state or the place resumed from contains already.
pub(super) fn once(view: &View<'_>, findings: &mut Findings<'_>) {
    for (_, stretches) in of_all(view) {
        for stretch in stretches {
            let mut told: BTreeMap<(&str, u64), BTreeSet<&str>> = BTreeMap::new();
            for (record, place, changes) in &stretch.changed {
                let keys = told.entry((&place.epoch, place.revision)).or_default();
                // Parts of a revision that was split are no repetition.
                let again = changes.iter().any(|change| !keys.insert(&change.key));
                let start = stretch
                    .start
                    .filter(|start| view.common(start, place).is_some());
                let known = start.is_some_and(|start| place.revision <= start.revision);
                if again || known {
                    findings.add(record, place.revision, "each revision once", "it again");
                }
            }
        }
    }
}

/// S3: every matching revision is told, or that revisions were skipped, with how many.
pub(super) fn complete(view: &View<'_>, findings: &mut Findings<'_>) {
    for ((name, _), subscriber) in &view.subscribers {
        let all = stretches(subscriber);
        let stays = view.lives.get(name).is_some_and(|life| life.stays) && !subscriber.ended;
        for (at, stretch) in all.iter().enumerate() {
            holes(view, subscriber, stretch, findings);
            lag(view, subscriber, stretch, findings);
            if stays && at + 1 == all.len() {
                tail(view, subscriber, stretch, findings);
            }
        }
    }
}

fn holes(
    view: &View<'_>,
    subscriber: &Subscriber<'_>,
    stretch: &Stretch<'_>,
    findings: &mut Findings<'_>,
) {
    let (Some(from), Some(last)) = (stretch.from(), stretch.last()) else {
        return;
    };
    // That a stretch follows one history is seen to elsewhere.
    let places = || {
        stretch
            .start
            .into_iter()
            .chain(stretch.changed.iter().map(|(_, place, _)| *place))
    };
    let mut lines = view.lines.iter();
    let Some(line) = lines.find(|line| places().all(|place| line.has(place))) else {
        return;
    };
    let told = stretch.told(stretch.changed.len());
    for missing in line.concerning(subscriber.scope, from, last.revision) {
        if !told.contains(&missing.revision) && !stretch.foretold(missing, subscriber.scope) {
            let later = |(_, place, _): &&(_, &Place, _)| place.revision > missing.revision;
            let next = stretch.changed.iter().find(later);
            let record = next.map_or(view.end.record, |(record, ..)| record);
            let expected = format!("revision {} told to {}", missing.revision, subscriber.name);
            findings.add(record, missing.revision, expected, "it left out");
        }
    }
}

fn lag(
    view: &View<'_>,
    subscriber: &Subscriber<'_>,
    stretch: &Stretch<'_>,
    findings: &mut Findings<'_>,
) {
    let (Some((record, place, Told::Lagged { missed, .. })), Some(last)) =
        (stretch.reset, stretch.last())
    else {
        return;
    };
    let line = view
        .common(last, place)
        .filter(|_| last.epoch == place.epoch);
    let count = line.map_or(1, |line| {
        line.concerning(subscriber.scope, last.revision, place.revision)
            .count()
    });
    // A resync may have been among what was dropped, and counts as well.
    if (*missed as usize) < count.max(1) {
        let expected = format!("at least {} revisions missed", count.max(1));
        findings.add(record, place.revision, expected, missed.to_string());
    }
}

/// What a subscriber that is still there was not told at the end.
fn tail(
    view: &View<'_>,
    subscriber: &Subscriber<'_>,
    stretch: &Stretch<'_>,
    findings: &mut Findings<'_>,
) {
    let Some(last) = stretch.last() else { return };
    let (line, record) = (view.last(), view.end.record);
    if !line.has(last) {
        let expected = format!("{} told of the history that took over", subscriber.name);
        findings.add(record, last.revision, expected, "nothing");
        return;
    }
    for missing in line.concerning(subscriber.scope, last.revision, line.truth.head) {
        let expected = format!("revision {} told to {}", missing.revision, subscriber.name);
        findings.add(record, missing.revision, expected, "nothing up to the end");
    }
}

/// S1: the matching changes of a revision come together, and as the journal has them, byte for byte.
pub(super) fn atomic(view: &View<'_>, findings: &mut Findings<'_>) {
    for (subscriber, stretches) in of_all(view) {
        let scope = subscriber.scope;
        for (record, place, changes) in stretches.iter().flat_map(|stretch| &stretch.changed) {
            let line = view.line_of(place);
            let revision = line.and_then(|line| line.revision(place.revision));
            let Some(revision) = revision.filter(|_| !view.told_altered(record, place)) else {
                continue;
            };
            let told: Vec<_> = changes
                .iter()
                .filter(|change| scope.matches(&change.key))
                .collect();
            let journal = revision.changes.iter();
            let journal: Vec<_> = journal
                .filter(|change| scope.matches(&change.key))
                .collect();
            if told != journal {
                let wrong = told.iter().find(|change| !journal.contains(change));
                let seen = format!("{} changes, wrong: {wrong:?}", told.len());
                let expected = format!("the {} changes of the journal", journal.len());
                findings.add(record, place.revision, expected, seen);
            }
        }
    }
}

/// S4: a resync tells true differences only, and what a subscriber believes after a reset is the state.
pub(super) fn resets(view: &View<'_>, findings: &mut Findings<'_>) {
    for subscriber in view.subscribers.values() {
        let mut belief: Option<Texts> = None;
        for (record, step) in &subscriber.steps {
            let (place, told) = match *step {
                Step::Began(from) => {
                    belief = from.and_then(|from| state(view, from, subscriber.scope));
                    continue;
                }
                Step::Told(place, told) => (place, told),
            };
            let excused = view.altered(&record.process, record.at);
            let before = belief.take();
            let Some(truth) = state(view, place, subscriber.scope) else {
                continue;
            };
            let (believed, wrong) = match told {
                Told::State(texts) | Told::Lagged { state: texts, .. } => (texts.clone(), None),
                Told::Changed(changes) => {
                    // What is wrong with a revision is said elsewhere.
                    belief = before.map(|texts| fold(texts, changes)).or(Some(truth));
                    continue;
                }
                Told::Bookmark => {
                    belief = before;
                    continue;
                }
                Told::Resynced(changes) => match before {
                    Some(texts) => {
                        let wrong = untrue(&texts, changes);
                        (fold(texts, changes), wrong)
                    }
                    None => (truth.clone(), None),
                },
            };
            let odd = wrong.or_else(|| difference(&believed, &truth));
            if let Some(odd) = odd.filter(|_| !excused) {
                let expected = format!("{} to hold the state", subscriber.name);
                findings.add(record, place.revision, expected, odd);
            }
            // What it was told, also where it need not be right yet: rows that were altered are known before the journal has
            // them, and nobody is told of them again.
            belief = Some(believed);
        }
    }
}

fn state(view: &View<'_>, place: &Place, scope: &Scope) -> Option<Texts> {
    let line: &Line<'_> = view.line_of(place)?;
    let mut texts = line.state(place.revision);
    texts.retain(|key, _| scope.matches(key));
    Some(texts)
}

fn fold(mut texts: Texts, changes: &[Change]) -> Texts {
    for change in changes {
        match &change.new {
            Some(new) => texts.insert(change.key.clone(), new.clone()),
            None => texts.remove(&change.key),
        };
    }
    texts
}

fn untrue(texts: &Texts, changes: &[Change]) -> Option<String> {
    let untrue = |change: &&Change| {
        change.old == change.new || texts.get(&change.key) != change.old.as_ref()
    };
    let wrong = changes.iter().find(untrue)?;
    let held = texts.get(&wrong.key);
    Some(format!(
        "{}: {:?} -> {:?} after {held:?}",
        wrong.key, wrong.old, wrong.new
    ))
}

fn difference(one: &Texts, other: &Texts) -> Option<String> {
    let key = one
        .keys()
        .chain(other.keys())
        .find(|key| one.get(*key) != other.get(*key))?;
    Some(format!(
        "{key}: {:?} instead of {:?}",
        one.get(key),
        other.get(key)
    ))
}

/// S5: a progress mark comes after everything up to it.
pub(super) fn bookmarks(view: &View<'_>, findings: &mut Findings<'_>) {
    for (subscriber, stretches) in of_all(view) {
        for stretch in &stretches {
            for (record, place, before) in &stretch.bookmarks {
                let (Some(from), Some(line)) = (stretch.from(), view.line_of(place)) else {
                    continue;
                };
                let told = stretch.told(*before);
                let mut due = line.concerning(subscriber.scope, from, place.revision);
                let missing = |due: &&Revision| {
                    !told.contains(&due.revision) && !stretch.foretold(due, subscriber.scope)
                };
                if let Some(due) = due.find(missing) {
                    let expected = format!("revision {} before its progress mark", due.revision);
                    findings.add(record, place.revision, expected, "the mark first");
                }
            }
        }
    }
}

/// L1: nobody hears of a key that he did not ask for.
pub(super) fn scope(view: &View<'_>, findings: &mut Findings<'_>) {
    for subscriber in view.subscribers.values() {
        for (record, step) in &subscriber.steps {
            let Step::Told(place, told) = step else {
                continue;
            };
            let keys: Vec<&String> = match told {
                Told::State(texts) | Told::Lagged { state: texts, .. } => texts.keys().collect(),
                Told::Changed(changes) | Told::Resynced(changes) => {
                    changes.iter().map(|change| &change.key).collect()
                }
                Told::Bookmark => Vec::new(),
            };
            let strange = keys.into_iter().find(|key| !subscriber.scope.matches(key));
            if let Some(key) = strange {
                let expected = format!("only {:?}", subscriber.scope);
                findings.add(record, place.revision, expected, key.as_str());
            }
        }
    }
}
