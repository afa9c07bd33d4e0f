use super::*;
use crate::core::{Cursor, Epoch, Revision, RevisionId, Value};

fn cursor(number: u64) -> Cursor {
    Cursor {
        epoch: Epoch::from_u128(1),
        revision: Revision::new(number),
        id: RevisionId::from_u128(number.into()),
    }
}

fn entry(key: &str, text: &str) -> Option<Arc<Entry>> {
    let (key, value) = (Key::stored(key), Value::stored(text));
    (!text.is_empty()).then(|| Arc::new(Entry::new(key, value, Revision::new(1), 0)))
}

fn state(number: u64, entries: &[(&str, &str)]) -> Arc<Snapshot> {
    let entries = entries.iter().filter_map(|(key, text)| entry(key, text));
    Arc::new(Snapshot::new(cursor(number), entries.collect()))
}

fn changed(changes: &[(&str, &str, &str)]) -> Event {
    let change = |(key, old, new): &(&str, &str, &str)| Change {
        key: Key::stored(key),
        old: entry(key, old),
        new: entry(key, new),
    };
    Event::Changed(Arc::new(ChangeSet {
        cursor: cursor(1),
        cause: Cause::Remote,
        changes: changes.iter().map(change).collect(),
    }))
}

fn source() -> Source {
    let buffer = Arc::default();
    let known = None;
    Source { buffer, known }
}

fn taken(source: &Source) -> Vec<String> {
    let mut waiting = source.buffer.waiting();
    let say = |entry: &Option<Arc<Entry>>| text(entry).unwrap_or("-").to_owned();
    std::iter::from_fn(|| waiting.take())
        .map(|change| format!("{} {} {}", change.key, say(&change.old), say(&change.new)))
        .collect()
}

#[test]
fn what_changed_during_a_lag_is_told_as_net_changes() {
    let mut source = source();
    source.hear(&Event::State(state(
        1,
        &[("gone", "1"), ("k", "1"), ("same", "1")],
    )));
    source.hear(&changed(&[("k", "1", "2")]));
    let state = state(9, &[("k", "7"), ("new", "null"), ("same", "1")]);
    source.hear(&Event::Lagged { missed: 5, state });
    source.hear(&changed(&[("k", "7", "8")]));
    let told = ["k 1 2", "gone 1 -", "k 2 7", "new - null", "k 7 8"];
    assert_eq!(taken(&source), told);
    assert_eq!(source.buffer.waiting().missed, 5);
}

#[test]
fn what_waits_is_bounded_by_its_bytes_and_one_revision_may_be_of_any_size() {
    let large = "1".repeat(BUFFER_BYTES);
    let mut source = source();
    source.hear(&changed(&[("a", "", &large), ("b", "", "1")]));
    assert_eq!(source.buffer.waiting().take().unwrap().key.as_str(), "a");
    assert_eq!(source.buffer.waiting().missed, 0);
    source.hear(&changed(&[("b", "1", "2"), ("c", "", "1")]));
    source.hear(&changed(&[("a", &large, "3"), ("c", "1", "")]));
    let waiting = source.buffer.waiting();
    assert_eq!(
        (waiting.missed, waiting.bytes, waiting.sets.len()),
        (3, 0, 0)
    );
    drop(waiting);
    let told = taken(&source);
    assert_eq!(told.len(), 2);
    assert!(told[0].ends_with(" 3") && told[1] == "b - 2", "{}", told[1]);
    source.hear(&changed(&[("b", "2", "3")]));
    assert_eq!(taken(&source), ["b 2 3"]);
}

#[test]
fn a_reader_is_woken_by_a_change_and_by_the_end() {
    struct Woken(AtomicUsize);
    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let woken = Arc::new(Woken(AtomicUsize::new(0)));
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);
    let mut source = source();
    let buffer = source.buffer.clone();
    let count = || woken.0.load(Ordering::SeqCst);
    assert!(buffer.poll(&mut context).is_pending());
    source.hear(&changed(&[("k", "", "1")]));
    assert_eq!(count(), 1);
    assert!(matches!(buffer.poll(&mut context), Poll::Ready(Some(_))));
    assert!(buffer.poll(&mut context).is_pending());
    drop(source);
    assert_eq!(count(), 2);
    assert!(matches!(buffer.poll(&mut context), Poll::Ready(None)));
}

#[test]
fn a_reader_that_is_replaced_may_take_the_subscription_with_it() {
    struct Task {
        _holds: Source,
    }
    impl std::task::Wake for Task {
        fn wake(self: Arc<Self>) {}
    }
    let source = source();
    let buffer = source.buffer.clone();
    let (done, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let task = Waker::from(Arc::new(Task { _holds: source }));
        assert!(buffer.poll(&mut Context::from_waker(&task)).is_pending());
        drop(task);
        let other = &mut Context::from_waker(Waker::noop());
        assert!(buffer.poll(other).is_pending());
        done.send(buffer.poll(other).is_ready()).unwrap();
    });
    let patience = std::time::Duration::from_secs(5);
    assert_eq!(end.recv_timeout(patience), Ok(true));
}
