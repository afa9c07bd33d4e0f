//! Named consumers with faults in front of them.

use std::time::Duration;

use async_trait::async_trait;

use super::session::FaultyStore;
use crate::core::Cursor;
use crate::error::Result;
use crate::status::SlowConsumer;
use crate::store::consumers::{Advanced, Consumers, Place, Start};

#[async_trait]
impl Consumers for FaultyStore {
    async fn consume(&self, name: &str, start: Start) -> Result<Cursor> {
        self.reached("finding a consumer's place").await?;
        self.inner.consumers().consume(name, start).await
    }

    async fn places(&self, name: Option<&str>) -> Result<Vec<Place>> {
        self.reached("reading consumers' places").await?;
        self.inner.consumers().places(name).await
    }

    async fn advance(&self, name: &str, to: Cursor, anew: bool) -> Result<Advanced> {
        self.reached("moving a consumer").await?;
        self.inner.consumers().advance(name, to, anew).await
    }

    async fn forget(&self, name: &str) -> Result<bool> {
        self.reached("removing a consumer").await?;
        self.inner.consumers().forget(name).await
    }

    async fn slow(&self, danger: Duration, end: Duration) -> Result<Vec<SlowConsumer>> {
        self.reached("looking for slow consumers").await?;
        self.inner.consumers().slow(danger, end).await
    }
}
