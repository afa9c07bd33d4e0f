//! The canonical text of a value, which is what PostgreSQL's `jsonb` prints: `value::text`.
//!
//! Guarantees: every store holds the same text of a value, whichever way it was written, so that texts and checksums
//! compare across stores. What PostgreSQL refuses is refused here, and nothing else within the bounds of
//! [`Value::parse`](super::Value::parse).

mod number;
mod scanner;

use std::borrow::Cow;

use self::number::Number;
use self::scanner::Scanner;
use super::value::{BLANKS, MAX_VALUE_BYTES, ValueError, check_size};

/// What is printed between elements, and between a key and its value.
const COMMA: &str = ", ";
const COLON: &str = ": ";

/// Prints a JSON text as `jsonb` does: no key twice, shorter keys first, numbers with all their digits and no exponent, and
/// nothing escaped that need not be.
///
/// What it prints is measured before it is printed, so a text that expands (`1e131071` is eight bytes) takes no more memory
/// than any other of its length: 32 bytes for each value in it, 64 for each member of an object.
///
/// # Errors
///
/// Refuses what [`Value::parse`](super::Value::parse) refuses; `\u0000` and half a surrogate pair in a string or key, and
/// numbers that `numeric` cannot hold ([`ValueError::Syntax`]); and a text whose canonical form is beyond
/// [`MAX_VALUE_BYTES`] ([`ValueError::Expands`]).
pub(crate) fn canonical(json: &str) -> Result<String, ValueError> {
    let json = json.trim_matches(BLANKS);
    check_size(json.len())?;
    let (node, length) = Scanner::read(json)?;
    if length > MAX_VALUE_BYTES {
        return Err(ValueError::Expands);
    }
    let mut text = String::with_capacity(length);
    node.print(&mut text);
    debug_assert_eq!(text.len(), length, "the bound holds of what is printed");
    Ok(text)
}

/// A value that was read and checked, and is not printed yet. Numbers stay as short as they were written.
enum Node<'a> {
    /// `null`, `true` or `false`.
    Word(&'static str),
    Number(Number<'a>),
    /// Without its escapes.
    Text(Cow<'a, str>),
    Array(Box<[Node<'a>]>),
    Object(Box<[Member<'a>]>),
}

struct Member<'a> {
    /// Without its escapes.
    key: Cow<'a, str>,
    value: Node<'a>,
    /// How many bytes the value makes.
    length: usize,
}

impl Node<'_> {
    fn print(&self, out: &mut String) {
        match self {
            Self::Word(word) => out.push_str(word),
            Self::Number(number) => number.print(out),
            Self::Text(text) => print_text(text, out),
            Self::Array(items) => {
                out.push('[');
                for (place, item) in items.iter().enumerate() {
                    separate(place, out);
                    item.print(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (place, member) in members.iter().enumerate() {
                    separate(place, out);
                    print_text(&member.key, out);
                    out.push_str(COLON);
                    member.value.print(out);
                }
                out.push('}');
            }
        }
    }
}

fn separate(place: usize, out: &mut String) {
    if place > 0 {
        out.push_str(COMMA);
    }
}

/// Prints a text as a string of JSON.
fn print_text(text: &str, out: &mut String) {
    out.push('"');
    for piece in text.split_inclusive(is_escaped) {
        let plain = piece.strip_suffix(is_escaped).unwrap_or(piece);
        out.push_str(plain);
        for character in piece[plain.len()..].chars() {
            match character {
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '"' | '\\' => out.extend(['\\', character]),
                control => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            }
        }
    }
    out.push('"');
}

/// How many bytes [`print_text`] makes of a text.
fn text_length(text: &str) -> usize {
    let quotes = 2;
    quotes + text.bytes().map(width).sum::<usize>()
}

fn is_escaped(character: char) -> bool {
    u8::try_from(character).is_ok_and(|byte| width(byte) > 1)
}

/// How many bytes a byte of a text takes in a string of JSON.
fn width(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | 8 | b'\t' | b'\n' | 12 | b'\r' => 2,
        0..b' ' => "\\u0000".len(),
        _ => 1,
    }
}

fn cannot_hold(problem: &str) -> ValueError {
    ValueError::Syntax(format!("PostgreSQL cannot hold it ({problem})"))
}

#[cfg(test)]
mod tests;
