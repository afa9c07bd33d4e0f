//! The text of a kept state and of its mark: JSON lines, the last of which seals those before it.
//!
//! ```text
//! {"format":"sync-config state","version":1,"store":"…","generation":7,"epoch":"…","revision":12,"id":"…",
//!  "checksum":"5f9c514f","entries":2,"writtenAt":"…","provenAt":"…"}           (one line)
//! ["a","1",11,1760000000000000]       key, the value's text, its revision, microseconds since 1970, in order of the keys
//! ["b","2",12,1760000000000001]
//! {"crc32":"0f3a9b21"}                CRC-32 (zlib's) of every byte before this line
//! ```
//!
//! Guarantees: a text is taken whole or not at all; any change of up to 32 neighbouring bits is found for certain, any other
//! but for one in four billion, and the entries have to fold to the store's own checksum besides.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Fresh, Refusal};
use crate::core::{Checksum, Cursor, Entry, Fold, Key, Revision, Value};

/// Raised with every change of the format; nobody reads what he does not know.
pub(super) const VERSION: u64 = 1;

pub(super) const STATE: &str = "sync-config state";
const MARK: &str = "sync-config mark";

/// `{"crc32":"00000000"}` and the end of the line.
const SEAL: usize = 21;

/// A kept state as it was read.
#[derive(Debug)]
pub(super) struct State {
    pub(super) store: String,
    pub(super) generation: u64,
    pub(super) cursor: Cursor,
    pub(super) written_at: SystemTime,
    pub(super) proven_at: SystemTime,
    pub(super) entries: Vec<Arc<Entry>>,
}

/// Which generation of the state is the newest.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) store: String,
    pub(super) generation: u64,
    pub(super) cursor: Cursor,
    pub(super) proven_at: SystemTime,
}

/// Why a text is not taken.
#[derive(Debug, PartialEq)]
pub(super) enum Flaw {
    Damaged(&'static str),
    OtherVersion(u64),
}

impl Flaw {
    pub(super) fn of(self, file: &str) -> Refusal {
        let file = file.to_owned();
        match self {
            Self::Damaged(problem) => Refusal::Damaged { file, problem },
            Self::OtherVersion(version) => Refusal::OtherVersion { file, version },
        }
    }
}

/// The part that every version has.
#[derive(Deserialize)]
struct Kind {
    format: String,
    version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Header {
    format: String,
    version: u64,
    store: String,
    generation: u64,
    epoch: String,
    revision: u64,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    written_at: Option<String>,
    proven_at: String,
}

impl Header {
    fn new(
        format: &str,
        store: &str,
        generation: u64,
        cursor: Cursor,
        proven_at: SystemTime,
    ) -> Self {
        Self {
            format: format.to_owned(),
            version: VERSION,
            store: store.to_owned(),
            generation,
            epoch: cursor.epoch.to_string(),
            revision: cursor.revision.get(),
            id: cursor.id.to_string(),
            checksum: None,
            entries: None,
            written_at: None,
            proven_at: moment(proven_at),
        }
    }

    fn cursor(&self) -> Option<Cursor> {
        // PostgreSQL counts up to i64::MAX.
        i64::try_from(self.revision).ok()?;
        Some(Cursor {
            epoch: self.epoch.parse().ok()?,
            revision: Revision::new(self.revision),
            id: self.id.parse().ok()?,
        })
    }
}

impl State {
    /// Writes a state as a text.
    pub(super) fn encode(
        store: &str,
        generation: u64,
        fresh: &Fresh,
        written_at: SystemTime,
    ) -> Vec<u8> {
        let (snapshot, cursor) = (&fresh.snapshot, fresh.snapshot.cursor());
        let header = Header {
            checksum: Some(snapshot.checksum().to_string()),
            entries: Some(snapshot.len() as u64),
            written_at: Some(moment(written_at)),
            ..Header::new(STATE, store, generation, cursor, fresh.proven_at)
        };
        let mut text = line(&header);
        for entry in snapshot.iter() {
            let revision = entry.revision().get();
            text += &line(&(
                entry.key().as_str(),
                entry.as_json(),
                revision,
                entry.updated_micros(),
            ));
        }
        sealed(text)
    }

    /// Reads a text, all of it or nothing.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Flaw> {
        let (header, rest) = unsealed(bytes, STATE)?;
        let damaged = || Flaw::Damaged("its header is incomplete");
        let cursor = header.cursor().ok_or_else(damaged)?;
        let checksum = header.checksum.as_ref().ok_or_else(damaged)?;
        let written_at = header.written_at.as_deref().and_then(time);
        let written_at = written_at.ok_or_else(damaged)?;
        let proven_at = time(&header.proven_at).ok_or_else(damaged)?;
        let (mut entries, mut fold) = (Vec::<Arc<Entry>>::new(), Fold::default());
        for line in rest.lines() {
            let parsed: Result<(String, String, u64, i64), _> = serde_json::from_str(line);
            let (key, text, revision, micros) =
                parsed.map_err(|_| Flaw::Damaged("a line is no entry"))?;
            let ordered = entries
                .last()
                .is_none_or(|last| last.key().as_str() < key.as_str());
            if !ordered || revision > cursor.revision.get() {
                return Err(Flaw::Damaged("its entries are not in order"));
            }
            fold.add(&key, &text);
            let (key, value) = (Key::stored(&key), Value::stored(&text));
            let entry = Entry::new(key, value, Revision::new(revision), micros);
            entries.push(Arc::new(entry));
        }
        let folded: Checksum = fold.finish();
        if header.entries != Some(entries.len() as u64) || *checksum != folded.to_string() {
            return Err(Flaw::Damaged("its entries do not fold to its checksum"));
        }
        Ok(Self {
            store: header.store,
            generation: header.generation,
            cursor,
            written_at,
            proven_at,
            entries,
        })
    }
}

impl Mark {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self {
            store,
            generation,
            cursor,
            proven_at,
        } = self;
        sealed(line(&Header::new(
            MARK,
            store,
            *generation,
            *cursor,
            *proven_at,
        )))
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Flaw> {
        let (header, rest) = unsealed(bytes, MARK)?;
        let damaged = || Flaw::Damaged("its header is incomplete");
        if !rest.is_empty() {
            return Err(Flaw::Damaged("it is longer than a mark"));
        }
        Ok(Self {
            cursor: header.cursor().ok_or_else(damaged)?,
            proven_at: time(&header.proven_at).ok_or_else(damaged)?,
            store: header.store,
            generation: header.generation,
        })
    }
}

/// The store and the generation that a state's first line names.
pub(super) fn peek(first: &str) -> Option<(String, u64)> {
    let header: Header = serde_json::from_str(first).ok()?;
    (header.format == STATE).then_some((header.store, header.generation))
}

fn line(value: &impl Serialize) -> String {
    // Strings and numbers always have a JSON form.
    let mut line = serde_json::to_string(value).unwrap_or_default();
    line.push('\n');
    line
}

pub(super) fn sealed(text: String) -> Vec<u8> {
    let seal = seal(text.as_bytes());
    (text + &seal).into_bytes()
}

fn seal(bytes: &[u8]) -> String {
    format!("{{\"crc32\":\"{:08x}\"}}\n", crc32fast::hash(bytes))
}

/// The header and the lines between it and the seal.
fn unsealed<'a>(bytes: &'a [u8], format: &str) -> Result<(Header, &'a str), Flaw> {
    let first = bytes.split(|byte| *byte == b'\n').next();
    let kind: Option<Kind> = first.and_then(|first| serde_json::from_slice(first).ok());
    if let Some(Kind { version, .. }) = kind.filter(|kind| kind.format == format)
        && version != VERSION
    {
        return Err(Flaw::OtherVersion(version));
    }
    let at = bytes.len().checked_sub(SEAL);
    let (body, end) = at
        .and_then(|at| bytes.split_at_checked(at))
        .ok_or(Flaw::Damaged("it is cut short"))?;
    // Compared as a text: a digit in another case would be another byte of the same number.
    if end != seal(body).as_bytes() {
        return Err(Flaw::Damaged(
            "its seal does not fit; it is cut short or altered",
        ));
    }
    let body = std::str::from_utf8(body).map_err(|_| Flaw::Damaged("it is no UTF-8"))?;
    let (first, rest) = body
        .split_once('\n')
        .ok_or(Flaw::Damaged("it has no header"))?;
    let header: Header =
        serde_json::from_str(first).map_err(|_| Flaw::Damaged("its header cannot be read"))?;
    if header.format != format {
        return Err(Flaw::Damaged("it is another kind of file"));
    }
    Ok((header, rest))
}

fn moment(time: SystemTime) -> String {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    humantime::format_rfc3339_micros(SystemTime::UNIX_EPOCH + since).to_string()
}

fn time(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}
