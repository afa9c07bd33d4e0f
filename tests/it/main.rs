//! Integration tests: one crate, so that there is one thing to link and one server to start.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that panics has failed"
)]

#[cfg(feature = "testing")]
mod canonical;
#[cfg(feature = "cli")]
mod cli;
#[cfg(all(feature = "cli", feature = "sqlite"))]
mod cli_copy;
#[cfg(all(feature = "cli", feature = "sqlite"))]
mod cli_doctor;
#[cfg(all(feature = "cli", feature = "sqlite"))]
mod cli_import;
#[cfg(feature = "server")]
mod cli_keys;
#[cfg(all(feature = "server", feature = "remote"))]
mod cli_remote;
#[cfg(all(feature = "server", feature = "sqlite"))]
mod cli_sqlite;
#[cfg(all(feature = "cli", feature = "sqlite"))]
mod cli_watch;
mod consumers;
#[macro_use]
mod contract;
mod bad_input;
mod chaos;
mod convergence;
mod deaf_sessions;
#[cfg(feature = "server")]
mod deploy;
mod documents;
mod experiments;
mod failover;
mod fleet;
mod forged;
mod given_up;
mod ground;
mod heartbeat;
mod layers;
mod lifecycle;
mod listener_faults;
mod log_injection;
mod lost_history;
mod names;
mod pgbouncer;
#[cfg(feature = "server")]
mod relay;
#[cfg(feature = "server")]
mod relay_events;
#[cfg(feature = "server")]
mod relay_foreign;
#[cfg(feature = "server")]
mod relay_herd;
#[cfg(feature = "server")]
mod relay_limits;
#[cfg(feature = "server")]
mod relay_places;
#[cfg(all(feature = "remote", feature = "server"))]
mod remote;
#[cfg(all(feature = "remote", feature = "server"))]
mod remote_chain;
#[cfg(all(feature = "remote", feature = "server"))]
mod remote_faults;
#[cfg(all(feature = "remote", feature = "server"))]
mod remote_hostile;
#[cfg(all(feature = "remote", feature = "server"))]
mod remote_keys;
mod retention;
mod roles;
mod roles_forked;
mod schema;
mod schema_adopt;
mod schema_commit;
mod schema_maintain;
mod schema_reads;
mod schema_roles;
mod schema_store;
mod schema_strangers;
mod schema_write;
mod seed_faults;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "server")]
mod server_batch;
#[cfg(feature = "server")]
mod server_keys;
#[cfg(feature = "server")]
mod server_keys_life;
#[cfg(feature = "server")]
mod server_keys_roles;
#[cfg(feature = "server")]
mod server_life;
#[cfg(feature = "server")]
mod server_limits;
#[cfg(feature = "server")]
mod server_memory;
#[cfg(feature = "server")]
mod server_metrics;
#[cfg(feature = "server")]
mod server_openapi;
#[cfg(feature = "server")]
mod server_pages;
#[cfg(feature = "server")]
mod server_revoked;
#[cfg(feature = "server")]
mod server_tls;
#[cfg(feature = "server")]
mod server_watch;
#[cfg(feature = "cli")]
mod services;
#[cfg(feature = "server")]
mod services_line;
#[cfg(feature = "cli")]
mod settings_files;
#[cfg(feature = "cli")]
mod settings_secrets;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "sqlite")]
mod sqlite_faults;
#[cfg(feature = "sqlite")]
mod sqlite_life;
#[cfg(all(feature = "cli", feature = "sqlite"))]
mod sqlite_shell;
#[cfg(feature = "cli")]
mod state_file;
mod stuck;
mod subscribers;
mod support;
mod support_proxy;
mod support_self;
#[cfg(all(feature = "testing", feature = "cli"))]
mod testing_kit;
#[cfg(feature = "tls")]
mod tls;
mod typed;
mod typed_streams;
mod typed_values;
mod typed_views;
mod write_groups;
mod write_joined;
mod write_outcomes;
mod write_strangers;
