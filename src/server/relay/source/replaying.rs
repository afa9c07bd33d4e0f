//! What a client is told by the journal, up to where the ring goes on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;

use super::{BATCH_BYTES, On, Source, Stage};
use crate::core::Cursor;
use crate::server::Shared;
use crate::server::relay::Station;
use crate::server::relay::ring::REVISIONS;
use crate::server::relay::told::{Telling, Told};
use crate::store::Recorded;

/// Revisions read from the journal at a time, for one client alone.
const PAGE: usize = 32;

/// A page of the journal that takes longer is given up for a snapshot.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the journal had.
pub(super) enum Past {
    /// The ring has it by now.
    Known,
    Page(Vec<Recorded>),
    /// It does not lead on from there, or cannot be read now.
    Nothing,
}

pub(super) type Reading = Pin<Box<dyn Future<Output = Past> + Send>>;

impl Source {
    /// Takes a page of the journal, or goes another way.
    pub(super) fn read(&mut self, past: Past) {
        self.stage = match (past, &self.stage) {
            (Past::Page(page), Stage::Replay { to, .. }) if !page.is_empty() => Stage::Replay {
                to: *to,
                page: page.into(),
                reading: None,
            },
            // The ring, or else the state.
            (Past::Known, _) => Stage::Begin(self.told),
            _ => Stage::Begin(None),
        };
    }

    /// Tells of a page of the journal as much as is sent at a time.
    pub(super) fn replay(&mut self, out: &mut Vec<Bytes>) {
        let (wall, mut bytes) = (self.app.service.clock().wall(), 0);
        let Stage::Replay { to, page, .. } = &mut self.stage else {
            return;
        };
        let to = *to;
        while bytes < BATCH_BYTES
            && let Some(recorded) = page.pop_front()
        {
            let cursor = recorded.cursor;
            if cursor.epoch != to.cursor.epoch || cursor.revision > to.cursor.revision {
                self.stage = Stage::Begin(None);
                return;
            }
            let (told, before) = (Arc::new(Told::recorded(recorded, wall)), out.len());
            match told.tell(&self.channel, self.framing, &self.other) {
                Telling::Nothing => {}
                Telling::One(frame) => out.push(frame),
                Telling::Many(frames) => out.extend_from_slice(&frames),
                Telling::Parts(parts) => {
                    self.stage = self.in_parts(parts, cursor, On::Journal);
                    return;
                }
            }
            bytes += out.iter().skip(before).map(Bytes::len).sum::<usize>();
            self.told = Some(cursor);
            if cursor.revision == to.cursor.revision {
                self.at = to.at;
                self.stage = if cursor.id == to.cursor.id {
                    Stage::Live
                } else {
                    Stage::Begin(None)
                };
                return;
            }
        }
    }
}

/// Reads the journal after a revision. Few do so at once: a thousand that resume together leave connections to writers, and find what
/// the first one read.
pub(super) async fn past(app: Shared, station: Arc<Station>, after: Cursor, to: Cursor) -> Past {
    // The semaphore is never closed.
    let _turn = app.journal.acquire().await;
    if station.hub.place(after).is_some() {
        return Past::Known;
    }
    let base = station.hub.base().filter(|base| base.epoch == after.epoch);
    let gap = base.and_then(|base| base.revision.get().checked_sub(after.revision.get()));
    let gap = gap
        .and_then(|gap| usize::try_from(gap).ok())
        .filter(|gap| *gap <= REVISIONS);
    let limit = u32::try_from(gap.unwrap_or(PAGE).max(1)).unwrap_or(1);
    let read = station.service.history(after, limit);
    let Ok(Ok(Some(mut page))) = tokio::time::timeout(PAGE_TIMEOUT, read).await else {
        return Past::Nothing;
    };
    if page.last().is_some_and(|last| base == Some(last.cursor)) {
        station.hub.remember(page.clone(), after);
        if station.hub.place(after).is_some() {
            return Past::Known;
        }
    }
    page.retain(|recorded| recorded.cursor.revision <= to.revision);
    page.truncate(PAGE);
    Past::Page(page)
}
