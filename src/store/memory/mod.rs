//! A store in this process's memory: for tests, examples and programs that need no durability.
//!
//! Guarantees: the contract of every store, except that nothing survives the process. Values have PostgreSQL's canonical
//! text, so checksums are the same as there; what PostgreSQL cannot hold is refused.

mod consumers;
mod content;
mod journal;
#[cfg(feature = "testing")]
mod tamper;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use self::content::{Content, journaled};
use super::{
    Consumers, GroupAnswer, Heard, Listener, Mailbox, Member, Recorded, RecordedChange, Sources,
    Store, Task, WriteAnswer, WriteRequest,
};
use crate::core::notice::Notice;
use crate::core::replica::{AuditReport, Committed, Head, Loaded, Page};
use crate::core::{Checksum, Cursor, Epoch, Fold, Journaled, Key, Revision};
use crate::error::{Error, Result};
use crate::write::Item;

/// Revisions in one page.
const PAGE: usize = 1_024;

/// A database in memory. Clones share it; every service started on it is an instance of one fleet.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> sync_config::Result<()> {
/// use sync_config::prelude::*;
/// let database = sync_config::MemoryDatabase::new();
/// let one = sync_config::Builder::memory(&database).start().await?;
/// let two = sync_config::Builder::memory(&database).start().await?;
/// let written = one.set("limit:login", 100).await?;
/// two.wait_for(written.cursor().into(), std::time::Duration::from_secs(5)).await?;
/// assert_eq!(two.get_i64("limit:login", 0), 100);
/// # one.shutdown().await?;
/// # two.shutdown().await
/// # }
/// ```
#[derive(Clone, Default)]
pub struct MemoryDatabase {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    content: Mutex<Content>,
}

impl MemoryDatabase {
    /// Makes an empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn store(&self, instance: u64, sources: Sources) -> Arc<dyn Store> {
        self.shared.content().begin(&sources);
        Arc::new(MemoryStore {
            shared: self.shared.clone(),
            instance,
            sources,
        })
    }
}

impl std::fmt::Debug for MemoryDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let content = self.shared.content();
        f.debug_struct("MemoryDatabase")
            .field("revision", &content.revision)
            .field("entries", &content.entries.len())
            .finish()
    }
}

struct MemoryStore {
    shared: Arc<Shared>,
    instance: u64,
    sources: Sources,
}

struct MemoryListener {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
}

impl Shared {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The canonical text of each item of a request, or why one of them has none.
type Texts = Result<Vec<Option<Arc<str>>>>;

fn texts(request: &WriteRequest) -> Texts {
    request.items.iter().map(Item::canonical).collect()
}

/// What is to become of a request.
enum Judged {
    Written,
    /// An earlier write under its idempotency key made this revision.
    Replayed(Revision),
    Refused(Error),
}

#[async_trait]
impl Store for MemoryStore {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    async fn prepare(&self) -> Result<()> {
        Ok(())
    }

    async fn open(&self) -> Result<Arc<dyn Listener>> {
        Ok(Arc::new(MemoryListener {
            shared: self.shared.clone(),
            mailbox: Arc::default(),
        }))
    }

    async fn write(&self, request: &WriteRequest) -> Result<WriteAnswer> {
        self.write_group(&[request]).await?.decided()
    }

    async fn write_group(&self, requests: &[&WriteRequest]) -> Result<GroupAnswer> {
        // Before anybody has to wait for it: a value may have a mebibyte.
        let texts: Vec<Texts> = requests.iter().map(|request| texts(request)).collect();
        let mut content = self.shared.content();
        let (mut changes, mut idempotency_key) = (Vec::new(), None);
        let judge = |(request, texts): (&&WriteRequest, Texts)| {
            let key = request.idempotency_key.as_deref();
            if let Some(revision) = key.and_then(|key| content.replay(key)) {
                return Judged::Replayed(revision);
            }
            if let Err(error) = request
                .items
                .iter()
                .try_for_each(|item| content.check(item))
            {
                return Judged::Refused(error);
            }
            let texts = match texts {
                Ok(texts) => texts,
                Err(error) => return Judged::Refused(error),
            };
            let items = request.items.iter().zip(texts);
            changes.extend(items.filter_map(|(item, text)| content.change(item, text)));
            idempotency_key = key.map(str::to_owned).or_else(|| idempotency_key.take());
            Judged::Written
        };
        let judged: Vec<Judged> = requests.iter().zip(texts).map(judge).collect();
        let committed = (!changes.is_empty()).then(|| {
            let anchor = content.id_of(content.revision);
            let journaled = content.seal(changes, self.instance, idempotency_key, &self.sources);
            Committed {
                epoch: content.epoch,
                anchor,
                journaled,
            }
        });
        let members = requests
            .iter()
            .zip(judged)
            .map(|(request, judged)| match judged {
                Judged::Written => Member::Answered(content.answer(request, committed.as_ref())),
                Judged::Replayed(revision) => Member::Answered(content.replayed(request, revision)),
                Judged::Refused(error) => Member::Refused(error),
            });
        let members = members.collect();
        Ok(GroupAnswer { committed, members })
    }

    fn writers(&self) -> usize {
        1
    }

    async fn notify(&self, text: &str) -> Result<()> {
        self.shared.content().ring(text);
        Ok(())
    }

    async fn claim(&self, task: Task, every: Duration) -> Result<bool> {
        let (now, mut content) = ((self.sources.wall)(), self.shared.content());
        let taken = content
            .claims
            .get(task.as_str())
            .is_some_and(|at| *at + every > now);
        if !taken {
            content.claims.insert(task.as_str(), now);
        }
        Ok(!taken)
    }

    async fn fold(&self) -> Result<(Cursor, Checksum)> {
        let content = self.shared.content();
        let mut fold = Fold::default();
        for (key, row) in &content.entries {
            fold.add(key, &row.text);
        }
        Ok((content.cursor(), fold.finish()))
    }

    async fn report_audit(&self, revision: Revision, checksum: Checksum) -> Result<()> {
        let mut content = self.shared.content();
        content.audits += 1;
        content.audit = Some(AuditReport {
            number: content.audits,
            revision,
            checksum,
        });
        Ok(())
    }

    async fn altered(&self) -> Result<Vec<(Key, Option<Arc<str>>)>> {
        let content = self.shared.content();
        let differs = |(key, tracked): &(&Key, &Option<Arc<str>>)| {
            tracked.as_ref() != content.entries.get(*key).map(|row| &row.text)
        };
        let altered = content.altered.iter().filter(differs);
        let altered = altered.map(|(key, tracked)| (key.clone(), tracked.clone()));
        Ok(altered.collect())
    }

    async fn reconcile(&self, keys: &[(Key, Option<Arc<str>>)]) -> Result<Option<Revision>> {
        let mut content = self.shared.content();
        let changes = keys.iter().filter_map(|(key, _)| {
            let old = content.altered.get(key)?.clone();
            let new = content.entries.get(key).map(|row| row.text.clone());
            let key = key.clone();
            (old != new).then_some(RecordedChange { key, old, new })
        });
        let changes: Vec<RecordedChange> = changes.collect();
        if changes.is_empty() {
            return Ok(None);
        }
        let sealed = content.seal(changes, self.instance, None, &self.sources);
        Ok(Some(sealed.revision))
    }

    async fn rotate_epoch(&self, lost: Cursor) -> Result<()> {
        let expected = lost.epoch;
        let mut content = self.shared.content();
        if content.epoch == expected {
            content.epoch = Epoch::from_u128(self.sources.bits());
            content.ring(
                &Notice::Changed {
                    epoch: expected,
                    revision: Revision::ZERO,
                }
                .encode(),
            );
        }
        Ok(())
    }

    async fn trim(&self, keep: Duration, grace: Duration, batch: u32) -> Result<u64> {
        let (now, mut content) = ((self.sources.wall)(), self.shared.content());
        Ok(content.trim(now, keep, grace, batch as usize))
    }

    async fn history(&self, after: Cursor, limit: u32) -> Result<Option<Vec<Recorded>>> {
        Ok(self.shared.content().history(after, limit as usize))
    }

    fn consumers(&self) -> &dyn Consumers {
        self
    }

    async fn close(&self) {}
}

#[async_trait]
impl Listener for MemoryListener {
    async fn listen(&self) -> Result<()> {
        self.shared
            .content()
            .listeners
            .push(Arc::downgrade(&self.mailbox));
        Ok(())
    }

    async fn head(&self, own: Revision) -> Result<Head> {
        let content = self.shared.content();
        let Cursor {
            epoch,
            revision,
            id,
        } = content.cursor();
        Ok(Head {
            epoch,
            revision,
            id,
            own_id: content.id_of(own),
            audit: content.audit,
            deaf: None,
        })
    }

    async fn page(&self, after: Revision) -> Result<Page> {
        let content = self.shared.content();
        let later = content.journal.range(after.next()..);
        let revisions: Vec<Journaled> = later
            .take(PAGE)
            .map(|(revision, kept)| journaled(*revision, kept))
            .collect();
        let more = revisions
            .last()
            .is_some_and(|last| last.revision < content.revision);
        Ok(Page {
            epoch: content.epoch,
            head: content.revision,
            anchor: content.id_of(after),
            floor: Some(content.floor),
            revisions,
            more,
        })
    }

    async fn snapshot(&self) -> Result<Loaded> {
        let content = self.shared.content();
        let entries = content
            .entries
            .keys()
            .filter_map(|key| content.entry(key))
            .collect();
        Ok(Loaded {
            cursor: content.cursor(),
            audit: content.audit,
            entries,
        })
    }

    async fn heard(&self) -> Vec<Heard> {
        self.mailbox.take().await
    }

    async fn close(&self) {
        self.mailbox.lose("closed");
    }
}
