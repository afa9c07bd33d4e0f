//! Named consumers of a journal: what a store keeps of each.
//!
//! Guarantees of every implementation: a place moves forward only, unless it is set anew; it names a revision of the
//! store's own history by its random id; decided inside the store, so that two processes with one name do no harm.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::core::{Cursor, Epoch, Revision, RevisionId};
use crate::error::Result;
use crate::status::SlowConsumer;

/// Where a consumer that is not known yet begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the newest revision: it is given what is committed from now on.
    Head,
    /// At the oldest place from which the journal leads on: it is given everything that is still kept.
    Floor,
}

/// Consumers of one store at most. Each costs a look at an index now and then; a name for each process that ever ran
/// would be a mistake that this bound tells.
pub(crate) const MAX_CONSUMERS: usize = 1_000;

/// What a store keeps of named consumers.
#[async_trait]
pub(crate) trait Consumers: Send + Sync {
    /// The place of a consumer, which begins at `start` if it is not known yet.
    async fn consume(&self, name: &str, start: Start) -> Result<Cursor>;

    /// The places of all consumers in the order of their names, or of one.
    async fn places(&self, name: Option<&str>) -> Result<Vec<Place>>;

    /// Moves a consumer forward within its epoch, or anywhere in the present history if `anew`.
    async fn advance(&self, name: &str, to: Cursor, anew: bool) -> Result<Advanced>;

    /// Removes a consumer. False if there is none of that name.
    async fn forget(&self, name: &str) -> Result<bool>;

    /// Consumers whose next revision is older than `danger`, with the time until it is `end` old. The most urgent first,
    /// then those whose next revision is no longer to be had.
    async fn slow(&self, danger: Duration, end: Duration) -> Result<Vec<SlowConsumer>>;
}

/// What became of an advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advanced {
    Moved,
    /// It is there already, or further.
    Stood,
    /// There is no consumer of that name.
    Gone,
    /// The place is not of the present history, or the consumer's own is of another epoch.
    Other,
}

/// A consumer's place beside what the store knows of its surroundings.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) cursor: Cursor,
    pub(crate) epoch: Epoch,
    pub(crate) head: Revision,
    pub(crate) floor: Revision,
    /// The id that the store knows of the place's revision.
    pub(crate) known: Option<RevisionId>,
    pub(crate) seen_at: SystemTime,
}

/// Whether the journal leads on from a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Follows,
    /// What comes next was trimmed.
    TooOld,
    /// The store has another past than the consumer has read.
    OtherHistory,
}

impl Place {
    pub(crate) fn standing(&self) -> Standing {
        let Cursor {
            epoch,
            revision,
            id,
        } = self.cursor;
        if epoch != self.epoch || revision > self.head {
            return Standing::OtherHistory;
        }
        if revision.next() < self.floor {
            return Standing::TooOld;
        }
        match self.known {
            Some(known) if known == id => Standing::Follows,
            _ if revision == Revision::ZERO => Standing::Follows,
            Some(_) => Standing::OtherHistory,
            None => Standing::TooOld,
        }
    }

    pub(crate) fn behind(&self) -> u64 {
        self.head.get().saturating_sub(self.cursor.revision.get())
    }

    /// How its consumer is slow, if it is. `next` is the age of the revision after the place, where the journal has one.
    pub(crate) fn slow(
        &self,
        next: Option<Duration>,
        danger: Duration,
        end: Duration,
    ) -> Option<SlowConsumer> {
        let trimmed_in = match self.standing() {
            Standing::TooOld | Standing::OtherHistory => None,
            Standing::Follows => Some(end.saturating_sub(next.filter(|age| *age > danger)?)),
        };
        Some(SlowConsumer {
            name: self.name.clone(),
            revision: self.cursor.revision,
            behind: self.behind(),
            trimmed_in,
        })
    }
}
