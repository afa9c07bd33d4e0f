//! The service that an application holds: its tasks, and the trait's implementation.

mod adapter;
mod builder;
mod consumer;
mod joining;
#[cfg(feature = "toml")]
mod services;
mod standby;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

#[cfg(feature = "toml")]
pub use self::services::Services;
#[cfg(feature = "server")]
use crate::core::RevisionId;
use crate::core::replica::Config;
use crate::core::{Checksum, Cursor, Entry, Key, Revision, Scalar, Snapshot};
use crate::error::{Error, Kind, Result};
#[cfg(feature = "server")]
use crate::runtime::Glance;
use crate::runtime::{Clock, Driver, Engine, Intervals, Keeper, StateFile, Writer};
use crate::settings::Settings;
use crate::status::Status;
use crate::store::postgres::PostgresStore;
#[cfg(feature = "sqlite")]
use crate::store::sqlite::SqliteStore;
use crate::store::{Answered, Recorded, Store, WriteRequest};
use crate::subscription::{Callback, Filter, Follow, SubscriptionId};
use crate::sync_config::{SyncConfig, Target, WrongType};
use crate::write::{Batch, Written};

#[cfg(feature = "cli")]
pub(crate) use self::adapter::describe;
pub use self::builder::Builder;
pub use self::consumer::{Consumer, ConsumerPlace, Delivered};

/// Connects to the store of a URL with default settings: `postgres://user@host:5432/database`, or with feature `sqlite` also
/// `sqlite:/path/of/file.db`. Returns loaded and listening.
///
/// # Errors
///
/// As [`Builder::start`].
pub async fn connect(database_url: &str) -> Result<Arc<ConfigService>> {
    Builder::new(Settings::new(database_url)).start().await
}

/// A store as what every store is, and as what only it is.
struct On {
    store: Arc<dyn Store>,
    postgres: Option<Arc<PostgresStore>>,
    #[cfg(feature = "sqlite")]
    sqlite: Option<Arc<SqliteStore>>,
}

impl From<Arc<dyn Store>> for On {
    fn from(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            postgres: None,
            #[cfg(feature = "sqlite")]
            sqlite: None,
        }
    }
}

/// An instance of the configuration store: share it as `Arc<dyn SyncConfig>`.
pub struct ConfigService {
    engine: Arc<Engine>,
    store: Arc<dyn Store>,
    /// The same, if it is on PostgreSQL.
    postgres: Option<Arc<PostgresStore>>,
    /// The same, if it is on SQLite.
    #[cfg(feature = "sqlite")]
    sqlite: Option<Arc<SqliteStore>>,
    writer: Writer,
    request_timeout: Duration,
    /// From which age of its next revision a consumer is slow, and at which that is trimmed.
    #[cfg(feature = "cli")]
    danger: (Duration, Duration),
    stop: watch::Sender<bool>,
    driver: Mutex<Option<JoinHandle<()>>>,
    closed: AtomicBool,
}

impl ConfigService {
    fn start(
        settings: &Settings,
        on: On,
        instance: u64,
        clock: Clock,
        file: Option<StateFile>,
    ) -> Arc<Self> {
        let config = Config {
            instance,
            check_interval: settings.check_interval,
            heartbeat_interval: settings.heartbeat_interval,
            reconnect_interval: settings.reconnect_interval,
            poll_interval: settings.poll_interval,
            poll_jitter: settings.poll_jitter,
            notifications: settings.enable_notification,
            sync_on_mismatch: settings.sync_on_mismatch,
            empty_read_pause: clock.empty_read_pause(),
        };
        let intervals = Intervals {
            heartbeat: settings.heartbeat_interval,
            cleanup: settings.cleanup_interval,
            retention: settings.event_retention,
            grace: settings.consumer_grace,
            request_timeout: settings.request_timeout,
            repair: settings.sync_on_mismatch,
        };
        let (seed, store) = (clock.random(), on.store);
        let (engine, actions) = Engine::new(config, seed, store.describe(), clock.clone());
        let (stop, stopped) = watch::channel(false);
        let keeper = file.map(|file| Keeper::new(engine.clone(), file));
        let driver = Driver::new(engine.clone(), store.clone(), actions, intervals).keeping(keeper);
        let driver = Mutex::new(Some(clock.spawn(driver.run(stopped))));
        let request_timeout = settings.request_timeout;
        let writer = Writer::new(engine.clone(), store.clone());
        Arc::new(Self {
            engine,
            store,
            postgres: on.postgres,
            #[cfg(feature = "sqlite")]
            sqlite: on.sqlite,
            writer,
            request_timeout,
            #[cfg(feature = "cli")]
            danger: (intervals.danger(), intervals.end()),
            stop,
            driver,
            closed: AtomicBool::new(false),
        })
    }

    /// Waits for the first load, and until it is known whether notices arrive.
    async fn first_load(&self, timeout: Duration) -> Result<()> {
        let loaded = async {
            self.engine.reached(Revision::ZERO.into()).await?;
            self.engine.settled().await;
            Ok(())
        };
        tokio::select! {
            loaded = loaded => loaded,
            () = self.engine.clock.sleep(timeout) => {
                let status = self.status();
                let problem = status.reason.unwrap_or_else(|| "the first load is still under way".to_owned());
                Err(Error::unavailable("the first load", problem))
            }
        }
    }

    /// Reads at most `limit` whole revisions after a cursor from the store's journal, with old and new texts: for a
    /// reader that keeps its own place across restarts ([`ConfigService::consumer`] keeps it for you). `None` when the
    /// journal does not reach back to the cursor, or has another past; then a [`SyncConfig::snapshot`] is the place to go
    /// on from.
    ///
    /// One answer is bounded whatever the limit: 1,024 revisions, and it ends with the revision that reaches 20,000 changes
    /// or 8 MiB of values, old and new. A revision is never split, so one that is larger comes alone. Only an empty answer
    /// means that there is nothing more.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] when the store cannot be reached; a revision of more than 64 MiB is refused by way of a server.
    pub async fn history(&self, after: Cursor, limit: u32) -> Result<Option<Vec<Recorded>>> {
        let asked = self.store.history(self.engine.as_stored(after), limit);
        let what = "reading the journal";
        let revisions = self.engine.ask(what, self.request_timeout, asked).await?;
        Ok(revisions.map(|revisions| self.engine.recorded(revisions)))
    }

    /// Finds keys whose rows are not what the journal's last word says.
    #[cfg(feature = "cli")]
    pub(crate) async fn altered(&self) -> Result<Vec<Key>> {
        let what = "comparing the table with its journal";
        let asked = self.store.altered();
        let altered = self.engine.ask(what, self.request_timeout, asked).await?;
        Ok(altered.into_iter().map(|(key, _)| key).collect())
    }

    /// Names the store for people, without a password.
    #[cfg(feature = "server")]
    pub(crate) fn describe_store(&self) -> String {
        self.store.describe()
    }

    /// The revision shown; `None` before the first load. Cheap, unlike a status or a snapshot.
    #[cfg(feature = "server")]
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        self.engine.cursor()
    }

    /// How this instance is, without the cost of a status; `None` before the first load.
    #[cfg(feature = "server")]
    pub(crate) fn glance(&self) -> Option<Glance> {
        self.engine.glance()
    }

    /// The id of a revision of the epoch shown, while it is among the recent ones.
    #[cfg(feature = "server")]
    pub(crate) fn id_of(&self, revision: Revision) -> Option<RevisionId> {
        self.engine.id_of(revision)
    }

    /// The clock of this instance.
    #[cfg(feature = "server")]
    pub(crate) fn clock(&self) -> &Clock {
        &self.engine.clock
    }

    /// Waits until a cursor that the database knows is shown, in whichever epoch: false when the time is over.
    #[cfg(feature = "server")]
    pub(crate) async fn shows(&self, cursor: Cursor, limit: Duration) -> bool {
        let deadline = self.engine.clock.now() + limit;
        let stored = self.engine.as_stored(cursor);
        let shown = self
            .engine
            .shows(stored.epoch, stored.revision, false, deadline);
        shown.await
    }

    /// Whether what is shown is known to be lost in the database.
    #[cfg(feature = "server")]
    pub(crate) fn shows_what_is_lost(&self) -> bool {
        self.engine.shows_what_is_lost()
    }

    /// How old the state is that stands in for the database, if one does. Cheap too.
    #[cfg(feature = "server")]
    pub(crate) fn stale(&self) -> Option<crate::status::Stale> {
        self.engine.stale_now()
    }

    /// Whether a revision put a key that was absent before; `None` when the revision is not among the recent ones.
    #[cfg(feature = "server")]
    pub(crate) fn created(&self, cursor: Cursor, key: &str) -> Option<bool> {
        self.engine.created(cursor, key)
    }

    /// What an operator's instruments read.
    #[cfg(feature = "server")]
    pub(crate) fn vitals(&self) -> crate::runtime::Vitals {
        self.engine.vitals()
    }

    /// The present state with what the revisions after a cursor changed, oldest first; `None` when they are not all remembered.
    #[cfg(feature = "server")]
    pub(crate) fn since(
        &self,
        cursor: Cursor,
    ) -> Option<(Arc<Snapshot>, Vec<Arc<crate::core::ChangeSet>>)> {
        self.engine.since(cursor)
    }

    /// What is shown, and whether every callback of it has returned; `None` after the shutdown.
    #[cfg(feature = "testing")]
    pub(crate) fn at_ease(&self) -> Option<(Option<Cursor>, bool)> {
        self.open().ok().map(|()| self.engine.at_ease())
    }

    /// Breaks this instance's copy of a key.
    #[cfg(feature = "testing")]
    pub(crate) fn falsify(&self, entry: Arc<Entry>) -> Result<()> {
        self.engine.falsify(entry)
    }

    /// Steps this instance's wall clock.
    #[cfg(all(feature = "testing", feature = "cli"))]
    pub(crate) fn step_clock(&self, micros: i64) {
        self.engine.clock.step(micros);
    }

    /// For how long the database has not proven what is shown to be its newest; `None` when nothing is shown. Cheap.
    #[cfg(feature = "server")]
    pub(crate) fn unproven(&self) -> Option<Duration> {
        self.engine.unproven()
    }

    /// What this instance takes for the wall clock.
    #[cfg(feature = "cli")]
    pub(crate) fn wall(&self) -> std::time::SystemTime {
        self.engine.clock.wall()
    }

    fn open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            Err(Kind::Closed.into())
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl SyncConfig for ConfigService {
    fn get(&self, key: &str) -> Result<Option<Arc<Entry>>> {
        if self.engine.cache.ready() {
            Ok(self.engine.cache.get(key))
        } else {
            Err(Kind::NotReady.into())
        }
    }

    fn with_entry(&self, key: &str, read: &mut dyn FnMut(&Entry)) -> Result<()> {
        if self.engine.cache.with(key, read) {
            Ok(())
        } else {
            Err(Kind::NotReady.into())
        }
    }

    fn scalar(&self, key: &str) -> Option<Scalar> {
        self.engine.cache.scalar(key)
    }

    fn peek(&self, key: &str, read: &mut dyn FnMut(&Entry)) -> Result<()> {
        self.with_entry(key, read)
    }

    fn snapshot(&self) -> Result<Arc<Snapshot>> {
        self.engine.snapshot()
    }

    async fn write(&self, batch: Batch) -> Result<Written> {
        self.open()?;
        let deadline = self.engine.clock.now() + self.request_timeout;
        let (answered, followed) = self.writer.write(request(batch)?, deadline).await?;
        let Answered {
            cursor,
            changed,
            replayed,
            keys,
        } = answered;
        // What it found there already may not have reached this instance yet; a replay tells the values of now, which may
        // be of later revisions, and is fetched like any other news.
        let shown = self
            .engine
            .shows(cursor.epoch, cursor.revision, followed, deadline);
        let visible = shown.await;
        Ok(Written {
            cursor: self.engine.as_shown(cursor),
            changed,
            visible,
            replayed,
            keys,
        })
    }

    fn subscribe(&self, filter: Filter, callback: Callback) -> Result<SubscriptionId> {
        self.open()?;
        Ok(self.engine.subscribe(filter, callback))
    }

    fn unsubscribe(&self, id: SubscriptionId) -> bool {
        self.engine.subscriptions.remove(id)
    }

    fn unsubscribe_without_waiting(&self, id: SubscriptionId) -> bool {
        self.engine.subscriptions.release(id)
    }

    fn follow(&self, key: &str, follower: Weak<dyn Follow>) -> Result<Option<SubscriptionId>> {
        self.open()?;
        self.engine.follow(Key::parse(key)?, follower);
        Ok(None)
    }

    fn wrong_type(&self, wrong: &WrongType) {
        self.engine.book.open().counters.wrong_types += 1;
        wrong.log();
    }

    fn checksum(&self) -> Result<Checksum> {
        self.engine.checksum()
    }

    async fn sync(&self) -> Result<usize> {
        self.open()?;
        match self
            .engine
            .clock
            .timeout(self.request_timeout, self.engine.resync())
            .await
        {
            Ok(changed) => changed,
            Err(_) => Err(Kind::Timeout {
                what: "the resync".to_owned(),
                after: self.request_timeout,
            }
            .into()),
        }
    }

    async fn wait_for(&self, target: Target, timeout: Duration) -> Result<Revision> {
        match self
            .engine
            .clock
            .timeout(timeout, self.engine.sought(target))
            .await
        {
            Ok(reached) => reached,
            Err(_) => Err(Kind::Timeout {
                what: format!("waiting for revision {}", target.revision),
                after: timeout,
            }
            .into()),
        }
    }

    fn status(&self) -> Status {
        self.engine.status()
    }

    async fn shutdown(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        self.stop.send_replace(true);
        let mut driver = self.driver.lock().await;
        if let Some(task) = driver.take() {
            if let Err(error) = task.await
                && error.is_panic()
            {
                tracing::error!(%error, "the driver panicked");
            }
            self.writer.close().await;
            self.engine.close().await;
            self.store.close().await;
            tracing::info!("shut down");
        }
        Ok(())
    }
}

fn request(batch: Batch) -> Result<WriteRequest> {
    let (actor, idempotency_key) = (batch.actor.clone(), batch.idempotency_key.clone());
    Ok(WriteRequest {
        items: batch.into_items()?,
        actor,
        idempotency_key,
    })
}

impl fmt::Debug for ConfigService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigService")
            .field("store", &self.store.describe())
            .finish_non_exhaustive()
    }
}
