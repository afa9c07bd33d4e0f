//! Revisions, their random ids, and the epoch that tells one history from another.

use std::fmt;
use std::str::FromStr;

/// A position in the history of a store: 0 before the first change, then dense and in commit order (1, 2, 3 …).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Revision(u64);

impl Revision {
    /// The state before the first change.
    pub const ZERO: Self = Self(0);

    /// A revision by its number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The revision after this one. No store counts beyond `i64::MAX`, and a made up one that is the largest has none after
    /// it: it stays.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 128 random bits that tell two things of the same number apart. Written and read as a UUID.
macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// Makes one of 128 bits.
            #[must_use]
            pub const fn from_u128(bits: u128) -> Self {
                Self(bits)
            }

            /// The bits.
            #[must_use]
            pub const fn as_u128(self) -> u128 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_uuid(self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_uuid(self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_uuid(text).map(Self).ok_or(ParseIdError)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

random_id! {
    /// Names one unbroken history of a store. A restore from a backup or a lossy failover begins a new one.
    Epoch
}

random_id! {
    /// The random id of one revision: two histories that share a number but not a past differ in it.
    RevisionId
}

/// A text is not a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID of 32 hexadecimal digits")]
pub struct ParseIdError;

fn write_uuid(bits: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let hex = format!("{bits:032x}");
    write!(
        f,
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

fn parse_uuid(text: &str) -> Option<u128> {
    let dashed = text.len() == 36
        && [8, 13, 18, 23]
            .iter()
            .all(|&at| text.as_bytes()[at] == b'-');
    let hex: String = if dashed {
        text.chars().filter(|&c| c != '-').collect()
    } else {
        text.to_owned()
    };
    let digits = hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits {
        u128::from_str_radix(&hex, 16).ok()
    } else {
        None
    }
}

/// A place in one particular history: what a reader needs to resume and to notice that the past was rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Cursor {
    /// The history.
    pub epoch: Epoch,
    /// The revision in it.
    pub revision: Revision,
    /// That revision's random id.
    pub id: RevisionId,
}

#[cfg(any(feature = "server", feature = "remote"))]
impl Cursor {
    /// A text that names it, opaque to clients.
    pub(crate) fn to_text(self) -> String {
        let (epoch, id) = (self.epoch.as_u128(), self.id.as_u128());
        format!("{epoch:032x}-{}-{id:032x}", self.revision)
    }

    /// Reads such a text back; `None` for garbage.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (epoch, revision, id) = (parts.next()?, parts.next()?, parts.next()?);
        let digits = revision.bytes().all(|byte| byte.is_ascii_digit());
        // PostgreSQL counts up to i64::MAX.
        let number = revision.parse::<i64>().ok()?.unsigned_abs();
        if parts.next().is_some() || !digits {
            return None;
        }
        Some(Self {
            epoch: epoch.parse().ok()?,
            revision: Revision::new(number),
            id: id.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_and_read_as_uuids() {
        let text = "0123abcd-4567-89ef-0123-456789abcdef";
        let epoch: Epoch = text.parse().unwrap();
        assert_eq!(epoch.to_string(), text);
        assert_eq!(text.replace('-', "").parse::<Epoch>(), Ok(epoch));
        for wrong in [
            "",
            "0123",
            "0123abcd-4567-89ef-0123-456789abcdeg",
            "+123abcd-4567-89ef-0123-456789abcdef",
        ] {
            assert_eq!(wrong.parse::<Epoch>(), Err(ParseIdError), "{wrong}");
        }
    }
}
