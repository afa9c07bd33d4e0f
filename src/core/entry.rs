//! Entries: a key with its value, the revision that set it, and its decoded forms.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;

use super::value::integer;
use super::{Key, Revision, Scalar, Value};

/// A key and its value at some revision. Never changes; a new value is a new entry.
pub struct Entry {
    key: Key,
    value: Value,
    revision: Revision,
    updated_micros: i64,
    forms: Forms,
    /// What was reported of it, a bit each.
    reported: AtomicU8,
    /// The store's own entry, when this one is a view's under a shorter key.
    origin: Option<Arc<Entry>>,
}

/// What is reported of an entry at most once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Report {
    /// A getter with a default had to take the default.
    WrongType = 1,
    /// A live handle kept its previous value.
    Rejected = 2,
}

/// The value in each type that was asked for, or why it is none: a list that only grows, by one for each such type.
#[derive(Default)]
struct Forms(OnceLock<Box<Form<dyn Any + Send + Sync>>>);

struct Form<R: ?Sized> {
    next: Forms,
    result: R,
}

impl Forms {
    /// What was kept of this type, else what `make` answers. No lock is held meanwhile: of two who make it at the same
    /// time one is kept.
    fn get_or<R: Any + Send + Sync + Clone>(&self, make: impl FnOnce() -> R) -> R {
        let (mut end, mut make, mut own) = (self, Some(make), None);
        loop {
            while let Some(form) = end.0.get() {
                if let Some(kept) = form.result.downcast_ref::<R>() {
                    return kept.clone();
                }
                end = &form.next;
            }
            own = own.or_else(|| make.take().map(|make| make()));
            if let Some(result) = own.clone() {
                let next = Self::default();
                // Refused when somebody was faster, perhaps with this very type: looked at again.
                drop(end.0.set(Box::new(Form { next, result })));
            }
        }
    }
}

impl Entry {
    pub(crate) fn new(key: Key, value: Value, revision: Revision, updated_micros: i64) -> Self {
        Self {
            key,
            value,
            revision,
            updated_micros,
            forms: Forms::default(),
            reported: AtomicU8::new(0),
            origin: None,
        }
    }

    /// Says at which revision a store had set it, while it is nobody else's yet.
    pub(crate) fn number(&mut self, revision: Revision) {
        self.revision = revision;
    }

    /// The same entry under another key, as a view shows it. What is decoded of one is decoded of both.
    pub(crate) fn renamed(self: &Arc<Self>, key: Key) -> Self {
        let (value, revision) = (self.value.clone(), self.revision);
        let mut renamed = Self::new(key, value, revision, self.updated_micros);
        renamed.origin = Some(self.origin.as_ref().unwrap_or(self).clone());
        renamed
    }

    fn origin(&self) -> &Self {
        self.origin.as_deref().unwrap_or(self)
    }

    /// True for the first who asks, as long as the value stands.
    pub(crate) fn reports(&self, report: Report) -> bool {
        let (reported, bit) = (&self.origin().reported, report as u8);
        // A look before the change: a getter that is wrong may be asked millions of times a second.
        reported.load(Ordering::Relaxed) & bit == 0
            && reported.fetch_or(bit, Ordering::Relaxed) & bit == 0
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
        match self.value.scalar() {
            Scalar::Int(value) => Some(value),
            Scalar::Float(_) => integer(self.as_json()),
            Scalar::Null | Scalar::Bool(_) | Scalar::Other => None,
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

    /// Decodes the value, once for each type that is asked for; later reads share the result, also that it is no `T`.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when the value is not a `T`. It names the key and the place, never the value.
    pub fn decode<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
    ) -> Result<Arc<T>, DecodeError> {
        let form = self.origin().forms.get_or(|| self.parse().map(Arc::new));
        form.map_err(|error: DecodeError| error.at(&self.key))
    }

    /// What [`Entry::decode`] has decoded already. Calls nothing of `T`.
    pub(crate) fn decoded<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let mut forms = &self.origin().forms;
        while let Some(form) = forms.0.get() {
            if let Some(kept) = form.result.downcast_ref::<Result<Arc<T>, DecodeError>>() {
                return kept.as_ref().ok().cloned();
            }
            forms = &form.next;
        }
        None
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
            place: place(&error),
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

/// Where decoding failed. A type that refuses what it was decoded from (`#[serde(try_from)]`) names no place.
fn place(error: &serde_json::Error) -> String {
    match error.line() {
        0 => "its type refuses it as a whole".to_owned(),
        line => format!("line {line} column {}", error.column()),
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

impl DecodeError {
    /// The same of the same value under another key.
    pub(crate) fn at(mut self, key: &Key) -> Self {
        self.key = key.clone();
        self
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: &str) -> Entry {
        Entry::new(Key::stored("k"), Value::stored(json), Revision::new(1), 0)
    }

    #[test]
    fn a_value_that_a_type_refuses_as_a_whole_names_no_line() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(try_from = "u32")]
        struct Even(#[allow(dead_code, reason = "it is only decoded")] u32);
        impl TryFrom<u32> for Even {
            type Error = &'static str;
            fn try_from(number: u32) -> Result<Self, &'static str> {
                (number & 1 == 0)
                    .then_some(Self(number))
                    .ok_or("secret: odd")
            }
        }
        let error = entry("3").parse::<Even>().unwrap_err().to_string();
        assert!(
            error.ends_with("Even (its type refuses it as a whole)"),
            "{error}"
        );
        assert!(entry("4").parse::<Even>().is_ok());
    }

    #[test]
    fn typed_views_are_exact_or_none() {
        assert_eq!(entry("3.0").as_i64(), Some(3));
        assert_eq!(entry("3.5").as_i64(), None);
        for (text, integer) in [
            ("1e300", None),
            ("9007199254740993.0", Some((1 << 53) + 1)),
            ("9007199254740992.5", None),
            ("0.99999999999999999999", None),
            ("2.00000000000000000001", None),
            ("9223372036854775807.00", Some(i64::MAX)),
            ("-9223372036854775808.0", Some(i64::MIN)),
            ("9223372036854775808.0", None),
            ("-0.0", Some(0)),
            ("0e5", Some(0)),
            ("1.5e1", Some(15)),
            ("150E-1", Some(15)),
            ("15e-1", None),
            ("1e+18", Some(1_000_000_000_000_000_000)),
            ("1e-99999999999999999999", None),
        ] {
            assert_eq!(entry(text).as_i64(), integer, "{text}");
        }
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
        let other = list.decode::<Vec<f64>>().unwrap();
        assert_eq!(*other, [1.0, 2.0]);
        assert!(Arc::ptr_eq(&other, &list.decode::<Vec<f64>>().unwrap()));
        assert!(Arc::ptr_eq(&first, &list.decode::<Vec<i64>>().unwrap()));
        let error = entry("\"hunter2\"")
            .decode::<Vec<i64>>()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("\"k\"") && error.contains("string") && !error.contains("hunter2"),
            "{error}"
        );
    }

    thread_local! {
        static DECODED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    /// Counts how often it is decoded.
    struct Counted(i64);

    impl<'de> serde::Deserialize<'de> for Counted {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            DECODED.set(DECODED.get() + 1);
            i64::deserialize(deserializer).map(Self)
        }
    }

    #[test]
    fn each_type_is_decoded_once_also_when_it_fails_and_under_another_key() {
        let (right, wrong) = (Arc::new(entry("7")), Arc::new(entry("[]")));
        for _ in 0..3 {
            let renamed = Arc::new(right.renamed(Key::stored("v")));
            let twice = renamed.renamed(Key::stored("w"));
            assert_eq!(*twice.decode::<u8>().unwrap(), 7);
            assert_eq!(renamed.decode::<Counted>().unwrap().0, 7);
            assert_eq!(twice.decode::<Counted>().unwrap().0, 7);
            assert_eq!(right.decode::<Counted>().unwrap().0, 7);
        }
        assert_eq!(DECODED.get(), 1);
        for _ in 0..3 {
            let renamed = wrong.renamed(Key::stored("v"));
            let errors = [&renamed, &*wrong].map(|one| one.decode::<Counted>().err().unwrap());
            assert_eq!(errors.map(|error| error.key), ["v", "k"].map(Key::stored));
        }
        assert_eq!(DECODED.get(), 2);
        assert!(wrong.renamed(Key::stored("v")).reports(Report::WrongType));
        assert!(!wrong.reports(Report::WrongType) && wrong.reports(Report::Rejected));
    }
}
