//! The adapter for the store that the settings' URL names: the one place where a scheme becomes a store.

use std::sync::Arc;

use super::On;
use crate::error::Result;
use crate::runtime::Clock;
#[cfg(feature = "remote")]
use crate::settings::Address;
use crate::settings::{Settings, StoreUrl};
use crate::store::Store;
use crate::store::postgres::PostgresStore;
#[cfg(feature = "remote")]
use crate::store::remote::RemoteStore;
#[cfg(feature = "sqlite")]
use crate::store::sqlite::SqliteStore;

/// The store that the settings name. Nothing is connected to yet.
#[cfg_attr(
    not(any(feature = "sqlite", feature = "remote")),
    expect(unused_variables, reason = "PostgreSQL has a clock of its own")
)]
pub(super) fn named(settings: &Settings, instance: u64, clock: &Clock) -> Result<On> {
    match settings.store_url()? {
        // Without a URL it says what is needed.
        None | Some(StoreUrl::Postgres) => {
            Ok(on_postgres(PostgresStore::new(settings, None, instance)?))
        }
        #[cfg(feature = "sqlite")]
        Some(StoreUrl::Sqlite(path)) => {
            let store = SqliteStore::new(settings, &path, instance, clock.sources())?;
            Ok(on_sqlite(store))
        }
        #[cfg(feature = "remote")]
        Some(StoreUrl::Remote(servers)) => on_servers(settings, servers, instance, clock),
    }
}

/// The store of some servers.
#[cfg(feature = "remote")]
pub(super) fn on_servers(
    settings: &Settings,
    servers: Vec<Address>,
    instance: u64,
    clock: &Clock,
) -> Result<On> {
    let store = RemoteStore::new(settings, servers, instance, clock.sources())?;
    Ok(On::from(Arc::new(store) as Arc<dyn Store>))
}

/// Makes sure that a service could be started with these settings, as far as that is known without a connection.
#[cfg(feature = "toml")]
pub(super) fn check(settings: &Settings) -> Result<()> {
    match settings.store_url()? {
        None | Some(StoreUrl::Postgres) => PostgresStore::new(settings, None, 0).map(drop),
        #[cfg(feature = "sqlite")]
        Some(StoreUrl::Sqlite(_)) => Ok(()),
        #[cfg(feature = "remote")]
        Some(StoreUrl::Remote(_)) => Ok(()),
    }
}

/// Names the store of the settings for people, without a password.
#[cfg(feature = "cli")]
pub(crate) fn describe(settings: &Settings) -> Result<String> {
    match settings.store_url()? {
        None | Some(StoreUrl::Postgres) => Ok(PostgresStore::new(settings, None, 0)?.describe()),
        #[cfg(feature = "sqlite")]
        Some(StoreUrl::Sqlite(path)) => SqliteStore::describe_file(settings, &path),
        #[cfg(feature = "remote")]
        Some(StoreUrl::Remote(servers)) => Ok(RemoteStore::describe_servers(&servers)),
    }
}

pub(super) fn on_postgres(store: PostgresStore) -> On {
    let store = Arc::new(store);
    let mut on = On::from(store.clone() as Arc<dyn Store>);
    on.postgres = Some(store);
    on
}

#[cfg(feature = "sqlite")]
pub(super) fn on_sqlite(store: SqliteStore) -> On {
    let store = Arc::new(store);
    let mut on = On::from(store.clone() as Arc<dyn Store>);
    on.sqlite = Some(store);
    on
}
