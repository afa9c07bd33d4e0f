//! Entries: a key with its value, the revision that set it, and a slot for the decoded form.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;

use super::{Key, Revision, Scalar, Value};

/// A key and its value at some revision. Never changes; a new value is a new entry.
pub struct Entry {
    key: Key,
    value: Value,
    revision: Revision,
    updated_micros: i64,
    decoded: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Entry {
    pub(crate) fn new(key: Key, value: Value, revision: Revision, updated_micros: i64) -> Self {
        Self {
            key,
            value,
            revision,
            updated_micros,
            decoded: OnceLock::new(),
        }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The value's JSON text, as the store holds it.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.value.as_json()
    }

    /// The revision of the last transaction that changed this key. It is what a conditional write expects.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// When the transaction that last changed this key began, by the database's clock.
    #[must_use]
    pub fn updated_at(&self) -> SystemTime {
        let offset = Duration::from_micros(self.updated_micros.unsigned_abs());
        if self.updated_micros < 0 {
            SystemTime::UNIX_EPOCH - offset
        } else {
            SystemTime::UNIX_EPOCH + offset
        }
    }

    /// The same as a number.
    pub(crate) fn updated_micros(&self) -> i64 {
        self.updated_micros
    }

    /// The value as a boolean, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self.value.scalar() {
            Scalar::Bool(value) => Some(value),
            Scalar::Null | Scalar::Int(_) | Scalar::Float(_) | Scalar::Other => None,
        }
    }

    /// The value as an integer, if it is a number without a fraction that `i64` holds exactly (`3` and `3.0`).
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        /// Up to 2^53 every integer has its own `f64`.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        match self.value.scalar() {
            Scalar::Int(value) => Some(value),
            #[allow(clippy::cast_possible_truncation, reason = "integral and within ±2^53")]
            Scalar::Float(value) if value.fract() == 0.0 && value.abs() <= EXACT => {
                Some(value as i64)
            }
            Scalar::Null | Scalar::Bool(_) | Scalar::Float(_) | Scalar::Other => None,
        }
    }

    /// The value as a floating-point number, if it is a number that is finite as `f64`.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self.value.scalar() {
            #[allow(
                clippy::cast_precision_loss,
                reason = "what a reader of JSON numbers expects"
            )]
            Scalar::Int(value) => Some(value as f64),
            Scalar::Float(value) => Some(value),
            Scalar::Null | Scalar::Bool(_) | Scalar::Other => None,
        }
    }

    /// The value as a string, if it is one.
    #[must_use]
    pub fn as_string(&self) -> Option<String> {
        let inner = self.as_json().strip_prefix('"')?.strip_suffix('"')?;
        if inner.contains('\\') {
            serde_json::from_str(self.as_json()).ok()
        } else {
            Some(inner.to_owned())
        }
    }

    /// Decodes the value, once for the first type asked for; later reads of that type share the result.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when the value is not a `T`. It names the key and the place, never the value.
    pub fn decode<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
    ) -> Result<Arc<T>, DecodeError> {
        if let Some(shared) = self
            .decoded
            .get()
            .and_then(|any| any.clone().downcast::<T>().ok())
        {
            return Ok(shared);
        }
        let decoded: Arc<T> = Arc::new(self.parse()?);
        // Losing the race or holding another type already only means that this result is not shared.
        drop(self.decoded.set(decoded.clone()));
        Ok(decoded)
    }

    /// Decodes the value into an owned `T`, each time anew.
    ///
    /// # Errors
    ///
    /// As [`Entry::decode`].
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        serde_json::from_str(self.as_json()).map_err(|error| DecodeError {
            key: self.key.clone(),
            found: self.value.kind(),
            wanted: std::any::type_name::<T>(),
            place: format!("line {} column {}", error.line(), error.column()),
        })
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .field("value", &self.value)
            .field("revision", &self.revision)
            .finish()
    }
}

/// A value is not what a typed read asked for. The value itself is not shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value of key \"{key}\" is a JSON {found}, not a {wanted} ({place})")]
pub struct DecodeError {
    pub(crate) key: Key,
    pub(crate) found: &'static str,
    pub(crate) wanted: &'static str,
    pub(crate) place: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: &str) -> Entry {
        Entry::new(Key::stored("k"), Value::stored(json), Revision::new(1), 0)
    }

    #[test]
    fn typed_views_are_exact_or_none() {
        assert_eq!(entry("3.0").as_i64(), Some(3));
        assert_eq!(entry("3.5").as_i64(), None);
        assert_eq!(entry("1e300").as_i64(), None);
        assert_eq!(entry("7").as_f64(), Some(7.0));
        assert_eq!(entry("\"a\\nb\"").as_string().as_deref(), Some("a\nb"));
        assert_eq!(entry("\"plain\"").as_string().as_deref(), Some("plain"));
        assert_eq!(entry("null").as_string(), None);
        assert_eq!(entry("1").as_bool(), None);
    }

    #[test]
    fn a_struct_is_decoded_once_and_a_wrong_one_is_named_without_its_value() {
        let list = entry("[1,2]");
        let first = list.decode::<Vec<i64>>().unwrap();
        assert!(Arc::ptr_eq(&first, &list.decode::<Vec<i64>>().unwrap()));
        assert_eq!(*list.decode::<Vec<f64>>().unwrap(), [1.0, 2.0]);
        let error = entry("\"hunter2\"")
            .decode::<Vec<i64>>()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("\"k\"") && error.contains("string") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
