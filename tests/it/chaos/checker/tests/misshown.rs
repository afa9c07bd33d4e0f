//! Bugs by which an instance shows, or says of itself, what is not so.

#![allow(clippy::ptr_arg, reason = "bugs have one type")]

use super::misled::resync;
use super::mutations::{all, truth};
use crate::chaos::history::{Event, Place, Record, Told};

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

pub(super) fn stale_read(records: &mut Vec<Record>) {
    let at = read_of(records, false);
    let Event::Read { text, .. } = &mut records[at].event else {
        panic!()
    };
    *text = Some("1".to_owned());
}

pub(super) fn stale_place(records: &mut Vec<Record>) {
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

pub(super) fn wrong_snapshot(records: &mut Vec<Record>) {
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

pub(super) fn other_checksum(records: &mut Vec<Record>) {
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

pub(super) fn goes_back(records: &mut Vec<Record>) {
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
pub(super) fn id_ignored(records: &mut Vec<Record>) {
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

pub(super) fn epoch_without_reset(records: &mut Vec<Record>) {
    records.remove(resync(records));
}

pub(super) fn old_load(records: &mut Vec<Record>) {
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

pub(super) fn push_while_frozen(records: &mut Vec<Record>) {
    status_where(records, "offline", |status| status.mode = "push".to_owned());
}

pub(super) fn proven_while_frozen(records: &mut Vec<Record>) {
    status_where(records, "offline", |status| status.proven_ago = Some(10));
}

pub(super) fn proven_too_soon(records: &mut Vec<Record>) {
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

pub(super) fn untrue_mismatch(records: &mut Vec<Record>) {
    status_where(records, "push", |status| status.repairs.mismatches = 1);
}

pub(super) fn resync_for_nothing(records: &mut Vec<Record>) {
    status_where(records, "push", |status| {
        status.repairs.resyncs = 1;
        status.repairs.last_cause = Some("fork".to_owned());
    });
}
