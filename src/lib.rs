//! placeholder
#[cfg(all(feature = "server", unix))]
pub mod local_postgres;
