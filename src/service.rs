//! The service that an application holds: builder, start, and the trait's implementation.

mod standby;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use crate::core::replica::{Committed, Config};
use crate::core::{Checksum, Cursor, Entry, Revision, Snapshot};
use crate::error::{Error, Kind, Result};
use crate::runtime::{Clock, Driver, Engine, Intervals, Keeper, StateFile};
use crate::settings::Settings;
use crate::status::Status;
use crate::store::memory::MemoryDatabase;
use crate::store::postgres::PostgresStore;
use crate::store::{Recorded, Store, WriteRequest};
use crate::subscription::{Callback, Filter, SubscriptionId};
use crate::sync_config::{SyncConfig, Target};
use crate::write::{Batch, Written};

/// Connects to the database of a URL with default settings. Returns loaded and listening.
///
/// # Errors
///
/// As [`Builder::start`].
pub async fn connect(database_url: &str) -> Result<Arc<ConfigService>> {
    Builder::new(Settings::new(database_url)).start().await
}

/// Prepares a [`ConfigService`].
#[derive(Debug)]
pub struct Builder {
    settings: Settings,
    source: Source,
    wait: bool,
    clock: Clock,
}

enum Source {
    Url,
    Pool(deadpool_postgres::Pool),
    Memory(MemoryDatabase),
    #[cfg(feature = "testing")]
    Given(Given),
}

/// Makes a store for an instance of this number.
#[cfg(feature = "testing")]
type Given = Box<dyn FnOnce(u64) -> Arc<dyn Store> + Send + Sync>;

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Url => "Url",
            Self::Pool(_) => "Pool",
            Self::Memory(_) => "Memory",
            #[cfg(feature = "testing")]
            Self::Given(_) => "Given",
        })
    }
}

impl Builder {
    /// A service on the database that the settings name.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            source: Source::Url,
            wait: true,
            clock: Clock::start(),
        }
    }

    /// A service in memory, sharing `database` with every other service started on it.
    #[must_use]
    pub fn memory(database: &MemoryDatabase) -> Self {
        Self {
            settings: Settings::default(),
            source: Source::Memory(database.clone()),
            wait: true,
            clock: Clock::start(),
        }
    }

    /// A service on a store and a clock of a test.
    #[cfg(feature = "testing")]
    pub(crate) fn given(settings: Settings, store: Given, clock: Clock) -> Self {
        Self {
            settings,
            source: Source::Given(store),
            wait: true,
            clock,
        }
    }

    /// Writes through a pool of the application's, which is not closed at shutdown. The listening session takes its
    /// address from the settings' `listen_database_url`, else `database_url`; they have to lead to the same store. Without
    /// either, a connection taken from the pool polls.
    #[must_use]
    pub fn pool(mut self, pool: deadpool_postgres::Pool) -> Self {
        self.source = Source::Pool(pool);
        self
    }

    /// Replaces the settings.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Lets `start` return before anything is loaded, so that a program starts while the database is away. Reads say
    /// *not ready* until then.
    #[must_use]
    pub fn without_waiting(mut self) -> Self {
        self.wait = false;
        self
    }

    /// Starts the service; returns loaded, and listening unless notifications are off or do not arrive.
    ///
    /// With the setting `state_file`, a database that is away at the start is no error if the last good state can be
    /// served: [`Status::stale`] says that it is, and how old. A database that answers, but refuses the role or the schema,
    /// stays an error.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] for settings out of bounds, [`Error::is_unavailable`] when the database cannot be
    /// reached and no kept state can stand in (it says why), and others when the schema cannot be created or is not this
    /// program's.
    pub async fn start(self) -> Result<Arc<ConfigService>> {
        self.settings.check()?;
        let (settings, clock) = (self.settings, self.clock);
        let instance = clock.random();
        let store: Arc<dyn Store> = match self.source {
            Source::Memory(database) => database.store(instance, clock.sources()),
            Source::Url => Arc::new(PostgresStore::new(&settings, None, instance)?),
            Source::Pool(pool) => Arc::new(PostgresStore::new(&settings, Some(pool), instance)?),
            #[cfg(feature = "testing")]
            Source::Given(make) => make(instance),
        };
        let file = standby::file(&settings, &*store)?;
        let prepared = match &file {
            _ if !self.wait => Ok(()),
            Some(_) => standby::prepare(&*store, &clock, settings.request_timeout).await,
            None => store.prepare().await,
        };
        let away = match prepared {
            Err(error) if error.is_unavailable() && file.is_some() => Some(error),
            prepared => {
                prepared?;
                None
            }
        };
        let service = ConfigService::start(&settings, store, instance, clock, file.clone());
        let loaded = match away {
            Some(error) => Err(error),
            None if self.wait => service.first_load(settings.request_timeout).await,
            None => Ok(()),
        };
        let served = match (loaded, &file) {
            (Err(error), Some(file)) if error.is_unavailable() => {
                tracing::warn!(%error, "the database is away at the start; looking for a state that was kept");
                let served = standby::serve(&service.engine, file).await;
                served.map_err(|refusal| error.and(format!("setting state_file: {refusal}")))
            }
            (Ok(()), Some(file)) if !self.wait => {
                // A refusal is told by the status and the log; the database's own state comes when it comes.
                standby::serve(&service.engine, file).await.ok();
                Ok(())
            }
            (loaded, _) => loaded,
        };
        if let Err(error) = served {
            service.shutdown().await?;
            return Err(error);
        }
        Ok(service)
    }
}

/// An instance of the configuration store: share it as `Arc<dyn SyncConfig>`.
pub struct ConfigService {
    engine: Arc<Engine>,
    store: Arc<dyn Store>,
    request_timeout: Duration,
    stop: watch::Sender<bool>,
    driver: Mutex<Option<JoinHandle<()>>>,
    closed: AtomicBool,
}

impl ConfigService {
    fn start(
        settings: &Settings,
        store: Arc<dyn Store>,
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
        };
        let intervals = Intervals {
            heartbeat: settings.heartbeat_interval,
            cleanup: settings.cleanup_interval,
            retention: settings.event_retention,
            request_timeout: settings.request_timeout,
            repair: settings.sync_on_mismatch,
        };
        let seed = clock.random();
        let (engine, actions) = Engine::new(config, seed, store.describe(), clock.clone());
        let (stop, stopped) = watch::channel(false);
        let keeper = file.map(|file| Keeper::new(engine.clone(), file));
        let driver = Driver::new(engine.clone(), store.clone(), actions, intervals).keeping(keeper);
        let driver = Mutex::new(Some(clock.spawn(driver.run(stopped))));
        let request_timeout = settings.request_timeout;
        Arc::new(Self {
            engine,
            store,
            request_timeout,
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

    /// Reads at most `limit` whole revisions after a cursor from the database's journal, with old and new texts: for a
    /// consumer that keeps its own place across restarts. `None` when the journal does not reach back to the cursor, or
    /// has another past; then a [`SyncConfig::snapshot`] is the place to go on from.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] when the database cannot be reached.
    pub async fn history(&self, after: Cursor, limit: u32) -> Result<Option<Vec<Recorded>>> {
        self.store.history(after, limit).await
    }

    /// The revision shown; `None` before the first load. Cheap, unlike a status or a snapshot.
    #[cfg(feature = "server")]
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        self.engine.cursor()
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
        if !self.engine.cache.ready() {
            return Err(Kind::NotReady.into());
        }
        self.engine.cache.with(key, read);
        Ok(())
    }

    fn snapshot(&self) -> Result<Arc<Snapshot>> {
        self.engine.snapshot()
    }

    async fn write(&self, batch: Batch) -> Result<Written> {
        self.open()?;
        let deadline = self.engine.clock.now() + self.request_timeout;
        let (actor, idempotency_key) = (batch.actor.clone(), batch.idempotency_key.clone());
        let request = WriteRequest {
            items: batch.into_items()?,
            actor,
            idempotency_key,
        };
        let answer = self.store.write(&request).await?;
        let (epoch, revision, id) = (answer.epoch, answer.journaled.revision, answer.journaled.id);
        // A replay tells the values of now, which may be of later revisions: it is fetched like any other news.
        let visible = if answer.changed && !answer.replayed {
            self.engine
                .committed(
                    Committed {
                        epoch,
                        anchor: answer.anchor,
                        journaled: answer.journaled,
                    },
                    deadline,
                )
                .await
        } else {
            // What it found there already may not have reached this instance yet.
            self.engine.shows(epoch, revision, false, deadline).await
        };
        let cursor = Cursor {
            epoch,
            revision,
            id,
        };
        Ok(Written {
            cursor,
            changed: answer.changed,
            visible,
            replayed: answer.replayed,
            keys: answer.keys,
        })
    }

    fn subscribe(&self, filter: Filter, callback: Callback) -> Result<SubscriptionId> {
        self.open()?;
        Ok(self.engine.subscribe(filter, callback))
    }

    fn unsubscribe(&self, id: SubscriptionId) -> bool {
        self.engine.subscriptions.remove(id)
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
            self.engine.close().await;
            self.store.close().await;
            tracing::info!("shut down");
        }
        Ok(())
    }
}

impl fmt::Debug for ConfigService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigService")
            .field("store", &self.store.describe())
            .finish_non_exhaustive()
    }
}
