//! What notices cost while writes of this instance's own are under way. Time stands still as long as anything is to be done.
#![expect(
    clippy::disallowed_methods,
    reason = "the time that stands still is the one to be looked at"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::clock::Clock;
use super::tests::{Defective, config, intervals};
use super::{Driver, Engine};
use crate::core::Revision;
use crate::core::replica::Committed;
use crate::store::memory::MemoryDatabase;
use crate::store::{Store, WriteRequest};
use crate::sync_config::Target;
use crate::write::Batch;

const HOUR: Duration = Duration::from_secs(3_600);

/// An instance that hears, and somebody else who writes.
struct Stage {
    engine: Arc<Engine>,
    own: Arc<dyn Store>,
    other: Arc<dyn Store>,
    pages: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    driver: JoinHandle<()>,
}

impl Stage {
    async fn set() -> Self {
        let (database, clock) = (MemoryDatabase::new(), Clock::start());
        let pages = Arc::new(AtomicUsize::new(0));
        let own: Arc<dyn Store> = Arc::new(Defective {
            inner: database.store(1, clock.sources()),
            fault: Arc::new(AtomicBool::new(false)),
            pages: pages.clone(),
        });
        let other = database.store(2, clock.sources());
        // Else the read that a new session begins with, which finds nothing, puts the next one off.
        let mut config = config(HOUR);
        config.empty_read_pause = Duration::ZERO;
        let (engine, actions) = Engine::new(config, 1, own.describe(), clock);
        let (stop, stopped) = watch::channel(false);
        let driver = Driver::new(engine.clone(), own.clone(), actions, intervals(HOUR));
        let driver = tokio::spawn(driver.run(stopped));
        engine.settled().await;
        let stage = Self {
            engine,
            own,
            other,
            pages,
            stop,
            driver,
        };
        stage.settle().await;
        stage.pages.store(0, Ordering::Relaxed);
        stage
    }

    /// Lets everybody do what there is to do, while no time passes.
    async fn settle(&self) {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }

    async fn writes(&self, store: &Arc<dyn Store>, value: u32) -> Option<Committed> {
        let request = WriteRequest {
            items: Batch::new().put("k", value).into_items().unwrap(),
            actor: None,
            idempotency_key: None,
        };
        store.write(&request).await.unwrap().committed
    }

    async fn reaches(&self, revision: u64) {
        let revision = Revision::new(revision);
        let reached = self.engine.reached(Target {
            revision,
            epoch: None,
        });
        reached.await.unwrap();
    }

    fn pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.driver.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_notice_of_an_own_write_costs_no_read() {
    let stage = Stage::set().await;
    let under_way = stage.engine.write_begins();
    let committed = stage.writes(&stage.own, 1).await;
    stage.settle().await;
    assert_eq!(stage.pages(), 0, "the notice was there before the answer");
    stage.engine.committed(committed, 1);
    drop(under_way);
    stage.settle().await;
    stage.reaches(1).await;
    stage.writes(&stage.other, 2).await;
    stage.reaches(2).await;
    assert_eq!(
        stage.pages(),
        1,
        "somebody else's is read, and nothing more"
    );
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_change_waits_a_moment_alone_for_an_own_write_that_never_ends() {
    let stage = Stage::set().await;
    let engine = stage.engine.clone();
    let _under_way = engine.write_begins();
    let begin = Instant::now();
    stage.writes(&stage.other, 1).await;
    stage.reaches(1).await;
    let took = begin.elapsed();
    // The clock of the timers stands still, the engine's does not: what this test took itself is in it. Nothing else is due
    // before an hour is over.
    assert!(took > Duration::ZERO && took < HOUR / 2, "{took:?}");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_change_waits_no_longer_than_the_own_write_does() {
    let stage = Stage::set().await;
    let begin = Instant::now();
    let under_way = stage.engine.write_begins();
    stage.writes(&stage.other, 1).await;
    stage.settle().await;
    assert_eq!(stage.pages(), 0);
    drop(under_way);
    stage.reaches(1).await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn more_news_than_own_writes_are_read_at_once() {
    let stage = Stage::set().await;
    let begin = Instant::now();
    let engine = stage.engine.clone();
    let _under_way = engine.write_begins();
    stage.writes(&stage.other, 1).await;
    stage.writes(&stage.own, 2).await;
    stage.reaches(2).await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_ends_while_a_notice_waits_ends_at_once() {
    let stage = Stage::set().await;
    let begin = Instant::now();
    let engine = stage.engine.clone();
    let _under_way = engine.write_begins();
    stage.writes(&stage.other, 1).await;
    stage.settle().await;
    stage.end().await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_epoch_ended_before_its_answer_came_was_followed() {
    let stage = Stage::set().await;
    let committed = stage.writes(&stage.own, 1).await;
    stage.engine.committed(committed, 1);
    stage.reaches(1).await;
    let before = stage.engine.snapshot().unwrap().cursor();
    let under_way = stage.engine.write_begins();
    // Its answer names the epoch of its commit, which somebody ends before the answer is taken in.
    let committed = stage.writes(&stage.own, 2).await.unwrap();
    stage.own.rotate_epoch(before).await.unwrap();
    let mut news = stage.engine.news();
    while stage.engine.snapshot().unwrap().cursor().epoch == before.epoch {
        stage.engine.feed(crate::core::replica::Input::Look);
        assert!(news.next().await);
    }
    let (epoch, revision) = (committed.epoch, committed.journaled.revision);
    stage.engine.committed(Some(committed), 1);
    assert!(under_way.followed(epoch));
    assert!(!stage.engine.write_begins().followed(epoch), "it is past");
    let deadline = stage.engine.clock.now() + HOUR;
    assert!(stage.engine.shows(epoch, revision, true, deadline).await);
    drop(under_way);
    stage.end().await;
}
