//! Feature flags: a struct of live handles with a default each, switched on one instance and followed by another, with a
//! callback, and a value that is no flag.
//!
//! Run it with `cargo run --example feature_flags`. It ends by itself.

#![allow(
    clippy::print_stdout,
    reason = "an example prints what a reader should see"
)]

mod common;

use std::sync::Arc;

use common::{Database, Outcome, PATIENCE};
use sync_config::Written;
use sync_config::prelude::*;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The flags that the program knows, each with the default that holds while its key is absent.
struct Flags {
    new_ui: Live<bool>,
    search: Live<bool>,
}

impl LiveGroup for Flags {
    fn bind(keys: &LiveKeys<'_>) -> sync_config::Result<Self> {
        Ok(Self {
            new_ui: keys.live("new_ui", false)?,
            search: keys.live("search", true)?, // on, unless somebody pulls the plug
        })
    }
}

/// Answers whether a feature is on, and switches it.
struct FeatureFlags {
    config: Arc<dyn SyncConfig>,
    flags: Flags,
}

impl FeatureFlags {
    fn new(config: Arc<dyn SyncConfig>) -> sync_config::Result<Self> {
        let flags = config.group("feature:")?;
        Ok(Self { config, flags })
    }

    /// One atomic load: a request handler may ask for every request.
    fn page(&self) -> &'static str {
        match (*self.flags.new_ui.load(), *self.flags.search.load()) {
            (true, true) => "the new page with search",
            (true, false) => "the new page",
            (false, true) => "the old page with search",
            (false, false) => "the old page",
        }
    }

    /// A flag whose name is known at run time only. Memory too: no network, and it never fails.
    fn is_enabled(&self, flag: &str) -> bool {
        self.config.get_bool(&format!("feature:{flag}"), false)
    }

    /// Durable when it returns; every instance follows within milliseconds.
    async fn enable(&self, flag: &str) -> sync_config::Result<Written> {
        self.config.set(&format!("feature:{flag}"), true).await
    }
}

#[tokio::main]
async fn main() -> Outcome {
    common::run(example).await
}

async fn example(database: &mut Database) -> Outcome {
    let (admin, web) = (database.instance().await?, database.instance().await?);
    let flags = FeatureFlags::new(web.clone())?;
    let (told, mut heard) = mpsc::unbounded_channel();
    web.subscribe_as::<bool>("feature:new_ui", move |old, new| {
        let _nobody_listens = told.send((old.copied(), new.copied()));
    })?;
    println!("Before: {}.", flags.page());

    let switch = FeatureFlags::new(admin.clone())?;
    let written = switch.enable("new_ui").await?;
    web.wait_for(written.cursor().into(), PATIENCE).await?;
    println!("new_ui is on, on every instance: {}.", flags.page());
    let change = timeout(PATIENCE, heard.recv()).await?;
    println!("The web instance was called back: {change:?}.");

    // Two flags that belong together change together: one revision, all or nothing.
    let both = Batch::new()
        .put("feature:search", false)
        .put("feature:beta:export", true)
        .actor("alice");
    let written = admin.write(both).await?;
    web.wait_for(written.cursor().into(), PATIENCE).await?;
    let export = flags.is_enabled("beta:export");
    println!("search is off, beta:export is {export}: {}.", flags.page());

    let written = admin.set("feature:new_ui", "yes").await?;
    web.wait_for(written.cursor().into(), PATIENCE).await?;
    println!("Somebody writes \"yes\": still {}.", flags.page());
    if let Some(rejected) = flags.flags.new_ui.rejected() {
        println!("  Because {rejected}.");
    }

    let absent = Batch::new()
        .delete("feature:new_ui")
        .delete("feature:search");
    let written = admin.write(absent).await?;
    web.wait_for(written.cursor().into(), PATIENCE).await?;
    println!("Deleted, so the defaults hold: {}.", flags.page());

    admin.shutdown().await?;
    web.shutdown().await?;
    Ok(())
}
