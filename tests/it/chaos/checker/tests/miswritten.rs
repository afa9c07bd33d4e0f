//! Bugs of writes and of the journal.

#![allow(clippy::ptr_arg, reason = "bugs have one type")]

use super::mutations::{all, truth};
use crate::chaos::history::{Condition, Event, Outcome, Place, Record};

pub(super) fn unexpected_answer(records: &mut Vec<Record>) {
    let answered = all(records, |event| matches!(event, Event::Returned { .. }))[0];
    let mut again = records[answered].clone();
    again.event = Event::Unexpected {
        what: "418".to_owned(),
    };
    records.insert(answered, again);
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

pub(super) fn unknown_as_refused(records: &mut Vec<Record>) {
    let unknown = outcome(records, |outcome| {
        matches!(outcome, Outcome::Unknown { .. })
    });
    *unknown = Outcome::NotApplied {
        why: "it failed".to_owned(),
    };
}

pub(super) fn lost_write(records: &mut Vec<Record>) {
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

pub(super) fn kept_and_lost(records: &mut Vec<Record>) {
    let branch = all(records, |event| matches!(event, Event::Branch { .. }))[0];
    let Event::Branch { kept_up_to, .. } = &mut records[branch].event else {
        panic!()
    };
    *kept_up_to += 1;
}

pub(super) fn two_of_a_key(records: &mut Vec<Record>) {
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

pub(super) fn condition_ignored(records: &mut Vec<Record>) {
    *asked(records, None, "3") = Some(Condition::Absent);
}

pub(super) fn condition_refused(records: &mut Vec<Record>) {
    *asked(records, Some(Condition::Absent), "8") = Some(Condition::Present);
}

pub(super) fn other_table(records: &mut Vec<Record>) {
    truth(records).table.insert("d".to_owned(), "1".to_owned());
}
