//! A store in this process's memory: for tests, examples and programs that need no durability.
//!
//! Guarantees: the contract of every store, except that nothing survives the process. Values keep the text they were
//! written with; PostgreSQL's canonical form differs from it in blanks and the order of an object's keys.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::{
    Heard, Listener, Mailbox, Recorded, RecordedChange, Store, Task, WriteAnswer, WriteRequest,
};
use crate::core::notice::Notice;
use crate::core::replica::{AuditReport, Head, Loaded, Page};
use crate::core::{
    Checksum, Cursor, Entry, Epoch, Fold, Journaled, JournaledChange, Key, Revision, RevisionId,
    Value,
};
use crate::error::{Kind, Result};
use crate::write::{Item, Precondition, WrittenKey};

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

/// Time and randomness, which come from outside.
#[derive(Clone, Copy)]
pub(crate) struct Sources {
    pub(crate) wall: fn() -> SystemTime,
    pub(crate) random: fn() -> u64,
}

impl Sources {
    fn bits(self) -> u128 {
        (u128::from((self.random)()) << 64) | u128::from((self.random)())
    }
}

struct Content {
    epoch: Epoch,
    revision: Revision,
    id: RevisionId,
    floor: Revision,
    entries: BTreeMap<Key, Row>,
    journal: BTreeMap<Revision, Kept>,
    audits: u64,
    audit: Option<AuditReport>,
    claims: BTreeMap<&'static str, SystemTime>,
    listeners: Vec<Weak<Mailbox>>,
}

#[derive(Clone)]
struct Row {
    text: Arc<str>,
    revision: Revision,
    at_micros: i64,
}

struct Kept {
    id: RevisionId,
    at: SystemTime,
    origin: Option<u64>,
    idempotency_key: Option<String>,
    changes: Vec<RecordedChange>,
}

impl MemoryDatabase {
    /// Makes an empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn store(&self, instance: u64, sources: Sources) -> Arc<dyn Store> {
        self.shared.content().begin(sources);
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

impl Default for Content {
    fn default() -> Self {
        Self {
            epoch: Epoch::from_u128(0),
            revision: Revision::ZERO,
            id: RevisionId::from_u128(0),
            floor: Revision::new(1),
            entries: BTreeMap::new(),
            journal: BTreeMap::new(),
            audits: 0,
            audit: None,
            claims: BTreeMap::new(),
            listeners: Vec::new(),
        }
    }
}

fn micros(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl Content {
    /// The first instance brings the randomness that names this history.
    fn begin(&mut self, sources: Sources) {
        if self.epoch == Epoch::from_u128(0) {
            self.epoch = Epoch::from_u128(sources.bits());
            self.id = RevisionId::from_u128(sources.bits());
        }
    }

    fn cursor(&self) -> Cursor {
        Cursor {
            epoch: self.epoch,
            revision: self.revision,
            id: self.id,
        }
    }

    fn entry(&self, key: &Key) -> Option<Arc<Entry>> {
        let row = self.entries.get(key)?;
        Some(Arc::new(Entry::new(
            key.clone(),
            Value::stored(&row.text),
            row.revision,
            row.at_micros,
        )))
    }

    fn id_of(&self, revision: Revision) -> Option<RevisionId> {
        if revision == self.revision {
            Some(self.id)
        } else {
            self.journal.get(&revision).map(|kept| kept.id)
        }
    }

    fn check(&self, item: &Item) -> Result<()> {
        let present = self.entries.get(&item.key).map(|row| row.revision);
        let (holds, expected) = match item.precondition {
            None => return Ok(()),
            Some(Precondition::Absent) => (present.is_none(), "absent".to_owned()),
            Some(Precondition::Present) => (present.is_some(), "present".to_owned()),
            Some(Precondition::Revision(revision)) => {
                (present == Some(revision), format!("at revision {revision}"))
            }
        };
        let actual = present.map_or_else(
            || "absent".to_owned(),
            |revision| format!("at revision {revision}"),
        );
        if holds {
            Ok(())
        } else {
            Err(Kind::Conflict {
                key: item.key.clone(),
                expected,
                actual,
            }
            .into())
        }
    }

    fn replay(&self, idempotency_key: &str) -> Option<(Revision, &Kept)> {
        let found = |kept: &Kept| kept.idempotency_key.as_deref() == Some(idempotency_key);
        self.journal
            .iter()
            .find(|(_, kept)| found(kept))
            .map(|(revision, kept)| (*revision, kept))
    }

    /// Gives the changes a revision and tells the listeners.
    fn seal(
        &mut self,
        changes: Vec<RecordedChange>,
        origin: u64,
        idempotency_key: Option<String>,
        sources: Sources,
    ) -> Journaled {
        let at = (sources.wall)();
        self.revision = self.revision.next();
        self.id = RevisionId::from_u128(sources.bits());
        for change in &changes {
            match &change.new {
                Some(text) => {
                    let row = Row {
                        text: text.clone(),
                        revision: self.revision,
                        at_micros: micros(at),
                    };
                    drop(self.entries.insert(change.key.clone(), row));
                }
                None => drop(self.entries.remove(&change.key)),
            }
        }
        let kept = Kept {
            id: self.id,
            at,
            origin: Some(origin),
            idempotency_key,
            changes,
        };
        let journaled = journaled(self.revision, &kept);
        self.journal.insert(self.revision, kept);
        self.ring(
            &Notice::Changed {
                epoch: self.epoch,
                revision: self.revision,
            }
            .encode(),
        );
        journaled
    }

    fn ring(&mut self, text: &str) {
        self.listeners.retain(|listener| {
            listener.upgrade().is_some_and(|mailbox| {
                mailbox.put(text);
                true
            })
        });
    }
}

fn journaled(revision: Revision, kept: &Kept) -> Journaled {
    let changes = kept.changes.iter().map(|change| JournaledChange {
        key: change.key.clone(),
        new: change.new.clone(),
    });
    Journaled {
        revision,
        id: kept.id,
        at_micros: micros(kept.at),
        origin: kept.origin,
        changes: changes.collect(),
    }
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
        let mut content = self.shared.content();
        let epoch = content.epoch;
        let replayed = request
            .idempotency_key
            .as_deref()
            .and_then(|key| content.replay(key));
        let (journaled, changed, replayed) = match replayed {
            Some((revision, kept)) => (journaled(revision, kept), true, true),
            None => {
                for item in &request.items {
                    content.check(item)?;
                }
                let changes: Vec<RecordedChange> = request
                    .items
                    .iter()
                    .map(|item| RecordedChange {
                        key: item.key.clone(),
                        old: content.entries.get(&item.key).map(|row| row.text.clone()),
                        new: item.value.as_ref().map(|value| value.as_json().into()),
                    })
                    .filter(|change| change.old != change.new)
                    .collect();
                if changes.is_empty() {
                    let Cursor { revision, id, .. } = content.cursor();
                    let none = Journaled {
                        revision,
                        id,
                        at_micros: 0,
                        origin: None,
                        changes: Vec::new(),
                    };
                    (none, false, false)
                } else {
                    let sealed = content.seal(
                        changes,
                        self.instance,
                        request.idempotency_key.clone(),
                        self.sources,
                    );
                    (sealed, true, false)
                }
            }
        };
        let touched =
            |key: &Key| !replayed && journaled.changes.iter().any(|change| change.key == *key);
        let keys = request.items.iter().map(|item| WrittenKey {
            key: item.key.clone(),
            entry: content.entry(&item.key),
            changed: touched(&item.key),
        });
        let before = journaled.revision.get().checked_sub(1).map(Revision::new);
        Ok(WriteAnswer {
            epoch,
            anchor: before.and_then(|before| content.id_of(before)),
            keys: keys.collect(),
            changed,
            replayed,
            journaled,
        })
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

    async fn reconcile(&self, _keys: &[(Key, Option<Arc<str>>)]) -> Result<Option<Revision>> {
        // Nothing changes this database but its own writes.
        Ok(None)
    }

    async fn rotate_epoch(&self, expected: Epoch) -> Result<()> {
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

    async fn trim(&self, keep: Duration, batch: u32) -> Result<u64> {
        let (now, mut content) = ((self.sources.wall)(), self.shared.content());
        let newest = content.revision;
        let old =
            |(revision, kept): &(&Revision, &Kept)| **revision < newest && kept.at + keep < now;
        let trimmed: Vec<Revision> = content
            .journal
            .iter()
            .take_while(old)
            .map(|(revision, _)| *revision)
            .take(batch as usize)
            .collect();
        for revision in &trimmed {
            content.journal.remove(revision);
            content.floor = revision.next();
        }
        Ok(trimmed.len() as u64)
    }

    async fn history(&self, after: Cursor, limit: u32) -> Result<Option<Vec<Recorded>>> {
        let content = self.shared.content();
        let known =
            after.revision == Revision::ZERO || content.id_of(after.revision) == Some(after.id);
        if after.epoch != content.epoch || !known || after.revision.next() < content.floor {
            return Ok(None);
        }
        let later = content
            .journal
            .range(after.revision.next()..)
            .take(limit as usize);
        let recorded = |(revision, kept): (&Revision, &Kept)| Recorded {
            cursor: Cursor {
                epoch: content.epoch,
                revision: *revision,
                id: kept.id,
            },
            changes: kept.changes.clone(),
        };
        Ok(Some(later.map(recorded).collect()))
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
