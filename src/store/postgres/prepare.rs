//! Finding the table's schema, and migrating it where that is wanted.

use std::time::Duration;

use deadpool_postgres::Object;

use super::identifier::{Names, QualifiedName};
use super::migrate::{self, Installed};
use super::queries::Queries;
use super::{PostgresStore, fault};
use crate::error::{Error, Result};

/// Each wait for a lock is bounded by 30 s; the work is bounded only by this, because adopting a large table takes its time.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(1_800);

const LOOKING: &str = "looking at the schema";

/// Why a schema was not prepared.
enum Unprepared {
    /// The connection is idle again.
    Answered(Error),
    /// Something is still under way on the connection, within a transaction perhaps.
    Late(Error),
}

impl From<Error> for Unprepared {
    fn from(error: Error) -> Self {
        Self::Answered(error)
    }
}

/// What is known once the schema is there.
pub(super) struct Prepared {
    pub(super) queries: Queries,
    pub(super) channel: String,
}

impl PostgresStore {
    pub(super) async fn prepared(&self) -> Result<&Prepared> {
        self.prepared
            .get_or_try_init(|| self.prepare_schema())
            .await
    }

    /// Finds the table's schema, migrates it if that is wanted and needed, and checks that the channel is the one the
    /// database notifies.
    async fn prepare_schema(&self) -> Result<Prepared> {
        let client = self.client("connecting").await?;
        match self.prepare_on(&client).await {
            Ok(prepared) => {
                client.give_back();
                Ok(prepared)
            }
            Err(Unprepared::Answered(error)) => {
                client.give_back();
                Err(error)
            }
            // Closed with the statement that is under way on it, and with the migration's transaction.
            Err(Unprepared::Late(error)) => Err(error),
        }
    }

    async fn prepare_on(&self, client: &Object) -> Result<Prepared, Unprepared> {
        let settings = &self.settings;
        let (names, found) = in_time(settings.request_timeout, LOOKING, async {
            let names = self.names(client).await?;
            let found = migrate::installed(client, &names).await;
            Ok((names, found.map_err(fault::migrate)?))
        })
        .await?;
        let complete = matches!(&found, Installed::Yes { missing, .. } if missing.is_empty());
        let found = if settings.migrate && !complete {
            let migrated = in_time(MIGRATION_TIMEOUT, "migrating the schema", async {
                let migrated = migrate::migrate(client, &names, &settings.channel).await;
                migrated.map_err(fault::migrate)
            })
            .await?;
            report(&names, &migrated);
            in_time(settings.request_timeout, LOOKING, async {
                let found = migrate::installed(client, &names).await;
                found.map_err(fault::migrate)
            })
            .await?
        } else {
            found
        };
        Ok(self.prepared_by(&names, found)?)
    }

    /// What an installed schema gives, if it is this store's.
    fn prepared_by(&self, names: &Names, found: Installed) -> Result<Prepared> {
        let settings = &self.settings;
        match found {
            Installed::No => Err(Error::refused(
                format!("table {}", names.table()),
                "has no sync-config schema; run `sync-config migrate`, or give its SQL (`migrate --print`) to the owner",
            )),
            Installed::Yes { channel, .. } if channel != settings.channel => {
                let table = names.table();
                let problem = format!(
                    "{table} notifies on {channel:?}; use that, or run `sync-config migrate` with the new one"
                );
                Err(Error::setting("channel", &settings.channel, problem))
            }
            Installed::Yes { channel, .. } => Ok(Prepared {
                queries: Queries::new(names),
                channel,
            }),
        }
    }

    pub(super) async fn names(&self, client: &tokio_postgres::Client) -> Result<Names> {
        let schema = match &self.settings.schema {
            Some(schema) => schema.clone(),
            None => {
                let row = client
                    .query_typed("SELECT pg_catalog.current_schema()", &[])
                    .await;
                let row = row.map_err(|error| fault::read("finding the schema", &error))?;
                let schema: Option<String> = row.first().and_then(|row| row.try_get(0).ok()?);
                schema.ok_or_else(|| {
                    Error::setting(
                        "schema",
                        "",
                        "the connection has no schema to create in; name one",
                    )
                })?
            }
        };
        let table = QualifiedName::parse(&schema, &self.settings.table_name);
        Ok(Names::new(table.map_err(|error| {
            Error::setting("table_name", &self.settings.table_name, error.to_string())
        })?))
    }
}

/// Waits for answers until a limit.
async fn in_time<T>(
    limit: Duration,
    what: &str,
    answers: impl Future<Output = Result<T>>,
) -> Result<T, Unprepared> {
    match tokio::time::timeout(limit, answers).await {
        Ok(answered) => Ok(answered?),
        Err(_) => {
            let limit = humantime::format_duration(limit);
            let problem = format!("no answer within {limit}");
            Err(Unprepared::Late(Error::unavailable(what, problem)))
        }
    }
}

fn report(names: &Names, migrated: &migrate::Migrated) {
    tracing::info!(table = %names.table(), applied = ?migrated.applied, adopted = migrated.adopted, "schema migrated");
    if let Some(trigger) = &migrated.replaced_trigger {
        tracing::warn!(table = %names.table(), trigger, "a trigger that notified values was replaced");
    }
    if migrated.out_of_bounds_total > 0 {
        let keys = &migrated.out_of_bounds;
        tracing::warn!(
            rows = migrated.out_of_bounds_total,
            ?keys,
            "rows beyond the bounds were left as they are"
        );
    }
}
