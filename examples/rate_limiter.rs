//! A rate limiter whose limits live in the store: they change while requests flow, on every instance.
//!
//! Run it with `cargo run --example rate_limiter`. It ends by itself. Time is an argument here, so that it always prints
//! the same; a server passes what its clock says.

#![allow(
    clippy::print_stdout,
    reason = "an example prints what a reader should see"
)]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::{Database, Outcome, PATIENCE};
use sync_config::Written;
use sync_config::prelude::*;
use tokio::sync::Notify;
use tokio::task::JoinSet;

const LOGIN: &str = "/api/v1/login";
const SEARCH: &str = "/api/v1/search";
/// Requests a second while nobody says otherwise.
const DEFAULT: u32 = 100;

/// Refuses requests over the limit of their endpoint, in requests a second.
struct RateLimiter {
    config: Arc<dyn SyncConfig>,
    /// One for each endpoint the server has: a caller cannot make more of them.
    buckets: BTreeMap<&'static str, Bucket>,
}

/// A token bucket. It holds as many requests as the limit says, and is refilled within a second.
struct Bucket {
    limit: Live<u32>,
    /// When it was looked at last, and what it held: a request is worth 10^9, so that a nanosecond refills `limit`.
    level: Mutex<(Duration, u64)>,
}

const REQUEST: u64 = 1_000_000_000;

impl RateLimiter {
    fn new(config: Arc<dyn SyncConfig>, endpoints: &[&'static str]) -> sync_config::Result<Self> {
        let limits = config.scoped("rate_limit:")?;
        let bucket = |endpoint: &&'static str| {
            let limit = limits.live(endpoint, DEFAULT)?; // the key is rate_limit:/api/v1/login
            let level = Mutex::new((Duration::ZERO, u64::MAX)); // full, whatever the limit
            Ok((*endpoint, Bucket { limit, level }))
        };
        let buckets = endpoints
            .iter()
            .map(bucket)
            .collect::<sync_config::Result<_>>()?;
        Ok(Self { config, buckets })
    }

    /// The limit at this moment; `None` for an endpoint that is not there.
    fn limit(&self, endpoint: &str) -> Option<u32> {
        Some(*self.buckets.get(endpoint)?.limit.load())
    }

    /// Whether one more request is within the limit of this moment.
    fn allow(&self, endpoint: &str, now: Duration) -> Option<bool> {
        let bucket = self.buckets.get(endpoint)?;
        let limit = u64::from(*bucket.limit.load());
        let mut level = bucket.level.lock().unwrap_or_else(PoisonError::into_inner);
        let (then, held) = *level;
        let elapsed = now.saturating_sub(then).min(Duration::from_secs(1));
        let refill = elapsed.as_nanos() as u64 * limit; // at most 2^32 x 10^9: it fits
        let held = held.saturating_add(refill).min(limit * REQUEST);
        let left = held.checked_sub(REQUEST);
        *level = (then.max(now), left.unwrap_or(held));
        Some(left.is_some())
    }

    /// What an administrator calls, on any instance.
    async fn update_limit(&self, endpoint: &str, limit: u32) -> sync_config::Result<Written> {
        let key = format!("rate_limit:{endpoint}");
        self.config.set(&key, limit).await
    }
}

#[tokio::main]
async fn main() -> Outcome {
    common::run(example).await
}

async fn example(database: &mut Database) -> Outcome {
    let (admin, gateway) = (database.instance().await?, database.instance().await?);
    let limiter = Arc::new(RateLimiter::new(gateway.clone(), &[LOGIN, SEARCH])?);
    let desk = RateLimiter::new(admin.clone(), &[])?;

    let served = traffic(&limiter, 1, DEFAULT, &Arc::default()).await?;
    println!("Second 1: {served} logins served; nobody said anything, so {DEFAULT} is the limit.");

    // The change is made when the bucket is empty, while four clients go on sending.
    for (second, limit) in [(2, 20), (4, 150)] {
        let empty = Arc::<Notify>::default();
        let change = async {
            empty.notified().await;
            desk.update_limit(LOGIN, limit).await
        };
        let (served, changed) = tokio::join!(traffic(&limiter, second, limit, &empty), change);
        let (served, revision) = (served?, changed?.revision());
        println!(
            "Second {second}: {served} served; meanwhile the limit became {limit} at revision {revision}."
        );
        let second = second + 1;
        let served = traffic(&limiter, second, limit, &Arc::default()).await?;
        println!("Second {second}: {served} served.");
    }

    let written = admin.set(&format!("rate_limit:{LOGIN}"), "plenty").await?;
    gateway.wait_for(written.cursor().into(), PATIENCE).await?;
    let served = traffic(&limiter, 6, 150, &Arc::default()).await?;
    println!("Second 6: {served} served, although somebody wrote \"plenty\":");
    if let Some(rejected) = limiter
        .buckets
        .get(LOGIN)
        .and_then(|bucket| bucket.limit.rejected())
    {
        println!("  {rejected}.");
    }
    println!(
        "{SEARCH} has a limit of its own: {:?}; /nowhere has none: {:?}.",
        limiter.limit(SEARCH),
        limiter.allow("/nowhere", Duration::from_secs(6))
    );

    admin.shutdown().await?;
    gateway.shutdown().await?;
    Ok(())
}

/// Four clients that send logins within one moment, until each has sent 50 and sees the limit `until`. Answers how many
/// were served.
async fn traffic(
    limiter: &Arc<RateLimiter>,
    second: u64,
    until: u32,
    empty: &Arc<Notify>,
) -> Result<u32, Box<dyn std::error::Error>> {
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (limiter, empty) = (limiter.clone(), empty.clone());
        clients.spawn(async move {
            let (mut sent, mut served) = (0, 0);
            while sent < 50 || limiter.limit(LOGIN) != Some(until) {
                match limiter.allow(LOGIN, Duration::from_secs(second)) {
                    Some(true) => served += 1,
                    Some(false) | None => empty.notify_one(),
                }
                sent += 1;
                tokio::task::yield_now().await;
            }
            served
        });
    }
    let served = tokio::time::timeout(PATIENCE, clients.join_all()).await?;
    Ok(served.iter().sum())
}
