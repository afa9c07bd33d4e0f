//! What the engine does while somebody is slow, or gone.

use std::sync::mpsc::channel;

use super::*;
use crate::core::replica::{Publication, ResyncCause};
use crate::core::{Cause, Change, ChangeSet, DecodeError, Entry, Epoch, RevisionId, Value};

fn engine() -> Arc<Engine> {
    let interval = Duration::from_secs(3_600);
    let config = Config {
        instance: 1,
        check_interval: interval,
        heartbeat_interval: interval,
        reconnect_interval: interval,
        poll_interval: interval,
        poll_jitter: Duration::ZERO,
        notifications: true,
        sync_on_mismatch: true,
        empty_read_pause: crate::core::replica::EMPTY_READ_PAUSE,
    };
    Engine::new(config, 1, "memory".to_owned(), Clock::start()).0
}

#[test]
fn a_fold_is_shared_by_all_who_ask_and_holds_no_input_up() {
    let engine = engine();
    let cursor = Cursor {
        epoch: Epoch::from_u128(1),
        revision: Revision::new(3),
        id: RevisionId::from_u128(3),
    };
    let snapshot = Arc::new(Snapshot::new(cursor, Vec::new()));
    engine.publish(Publication::Loaded(snapshot), true);
    let (begin, begun) = channel();
    let (release, released) = channel();
    std::thread::scope(|scope| {
        let shown = engine.shown_now().unwrap();
        let folded = shown.clone();
        scope.spawn(move || {
            folded.checksum.get_or_init(|| {
                begin.send(()).unwrap();
                released.recv().unwrap();
                Checksum::new(7)
            });
        });
        begun.recv().unwrap();
        let before = Arc::strong_count(&shown);
        let status = scope.spawn(|| engine.status());
        let checksum = scope.spawn(|| engine.checksum());
        while Arc::strong_count(&shown) < before + 2 {
            std::thread::yield_now(); // until both have the state and fold it, or wait for that
        }
        engine.feed(Input::Look); // for ever, if one of them had the lock
        release.send(()).unwrap();
        let status = status.join().unwrap();
        assert_eq!(status.checksum, Some(Checksum::new(7)));
        assert_eq!(status.revision, cursor.revision);
        assert_eq!(checksum.join().unwrap().unwrap(), Checksum::new(7));
    });
}

/// Remembers what it was shown.
#[derive(Default)]
struct Shows(Mutex<Vec<Option<String>>>);

impl Follow for Shows {
    fn show(&self, entry: Option<&Arc<Entry>>) -> std::result::Result<(), DecodeError> {
        lock(&self.0).push(entry.map(|entry| entry.as_json().to_owned()));
        Ok(())
    }
}

fn cursor(number: u64) -> Cursor {
    Cursor {
        epoch: Epoch::from_u128(1),
        revision: Revision::new(number),
        id: RevisionId::from_u128(number.into()),
    }
}

fn entry(text: &str) -> Arc<Entry> {
    let (key, value) = (Key::stored("k"), Value::stored(text));
    Arc::new(Entry::new(key, value, Revision::new(1), 0))
}

fn set(number: u64, new: Option<Arc<Entry>>) -> Arc<ChangeSet> {
    let change = Change {
        key: Key::stored("k"),
        old: None,
        new,
    };
    Arc::new(ChangeSet {
        cursor: cursor(number),
        cause: Cause::Resync,
        changes: vec![change],
    })
}

#[test]
fn followers_are_shown_loads_revisions_and_resyncs_of_both_kinds() {
    let engine = engine();
    let state = |number, texts: &[&str]| {
        let entries = texts.iter().map(|text| entry(text)).collect();
        Arc::new(Snapshot::new(cursor(number), entries))
    };
    let shows = Arc::new(Shows::default());
    let follower: Arc<dyn Follow> = shows.clone();
    engine.follow(Key::stored("k"), Arc::downgrade(&follower));
    engine.publish(Publication::Loaded(state(1, &["1"])), true);
    let silent = vec![entry("1")];
    let none = Arc::new(ChangeSet {
        changes: Vec::new(),
        ..*set(2, None)
    });
    engine.publish(Publication::Changed { set: none, silent }, true);
    for (set, now, cause) in [
        (
            set(3, Some(entry("2"))),
            state(3, &["2"]),
            ResyncCause::Asked,
        ),
        (
            set(4, Some(entry("3"))),
            state(4, &["3"]),
            ResyncCause::NewEpoch,
        ),
        (set(1, None), state(1, &[]), ResyncCause::Fork),
    ] {
        engine.publish(Publication::Resynced { set, now, cause }, true);
    }
    let late = Arc::new(Shows::default());
    let follower: Arc<dyn Follow> = late.clone();
    engine.follow(Key::stored("k"), Arc::downgrade(&follower));
    let text = |text: &str| Some(text.to_owned());
    let all = [text("1"), text("1"), text("2"), text("3"), None];
    assert_eq!(*lock(&shows.0), all);
    assert_eq!(*lock(&late.0), [None]);
}
