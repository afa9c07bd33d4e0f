//! What the driver does when the program itself is at fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::clock::Clock;
use super::{Driver, Engine, Intervals};
use crate::core::replica::{Config, EMPTY_READ_PAUSE, Head, Loaded, Page};
use crate::core::{Checksum, Cursor, Key, Revision};
use crate::error::Result;
use crate::status::Mode;
use crate::store::memory::MemoryDatabase;
use crate::store::{
    Consumers, GroupAnswer, Heard, Listener, Recorded, Store, Task, WriteAnswer, WriteRequest,
};

/// A store whose first head check panics, as a defect would, if that is wanted. Counts the pages that are read.
pub(super) struct Defective {
    pub(super) inner: Arc<dyn Store>,
    pub(super) fault: Arc<AtomicBool>,
    pub(super) pages: Arc<AtomicUsize>,
}

struct DefectiveListener {
    inner: Arc<dyn Listener>,
    fault: Arc<AtomicBool>,
    pages: Arc<AtomicUsize>,
}

#[async_trait]
impl Store for Defective {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    async fn prepare(&self) -> Result<()> {
        self.inner.prepare().await
    }
    async fn open(&self) -> Result<Arc<dyn Listener>> {
        Ok(Arc::new(DefectiveListener {
            inner: self.inner.open().await?,
            fault: self.fault.clone(),
            pages: self.pages.clone(),
        }))
    }
    async fn write(&self, request: &WriteRequest) -> Result<WriteAnswer> {
        self.inner.write(request).await
    }
    async fn write_group(&self, requests: &[&WriteRequest]) -> Result<GroupAnswer> {
        self.inner.write_group(requests).await
    }
    fn writers(&self) -> usize {
        self.inner.writers()
    }
    async fn notify(&self, text: &str) -> Result<()> {
        self.inner.notify(text).await
    }
    async fn claim(&self, task: Task, every: Duration) -> Result<bool> {
        self.inner.claim(task, every).await
    }
    async fn fold(&self) -> Result<(Cursor, Checksum)> {
        self.inner.fold().await
    }
    async fn report_audit(&self, revision: Revision, checksum: Checksum) -> Result<()> {
        self.inner.report_audit(revision, checksum).await
    }
    async fn altered(&self) -> Result<Vec<(Key, Option<Arc<str>>)>> {
        self.inner.altered().await
    }
    async fn reconcile(&self, keys: &[(Key, Option<Arc<str>>)]) -> Result<Option<Revision>> {
        self.inner.reconcile(keys).await
    }
    async fn rotate_epoch(&self, lost: Cursor) -> Result<()> {
        self.inner.rotate_epoch(lost).await
    }
    async fn trim(&self, keep: Duration, grace: Duration, batch: u32) -> Result<u64> {
        self.inner.trim(keep, grace, batch).await
    }
    async fn history(&self, after: Cursor, limit: u32) -> Result<Option<Vec<Recorded>>> {
        self.inner.history(after, limit).await
    }
    fn consumers(&self) -> &dyn Consumers {
        self.inner.consumers()
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl Listener for DefectiveListener {
    async fn listen(&self) -> Result<()> {
        self.inner.listen().await
    }
    async fn head(&self, own: Revision) -> Result<Head> {
        assert!(
            !self.fault.swap(false, Ordering::AcqRel),
            "a defect, on purpose"
        );
        self.inner.head(own).await
    }
    async fn page(&self, after: Revision) -> Result<Page> {
        self.pages.fetch_add(1, Ordering::Relaxed);
        self.inner.page(after).await
    }
    async fn snapshot(&self) -> Result<Loaded> {
        self.inner.snapshot().await
    }
    async fn heard(&self) -> Vec<Heard> {
        self.inner.heard().await
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

/// An instance that looks at the head and polls so often.
pub(super) fn config(check_interval: Duration) -> Config {
    let hour = Duration::from_secs(3_600);
    Config {
        instance: 1,
        check_interval,
        heartbeat_interval: hour,
        reconnect_interval: Duration::from_millis(200),
        poll_interval: check_interval,
        poll_jitter: Duration::ZERO,
        notifications: true,
        sync_on_mismatch: true,
        empty_read_pause: EMPTY_READ_PAUSE,
    }
}

pub(super) fn intervals(each: Duration) -> Intervals {
    Intervals {
        heartbeat: each,
        cleanup: each,
        retention: each,
        grace: Duration::ZERO,
        request_timeout: Duration::from_millis(5_000),
        repair: true,
    }
}

#[tokio::test]
async fn a_panic_of_the_driver_ends_the_session_and_not_the_service() {
    let sources = Clock::start().sources();
    let fault = Arc::new(AtomicBool::new(true));
    let inner = MemoryDatabase::new().store(1, sources);
    let store: Arc<dyn Store> = Arc::new(Defective {
        inner,
        fault: fault.clone(),
        pages: Arc::default(),
    });
    let millis = Duration::from_millis;
    let (config, intervals) = (config(millis(50)), intervals(millis(60_000)));
    let (engine, actions) = Engine::new(config, 1, store.describe(), Clock::start());
    let (stop, stopped) = watch::channel(false);
    let driver = tokio::spawn(Driver::new(engine.clone(), store, actions, intervals).run(stopped));
    let back = async {
        loop {
            let status = engine.status();
            if status.counters.sessions_lost == 1 && status.mode == Mode::Push {
                return status;
            }
            tokio::time::sleep(millis(5)).await;
        }
    };
    let status = tokio::time::timeout(millis(20_000), back)
        .await
        .expect("it begins a new session");
    assert!(status.ready && !fault.load(Ordering::Acquire), "{status:?}");
    stop.send_replace(true);
    driver.await.expect("the driver ends when it is told to");
}
