//! Brings the schema beside a table up to date, removes it, and says what is there.
//!
//! Guarantees all or nothing (one transaction), one at a time for each table (an advisory lock, waited for at most
//! 30 s), and that a migration once applied is the one this program carries (its CRC32 is kept). Does not guarantee
//! anything about a future that is dropped midway: close that connection, its transaction is still open.

use std::collections::BTreeMap;

use thiserror::Error;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::identifier::{Identifier, IdentifierError, Names, quote};

/// The major version of schema and notices this program serves. A newer one is refused; a newer migration of the
/// same major is served.
pub const MAJOR: i32 = 1;

/// PostgreSQL 13 brought `xid8`, `pg_current_xact_id` and `gen_random_uuid`.
const MIN_SERVER: i32 = 130_000;

/// The migrations in their order. The text of one that was released never changes.
const MIGRATIONS: [(&str, &str); 11] = [
    (
        "0001_tables",
        include_str!("../../../sql/postgres/migrations/0001_tables.sql"),
    ),
    (
        "0002_journal",
        include_str!("../../../sql/postgres/migrations/0002_journal.sql"),
    ),
    (
        "0003_seal",
        include_str!("../../../sql/postgres/migrations/0003_seal.sql"),
    ),
    (
        "0004_write",
        include_str!("../../../sql/postgres/migrations/0004_write.sql"),
    ),
    (
        "0005_maintenance",
        include_str!("../../../sql/postgres/migrations/0005_maintenance.sql"),
    ),
    (
        "0006_retention",
        include_str!("../../../sql/postgres/migrations/0006_retention.sql"),
    ),
    (
        "0007_groups",
        include_str!("../../../sql/postgres/migrations/0007_groups.sql"),
    ),
    (
        "0008_large_writes",
        include_str!("../../../sql/postgres/migrations/0008_large_writes.sql"),
    ),
    (
        "0009_lean",
        include_str!("../../../sql/postgres/migrations/0009_lean.sql"),
    ),
    (
        "0010_deletes",
        include_str!("../../../sql/postgres/migrations/0010_deletes.sql"),
    ),
    (
        "0011_roles",
        include_str!("../../../sql/postgres/migrations/0011_roles.sql"),
    ),
];

const BEGIN: &str = include_str!("../../../sql/postgres/begin.sql");
const SERVER: &str = include_str!("../../../sql/postgres/server.sql");
const EXISTS: &str = include_str!("../../../sql/postgres/exists.sql");
const STRANGERS: &str = include_str!("../../../sql/postgres/strangers.sql");
const PREFLIGHT: &str = include_str!("../../../sql/postgres/preflight.sql");
const OWNER: &str = include_str!("../../../sql/postgres/owner.sql");
const MIGRATION_TABLE: &str = include_str!("../../../sql/postgres/migration_table.sql");
const APPLIED: &str = include_str!("../../../sql/postgres/applied.sql");
const INSTALLED: &str = include_str!("../../../sql/postgres/installed.sql");
const CHANNEL: &str = include_str!("../../../sql/postgres/channel.sql");
const GRANTS: &str = include_str!("../../../sql/postgres/grants.sql");
const SEED_TRIGGER: &str = include_str!("../../../sql/postgres/seed_trigger.sql");
const OUT_OF_BOUNDS: &str = include_str!("../../../sql/postgres/out_of_bounds.sql");
const UNINSTALL: &str = include_str!("../../../sql/postgres/uninstall.sql");

/// What a migration did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Migrated {
    /// The migrations applied now, in order; empty when the schema was up to date.
    pub applied: Vec<String>,
    /// Whether the table was there before the first migration.
    pub adopted: bool,
    /// Somebody else's trigger that sent values in its notifications and was dropped.
    pub replaced_trigger: Option<String>,
    /// Keys of rows beyond the bounds of key or value, at most 100. They are served, but no update may touch them
    /// until they fit.
    pub out_of_bounds: Vec<String>,
    /// How many rows are beyond the bounds.
    pub out_of_bounds_total: u64,
}

/// What is beside a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installed {
    /// The table is missing or plain.
    No,
    /// The table is a store.
    Yes {
        /// The major version of its schema; at most [`MAJOR`].
        major: i32,
        /// The channel its notices go to.
        channel: String,
        /// The applied migrations this program knows, in order.
        applied: Vec<String>,
        /// The migrations this program has and the store lacks.
        missing: Vec<String>,
        /// The applied migrations this program does not know: a newer minor version, served all the same.
        newer: Vec<String>,
    },
}

/// Why a schema could not be changed or is not served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The server lacks what the schema needs.
    #[error("PostgreSQL {version} is too old: the store needs PostgreSQL 13 or newer")]
    ServerTooOld {
        /// The server's version.
        version: String,
    },
    /// The table, or the place for it, cannot be served as it is.
    #[error("the table {table} cannot be used: {}", reasons.join("; "))]
    Refused {
        /// The table, quoted.
        table: String,
        /// Each reason with what to do about it.
        reasons: Vec<String>,
    },
    /// The role lacks the rights of an owner.
    #[error(
        "the role {role} may not change {object}: run `sync-config migrate --print` and hand the SQL to {owner}"
    )]
    NotOwner {
        /// The present role, quoted.
        role: String,
        /// The table or schema.
        object: String,
        /// Who can.
        owner: String,
    },
    /// The store was made by a newer major version.
    #[error(
        "the store {table} has schema version {found}, this program serves up to {MAJOR}: use a newer program"
    )]
    NewerMajor {
        /// The table, quoted.
        table: String,
        /// Its major version.
        found: i32,
    },
    /// An applied migration differs from the one this program carries.
    #[error(
        "migration {name} of {table} was applied with another text: use the program that applied it, or uninstall"
    )]
    ChangedMigration {
        /// The table, quoted.
        table: String,
        /// The migration.
        name: String,
    },
    /// Another migration, or a long transaction, held the table for 30 s.
    #[error(
        "{table} was locked for 30 s by another migration or a long transaction; nothing was changed, try again"
    )]
    Locked {
        /// The table, quoted.
        table: String,
    },
    /// The channel's name is unusable.
    #[error("the channel cannot be used: {0}")]
    Channel(#[from] IdentifierError),
    /// The database answered with an error; nothing was changed.
    #[error("the database refused a migration step; nothing was changed")]
    Database(#[from] tokio_postgres::Error),
}

/// Creates or adopts the table and brings what stands beside it up to date. Running it again changes nothing.
///
/// The notices of a new store go to `channel`; those of an installed one go where they went, because an instance that
/// upgrades it with another setting must not turn them away from all others.
///
/// The session must not be in a transaction.
///
/// # Errors
///
/// See [`MigrateError`]. On every one the transaction is rolled back.
pub async fn migrate(
    client: &Client,
    names: &Names,
    channel: &str,
) -> Result<Migrated, MigrateError> {
    let names = &names.with_channel(Identifier::parse(channel)?);
    refuse_old_server(client).await?;
    in_transaction(client, names, async |client| apply(client, names).await).await
}

/// Sends the notices of an installed store to another channel: what an administrator asks for, never an instance.
///
/// # Errors
///
/// See [`MigrateError`].
pub async fn set_channel(
    client: &Client,
    names: &Names,
    channel: &str,
) -> Result<(), MigrateError> {
    let names = &names.with_channel(Identifier::parse(channel)?);
    in_transaction(client, names, async |client| {
        match installed(client, names).await? {
            Installed::Yes { channel: found, .. } if found != channel => {}
            Installed::Yes { .. } | Installed::No => return Ok(()),
        }
        Place::look(client, names).await?.require_owner(names)?;
        client.batch_execute(&names.render(OWNER)).await?;
        client.batch_execute(&names.render(CHANNEL)).await?;
        Ok(())
    })
    .await
}

/// Renders what [`migrate`] would run, and the change of the channel, for psql, by whoever owns the table.
///
/// # Errors
///
/// When the channel's name is unusable.
pub fn script(names: &Names, channel: &str) -> Result<String, IdentifierError> {
    let names = names.with_channel(Identifier::parse(channel)?);
    let mut text = String::from("\\set ON_ERROR_STOP on\n");
    text.push_str(&names.render(BEGIN));
    for refusals in [STRANGERS, PREFLIGHT] {
        text.push_str(&names.render(&format!(
            "DO {{body}}\nDECLARE\n    found_reason text;\nBEGIN\n    FOR found_reason IN\n{refusals}    LOOP\n        \
             RAISE EXCEPTION 'the table cannot be used: %', found_reason;\n    END LOOP;\nEND\n{{body}};\n"
        )));
    }
    text.push_str(&names.render(OWNER));
    text.push_str(&names.render(MIGRATION_TABLE));
    for (name, sql) in MIGRATIONS {
        text.push('\n');
        text.push_str(&names.render(sql));
        text.push_str(&names.render(&record(name, sql)));
    }
    text.push_str(&names.render(CHANNEL));
    text.push_str(&names.render(&format!(
        "DO {{body}}\nDECLARE\n    found_name text;\nBEGIN\n    FOR found_name IN\n{SEED_TRIGGER}    LOOP\n        \
         EXECUTE 'DROP TRIGGER ' || pg_catalog.quote_ident(found_name) || {{text}} ON {{table}}{{text}};\n    \
         END LOOP;\nEND\n{{body}};\n"
    )));
    text.push_str(&names.render(GRANTS));
    text.push_str("COMMIT;\n");
    Ok(text)
}

/// Removes everything that stands beside the table and leaves the plain table with its rows.
///
/// # Errors
///
/// When the role is not the owner, the table is locked for 30 s, or the database refuses. Nothing is changed then.
pub async fn uninstall(client: &Client, names: &Names) -> Result<(), MigrateError> {
    in_transaction(client, names, async |client| {
        if !exists(client, names).await?.table {
            return Ok(());
        }
        let place = Place::look(client, names).await?;
        place.require_owner(names)?;
        client
            .batch_execute(&names.render(UNINSTALL))
            .await
            .map_err(|error| database(error, names))
    })
    .await
}

/// Says what stands beside the table. A newer set of migrations of the same major is served.
///
/// # Errors
///
/// [`MigrateError::Refused`] when something under a helper's name is not the owner's, [`MigrateError::NewerMajor`],
/// [`MigrateError::ChangedMigration`], or what the database says.
pub async fn installed(client: &Client, names: &Names) -> Result<Installed, MigrateError> {
    refuse(names, reasons(client, &names.render(STRANGERS)).await?)?;
    if !exists(client, names).await?.helpers {
        return Ok(Installed::No);
    }
    let meta = one(client, &names.render(INSTALLED)).await?;
    let major: i32 = meta.try_get("major")?;
    if major > MAJOR {
        return Err(MigrateError::NewerMajor {
            table: names.table().to_string(),
            found: major,
        });
    }
    let recorded = recorded(client, names).await?;
    let known = |name: &String| MIGRATIONS.iter().any(|(known, _)| known == name);
    let (applied, newer) = recorded.keys().cloned().partition(known);
    let missing = MIGRATIONS
        .iter()
        .filter(|(name, _)| !recorded.contains_key(*name));
    Ok(Installed::Yes {
        major,
        channel: meta.try_get("channel")?,
        applied,
        missing: missing.map(|(name, _)| (*name).to_owned()).collect(),
        newer,
    })
}

async fn apply(client: &Client, names: &Names) -> Result<Migrated, MigrateError> {
    let found = exists(client, names).await?;
    let missing: Vec<_> = match (found.helpers, installed(client, names).await?) {
        (true, Installed::Yes { missing, .. }) => missing,
        (true | false, Installed::No | Installed::Yes { .. }) => MIGRATIONS
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect(),
    };
    let place = Place::look(client, names).await?;
    if let Err(refused) = place.require_owner(names) {
        // There is nothing to do: an instance without the owner's rights may start.
        return if missing.is_empty() {
            Ok(Migrated::default())
        } else {
            Err(refused)
        };
    }
    refuse_unfit(client, names, &place).await?;
    client.batch_execute(&names.render(OWNER)).await?;
    client.batch_execute(&names.render(MIGRATION_TABLE)).await?;
    for (name, sql) in MIGRATIONS
        .iter()
        .filter(|(name, _)| missing.iter().any(|missing| missing == name))
    {
        client.batch_execute(&names.render(sql)).await?;
        client
            .batch_execute(&names.render(&record(name, sql)))
            .await?;
    }
    let replaced_trigger = drop_seed_triggers(client, names).await?;
    client.batch_execute(&names.render(GRANTS)).await?;
    let (out_of_bounds, out_of_bounds_total) = if missing.is_empty() {
        (Vec::new(), 0)
    } else {
        out_of_bounds(client, names).await?
    };
    let adopted = found.table && !found.helpers;
    Ok(Migrated {
        applied: missing,
        adopted,
        replaced_trigger,
        out_of_bounds,
        out_of_bounds_total,
    })
}

/// Runs `work` under the table's advisory lock and commits, or rolls everything back.
async fn in_transaction<T>(
    client: &Client,
    names: &Names,
    work: impl AsyncFnOnce(&Client) -> Result<T, MigrateError>,
) -> Result<T, MigrateError> {
    let worked = match client.batch_execute(&names.render(BEGIN)).await {
        Ok(()) => work(client).await,
        Err(error) => Err(error.into()),
    };
    let done = match worked {
        Ok(value) => client
            .batch_execute("COMMIT")
            .await
            .map(|()| value)
            .map_err(MigrateError::from),
        Err(error) => {
            // The first error says why; a connection that cannot roll back is gone, and its transaction with it.
            drop(client.batch_execute("ROLLBACK").await);
            Err(error)
        }
    };
    done.map_err(|error| match error {
        MigrateError::Database(error) => database(error, names),
        other => other,
    })
}

fn database(error: tokio_postgres::Error, names: &Names) -> MigrateError {
    if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
        return MigrateError::Locked {
            table: names.table().to_string(),
        };
    }
    MigrateError::Database(error)
}

async fn refuse_old_server(client: &Client) -> Result<(), MigrateError> {
    let row = one(
        client,
        "SELECT current_setting('server_version'), current_setting('server_version_num')::int4",
    )
    .await?;
    let version: String = row.try_get(0)?;
    let number: i32 = row.try_get(1)?;
    check_server(&version, number)
}

fn check_server(version: &str, number: i32) -> Result<(), MigrateError> {
    if number < MIN_SERVER {
        return Err(MigrateError::ServerTooOld {
            version: version.to_owned(),
        });
    }
    Ok(())
}

/// Who may do what to the table and its schema.
struct Place {
    role: String,
    schema_exists: bool,
    may_create: bool,
    owner: Option<String>,
    may_own: bool,
    owner_may_create: bool,
}

impl Place {
    async fn look(client: &Client, names: &Names) -> Result<Self, MigrateError> {
        let row = one(client, &names.render(SERVER)).await?;
        Ok(Self {
            role: row.try_get("role")?,
            schema_exists: row.try_get("schema_exists")?,
            may_create: row.try_get("may_create")?,
            owner: row.try_get("owner")?,
            may_own: row.try_get("may_own")?,
            owner_may_create: row.try_get("owner_may_create")?,
        })
    }

    fn require_owner(&self, names: &Names) -> Result<(), MigrateError> {
        let role = quote(&self.role);
        match &self.owner {
            Some(owner) if !self.may_own => Err(MigrateError::NotOwner {
                role,
                object: format!("the table {}", names.table()),
                owner: format!("its owner {}", quote(owner)),
            }),
            None if self.schema_exists && !self.may_create => Err(MigrateError::NotOwner {
                role,
                object: format!("the schema {}", quote(names.table().schema.as_str())),
                owner: "a role that may create tables in it".to_owned(),
            }),
            Some(_) | None => Ok(()),
        }
    }
}

async fn refuse_unfit(client: &Client, names: &Names, place: &Place) -> Result<(), MigrateError> {
    let mut found = Vec::new();
    let schema = quote(names.table().schema.as_str());
    if !place.schema_exists {
        found.push(format!(
            "its schema does not exist; run CREATE SCHEMA {schema}"
        ));
    }
    if let Some(owner) = place.owner.as_ref().filter(|_| !place.owner_may_create) {
        found.push(format!(
            "its owner may not create tables beside it; run GRANT CREATE ON SCHEMA {schema} TO {}",
            quote(owner)
        ));
    }
    found.extend(reasons(client, &names.render(PREFLIGHT)).await?);
    refuse(names, found)
}

/// The reasons against a table, as a statement lists them.
async fn reasons(client: &Client, sql: &str) -> Result<Vec<String>, MigrateError> {
    let rows = query(client, sql).await?;
    Ok(rows
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?)
}

fn refuse(names: &Names, reasons: Vec<String>) -> Result<(), MigrateError> {
    if reasons.is_empty() {
        return Ok(());
    }
    Err(MigrateError::Refused {
        table: names.table().to_string(),
        reasons,
    })
}

async fn drop_seed_triggers(
    client: &Client,
    names: &Names,
) -> Result<Option<String>, MigrateError> {
    let mut dropped = Vec::new();
    for row in query(client, &names.render(SEED_TRIGGER)).await? {
        let name: String = row.try_get("name")?;
        client
            .batch_execute(&format!(
                "DROP TRIGGER {} ON {}",
                quote(&name),
                names.table()
            ))
            .await?;
        dropped.push(name);
    }
    Ok((!dropped.is_empty()).then(|| dropped.join(", ")))
}

async fn out_of_bounds(client: &Client, names: &Names) -> Result<(Vec<String>, u64), MigrateError> {
    let rows = query(client, &names.render(OUT_OF_BOUNDS)).await?;
    let total: i64 = rows.first().map_or(Ok(0), |row| row.try_get("total"))?;
    let keys = rows
        .iter()
        .map(|row| row.try_get("key"))
        .collect::<Result<_, _>>()?;
    Ok((keys, total.unsigned_abs()))
}

struct Found {
    table: bool,
    helpers: bool,
}

async fn exists(client: &Client, names: &Names) -> Result<Found, MigrateError> {
    let row = one(client, &names.render(EXISTS)).await?;
    Ok(Found {
        table: row.try_get("has_table")?,
        helpers: row.try_get("has_helpers")?,
    })
}

/// The recorded migrations by name, after comparing those we know with ours.
async fn recorded(client: &Client, names: &Names) -> Result<BTreeMap<String, i64>, MigrateError> {
    let mut recorded = BTreeMap::new();
    for row in query(client, &names.render(APPLIED)).await? {
        recorded.insert(
            row.try_get::<_, String>("name")?,
            row.try_get::<_, i64>("checksum")?,
        );
    }
    for (name, sql) in MIGRATIONS {
        if recorded
            .get(name)
            .is_some_and(|found| *found != checksum(sql))
        {
            return Err(MigrateError::ChangedMigration {
                table: names.table().to_string(),
                name: name.to_owned(),
            });
        }
    }
    Ok(recorded)
}

fn checksum(sql: &str) -> i64 {
    i64::from(crc32fast::hash(sql.as_bytes()))
}

fn record(name: &str, sql: &str) -> String {
    let checksum = checksum(sql);
    format!(
        "INSERT INTO {{migration}} (name, checksum) VALUES ('{name}', {checksum}) ON CONFLICT (name) DO NOTHING;\n"
    )
}

/// Runs a query that is parsed, run and forgotten: a named statement may meet another session behind a pooler.
async fn query(client: &Client, sql: &str) -> Result<Vec<Row>, tokio_postgres::Error> {
    let none: &[(&(dyn ToSql + Sync), Type)] = &[];
    client.query_typed(sql, none).await
}

async fn one(client: &Client, sql: &str) -> Result<Row, MigrateError> {
    let none: &[(&(dyn ToSql + Sync), Type)] = &[];
    Ok(client.query_typed_one(sql, none).await?)
}

#[cfg(test)]
mod tests {
    use super::super::identifier::QualifiedName;
    use super::*;

    #[test]
    fn a_server_before_13_is_refused_by_its_version() {
        assert!(check_server("13.0", 130_000).is_ok());
        let error = check_server("12.22", 120_022).unwrap_err().to_string();
        assert!(error.contains("12.22") && error.contains("13"), "{error}");
    }

    #[test]
    fn a_script_leaves_no_placeholder() {
        let names = Names::new(QualifiedName::parse("public", "sync_config").unwrap());
        let script = script(&names, "config_changes").unwrap();
        for line in script.lines() {
            let left = line.match_indices('{').find(|(at, _)| {
                let word: String = line
                    .chars()
                    .skip(at + 1)
                    .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                    .collect();
                !word.is_empty()
                    && line
                        .get(at + 1 + word.len()..)
                        .is_some_and(|rest| rest.starts_with('}'))
                    && word != "jsonb"
            });
            assert_eq!(left, None, "{line}");
        }
    }
}
