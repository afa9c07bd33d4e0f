//! The one error of the library: opaque, with predicates that say what to do.
//!
//! Guarantees: a message names what was tried, on which key, setting or query, and the bound; it never holds a value, a
//! password or a URL. It is one line, and steers no terminal, whatever a server, a file or a caller put into it.

use std::fmt;
use std::time::Duration;

use crate::core::{DecodeError, Key, KeyError, MAX_SHOWN, Prefix, Revision, ValueError, shown};

/// What this library's fallible functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something did not work. Ask the predicates rather than the text.
pub struct Error(Box<Kind>);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Kind {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the value for key \"{key}\" is refused: {error}")]
    Value { key: Key, error: ValueError },
    #[error("key \"{0}\" stands more than once in one write; put each key once")]
    DuplicateKey(Key),
    #[error("a write without keys; put or delete at least one")]
    EmptyWrite,
    #[error("setting {name} = {value:?}: {problem}")]
    Setting {
        name: String,
        value: String,
        problem: String,
    },
    /// A setting's error with the file and line, the variable or the flag that it comes from.
    #[error("{place}: {problem}")]
    Placed { place: String, problem: String },
    #[error("not ready: nothing has been loaded from the store yet")]
    NotReady,
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("not applied: key \"{key}\" was expected to be {expected} and is {actual}")]
    Conflict {
        key: Key,
        expected: String,
        actual: String,
        /// The revision of the key's entry, if it has one.
        at: Option<Revision>,
    },
    #[error("{what}: {problem}")]
    Refused { what: String, problem: String },
    #[error("{what}: permission denied ({problem})")]
    Denied { what: String, problem: String },
    #[error("{what}: {problem}; the schema is missing or older: run `sync-config migrate`")]
    OlderSchema { what: String, problem: String },
    #[error("{what}: the store cannot be reached ({problem}); nothing was written")]
    Unavailable { what: String, problem: String },
    #[error("{what}: not applied ({problem}); it can be tried again")]
    Retryable { what: String, problem: String },
    #[error("{what}: the store's answer was lost ({problem}); whether it was applied is unknown")]
    OutcomeUnknown { what: String, problem: String },
    #[error("{what}: not within {}", humantime::format_duration(*.after))]
    Timeout { what: String, after: Duration },
    #[error(
        "revision {wanted} belongs to another epoch than this store's present one; its history was replaced"
    )]
    OtherEpoch { wanted: Revision },
    #[error(
        "consumer {name:?}: there is none of this name, it was removed; begin it anew if it is still wanted"
    )]
    MissingConsumer { name: String },
    #[error("the configuration service was shut down")]
    Closed,
}

impl Error {
    pub(crate) fn setting(
        name: impl Into<String>,
        value: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        let mut value = value.into();
        // An address that was given to the wrong setting; it may hold a password.
        if value.contains("://") || value.contains("password") {
            value = "…".to_owned();
        }
        if let Some((end, _)) = value.char_indices().nth(MAX_SHOWN) {
            value.truncate(end);
            value.push('…');
        }
        Kind::Setting {
            name: name.into(),
            value,
            problem: problem.into(),
        }
        .into()
    }

    pub(crate) fn placed(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Kind::Placed {
            place: place.into(),
            problem: problem.into(),
        }
        .into()
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.0
    }

    pub(crate) fn unavailable(what: impl Into<String>, problem: impl fmt::Display) -> Self {
        Kind::Unavailable {
            what: what.into(),
            problem: problem.to_string(),
        }
        .into()
    }

    pub(crate) fn unknown(what: impl Into<String>, problem: impl fmt::Display) -> Self {
        Kind::OutcomeUnknown {
            what: what.into(),
            problem: problem.to_string(),
        }
        .into()
    }

    /// The same, told to another of those whom it concerns.
    pub(crate) fn retold(&self, what: String) -> Self {
        match &*self.0 {
            Kind::OutcomeUnknown { problem, .. } => Self::unknown(what, problem),
            Kind::Unavailable { problem, .. } => Self::unavailable(what, problem),
            Kind::Closed => Kind::Closed.into(),
            other => Self::refused(what, other),
        }
    }

    pub(crate) fn refused(what: impl Into<String>, problem: impl fmt::Display) -> Self {
        Kind::Refused {
            what: what.into(),
            problem: problem.to_string(),
        }
        .into()
    }

    /// The same with keys as a view names them: without its prefix.
    pub(crate) fn within(mut self, prefix: &Prefix) -> Self {
        match &mut *self.0 {
            Kind::Value { key, .. } | Kind::Conflict { key, .. } | Kind::DuplicateKey(key) => {
                *key = prefix.strip(key).unwrap_or_else(|| key.clone());
            }
            Kind::Refused { what, .. }
            | Kind::OlderSchema { what, .. }
            | Kind::Denied { what, .. }
            | Kind::Unavailable { what, .. }
            | Kind::Retryable { what, .. }
            | Kind::OutcomeUnknown { what, .. }
            | Kind::Timeout { what, .. } => {
                let named = format!("key \"{}", shown(prefix.as_str()));
                *what = what.replacen(&named, "key \"", 1);
            }
            Kind::Key(_)
            | Kind::EmptyWrite
            | Kind::Setting { .. }
            | Kind::Placed { .. }
            | Kind::MissingConsumer { .. }
            | Kind::NotReady
            | Kind::Decode(_)
            | Kind::OtherEpoch { .. }
            | Kind::Closed => {}
        }
        self
    }

    /// Adds to why the store cannot be reached.
    pub(crate) fn and(mut self, more: impl fmt::Display) -> Self {
        if let Kind::Unavailable { problem, .. } = &mut *self.0 {
            *problem = format!("{problem}; {more}");
        }
        self
    }

    /// Trying the same again may work: the store was away or busy, and nothing was written.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            *self.0,
            Kind::Unavailable { .. }
                | Kind::Retryable { .. }
                | Kind::Timeout { .. }
                | Kind::NotReady
        )
    }

    /// A precondition of a write did not hold. Nothing was written.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(*self.0, Kind::Conflict { .. })
    }

    /// The revision of the entry that a precondition met instead of what it expected, if the key has one: what to
    /// [`wait_for`](crate::SyncConfig::wait_for) before reading the key again.
    #[must_use]
    pub fn conflicting_revision(&self) -> Option<Revision> {
        match *self.0 {
            Kind::Conflict { at, .. } => at,
            _ => None,
        }
    }

    /// Nothing has been loaded yet.
    #[must_use]
    pub fn is_not_ready(&self) -> bool {
        matches!(*self.0, Kind::NotReady)
    }

    /// A key, a value, a setting or a batch is outside its bounds.
    #[must_use]
    pub fn is_invalid_input(&self) -> bool {
        matches!(
            *self.0,
            Kind::Key(_)
                | Kind::Value { .. }
                | Kind::DuplicateKey(_)
                | Kind::EmptyWrite
                | Kind::Setting { .. }
                | Kind::Placed { .. }
        )
    }

    /// A value is too large.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(
            *self.0,
            Kind::Value {
                error: ValueError::TooLarge { .. } | ValueError::Expands,
                ..
            }
        )
    }

    /// A value is not of the type that was asked for.
    #[must_use]
    pub fn is_wrong_type(&self) -> bool {
        matches!(*self.0, Kind::Decode(_))
    }

    /// The role lacks a right.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(*self.0, Kind::Denied { .. })
    }

    /// The store cannot be reached. Nothing was written.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(*self.0, Kind::Unavailable { .. })
    }

    /// A wait ended before what it waited for.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(*self.0, Kind::Timeout { .. })
    }

    /// The answer to a write was lost: it was applied or it was not. With an idempotency key it can be sent again.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(*self.0, Kind::OutcomeUnknown { .. })
    }

    /// A cursor is of a history that the store no longer has.
    #[must_use]
    pub fn is_other_epoch(&self) -> bool {
        matches!(*self.0, Kind::OtherEpoch { .. })
    }

    /// The schema beside the table is missing, or older than what was asked for.
    pub(crate) fn is_older_schema(&self) -> bool {
        matches!(*self.0, Kind::OlderSchema { .. })
    }

    /// A consumer of the journal was removed.
    #[must_use]
    pub fn is_missing_consumer(&self) -> bool {
        matches!(*self.0, Kind::MissingConsumer { .. })
    }

    /// The service was shut down.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(*self.0, Kind::Closed)
    }
}

impl<K: Into<Kind>> From<K> for Error {
    fn from(kind: K) -> Self {
        Self(Box::new(kind.into()))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whatever was put into it, by a server, a file or a caller, it stays one line.
        fmt::Display::fmt(&shown(&self.0.to_string()), f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_with_a_line_break_does_not_break_the_line_of_a_message() {
        let key = Key::stored("a\n\u{1b}[31mö\"b\u{85}\r\n");
        let decode = DecodeError {
            key: key.clone(),
            found: "string",
            wanted: "bool",
            place: "line 1 column 1".to_owned(),
        };
        let conflict = Kind::Conflict {
            key: key.clone(),
            expected: "absent".to_owned(),
            actual: "there".to_owned(),
            at: None,
        };
        let value = Kind::Value {
            key: key.clone(),
            error: ValueError::Expands,
        };
        for kind in [
            conflict,
            value,
            Kind::Decode(decode),
            Kind::DuplicateKey(key),
        ] {
            let message = Error::from(kind).to_string();
            assert!(!message.contains(char::is_control), "{message:?}");
            assert!(
                message.contains(r#""a\n\u{1b}[31mö"b\u{85}\r\n""#),
                "{message}"
            );
        }
    }

    #[test]
    fn a_view_names_its_own_keys() {
        let prefix = Prefix::parse("a\"b:").unwrap();
        let error = Error::unavailable("writing key \"a\"b:k\"", "gone").within(&prefix);
        assert!(
            error.to_string().starts_with("writing key \"k\":"),
            "{error}"
        );
        let error = Error::from(Kind::DuplicateKey(Key::stored("a\"b:k"))).within(&prefix);
        assert!(error.to_string().starts_with("key \"k\" stands"), "{error}");
    }
}
