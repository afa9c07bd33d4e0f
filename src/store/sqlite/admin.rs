//! What an administrator does to a file: its schema, its epoch.
//!
//! Guarantees what [`super::migrate`] does.

use std::path::Path;

use super::bench::Bench;
use super::fault::Outcome;
use super::migrate::{self, APPLICATION_ID, Migrated, PREPARING};
use super::queries::Names;
use super::script;
use super::{Sources, SqliteStore};
use crate::core::Epoch;
use crate::error::Result;
use crate::settings::Settings;

const UNINSTALL: &str = include_str!("../../../sql/sqlite/uninstall.sql");

/// A store's file, to be administered.
pub(crate) struct Admin {
    pub(super) store: SqliteStore,
    table: String,
}

impl Admin {
    pub(crate) fn new(settings: &Settings, path: &Path, sources: Sources) -> Result<Self> {
        let table = settings.table_name.clone();
        let settings = settings.clone().migrate(false);
        let store = SqliteStore::new(&settings, path, 0, sources)?;
        Ok(Self { store, table })
    }

    /// Brings the schema up to date. Answers with the table's name and what was done.
    pub(crate) async fn migrate(&self) -> Result<(String, Migrated)> {
        let prepare = self
            .store
            .turn(PREPARING, |desk, turn| migrate::prepare(desk, turn, true));
        Ok((self.table.clone(), prepare.await?))
    }

    /// Removes everything beside the table. Answers with its name.
    pub(crate) async fn uninstall(&self) -> Result<String> {
        let what = "removing what stands beside the table";
        let removed = self
            .store
            .turn(what, |desk, turn| desk.change(Some(turn), what, remove));
        removed.await?;
        Ok(self.table.clone())
    }

    /// The SQL of a migration, for a `sqlite3` shell.
    pub(crate) fn script(settings: &Settings) -> String {
        script::script(&Names::new(&settings.table_name))
    }

    /// Begins a new epoch. Answers with the old and the new one.
    pub(crate) async fn new_epoch(&self) -> Result<(Epoch, Epoch)> {
        let what = "beginning a new epoch";
        let begin = |bench: &Bench<'_>| {
            let old = bench.cursor()?.epoch;
            let new = Epoch::from_u128(bench.shared.sources.bits());
            bench.run(&bench.queries().new_epoch, [new.to_string()])?;
            Ok((old, new))
        };
        self.store.change(what, begin).await
    }

    /// Closes the file.
    pub(crate) async fn close(&self) {
        use crate::store::Store;
        self.store.close().await;
    }
}

/// Takes the helpers away, and the mark of a file that is nothing but a store.
fn remove(bench: &Bench<'_>) -> Outcome<()> {
    let names = &bench.shared.names;
    let connection = bench.connection();
    connection.execute_batch(&names.render(UNINSTALL))?;
    let others = include_str!("../../../sql/sqlite/others.sql");
    let application: i64 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application == APPLICATION_ID && !bench.holds(others, [names.table()])? {
        connection.pragma_update(None, "application_id", 0)?;
        connection.pragma_update(None, "user_version", 0)?;
    }
    Ok(())
}
