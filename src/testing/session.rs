//! A store and its sessions, with faults between them and the instance.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::sync::watch;

use super::faults::{Fault, Faults};
use crate::core::replica::{Head, Loaded, Page};
use crate::core::{Checksum, Cursor, Key, Revision};
use crate::error::{Error, Result};
use crate::runtime::Clock;
use crate::store::{
    Consumers, GroupAnswer, Heard, Listener, Member, Recorded, Store, Task, WriteAnswer,
    WriteRequest,
};

/// A store with faults in front of it.
pub(super) struct FaultyStore {
    pub(super) inner: Arc<dyn Store>,
    pub(super) faults: Faults,
    pub(super) clock: Clock,
    /// How long an answer is waited for.
    pub(super) limit: Duration,
    pub(super) identity: String,
}

impl FaultyStore {
    /// Waits until the database answers, and answers in its place if it is away.
    pub(super) async fn reached(&self, what: &str) -> Result<()> {
        if self
            .clock
            .timeout(self.limit, self.faults.thawed())
            .await
            .is_err()
        {
            let limit = humantime::format_duration(self.limit);
            return Err(Error::unavailable(
                what,
                format!("no answer within {limit}"),
            ));
        }
        self.faults.check_there(what)
    }

    /// The same for a write, of which nobody knows what became when no answer comes.
    async fn sent(&self, what: &str) -> Result<()> {
        let thawed = self.clock.timeout(self.limit, self.faults.thawed()).await;
        if thawed.is_err() {
            return Err(Error::unknown(what, "no answer in time"));
        }
        self.faults.check_there(what)
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn describe(&self) -> String {
        self.identity.clone()
    }

    fn identity(&self) -> Option<String> {
        Some(self.identity.clone())
    }

    async fn prepare(&self) -> Result<()> {
        self.reached("connecting").await?;
        self.inner.prepare().await
    }

    async fn open(&self) -> Result<Arc<dyn Listener>> {
        self.reached("connecting").await?;
        let session = Arc::new(Session {
            inner: self.inner.open().await?,
            faults: self.faults.clone(),
            lost: watch::Sender::new(false),
        });
        self.faults.opened(&session);
        Ok(session)
    }

    async fn write(&self, request: &WriteRequest) -> Result<WriteAnswer> {
        let what = request.what();
        self.sent(&what).await?;
        match self.faults.next_of_writes() {
            None => self.inner.write(request).await,
            Some(fault) => {
                if fault == (Fault::OutcomeUnknown { applied: true }) {
                    self.inner.write(request).await?;
                }
                Err(fault.error(&request.items))
            }
        }
    }

    /// Each of the writes that share a transaction meets its own fault.
    async fn write_group(&self, requests: &[&WriteRequest]) -> Result<GroupAnswer> {
        let what = format!("{} writes in one transaction", requests.len());
        self.sent(&what).await?;
        let faults: Vec<Option<Fault>> = requests
            .iter()
            .map(|_| self.faults.next_of_writes())
            .collect();
        if faults.iter().all(Option::is_none) {
            return self.inner.write_group(requests).await;
        }
        let mut members = Vec::with_capacity(requests.len());
        let spared = requests.iter().zip(&faults).filter(|(_, fault)| {
            matches!(fault, None | Some(Fault::OutcomeUnknown { applied: true }))
        });
        let spared: Vec<&WriteRequest> = spared.map(|(request, _)| *request).collect();
        let mut done = self.inner.write_group(&spared).await?;
        let mut answered = done.members.into_iter();
        for (request, fault) in requests.iter().zip(faults) {
            members.push(match fault {
                None => answered.next().unwrap_or(Member::Held),
                Some(fault) => {
                    if fault == (Fault::OutcomeUnknown { applied: true }) {
                        drop(answered.next());
                    }
                    Member::Refused(fault.error(&request.items))
                }
            });
        }
        done.members = members;
        Ok(done)
    }

    fn writers(&self) -> usize {
        self.inner.writers()
    }

    fn consumers(&self) -> &dyn Consumers {
        self
    }

    async fn notify(&self, text: &str) -> Result<()> {
        self.reached("notifying").await?;
        self.inner.notify(text).await
    }

    async fn claim(&self, task: Task, every: Duration) -> Result<bool> {
        self.reached("taking the fleet's turn").await?;
        self.inner.claim(task, every).await
    }

    async fn fold(&self) -> Result<(Cursor, Checksum)> {
        self.reached("auditing the table").await?;
        self.inner.fold().await
    }

    async fn report_audit(&self, revision: Revision, checksum: Checksum) -> Result<()> {
        self.reached("reporting an audit").await?;
        self.inner.report_audit(revision, checksum).await
    }

    async fn altered(&self) -> Result<Vec<(Key, Option<Arc<str>>)>> {
        self.reached("comparing the table with its journal").await?;
        self.inner.altered().await
    }

    async fn reconcile(&self, keys: &[(Key, Option<Arc<str>>)]) -> Result<Option<Revision>> {
        self.reached("numbering altered rows").await?;
        self.inner.reconcile(keys).await
    }

    async fn rotate_epoch(&self, lost: Cursor) -> Result<()> {
        self.reached("beginning a new epoch").await?;
        self.inner.rotate_epoch(lost).await
    }

    async fn trim(&self, keep: Duration, grace: Duration, batch: u32) -> Result<u64> {
        self.reached("trimming the journal").await?;
        self.inner.trim(keep, grace, batch).await
    }

    async fn history(&self, after: Cursor, limit: u32) -> Result<Option<Vec<Recorded>>> {
        self.reached("reading the journal").await?;
        self.inner.history(after, limit).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// A session with faults in front of it.
pub(super) struct Session {
    inner: Arc<dyn Listener>,
    faults: Faults,
    lost: watch::Sender<bool>,
}

impl Session {
    pub(super) fn lose(&self) {
        self.lost.send_replace(true);
    }

    /// Throws away what was sent and has not been heard. The end of a session is told again.
    pub(super) fn forget_notices(&self) {
        drop(self.inner.heard().now_or_never());
    }

    /// Waits until the database answers on this session, which may be lost meanwhile.
    async fn reached(&self, what: &str) -> Result<()> {
        tokio::select! {
            biased;
            () = self.cut() => Err(Error::unavailable(what, "the session was cut by the test")),
            () = self.faults.thawed() => self.faults.check_there(what),
        }
    }

    async fn cut(&self) {
        let mut lost = self.lost.subscribe();
        // The sender lives as long as this.
        drop(lost.wait_for(|lost| *lost).await);
    }
}

#[async_trait]
impl Listener for Session {
    async fn listen(&self) -> Result<()> {
        self.reached("LISTEN").await?;
        self.inner.listen().await
    }

    async fn head(&self, own: Revision) -> Result<Head> {
        self.reached("the head check").await?;
        self.inner.head(own).await
    }

    async fn page(&self, after: Revision) -> Result<Page> {
        self.reached("reading the journal").await?;
        self.inner.page(after).await
    }

    async fn snapshot(&self) -> Result<Loaded> {
        self.reached("reading the table").await?;
        self.inner.snapshot().await
    }

    async fn heard(&self) -> Vec<Heard> {
        loop {
            let hearing = async {
                self.faults.thawed().await;
                self.inner.heard().await
            };
            let mut heard = tokio::select! {
                biased;
                () = self.cut() => vec![Heard::Lost("the session was cut by the test".to_owned())],
                heard = hearing => heard,
            };
            if self.faults.drops_notices() {
                heard.retain(|heard| matches!(heard, Heard::Lost(_)));
            }
            if !heard.is_empty() {
                return heard;
            }
        }
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
