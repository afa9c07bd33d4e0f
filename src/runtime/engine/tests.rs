//! What the engine does while somebody is slow, or gone.

use std::sync::mpsc::channel;

use super::*;
use crate::core::RevisionId;

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
    };
    Engine::new(config, 1, "memory".to_owned()).0
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
    engine.publish(Publication::Loaded(snapshot));
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
