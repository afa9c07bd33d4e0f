//! The session that hears and reads: a thread with a connection of its own, which looks at the file's version.
//!
//! Guarantees: a commit of any process of this machine is told within [`BUSY`], one that follows another closely within [`HOT`],
//! and within [`CALM`] after a calm second; what others wrote is given its revision first. A commit of this process's own store is
//! looked for at once.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;

use super::bench::{Bench, count, parsed, revision, some};
use super::desk::{Desk, Shared};
use super::fault::{Failure, Outcome};
use super::worker::{Interrupt, Worker, lock};
use crate::core::notice::Notice;
use crate::core::replica::{Head, Loaded, Page};
use crate::core::{Epoch, Revision};
use crate::error::Result;
use crate::store::{Heard, Listener, Mailbox};

/// Between two looks just after a change, since changes come in series: 1 % of a core meanwhile.
const HOT: Duration = Duration::from_millis(1);

/// So many looks in vain end that: 0.1 s.
const COOL: u32 = 100;

/// Between two looks while something happens: 0.2 % of a core.
const BUSY: Duration = Duration::from_millis(5);

/// Between two looks when nothing has happened for long.
const CALM: Duration = Duration::from_millis(50);

/// So many looks in vain are a second.
const PATIENCE: u32 = COOL + 180;

/// So many looks in vain lie between two attempts to number what others wrote, where the first met their lock.
const AGAIN: u32 = 20;

const WHAT: &str = "watching the SQLite file";

/// Wakes the listeners of this store.
#[derive(Default)]
pub(super) struct Bell(Mutex<Vec<Weak<Worker<Session>>>>);

impl Bell {
    pub(super) fn ring(&self) {
        let wakes = |listener: &Weak<Worker<Session>>| {
            let listener = listener.upgrade();
            listener.is_some_and(|listener| listener.put(|_| {}).is_ok())
        };
        lock(&self.0).retain(wakes);
    }

    fn add(&self, listener: &Arc<Worker<Session>>) {
        lock(&self.0).push(Arc::downgrade(listener));
    }
}

pub(super) struct SqliteListener {
    thread: Arc<Worker<Session>>,
    mailbox: Arc<Mailbox>,
}

/// What the thread has.
pub(super) struct Session {
    desk: Desk,
    /// Who gives revisions to what others wrote.
    writer: Arc<Worker<Desk>>,
    mailbox: Arc<Mailbox>,
    /// What was heard last, since it listens.
    ear: Option<Ear>,
}

#[derive(Clone)]
struct Ear {
    /// Which opening of the file it is of.
    opening: u64,
    /// What the file's version was.
    version: i64,
    told: Told,
    /// Looks in vain.
    quiet: u32,
}

/// What `watch.sql` says.
#[derive(Clone, Copy)]
struct Told {
    epoch: Epoch,
    revision: Revision,
    /// Whether others have written what has no revision yet.
    waits: bool,
    notice: i64,
}

impl SqliteListener {
    pub(super) fn start(shared: &Arc<Shared>, writer: &Arc<Worker<Desk>>) -> Result<Self> {
        let mailbox: Arc<Mailbox> = Arc::default();
        let interrupt = Interrupt::default();
        let session = Session {
            desk: Desk::reader(shared, &interrupt),
            writer: writer.clone(),
            mailbox: mailbox.clone(),
            ear: None,
        };
        let thread = Worker::start("sqlite-listener", interrupt, session, Session::tick)?;
        let thread = Arc::new(thread);
        shared.bell.add(&thread);
        Ok(Self { thread, mailbox })
    }

    async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Bench<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.thread
            .run(what, move |session| session.desk.read(what, work))
            .await
    }
}

#[async_trait]
impl Listener for SqliteListener {
    async fn listen(&self) -> Result<()> {
        self.thread.run("listening", Session::listen).await
    }

    async fn head(&self, own: Revision) -> Result<Head> {
        self.read("the head check", move |bench| bench.read_head(own))
            .await
    }

    async fn page(&self, after: Revision) -> Result<Page> {
        self.read("reading the journal", move |bench| bench.read_page(after))
            .await
    }

    async fn snapshot(&self) -> Result<Loaded> {
        self.read("reading the table", |bench| bench.read_snapshot())
            .await
    }

    async fn heard(&self) -> Vec<Heard> {
        self.mailbox.take().await
    }

    async fn close(&self) {
        self.mailbox.lose("closed");
        self.thread.close(true).await;
    }
}

impl Session {
    fn listen(&mut self) -> Result<()> {
        let version = self.version()?;
        let told = self.desk.read(WHAT, look)?;
        self.ear = Some(Ear {
            opening: self.desk.openings,
            version,
            told,
            quiet: 0,
        });
        if told.waits {
            self.ask_for_a_revision();
        }
        Ok(())
    }

    /// Looks whether the file has changed; how long to wait until the next look.
    fn tick(&mut self) -> Option<Duration> {
        let ear = self.ear.take()?;
        match self.heard_since(ear) {
            Ok(ear) => {
                let pause = match ear.quiet {
                    ..COOL => HOT,
                    COOL..PATIENCE => BUSY,
                    quiet => (BUSY * (quiet - PATIENCE + 2)).min(CALM),
                };
                self.ear = Some(ear);
                Some(pause)
            }
            Err(error) => {
                self.mailbox.lose(error);
                None
            }
        }
    }

    fn heard_since(&mut self, mut ear: Ear) -> std::result::Result<Ear, String> {
        let version = self.version().map_err(|error| error.to_string())?;
        if self.desk.openings != ear.opening {
            return Err(
                "the SQLite file was opened anew; another may have taken its place".to_owned(),
            );
        }
        if version == ear.version {
            ear.quiet = ear.quiet.saturating_add(1);
            if ear.told.waits && ear.quiet.is_multiple_of(AGAIN) {
                self.ask_for_a_revision();
            }
            return Ok(ear);
        }
        let before = ear.told;
        let heard = self.desk.read(WHAT, |bench| {
            let told = look(bench)?;
            Ok((told, notices(bench, before.notice, told.notice)?))
        });
        let (told, notices) = heard.map_err(|error| error.to_string())?;
        if told.epoch != before.epoch {
            // Revision 0 of the old epoch: no reader takes it for a change, all look at the head.
            self.tell(before.epoch, Revision::ZERO);
        }
        if (told.epoch, told.revision) != (before.epoch, before.revision) {
            self.tell(told.epoch, told.revision);
        }
        for notice in notices {
            self.mailbox.put(&notice);
        }
        if told.waits {
            self.ask_for_a_revision();
        }
        Ok(Ear {
            version,
            told,
            quiet: 0,
            ..ear
        })
    }

    fn tell(&self, epoch: Epoch, revision: Revision) {
        let notice = Notice::Changed { epoch, revision };
        self.mailbox.put(&notice.encode());
    }

    /// The number that SQLite gives to what this connection sees: another one when anybody else has committed.
    fn version(&mut self) -> Result<i64> {
        let connection = self.desk.connection(WHAT)?;
        let version = connection.pragma_query_value(None, "data_version", |row| row.get(0));
        version.map_err(|error| Failure::from(error).told(WHAT))
    }

    /// Has the writer give a revision to what others wrote.
    fn ask_for_a_revision(&self) {
        let asked = self.writer.put(|desk| {
            let what = "numbering what others wrote";
            match desk.read(what, |bench| bench.holds(&bench.queries().waits, [])) {
                Ok(false) => {}
                Ok(true) => number(desk, what),
                Err(error) => tracing::warn!(%error, "{what} failed"),
            }
        });
        // After the end of the store another one does.
        drop(asked);
    }
}

fn number(desk: &mut Desk, what: &str) {
    match desk.change(None, what, |bench| bench.seal_pending()) {
        Ok(_) => {}
        // Whoever holds the lock gives it back, and then the listener sees a change or asks again.
        Err(error) if error.is_unavailable() => tracing::debug!(%error, "{what} failed"),
        // Once is enough: a file that may only be read stays so.
        Err(error) if error.is_denied() && desk.shared.denied.swap(true, Ordering::Relaxed) => {}
        Err(error) => tracing::warn!(%error, "{what} failed"),
    }
}

fn look(bench: &Bench<'_>) -> Outcome<Told> {
    let mut statement = bench.statement(&bench.queries().watch)?;
    let mut rows = statement.query([])?;
    let row = rows.next()?.ok_or_else(|| Failure::strange(WHAT))?;
    Ok(Told {
        epoch: parsed(some(row, 0)?)?,
        revision: revision(row.get(1)?)?,
        waits: row.get(2)?,
        notice: row.get(3)?,
    })
}

/// The texts of the notices after one.
fn notices(bench: &Bench<'_>, after: i64, newest: i64) -> Outcome<Vec<String>> {
    if newest <= after {
        return Ok(Vec::new());
    }
    let mut statement = bench.statement(&bench.queries().notices)?;
    let mut rows = statement.query([after])?;
    let mut texts = Vec::new();
    while let Some(row) = rows.next()? {
        count(row.get(0)?)?;
        texts.push(some(row, 1)?.to_owned());
    }
    Ok(texts)
}
