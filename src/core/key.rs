//! Keys: parsed once at the edge, right everywhere below it.
//!
//! Guarantees: a [`Key`] made by [`Key::parse`] is within the bounds every store enforces. Keys that come out of a store
//! are taken as they are, because a row that an older program left there must not stop a load.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::shown::{shown, shown_start};

/// The longest key in characters: the width of the table's `VARCHAR(255)` column.
pub const MAX_KEY_CHARS: usize = 255;

/// The longest key in UTF-8 bytes: 255 characters of four bytes each.
pub const MAX_KEY_BYTES: usize = 1_020;

/// Names an entry. Cheap to clone; ordered by its UTF-8 bytes, as `COLLATE "C"` orders them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// Parses a key.
    ///
    /// # Errors
    ///
    /// An empty key, one of more than [`MAX_KEY_CHARS`] characters, and one with a NUL character (which PostgreSQL
    /// cannot store) are refused.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.contains('\0') {
            return Err(KeyError::Nul(shown_start(text)));
        }
        let chars = text.chars().count();
        if chars > MAX_KEY_CHARS {
            return Err(KeyError::TooLong {
                key: shown_start(text),
                chars,
            });
        }
        Ok(Self(text.into()))
    }

    /// Takes a key as a store holds it.
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a prefix ends in, so that `a:` never shows `ab`.
const SEPARATORS: [char; 3] = [':', '/', '.'];

/// The beginning that all keys of a view have and none of them shows: it ends in a separator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefix(Arc<str>);

impl Prefix {
    /// Parses a prefix: the beginning of a key, with a separator at its end and room for a key behind it.
    pub(crate) fn parse(text: &str) -> Result<Self, KeyError> {
        let refused = |problem: String| {
            let prefix = shown_start(text);
            Err(KeyError::Prefix { prefix, problem })
        };
        if !text.ends_with(SEPARATORS) {
            return refused("does not end in a separator; put \":\", \"/\" or \".\" at its end, so that `a:` does not show `ab`".to_owned());
        }
        if text.contains('\0') {
            return refused("holds a NUL character, which PostgreSQL cannot store".to_owned());
        }
        let chars = text.chars().count();
        if chars >= MAX_KEY_CHARS {
            return refused(format!(
                "has {chars} characters; the bound of a key is {MAX_KEY_CHARS}, and one at least has to follow"
            ));
        }
        Ok(Self(text.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The key with this prefix before it.
    pub(crate) fn join(&self, key: &str) -> Result<Key, KeyError> {
        // What is wrong with the key alone is said of the key alone.
        Key::parse(key)?;
        let whole = format!("{}{key}", self.0);
        let chars = whole.chars().count();
        if chars > MAX_KEY_CHARS {
            return Err(KeyError::TooLongWithin {
                prefix: shown_start(&self.0),
                key: shown_start(key),
                chars,
            });
        }
        Ok(Key::stored(&whole))
    }

    /// What follows this prefix in a key; `None` for a key of others, and for the prefix itself.
    pub(crate) fn strip(&self, key: &str) -> Option<Key> {
        let rest = key.strip_prefix(&*self.0)?;
        if rest.is_empty() {
            None
        } else {
            Some(Key::stored(rest))
        }
    }
}

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is empty.
    #[error("a key must not be empty; it has 1 to {MAX_KEY_CHARS} characters")]
    Empty,
    /// The text holds a NUL character.
    #[error("key \"{0}\" holds a NUL character, which PostgreSQL cannot store")]
    Nul(String),
    /// The text is longer than the column.
    #[error("key \"{key}…\" has {chars} characters; the bound is {MAX_KEY_CHARS}")]
    TooLong {
        /// The first 64 characters.
        key: String,
        /// How many characters it has.
        chars: usize,
    },
    /// The text is longer than the column together with the prefix of the view or group it is used in.
    #[error(
        "key \"{key}…\" has {chars} characters with its prefix \"{prefix}\"; the bound is {MAX_KEY_CHARS}"
    )]
    TooLongWithin {
        /// The view's prefix.
        prefix: String,
        /// The first 64 characters of the key within the view.
        key: String,
        /// How many characters both have.
        chars: usize,
    },
    /// The text cannot be the prefix of a view.
    #[error("the prefix \"{prefix}\" {problem}")]
    Prefix {
        /// The first 64 characters.
        prefix: String,
        /// Why not.
        problem: String,
    },
}

impl Deref for Key {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// For people: characters that cannot be seen are escaped, so that no key forges a line of a log. The text itself is
/// [`Key::as_str`].
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&shown(&self.0), f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl serde::Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_count_characters_and_name_the_key() {
        assert!(Key::parse(&"ä".repeat(255)).is_ok());
        let long = Key::parse(&"k".repeat(256)).unwrap_err().to_string();
        assert!(
            long.contains("256") && long.contains("255") && long.contains("kkk"),
            "{long}"
        );
        assert_eq!(Key::parse(""), Err(KeyError::Empty));
        assert!(matches!(Key::parse("a\0b"), Err(KeyError::Nul(shown)) if shown == "a\\0b"));
    }

    #[test]
    fn a_prefix_ends_in_a_separator_and_leaves_room() {
        for wrong in ["", "a", "a: ", "a\0:", &format!("{}:", "k".repeat(254))] {
            let error = Prefix::parse(wrong).unwrap_err();
            assert!(matches!(error, KeyError::Prefix { .. }), "{error}");
        }
        for right in ["a:", "a/", "a.", ":", &format!("{}:", "k".repeat(253))] {
            assert_eq!(Prefix::parse(right).unwrap().as_str(), right);
        }
        let prefix = Prefix::parse("tenant:42:").unwrap();
        assert_eq!(prefix.strip("tenant:42:k"), Some(Key::stored("k")));
        assert_eq!(prefix.strip("tenant:421"), None);
        assert_eq!(prefix.strip("tenant:42:"), None);
        assert_eq!(prefix.join(""), Err(KeyError::Empty));
        assert!(prefix.join(&"k".repeat(245)).is_ok());
        let long = prefix.join(&"k".repeat(246)).unwrap_err().to_string();
        for part in ["kkk", "tenant:42:", "256", "255"] {
            assert!(long.contains(part), "{long}");
        }
    }

    #[test]
    fn order_is_that_of_the_bytes() {
        let mut keys = ["ä", "b", "B", "a:1", "a"].map(Key::stored);
        keys.sort();
        assert_eq!(keys.map(|key| key.to_string()), ["B", "a", "a:1", "b", "ä"]);
    }
}
