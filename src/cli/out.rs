//! Printing that survives a closed stdout.
//!
//! Guarantees: no key, value, name or message steers the terminal that it is printed on or begins a line of its own.

use std::fmt;
use std::io::{self, ErrorKind, Write};

use super::Failure;
use crate::core::{shown, shown_json};

/// Prints a line for people to stdout.
pub(super) fn print(text: impl fmt::Display) -> Result<(), Failure> {
    plain(shown(&text.to_string()))
}

/// Prints JSON to stdout. It stays the same JSON.
pub(super) fn print_json(json: impl fmt::Display) -> Result<(), Failure> {
    plain(shown_json(&json.to_string()))
}

/// Prints a text of this program itself to stdout, with the line breaks that it has.
pub(super) fn plain(text: impl fmt::Display) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let printed = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    printed.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::Unread,
        _ => Failure::Other(format!("stdout cannot be written to: {error}")),
    })
}

/// Says a line on stderr; there is nobody to be told when that is closed.
pub(super) fn say(text: impl fmt::Display) {
    drop(writeln!(
        io::stderr().lock(),
        "{}",
        shown(&text.to_string())
    ));
}
