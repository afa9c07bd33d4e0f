//! Keeps the state file up to date while the service runs.
//!
//! Guarantees: written at most once a second while changes come, a large state less often ([`rest`]), and at the end; off
//! the runtime's threads; one write at a time, and a disk that does not answer holds up nothing but the next one. A failure
//! is counted, told once for each streak and tried again; the file before it stays.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::disk::{self, Writer};
use super::{StateFile, shown};
use crate::core::Cursor;
use crate::runtime::engine::Engine;
use crate::status::StateFileStatus;

/// Changes that come faster are written together.
const PAUSE: Duration = Duration::from_secs(1);

/// How old a proof in the mark may grow while nothing changes. Each costs three flushes of a small file.
const PROOF_PAUSE: Duration = Duration::from_secs(60);

/// What failed once likely fails again at once.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// How long a write is waited for: a million entries take about 3 s on a slow disk.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the last one may hold up the end.
const FAREWELL: Duration = Duration::from_secs(5);

type Writing = oneshot::Receiver<(Writer, Result<(), String>)>;

pub(crate) struct Keeper {
    engine: Arc<Engine>,
    target: StateFile,
    writer: Option<Writer>,
    /// A write that has not come to its end in time.
    writing: Option<Writing>,
    file: String,
    /// What the file holds.
    kept: Option<Cursor>,
    /// The proof that its mark tells of.
    proven: Option<Duration>,
    last: Option<Duration>,
    /// How long the last write of a state took.
    took: Duration,
    failing: bool,
}

impl Keeper {
    pub(crate) fn new(engine: Arc<Engine>, file: StateFile) -> Self {
        engine.book.open().state_file = Some(StateFileStatus::default());
        Self {
            engine,
            file: shown(&file.path),
            writer: Some(Writer::new(file.clone())),
            target: file,
            writing: None,
            kept: None,
            proven: None,
            last: None,
            took: Duration::ZERO,
            failing: false,
        }
    }

    /// Runs until `stop` says so, and then writes what is new.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let (engine, mut shown) = (self.engine.clone(), self.engine.watch_shown());
        while !*stop.borrow() {
            let due = self.due();
            tokio::select! {
                stopped = stop.changed() => if stopped.is_err() { break },
                // The engine, and with it the sender, lives as long as this.
                _ = shown.changed() => {}
                () = engine.clock.sleep_until(due) => self.keep(WRITE_TIMEOUT).await,
            }
        }
        self.keep(FAREWELL).await;
    }

    /// When there is something to write.
    fn due(&self) -> Duration {
        let fresh = self.engine.fresh_cursor();
        let news = fresh.is_some_and(|(cursor, _)| Some(cursor) != self.kept);
        let pause = match self.last {
            None if news => return Duration::ZERO,
            _ if self.failing => RETRY_PAUSE,
            _ if news => rest(self.took),
            // What comes from an instance that stands in for the database may be proven a while after it is shown.
            _ if fresh.is_none() => PAUSE,
            _ => PROOF_PAUSE,
        };
        self.last.unwrap_or_else(|| self.engine.clock.now()) + pause
    }

    async fn keep(&mut self, limit: Duration) {
        let began = self.engine.clock.now();
        self.last = Some(began);
        let (Some((_, proven)), Some(fresh)) = (self.engine.fresh_cursor(), self.engine.fresh())
        else {
            return;
        };
        let cursor = fresh.snapshot.cursor();
        let news = Some(cursor) != self.kept;
        if !news && self.proven == Some(proven) {
            return;
        }
        let now = self.engine.clock.wall();
        let kept = self.work(limit, move |writer| {
            if news {
                writer.write(&fresh, now)
            } else {
                writer.prove(&fresh)
            }
        });
        let kept = kept.await;
        let ended = self.engine.clock.now();
        self.last = Some(ended);
        if news {
            self.took = ended.saturating_sub(began);
        }
        if kept.is_ok() {
            (self.kept, self.proven) = (Some(cursor), Some(proven));
        }
        let mut pages = self.engine.book.open();
        let status = pages.state_file.get_or_insert_default();
        match &kept {
            Ok(()) => {
                status.problem = None;
                status.revision = Some(cursor.revision);
                status.written_at = if news { Some(now) } else { status.written_at };
            }
            Err(problem) => {
                status.problem = Some(problem.clone());
                pages.counters.state_file_failures += 1;
            }
        }
        drop(pages);
        match (kept, std::mem::replace(&mut self.failing, false)) {
            (Ok(()), true) => tracing::info!(file = %self.file, "the state is kept again"),
            (Ok(()), false) => {}
            (Err(problem), before) => {
                self.failing = true;
                if !before {
                    tracing::warn!(%problem, "the state cannot be kept; the service goes on, and it is tried again");
                }
            }
        }
    }

    /// Runs work on the disk on a thread that may wait for it.
    async fn work(
        &mut self,
        limit: Duration,
        work: impl FnOnce(&mut Writer) -> Result<(), String> + Send + 'static,
    ) -> Result<(), String> {
        // A disk is no part of what a test's clock drives.
        let ended = tokio::time::timeout(limit, async {
            self.free().await;
            let fresh = || Writer::new(self.target.clone());
            let mut writer = self.writer.take().unwrap_or_else(fresh);
            let started = disk::apart(move || {
                let done = work(&mut writer);
                (writer, done)
            });
            match started {
                Ok(writing) => self.writing = Some(writing),
                // Without the thread the writer is gone, and its lock with it.
                Err(error) => {
                    self.writer = Some(Writer::new(self.target.clone()));
                    return Err(format!("{}: no thread to write with: {error}", self.file));
                }
            }
            self.free().await.unwrap_or(Ok(()))
        });
        match ended.await {
            Ok(done) => done,
            Err(_) => Err(format!("{}: no answer from the disk", self.file)),
        }
    }

    /// Waits for the write under way.
    async fn free(&mut self) -> Option<Result<(), String>> {
        let ended = self.writing.as_mut()?.await;
        self.writing = None;
        let (writer, done) = match ended {
            Ok(ended) => ended,
            Err(_) => {
                let problem = format!("{}: writing panicked, a defect of this program", self.file);
                (Writer::new(self.target.clone()), Err(problem))
            }
        };
        self.writer = Some(writer);
        Some(done)
    }
}

/// How long to leave the disk alone after a write that took so long: a state of a million entries is 100 MB and more, and
/// changes that do not end would have it written without end. So writing takes a tenth of the time; a minute is enough.
fn rest(took: Duration) -> Duration {
    took.saturating_mul(9).clamp(PAUSE, PROOF_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_takes_long_to_write_is_written_less_often() {
        let rests = [0, 3, 100, 3_000, 30_000]
            .map(Duration::from_millis)
            .map(rest);
        let wanted = [1_000, 1_000, 1_000, 27_000, 60_000].map(Duration::from_millis);
        assert_eq!(rests, wanted);
    }
}
