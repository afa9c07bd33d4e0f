//! A configuration store on PostgreSQL, held in memory by every process that uses it.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod core;
mod error;
#[cfg(all(feature = "server", unix))]
mod local_postgres;
mod runtime;
#[cfg(feature = "server")]
mod server;
mod service;
mod settings;
mod status;
mod store;
mod subscription;
mod sync_config;
#[cfg(feature = "cli")]
mod wire;
mod write;

pub use self::core::{
    Cause, Change, ChangeKind, ChangeSet, Checksum, Cursor, DecodeError, Entry, Epoch, Key,
    KeyError, MAX_DEPTH, MAX_KEY_BYTES, MAX_KEY_CHARS, MAX_VALUE_BYTES, Revision, RevisionId,
    Snapshot, Value, ValueError,
};
pub use self::error::{Error, Result};
pub use self::service::{Builder, ConfigService, connect};
pub use self::settings::{SPECS, Settings, Spec};
pub use self::status::{Counters, HeartbeatStatus, Mode, Status};
pub use self::store::memory::MemoryDatabase;
pub use self::subscription::{Callback, Event, Filter, SubscriptionId};
pub use self::sync_config::{SyncConfig, SyncConfigExt, Target};
pub use self::write::{Batch, Precondition, Written, WrittenKey};

/// The table's schema in PostgreSQL: what `sync-config migrate` does, for programs that do it themselves.
pub mod schema {
    pub use crate::store::postgres::identifier::{
        Identifier, IdentifierError, Names, QualifiedName,
    };
    pub use crate::store::postgres::migrate::{
        Installed, MAJOR, MigrateError, Migrated, installed, migrate, script, uninstall,
    };
}

/// What most programs need: `use sync_config::prelude::*;`.
pub mod prelude {
    pub use crate::{
        Batch, Builder, ConfigService, Event, Filter, Precondition, Settings, SyncConfig,
        SyncConfigExt, connect,
    };
}
