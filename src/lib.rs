//! placeholder

#[cfg(all(feature = "server", unix))]
pub mod local_postgres;

/// The databases behind a store.
pub mod store {
    /// PostgreSQL: the schema and the names it uses.
    pub mod postgres {
        pub mod identifier;
        pub mod migrate;
    }
}
