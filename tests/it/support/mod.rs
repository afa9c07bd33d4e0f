//! What the integration tests stand on: a real PostgreSQL, faults between it and its clients, and
//! waiting for events.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "support code fails its test by panicking, and a test uses a part of it"
)]

pub(crate) mod deaf;
#[cfg(all(feature = "remote", feature = "server"))]
pub(crate) mod fake;
pub(crate) mod fetch;
#[cfg(feature = "server")]
pub(crate) mod foreign;
#[cfg(feature = "cli")]
pub(crate) mod http;
#[cfg(feature = "cli")]
pub(crate) mod keys;
#[path = "../../../src/local_postgres.rs"]
pub(crate) mod local_postgres;
pub(crate) mod pgbouncer;
pub(crate) mod postgres;
#[cfg(feature = "cli")]
pub(crate) mod program;
pub(crate) mod proxy;
#[cfg(all(feature = "remote", feature = "server"))]
pub(crate) mod remote;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;
#[cfg(feature = "tls")]
pub(crate) mod tls;
pub(crate) mod wait;
#[cfg(feature = "server")]
pub(crate) mod websocket;
