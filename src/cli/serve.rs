//! `sync-config serve`: a store, the HTTP service on it, and an orderly end.
//!
//! Guarantees: the first log line says which store is served and where; the first SIGTERM or SIGINT lets requests end and
//! leads to exit code 0, a second one ends the process at once; the database may be away at the start.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::args::{Events, LogFormat, Serve, Store};
use super::protection::Protection;
use super::{Failure, log};
use crate::core::shown;
use crate::keys;
use crate::local_postgres::{LocalPostgres, find_binaries, install_hint, running_as_root};
use crate::server::{self, Options};
use crate::service::{Builder, ConfigService};
use crate::settings::Settings;
use crate::store::postgres::admin::Admin;
use crate::sync_config::SyncConfig;

/// The exit code after a second signal, as shells report a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// The database of a private server that is always there.
const LOCAL_DATABASE: &str = "postgres";

pub(super) async fn serve(settings: Settings, options: Serve) -> Result<(), Failure> {
    log::start_server(options.log_format == LogFormat::Json);
    let limits = options
        .relay
        .limits(|name| std::env::var(name).ok())
        .map_err(Failure::Usage)?;
    let place = Place::choose(&settings, &options)?;
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
        Some(rules) => Some((opened.keys().await?, rules)),
        None => None,
    };
    let events = opened.events(options.events).await?;
    let told = Options {
        keys: keys.clone(),
        events: events.clone(),
        origins: protection.origins,
        tls: protection.tls,
        progress: options.progress_interval,
        relay: limits,
    };
    let served = server::serve(listener, service.clone(), told, stopped(stop)).await;
    if let Some((keys, _)) = keys {
        keys.shutdown().await?;
    }
    if let Some(events) = events {
        events.shutdown().await?;
    }
    service.shutdown().await?;
    let local = opened.local;
    if let Some(local) = local {
        // Stopping waits for a process.
        drop(tokio::task::spawn_blocking(move || drop(local)).await);
    }
    tracing::info!("stopped");
    served.map_err(io)
}

/// The directory of pg-local under that of the platform, and that of SQLite: the first one belongs to another account, if root
/// starts it.
const LOCAL_DIR: &str = "sync-config";
const SQLITE_DIR: &str = "sync-config-sqlite";

/// The file of SQLite in its directory.
const SQLITE_FILE: &str = "config.db";

/// Where the data is.
enum Place {
    Database,
    Sqlite(PathBuf),
    Local(PathBuf),
}

impl Place {
    fn choose(settings: &Settings, options: &Serve) -> Result<Self, Failure> {
        let given = settings.database_url.is_some();
        match options.store {
            Store::Auto | Store::Postgres if given => Ok(Self::Database),
            Store::Auto | Store::Sqlite => Ok(Self::Sqlite(dir(options, SQLITE_DIR)?.join(SQLITE_FILE))),
            Store::Postgres => Err(Failure::Usage(
                "--store postgres needs a database; set DATABASE_URL=postgres://user@host:5432/database"
                    .to_owned(),
            )),
            Store::PgLocal => Ok(Self::Local(dir(options, LOCAL_DIR)?)),
        }
    }

    fn describe(&self, settings: &Settings) -> Result<String, Failure> {
        match self {
            Self::Database => Ok(Admin::new(settings)?.describe()),
            Self::Sqlite(file) => Ok(format!("the SQLite file {}", file.display())),
            Self::Local(dir) => Ok(format!("a private PostgreSQL in {}", dir.display())),
        }
    }

    async fn open(self, settings: Settings) -> Result<Opened, Failure> {
        let opened = |settings, file| Opened {
            settings,
            file,
            local: None,
        };
        let dir = match self {
            Self::Database => return Ok(opened(settings, None)),
            Self::Sqlite(file) => {
                make_room(&file)?;
                return Ok(opened(settings, Some(file)));
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
        Ok(Opened {
            settings,
            file: None,
            local: Some(local),
        })
    }
}

/// Where the data is, ready for services on it.
struct Opened {
    settings: Settings,
    /// Of SQLite.
    file: Option<PathBuf>,
    local: Option<LocalPostgres>,
}

impl Opened {
    fn builder(&self, settings: Settings) -> Builder {
        match &self.file {
            Some(file) => Builder::sqlite(file).settings(settings),
            None => Builder::new(settings),
        }
    }

    /// The store of the API keys.
    async fn keys(&self) -> Result<Arc<ConfigService>, Failure> {
        let builder = self.builder(keys::settings(&self.settings)?);
        Ok(builder.without_waiting().start().await?)
    }

    /// The store of the events, beside the other one. In a database that others use as well it is made when somebody asks for it.
    async fn events(&self, asked: Events) -> Result<Option<Arc<ConfigService>>, Failure> {
        let own = self.file.is_some() || self.local.is_some();
        if asked == Events::Off || (asked == Events::Auto && !own) {
            return Ok(None);
        }
        let builder = self.builder(server::events_settings(&self.settings)?);
        Ok(Some(builder.without_waiting().start().await?))
    }
}

/// Makes the directory of a file, for nobody else to look into.
fn make_room(file: &Path) -> Result<(), Failure> {
    let Some(dir) = file.parent() else {
        return Ok(());
    };
    let mut maker = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut maker, 0o700);
    maker.recursive(true).create(dir).map_err(|error| {
        let problem = format!("the directory {} cannot be made: {error}", dir.display());
        Failure::Other(problem)
    })
}

/// The directory that was given, or the platform's of that name.
fn dir(options: &Serve, name: &str) -> Result<PathBuf, Failure> {
    let found = options.data.clone().or_else(|| {
        let base = data_dir(|name| std::env::var_os(name), running_as_root());
        Some(base?.join(name))
    });
    found.ok_or_else(|| {
        Failure::Usage(
            "there is no home directory to keep data in; name one with --data".to_owned(),
        )
    })
}

/// Where programs of this user keep their data. Root's PostgreSQL runs under another account, which root's own home
/// directory is closed to.
fn data_dir(variable: impl Fn(&str) -> Option<OsString>, root: bool) -> Option<PathBuf> {
    let absolute = |name| {
        let dir = PathBuf::from(variable(name)?);
        dir.is_absolute().then_some(dir)
    };
    absolute("XDG_DATA_HOME").or_else(|| {
        if root {
            Some(PathBuf::from("/var/lib"))
        } else {
            Some(absolute("HOME")?.join(".local/share"))
        }
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_kept_where_the_platform_says() {
        let dir = |variables: &[(&str, &str)], root| {
            let found = |name: &str| variables.iter().find(|(given, _)| *given == name);
            let dir = data_dir(|name| found(name).map(|(_, value)| value.into()), root);
            dir.map(|dir| dir.display().to_string())
        };
        let home = ("HOME", "/home/u");
        let own = Some("/home/u/.local/share".to_owned());
        assert_eq!(dir(&[home], false), own);
        assert_eq!(dir(&[home, ("XDG_DATA_HOME", "relative")], false), own);
        let given = Some("/data".to_owned());
        for root in [false, true] {
            assert_eq!(dir(&[home, ("XDG_DATA_HOME", "/data")], root), given);
        }
        assert_eq!(dir(&[("HOME", "/root")], true).as_deref(), Some("/var/lib"));
        assert_eq!(dir(&[], false), None);
    }
}
