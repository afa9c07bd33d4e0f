//! Named consumers of a database in memory.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::MemoryStore;
use super::content::Content;
use crate::core::{Cursor, Revision, RevisionId};
use crate::error::{Error, Result};
use crate::status::SlowConsumer;
use crate::store::consumers::{Advanced, Consumers, MAX_CONSUMERS, Place, Start};

/// Where a consumer is, and when it was last moved.
#[derive(Clone, Copy)]
pub(super) struct Stand {
    pub(super) cursor: Cursor,
    seen_at: SystemTime,
}

impl Content {
    /// The oldest place from which the journal leads on.
    fn bottom(&self) -> Cursor {
        let zero = Cursor {
            epoch: self.epoch,
            revision: Revision::ZERO,
            id: RevisionId::from_u128(0),
        };
        if self.floor <= Revision::new(1) {
            return zero;
        }
        let oldest = self.journal.first_key_value();
        oldest.map_or(self.cursor(), |(revision, kept)| Cursor {
            revision: *revision,
            id: kept.id,
            ..zero
        })
    }

    fn place(&self, name: &str, stand: Stand) -> Place {
        Place {
            name: name.to_owned(),
            cursor: stand.cursor,
            epoch: self.epoch,
            head: self.revision,
            floor: self.floor,
            known: self.id_of(stand.cursor.revision),
            seen_at: stand.seen_at,
        }
    }

    /// Whether a place is of the present history, as far as that is still known.
    fn holds(&self, to: Cursor) -> bool {
        let known = self.id_of(to.revision);
        to.epoch == self.epoch
            && to.revision <= self.revision
            && (to.revision == Revision::ZERO || known.is_none_or(|known| known == to.id))
    }

    /// How old the revision after a place is, where the journal has one.
    fn next_age(&self, place: &Place, now: SystemTime) -> Option<Duration> {
        let next = self.journal.get(&place.cursor.revision.next())?;
        Some(now.duration_since(next.at).unwrap_or_default())
    }
}

#[async_trait]
impl Consumers for MemoryStore {
    async fn consume(&self, name: &str, start: Start) -> Result<Cursor> {
        let (now, mut content) = ((self.sources.wall)(), self.shared.content());
        if let Some(stand) = content.consumers.get(name) {
            return Ok(stand.cursor);
        }
        if content.consumers.len() >= MAX_CONSUMERS {
            return Err(Error::refused(
                format!("consumer {name:?}"),
                "there are 1,000 consumers, which is the bound; remove one that nobody uses any more",
            ));
        }
        let cursor = match start {
            Start::Head => content.cursor(),
            Start::Floor => content.bottom(),
        };
        let stand = Stand {
            cursor,
            seen_at: now,
        };
        content.consumers.insert(name.to_owned(), stand);
        Ok(cursor)
    }

    async fn places(&self, name: Option<&str>) -> Result<Vec<Place>> {
        let content = self.shared.content();
        let all = content.consumers.iter();
        let asked = all.filter(|(found, _)| name.is_none_or(|name| name == *found));
        Ok(asked
            .map(|(found, stand)| content.place(found, *stand))
            .collect())
    }

    async fn advance(&self, name: &str, to: Cursor, anew: bool) -> Result<Advanced> {
        let (now, mut content) = ((self.sources.wall)(), self.shared.content());
        if !content.holds(to) {
            return Ok(Advanced::Other);
        }
        let Some(stand) = content.consumers.get_mut(name) else {
            return Ok(Advanced::Gone);
        };
        if !anew && stand.cursor.epoch != to.epoch {
            return Ok(Advanced::Other);
        }
        if !anew && stand.cursor.revision >= to.revision {
            return Ok(Advanced::Stood);
        }
        *stand = Stand {
            cursor: to,
            seen_at: now,
        };
        Ok(Advanced::Moved)
    }

    async fn forget(&self, name: &str) -> Result<bool> {
        Ok(self.shared.content().consumers.remove(name).is_some())
    }

    async fn slow(&self, danger: Duration, end: Duration) -> Result<Vec<SlowConsumer>> {
        let (now, content) = ((self.sources.wall)(), self.shared.content());
        let places = content.consumers.iter();
        let mut slow: Vec<SlowConsumer> = places
            .filter_map(|(name, stand)| {
                let place = content.place(name, *stand);
                place.slow(content.next_age(&place, now), danger, end)
            })
            .collect();
        slow.sort_by_key(|slow| (slow.trimmed_in.is_none(), slow.trimmed_in));
        Ok(slow)
    }
}
