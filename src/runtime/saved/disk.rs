//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::thread;
use std::time::SystemTime;

use tokio::sync::oneshot;

use super::format::{self, Mark, State};
use super::{Fresh, StateFile, beside, shown};
use crate::core::shown as foreign;

/// A table this large does not fit into an instance's memory either: 4 GiB.
const MAX_BYTES: u64 = 4 << 30;

/// A header is a few hundred bytes and the store's name.
const MAX_HEADER: u64 = 64 * 1_024;

/// Does work that waits for a disk, on a thread of its own: a runtime's end waits for its blocking threads for ever, and a
/// disk may never answer.
pub(super) fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (done, wait) = oneshot::channel();
    let run = move || drop(done.send(work()));
    let thread = thread::Builder::new().name("sync-config-state".to_owned());
    drop(thread.spawn(run)?);
    Ok(wait)
}

/// Reads a file that is one.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    if file.metadata()?.len() > MAX_BYTES {
        return Err(io::Error::other("it is larger than 4 GiB"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a file that is one: opening a pipe would wait for whoever writes it, and a device would never end.
fn open(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() {
        File::open(path)
    } else {
        Err(io::Error::other("it is not a file"))
    }
}

/// Puts a file in its place in one step, readable by its owner alone, and durable when this returns.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = beside(path, ".tmp");
    // What a process left that was killed here.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private().create_new(true).open(&new)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    drop(file);
    let renamed = written.and_then(|()| fs::rename(&new, path));
    if renamed.is_err() {
        // A full disk is not to stay full for our sake; the first error is the one to be told.
        drop(fs::remove_file(&new));
    }
    renamed?;
    sync_directory(path)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// A rename is durable once its directory is.
#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Whoever may write the state: one process, which holds the lock.
#[derive(Debug)]
pub(super) struct Writer {
    file: StateFile,
    /// The lock, and the newest generation there is.
    held: Option<(File, u64)>,
}

impl Writer {
    pub(super) fn new(file: StateFile) -> Self {
        Self { file, held: None }
    }

    /// Writes a state, then its mark.
    pub(super) fn write(&mut self, fresh: &Fresh, now: SystemTime) -> Result<(), String> {
        let generation = self.generation(fresh)? + 1;
        let text = State::encode(&self.file.store, generation, fresh, now);
        replace(&self.file.path, &text).map_err(|error| told(&self.file.path, &error))?;
        // From here on an older state would be a rewound one.
        if let Some((_, newest)) = &mut self.held {
            *newest = generation;
        }
        self.mark(generation, fresh)
    }

    /// Notes that the state written last has been proven the newest once more.
    pub(super) fn prove(&mut self, fresh: &Fresh) -> Result<(), String> {
        let generation = self.generation(fresh)?;
        self.mark(generation, fresh)
    }

    fn mark(&self, generation: u64, fresh: &Fresh) -> Result<(), String> {
        let mark = Mark {
            store: self.file.store.clone(),
            generation,
            cursor: fresh.snapshot.cursor(),
            proven_at: fresh.proven_at,
        };
        let path = self.file.mark_path();
        replace(&path, &mark.encode()).map_err(|error| told(&path, &error))
    }

    /// The newest generation, once this process may write.
    fn generation(&mut self, fresh: &Fresh) -> Result<u64, String> {
        if let Some((_, generation)) = &self.held {
            return Ok(*generation);
        }
        let path = self.file.lock_path();
        let mut options = private();
        let lock = options.create(true).truncate(false).open(&path);
        let lock = lock.map_err(|error| told(&path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let path = shown(&path);
                return Err(format!(
                    "{path}: another process keeps its state there; give each a file of its own"
                ));
            }
            Err(TryLockError::Error(error)) => return Err(told(&path, &error)),
        }
        let state = self.state_there()?;
        let mark = read(&self.file.mark_path()).ok();
        let mark = mark.and_then(|bytes| Mark::decode(&bytes).ok());
        let mark = mark.filter(|mark| mark.store == self.file.store);
        let generation = match (state, &mark) {
            (state, Some(mark)) => state.unwrap_or(0).max(mark.generation),
            (state, None) => state.unwrap_or(0),
        };
        if mark.is_none() {
            // Before the first state: a state without a mark is refused.
            self.mark(generation, fresh)?;
        }
        self.held = Some((lock, generation));
        Ok(generation)
    }

    /// The generation of the state that is there. What is not ours is left alone.
    fn state_there(&self) -> Result<Option<u64>, String> {
        let path = &self.file.path;
        let file = match open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(told(path, &error)),
        };
        let mut first = Vec::new();
        let read = BufReader::new(file.take(MAX_HEADER)).read_until(b'\n', &mut first);
        read.map_err(|error| told(path, &error))?;
        let ours = format!("{{\"format\":\"{}\"", format::STATE);
        if !first.is_empty() && !first.starts_with(ours.as_bytes()) {
            let path = shown(path);
            return Err(format!(
                "{path} is no state file of sync-config and is not replaced; name another file"
            ));
        }
        match std::str::from_utf8(&first).ok().and_then(format::peek) {
            Some((store, _)) if store != self.file.store => Err(format!(
                "{} is of another store ({}) and is not replaced; name another file",
                shown(path),
                foreign(&store)
            )),
            peeked => Ok(peeked.map(|(_, generation)| generation)),
        }
    }
}

fn told(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", shown(path))
}
