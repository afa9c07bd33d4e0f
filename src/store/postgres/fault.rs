//! What a database's error means for the caller.
//!
//! Guarantees: an error of a statement that the server refused says that nothing was written; one without an answer says
//! that the outcome is unknown. Details, which can hold values, are never passed on.

use deadpool_postgres::PoolError;
use tokio_postgres::error::{DbError, Severity, SqlState};

use super::address::cause;
use super::migrate::MigrateError;
use crate::core::{Key, Revision, ValueError, canonical};
use crate::error::{Error, Kind};
use crate::write::Item;

/// The classes of errors whose messages tell of the server, of rights and of names. Those of data (22, 23) quote it, and
/// every other class is an application's own; `SC` is ours.
const TOLD: [&str; 16] = [
    "08", "0A", "25", "26", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "SC", "XX",
];

/// An error of a read, or of anything else that changes nothing.
pub(super) fn read(what: &str, error: &tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) => refused(what, db, told(db)),
        None => Error::unavailable(what, cause(error)),
    }
}

/// An error of a write that had been sent.
pub(super) fn write(what: &str, error: &tokio_postgres::Error, items: &[Item]) -> Error {
    match error.as_db_error() {
        Some(db) if of_the_statement(db) => of_write(what, db, items),
        Some(db) => Error::unknown(what, told_of_write(db)),
        None => Error::unknown(what, cause(error)),
    }
}

/// Whether the server refused the statement itself, so that it had no effect. A session that is being ended does not tell
/// whether its commit came first; nor does a pooler that lost its server, whose errors carry no severity that is not
/// translated, and a code of class 08.
fn of_the_statement(db: &DbError) -> bool {
    let code = db.code().code();
    let lost = code.starts_with("08") || ["57P01", "57P02", "57P03", "40003"].contains(&code);
    let error = match db.parsed_severity() {
        Some(severity) => severity == Severity::Error,
        None => db.severity() == "ERROR",
    };
    error && !lost
}

/// An error of taking a connection from the pool: nothing was sent.
pub(super) fn pool(what: &str, error: &PoolError) -> Error {
    match error {
        PoolError::Backend(error) => read(what, error),
        PoolError::Timeout(_) => {
            Error::unavailable(what, "no connection of the pool became free in time")
        }
        PoolError::Closed => Kind::Closed.into(),
        PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
            Error::unavailable(what, "the pool gave no connection")
        }
    }
}

/// An error of the schema.
pub(super) fn migrate(error: MigrateError) -> Error {
    let what = "the schema";
    match error {
        MigrateError::Database(error) => read(what, &error),
        other => Error::refused(what, other),
    }
}

fn of_write(what: &str, db: &DbError, items: &[Item]) -> Error {
    let code = db.code();
    if code.code() == "SC001" {
        return refused_condition(db, items);
    }
    if *code == SqlState::CHECK_VIOLATION && db.constraint() == Some("sync_config_value_bounds") {
        return Kind::Value {
            key: failing_key(db, items),
            error: ValueError::Expands,
        }
        .into();
    }
    // Its message does not name the item.
    if is_of_json(code)
        && let Some((item, error)) = items
            .iter()
            .find_map(|item| Some((item, unholdable(item)?)))
    {
        let key = item.key.clone();
        return Kind::Value { key, error }.into();
    }
    refused(what, db, told_of_write(db))
}

/// Whether this is what PostgreSQL says of JSON that it cannot hold. An application's trigger that fails on the value says
/// the same.
fn is_of_json(code: &SqlState) -> bool {
    [
        SqlState::UNTRANSLATABLE_CHARACTER,
        SqlState::INVALID_TEXT_REPRESENTATION,
        SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
    ]
    .contains(code)
}

/// Why PostgreSQL cannot hold an item's value, in our words: its own quote the text.
fn unholdable(item: &Item) -> Option<ValueError> {
    let text = item.value.as_ref().map(|value| canonical(value.as_json()));
    text.and_then(Result::err)
        .filter(|error| matches!(error, ValueError::Syntax(_)))
}

/// Whether the statement had no effect because it met somebody else's transaction, and may fare better at once.
pub(super) fn met_another(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE)
}

/// Whether the statement had no effect because another transaction has a row or a table locked.
pub(super) fn met_a_lock(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// Whether the schema has no such function: it is older than this program.
pub(super) fn lacks_the_function(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::UNDEFINED_FUNCTION)
}

/// The server's words, where they cannot quote data.
fn told(db: &DbError) -> String {
    let code = db.code();
    let class = code.code().get(..2).unwrap_or_default();
    // A syntax error quotes the statement, which somebody's trigger may have put together.
    if TOLD.contains(&class) && *code != SqlState::SYNTAX_ERROR {
        format!("{} (SQLSTATE {})", db.message(), code.code())
    } else {
        hidden(db)
    }
}

/// The same of a statement that brought values: whatever a trigger raises, it may have put one into the message.
fn told_of_write(db: &DbError) -> String {
    let raised = db.routine() == Some("exec_stmt_raise") && !db.code().code().starts_with("SC");
    if raised { hidden(db) } else { told(db) }
}

/// What a message is about, without the message.
fn hidden(db: &DbError) -> String {
    let constraint = db.constraint();
    let constraint = constraint.map_or_else(String::new, |name| format!(", constraint {name}"));
    format!("SQLSTATE {}{constraint}", db.code().code())
}

/// The server's refusal of a statement: it had no effect.
fn refused(what: &str, db: &DbError, problem: String) -> Error {
    let (what, code) = (what.to_owned(), db.code());
    let again = [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::QUERY_CANCELED,
    ];
    // Two writes under one idempotency key met: sent again, the later one is answered with what the earlier one did.
    let twin = *code == SqlState::UNIQUE_VIOLATION
        && db
            .constraint()
            .is_some_and(|name| name.ends_with("_idempotency"));
    match code.code() {
        _ if twin || again.contains(code) => Kind::Retryable { what, problem }.into(),
        "42501" | "28000" | "28P01" => Kind::Denied { what, problem }.into(),
        "42P01" | "42883" | "3F000" => Kind::OlderSchema { what, problem }.into(),
        // Read-only, shutting down, starting up, out of connections or disk: it may get better.
        "25006" => Error::unavailable(what, format!("{problem}; the server takes no writes")),
        code if ["57", "53", "08"]
            .iter()
            .any(|class| code.starts_with(class)) =>
        {
            Error::unavailable(what, problem)
        }
        _ => Kind::Refused { what, problem }.into(),
    }
}

fn refused_condition(db: &DbError, items: &[Item]) -> Error {
    let detail: serde_json::Value = db
        .detail()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let number = |name: &str| {
        detail
            .get(name)
            .and_then(serde_json::Value::as_i64)
            .unwrap_or_default()
    };
    let key = detail
        .get("key")
        .and_then(|key| key.as_str())
        .map(Key::stored);
    let key = key
        .or_else(|| items.first().map(|item| item.key.clone()))
        .unwrap_or_else(|| Key::stored("?"));
    conflict(key, number("expected"), number("actual"))
}

/// A condition that did not hold, in the numbers of the statements.
pub(super) fn conflict(key: Key, expected: i64, actual: i64) -> Error {
    let shown = |number: i64| match number {
        0 => "absent".to_owned(),
        -1 => "present".to_owned(),
        -2 => "changed earlier in this transaction".to_owned(),
        i64::MAX => "at revision 0".to_owned(),
        revision => format!("at revision {revision}"),
    };
    Kind::Conflict {
        key,
        expected: shown(expected),
        actual: shown(actual),
        at: super::rows::revision(actual).filter(|at| *at > Revision::ZERO),
    }
    .into()
}

/// The key in "Failing row contains (key, value, …)"; the rest of that text must not be shown.
fn failing_key(db: &DbError, items: &[Item]) -> Key {
    let row = db
        .detail()
        .and_then(|detail| detail.split_once('('))
        .map_or("", |(_, row)| row);
    let named = items
        .iter()
        .filter(|item| row.starts_with(item.key.as_str()));
    let longest = named.max_by_key(|item| item.key.len()).or(items.first());
    longest.map_or_else(|| Key::stored("?"), |item| item.key.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_postgresql_cannot_hold_is_told_from_others() {
        let odd = |text: &str| {
            let item = Item {
                key: Key::stored("k"),
                value: Some(crate::core::Value::parse(text).unwrap()),
                precondition: None,
            };
            unholdable(&item).is_some()
        };
        for text in [
            "1e2000000".to_owned(),
            "1e-20000".to_owned(),
            format!("0.{}", "1".repeat(20_000)),
            r#""\ud800""#.to_owned(),
            r#"{"a\u0000": 1}"#.to_owned(),
        ] {
            assert!(odd(&text), "{}", &text[..text.len().min(20)]);
        }
        for text in [
            "1e3",
            "0.1e-300",
            "[1E+400]",
            r#"{"x": "hunter2", "e": [12345678901234567890]}"#,
            r#""\\u0000""#,
            "null",
        ] {
            assert!(!odd(text), "{text}");
        }
    }
}
