//! The schema: made at the first start, added to by later ones, never beyond what this program knows.
//!
//! Guarantees: all of it in one transaction; a schema of a newer major version, a migration that was recorded with another
//! text and somebody else's table under a helper's name are refused, and the file is left as it is. An application's own
//! file keeps its `application_id` and `user_version`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::params;

use super::bench::{Bench, bytes};
use super::desk::Desk;
use super::fault::{self, Outcome};
use super::queries::{MIGRATION, Names, TABLES, TRIGGERS};
use super::turn::Turn;
use super::worker::lock;
use crate::core::{Epoch, RevisionId};
use crate::error::{Error, Result};

/// The version of the schema that old and new instances share.
pub(super) const MAJOR: i64 = 1;

/// What a file says that is nothing but a store: `scfg`.
pub(super) const APPLICATION_ID: i64 = 0x7363_6667;

pub(super) const PREPARING: &str = "preparing the SQLite file";

pub(super) const MIGRATIONS: [(&str, &str); 2] = [
    (
        "0001_tables",
        include_str!("../../../sql/sqlite/migrations/0001_tables.sql"),
    ),
    ("0002_journal", JOURNAL),
];

const JOURNAL: &str = include_str!("../../../sql/sqlite/migrations/0002_journal.sql");

/// What was done to the schema.
#[derive(Debug, Default)]
#[cfg_attr(
    not(feature = "cli"),
    expect(dead_code, reason = "the command line tells of it")
)]
pub(crate) struct Migrated {
    /// Whether the table was there before.
    pub(crate) adopted: bool,
    /// The migrations that were run.
    pub(crate) applied: Vec<&'static str>,
    /// Triggers that somebody had dropped.
    pub(crate) restored: Vec<String>,
    /// Some of the rows that can have no revision, and why.
    pub(crate) hidden: Vec<(String, String)>,
}

/// What a look at the schema found.
#[derive(Default)]
struct Found {
    /// A table is there that can be adopted.
    adoptable: bool,
    /// Nothing at all is in the file.
    empty: bool,
    /// Migrations that are still to be run.
    due: Vec<(&'static str, &'static str)>,
    /// Triggers that somebody dropped.
    dropped: Vec<String>,
    /// Whether others have written what has no revision yet.
    waits: bool,
}

/// Makes sure of the schema of the file that has the name now, if nobody has yet.
pub(super) fn make_sure(desk: &mut Desk, turn: &Arc<Turn>, may_migrate: bool) -> Result<()> {
    if desk.shared.is_examined() {
        return Ok(());
    }
    prepare(desk, turn, may_migrate).map(drop)
}

/// Makes sure of the schema, and that what others wrote meanwhile has its revision.
pub(super) fn prepare(desk: &mut Desk, turn: &Arc<Turn>, may_migrate: bool) -> Result<Migrated> {
    desk.examines = true;
    let prepared = prepared(desk, turn, may_migrate);
    desk.examines = false;
    prepared
}

fn prepared(desk: &mut Desk, turn: &Arc<Turn>, may_migrate: bool) -> Result<Migrated> {
    let mut migrated = Migrated::default();
    // Later on one that is missing or empty is being put back by somebody, who would lose it to a new one.
    let is_first = lock(&desk.shared.examined).is_none();
    let may_create = may_migrate && is_first;
    desk.shared.may_create.store(may_create, Ordering::Release);
    let mut found = desk.read(PREPARING, look)?;
    let file = desk.file();
    if !found.due.is_empty() {
        if !may_migrate || (found.empty && !is_first) {
            return Err(older());
        }
        // Another process may have been faster.
        (found, migrated) = desk.change(Some(turn), PREPARING, |bench| {
            let found = look(bench)?;
            migrate(bench, &found)?;
            let migrated = Migrated {
                adopted: found.adoptable,
                applied: found.due.iter().map(|(name, _)| *name).collect(),
                ..Migrated::default()
            };
            Ok((look(bench)?, migrated))
        })?;
    }
    desk.shared.may_create.store(false, Ordering::Release);
    if !found.dropped.is_empty() {
        let triggers = found.dropped.join(", ");
        tracing::warn!(
            triggers,
            "triggers of the table were dropped and are made again; the next audit finds what was written meanwhile"
        );
        desk.change(None, PREPARING, |bench| batch(bench, JOURNAL))?;
    }
    if found.waits {
        let sealed = desk.change(None, PREPARING, |bench| bench.seal_pending());
        match sealed {
            Err(error) if error.is_denied() || error.is_unavailable() => {
                tracing::warn!(%error, "what others wrote to the file has no revision yet, and is not shown");
            }
            sealed => drop(sealed?),
        }
    }
    migrated.restored = found.dropped;
    migrated.hidden = desk.read(PREPARING, hidden)?;
    if desk.file() != file {
        return Err(Error::unavailable(PREPARING, fault::REPLACED));
    }
    *lock(&desk.shared.examined) = file;
    Ok(migrated)
}

/// What would be done to the schema, but for migrations, which are refused. Nothing is changed.
#[cfg(feature = "cli")]
pub(super) fn examine(desk: &mut Desk) -> Result<Migrated> {
    let found = desk.read(PREPARING, look)?;
    if !found.due.is_empty() {
        return Err(older());
    }
    Ok(Migrated {
        restored: found.dropped,
        hidden: desk.read(PREPARING, hidden)?,
        ..Migrated::default()
    })
}

/// Some of the rows that can have no revision.
fn hidden(bench: &Bench<'_>) -> Outcome<Vec<(String, String)>> {
    let names = &bench.shared.names;
    let sql = names.render(include_str!("../../../sql/sqlite/hidden.sql"));
    let mut statement = bench.statement(&sql)?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let lossy = |at| {
            let text = bytes(row, at)?.unwrap_or_default();
            Outcome::Ok(String::from_utf8_lossy(text).into_owned())
        };
        found.push((lossy(0)?, lossy(1)?));
    }
    Ok(found)
}

fn look(bench: &Bench<'_>) -> Outcome<Found> {
    let names = &bench.shared.names;
    let pragma = |name: &str| {
        let value = bench
            .connection()
            .pragma_query_value(None, name, |row| row.get(0));
        Outcome::<i64>::Ok(value?)
    };
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    if application == APPLICATION_ID && version > MAJOR {
        return Err(newer(version).into());
    }
    let objects = objects(bench)?;
    let is_there = |helper: &&&str| objects.contains(&names.helper(helper));
    let applied = match objects.contains(&names.helper(MIGRATION)) {
        true => applied(bench)?,
        false => BTreeMap::new(),
    };
    let due = MIGRATIONS
        .iter()
        .filter(|(name, _)| !applied.contains_key(*name));
    let mut found = Found {
        empty: objects.is_empty() && application == 0 && version == 0,
        due: due.copied().collect(),
        ..Found::default()
    };
    if !applied.contains_key("0001_tables") {
        if let Some(taken) = TABLES.iter().find(|helper| is_there(helper)) {
            let problem = format!(
                "{:?} is somebody else's; choose another table_name",
                names.helper(taken)
            );
            return Err(Error::refused(PREPARING, problem).into());
        }
        if objects.contains(names.table()) {
            adoptable(bench, names)?;
            found.adoptable = true;
        }
        return Ok(found);
    }
    if let Some(missing) = TABLES.iter().find(|helper| !is_there(helper)) {
        let problem = format!(
            "{:?} is missing; restore the file from a backup",
            names.helper(missing)
        );
        return Err(Error::refused(PREPARING, problem).into());
    }
    if !objects.contains(names.table()) {
        let problem = format!(
            "the table {:?} is missing; restore the file from a backup",
            names.table()
        );
        return Err(Error::refused(PREPARING, problem).into());
    }
    sound(bench, names)?;
    if applied.contains_key("0002_journal") {
        let dropped = TRIGGERS.iter().filter(|helper| !is_there(helper));
        found.dropped = dropped.map(|helper| names.helper(helper)).collect();
    }
    found.waits = bench.holds(&bench.queries().waits, [])?;
    Ok(found)
}

/// The names of everything in the file.
fn objects(bench: &Bench<'_>) -> Outcome<BTreeSet<String>> {
    let mut statement = bench.statement(include_str!("../../../sql/sqlite/objects.sql"))?;
    let names = statement.query_map([], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

/// The migrations that were run, if their texts are the same.
fn applied(bench: &Bench<'_>) -> Outcome<BTreeMap<String, i64>> {
    let sql = bench
        .shared
        .names
        .render(include_str!("../../../sql/sqlite/applied.sql"));
    let mut statement = bench.statement(&sql)?;
    let mut rows = statement.query([])?;
    let mut applied = BTreeMap::new();
    while let Some(row) = rows.next()? {
        applied.insert(row.get::<_, String>(0)?, row.get::<_, i64>(1)?);
    }
    for (name, text) in MIGRATIONS {
        if applied
            .get(name)
            .is_some_and(|found| *found != checksum(text))
        {
            let problem = format!(
                "migration {name} was recorded with another text; is this a build of another branch?"
            );
            return Err(Error::refused(PREPARING, problem).into());
        }
    }
    Ok(applied)
}

/// Whether the store is of a version that this program knows, and of one piece.
fn sound(bench: &Bench<'_>, names: &Names) -> Outcome<()> {
    let major = names.render(include_str!("../../../sql/sqlite/major.sql"));
    let major: Option<i64> = bench.first(&major, [], |row| row.get(0))?.flatten();
    if let Some(major) = major
        && major > MAJOR
    {
        return Err(newer(major).into());
    }
    let whole = names.render(include_str!("../../../sql/sqlite/whole.sql"));
    if !bench.holds(&whole, [])? {
        let problem = "head and journal contradict each other; restore the file from a backup";
        return Err(Error::refused(PREPARING, problem).into());
    }
    Ok(())
}

fn adoptable(bench: &Bench<'_>, names: &Names) -> Outcome<()> {
    let sql = include_str!("../../../sql/sqlite/adoptable.sql");
    if bench.holds(sql, [names.table()])? {
        return Ok(());
    }
    let problem = format!(
        "{:?} is there already and cannot be adopted; it takes a table with the columns key, value and updated_at, a unique key that is compared by its bytes, and no other column that must be given a value",
        names.table()
    );
    Err(Error::refused(PREPARING, problem).into())
}

fn migrate(bench: &Bench<'_>, found: &Found) -> Outcome<()> {
    let (names, sources) = (&bench.shared.names, &bench.shared.sources);
    batch(
        bench,
        include_str!("../../../sql/sqlite/migration_table.sql"),
    )?;
    let record = names.render(include_str!("../../../sql/sqlite/record.sql"));
    for (name, text) in &found.due {
        batch(bench, text)?;
        bench.run(&record, params![name, checksum(text)])?;
        if *name == "0001_tables" {
            let head = names.render(include_str!("../../../sql/sqlite/seed_head.sql"));
            let epoch = Epoch::from_u128(sources.bits());
            let first = RevisionId::from_u128(sources.bits());
            bench.run(&head, params![epoch.to_string(), first.to_string()])?;
            let meta = names.render(include_str!("../../../sql/sqlite/seed_meta.sql"));
            bench.run(&meta, [MAJOR])?;
        }
        tracing::info!(
            migration = name,
            table = names.table(),
            "the schema was migrated"
        );
    }
    if found.empty {
        bench
            .connection()
            .pragma_update(None, "application_id", APPLICATION_ID)?;
        bench
            .connection()
            .pragma_update(None, "user_version", MAJOR)?;
    }
    Ok(())
}

fn batch(bench: &Bench<'_>, sql: &str) -> Outcome<()> {
    let sql = bench.shared.names.render(sql);
    Ok(bench.connection().execute_batch(&sql)?)
}

fn older() -> Error {
    let problem = "the schema is missing or older; start once with the setting migrate = true";
    Error::refused(PREPARING, problem)
}

fn newer(major: i64) -> Error {
    let problem = format!(
        "the schema's version is {major}, and this program knows {MAJOR}; take a newer program"
    );
    Error::refused(PREPARING, problem)
}

pub(super) fn checksum(sql: &str) -> i64 {
    i64::from(crc32fast::hash(sql.as_bytes()))
}
