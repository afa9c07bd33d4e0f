//! Values: a JSON text and, where it is a scalar, its decoded form.
//!
//! Guarantees: the text of a value that came from a store is byte for byte the store's own (`value::text`), so that
//! checksums agree everywhere. A text that Rust cannot represent (`1e400`) is held like any other; only a typed read of
//! it fails.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

use super::finite::Finite;
use super::shown::shown;

/// The longest value in bytes of its text: 1 MiB. PostgreSQL checks the canonical text against the same bound.
pub const MAX_VALUE_BYTES: usize = 1_048_576;

/// The deepest nesting of arrays and objects: the depth serde_json decodes by default.
pub const MAX_DEPTH: usize = 127;

/// What may stand around every part of a JSON text.
pub(super) const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// A JSON value as a text, cheap to clone.
#[derive(Clone)]
pub struct Value {
    text: Arc<str>,
    scalar: Scalar,
}

/// What a getter can answer without parsing the text again.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// A string, an array, an object, or a number that neither `i64` nor `f64` holds.
    Other,
}

impl Value {
    /// Parses a JSON text.
    ///
    /// # Errors
    ///
    /// Refuses what is not one JSON value, a text over [`MAX_VALUE_BYTES`] and one nested deeper than [`MAX_DEPTH`].
    pub fn parse(json: &str) -> Result<Self, ValueError> {
        let json = json.trim_matches(BLANKS);
        check_size(json.len())?;
        check_depth(json)?;
        // `RawValue` checks the grammar and leaves numbers alone that no Rust type holds.
        serde_json::from_str::<&RawValue>(json)
            .map_err(|error| ValueError::Syntax(error.to_string()))?;
        Ok(Self::stored(json))
    }

    /// Encodes any serialisable value as JSON.
    ///
    /// # Errors
    ///
    /// Refuses what JSON cannot hold (NaN and infinities, a map whose keys are no strings), and texts beyond the bounds
    /// of [`Value::parse`].
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, ValueError> {
        let json = serde_json::to_string(&Finite(value))
            .map_err(|error| ValueError::Encode(error.to_string()))?;
        check_size(json.len())?;
        check_depth(&json)?;
        Ok(Self::stored(&json))
    }

    /// Takes a text as a store returned it.
    pub(crate) fn stored(text: &str) -> Self {
        Self {
            text: text.into(),
            scalar: Scalar::of(text),
        }
    }

    /// The JSON text. For an entry of a store it is the store's canonical text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.text
    }

    /// Whether this is JSON's `null` (which is not the same as an absent entry).
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.scalar == Scalar::Null
    }

    pub(crate) fn scalar(&self) -> Scalar {
        self.scalar
    }

    /// The kind of JSON value, for error messages: `null`, `boolean`, `number`, `string`, `array` or `object`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.text.as_bytes().first() {
            Some(b'n') => "null",
            Some(b't' | b'f') => "boolean",
            Some(b'"') => "string",
            Some(b'[') => "array",
            Some(b'{') => "object",
            _ => "number",
        }
    }
}

impl Scalar {
    fn of(text: &str) -> Self {
        match text.as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'-' | b'0'..=b'9') => Self::number(text),
            _ => Self::Other,
        }
    }

    fn number(text: &str) -> Self {
        if let Ok(int) = text.parse::<i64>() {
            return Self::Int(int);
        }
        match text.parse::<f64>() {
            Ok(float) if float.is_finite() => Self::Float(float),
            _ => Self::Other,
        }
    }
}

/// The integer that a JSON number is exactly (`3.0`, `1e3`). By its digits: `f64` would take `0.99999999999999999` for 1.
pub(super) fn integer(number: &str) -> Option<i64> {
    let (digits, exponent) = match number.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i64>().ok()),
        None => (number, Some(0)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() || significant == "-" {
        return Some(0);
    }
    let zeros = i64::try_from(digits.len() - significant.len()).ok()?;
    let places = i64::try_from(fraction.len()).ok()?;
    let shift = exponent?.checked_sub(places)?.checked_add(zeros)?;
    let power = 10i64.checked_pow(u32::try_from(shift).ok()?)?;
    significant.parse::<i64>().ok()?.checked_mul(power)
}

pub(super) fn check_size(bytes: usize) -> Result<(), ValueError> {
    if bytes > MAX_VALUE_BYTES {
        Err(ValueError::TooLarge { bytes })
    } else {
        Ok(())
    }
}

fn check_depth(json: &str) -> Result<(), ValueError> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(ValueError::TooDeep);
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Why something is not a value. The value itself is never part of the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// The text is not one JSON value, or one that PostgreSQL cannot hold.
    #[error("not a JSON value: {}", shown(.0))]
    Syntax(String),
    /// The value cannot be written as JSON.
    #[error("cannot be written as JSON: {}", shown(.0))]
    Encode(String),
    /// The text is longer than the bound.
    #[error("{bytes} bytes of JSON; the bound is {MAX_VALUE_BYTES}")]
    TooLarge {
        /// How long it is.
        bytes: usize,
    },
    /// The text is within the bound, but the database's canonical form of it is not: `1e9999` is ten thousand digits.
    #[error(
        "its canonical text in the database is longer than the bound of {MAX_VALUE_BYTES} bytes"
    )]
    Expands,
    /// Arrays or objects are nested too deeply.
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

impl PartialEq for Value {
    /// Values are equal when their texts are: `1` and `1.0` differ, as they do in a checksum.
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Value {}

impl fmt::Debug for Value {
    /// Shows the kind and the length, never the value, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({}, {} bytes)", self.kind(), self.text.len())
    }
}

impl Serialize for Value {
    /// Writes the text itself into JSON, so that no number is rounded on its way.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_str::<&RawValue>(&self.text) {
            Ok(raw) => raw.serialize(serializer),
            Err(error) => Err(serde::ser::Error::custom(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_exact_or_left_alone() {
        let scalar = |text: &str| Value::stored(text).scalar();
        assert_eq!(scalar("9223372036854775807"), Scalar::Int(i64::MAX));
        assert_eq!(scalar("-3"), Scalar::Int(-3));
        assert_eq!(scalar("2.50"), Scalar::Float(2.5));
        assert_eq!(scalar("1e400"), Scalar::Other);
        assert_eq!(scalar("null"), Scalar::Null);
        assert_eq!(scalar("\"true\""), Scalar::Other);
    }

    #[test]
    fn bounds_are_named_and_the_value_is_not() {
        let secret = "\"secret".repeat(3);
        let error = Value::parse(&secret).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        assert_eq!(
            Value::parse(&"9".repeat(MAX_VALUE_BYTES + 1)),
            Err(ValueError::TooLarge {
                bytes: MAX_VALUE_BYTES + 1
            })
        );
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        assert_eq!(Value::parse(&deep), Err(ValueError::TooDeep));
        assert!(Value::parse(&format!("\"{}\"", "[".repeat(200))).is_ok());
        assert!(Value::parse("1 2").is_err() && Value::parse("").is_err());
    }

    #[test]
    fn debug_shows_no_value_and_json_keeps_every_digit() {
        let value = Value::parse(" 123456789012345678901234567890 ").unwrap();
        assert_eq!(format!("{value:?}"), "Value(number, 30 bytes)");
        assert_eq!(
            serde_json::to_string(&value).unwrap(),
            "123456789012345678901234567890"
        );
    }
}
