//! Subscribers and waiters when they end: by themselves, by others, with the service.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sync_config::prelude::*;
use sync_config::{Revision, SubscriptionId};

use crate::fleet::{Fleet, record};
use crate::support::wait::{PATIENCE, Probe};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_callback_starts_once_unsubscribe_has_returned() {
    let one = Fleet::memory().start().await;
    let late = Arc::new(AtomicUsize::new(0));
    for number in 0..400 {
        let subscriptions: Vec<(SubscriptionId, Arc<AtomicBool>)> = (0..10)
            .map(|_| {
                let (late, ended) = (late.clone(), Arc::new(AtomicBool::new(false)));
                let over = ended.clone();
                let callback = move |_: &Event| {
                    if over.load(Ordering::SeqCst) {
                        late.fetch_add(1, Ordering::SeqCst);
                    }
                };
                (one.on_change(Filter::all(), callback).unwrap(), ended)
            })
            .collect();
        one.set("k", number).await.unwrap();
        for (id, ended) in subscriptions {
            assert!(one.unsubscribe(id));
            ended.store(true, Ordering::SeqCst);
        }
    }
    one.shutdown().await.unwrap(); // every callback has returned
    assert_eq!(late.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callbacks_may_end_their_own_and_each_others_subscriptions() {
    let one = Fleet::memory().start().await;
    let ids: Arc<Mutex<Vec<SubscriptionId>>> = Arc::default();
    let both_run = Arc::new(std::sync::Barrier::new(2));
    let ended = Probe::new();
    for (own, other) in [(0, 1), (1, 0)] {
        let (config, known) = (Arc::downgrade(&one), ids.clone());
        let (both_run, ended) = (both_run.clone(), ended.clone());
        let callback = move |_: &Event| {
            both_run.wait();
            let ids = known.lock().unwrap().clone();
            let config = config.upgrade().unwrap();
            config.unsubscribe(ids[other]);
            config.unsubscribe(ids[own]);
            ended.push(own);
        };
        let id = one.on_change(Filter::all(), callback).unwrap();
        ids.lock().unwrap().push(id);
    }
    one.set("k", 1).await.unwrap();
    ended.until("both", |ended| ended.len() == 2).await;
    assert_eq!(one.status().subscriptions, 0);
}

/// On one thread, which must be free for what the callback waits for.
#[tokio::test]
async fn a_shutdown_waits_for_a_callback_that_needs_the_runtime() {
    let one = Fleet::memory().start().await;
    let runtime = tokio::runtime::Handle::current();
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let (started, returned) = (Probe::new(), Arc::new(AtomicBool::new(false)));
    let (starts, returns, mut released) = (started.clone(), returned.clone(), Some(released));
    one.on_change(Filter::all(), move |_| {
        starts.push(());
        let released = released.take().unwrap();
        runtime
            .block_on(runtime.spawn(released))
            .unwrap()
            .unwrap_or_default();
        returns.store(true, Ordering::SeqCst);
    })
    .unwrap();
    one.set("k", 1).await.unwrap();
    started.until("a call", |starts| starts.len() == 1).await;
    let let_go = async {
        while one.status().subscriptions > 0 {
            tokio::task::yield_now().await;
        }
        release.send(()).unwrap_or_default();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        shut = one.shutdown() => shut.unwrap(),
        () = let_go => {}
    }
    assert!(returned.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_revision_is_told_of_the_shutdown() {
    let one = Fleet::memory().start().await;
    let written = one.set("k", 1).await.unwrap();
    let far = Revision::new(1_000);
    let waiter = one.clone();
    let pending = tokio::spawn(async move { waiter.wait_for(far.into(), PATIENCE).await });
    let seen = record(&one, Filter::all());
    one.set("k", 2).await.unwrap();
    seen.until("a change", |seen| seen.len() == 1).await;
    one.shutdown().await.unwrap();
    assert!(pending.await.unwrap().unwrap_err().is_closed());
    let late = one.wait_for(far.into(), PATIENCE).await;
    assert!(late.unwrap_err().is_closed());
    let shown = one.wait_for(written.cursor().into(), PATIENCE).await;
    assert_eq!(shown.unwrap(), Revision::new(2), "what is shown stays so");
}
