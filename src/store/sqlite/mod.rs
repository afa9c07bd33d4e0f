//! The SQLite store: one file for all processes of one machine.
//!
//! Guarantees those of [`super::Store`], on a file of a local disk: a write is in the file's log and synced before it is
//! reported. Whatever writes to the table, a `sqlite3` shell too, is noted by triggers as pending; the next process that
//! uses this library gives it a revision, several transactions perhaps one, each whole. Readers are shown the newest
//! revision, never what is pending. Not guaranteed: anything on a network file system, whose locks SQLite cannot trust.

#[cfg(feature = "cli")]
pub(crate) mod admin;
mod bench;
mod consumers;
mod desk;
#[cfg(feature = "cli")]
mod doctor;
mod fault;
pub(crate) mod joined;
pub(crate) mod migrate;
mod queries;
mod reading;
#[cfg(feature = "cli")]
mod script;
mod sealing;
#[cfg(test)]
mod tests;
mod turn;
mod upkeep;
mod watching;
mod worker;
mod writing;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use self::bench::Bench;
use self::desk::{Desk, Shared};
use self::fault::Outcome;
use self::queries::{Names, Queries};
use self::turn::{GivenUp, Turn};
use self::watching::{Bell, SqliteListener};
use self::worker::{Interrupt, Worker};
use super::{
    Consumers, GroupAnswer, Listener, Recorded, Sources, Store, Task, WriteAnswer, WriteRequest,
};
use crate::core::{Checksum, Cursor, Key, Revision};
use crate::error::{Error, Result};
use crate::settings::Settings;

/// A table in a file, with its helpers.
pub(crate) struct SqliteStore {
    shared: Arc<Shared>,
    /// The only thread of this store that changes the file: SQLite lets one writer in at a time.
    writer: Arc<Worker<Desk>>,
    /// For reads that may take long.
    reader: Worker<Desk>,
    description: String,
    migrate: bool,
    /// How long a change may wait for the file's write lock: a little less than its caller.
    patience: Duration,
}

impl SqliteStore {
    pub(crate) fn new(
        settings: &Settings,
        path: &Path,
        instance: u64,
        sources: Sources,
    ) -> Result<Self> {
        Self::open_as(settings, path, instance, sources, false)
    }

    fn open_as(
        settings: &Settings,
        path: &Path,
        instance: u64,
        sources: Sources,
        read_only: bool,
    ) -> Result<Self> {
        let path = absolute(path)?;
        let description = described(settings, &path);
        let names = Names::new(&settings.table_name);
        let shared = Arc::new(Shared {
            path,
            queries: Queries::new(&names),
            names,
            sources,
            instance,
            may_create: AtomicBool::new(false),
            examined: Mutex::default(),
            read_only,
            bell: Bell::default(),
            denied: AtomicBool::new(false),
        });
        let start = |name: &str, make: fn(&Arc<Shared>, &Interrupt) -> Desk| {
            let interrupt = Interrupt::default();
            let desk = make(&shared, &interrupt);
            Worker::start(name, interrupt, desk, |_| None)
        };
        Ok(Self {
            writer: Arc::new(start("sqlite-writer", Desk::writer)?),
            reader: start("sqlite-reader", Desk::reader)?,
            shared,
            description,
            migrate: settings.migrate,
            patience: settings.request_timeout.mul_f64(0.9),
        })
    }

    /// Names the store of a file for people. Nothing is opened.
    #[cfg(feature = "cli")]
    pub(crate) fn describe_file(settings: &Settings, path: &Path) -> Result<String> {
        Ok(described(settings, &absolute(path)?))
    }

    /// Makes sure of the schema of the file that has the name now.
    async fn ready(&self) -> Result<()> {
        if self.shared.is_examined() {
            return Ok(());
        }
        let migrate = self.migrate;
        self.turn(migrate::PREPARING, move |desk, turn| {
            migrate::make_sure(desk, turn, migrate)
        })
        .await
    }

    /// Has the writer do something in its turn. What has not begun when the time is over never will.
    async fn turn<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce(&mut Desk, &Arc<Turn>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn: Arc<Turn> = Arc::default();
        let given_up = GivenUp(turn.clone());
        let mut done = pin!(self.writer.run(what, move |desk| work(desk, &turn)));
        match tokio::time::timeout(self.patience, &mut done).await {
            Ok(done) => done,
            Err(_) if given_up.0.give_up() => Err(Error::unavailable(what, fault::LOCKED)),
            // How long it may take from here on is its caller's to know.
            Err(_) => done.await,
        }
    }

    /// Changes the file in one transaction.
    async fn change<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce(&Bench<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.ready().await?;
        let named = what.to_owned();
        self.turn(what, move |desk, turn| {
            desk.change(Some(turn), &named, work)
        })
        .await
    }

    /// Reads at one moment of the file.
    async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Bench<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.ready().await?;
        let read = self.reader.run(what, move |desk| desk.read(what, work));
        read.await
    }

    async fn write_all(&self, what: &str, requests: Vec<WriteRequest>) -> Result<GroupAnswer> {
        self.change(what, move |bench| bench.write_group(&requests))
            .await
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn identity(&self) -> Option<String> {
        Some(self.description.clone())
    }

    async fn prepare(&self) -> Result<()> {
        self.ready().await
    }

    async fn open(&self) -> Result<Arc<dyn Listener>> {
        self.ready().await?;
        let listener = SqliteListener::start(&self.shared, &self.writer)?;
        // Whether the file can be read is known before the session counts as open.
        listener.head(Revision::ZERO).await?;
        Ok(Arc::new(listener))
    }

    async fn write(&self, request: &WriteRequest) -> Result<WriteAnswer> {
        let answer = self
            .write_all(&request.what(), vec![copied(request)])
            .await?;
        answer.decided()
    }

    async fn write_group(&self, requests: &[&WriteRequest]) -> Result<GroupAnswer> {
        let what = format!("{} writes in one transaction", requests.len());
        let requests = requests.iter().map(|request| copied(request)).collect();
        self.write_all(&what, requests).await
    }

    fn writers(&self) -> usize {
        1
    }

    async fn notify(&self, text: &str) -> Result<()> {
        let text = text.to_owned();
        self.change("notifying", move |bench| bench.notify(&text))
            .await
    }

    async fn claim(&self, task: Task, every: Duration) -> Result<bool> {
        let work = move |bench: &Bench<'_>| bench.claim(task, every);
        self.change("taking the fleet's turn", work).await
    }

    async fn fold(&self) -> Result<(Cursor, Checksum)> {
        self.read("auditing the table", |bench| bench.read_fold())
            .await
    }

    async fn report_audit(&self, revision: Revision, checksum: Checksum) -> Result<()> {
        let work = move |bench: &Bench<'_>| bench.report_audit(revision, checksum);
        self.change("reporting an audit", work).await
    }

    async fn altered(&self) -> Result<Vec<(Key, Option<Arc<str>>)>> {
        let what = "comparing the table with its journal";
        self.read(what, |bench| bench.read_altered()).await
    }

    async fn reconcile(&self, keys: &[(Key, Option<Arc<str>>)]) -> Result<Option<Revision>> {
        let keys = keys.to_vec();
        let work = move |bench: &Bench<'_>| bench.reconcile(&keys);
        self.change("numbering altered rows", work).await
    }

    async fn rotate_epoch(&self, lost: Cursor) -> Result<()> {
        let work = move |bench: &Bench<'_>| bench.rotate_epoch(lost);
        self.change("beginning a new epoch", work).await
    }

    async fn trim(&self, keep: Duration, grace: Duration, batch: u32) -> Result<u64> {
        let work = move |bench: &Bench<'_>| bench.trim(keep, grace, batch);
        self.change("trimming the journal", work).await
    }

    async fn history(&self, after: Cursor, limit: u32) -> Result<Option<Vec<Recorded>>> {
        let work = move |bench: &Bench<'_>| bench.read_history(after, limit);
        self.read("reading the journal", work).await
    }

    fn consumers(&self) -> &dyn Consumers {
        self
    }

    async fn close(&self) {
        self.writer.close(false).await;
        self.reader.close(true).await;
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path);
    path.map_err(|error| Error::refused("the path of the SQLite file", error))
}

fn described(settings: &Settings, path: &Path) -> String {
    let (place, table) = (path.display(), &settings.table_name);
    format!("SQLite {place} table {table}")
}

/// The same request, for another thread. Keys and values are shared.
fn copied(request: &WriteRequest) -> WriteRequest {
    WriteRequest {
        items: request.items.clone(),
        actor: request.actor.clone(),
        idempotency_key: request.idempotency_key.clone(),
    }
}
