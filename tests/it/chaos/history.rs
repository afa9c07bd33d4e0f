//! What is recorded of a run: one JSON line for each event, in a file for each recording process.
//!
//! The order of lines within a file is the order in which they happened there. Events of different files are compared by
//! `at` alone, so every recorder reads a clock that nobody steps: see [`Recorder`].

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Microseconds since 1970.
pub(crate) type Micros = u64;

/// Entries: keys and the values' texts.
pub(crate) type Texts = BTreeMap<String, String>;

/// An event with the instance that it is about and the time at which it was over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The instance that the event is about, also where somebody else records it: an HTTP request belongs to the instance
    /// that was asked. `psql` and the like for clients without an instance; `orchestrator` for faults and truths.
    pub(crate) process: String,
    /// Counts the starts of that process.
    pub(crate) incarnation: u32,
    pub(crate) at: Micros,
    #[serde(flatten)]
    pub(crate) event: Event,
}

/// A place in a history. `rid` may be missing where an answer does not tell it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) epoch: String,
    pub(crate) revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rid: Option<String>,
}

/// A key with the texts before and after; absence is `None`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) old: Option<String>,
    pub(crate) new: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub(crate) enum Event {
    /// The process was about to be started: recorded before.
    Started,
    /// The process ended or was killed: recorded before the signal.
    Stopped,
    /// The first state of an incarnation. `kept`: it comes from the state file, not from the database.
    Loaded {
        place: Place,
        checksum: String,
        kept: bool,
    },
    /// A revision was published. Not every one has to be recorded.
    Applied { place: Place, checksum: String },
    /// A full resync ended.
    Reset {
        place: Place,
        checksum: String,
        reason: String,
    },
    /// A subscription began, or a stream was resumed from a place. Recorded before its first event.
    Subscribed {
        subscriber: String,
        filter: Scope,
        from: Option<Place>,
    },
    /// A subscriber was told something.
    Delivered {
        subscriber: String,
        place: Place,
        told: Told,
    },
    /// A subscription ended on purpose or with its connection: recorded before, unless the process stopped.
    Ended { subscriber: String },
    /// An operation was about to be sent: recorded before. Names of operations are unique in a run.
    Invoked {
        operation: String,
        #[serde(alias = "write")]
        request: Request,
    },
    /// Its answer came: recorded afterwards. Without it the outcome is unknown.
    Returned { operation: String, outcome: Outcome },
    /// A key was read. `place` where all is known of one revision (a snapshot), or the revision shown before the read.
    Read {
        key: String,
        text: Option<String>,
        place: Option<Place>,
        /// `place` is that of the text, not just one before it.
        exact: bool,
    },
    /// An instance told of itself. `at` is when the answer had come.
    Status(Status),
    /// A fault is about to be caused: from here on nobody is late.
    Fault {
        fault: String,
        what: FaultKind,
        /// The instances concerned; empty for all.
        processes: Vec<String>,
    },
    /// The fault has taken effect for certain.
    InEffect { fault: String },
    /// The fault is about to be healed.
    Mending { fault: String },
    /// The fault is over for certain: from here on everybody has to come to terms within a bound.
    Healed { fault: String },
    /// The journal of a history that is lost to a restore or promotion, read when nobody can write to it any more.
    Branch {
        truth: Truth,
        /// The newest revision that the database that takes over has for certain; what comes after may be lost.
        kept_up_to: u64,
    },
    /// What the database says at the end.
    Final {
        truth: Truth,
        /// The instances that run and have to hold exactly this.
        processes: Vec<String>,
        /// `pg_notification_queue_usage()`.
        queue_usage: f64,
        /// Sessions that listen and hold back VACUUM: those with a `backend_xmin` in two looks.
        pinned_by: Vec<String>,
    },
}

/// Which keys a subscriber asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Scope {
    All,
    Key(String),
    Prefix(String),
}

impl Scope {
    pub(crate) fn matches(&self, key: &str) -> bool {
        match self {
            Self::All => true,
            Self::Key(only) => only == key,
            Self::Prefix(prefix) => key.starts_with(prefix.as_str()),
        }
    }
}

/// What a subscriber was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Told {
    /// The state that a subscription begins or begins anew with.
    State(Texts),
    /// The matching changes of the revision.
    Changed(Vec<Change>),
    /// The differences that a resync found.
    Resynced(Vec<Change>),
    /// So many revisions were dropped; this is the state after them.
    Lagged { missed: u64, state: Texts },
    /// Everything up to the place was told.
    Bookmark,
}

/// A write of any kind: one key or many, with or without conditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) items: Vec<Asked>,
    pub(crate) idempotency_key: Option<String>,
}

/// A key, the text it shall have as PostgreSQL prints it, and the condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) key: String,
    pub(crate) new: Option<String>,
    pub(crate) condition: Option<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Condition {
    Absent,
    Present,
    /// The key was last changed by this revision.
    Revision(u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
pub(crate) enum Outcome {
    Applied {
        place: Place,
        /// False: there was nothing to change.
        changed: bool,
        /// The instance shows it; always false for clients without an instance.
        visible: bool,
        /// An earlier write under the same idempotency key had done it.
        replayed: bool,
    },
    /// The conditions did not hold.
    Conflict,
    /// Nothing was written, for any other reason.
    NotApplied { why: String },
    /// The answer was lost.
    Unknown { why: String },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// `push`, `poll` or `offline`.
    pub(crate) mode: String,
    pub(crate) ready: bool,
    /// What is shown comes from the state file.
    pub(crate) stale: bool,
    pub(crate) place: Option<Place>,
    pub(crate) checksum: Option<String>,
    /// How long before the answer the state was proven to be the newest, by the instance's own account.
    pub(crate) proven_ago: Option<Micros>,
    /// How long before `at` the instance may have looked: the time that the answer took, where it was asked from outside.
    #[serde(default)]
    pub(crate) took: Micros,
}

/// What a fault does, as far as the contract makes a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum FaultKind {
    /// The instances can neither reach the database nor hear it, on any connection; nor does it answer them.
    CutOff,
    /// Something slower or less: delays, lost notices, single connections terminated, a pool exhausted, a stuck listener.
    Disturbed,
    /// The process was killed or ended, and will be started again.
    Killed,
    /// Values in the memory of the instances were altered on purpose.
    Falsified,
    /// Rows were altered behind the triggers.
    Altered,
    /// An earlier backup, or a standby that had not got everything, took the database's place.
    Replaced,
}

/// A journal and what it led to, read in one database snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Truth {
    pub(crate) epoch: String,
    pub(crate) head: u64,
    /// The entries before the first of `revisions`; that one's number minus one is their revision.
    pub(crate) base: Texts,
    pub(crate) revisions: Vec<Revision>,
    pub(crate) table: Texts,
}

/// A revision as the journal holds it, in ascending order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revision {
    pub(crate) revision: u64,
    pub(crate) rid: String,
    pub(crate) idempotency_key: Option<String>,
    /// In byte order of the keys.
    pub(crate) changes: Vec<Change>,
}

/// Writes records of one process to a file, each at once and whole.
#[derive(Debug)]
pub(crate) struct Recorder {
    file: Mutex<File>,
    process: String,
    incarnation: u32,
    wall: Micros,
    begun: Instant,
}

impl Recorder {
    /// Appends to a file. Times are those of the system at this moment plus what a steady clock says has passed since,
    /// so that a clock that is stepped later leads nobody astray.
    #[allow(
        clippy::disallowed_methods,
        reason = "a history is told by a real clock"
    )]
    pub(crate) fn append(path: &Path, process: &str, incarnation: u32) -> io::Result<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = since.map_err(io::Error::other)?.as_micros();
        Ok(Self {
            file: Mutex::new(OpenOptions::new().create(true).append(true).open(path)?),
            process: process.to_owned(),
            incarnation,
            wall: Micros::try_from(wall).map_err(io::Error::other)?,
            begun: Instant::now(),
        })
    }

    /// The time now.
    pub(crate) fn now(&self) -> Micros {
        let passed = Micros::try_from(self.begun.elapsed().as_micros());
        self.wall.saturating_add(passed.unwrap_or(Micros::MAX))
    }

    /// Writes an event of this recorder's own process, which is over now.
    pub(crate) fn note(&self, event: Event) {
        self.note_of(&self.process, self.incarnation, event);
    }

    /// Writes an event of another process, which is over now. A history with a hole proves nothing, so it panics when
    /// the disk is full.
    pub(crate) fn note_of(&self, process: &str, incarnation: u32, event: Event) {
        let mut file = self.file.lock().unwrap();
        let record = Record {
            process: process.to_owned(),
            incarnation,
            at: self.now(),
            event,
        };
        let mut line = serde_json::to_string(&record).unwrap();
        line.push('\n');
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// Reads all `*.jsonl` of a directory, file after file. The last line of a file may be torn by a kill, and is dropped then.
pub(crate) fn read(directory: &Path) -> io::Result<Vec<Record>> {
    let mut paths: Vec<_> = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|name| name == "jsonl"));
    paths.sort();
    let mut records = Vec::new();
    for path in paths {
        let mut file = BufReader::new(File::open(&path)?);
        let (mut line, mut number) = (String::new(), 0);
        while file.read_line(&mut line)? > 0 {
            number += 1;
            match serde_json::from_str(&line) {
                Ok(record) => records.push(record),
                Err(_) if !line.ends_with('\n') => {}
                Err(error) => {
                    let place = format!("{}:{number}: {error}", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, place));
                }
            }
            line.clear();
        }
    }
    Ok(records)
}

/// The checksum as the README defines it, computed apart from the library.
pub(crate) fn checksum(texts: &Texts) -> String {
    let mut crc = crc32fast::Hasher::new();
    for part in texts.iter().flat_map(|(key, text)| [key, text]) {
        crc.update(&u32::try_from(part.len()).unwrap().to_be_bytes());
        crc.update(part.as_bytes());
    }
    format!("{:08x}", crc.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_known_answers_in_the_readme() {
        let texts = |pairs: &[(&str, &str)]| -> Texts {
            let own = |(key, text): &(&str, &str)| ((*key).to_owned(), (*text).to_owned());
            pairs.iter().map(own).collect()
        };
        assert_eq!(checksum(&texts(&[])), "00000000");
        assert_eq!(checksum(&texts(&[("a", "1"), ("b", "2")])), "5f9c514f");
        let unsorted = [
            ("limit:login", "100"),
            ("ä", "\"ö\""),
            ("feature:new_ui", "true"),
        ];
        assert_eq!(checksum(&texts(&unsorted)), "9d889403");
    }

    #[test]
    fn records_are_read_back_and_a_torn_last_line_is_dropped() {
        let name = format!("sync-config-history-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join("one.jsonl");
        let recorder = Recorder::append(&file, "i1", 2).unwrap();
        let place = Place {
            epoch: "e".to_owned(),
            revision: 7,
            rid: None,
        };
        let events = [
            Event::Started,
            Event::Applied {
                place: place.clone(),
                checksum: "00000000".to_owned(),
            },
            Event::Delivered {
                subscriber: "s".to_owned(),
                place: place.clone(),
                told: Told::Changed(vec![Change {
                    key: "k".to_owned(),
                    old: None,
                    new: Some("null".to_owned()),
                }]),
            },
            Event::Returned {
                operation: "o".to_owned(),
                outcome: Outcome::Applied {
                    place,
                    changed: true,
                    visible: true,
                    replayed: false,
                },
            },
            Event::Status(Status {
                mode: "push".to_owned(),
                ready: true,
                stale: false,
                place: None,
                checksum: None,
                proven_ago: Some(5),
                took: 0,
            }),
        ];
        for event in &events {
            recorder.note(event.clone());
        }
        let mut torn = OpenOptions::new().append(true).open(&file).unwrap();
        torn.write_all(b"{\"process\":\"i1\",\"incarn").unwrap();
        let records = read(&directory).unwrap();
        let read: Vec<_> = records.iter().map(|record| record.event.clone()).collect();
        assert_eq!(read, events);
        assert!(
            records
                .iter()
                .all(|record| record.process == "i1" && record.incarnation == 2)
        );
        assert!(records.is_sorted_by_key(|record| record.at));
        torn.write_all(b"\n").unwrap();
        assert!(super::read(&directory).is_err(), "a broken line within");
        fs::remove_dir_all(&directory).unwrap();
    }
}
