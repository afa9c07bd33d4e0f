//! Named consumers: their places are kept beside the journal, where this instance is not.

use std::time::Duration;

use async_trait::async_trait;

use super::RemoteStore;
use crate::core::Cursor;
use crate::error::{Error, Result};
use crate::status::SlowConsumer;
use crate::store::consumers::{Advanced, Consumers, Place, Start};

/// Says what to do instead.
fn refused(what: &str) -> Error {
    Error::refused(
        what,
        "the place of a named consumer is kept beside the journal, and this instance has no database of its own; \
         keep the cursor and read on from it with `history`",
    )
}

#[async_trait]
impl Consumers for RemoteStore {
    async fn consume(&self, _name: &str, _start: Start) -> Result<Cursor> {
        Err(refused("beginning a consumer"))
    }

    async fn places(&self, _name: Option<&str>) -> Result<Vec<Place>> {
        Err(refused("listing the consumers"))
    }

    async fn advance(&self, _name: &str, _to: Cursor, _anew: bool) -> Result<Advanced> {
        Err(refused("moving a consumer"))
    }

    async fn forget(&self, _name: &str) -> Result<bool> {
        Err(refused("removing a consumer"))
    }

    async fn slow(&self, _danger: Duration, _end: Duration) -> Result<Vec<SlowConsumer>> {
        Err(refused("looking at the consumers"))
    }
}
