//! The last good state in a file, for a start while the database is away.
//!
//! Three files stand side by side: the state; `.mark`, which says which generation of it is the newest and when it was last
//! proven current; and `.lock`, held by the process that writes. Each of the first two is written whole beside its place,
//! flushed and renamed, the mark always after the state: whatever moment a process or a machine dies at, one whole state is
//! there, and the mark never claims a newer one.
//!
//! Guarantees: a file that is damaged, cut short, of another store, older than its mark, of another format, from the
//! future or too old is refused as a whole, with the reason. What it cannot know: that state and mark were put back
//! together from an old copy of the disk. Such a state is served with the age that its mark tells.

mod disk;
mod format;
mod keeper;
#[cfg(feature = "testing")]
pub(crate) mod tested;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use self::format::{Mark, State};
pub(crate) use keeper::Keeper;

use crate::core::replica::Loaded;
use crate::core::{Revision, Snapshot, shown as foreign};

/// Clocks of one machine step by less; a file from further ahead tells that the clock is wrong now or was then.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// How long reading may take; a million entries take about 2 s.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the state of one store is kept, and how old it may be.
#[derive(Clone, Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    store: String,
    max_age: Duration,
}

/// A state that was kept.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) loaded: Loaded,
    pub(crate) written_at: SystemTime,
    /// When it was last proven to be the newest.
    pub(crate) proven_at: SystemTime,
}

/// Why a kept state is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0} is not there yet")]
    Missing(String),
    #[error("{file} cannot be read: {problem}")]
    Unreadable { file: String, problem: String },
    #[error("{file} is damaged ({problem}); it was left as it is")]
    Damaged { file: String, problem: &'static str },
    #[error(
        "{file} is of format version {version}; this program reads version {}",
        format::VERSION
    )]
    OtherVersion { file: String, version: u64 },
    #[error("{file} is of another store: {of}; name a file of this store's own")]
    Foreign { file: String, of: String },
    #[error(
        "{file} is older than what was kept there before: it holds revision {found}, and revision {kept} was written"
    )]
    Rewound {
        file: String,
        found: Revision,
        kept: Revision,
    },
    #[error("{0} is missing beside the state, so whether that is the newest cannot be known")]
    NoMark(String),
    #[error("{file} was written {ahead} in the future: this machine's clock is wrong, or was")]
    Future { file: String, ahead: String },
    #[error("{file} was last proven current {age} ago; setting max_state_age allows {bound}")]
    TooOld {
        file: String,
        age: String,
        bound: String,
    },
}

impl Refusal {
    /// Whether there is just nothing to serve yet.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }
}

impl StateFile {
    pub(crate) fn new(path: &Path, store: String, max_age: Duration) -> Self {
        Self {
            path: path.to_owned(),
            store,
            max_age,
        }
    }

    /// Reads and checks, off the runtime's threads.
    pub(crate) async fn read(&self, now: SystemTime) -> Result<Kept, Refusal> {
        let this = self.clone();
        let reading = disk::apart(move || this.load(now));
        let reading = reading.map_err(|error| unreadable(&self.path, &error))?;
        // A disk is no part of what a test's clock drives.
        let problem = match tokio::time::timeout(READ_TIMEOUT, reading).await {
            Ok(Ok(read)) => return read,
            Ok(Err(_)) => "reading it panicked, which is a defect of this program",
            Err(_) => "no answer from the disk within 30s",
        };
        Err(unreadable(&self.path, &io::Error::other(problem)))
    }

    fn load(&self, now: SystemTime) -> Result<Kept, Refusal> {
        let (file, mark_path) = (shown(&self.path), self.mark_path());
        let bytes = match disk::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Refusal::Missing(file));
            }
            read => read.map_err(|error| unreadable(&self.path, &error))?,
        };
        let state = State::decode(&bytes).map_err(|flaw| flaw.of(&file))?;
        self.own(&file, &state.store)?;
        let mark = match disk::read(&mark_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Refusal::NoMark(shown(&mark_path)));
            }
            read => read.map_err(|error| unreadable(&mark_path, &error))?,
        };
        let mark = Mark::decode(&mark).map_err(|flaw| flaw.of(&shown(&mark_path)))?;
        self.own(&shown(&mark_path), &mark.store)?;
        let same = mark.generation == state.generation;
        if state.generation < mark.generation || (same && mark.cursor != state.cursor) {
            return Err(Refusal::Rewound {
                file,
                found: state.cursor.revision,
                kept: mark.cursor.revision,
            });
        }
        let proven_at = if same {
            state.proven_at.max(mark.proven_at)
        } else {
            state.proven_at
        };
        self.check_age(now, state.written_at.max(proven_at), proven_at)?;
        Ok(Kept {
            loaded: Loaded {
                cursor: state.cursor,
                audit: None,
                entries: state.entries,
            },
            written_at: state.written_at,
            proven_at,
        })
    }

    fn own(&self, file: &str, store: &str) -> Result<(), Refusal> {
        if store == self.store {
            return Ok(());
        }
        Err(Refusal::Foreign {
            file: file.to_owned(),
            of: foreign(store).to_string(),
        })
    }

    fn check_age(
        &self,
        now: SystemTime,
        newest: SystemTime,
        proven: SystemTime,
    ) -> Result<(), Refusal> {
        let file = shown(&self.path);
        if let Ok(ahead) = newest.duration_since(now)
            && ahead > TOLERANCE
        {
            let ahead = in_seconds(ahead);
            return Err(Refusal::Future { file, ahead });
        }
        let age = now.duration_since(proven).unwrap_or_default();
        if age > self.max_age {
            return Err(Refusal::TooOld {
                file,
                age: in_seconds(age),
                bound: humantime::format_duration(self.max_age).to_string(),
            });
        }
        Ok(())
    }

    fn mark_path(&self) -> PathBuf {
        beside(&self.path, ".mark")
    }

    fn lock_path(&self) -> PathBuf {
        beside(&self.path, ".lock")
    }
}

/// What is written: a state that the database gave, and when it was last proven the newest.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) snapshot: std::sync::Arc<Snapshot>,
    pub(crate) proven_at: SystemTime,
}

/// A path with something behind its name.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// A path for people: one line, whatever is in it.
fn shown(path: &Path) -> String {
    foreign(&path.to_string_lossy()).to_string()
}

fn in_seconds(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}

fn unreadable(path: &Path, error: &io::Error) -> Refusal {
    Refusal::Unreadable {
        file: shown(path),
        problem: error.to_string(),
    }
}
