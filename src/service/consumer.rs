//! Named consumers of the journal, which keep their place in the database.
//!
//! Guarantees: each revision after a consumer's place at least once and in order, whatever crashes; a place that cannot be
//! gone on from is told, never skipped. Not guaranteed: exactly once, and that two processes with one name share the work.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::ConfigService;
use crate::core::{Cursor, Revision};
use crate::error::{Error, Kind, Result};
use crate::runtime::Engine;
use crate::settings::check_name;
use crate::store::consumers::{Advanced, Place, Standing, Start};
use crate::store::{Recorded, Store};

/// A reader of the journal with a name, whose place the database keeps: a process that takes the name up goes on where the
/// one before stopped.
///
/// Delivery is *at least once*: what was given out and not acknowledged before a crash is given out again. Retention does
/// not wait for consumers unless `consumer_grace` says so; one that falls behind is named in
/// [`Status::slow_consumers`](crate::Status) before its place is trimmed, and told [`Delivered::TooOld`] afterwards.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> sync_config::Result<()> {
/// use std::time::Duration;
/// use sync_config::prelude::*;
/// use sync_config::{Delivered, Start};
///
/// let config = Builder::memory(&sync_config::MemoryDatabase::new()).start().await?;
/// let billing = config.consumer("billing", Start::Floor).await?;
/// config.set("price:basic", 10).await?;
/// match billing.next_or_wait(100, Duration::from_secs(5)).await? {
///     Delivered::Revisions(revisions) => {
///         for revision in &revisions {
///             println!("{} changes", revision.changes().len()); // do the work …
///             billing.acknowledge(revision.cursor()).await?;    // … and then say so
///         }
///     }
///     Delivered::TooOld { .. } | Delivered::OtherHistory { .. } => {
///         let now = config.snapshot()?; // take the whole state over, and go on from there
///         billing.reset(now.cursor()).await?;
///     }
/// }
/// # config.shutdown().await
/// # }
/// ```
#[derive(Clone)]
pub struct Consumer {
    name: String,
    store: Arc<dyn Store>,
    engine: Arc<Engine>,
    limit: Duration,
}

/// What a consumer is given.
#[derive(Clone, Debug)]
pub enum Delivered {
    /// The next revisions, whole and in order; none when it has read everything.
    Revisions(Vec<Recorded>),
    /// What comes next was trimmed. Take a [`snapshot`](crate::SyncConfig::snapshot), and [`Consumer::reset`] to its cursor.
    TooOld {
        /// The consumer's place.
        place: Cursor,
        /// The oldest revision that is kept.
        floor: Revision,
    },
    /// The store's history is not the one that the consumer has read: it was restored, or begun anew. As for `TooOld`, and
    /// what was read since the two parted is void.
    OtherHistory {
        /// The consumer's place in the history that was replaced.
        place: Cursor,
    },
}

/// A consumer as the database knows it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConsumerPlace {
    /// Its name.
    pub name: String,
    /// The last revision that it acknowledged.
    pub cursor: Cursor,
    /// How many revisions it has still to read.
    pub behind: u64,
    /// When it began, or acknowledged something new for the last time.
    pub seen_at: SystemTime,
    /// Whether the journal leads on from its place; if not it is told so, and has to be reset.
    pub follows: bool,
}

impl ConfigService {
    /// Takes a named consumer of the journal up; one that is not known yet begins at `start`, and its place is kept from
    /// then on. Needs the right to write the table. The name has 1 to 48 bytes, and a store 1,000 consumers at most.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] for a bad name,
    /// [`Error::is_denied`] for a role that only reads, and
    /// [`Error::is_unavailable`].
    pub async fn consumer(&self, name: &str, start: Start) -> Result<Consumer> {
        self.open()?;
        check_name("consumer", name)?;
        let asked = self.store.consumers().consume(name, start);
        let what = "taking up a consumer";
        self.engine.ask(what, self.request_timeout, asked).await?;
        Ok(Consumer {
            name: name.to_owned(),
            store: self.store.clone(),
            engine: self.engine.clone(),
            limit: self.request_timeout,
        })
    }

    /// Lists the consumers of the store by name, also those of other processes.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`].
    pub async fn consumers(&self) -> Result<Vec<ConsumerPlace>> {
        let asked = self.store.consumers().places(None);
        let what = "listing the consumers";
        let places = self.engine.ask(what, self.request_timeout, asked).await?;
        let place = |place| ConsumerPlace::of(place, &self.engine);
        Ok(places.into_iter().map(place).collect())
    }

    /// The place that is kept under a name; `None` if there is no consumer of that name.
    #[cfg(feature = "server")]
    pub(crate) async fn kept_place(&self, name: &str) -> Result<Option<Cursor>> {
        let asked = self.store.consumers().places(Some(name));
        let what = "looking a consumer up";
        let mut found = self.engine.ask(what, self.request_timeout, asked).await?;
        let place = found.pop();
        Ok(place.map(|place| self.engine.as_shown(place.cursor)))
    }

    /// Looks now which consumers are slow, instead of when the time for it has come.
    #[cfg(feature = "cli")]
    pub(crate) async fn look_at_consumers(&self) -> Result<()> {
        let (danger, end) = self.danger;
        let look = self.store.consumers().slow(danger, end);
        let slow = self.engine.clock.timeout(self.request_timeout, look).await;
        let slow = slow.unwrap_or_else(|_| {
            let what = "looking at the consumers";
            Err(Error::unavailable(what, "no answer in time"))
        });
        self.engine.book.keep_slow(slow?);
        Ok(())
    }

    /// Forgets a consumer and its place. False if there is none of that name. Needs the table's owner, or a role to which the
    /// owner granted EXECUTE on the table's function `_forget`.
    ///
    /// # Errors
    ///
    /// As [`ConfigService::consumer`]; [`Error::is_denied`] for every other role.
    pub async fn remove_consumer(&self, name: &str) -> Result<bool> {
        self.open()?;
        check_name("consumer", name)?;
        let asked = self.store.consumers().forget(name);
        let what = "removing a consumer";
        self.engine.ask(what, self.request_timeout, asked).await
    }
}

impl Consumer {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Looks its place up: the last revision acknowledged under this name.
    ///
    /// # Errors
    ///
    /// [`Error::is_missing_consumer`] once it was removed,
    /// [`Error::is_unavailable`].
    pub async fn place(&self) -> Result<Cursor> {
        let place = self.look().await?;
        Ok(self.engine.as_shown(place.cursor))
    }

    /// Reads at most `limit` whole revisions after the acknowledged place; fewer where
    /// [`ConfigService::history`](crate::ConfigService::history) would give fewer. Moves nothing: asked again it gives the
    /// same.
    ///
    /// # Errors
    ///
    /// As [`Consumer::place`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&self, limit: u32) -> Result<Delivered> {
        let place = self.look().await?;
        let cursor = place.cursor;
        if place.standing() == Standing::Follows {
            let asked = self.store.history(cursor, limit);
            let read = self.engine.ask("reading the journal", self.limit, asked);
            if let Some(revisions) = read.await? {
                return Ok(Delivered::Revisions(self.engine.recorded(revisions)));
            }
        }
        // The journal may have been trimmed, or replaced, between the two looks: the place says which it was.
        let place = self.look().await?;
        let (standing, floor) = (place.standing(), place.floor);
        let place = self.engine.as_shown(place.cursor);
        Ok(match standing {
            Standing::OtherHistory => Delivered::OtherHistory { place },
            Standing::TooOld => Delivered::TooOld { place, floor },
            // Somebody moved it meanwhile under the same name; the next call reads from there.
            Standing::Follows => Delivered::Revisions(Vec::new()),
        })
    }

    /// As [`Consumer::next`], but waits for something new, at most `timeout`: woken by this instance's own news instead of
    /// asking the database again and again.
    ///
    /// # Errors
    ///
    /// As [`Consumer::place`], and [`Error::is_closed`] at shutdown. The end of the time is no
    /// error: it gives no revisions.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub async fn next_or_wait(&self, limit: u32, timeout: Duration) -> Result<Delivered> {
        let mut news = self.engine.news();
        let clock = &self.engine.clock;
        let end = clock.now().saturating_add(timeout);
        loop {
            let delivered = self.next(limit).await?;
            match &delivered {
                Delivered::Revisions(none) if none.is_empty() => {}
                _ => return Ok(delivered),
            }
            let left = end.saturating_sub(clock.now());
            match clock.timeout(left, news.next()).await {
                Ok(true) => {}
                Ok(false) => return Err(Kind::Closed.into()),
                Err(_) => return Ok(delivered),
            }
        }
    }

    /// Stores that everything up to a revision was dealt with: only forward, and only within the present history. True if
    /// it moved; false if it was there, or further, already.
    ///
    /// # Errors
    ///
    /// [`Error::is_other_epoch`] when the cursor, or the stored place, is of a history that
    /// was replaced: [`Consumer::next`] says so too, and [`Consumer::reset`] goes on. And as [`Consumer::place`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves it open whether it was stored; to acknowledge again does no harm.
    pub async fn acknowledge(&self, cursor: Cursor) -> Result<bool> {
        self.advance(cursor, false).await
    }

    /// Puts the place to any revision of the present history, also back: after a snapshot was taken over, or to read again
    /// what is still kept.
    ///
    /// # Errors
    ///
    /// As [`Consumer::acknowledge`].
    pub async fn reset(&self, cursor: Cursor) -> Result<()> {
        self.advance(cursor, true).await.map(|_| ())
    }

    async fn advance(&self, cursor: Cursor, anew: bool) -> Result<bool> {
        self.open()?;
        let consumers = self.store.consumers();
        let stored = self.engine.as_stored(cursor);
        let asked = consumers.advance(&self.name, stored, anew);
        let what = "moving a consumer";
        match self.engine.ask(what, self.limit, asked).await? {
            Advanced::Moved => Ok(true),
            Advanced::Stood => Ok(false),
            Advanced::Gone => Err(self.missing()),
            Advanced::Other => Err(Kind::OtherEpoch {
                wanted: cursor.revision,
            }
            .into()),
        }
    }

    async fn look(&self) -> Result<Place> {
        self.open()?;
        let asked = self.store.consumers().places(Some(&self.name));
        let what = "looking a consumer up";
        let mut found = self.engine.ask(what, self.limit, asked).await?;
        found.pop().ok_or_else(|| self.missing())
    }

    fn open(&self) -> Result<()> {
        if self.engine.is_closed() {
            Err(Kind::Closed.into())
        } else {
            Ok(())
        }
    }

    fn missing(&self) -> Error {
        let name = self.name.clone();
        Kind::MissingConsumer { name }.into()
    }
}

impl ConsumerPlace {
    fn of(place: Place, engine: &Engine) -> Self {
        Self {
            behind: place.behind(),
            follows: place.standing() == Standing::Follows,
            cursor: engine.as_shown(place.cursor),
            name: place.name,
            seen_at: place.seen_at,
        }
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
