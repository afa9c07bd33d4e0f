//! A rate limiter whose limits live in the store: they change while requests flow, on every instance.
//!
//! Run it with `cargo run --example rate_limiter`. It ends by itself.

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sync_config::prelude::*;

/// Counts requests in a window and refuses those over the limit of their endpoint.
struct RateLimiter {
    config: Arc<dyn SyncConfig>,
    counts: Mutex<HashMap<String, i64>>,
}

impl RateLimiter {
    /// Endpoints may hold slashes: `rate_limit:/api/login`.
    fn limit(&self, endpoint: &str) -> i64 {
        self.config.get_i64(&format!("rate_limit:{endpoint}"), 100)
    }

    /// Whether one more request is within the limit as it is at this moment.
    fn allow(&self, endpoint: &str) -> bool {
        let limit = self.limit(endpoint);
        let mut counts = self
            .counts
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let count = counts.entry(endpoint.to_owned()).or_default();
        *count += 1;
        *count <= limit
    }

    fn begin_window(&self) {
        self.counts
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clear();
    }
}

#[tokio::main]
#[allow(
    clippy::print_stdout,
    reason = "an example prints what a reader should see"
)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let database = common::database()?;
    let admin = sync_config::connect(&database.url).await?;
    let gateway = sync_config::connect(&database.url).await?;
    admin.delete("rate_limit:/api/login").await?;
    let limiter = RateLimiter {
        config: gateway.clone(),
        counts: Mutex::default(),
    };

    let served = (0..150).filter(|_| limiter.allow("/api/login")).count();
    println!("150 requests with the default limit: {served} served");

    let written = admin.set("rate_limit:/api/login", 30).await?;
    gateway
        .wait_for(written.cursor().into(), Duration::from_secs(5))
        .await?;
    limiter.begin_window();
    let served = (0..150).filter(|_| limiter.allow("/api/login")).count();
    println!("150 requests after the limit was set to 30 elsewhere: {served} served");

    admin.shutdown().await?;
    gateway.shutdown().await?;
    Ok(())
}
