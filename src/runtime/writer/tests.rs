use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::Batch;
use crate::core::replica::{Config, EMPTY_READ_PAUSE};
use crate::runtime::Clock;
use crate::store::memory::MemoryDatabase;

const HOUR: Duration = Duration::from_secs(3_600);

fn writer() -> Writer {
    let config = Config {
        instance: 1,
        check_interval: HOUR,
        heartbeat_interval: HOUR,
        reconnect_interval: HOUR,
        poll_interval: HOUR,
        poll_jitter: Duration::ZERO,
        notifications: true,
        sync_on_mismatch: true,
        empty_read_pause: EMPTY_READ_PAUSE,
    };
    let clock = Clock::start();
    let sources = clock.sources();
    let engine = Engine::new(config, 1, "memory".to_owned(), clock).0;
    Writer::new(engine, MemoryDatabase::new().store(1, sources))
}

fn request(number: usize, bytes: usize) -> WriteRequest {
    let batch = Batch::new().put(&format!("k:{number}"), "x".repeat(bytes));
    WriteRequest {
        items: batch.into_items().unwrap(),
        actor: None,
        idempotency_key: None,
    }
}

fn poll(write: &mut Pin<Box<impl Future<Output = Outcome>>>) -> Poll<Outcome> {
    write.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// On a runtime of one thread nothing is sent before this test waits for something.
#[tokio::test]
async fn what_waits_is_bounded_in_number_and_in_bytes_and_the_rest_has_its_turn() {
    for (bytes, calls, most) in [(1, 1_100, 1_024), (1_000_000, 80, 67)] {
        let writer = writer();
        let deadline = HOUR;
        let mut writes: Vec<_> = (0..calls)
            .map(|number| Box::pin(writer.write(request(number, bytes), deadline)))
            .collect();
        for write in &mut writes {
            assert!(poll(write).is_pending());
        }
        // One of them is under way.
        assert_eq!(writer.shared.queue().len(), most - 1);
        for write in writes {
            assert!(write.await.unwrap().0.changed);
        }
        assert_eq!(writer.shared.queue().len(), 0);
    }
}

#[tokio::test]
async fn a_runtime_that_ends_leaves_nobody_waiting() {
    let (writer, deadline) = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let writer = runtime.block_on(async { writer() });
        let deadline = HOUR;
        drop(runtime);
        (writer, deadline)
    })
    .join()
    .unwrap();
    let error = writer.write(request(1, 1), deadline).await.unwrap_err();
    assert!(
        error.is_outcome_unknown() || error.is_unavailable(),
        "{error}"
    );
    writer.close().await;
}

#[tokio::test]
async fn a_runtime_that_ends_leaves_none_of_a_thousand_waiting() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let writer = {
        let _entered = runtime.enter();
        writer()
    };
    // Of one key, so that each is a turn of its own.
    let mut writes: Vec<_> = (0..1_000)
        .map(|_| Box::pin(writer.write(request(1, 1), HOUR)))
        .collect();
    for write in &mut writes {
        assert!(poll(write).is_pending());
    }
    std::thread::spawn(move || drop(runtime)).join().unwrap();
    for write in writes {
        let error = write.await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
    }
    writer.close().await;
}
