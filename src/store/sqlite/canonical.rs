//! The one text of a value: what table and journal hold, and what the checksum folds.

use crate::core::{Value, ValueError};

/// Writes a JSON text without the blanks between its parts.
///
/// # Errors
///
/// As [`Value::parse`].
pub(super) fn canonical(text: &str) -> Result<String, ValueError> {
    let value = Value::parse(text)?;
    let (mut canonical, mut in_string, mut escaped) = (String::new(), false, false);
    for character in value.as_json().chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            ' ' | '\t' | '\r' | '\n' if !in_string => continue,
            _ => {}
        }
        canonical.push(character);
    }
    Ok(canonical)
}
