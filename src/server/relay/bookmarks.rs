//! Where clients are among the events, kept in the database for those that keep nothing but their name.
//!
//! Guarantees: a place is one that the client acknowledged by its cursor; it is stored within about a second and at the stop of
//! a server, moves forward only, and is found by every server. A client with several connections at once has one place, the
//! furthest: each of them has to keep its own cursor. Stored as a named consumer of the events' journal, of which there are at
//! most [`MAX_CONSUMERS`](crate::store::consumers::MAX_CONSUMERS); whoever is one too many is not kept, which the log says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::hashed;
use crate::core::Cursor;
use crate::error::Result;
use crate::service::ConfigService;
use crate::settings::check_name;
use crate::store::consumers::Start;

/// Between two looks at what was acknowledged meanwhile.
const PAUSE: Duration = Duration::from_secs(1);

/// A client that acknowledged nothing for so many retentions, and has missed events since, is forgotten.
const FORGOTTEN: u32 = 30;

/// The places of all clients of this server.
pub(super) struct Bookmarks {
    events: Arc<ConfigService>,
    /// Acknowledged and not stored yet.
    noted: Mutex<HashMap<String, Cursor>>,
    told: AtomicBool,
}

impl Bookmarks {
    pub(super) fn new(events: &Arc<ConfigService>) -> Self {
        Self {
            events: events.clone(),
            noted: Mutex::default(),
            told: AtomicBool::new(false),
        }
    }

    /// Notes where a client is.
    pub(super) fn note(&self, client: &str, at: Cursor) {
        self.noted().insert(name(client), at);
    }

    /// The place of a client, if it has one.
    pub(super) async fn find(&self, client: &str) -> Result<Option<Cursor>> {
        let name = name(client);
        let noted = self.noted().get(&name).copied();
        match noted {
            Some(noted) => Ok(Some(noted)),
            None => self.events.kept_place(&name).await,
        }
    }

    /// Stores what was noted, time and again. Never ends.
    pub(super) async fn tend(&self) {
        loop {
            tokio::time::sleep(PAUSE).await;
            self.store().await;
        }
    }

    /// Stores what was noted.
    pub(super) async fn store(&self) {
        let noted: Vec<_> = self
            .noted()
            .iter()
            .map(|(name, at)| (name.clone(), *at))
            .collect();
        for (name, at) in noted {
            match self.keep(&name, at).await {
                // It is tried again.
                Err(error) if error.is_unavailable() => return,
                // The client made it up, or its history was replaced meanwhile.
                Err(error) if error.is_other_epoch() => {
                    tracing::debug!(%error, "a client acknowledged an event that never was");
                }
                Err(error) if !self.told.swap(true, Ordering::Relaxed) => {
                    tracing::warn!(%error, "a client's place among the events is not kept; neither may others' be");
                }
                Err(_) | Ok(()) => {}
            }
            let mut noted = self.noted();
            if noted.get(&name) == Some(&at) {
                noted.remove(&name);
            }
        }
    }

    async fn keep(&self, name: &str, at: Cursor) -> Result<()> {
        // One that is not known yet begins where nothing is lost, and moves from there.
        let place = self.events.consumer(name, Start::Floor).await?;
        match place.acknowledge(at).await {
            // The history that it was in was replaced by the one that it acknowledges.
            Err(error) if error.is_other_epoch() => place.reset(at).await,
            moved => moved.map(|_| ()),
        }
    }

    /// Forgets clients that have been away for long.
    pub(super) async fn forget(&self, retention: Duration) -> Result<()> {
        let now = self.events.clock().wall();
        for place in self.events.consumers().await? {
            let away = now.duration_since(place.seen_at).unwrap_or_default();
            if !place.follows && away > retention.saturating_mul(FORGOTTEN) {
                self.events.remove_consumer(&place.name).await?;
            }
        }
        Ok(())
    }

    fn noted(&self) -> MutexGuard<'_, HashMap<String, Cursor>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the database knows a client by: its name, or a hash of one that is not fit for it.
fn name(client: &str) -> String {
    if check_name("client", client).is_ok() {
        return client.to_owned();
    }
    hashed("client", client).to_string()
}
