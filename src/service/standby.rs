//! What stands in for a database that is away at the start: the state that was kept in a file.
//!
//! Guarantees: only a database that cannot be reached is stood in for, never one that refuses; a file that is refused says
//! why, and nothing of it is shown.

use std::time::Duration;

use super::ConfigService;
use crate::error::{Error, Result};
use crate::runtime::{Clock, Refusal, StateFile};
use crate::settings::Settings;
use crate::store::Store;

/// The file that the settings name.
pub(super) fn file(settings: &Settings, store: &dyn Store) -> Result<Option<StateFile>> {
    let Some(path) = &settings.state_file else {
        return Ok(None);
    };
    match store.identity() {
        Some(identity) => Ok(Some(StateFile::new(path, identity, settings.max_state_age))),
        None => Err(Error::setting(
            "state_file",
            path.display().to_string(),
            "the file has to name its store; set database_url or listen_database_url beside the pool (a store in \
             memory is gone with its process and has nothing to keep)",
        )),
    }
}

/// Prepares the store, for as long as somebody can be kept waiting who could be served otherwise.
pub(super) async fn prepare(store: &dyn Store, clock: &Clock, limit: Duration) -> Result<()> {
    match clock.timeout(limit, store.prepare()).await {
        Ok(prepared) => prepared,
        Err(_) => {
            let limit = humantime::format_duration(limit);
            Err(Error::unavailable(
                "connecting",
                format!("no answer within {limit}"),
            ))
        }
    }
}

/// Serves what the file holds, unless the database was faster.
pub(super) async fn serve(service: &ConfigService, file: &StateFile) -> Result<(), Refusal> {
    let engine = &service.engine;
    match file.read(engine.clock.wall()).await {
        Ok(kept) => {
            service.store.resume(kept.loaded.cursor);
            engine.restore(kept);
            Ok(())
        }
        Err(refusal) => {
            if !refusal.is_missing() {
                tracing::error!(%refusal, "the kept state is not served");
            }
            engine.book.open().state_file_refused(&refusal);
            Err(refusal)
        }
    }
}
