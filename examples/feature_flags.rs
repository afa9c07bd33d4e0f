//! A feature flag service: `Arc<dyn SyncConfig>` injected, flags read from memory, switched on any instance, and a
//! callback when one changes.
//!
//! Run it with `cargo run --example feature_flags`. It ends by itself.

mod common;

use std::sync::Arc;
use std::time::Duration;

use sync_config::Written;
use sync_config::prelude::*;

/// Answers whether a feature is on.
struct FeatureFlags {
    config: Arc<dyn SyncConfig>,
}

impl FeatureFlags {
    /// Nanoseconds, without a network: a request handler may ask for every request.
    fn is_enabled(&self, flag: &str) -> bool {
        self.config.get_bool(&format!("feature:{flag}"), false)
    }

    /// Durable when it returns; every instance follows within milliseconds.
    async fn enable(&self, flag: &str) -> sync_config::Result<Written> {
        self.config.set(&format!("feature:{flag}"), true).await
    }
}

#[tokio::main]
#[allow(
    clippy::print_stdout,
    reason = "an example prints what a reader should see"
)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let database = common::database()?;
    let admin: Arc<dyn SyncConfig> = sync_config::connect(&database.url).await?;
    let web: Arc<dyn SyncConfig> = sync_config::connect(&database.url).await?;
    admin.delete("feature:new_ui").await?;

    let (told, heard) = std::sync::mpsc::channel();
    web.subscribe_as::<bool>("feature:new_ui", move |old, new| {
        let _gone = told.send((old.copied(), new.copied()));
    })?;
    let flags = FeatureFlags {
        config: web.clone(),
    };
    println!("new_ui before: {}", flags.is_enabled("new_ui"));

    let written = FeatureFlags {
        config: admin.clone(),
    }
    .enable("new_ui")
    .await?;
    web.wait_for(written.cursor().into(), Duration::from_secs(5))
        .await?;
    println!("new_ui after: {}", flags.is_enabled("new_ui"));
    println!(
        "the web instance was called back: {:?}",
        heard.recv_timeout(Duration::from_secs(5))?
    );

    admin.shutdown().await?;
    web.shutdown().await?;
    Ok(())
}
