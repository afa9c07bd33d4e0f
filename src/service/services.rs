//! Several services of a file in one process, with the pools they share.
//!
//! Guarantees: services that name the same pool write through one pool, which is closed with the last of them; a service
//! that runs is not started a second time.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::{Builder, ConfigService, adapter};
use crate::error::{Error, Result};
use crate::settings::{Environment, Layers, Settings, SettingsFile, StoreUrl};
use crate::store::postgres::shared::{SharedPool, WeakPool};
use crate::sync_config::SyncConfig;

/// The services that a file declares, to be started by their names.
///
/// ```no_run
/// # async fn example() -> sync_config::Result<()> {
/// let services = sync_config::Services::load("sync-config.toml")?;
/// let config = services.start("config-service").await?;
/// let again = services.start("config-service").await?; // the same one
/// services.shutdown().await?;
/// # Ok(())
/// # }
/// ```
///
/// Those with the same `dbpool_name` listen on one connection, but for one with an `instance_name` of its own, which has a
/// connection of that name. And they write through one pool of `max_connections`; it connects when it is used, is closed when the last running service that uses it is shut down or
/// dropped, and is made anew when one is started after that.
#[cfg_attr(docsrs, doc(cfg(feature = "toml")))]
pub struct Services {
    services: BTreeMap<String, Declared>,
    pools: BTreeMap<String, DeclaredPool>,
}

struct Declared {
    layers: Layers,
    pool: Option<String>,
    /// Held while it starts, so that two callers do not start it twice.
    running: tokio::sync::Mutex<Weak<ConfigService>>,
}

struct DeclaredPool {
    settings: Settings,
    open: Mutex<WeakPool>,
}

impl Services {
    /// Reads a file, overridden by this process's environment. Nothing is connected to.
    ///
    /// # Errors
    ///
    /// As [`Services::new`], and [`SettingsFile::read`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let file = SettingsFile::read(path)?;
        Self::new(&file, &Settings::default(), &Environment::of_process()?)
    }

    /// The services of a file: settings of `code`, overridden by the file, overridden by `environment`.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] as [`SettingsFile::layers`], for every service and pool; and when the file declares no
    /// service.
    pub fn new(file: &SettingsFile, code: &Settings, environment: &Environment) -> Result<Self> {
        let resolved = file.resolve(code, environment)?;
        let mut pools = BTreeMap::new();
        for (name, layers) in resolved.pools {
            let users = resolved.services.values();
            let users = users.filter(|service| service.pool.as_ref() == Some(&name));
            let timeouts = users.map(|service| service.layers.settings().request_timeout);
            // Without a user it is not made.
            let Some(timeout) = timeouts.max() else {
                continue;
            };
            let pool = DeclaredPool::new(&name, &layers, timeout)?;
            pools.insert(name, pool);
        }
        let mut services = BTreeMap::new();
        for (name, service) in resolved.services {
            let (layers, pool) = (service.layers, service.pool);
            let checked = adapter::check(layers.settings());
            checked.map_err(|error| named(&name, layers.located(error)))?;
            let running = tokio::sync::Mutex::default();
            let declared = Declared {
                layers,
                pool,
                running,
            };
            services.insert(name, declared);
        }
        Ok(Self { services, pools })
    }

    /// The names of the services, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str)
    }

    /// The settings of a service, with the source of each.
    #[must_use]
    pub fn layers(&self, name: &str) -> Option<&Layers> {
        self.services.get(name).map(|declared| &declared.layers)
    }

    /// The name of the pool that a service writes through; `None` when it has its own, or does not exist.
    #[must_use]
    pub fn pool_name(&self, name: &str) -> Option<&str> {
        self.services.get(name)?.pool.as_deref()
    }

    /// Starts a service, or answers with the one that runs already. Returns it loaded and listening.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] when no service has this name; else as [`Builder::start`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives the start up; nothing is left of it.
    pub async fn start(&self, name: &str) -> Result<Arc<ConfigService>> {
        let Some(declared) = self.services.get(name) else {
            let declared: Vec<&str> = self.names().collect();
            let problem = format!(
                "there is no such service; there are {}",
                declared.join(", ")
            );
            return Err(Error::setting("service", name, problem));
        };
        let mut running = declared.running.lock().await;
        if let Some(service) = running.upgrade().filter(|service| service.open().is_ok()) {
            return Ok(service);
        }
        let mut builder = Builder::new(declared.layers.settings().clone());
        if let Some(pool) = &declared.pool {
            builder = builder.shared_pool(self.pool(pool)?);
        }
        let service = builder
            .start()
            .await
            .map_err(|error| declared.layers.located(error))?;
        *running = Arc::downgrade(&service);
        Ok(service)
    }

    /// Shuts down whatever runs. When this returns, nothing of it is left, and no pool is open.
    ///
    /// # Errors
    ///
    /// As [`SyncConfig::shutdown`]; the others are shut down nevertheless.
    pub async fn shutdown(&self) -> Result<()> {
        let mut ended = Ok(());
        for declared in self.services.values() {
            let running = declared.running.lock().await.upgrade();
            if let Some(service) = running {
                ended = service.shutdown().await.and(ended);
            }
        }
        ended
    }

    fn pool(&self, name: &str) -> Result<SharedPool> {
        let Some(declared) = self.pools.get(name) else {
            return Err(Error::setting("dbpool_name", name, "there is no such pool"));
        };
        let mut open = declared.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = open.upgrade() {
            return Ok(pool);
        }
        let pool = SharedPool::new(&declared.settings)?;
        *open = pool.downgrade();
        Ok(pool)
    }
}

impl DeclaredPool {
    fn new(name: &str, layers: &Layers, timeout: Duration) -> Result<Self> {
        // No service waits shorter for a connection than its own requests may take.
        let settings = layers.settings().clone().request_timeout(timeout);
        if !matches!(settings.store_url()?, None | Some(StoreUrl::Postgres)) {
            let problem = "a pool is one of connections to PostgreSQL; give such a URL to each of its services, without dbpool_name";
            let error = Error::setting("database_url", "…", problem);
            return Err(named(&format!("pool {name}"), layers.located(error)));
        }
        let checked = SharedPool::new(&settings);
        checked.map_err(|error| named(&format!("pool {name}"), layers.located(error)))?;
        Ok(Self {
            settings,
            open: Mutex::default(),
        })
    }
}

/// Says whose an error is that no source can be named for.
fn named(name: &str, error: Error) -> Error {
    Error::placed(name, error.to_string())
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services")
            .field("services", &self.names().collect::<Vec<_>>())
            .field("pools", &self.pools.keys().collect::<Vec<_>>())
            .finish()
    }
}
