//! Each bug of the list is made in a good history, and only the validator that is meant for it may refuse.

#![allow(clippy::ptr_arg, reason = "bugs have one type")]

use super::misled::{
    beyond_the_filter, duplicated, early_bookmark, halved, missing, missing_at_the_end,
    other_bytes, other_old, reordered, resumed_at_r, resync_left_out, resync_of_nothing, small_lag,
    split, state_and_its_revision, swallowed_lag, unbounded, wrong_state_after_lag,
};
use super::misshown::{
    epoch_without_reset, goes_back, id_ignored, old_load, other_checksum, proven_too_soon,
    proven_while_frozen, push_while_frozen, resync_for_nothing, stale_place, stale_read,
    untrue_mismatch, wrong_snapshot,
};
use super::miswritten::{
    condition_ignored, condition_refused, kept_and_lost, lost_write, other_table, two_of_a_key,
    unexpected_answer, unknown_as_refused,
};
use super::{forked, judge, plain};
use crate::chaos::history::{Event, Outcome, Record, Truth};

type History = fn() -> Vec<Record>;
type Bug = fn(&mut Vec<Record>);

/// A bug, the history that it is made in, the bug itself, and the guarantee that it breaks.
const BUGS: [(&str, History, Bug, &str); 39] = [
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
    ("a queue takes everything", plain, unbounded, "bounded"),
    (
        "a checksum is wrong where nothing was altered",
        plain,
        untrue_mismatch,
        "causes",
    ),
    (
        "a resync follows from nothing",
        plain,
        resync_for_nothing,
        "causes",
    ),
    (
        "an answer that the interface does not have",
        plain,
        unexpected_answer,
        "answers",
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
