//! What a server says, read as what this program holds.
//!
//! Guarantees: a value keeps the bytes of its text; what is not as it has to be is refused as a whole, and no message about
//! it holds any of its values; members that are not known are passed over, since newer servers may say more.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::elements::Strange;
use crate::core::replica::AuditReport;
use crate::core::{
    Checksum, Cursor, Entry, Journaled, JournaledChange, Key, MAX_KEY_BYTES, Revision, RevisionId,
    Value,
};

/// The longest revision in bytes of its JSON. What is larger is not followed; the whole state is read instead.
pub(super) const MAX_REVISION: usize = 64 * 1_048_576;

/// The longest entry: a value and its key, with room for escapes.
pub(super) const MAX_ENTRY: usize = 4 * 1_048_576;

/// A message of a watch.
#[derive(Debug, Deserialize)]
pub(super) struct Message<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    cursor: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, Strange> {
        read("a message", text)
    }

    /// The place that it leads to; only the last part of several has one.
    pub(super) fn cursor(&self) -> Result<Option<Cursor>, Strange> {
        self.cursor.as_deref().map(cursor).transpose()
    }

    /// The number of the question that it answers.
    pub(super) fn number(&self) -> Option<u64> {
        self.id?.get().parse().ok()
    }

    pub(super) fn payload<T: Deserialize<'a>>(&self) -> Result<T, Strange> {
        read(&self.kind, self.payload.map_or("null", RawValue::get))
    }
}

/// What a watch begins with.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ack<'a> {
    #[serde(borrow)]
    cursor: Cow<'a, str>,
    /// The prefixes of the keys that are shown, if not all are.
    #[serde(default)]
    pub(super) prefixes: Option<Vec<String>>,
}

impl Ack<'_> {
    pub(super) fn cursor(&self) -> Result<Cursor, Strange> {
        cursor(&self.cursor)
    }
}

/// A piece of the text of a message.
#[derive(Debug, Deserialize)]
pub(super) struct Chunk<'a> {
    pub(super) chunk: u64,
    pub(super) last: bool,
    #[serde(borrow)]
    pub(super) text: Cow<'a, str>,
}

/// The changes of one revision, or a part of them.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Changed<'a> {
    pub(super) revision: u64,
    #[serde(default)]
    pub(super) part: Option<u64>,
    #[serde(default)]
    pub(super) last: Option<bool>,
    #[serde(borrow)]
    changes: Vec<Change<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Change<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    old: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    new: Option<&'a RawValue>,
    #[serde(borrow, default)]
    updated_at: Option<Cow<'a, str>>,
}

/// A change with both of its texts.
#[derive(Debug)]
pub(super) struct Both {
    pub(super) key: Key,
    pub(super) old: Option<Arc<str>>,
    pub(super) new: Option<Arc<str>>,
}

impl Changed<'_> {
    /// The changes, and when the transaction that made them began, if that is told.
    pub(super) fn changes(&self) -> Result<(Vec<JournaledChange>, Option<i64>), Strange> {
        let mut at = None;
        let mut changes = Vec::with_capacity(self.changes.len());
        for change in &self.changes {
            let Both { key, new, .. } = change.both()?;
            changes.push(JournaledChange { key, new });
            if let Some(time) = &change.updated_at {
                at = at.max(Some(micros(time)?));
            }
        }
        Ok((changes, at))
    }
}

impl Change<'_> {
    fn both(&self) -> Result<Both, Strange> {
        let text = |text: Option<&RawValue>| text.map(|text| Arc::from(text.get()));
        let puts = match &*self.kind {
            "put" => true,
            "delete" => false,
            _ => return Err(Strange::new("a change is neither a put nor a delete")),
        };
        if puts != self.new.is_some() {
            return Err(Strange::new("a change contradicts itself"));
        }
        Ok(Both {
            key: key(&self.key)?,
            old: text(self.old),
            new: text(self.new),
        })
    }
}

/// The answer to a question for the head.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HeadAnswer<'a> {
    #[serde(borrow)]
    cursor: Cow<'a, str>,
    #[serde(borrow, default)]
    own_id: Option<Cow<'a, str>>,
    /// How long ago what it shows was last proven the newest; `None` when it never was.
    #[serde(default)]
    pub(super) stale_ms: Option<u64>,
    #[serde(borrow)]
    pub(super) mode: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    audit: Option<Audit<'a>>,
}

#[derive(Debug, Deserialize)]
struct Audit<'a> {
    number: u64,
    revision: u64,
    #[serde(borrow)]
    checksum: Cow<'a, str>,
}

impl HeadAnswer<'_> {
    pub(super) fn cursor(&self) -> Result<Cursor, Strange> {
        cursor(&self.cursor)
    }

    pub(super) fn own_id(&self) -> Result<Option<RevisionId>, Strange> {
        let id = self.own_id.as_deref().map(str::parse::<RevisionId>);
        id.transpose().map_err(|_| Strange::new("an id is broken"))
    }

    pub(super) fn audit(&self) -> Result<Option<AuditReport>, Strange> {
        let Some(audit) = &self.audit else {
            return Ok(None);
        };
        let checksum = u32::from_str_radix(&audit.checksum, 16)
            .map_err(|_| Strange::new("a checksum is broken"))?;
        Ok(Some(AuditReport {
            number: audit.number,
            revision: revision(audit.revision)?,
            checksum: Checksum::new(checksum),
        }))
    }
}

/// One revision of the journal.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Recorded<'a> {
    #[serde(borrow)]
    cursor: Cow<'a, str>,
    #[serde(borrow, default)]
    committed_at: Option<Cow<'a, str>>,
    #[serde(borrow)]
    changes: Vec<Change<'a>>,
}

impl<'a> Recorded<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, Strange> {
        read("a revision", text)
    }

    pub(super) fn cursor(&self) -> Result<Cursor, Strange> {
        cursor(&self.cursor)
    }

    /// With old and new texts.
    pub(super) fn both(&self) -> Result<Vec<Both>, Strange> {
        self.changes.iter().map(Change::both).collect()
    }

    /// When its transaction began, if that is told.
    pub(super) fn at(&self) -> Result<Option<i64>, Strange> {
        let times = self
            .changes
            .iter()
            .filter_map(|one| one.updated_at.as_ref());
        let mut at = None;
        for time in self.committed_at.iter().chain(times) {
            at = at.max(Some(micros(time)?));
        }
        Ok(at)
    }

    /// As the journal of a replica has it.
    pub(super) fn journaled(&self, cursor: Cursor) -> Result<Journaled, Strange> {
        let at = self.at()?;
        let changes = self.both()?.into_iter();
        let changes = changes.map(|Both { key, new, .. }| JournaledChange { key, new });
        Ok(journaled(cursor, changes.collect(), at))
    }
}

/// A revision as the journal of a replica has it. Where the server does not know when it was made it is the beginning of
/// time, rather than a time that is made up.
pub(super) fn journaled(
    cursor: Cursor,
    changes: Vec<JournaledChange>,
    at: Option<i64>,
) -> Journaled {
    Journaled {
        revision: cursor.revision,
        id: cursor.id,
        at_micros: at.unwrap_or(0),
        origin: None,
        changes,
    }
}

/// An entry of a whole state.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StateEntry<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    value: &'a RawValue,
    revision: u64,
    #[serde(borrow)]
    updated_at: Cow<'a, str>,
}

/// Reads an entry of a state at a revision.
pub(super) fn entry(text: &str, at: Revision) -> Result<Entry, Strange> {
    let told: StateEntry<'_> = read("an entry", text)?;
    let revision = revision(told.revision)?;
    if revision > at {
        return Err(Strange::new("an entry is newer than the state it is in"));
    }
    let value = Value::stored(told.value.get());
    Ok(Entry::new(
        key(&told.key)?,
        value,
        revision,
        micros(&told.updated_at)?,
    ))
}

/// What became of a batch.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BatchAnswer<'a> {
    #[serde(borrow)]
    cursor: Cow<'a, str>,
    pub(super) changed: bool,
    #[serde(default)]
    pub(super) replayed: bool,
    #[serde(borrow)]
    pub(super) keys: Vec<BatchKey<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BatchKey<'a> {
    #[serde(borrow)]
    pub(super) key: Cow<'a, str>,
    pub(super) changed: bool,
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) value: Option<&'a RawValue>,
    /// Of the entry, if there is one after the write.
    #[serde(default)]
    revision: Option<u64>,
    #[serde(borrow, default)]
    updated_at: Option<Cow<'a, str>>,
}

impl<'a> BatchAnswer<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, Strange> {
        read("the answer", text)
    }

    pub(super) fn cursor(&self) -> Result<Cursor, Strange> {
        cursor(&self.cursor)
    }
}

impl BatchKey<'_> {
    /// The entry's revision and time; `None` where the key is absent.
    pub(super) fn entry(&self) -> Result<Option<(Revision, i64)>, Strange> {
        let Some(number) = self.revision else {
            return Ok(None);
        };
        let at = self.updated_at.as_deref().map(micros).transpose()?;
        Ok(Some((revision(number)?, at.unwrap_or(0))))
    }
}

/// An error as RFC 9457 has it, with what this service adds.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Problem {
    #[serde(rename = "type")]
    kind: String,
    pub(super) detail: String,
    pub(super) key: Option<String>,
    pub(super) expected: Option<String>,
    pub(super) actual: Option<String>,
    pub(super) actual_revision: Option<u64>,
}

impl Problem {
    /// Reads one; what cannot be read is one that says nothing.
    pub(super) fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    /// What kind of problem of this service it is; `None` where somebody else has answered.
    pub(super) fn slug(&self) -> Option<&str> {
        self.kind.strip_prefix("urn:sync-config:problem:")
    }
}

/// Reads a place in a history.
pub(super) fn cursor(text: &str) -> Result<Cursor, Strange> {
    Cursor::from_text(text).ok_or_else(|| Strange::new("a cursor is broken"))
}

/// PostgreSQL's `bigint` bounds a revision.
pub(super) fn revision(number: u64) -> Result<Revision, Strange> {
    match i64::try_from(number) {
        Ok(_) => Ok(Revision::new(number)),
        Err(_) => Err(Strange::new("a revision is out of bounds")),
    }
}

pub(super) fn read<'a, T: Deserialize<'a>>(what: &str, text: &'a str) -> Result<T, Strange> {
    // What the reader says of a text can quote it.
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Strange(format!(
            "{what} is not what was expected (line {line} column {column})"
        ))
    })
}

fn key(text: &str) -> Result<Key, Strange> {
    if text.len() > MAX_KEY_BYTES {
        return Err(Strange::new("a key is out of bounds"));
    }
    Ok(Key::stored(text))
}

/// Microseconds since 1970.
fn micros(text: &str) -> Result<i64, Strange> {
    let broken = || Strange::new("a time is broken");
    let time = humantime::parse_rfc3339(text).map_err(|_| broken())?;
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.map_err(|_| broken())?.as_micros();
    i64::try_from(since).map_err(|_| broken())
}

/// A member that is there has a value, even if that is `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests;
