//! A configuration store on PostgreSQL, held in memory by every process that uses it and kept in step by LISTEN/NOTIFY, a
//! journal with dense revisions, and a CRC32 heartbeat.
//!
//! ```no_run
//! use sync_config::prelude::*;
//!
//! # #[tokio::main]
//! # async fn main() -> sync_config::Result<()> {
//! let config = sync_config::connect("postgres://app@localhost/app").await?; // loaded and listening
//! config.set("feature:new_ui", true).await?;                                 // durable when it returns
//! assert!(config.get_bool("feature:new_ui", false));                         // memory, never fails
//! config.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//!
//! - The [`guide`] tells of guarantees, reading, writing, subscribing, testing and operating, with examples that run.
//! - [`SyncConfig`] is the trait to inject as `Arc<dyn SyncConfig>`; [`SyncConfigExt`] adds typed reads, writes and
//!   callbacks to every implementor.
//! - [`connect`] and [`Builder`] start a [`ConfigService`] on PostgreSQL, with [`Settings`], or in memory, with
//!   [`MemoryDatabase`]; with feature `sqlite`, `Builder::sqlite` starts one on a file.
//! - [`Layers`] puts the [`Environment`] over settings made in code and tells the [`Origin`] of each; with feature `toml`
//!   a `SettingsFile` stands between them, and `Services` starts the services it declares, with the pools they share.
//! - [`Batch`] writes many keys all or nothing, each with an optional [`Precondition`]; [`Written`] tells what became of it.
//! - [`Consumer`] reads the journal from a place of its own that the database keeps, across restarts.
//! - [`Filter`] and [`Event`] are what subscribers ask for and are told; [`Snapshot`] is every entry at one revision.
//! - [`SyncConfigExt::live`] gives a handle that is read in nanoseconds, [`LiveGroup`] a struct of them;
//!   [`SyncConfigExt::scoped`] shows the keys under a prefix as a [`SyncConfig`] of its own, [`SyncConfigExt::map`] as a
//!   [`TypedMap`]; [`SyncConfigExt::changes`] is a stream of changes.
//! - [`Status`] tells how fresh an instance is and what it has been through; [`Error`] has predicates that say what to do.
//! - `testing`, with the feature of that name, plays the database in tests of programs that use this library.
//! - [`schema`] is the table's schema, for programs that migrate by themselves.
//!
//! # The modules, from the bottom
//!
//! `core` is pure: a state machine of inputs and actions that decides what enters the table. `store` is the seam to a
//! database, with PostgreSQL, SQLite and memory behind it. `runtime` drives the core, keeps the cache and calls subscribers back.
//! `service` puts them together, and `typed` builds on the trait alone. With feature `server` there is `sync-config serve`,
//! with feature `cli` the command line, with feature `tls` encrypted connections.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod core;
mod error;
pub mod guide;
#[cfg(feature = "cli")]
mod keys;
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
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
mod typed;
#[cfg(feature = "cli")]
mod wire;
mod write;

#[doc(hidden)]
pub use self::core::Scalar;
pub use self::core::{
    Cause, Change, ChangeKind, ChangeSet, Checksum, Cursor, DecodeError, Entry, Epoch, Key,
    KeyError, MAX_DEPTH, MAX_KEY_BYTES, MAX_KEY_CHARS, MAX_VALUE_BYTES, Revision, RevisionId,
    Snapshot, Value, ValueError,
};
pub use self::error::{Error, Result};
#[cfg(feature = "toml")]
pub use self::service::Services;
pub use self::service::{Builder, ConfigService, Consumer, ConsumerPlace, Delivered, connect};
#[cfg(feature = "toml")]
pub use self::settings::SettingsFile;
pub use self::settings::{Environment, Layers, Origin, SPECS, Setting, Settings, Spec};
pub use self::status::{
    Counters, HeartbeatStatus, Mode, SlowConsumer, SlowSubscriber, Stale, StateFileStatus, Status,
};
pub use self::store::consumers::Start;
pub use self::store::memory::MemoryDatabase;
pub use self::store::{Joined, Recorded, RecordedChange};
pub use self::subscription::{Callback, Event, Filter, Follow, SubscriptionId};
pub use self::sync_config::{SyncConfig, SyncConfigExt, Target, WrongType};
pub use self::typed::{
    Changes, Live, LiveGroup, LiveKeys, LiveReader, LiveRef, Rejection, Scoped, TypedEntries,
    TypedMap,
};
pub use self::write::{Batch, Precondition, Written, WrittenKey};

/// The table's schema in PostgreSQL: what `sync-config migrate` does, for programs that do it themselves.
pub mod schema {
    pub use crate::store::postgres::identifier::{
        Identifier, IdentifierError, Names, QualifiedName,
    };
    pub use crate::store::postgres::migrate::{
        Installed, MAJOR, MigrateError, Migrated, installed, migrate, script, set_channel,
        uninstall,
    };
}

/// What most programs need: `use sync_config::prelude::*;`.
pub mod prelude {
    pub use crate::{
        Batch, Builder, ConfigService, Event, Filter, Live, LiveGroup, LiveKeys, Precondition,
        Settings, SyncConfig, SyncConfigExt, TypedMap,
    };
}

/// The crate whose transactions [`ConfigService::write_in_sqlite`] takes, in the version that it takes.
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use rusqlite;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
