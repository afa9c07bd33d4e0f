//! `sync-config serve`: a store, the HTTP service on it, and an orderly end.
//!
//! Guarantees: the first log line says which store is served and where; the first SIGTERM or SIGINT lets requests end and
//! leads to exit code 0, a second one ends the process at once; the database may be away at the start.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::args::{Events, LogFormat, Serve, Store};
use super::protection::Protection;
use super::{Failure, data, log};
use crate::core::shown;
use crate::local_postgres::{LocalPostgres, find_binaries, install_hint};
use crate::server::{self, Options};
use crate::service::{Builder, ConfigService, describe};
use crate::settings::{Settings, StoreUrl};
use crate::store::postgres::shared::SharedPool;
use crate::sync_config::SyncConfig;

/// The exit code after a second signal, as shells report a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// The database of a private server that is always there.
const LOCAL_DATABASE: &str = "postgres";

pub(super) async fn serve(
    settings: Settings,
    data: Option<&Path>,
    options: Serve,
) -> Result<(), Failure> {
    log::start_server(options.log_format == LogFormat::Json);
    let limits = options
        .relay
        .limits(|name| std::env::var(name).ok())
        .map_err(Failure::Usage)?;
    let place = Place::choose(&settings, data, options.store)?;
    let store = place.describe(&settings)?;
    let found = find(&options.listen).await?;
    let protection = Protection::choose(&options, &found)?;
    let rules = protection.rules(&settings, &options)?;
    let listener = TcpListener::bind(&*found)
        .await
        .map_err(|error| Failure::Other(format!("--listen {:?}: {error}", options.listen)))?;
    let address = listener.local_addr().map_err(io)?;
    tracing::info!(%address, store = %shown(&store), auth = protection.auth(), tls = protection.tls.is_some(), "serving");
    protection.warn();
    let stop = signals()?;
    let opened = tokio::select! {
        opened = place.open(settings) => opened?,
        () = stopped(stop.clone()) => return Ok(()),
    };
    let service = opened.builder(opened.settings.clone());
    let service = service.without_waiting().start().await?;
    let keys = match rules {
        Some(rules) => Some((opened.keys(&protection).await?, rules)),
        None => None,
    };
    let events = opened.events(options.events).await?;
    let told = Options {
        keys: keys.clone(),
        events: events.clone().map(|service| server::Events {
            service,
            retention: opened.settings.event_retention,
        }),
        origins: protection.origins,
        tls: protection.tls,
        progress: options.progress_interval,
        relay: limits,
    };
    let served = server::serve(listener, service.clone(), told, stopped(stop)).await;
    let keys = keys.map(|(keys, _)| keys);
    for ended in [keys, events, Some(service)].into_iter().flatten() {
        ended.shutdown().await?;
    }
    opened.close().await;
    tracing::info!("stopped");
    served.map_err(io)
}

/// The directory of pg-local under that of the platform.
const LOCAL_DIR: &str = "sync-config";

/// Where the data is.
enum Place {
    /// Where the URL leads.
    Named,
    /// The file in a directory that is made for it.
    Sqlite(PathBuf),
    Local(PathBuf),
}

impl Place {
    fn choose(settings: &Settings, data: Option<&Path>, store: Store) -> Result<Self, Failure> {
        match (store, settings.store_url()?) {
            (Store::Auto, Some(_))
            | (Store::Postgres, Some(StoreUrl::Postgres))
            | (Store::Sqlite, Some(StoreUrl::Sqlite(_))) => Ok(Self::Named),
            (Store::Auto | Store::Sqlite, _) => Ok(Self::Sqlite(data::file(data)?)),
            (Store::Postgres, _) => Err(Failure::Usage(
                "--store postgres needs a database; set DATABASE_URL=postgres://user@host:5432/database"
                    .to_owned(),
            )),
            (Store::PgLocal, _) => Ok(Self::Local(data::dir(data, LOCAL_DIR)?)),
        }
    }

    fn describe(&self, settings: &Settings) -> Result<String, Failure> {
        match self {
            Self::Named => Ok(describe(settings)?),
            Self::Sqlite(file) => {
                let file = std::path::absolute(file).map_err(io)?;
                Ok(format!("the SQLite file {}", file.display()))
            }
            Self::Local(dir) => Ok(format!("a private PostgreSQL in {}", dir.display())),
        }
    }

    async fn open(self, settings: Settings) -> Result<Opened, Failure> {
        let dir = match self {
            Self::Named => return Opened::new(settings, None, None),
            Self::Sqlite(file) => {
                data::make_room(&file)?;
                return Opened::new(settings, Some(file), None);
            }
            Self::Local(dir) => dir,
        };
        let started = tokio::task::spawn_blocking(move || {
            let binaries = find_binaries().ok_or_else(|| {
                Failure::Advice(
                    "there is no PostgreSQL server on this machine",
                    install_hint(),
                )
            })?;
            LocalPostgres::durable(&binaries, &dir, None)
                .map_err(|error| Failure::Other(format!("the private PostgreSQL: {error}")))
        });
        let local = match started.await {
            Ok(started) => started?,
            Err(error) => return Err(Failure::Other(error.to_string())),
        };
        tracing::info!(
            port = local.port(),
            own = local.owns_server(),
            "the private PostgreSQL runs"
        );
        let settings = Settings {
            database_url: Some(local.url(LOCAL_DATABASE)),
            listen_database_url: None,
            ..settings
        };
        Opened::new(settings, None, Some(local))
    }
}

/// Where the data is, ready for services on it.
struct Opened {
    settings: Settings,
    /// Of SQLite.
    file: Option<PathBuf>,
    /// Of PostgreSQL: what all the services write through and listen on.
    pool: Option<SharedPool>,
    local: Option<LocalPostgres>,
}

impl Opened {
    fn new(
        settings: Settings,
        file: Option<PathBuf>,
        local: Option<LocalPostgres>,
    ) -> Result<Self, Failure> {
        let pool = match settings.store_url()? {
            Some(StoreUrl::Postgres) if file.is_none() => Some(SharedPool::new(&settings)?),
            _ => None,
        };
        Ok(Self {
            settings,
            file,
            pool,
            local,
        })
    }

    fn builder(&self, settings: Settings) -> Builder {
        match (&self.file, &self.pool) {
            (Some(file), _) => Builder::sqlite(file).settings(settings),
            (None, Some(pool)) => Builder::new(settings).shared_pool(pool.clone()),
            (None, None) => Builder::new(settings),
        }
    }

    /// Ends what the services stood on.
    async fn close(self) {
        let Self { local, pool, .. } = self;
        // Its server ends below.
        drop(pool);
        if let Some(local) = local {
            // Stopping waits for a process.
            drop(tokio::task::spawn_blocking(move || drop(local)).await);
        }
    }

    /// The store of the API keys.
    async fn keys(&self, protection: &Protection) -> Result<Arc<ConfigService>, Failure> {
        let settings = protection.store(&self.settings)?;
        let builder = if protection.keys_are_elsewhere() {
            Builder::new(settings)
        } else {
            self.builder(settings)
        };
        Ok(builder.without_waiting().start().await?)
    }

    /// The store of the events, beside the other one. In a database that others use as well it is made when somebody asks for it.
    async fn events(&self, asked: Events) -> Result<Option<Arc<ConfigService>>, Failure> {
        let url = self.settings.database_url.as_deref().unwrap_or_default();
        let own = self.file.is_some() || self.local.is_some() || url.starts_with("sqlite:");
        if asked == Events::Off || (asked == Events::Auto && !own) {
            return Ok(None);
        }
        if url.starts_with("http://") || url.starts_with("https://") {
            let problem = "--events on needs a store of one's own: events are published to the server that this one stands on";
            return Err(Failure::Usage(problem.to_owned()));
        }
        let builder = self.builder(server::events_settings(&self.settings)?);
        Ok(Some(builder.without_waiting().start().await?))
    }
}

/// The addresses of a text.
async fn find(text: &str) -> Result<Vec<SocketAddr>, Failure> {
    let found = tokio::net::lookup_host(text).await;
    let found = found.map_err(|error| {
        Failure::Usage(format!("--listen {text:?}: write 127.0.0.1:8420 ({error})"))
    })?;
    Ok(found.collect())
}

/// Tells of the first signal to stop; a second one ends the process.
fn signals() -> Result<watch::Receiver<bool>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(io)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io)?;
    let (stop, stopped) = watch::channel(false);
    // It ends with the process.
    tokio::spawn(async move {
        for first in [true, false] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if !first {
                tracing::warn!(signal = name, "a second signal: ending at once");
                exit(INTERRUPTED);
            }
            tracing::info!(signal = name, "stopping");
            stop.send_replace(true);
        }
    });
    Ok(stopped)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // Without a sender nobody could ask for a stop any more; the process is ending then.
    drop(stop.wait_for(|stop| *stop).await);
}

fn io(error: std::io::Error) -> Failure {
    Failure::Other(error.to_string())
}
