//! A pool that several stores of a process write through, and the connection that they listen on.
//!
//! Guarantees: the pool is closed when the last store that holds it is closed or dropped, not before, and then at once. A
//! server wakes every session that listens whenever anything is told in its database, so stores that it is to know
//! by the same name have one session between them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use deadpool_postgres::Pool;

use super::PostgresStore;
use super::connect::Address;
use super::line::Lines;
use crate::error::Result;
use crate::settings::Settings;

/// A share in a pool.
#[derive(Clone)]
pub(crate) struct SharedPool(Arc<Owned>);

/// What a store has of a shared pool, until it is closed.
pub(super) type Share = Mutex<Option<SharedPool>>;

/// Leads to a pool as long as somebody has a share in it.
#[derive(Default)]
pub(crate) struct WeakPool(Weak<Owned>);

struct Owned {
    pool: Pool,
    /// Where its connections lead, and what they showed to be on the way.
    opened_at: Option<Arc<Address>>,
    lines: Option<Arc<Lines>>,
    /// The name that the server knows the line by.
    instance_name: Option<String>,
}

impl SharedPool {
    /// A pool as a store with these settings would make one. It connects when it is used.
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let store = PostgresStore::new(settings, None, 0)?;
        Ok(Self(Arc::new(Owned {
            lines: store.address.map(|address| Arc::new(Lines::new(address))),
            instance_name: settings.instance_name.clone(),
            pool: store.pool,
            opened_at: store.opened_at,
        })))
    }

    pub(crate) fn downgrade(&self) -> WeakPool {
        WeakPool(Arc::downgrade(&self.0))
    }
}

impl WeakPool {
    pub(crate) fn upgrade(&self) -> Option<SharedPool> {
        self.0.upgrade().map(SharedPool)
    }
}

impl PostgresStore {
    /// A store that writes through a pool of several, made with the same addresses.
    pub(crate) fn sharing(settings: &Settings, pool: SharedPool, instance: u64) -> Result<Self> {
        // As one with a pool of its own, which has connected to nothing, but for the pool.
        let store = Self::new(settings, None, instance)?;
        let together = settings.instance_name == pool.0.instance_name;
        Ok(Self {
            lines: pool.0.lines.clone().filter(|_| together),
            pool: pool.0.pool.clone(),
            own_pool: false,
            opened_at: pool.0.opened_at.clone(),
            share: Mutex::new(Some(pool)),
            ..store
        })
    }

    /// Gives its share back.
    pub(super) fn let_go(&self) {
        let share = self.share.lock();
        let share = share.unwrap_or_else(PoisonError::into_inner).take();
        // The last one closes the pool; the lock is free by then.
        drop(share);
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.pool.close();
    }
}

impl fmt::Debug for SharedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedPool")
    }
}

impl fmt::Debug for WeakPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakPool")
    }
}
