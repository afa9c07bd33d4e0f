//! Each bug of the list is made in a good history, and only the validator that is meant for it may refuse.

#![allow(clippy::ptr_arg, reason = "bugs have one type")]

use super::misled::{
    beyond_the_filter, duplicated, early_bookmark, halved, missing, missing_at_the_end,
    other_bytes, other_old, reordered, resumed_at_r, resync, resync_left_out, resync_of_nothing,
    small_lag, split, state_and_its_revision, swallowed_lag, wrong_state_after_lag,
};
use super::{forked, judge, plain};
use crate::chaos::history::{Condition, Event, Outcome, Place, Record, Told, Truth};

type History = fn() -> Vec<Record>;
type Bug = fn(&mut Vec<Record>);

/// A bug, the history that it is made in, the bug itself, and the guarantee that it breaks.
const BUGS: [(&str, History, Bug, &str); 35] = [
    ("a revision is not told", plain, missing, "complete or told"),
    (
        "the last revision is not told",
        plain,
        missing_at_the_end,
        "complete or told",
    ),
    (
        "a lag is swallowed",
        plain,
        swallowed_lag,
        "complete or told",
    ),
    (
        "a lag is told too small",
        plain,
        small_lag,
        "complete or told",
    ),
    ("a revision is told twice", plain, duplicated, "once"),
    ("a stream resumes at r", plain, resumed_at_r, "once"),
    (
        "the state and its own revision are told",
        plain,
        state_and_its_revision,
        "once",
    ),
    ("two revisions change places", plain, reordered, "ordered"),
    ("a batch is split", plain, split, "atomic"),
    ("half a batch is told", plain, halved, "atomic"),
    ("1 is told for 1.0", plain, other_bytes, "atomic"),
    (
        "an old value is not the one before",
        plain,
        other_old,
        "atomic",
    ),
    (
        "a progress mark comes before its events",
        plain,
        early_bookmark,
        "bookmarks",
    ),
    (
        "a key beyond the filter is told",
        plain,
        beyond_the_filter,
        "scope",
    ),
    (
        "the state after a lag is another",
        plain,
        wrong_state_after_lag,
        "resets",
    ),
    (
        "a resync leaves a difference out",
        forked,
        resync_left_out,
        "resets",
    ),
    (
        "a resync tells what is no difference",
        forked,
        resync_of_nothing,
        "resets",
    ),
    (
        "a stale value after an own write",
        plain,
        stale_read,
        "read your writes",
    ),
    (
        "a stale revision after an own write",
        plain,
        stale_place,
        "read your writes",
    ),
    (
        "a snapshot is not the state",
        plain,
        wrong_snapshot,
        "reads",
    ),
    (
        "the checksum of another revision",
        plain,
        other_checksum,
        "checksums",
    ),
    ("an instance goes back", plain, goes_back, "monotonic"),
    (
        "the id is ignored after a fork",
        forked,
        id_ignored,
        "one past",
    ),
    (
        "a new epoch comes without a reset",
        forked,
        epoch_without_reset,
        "one past",
    ),
    (
        "a load before what was committed",
        plain,
        old_load,
        "starts",
    ),
    ("push while frozen", plain, push_while_frozen, "mode"),
    ("proven while frozen", plain, proven_while_frozen, "proven"),
    (
        "proven without what was committed",
        plain,
        proven_too_soon,
        "proven",
    ),
    (
        "unknown is told as not applied",
        plain,
        unknown_as_refused,
        "not applied",
    ),
    (
        "applied and not in the journal",
        plain,
        lost_write,
        "durable",
    ),
    (
        "a kept revision is lost to a restore",
        forked,
        kept_and_lost,
        "durable",
    ),
    (
        "an idempotency key makes two revisions",
        plain,
        two_of_a_key,
        "idempotent",
    ),
    (
        "a condition is not looked at",
        plain,
        condition_ignored,
        "conditions",
    ),
    (
        "a condition that holds is refused",
        plain,
        condition_refused,
        "conditions",
    ),
    (
        "the table is not what the journal says",
        plain,
        other_table,
        "dense",
    ),
];

#[test]
fn each_bug_of_the_list_is_refused_by_its_own_validator_alone() {
    let mut wrong = Vec::new();
    for (name, history, bug, guarantee) in BUGS {
        let mut records = history();
        let before = records.clone();
        bug(&mut records);
        assert!(records != before, "{name} changes nothing");
        let report = judge(&records);
        if report.broken() != [guarantee] {
            let told: Vec<_> = report.violations.iter().map(ToString::to_string).collect();
            wrong.push(format!(
                "{name}: wanted {guarantee}, found\n  {}",
                told.join("\n  ")
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_pinned_or_left_behind_at_the_end_is_found() {
    let mut records = plain();
    let Event::Final {
        queue_usage,
        pinned_by,
        ..
    } = &mut last(&mut records).event
    else {
        panic!()
    };
    *queue_usage = 0.01;
    pinned_by.push("listener".to_owned());
    let report = judge(&records);
    assert_eq!(report.broken(), ["unpinned"]);
    assert_eq!(report.violations.len(), 2);
    let mut records = plain();
    let Event::Final { processes, .. } = &mut last(&mut records).event else {
        panic!()
    };
    processes.push("i9".to_owned());
    assert_eq!(judge(&records).broken(), ["end"]);
    let mut records = plain();
    truth(&mut records).epoch = "another".to_owned();
    assert_eq!(judge(&records).broken(), ["end"]);
}

#[test]
fn a_later_answer_with_an_earlier_revision_is_found() {
    let mut records = plain();
    // The second write is answered before the first is begun.
    let begun: Vec<usize> = all(&records, |event| matches!(event, Event::Invoked { .. }));
    let answered = all(&records, |event| matches!(event, Event::Returned { .. }));
    let time = records[begun[0]].at;
    records[begun[1]].at = time - 5_000;
    let Event::Returned {
        outcome: Outcome::Applied { visible, .. },
        ..
    } = &mut records[answered[1]].event
    else {
        panic!()
    };
    *visible = false;
    records[answered[1]].at = time - 4_000;
    assert_eq!(judge(&records).broken(), ["commit order"]);
}

pub(super) fn last(records: &mut [Record]) -> &mut Record {
    records.last_mut().unwrap()
}

pub(super) fn truth(records: &mut [Record]) -> &mut Truth {
    let Event::Final { truth, .. } = &mut last(records).event else {
        panic!()
    };
    truth
}

pub(super) fn all(records: &[Record], wanted: impl Fn(&Event) -> bool) -> Vec<usize> {
    let found = records
        .iter()
        .enumerate()
        .filter(|(_, record)| wanted(&record.event));
    found.map(|(at, _)| at).collect()
}

fn read_of(records: &[Record], wanted: bool) -> usize {
    // The third write puts a:1, which had another value before.
    let reads = all(records, |event| match event {
        Event::Read {
            key, text, exact, ..
        } => key == "a:1" && text.as_deref() == Some("3") && *exact == wanted,
        _ => false,
    });
    reads[0]
}

fn stale_read(records: &mut Vec<Record>) {
    let at = read_of(records, false);
    let Event::Read { text, .. } = &mut records[at].event else {
        panic!()
    };
    *text = Some("1".to_owned());
}

fn stale_place(records: &mut Vec<Record>) {
    let (at, rid) = (
        read_of(records, true),
        truth(records).revisions[0].rid.clone(),
    );
    let Event::Read { text, place, .. } = &mut records[at].event else {
        panic!()
    };
    *text = Some("1".to_owned());
    let place = place.as_mut().unwrap();
    (place.revision, place.rid) = (1, Some(rid));
}

fn wrong_snapshot(records: &mut Vec<Record>) {
    let at = read_of(records, true);
    let Event::Read { text, .. } = &mut records[at].event else {
        panic!()
    };
    *text = Some("1".to_owned());
}

fn applied(records: &[Record]) -> Vec<usize> {
    let of = |(_, record): &(usize, &Record)| {
        record.process == "i1" && matches!(record.event, Event::Applied { .. })
    };
    records
        .iter()
        .enumerate()
        .filter(of)
        .map(|(at, _)| at)
        .collect()
}

fn other_checksum(records: &mut Vec<Record>) {
    let all = applied(records);
    let Event::Applied {
        checksum: other, ..
    } = records[all[1]].event.clone()
    else {
        panic!()
    };
    let Event::Applied { checksum, .. } = &mut records[all[2]].event else {
        panic!()
    };
    *checksum = other;
}

fn goes_back(records: &mut Vec<Record>) {
    let all = applied(records);
    let event = records[all[1]].event.clone();
    records[all[1]].event = std::mem::replace(&mut records[all[2]].event, event);
}

fn place(event: &mut Event) -> Option<&mut Place> {
    match event {
        Event::Loaded { place, .. }
        | Event::Applied { place, .. }
        | Event::Reset { place, .. }
        | Event::Delivered { place, .. } => Some(place),
        _ => None,
    }
}

/// The instance stays in the old epoch with its own two revisions, and goes on with the third of the history that took over.
fn id_ignored(records: &mut Vec<Record>) {
    let reset = all(records, |event| matches!(event, Event::Reset { .. }))[0];
    let mut at = 0;
    records.retain_mut(|record| {
        at += 1;
        if record.process != "i1" || record.incarnation != 1 || at <= reset {
            return true;
        }
        let resets = match &record.event {
            Event::Reset { .. } => true,
            Event::Delivered { told, .. } => matches!(told, Told::Resynced(_)),
            _ => false,
        };
        let Some(place) = place(&mut record.event) else {
            return true;
        };
        place.epoch = "epoch-1".to_owned();
        !resets && place.revision > 6
    });
}

fn epoch_without_reset(records: &mut Vec<Record>) {
    records.remove(resync(records));
}

fn old_load(records: &mut Vec<Record>) {
    let at = all(records, |event| matches!(event, Event::Loaded { .. }))[2];
    let revision = &truth(records).revisions[0];
    let (rid, revision) = (Some(revision.rid.clone()), revision.revision);
    let texts = [("a:1".to_owned(), "1".to_owned())].into();
    let Event::Loaded {
        place, checksum, ..
    } = &mut records[at].event
    else {
        panic!()
    };
    (place.rid, place.revision) = (rid, revision);
    *checksum = crate::chaos::history::checksum(&texts);
}

fn status_where(
    records: &mut [Record],
    mode: &str,
    to: impl Fn(&mut crate::chaos::history::Status),
) {
    let status = records
        .iter_mut()
        .find_map(|record| match &mut record.event {
            Event::Status(status) if status.mode == mode => Some(status),
            _ => None,
        });
    to(status.unwrap());
}

fn push_while_frozen(records: &mut Vec<Record>) {
    status_where(records, "offline", |status| status.mode = "push".to_owned());
}

fn proven_while_frozen(records: &mut Vec<Record>) {
    status_where(records, "offline", |status| status.proven_ago = Some(10));
}

fn proven_too_soon(records: &mut Vec<Record>) {
    let (rid, texts) = (
        truth(records).revisions[0].rid.clone(),
        [("a:1".to_owned(), "1".to_owned())],
    );
    let checksum = crate::chaos::history::checksum(&texts.into());
    status_where(records, "push", move |status| {
        let place = status.place.as_mut().unwrap();
        (place.revision, place.rid) = (1, Some(rid.clone()));
        status.checksum = Some(checksum.clone());
    });
}

fn outcome(records: &mut [Record], wanted: impl Fn(&Outcome) -> bool) -> &mut Outcome {
    let mut outcomes = records
        .iter_mut()
        .filter_map(|record| match &mut record.event {
            Event::Returned { outcome, .. } => Some(outcome),
            _ => None,
        });
    outcomes.find(|outcome| wanted(outcome)).unwrap()
}

fn unknown_as_refused(records: &mut Vec<Record>) {
    let unknown = outcome(records, |outcome| {
        matches!(outcome, Outcome::Unknown { .. })
    });
    *unknown = Outcome::NotApplied {
        why: "it failed".to_owned(),
    };
}

fn lost_write(records: &mut Vec<Record>) {
    // Nobody was ever shown it: only its writer says that it was.
    let refused = outcome(records, |outcome| {
        matches!(outcome, Outcome::NotApplied { .. })
    });
    let place = Place {
        epoch: "epoch-1".to_owned(),
        revision: 9,
        rid: Some("nowhere".to_owned()),
    };
    *refused = Outcome::Applied {
        place,
        changed: true,
        visible: false,
        replayed: false,
    };
}

fn kept_and_lost(records: &mut Vec<Record>) {
    let branch = all(records, |event| matches!(event, Event::Branch { .. }))[0];
    let Event::Branch { kept_up_to, .. } = &mut records[branch].event else {
        panic!()
    };
    *kept_up_to += 1;
}

fn two_of_a_key(records: &mut Vec<Record>) {
    let revisions = &mut truth(records).revisions;
    let key = revisions
        .iter()
        .find_map(|revision| revision.idempotency_key.clone());
    revisions[0].idempotency_key = key;
}

fn asked<'a>(
    records: &'a mut [Record],
    condition: Option<Condition>,
    text: &str,
) -> &'a mut Option<Condition> {
    let mut items = records
        .iter_mut()
        .filter_map(|record| match &mut record.event {
            Event::Invoked { request, .. } => request.items.first_mut(),
            _ => None,
        });
    let wanted =
        items.find(|item| item.condition == condition && item.new.as_deref() == Some(text));
    &mut wanted.unwrap().condition
}

fn condition_ignored(records: &mut Vec<Record>) {
    *asked(records, None, "3") = Some(Condition::Absent);
}

fn condition_refused(records: &mut Vec<Record>) {
    *asked(records, Some(Condition::Absent), "8") = Some(Condition::Present);
}

fn other_table(records: &mut Vec<Record>) {
    truth(records).table.insert("d".to_owned(), "1".to_owned());
}
