//! Takes out of the events' table what nobody is told of any more.
//!
//! The table holds the newest event to each target, the journal those that are delivered: without this, the last event to a
//! client that was renamed would stay in the memory of every server for ever. So would its place. Every server does it; who
//! comes second finds nothing to do.

use std::time::Duration;

use super::bookmarks::Bookmarks;
use crate::service::ConfigService;
use crate::sync_config::SyncConfig;
use crate::write::{Batch, Precondition};

/// Looked so often in a retention, within these bounds.
const LOOKS: u32 = 4;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3_600);

/// Events that are taken out by one write.
const MOST: usize = 500;

/// Takes out what is older than the retention, time and again.
pub(super) async fn sweep(events: &ConfigService, bookmarks: &Bookmarks, retention: Duration) {
    loop {
        tokio::time::sleep((retention / LOOKS).clamp(SHORTEST, LONGEST)).await;
        while let Some(old) = old(events, retention) {
            // Somebody published to one of them, or took them out: the next look shows what is left.
            if let Err(error) = events.write(old).await {
                tracing::debug!(%error, "events that are over were not taken out of their table");
                break;
            }
        }
        if let Err(error) = bookmarks.forget(retention).await {
            tracing::debug!(%error, "the places of clients that are gone were not forgotten");
        }
    }
}

fn old(events: &ConfigService, retention: Duration) -> Option<Batch> {
    let state = events.snapshot().ok()?;
    let before = events.clock().wall().checked_sub(retention)?;
    let old = state.iter().filter(|entry| entry.updated_at() < before);
    let batch = old.take(MOST).fold(Batch::new(), |batch, entry| {
        batch.delete_if(entry.key(), Precondition::Revision(entry.revision()))
    });
    (!batch.is_empty()).then_some(batch)
}
