//! The builder: what a service stands on, and its start.

use std::fmt;
#[cfg(feature = "sqlite")]
use std::path::PathBuf;
use std::sync::Arc;

use deadpool_postgres::Pool;

use super::adapter::{self, on_postgres};
use super::{ConfigService, On, standby};
use crate::error::Result;
use crate::runtime::Clock;
use crate::settings::Settings;
#[cfg(feature = "testing")]
use crate::store::Store;
use crate::store::memory::MemoryDatabase;
use crate::store::postgres::PostgresStore;
#[cfg(feature = "toml")]
use crate::store::postgres::shared::SharedPool;
#[cfg(feature = "sqlite")]
use crate::store::sqlite::SqliteStore;
use crate::sync_config::SyncConfig;

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
    Pool(Pool),
    #[cfg(feature = "toml")]
    Shared(SharedPool),
    Memory(MemoryDatabase),
    #[cfg(feature = "sqlite")]
    Sqlite(PathBuf),
    /// URLs of servers, parted by commas.
    #[cfg(feature = "remote")]
    Remote(String),
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
            #[cfg(feature = "toml")]
            Self::Shared(_) => "Shared",
            Self::Memory(_) => "Memory",
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => "Sqlite",
            #[cfg(feature = "remote")]
            Self::Remote(_) => "Remote",
            #[cfg(feature = "testing")]
            Self::Given(_) => "Given",
        })
    }
}

impl Builder {
    /// A service on the store that the settings' `database_url` names: `postgres://user@host:5432/database`, or with feature
    /// `sqlite` also `sqlite:/path/of/file.db` (`sqlite:file.db` is in the working directory), with feature `remote` also
    /// `https://host:port`, or several of these parted by commas.
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

    /// A service on an SQLite file, which is made if it is not there: an embedded store for the processes of one machine.
    ///
    /// Every service started on the same file, in this process or another, is an instance of one fleet. A write is synced to
    /// the disk before it is reported. The table is plain: what a stock `sqlite3` shell writes to it (`INSERT`, `UPDATE`,
    /// `DELETE`, `REPLACE`, several rows in a transaction) gets a revision from whichever instance sees it first, within
    /// milliseconds while one runs, else at the next start.
    ///
    /// The file has to lie on a disk of this machine: SQLite cannot trust the locks of a network file system, nor share its
    /// log through one. Beside it stand `-wal` and `-shm` of its name while it is open; who copies the file while a service
    /// runs takes `VACUUM INTO` or `.backup`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> sync_config::Result<()> {
    /// use sync_config::prelude::*;
    /// # let file = std::env::temp_dir().join(format!("sync-config-doc-{}.db", std::process::id()));
    /// let one = Builder::sqlite(&file).start().await?;
    /// let two = Builder::sqlite(&file).start().await?;
    /// let written = one.set("limit:login", 100).await?;
    /// two.wait_for(written.cursor().into(), std::time::Duration::from_secs(5)).await?;
    /// assert_eq!(two.get_i64("limit:login", 0), 100);
    /// # one.shutdown().await?;
    /// # two.shutdown().await?;
    /// # std::fs::remove_file(&file).ok();
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "sqlite")]
    #[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
    #[must_use]
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self {
            settings: Settings::default(),
            source: Source::Sqlite(path.into()),
            wait: true,
            clock: Clock::start(),
        }
    }

    /// A service on one or several `sync-config serve`, for a program without a connection to the database: on another
    /// network, or one of very many.
    ///
    /// Reads, live handles, subscriptions, `wait_for` and the state file are those of every service; only where the news comes
    /// from is another. One of the servers is chosen by chance and stayed with while it is good; from the next one it goes on
    /// where it was, and never back: a server that is behind is passed over. A write goes to a server by HTTP and is read here
    /// when it returns. How old the servers' own knowledge is, is told by [`Status::proven_at`](crate::Status::proven_at), and
    /// a server that cannot reach its database by [`Mode::Offline`](crate::Mode::Offline).
    ///
    /// The setting `api_key` is what the servers are shown, `ca_file` names the authorities that their certificates may be of.
    /// See the [guide](crate::guide::remote) for what this store leaves to the servers.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> sync_config::Result<()> {
    /// use sync_config::prelude::*;
    /// let settings = Settings::default().api_key("sck_…").state_file("/var/lib/app/config.state");
    /// let config = Builder::remote(["https://a.example:8420", "https://b.example:8420"])
    ///     .settings(settings)
    ///     .start()
    ///     .await?;
    /// assert!(config.get_bool("feature:new_ui", false));
    /// # config.shutdown().await
    /// # }
    /// ```
    #[cfg(feature = "remote")]
    #[cfg_attr(docsrs, doc(cfg(feature = "remote")))]
    #[must_use]
    pub fn remote<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Self {
        let servers: Vec<String> = servers.into_iter().map(Into::into).collect();
        Self {
            settings: Settings::default(),
            source: Source::Remote(servers.join(",")),
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
    ///
    /// The application has to end its transactions before it gives a connection back, as deadpool's `Transaction` does when
    /// it is dropped. One in a failed transaction is closed when it is met; in an open one a write would be a part of that,
    /// and told as durable before its commit: nothing tells such a connection from one that is idle at little cost.
    #[must_use]
    pub fn pool(mut self, pool: Pool) -> Self {
        self.source = Source::Pool(pool);
        self
    }

    /// Writes through a pool of several services, which is closed with the last of them.
    #[cfg(feature = "toml")]
    pub(crate) fn shared_pool(mut self, pool: SharedPool) -> Self {
        self.source = Source::Shared(pool);
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
    /// served: [`Status::stale`](crate::Status::stale) says that it is, and how old. A database that answers, but refuses the role or the schema,
    /// stays an error.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`](crate::Error::is_invalid_input) for settings out of bounds,
    /// [`Error::is_unavailable`](crate::Error::is_unavailable) when the database cannot be reached and no kept state can
    /// stand in (it says why), and others when the schema cannot be created or is not this program's.
    pub async fn start(self) -> Result<Arc<ConfigService>> {
        self.settings.check()?;
        let (settings, clock) = (self.settings, self.clock);
        let instance = clock.random();
        let on: On = match self.source {
            Source::Memory(database) => database.store(instance, clock.sources()).into(),
            #[cfg(feature = "sqlite")]
            Source::Sqlite(path) => {
                let store = SqliteStore::new(&settings, &path, instance, clock.sources())?;
                adapter::on_sqlite(store)
            }
            #[cfg(feature = "remote")]
            Source::Remote(servers) => {
                let servers = crate::settings::read_servers("servers", &servers)?;
                adapter::on_servers(&settings, servers, instance, &clock)?
            }
            Source::Url => adapter::named(&settings, instance, &clock)?,
            Source::Pool(pool) => on_postgres(PostgresStore::new(&settings, Some(pool), instance)?),
            #[cfg(feature = "toml")]
            Source::Shared(pool) => on_postgres(PostgresStore::sharing(&settings, pool, instance)?),
            #[cfg(feature = "testing")]
            Source::Given(make) => make(instance).into(),
        };
        let store = on.store.clone();
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
        let service = ConfigService::start(&settings, on, instance, clock, file.clone());
        let loaded = match away {
            Some(error) => Err(error),
            None if self.wait => service.first_load(settings.request_timeout).await,
            None => Ok(()),
        };
        let served = match (loaded, &file) {
            (Err(error), Some(file)) if error.is_unavailable() => {
                tracing::warn!(%error, "the store is away at the start; looking for a state that was kept");
                let served = standby::serve(&service, file).await;
                served.map_err(|refusal| error.and(format!("setting state_file: {refusal}")))
            }
            (Ok(()), Some(file)) if !self.wait => {
                // A refusal is told by the status and the log; the database's own state comes when it comes.
                standby::serve(&service, file).await.ok();
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
