//! `sync-config serve`: a store, the HTTP service on it, and an orderly end.
//!
//! Guarantees: the first log line says which store is served and where; the first SIGTERM or SIGINT lets requests end and
//! leads to exit code 0, a second one ends the process at once; the database may be away at the start.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::exit;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::args::{LogFormat, Serve, Store};
use super::{Failure, data, log};
use crate::core::shown;
use crate::local_postgres::{LocalPostgres, find_binaries, install_hint};
use crate::server::{self, Options};
use crate::service::{Builder, describe};
use crate::settings::{Settings, StoreUrl};
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
    let place = Place::choose(&settings, data, options.store)?;
    let store = place.describe(&settings)?;
    let listener = listen(&options.listen, options.insecure).await?;
    let address = listener.local_addr().map_err(io)?;
    tracing::info!(%address, store = %shown(&store), "serving");
    if options.insecure {
        tracing::warn!("--insecure: whoever reaches this address reads and writes everything");
    }
    let stop = signals()?;
    let (builder, local) = tokio::select! {
        opened = place.open(settings) => opened?,
        () = stopped(stop.clone()) => return Ok(()),
    };
    let service = builder.without_waiting().start().await?;
    let told = Options {
        insecure: options.insecure,
        progress: options.progress_interval,
    };
    let served = server::serve(listener, service.clone(), told, stopped(stop)).await;
    service.shutdown().await?;
    if let Some(local) = local {
        // Stopping waits for a process.
        drop(tokio::task::spawn_blocking(move || drop(local)).await);
    }
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

    async fn open(self, settings: Settings) -> Result<(Builder, Option<LocalPostgres>), Failure> {
        let dir = match self {
            Self::Named => return Ok((Builder::new(settings), None)),
            Self::Sqlite(file) => {
                data::make_room(&file)?;
                return Ok((Builder::sqlite(file).settings(settings), None));
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
        Ok((Builder::new(settings), Some(local)))
    }
}

async fn listen(text: &str, insecure: bool) -> Result<TcpListener, Failure> {
    let wrong = |problem: String| Failure::Usage(format!("--listen {text:?}: {problem}"));
    let found = tokio::net::lookup_host(text).await;
    let found: Vec<SocketAddr> = found
        .map_err(|error| wrong(format!("write 127.0.0.1:8420 ({error})")))?
        .collect();
    let beyond = found.iter().any(|address| !address.ip().is_loopback());
    if beyond && !insecure {
        return Err(wrong(
            "is beyond loopback, and there is no authentication yet; listen on 127.0.0.1, \
             or say --insecure if whoever reaches the address may read and write everything"
                .to_owned(),
        ));
    }
    TcpListener::bind(&*found)
        .await
        .map_err(|error| Failure::Other(format!("--listen {text:?}: {error}")))
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
