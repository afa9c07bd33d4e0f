//! What an administrator does to a store: its schema, its epoch.
//!
//! Guarantees what [`super::migrate`] does. It uses the store's own way to connect and to find the table.

use tokio_postgres::types::{ToSql, Type};

use super::identifier::{Names, QualifiedName};
use super::lent::Lent;
use super::migrate::{self, Migrated};
use super::queries::Queries;
use super::{PostgresStore, fault, rows};
use crate::core::Epoch;
use crate::error::{Error, Result};
use crate::settings::Settings;

/// The schema of a script when neither a setting nor a database names one: that of a new database.
const DEFAULT_SCHEMA: &str = "public";

/// A store's table, to be administered.
pub(crate) struct Admin {
    store: PostgresStore,
}

impl Admin {
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let store = PostgresStore::new(settings, None, 0)?;
        Ok(Self { store })
    }

    /// Brings the schema up to date and the notices to the channel of the settings. Answers with the table's name and
    /// what was done.
    pub(crate) async fn migrate(&self) -> Result<(String, Migrated)> {
        let (client, names) = self.connect().await?;
        let channel = &self.store.settings.channel;
        // The transaction of a failed one is rolled back, the connection is as good as before.
        let migrated = migrate::migrate(&client, &names, channel).await;
        let migrated = migrated.map_err(fault::migrate)?;
        let set = migrate::set_channel(&client, &names, channel).await;
        set.map_err(fault::migrate)?;
        Ok((names.table().to_string(), migrated))
    }

    /// Removes everything beside the table. Answers with its name.
    pub(crate) async fn uninstall(&self) -> Result<String> {
        let (client, names) = self.connect().await?;
        let done = migrate::uninstall(&client, &names).await;
        done.map_err(fault::migrate)?;
        Ok(names.table().to_string())
    }

    /// The SQL of a migration, for psql. Only an unnamed schema has to be asked of a database.
    pub(crate) async fn script(settings: &Settings) -> Result<String> {
        let names = if settings.schema.is_none() && settings.database_url.is_some() {
            Self::new(settings)?.connect().await?.1
        } else {
            let schema = settings.schema.as_deref().unwrap_or(DEFAULT_SCHEMA);
            let table = QualifiedName::parse(schema, &settings.table_name);
            Names::new(table.map_err(|error| {
                Error::setting("table_name", &settings.table_name, error.to_string())
            })?)
        };
        migrate::script(&names, &settings.channel)
            .map_err(|error| Error::setting("channel", &settings.channel, error.to_string()))
    }

    /// Begins a new epoch. Answers with the old and the new one.
    pub(crate) async fn new_epoch(&self) -> Result<(Epoch, Epoch)> {
        let what = "beginning a new epoch";
        let (client, names) = self.connect().await?;
        let queries = Queries::new(&names);
        let failed = |error: tokio_postgres::Error| fault::read(what, &error);
        let head = client
            .query_typed(&queries.head, &[(&0i64, Type::INT8)])
            .await
            .map_err(failed)?;
        let old = head.first().and_then(rows::cursor);
        let old = old.ok_or_else(|| rows::strange(what))?.epoch;
        let expected = old.to_string();
        let params: [(&(dyn ToSql + Sync), Type); 1] = [(&expected, Type::TEXT)];
        let new = client
            .query_typed(&queries.new_epoch, &params)
            .await
            .map_err(failed)?;
        let new = new
            .first()
            .and_then(|row| row.try_get::<_, &str>(0).ok()?.parse().ok());
        Ok((old, new.ok_or_else(|| rows::strange(what))?))
    }

    /// The settings of the store.
    pub(super) fn settings(&self) -> &Settings {
        &self.store.settings
    }

    pub(super) async fn connect(&self) -> Result<(Lent, Names)> {
        let client = self.store.client("connecting").await?;
        let names = self.store.names(&client).await?;
        Ok((client, names))
    }
}
