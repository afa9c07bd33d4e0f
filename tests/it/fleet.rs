//! A fleet of services on one database, in memory, in PostgreSQL, in SQLite or behind a server, for suites that all have to pass.

use std::sync::Arc;
use std::time::Duration;

use sync_config::prelude::*;
use sync_config::{Checksum, Event, MemoryDatabase, Revision};

use crate::support::postgres::{TestDb, newest_cluster};
#[cfg(feature = "sqlite")]
use crate::support::sqlite::SqliteFile;
use crate::support::wait::{PATIENCE, Probe, eventually};

/// Where the instances of a fleet meet.
pub(crate) enum Fleet {
    Memory(MemoryDatabase),
    Postgres(TestDb),
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteFile),
    /// On a server, which stands on a file.
    #[cfg(all(feature = "remote", feature = "server"))]
    Remote {
        server: Box<crate::support::program::Server>,
        _file: SqliteFile,
    },
}

impl Fleet {
    pub(crate) fn memory() -> Self {
        Self::Memory(MemoryDatabase::new())
    }

    pub(crate) async fn postgres() -> Self {
        Self::Postgres(TestDb::new().await)
    }

    /// On the newest major version to be had; the shared server where there is none newer.
    pub(crate) async fn newest_postgres() -> Self {
        Self::Postgres(match newest_cluster() {
            Some(newest) => TestDb::on(newest).await,
            None => TestDb::new().await,
        })
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(SqliteFile::new())
    }

    #[cfg(all(feature = "remote", feature = "server"))]
    pub(crate) async fn remote() -> Self {
        let file = SqliteFile::new();
        let server = crate::support::remote::serve(&file.url(), &[]).await;
        Self::Remote {
            server: Box::new(server),
            _file: file,
        }
    }

    pub(crate) fn db(&self) -> &TestDb {
        match self {
            Self::Postgres(db) => db,
            Self::Memory(_) => panic!("this fleet has no PostgreSQL"),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => panic!("this fleet has no PostgreSQL"),
            #[cfg(all(feature = "remote", feature = "server"))]
            Self::Remote { .. } => panic!("this fleet has no PostgreSQL"),
        }
    }

    /// Starts an instance with default settings.
    pub(crate) async fn start(&self) -> Arc<ConfigService> {
        self.start_with(|settings| settings).await
    }

    pub(crate) async fn start_with(
        &self,
        change: impl FnOnce(Settings) -> Settings,
    ) -> Arc<ConfigService> {
        let builder = match self {
            Self::Memory(database) => {
                Builder::memory(database).settings(change(Settings::default()))
            }
            Self::Postgres(db) => Builder::new(change(Settings::new(db.url()))),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(file) => {
                Builder::sqlite(file.path()).settings(change(Settings::default()))
            }
            #[cfg(all(feature = "remote", feature = "server"))]
            Self::Remote { server, .. } => Builder::remote([format!("http://{}", server.address)])
                .settings(change(Settings::default())),
        };
        builder.start().await.expect("the service starts")
    }
}

/// What a subscriber saw of a revision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Seen {
    State(u64, Vec<(String, String)>),
    /// Revision, cause, and for each change key, old and new text.
    Changed(u64, String, Vec<(String, Option<String>, Option<String>)>),
    Resynced(u64, Vec<(String, Option<String>, Option<String>)>),
    Lagged(u64, u64),
}

impl Seen {
    pub(crate) fn of(event: &Event) -> Self {
        let changes = |set: &sync_config::ChangeSet| {
            let text = |entry: Option<&Arc<sync_config::Entry>>| {
                entry.map(|entry| entry.as_json().to_owned())
            };
            set.changes()
                .iter()
                .map(|c| (c.key().to_string(), text(c.old()), text(c.new())))
                .collect()
        };
        match event {
            Event::State(state) => Self::State(
                state.revision().get(),
                state
                    .iter()
                    .map(|entry| (entry.key().to_string(), entry.as_json().to_owned()))
                    .collect(),
            ),
            Event::Changed(set) => Self::Changed(
                set.revision().get(),
                format!("{:?}", set.cause()),
                changes(set),
            ),
            Event::Resynced(set) => Self::Resynced(set.revision().get(), changes(set)),
            Event::Lagged { missed, state } => Self::Lagged(*missed, state.revision().get()),
            _ => panic!("an event this test does not know"),
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        match self {
            Self::State(revision, _)
            | Self::Changed(revision, ..)
            | Self::Resynced(revision, _)
            | Self::Lagged(_, revision) => *revision,
        }
    }
}

/// Records everything a subscription tells.
pub(crate) fn record(config: &ConfigService, filter: Filter) -> Probe<Seen> {
    let probe = Probe::new();
    let seen = probe.clone();
    config
        .on_change(filter, move |event| seen.push(Seen::of(event)))
        .expect("subscribed");
    probe
}

/// Waits until instances show a revision, and answers their common checksum.
pub(crate) async fn in_step(services: &[&Arc<ConfigService>], revision: Revision) -> Checksum {
    for service in services {
        service
            .wait_for(revision.into(), PATIENCE)
            .await
            .expect("the instance follows");
    }
    let checksums: Vec<_> = services
        .iter()
        .map(|service| service.checksum().expect("loaded"))
        .collect();
    assert!(
        checksums.windows(2).all(|pair| pair[0] == pair[1]),
        "{checksums:?}"
    );
    checksums[0]
}

/// Waits until an instance's status satisfies a condition.
pub(crate) async fn until_status(
    service: &Arc<ConfigService>,
    what: &str,
    holds: impl Fn(&sync_config::Status) -> bool,
) -> sync_config::Status {
    eventually(what, PATIENCE, async || {
        let status = service.status();
        if holds(&status) {
            Ok(status)
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await
}

pub(crate) const SHORT: Duration = Duration::from_millis(300);
