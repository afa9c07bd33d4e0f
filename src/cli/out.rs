//! Printing that survives a closed stdout.

use std::fmt;
use std::io::{self, ErrorKind, Write};

use super::Failure;

/// Prints lines to stdout.
pub(super) fn print(text: impl fmt::Display) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let printed = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    printed.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::Unread,
        _ => Failure::Other(format!("stdout cannot be written to: {error}")),
    })
}

/// Says something on stderr; there is nobody to be told when that is closed.
pub(super) fn say(text: impl fmt::Display) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}
