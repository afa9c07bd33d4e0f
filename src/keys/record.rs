//! What is stored of a key.
//!
//! Guarantees: a record that does not have exactly the members of this version, or that lies where it should not, is none: a
//! limit that a later version adds is not passed over by this one.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::token::{Digest, KeyId};
use crate::core::Entry;
use crate::error::{Error, Result};
use crate::wire::timestamp;

/// The longest name of an identity in bytes: it stands in logs and statistics.
const MAX_NAME: usize = 64;

/// The places of an identity's keys: two, so that a new one can be handed out before the old one is revoked.
pub(super) const SLOTS: [&str; 2] = ["a", "b"];

/// What somebody may do; each one may do what those before it may.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Reads, watches and asks for the status.
    Read,
    /// The same, and writes and deletes.
    Write,
    /// The same, and sees who is connected.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        })
    }
}

/// Whose keys they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name(String);

impl Name {
    /// Accepts a name.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] when it is empty, longer than 64 bytes, or holds something else than letters, digits and
    /// `.` `_` `-` `:` `@`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:@".contains(&byte);
        if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(allowed) {
            let problem =
                format!("has 1 to {MAX_NAME} letters, digits, and of . _ - : @ whatever it wants");
            return Err(Error::setting("identity", text, problem));
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The store's keys under which its records are.
    pub(super) fn slots(&self) -> [String; 2] {
        SLOTS.map(|slot| format!("{}/{slot}", self.0))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) id: KeyId,
    /// SHA-256 of the token.
    pub(crate) hash: Digest,
    pub(crate) role: Role,
    /// The keys it is for; `""` is every key, none is no key.
    pub(crate) prefixes: Vec<String>,
    #[serde(serialize_with = "written", deserialize_with = "read")]
    pub(crate) created_at: SystemTime,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "written_if_any",
        deserialize_with = "read_if_any"
    )]
    pub(crate) expires_at: Option<SystemTime>,
    /// Instead of the server's own bound; 0 is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) requests_per_minute: Option<u32>,
}

impl Record {
    /// Whether it still lets somebody in.
    pub(crate) fn is_live(&self, now: SystemTime) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

/// A key as `list` shows it: without the digest.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listed {
    pub(crate) identity: String,
    pub(crate) id: KeyId,
    pub(crate) role: Role,
    pub(crate) prefixes: Vec<String>,
    #[serde(serialize_with = "written")]
    pub(crate) created_at: SystemTime,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "written_if_any"
    )]
    pub(crate) expires_at: Option<SystemTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requests_per_minute: Option<u32>,
    pub(crate) expired: bool,
}

impl Listed {
    pub(crate) fn new(name: &Name, record: &Record, now: SystemTime) -> Self {
        Self {
            identity: name.to_string(),
            id: record.id,
            role: record.role,
            prefixes: record.prefixes.clone(),
            created_at: record.created_at,
            expires_at: record.expires_at,
            requests_per_minute: record.requests_per_minute,
            expired: !record.is_live(now),
        }
    }
}

/// Whose record an entry is, and the record. What is wrong with it is told without a part of it.
pub(crate) fn place(entry: &Entry) -> Result<(Name, Record), &'static str> {
    let key = entry.key().as_str();
    let name = key.rsplit_once('/');
    let name = name.filter(|(_, slot)| SLOTS.contains(slot));
    let name = name.and_then(|(name, _)| Name::parse(name).ok());
    let name = name.ok_or("its key is no identity with /a or /b behind it")?;
    let record = entry.parse();
    let record = record.map_err(|_| "it is no record of this version")?;
    Ok((name, record))
}

fn written<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&timestamp(*time))
}

fn written_if_any<S: Serializer>(
    time: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => written(time, serializer),
        None => serializer.serialize_none(),
    }
}

fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_rfc3339(&text).map_err(|_| de::Error::custom("wants a time as in RFC 3339"))
}

fn read_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
    read(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Token;

    fn record() -> serde_json::Value {
        let token = Token::draw().unwrap();
        serde_json::to_value(Record {
            id: token.id(),
            hash: token.digest(),
            role: Role::Write,
            prefixes: vec!["a/".to_owned()],
            created_at: SystemTime::UNIX_EPOCH,
            expires_at: None,
            requests_per_minute: Some(7),
        })
        .unwrap()
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_nothing_else_is_one() {
        let read = |json: &serde_json::Value| serde_json::from_str::<Record>(&json.to_string());
        let good = record();
        assert_eq!(serde_json::to_value(read(&good).unwrap()).unwrap(), good);
        for member in ["id", "hash", "role", "prefixes", "createdAt"] {
            let mut lacking = record();
            lacking.as_object_mut().unwrap().remove(member);
            assert!(read(&lacking).is_err(), "without {member}");
        }
        for (member, value) in [
            ("onlyFrom", "10.0.0.0/8"),
            ("role", "root"),
            ("expiresAt", "soon"),
            ("hash", "00"),
        ] {
            let mut other = record();
            other[member] = value.into();
            assert!(read(&other).is_err(), "{member}");
        }
        let mut never = record();
        never["expiresAt"] = serde_json::Value::Null;
        assert!(
            read(&never).is_err(),
            "null is no time, and no end is no member"
        );
    }

    #[test]
    fn a_name_has_no_slash_and_nothing_that_steers_a_log() {
        for good in ["gateway", "team:billing@eu-1.example", &"x".repeat(64)] {
            assert_eq!(Name::parse(good).unwrap().as_str(), good);
        }
        for wrong in ["", "a/b", "a b", "ä", "a\n", &"x".repeat(65)] {
            assert!(Name::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
