use std::sync::mpsc::channel;
use std::time::Duration;

use super::*;
use crate::core::{Cause, Change, Cursor, Entry, Epoch, Key, Revision, RevisionId, Value};

fn cursor(number: u64) -> Cursor {
    Cursor {
        epoch: Epoch::from_u128(1),
        revision: Revision::new(number),
        id: RevisionId::from_u128(number.into()),
    }
}

fn revision(number: u64, key: &str, text: &str) -> Event {
    let entry = Entry::new(Key::stored(key), Value::stored(text), Revision::new(1), 0);
    let change = Change {
        key: Key::stored(key),
        old: None,
        new: Some(Arc::new(entry)),
    };
    Event::Changed(Arc::new(ChangeSet {
        cursor: cursor(number),
        cause: Cause::Remote,
        changes: vec![change],
    }))
}

/// Publishes four revisions while the callback is at the first, and answers what it was called with.
fn told(text: &str) -> Vec<String> {
    let subscriptions = Subscriptions::new(Clock::start());
    let (tell, told) = channel();
    let gate = Arc::new(Mutex::new(()));
    let (closed, opened) = (lock(&gate), gate.clone());
    let callback = move |event: &Event| {
        let event = match event {
            Event::Changed(set) => set.revision().to_string(),
            Event::Lagged { missed, .. } => format!("missed {missed}"),
            other => format!("{other:?}"),
        };
        tell.send(event).unwrap();
        drop(lock(&opened));
    };
    let state: StateSource = Arc::new(|take| take(Arc::new(Snapshot::new(cursor(9), Vec::new()))));
    subscriptions.add(Filter::all(), Box::new(callback), state, None);
    let next = || told.recv_timeout(Duration::from_secs(20)).unwrap();
    subscriptions.publish(&revision(1, "a", text));
    let mut all = vec![next()];
    for number in 2..=4 {
        subscriptions.publish(&revision(number, "a", text));
    }
    drop(closed);
    while all.last().unwrap() != "4" && !all.last().unwrap().starts_with("missed") {
        all.push(next());
    }
    all
}

#[test]
fn a_queue_is_bounded_by_the_bytes_in_it_and_takes_one_revision_of_any_size() {
    assert_eq!(told("1"), ["1", "2", "3", "4"]);
    assert_eq!(told(&"1".repeat(QUEUE_BYTES / 4)), ["1", "2", "3", "4"]);
    // Of three that are too large the first is taken.
    assert_eq!(told(&"1".repeat(QUEUE_BYTES + 1)), ["1", "2", "missed 2"]);
}
