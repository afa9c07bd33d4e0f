//! Cache invalidation: results that are expensive to compute are kept by each instance, until a version key of their
//! namespace changes. An instance that was cut off from the database meanwhile drops them all the same.
//!
//! Run it with `cargo run --example cache_invalidation`. It ends by itself.

#![allow(
    clippy::print_stdout,
    reason = "an example prints what a reader should see"
)]

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::{Database, Outcome, PATIENCE, until};
use serde_json::Value;
use sync_config::prelude::*;
use sync_config::{Mode, Written};
use tokio::task::JoinHandle;

/// Results that are kept of a namespace; beyond this it begins anew. Keys come from requests, and memory ends.
const MOST: usize = 10_000;

/// Results of one namespace that hold as long as the key `cache_version:<namespace>` does.
struct Cache<V> {
    kept: Arc<Shared<V>>,
    sweeper: JoinHandle<()>,
}

struct Shared<V> {
    version: Live<Value>,
    kept: Mutex<Kept<V>>,
}

struct Kept<V> {
    version: Arc<Value>,
    results: HashMap<String, V>,
}

impl<V> Shared<V> {
    /// What is kept, emptied if the version has changed. Every look compares: there is no news to be missed.
    fn now(&self) -> MutexGuard<'_, Kept<V>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let version = self.version.shared();
        if kept.version != version {
            kept.results.clear();
            kept.version = version;
        }
        kept
    }
}

impl<V: Clone + Send + 'static> Cache<V> {
    fn new(config: &Arc<dyn SyncConfig>, namespace: &str) -> sync_config::Result<Self> {
        let key = format!("cache_version:{namespace}");
        let mut changes = config.changes(Filter::key(&key))?;
        let version = config.live(&key, Value::Null)?;
        let (newest, results) = (version.shared(), HashMap::new());
        let kept = Mutex::new(Kept {
            version: newest,
            results,
        });
        let kept = Arc::new(Shared { version, kept });
        // Frees the memory at once, also of results that nobody asks for again.
        let swept = kept.clone();
        let sweeper = tokio::spawn(async move {
            while changes.next().await.is_some() {
                drop(swept.now());
            }
        });
        Ok(Self { kept, sweeper })
    }

    /// The result that is kept, else a new one. What was computed while the version changed is answered and not kept.
    async fn get_or_compute(&self, key: &str, compute: impl AsyncFnOnce() -> V) -> V {
        let version = {
            let kept = self.kept.now();
            if let Some(result) = kept.results.get(key) {
                return result.clone();
            }
            kept.version.clone()
        };
        let result = compute().await;
        let mut kept = self.kept.now();
        if kept.version == version {
            if kept.results.len() >= MOST {
                kept.results.clear();
            }
            kept.results.insert(key.to_owned(), result.clone());
        }
        result
    }
}

impl<V> Drop for Cache<V> {
    fn drop(&mut self) {
        self.sweeper.abort();
    }
}

/// Makes every instance drop what it keeps of a namespace.
struct Invalidator {
    config: Arc<dyn SyncConfig>,
    count: AtomicU64,
}

impl Invalidator {
    /// Call it after the change of the data is committed, or write the key in the same transaction. The version is one
    /// that was never there before: two who counted up at the same time would put the same number, which is no change.
    async fn invalidate(&self, namespace: &str) -> sync_config::Result<Written> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let version = format!("{}-{count}", self.config.status().instance);
        let key = format!("cache_version:{namespace}");
        self.config.set(&key, version).await
    }
}

/// A web server's part: it asks the cache, and counts what had to be computed.
struct Shop {
    config: Arc<dyn SyncConfig>,
    prices: Cache<u64>,
    computed: AtomicU64,
}

impl Shop {
    fn new(config: Arc<dyn SyncConfig>) -> sync_config::Result<Self> {
        let prices = Cache::new(&config, "prices")?;
        let computed = AtomicU64::new(0);
        Ok(Self {
            config,
            prices,
            computed,
        })
    }

    /// Looks four prices up, two of them twice, and answers how many had to be computed.
    async fn look(&self) -> u64 {
        for product in ["apple", "pear", "apple", "pear"] {
            let compute = async || {
                self.computed.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await; // here it would ask the database
                product.len() as u64
            };
            self.prices.get_or_compute(product, compute).await;
        }
        self.computed.swap(0, Ordering::Relaxed)
    }

    async fn follow(&self, written: &Written) -> sync_config::Result<()> {
        self.config
            .wait_for(written.cursor().into(), PATIENCE)
            .await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Outcome {
    common::run(example).await
}

async fn example(database: &mut Database) -> Outcome {
    let name = format!("shop-{}", std::process::id());
    let settings = database.settings().instance_name(&name);
    let (admin, one) = (database.instance().await?, database.instance().await?);
    let two = Builder::new(settings).start().await?;
    let (one, two) = (Shop::new(one)?, Shop::new(two)?);
    let invalidator = Invalidator {
        config: admin.clone(),
        count: AtomicU64::new(0),
    };

    println!(
        "Cold: shop 1 computes {}, shop 2 computes {}.",
        one.look().await,
        two.look().await
    );
    println!(
        "Warm: shop 1 computes {}, shop 2 computes {}.",
        one.look().await,
        two.look().await
    );

    let written = invalidator.invalidate("prices").await?;
    one.follow(&written).await?;
    two.follow(&written).await?;
    println!(
        "Prices invalidated: {} and {}.",
        one.look().await,
        two.look().await
    );

    let written = invalidator.invalidate("reviews").await?;
    one.follow(&written).await?;
    println!("Another namespace invalidated: {}.", one.look().await);

    let lost = two.config.status().counters.sessions_lost;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name";
    database.psql(&format!("{kill} = '{name}'")).await?;
    until(
        &*two.config,
        "the loss of the connection is noticed",
        |status| status.counters.sessions_lost > lost,
    )
    .await?;
    let warm = two.look().await;
    let written = invalidator.invalidate("prices").await?;
    println!("Shop 2 is cut off and computes {warm}; now prices are invalidated.");
    until(&*two.config, "the connection is back", |status| {
        status.mode == Mode::Push && status.revision >= written.revision()
    })
    .await?;
    println!(
        "Shop 2 is back, nothing was lost: it computes {}.",
        two.look().await
    );

    // From any language, in the transaction that changes the data.
    let sql = "INSERT INTO sync_config (key, value) VALUES ('cache_version:prices', to_jsonb(gen_random_uuid()))
               ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value";
    let mut changes = one.config.changes(Filter::key("cache_version:prices"))?;
    database.psql(sql).await?;
    tokio::time::timeout(PATIENCE, changes.next())
        .await?
        .ok_or("the store closed")?;
    println!(
        "Invalidated by plain SQL: shop 1 computes {}.",
        one.look().await
    );

    for config in [&one.config, &two.config] {
        config.shutdown().await?;
    }
    admin.shutdown().await?;
    Ok(())
}
