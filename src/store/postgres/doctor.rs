//! An examination of a database: what a fleet needs of it, and what people forget.

use std::time::{Duration, SystemTime};

use tokio_postgres::Row;

use super::admin::Admin;
use super::fault;
use super::identifier::Names;
use super::lent::Lent;
use super::migrate::{Installed, installed};
use crate::error::{Error, Result};
use crate::settings::Settings;
use crate::store::finding::Finding;
use crate::store::sources::micros;

const SERVER: &str = include_str!("../../../sql/postgres/doctor/server.sql");
const TRIGGERS: &str = include_str!("../../../sql/postgres/doctor/triggers.sql");
const PRIVILEGES: &str = include_str!("../../../sql/postgres/doctor/privileges.sql");
const TABLES: &str = include_str!("../../../sql/postgres/doctor/tables.sql");
const JOURNAL: &str = include_str!("../../../sql/postgres/doctor/journal.sql");

const WHAT: &str = "examining the database";

/// Clocks that differ by more make times in the journal hard to compare; nothing else depends on them.
const CLOCKS: Duration = Duration::from_secs(1);

/// Notices of all databases of the server wait in one queue of 8 GiB; from half of it on heartbeats are left out.
const QUEUE: (f64, f64) = (0.1, 0.5);

/// The oldest server that has what the schema needs.
const OLDEST: i32 = 130_000;

/// Dead rows that are worth a word, if they are more than the living ones.
const DEAD_ROWS: i64 = 10_000;

impl Admin {
    /// Examines the database and the store in it. Nothing is changed.
    pub(crate) async fn examine(&self, wall: impl Fn() -> SystemTime) -> Result<Vec<Finding>> {
        let (client, names) = self.connect().await?;
        let mut found = Vec::new();
        let before = wall();
        let server = one(&client, SERVER).await?;
        server_findings(&server, (before, wall()), &mut found)?;
        match installed(&client, &names).await {
            Ok(Installed::Yes { missing, newer, .. }) => {
                found.push(schema(&names, &missing, &newer));
                store_findings(&client, &names, self.settings(), &mut found).await?;
            }
            Ok(Installed::No) => found.push(Finding::fail(
                "schema",
                format!("{} is no store yet", names.table()),
                "run `sync-config migrate`, or start an instance whose role may create tables",
            )),
            Err(error) => found.push(Finding::fail(
                "schema",
                fault::migrate(error).to_string(),
                "let `sync-config migrate` say more",
            )),
        }
        Ok(found)
    }
}

async fn store_findings(
    client: &Lent,
    names: &Names,
    settings: &Settings,
    found: &mut Vec<Finding>,
) -> Result<()> {
    let failed = |error: tokio_postgres::Error| fault::read(WHAT, &error);
    found.push(privileges(&one(client, &names.render(PRIVILEGES)).await?)?);
    let triggers = client.query(&names.render(TRIGGERS), &[]).await;
    found.push(trigger_finding(&triggers.map_err(failed)?)?);
    let tables = client.query(&names.render(TABLES), &[]).await;
    found.push(table_finding(&tables.map_err(failed)?)?);
    // A role that may write and not read has no business with the journal.
    if let Ok(journal) = one(client, &names.render(JOURNAL)).await {
        found.push(journal_finding(&journal, settings)?);
    }
    Ok(())
}

async fn one(client: &Lent, sql: &str) -> Result<Row> {
    let row = client.query_one(sql, &[]).await;
    row.map_err(|error| fault::read(WHAT, &error))
}

/// A column of a row of these statements.
fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, at: usize) -> Result<T> {
    row.try_get(at)
        .map_err(|_| Error::refused(WHAT, "the server's answer could not be understood"))
}

fn server_findings(
    row: &Row,
    asked: (SystemTime, SystemTime),
    found: &mut Vec<Finding>,
) -> Result<()> {
    let (version, number): (String, i32) = (column(row, 0)?, column(row, 1)?);
    found.push(if number >= OLDEST {
        Finding::ok("version", format!("PostgreSQL {version}"))
    } else {
        Finding::fail(
            "version",
            format!("PostgreSQL {version}"),
            "use PostgreSQL 13 or later",
        )
    });
    found.push(match column::<bool>(row, 2)? {
        false => Finding::ok("primary", "this server takes writes"),
        true => Finding::fail(
            "primary",
            "this server is a standby: it takes no writes and passes no notices on",
            "name the primary, or all hosts, in the address; with several the primary is looked for",
        ),
    });
    found.push(queue(column(row, 3)?));
    found.push(clock(column(row, 4)?, asked));
    found.push(match (column::<bool>(row, 5)?, column::<bool>(row, 6)?) {
        (true, _) => Finding::ok("tls", "this connection is encrypted"),
        (false, true) => Finding::ok("tls", "not used, and the server is on this machine"),
        (false, false) => Finding::warn(
            "tls",
            "this connection to another machine is not encrypted",
            "add sslmode=verify-full to the address",
        ),
    });
    found.push(connections(
        column(row, 7)?,
        i64::from(column::<i32>(row, 8)?),
    ));
    found.push(match column::<String>(row, 9)?.as_str() {
        "off" => Finding::warn(
            "durability",
            "synchronous_commit is off: a crash of the server may lose writes that were reported as done",
            "ALTER ROLE … SET synchronous_commit = on",
        ),
        setting => Finding::ok("durability", format!("synchronous_commit is {setting}")),
    });
    found.push(match column::<i64>(row, 10)? {
        0 => Finding::ok("transactions", "none is seen that was left open"),
        left => Finding::warn(
            "transactions",
            format!("{left} were left open for more than 5 minutes"),
            "end them: they hold up notices, writers of the same rows and the cleaning of tables \
             (SELECT pid, application_name FROM pg_stat_activity WHERE state LIKE 'idle in transaction%')",
        ),
    });
    Ok(())
}

fn queue(usage: f64) -> Finding {
    let found = format!("{:.1} % of the notification queue is used", usage * 100.0);
    let advice = "find the listener that has stopped reading, often one in an open transaction: \
        SELECT pid, state, xact_start FROM pg_stat_activity ORDER BY xact_start";
    match usage {
        usage if usage >= QUEUE.1 => Finding::fail("notices", found, advice),
        usage if usage >= QUEUE.0 => Finding::warn("notices", found, advice),
        _ => Finding::ok("notices", found),
    }
}

fn clock(server: i64, (before, after): (SystemTime, SystemTime)) -> Finding {
    let (before, after) = (micros(before), micros(after));
    let distance = match server {
        early if early < before => before - early,
        late => (late - after).max(0),
    };
    let distance = Duration::from_micros(distance.unsigned_abs());
    if distance < CLOCKS {
        return Finding::ok("clock", "within a second of the server's");
    }
    let seconds = distance.as_secs_f64();
    Finding::warn(
        "clock",
        format!("this machine's and the server's differ by {seconds:.1} s"),
        "let both keep time by NTP; nothing but the times that people are shown depends on it",
    )
}

fn connections(used: i64, most: i64) -> Finding {
    let found = format!("{used} of {most} are used");
    if used * 10 < most * 9 {
        return Finding::ok("connections", found);
    }
    Finding::warn(
        "connections",
        found,
        "raise max_connections of the server, or put PgBouncer before it and set LISTEN_DATABASE_URL",
    )
}

fn schema(names: &Names, missing: &[String], newer: &[String]) -> Finding {
    let table = names.table();
    match (missing, newer) {
        ([], []) => Finding::ok("schema", format!("{table} is up to date")),
        ([], newer) => Finding::ok(
            "schema",
            format!("{table} is newer by {}", newer.join(", ")),
        ),
        (missing, _) => Finding::warn(
            "schema",
            format!("{table} lacks {}", missing.join(", ")),
            "run `sync-config migrate` as the table's owner",
        ),
    }
}

fn privileges(row: &Row) -> Result<Finding> {
    let reads = column::<bool>(row, 0)? && column::<bool>(row, 1)?;
    let (writes, fleet): (bool, bool) = (column(row, 2)?, column(row, 3)?);
    let role: String = column(row, 4)?;
    Ok(match (reads, writes, fleet) {
        (true, true, true) => Finding::ok(
            "privileges",
            format!("role {role} reads, writes and does the fleet's work"),
        ),
        (true, true, false) => Finding::warn(
            "privileges",
            format!("role {role} reads and writes, and may not audit or trim"),
            "run `sync-config migrate` as the owner, which passes grants on to the helpers",
        ),
        (true, false, _) => Finding::warn(
            "privileges",
            format!("role {role} only reads"),
            "fine for a reader; a writer needs INSERT, UPDATE and DELETE on the table, and then `sync-config migrate`",
        ),
        (false, ..) => Finding::fail(
            "privileges",
            format!("role {role} may not read the table or what stands beside it"),
            "GRANT SELECT on the table, then run `sync-config migrate` as the owner, which passes it on",
        ),
    })
}

fn trigger_finding(rows: &[Row]) -> Result<Finding> {
    let mut missing = Vec::new();
    let mut disabled = Vec::new();
    let mut partly = Vec::new();
    for row in rows {
        let name: String = column(row, 0)?;
        match column::<Option<String>>(row, 1)?.as_deref() {
            None => missing.push(name),
            Some("D" | "R") => disabled.push(name),
            // The one at the end of the transaction works on what the others have noted.
            Some("O") if name != "sync_config_commit" => partly.push(name),
            Some(_) => {}
        }
    }
    let repaired = "the next audit finds what was written meanwhile";
    Ok(if !missing.is_empty() {
        Finding::fail(
            "triggers",
            format!("missing: {}", missing.join(", ")),
            format!("run `sync-config migrate --print | psql` as the owner; {repaired}"),
        )
    } else if !disabled.is_empty() {
        Finding::fail(
            "triggers",
            format!("disabled: {}", disabled.join(", ")),
            format!("ALTER TABLE … ENABLE ALWAYS TRIGGER …; {repaired}"),
        )
    } else if !partly.is_empty() {
        Finding::warn(
            "triggers",
            format!("not fired by replication: {}", partly.join(", ")),
            "ALTER TABLE … ENABLE ALWAYS TRIGGER …",
        )
    } else {
        Finding::ok(
            "triggers",
            format!("all {} are there and enabled", rows.len()),
        )
    })
}

fn table_finding(rows: &[Row]) -> Result<Finding> {
    let mut bloated = Vec::new();
    let mut bytes = 0;
    for row in rows {
        let name: String = column(row, 0)?;
        let (living, dead): (i64, i64) = (column(row, 1)?, column(row, 2)?);
        bytes += column::<i64>(row, 3)?;
        if dead > DEAD_ROWS && dead > living {
            let cleaned = column::<Option<f64>>(row, 4)?;
            let cleaned = cleaned.map_or_else(
                || "never cleaned".to_owned(),
                |ago| format!("cleaned {:.0} min ago", ago / 60.0),
            );
            bloated.push(format!(
                "{name} has {dead} dead rows and {living} living ones, {cleaned}"
            ));
        }
    }
    let size = format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
    Ok(if bloated.is_empty() {
        Finding::ok("bloat", format!("{size} in all, mostly living rows"))
    } else {
        Finding::warn(
            "bloat",
            bloated.join("; "),
            "VACUUM (VERBOSE) says what holds autovacuum up; often it is an old transaction or a replication slot",
        )
    })
}

fn journal_finding(row: &Row, settings: &Settings) -> Result<Finding> {
    let (age, several): (Option<f64>, bool) = (column(row, 0)?, column(row, 1)?);
    let age = Duration::try_from_secs_f64(age.unwrap_or(0.0).max(0.0)).unwrap_or_default();
    let kept = settings.event_retention + settings.consumer_grace + settings.cleanup_interval * 2;
    let told = humantime::format_duration(Duration::from_secs(age.as_secs()));
    if !several || age <= kept {
        return Ok(Finding::ok("journal", format!("reaches back {told}")));
    }
    Ok(Finding::warn(
        "journal",
        format!("reaches back {told}, which is longer than event_retention says"),
        "let one instance run whose role may trim; others may have a longer event_retention",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::finding::Level;

    #[test]
    fn a_clock_is_compared_with_the_time_between_question_and_answer() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let level = |server: i64| clock(server * 1_000_000, (at(100), at(110))).level;
        assert_eq!(
            (level(100), level(105), level(110)),
            (Level::Ok, Level::Ok, Level::Ok)
        );
        assert_eq!((level(98), level(112)), (Level::Warn, Level::Warn));
        assert!(clock(0, (at(100), at(100))).found.contains("100.0 s"));
    }

    #[test]
    fn usage_is_a_warning_before_it_is_a_failure() {
        let levels = [0.0, 0.05, 0.1, 0.5, 1.0].map(|usage| queue(usage).level);
        assert_eq!(
            levels,
            [Level::Ok, Level::Ok, Level::Warn, Level::Fail, Level::Fail]
        );
        assert_eq!(connections(80, 100).level, Level::Ok);
        assert_eq!(connections(90, 100).level, Level::Warn);
    }
}
