//! Bugs by which a subscriber is misled.

#![allow(clippy::ptr_arg, reason = "bugs have one type")]

use super::mutations::all;
use crate::chaos::history::{Change, Event, Record, Told};

/// What a subscriber of the second instance was told.
pub(super) fn told(records: &[Record], name: &str, wanted: impl Fn(&Told) -> bool) -> Vec<usize> {
    let found = records
        .iter()
        .enumerate()
        .filter(|(_, record)| match &record.event {
            Event::Delivered {
                subscriber, told, ..
            } => record.process == "i1" && subscriber == name && wanted(told),
            _ => false,
        });
    found.map(|(at, _)| at).collect()
}

pub(super) fn changed(told: &Told) -> bool {
    matches!(told, Told::Changed(_))
}

pub(super) fn told_at(records: &mut [Record], at: usize) -> &mut Told {
    let Event::Delivered { told, .. } = &mut records[at].event else {
        panic!()
    };
    told
}

pub(super) fn changes_at(records: &mut [Record], at: usize) -> &mut Vec<Change> {
    let (Told::Changed(changes) | Told::Resynced(changes)) = told_at(records, at) else {
        panic!()
    };
    changes
}

pub(super) fn batch_at(records: &mut [Record]) -> usize {
    let all = told(records, "all", changed);
    let batch = all.iter().find(|at| changes_at(records, **at).len() == 2);
    *batch.unwrap()
}

pub(super) fn missing(records: &mut Vec<Record>) {
    let bookmark = told(records, "all", |told| matches!(told, Told::Bookmark))[0];
    let after = told(records, "all", changed);
    records.remove(after.into_iter().find(|at| *at > bookmark).unwrap());
}

pub(super) fn missing_at_the_end(records: &mut Vec<Record>) {
    records.remove(*told(records, "all", changed).last().unwrap());
}

pub(super) fn lagged(records: &[Record]) -> usize {
    told(records, "all", |told| matches!(told, Told::Lagged { .. }))[0]
}

pub(super) fn swallowed_lag(records: &mut Vec<Record>) {
    records.remove(lagged(records));
}

pub(super) fn small_lag(records: &mut Vec<Record>) {
    let at = lagged(records);
    let Told::Lagged { missed, .. } = told_at(records, at) else {
        panic!()
    };
    *missed -= 1;
}

pub(super) fn wrong_state_after_lag(records: &mut Vec<Record>) {
    let at = lagged(records);
    let Told::Lagged { state, .. } = told_at(records, at) else {
        panic!()
    };
    state.insert("a:1".to_owned(), "0".to_owned());
}

pub(super) fn duplicated(records: &mut Vec<Record>) {
    let at = told(records, "all", changed)[1];
    records.insert(at + 1, records[at].clone());
}

pub(super) fn resumed_at_r(records: &mut Vec<Record>) {
    let resumed = all(records, |event| {
        matches!(event, Event::Subscribed { from: Some(_), .. })
    })[0];
    let before = told(records, "prefix", changed);
    let before = before.into_iter().rfind(|at| *at < resumed).unwrap();
    let mut again = records[before].clone();
    again.at = records[resumed].at;
    records.insert(resumed + 1, again);
}

pub(super) fn state_and_its_revision(records: &mut Vec<Record>) {
    // The first life of the other instance ends with a kill; its second one begins at a revision that is told once more.
    let of_first = |record: &Record, life| record.process == "i0" && record.incarnation == life;
    let hears = |record: &Record| match &record.event {
        Event::Delivered { subscriber, .. } => subscriber == "all",
        _ => false,
    };
    let last = records
        .iter()
        .rposition(|record| of_first(record, 1) && hears(record))
        .unwrap();
    let state = records
        .iter()
        .position(|record| of_first(record, 2) && hears(record))
        .unwrap();
    let mut again = records[last].clone();
    (again.incarnation, again.at) = (2, records[state].at);
    records.insert(state + 1, again);
}

pub(super) fn reordered(records: &mut Vec<Record>) {
    let all = told(records, "all", changed);
    let (one, next) = (all[1], all[2]);
    let event = records[one].event.clone();
    records[one].event = std::mem::replace(&mut records[next].event, event);
}

pub(super) fn split(records: &mut Vec<Record>) {
    let at = batch_at(records);
    let mut rest = records[at].clone();
    changes_at(records, at).truncate(1);
    changes_at(std::slice::from_mut(&mut rest), 0).remove(0);
    records.insert(at + 1, rest);
}

pub(super) fn halved(records: &mut Vec<Record>) {
    let at = batch_at(records);
    changes_at(records, at).truncate(1);
}

pub(super) fn other_bytes(records: &mut Vec<Record>) {
    let at = told(records, "all", changed)[0];
    changes_at(records, at)[0].new = Some("1.0".to_owned());
}

pub(super) fn other_old(records: &mut Vec<Record>) {
    let at = told(records, "all", changed)[2];
    changes_at(records, at)[0].old = None;
}

pub(super) fn early_bookmark(records: &mut Vec<Record>) {
    let bookmark = told(records, "all", |told| matches!(told, Told::Bookmark))[0];
    let before = told(records, "all", changed);
    let before = before.into_iter().rfind(|at| *at < bookmark).unwrap();
    let event = records[before].event.clone();
    records[before].event = std::mem::replace(&mut records[bookmark].event, event);
}

pub(super) fn beyond_the_filter(records: &mut Vec<Record>) {
    let batch = batch_at(records);
    let whole = changes_at(records, batch).clone();
    let (mut prefixed, batched) = (told(records, "prefix", changed), revision(&records[batch]));
    prefixed.retain(|at| revision(&records[*at]) == batched);
    *changes_at(records, prefixed[0]) = whole;
}

pub(super) fn revision(record: &Record) -> u64 {
    let Event::Delivered { place, .. } = &record.event else {
        panic!()
    };
    place.revision
}

pub(super) fn resync(records: &[Record]) -> usize {
    told(records, "all", |told| matches!(told, Told::Resynced(_)))[0]
}

pub(super) fn resync_left_out(records: &mut Vec<Record>) {
    let at = resync(records);
    assert!(changes_at(records, at).pop().is_some());
}

pub(super) fn resync_of_nothing(records: &mut Vec<Record>) {
    let at = resync(records);
    let change = &mut changes_at(records, at)[0];
    change.old = change.new.clone();
}
