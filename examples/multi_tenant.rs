//! Multi-tenant configuration: a view for each tenant, defaults that a tenant may override, and services that do not know
//! that what they hold is a view.
//!
//! Run it with `cargo run --example multi_tenant`. It ends by itself.

#![allow(
    clippy::print_stdout,
    reason = "an example prints what a reader should see"
)]

mod common;

use std::sync::Arc;

use common::{Database, Outcome, PATIENCE};
use serde::{Deserialize, Serialize};
use sync_config::prelude::*;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// What a tenant has bought.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    name: String,
    seats: u32,
}

/// One tenant's configuration over everybody's.
struct Tenant {
    own: Arc<dyn SyncConfig>,
    everybody: Arc<dyn SyncConfig>,
}

impl Tenant {
    /// The id comes from a request: one with a `:` in it would name a part of another tenant's keys.
    fn open(config: &Arc<dyn SyncConfig>, id: &str) -> Result<Self, Box<dyn std::error::Error>> {
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("a tenant's id is a number".into());
        }
        Ok(Self {
            own: config.scoped(&format!("tenant:{id}:"))?,
            everybody: config.scoped("tenant_default:")?,
        })
    }

    /// The tenant's own plan, else everybody's. A value that is no plan is an error, not a free upgrade.
    fn plan(&self) -> sync_config::Result<Option<Arc<Plan>>> {
        match self.own.get_as("plan")? {
            Some(plan) => Ok(Some(plan)),
            None => self.everybody.get_as("plan"),
        }
    }

    fn limit(&self, name: &str, fallback: i64) -> i64 {
        let key = format!("limit:{name}");
        self.own
            .get_i64(&key, self.everybody.get_i64(&key, fallback))
    }
}

/// A service like any other: it reads and writes `greeting`, of whatever store it is given.
struct Greeter {
    config: Arc<dyn SyncConfig>,
}

impl Greeter {
    fn greet(&self) -> String {
        self.config.get_string("greeting", "Hello")
    }

    async fn change(&self, greeting: &str) -> sync_config::Result<()> {
        self.config.set("greeting", greeting).await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Outcome {
    common::run(example).await
}

async fn example(database: &mut Database) -> Outcome {
    let config: Arc<dyn SyncConfig> = database.instance().await?;
    let (four, forty_two) = (Tenant::open(&config, "4")?, Tenant::open(&config, "42")?);
    if let Err(error) = Tenant::open(&config, "4:2") {
        println!("Tenant \"4:2\" is refused: {error}.");
    }

    let plan = |name: &str, seats| Plan {
        name: name.to_owned(),
        seats,
    };
    four.everybody.set("plan", plan("free", 3)).await?;
    four.everybody.set("limit:exports", 10).await?;
    forty_two.own.set("plan", plan("pro", 50)).await?;
    forty_two.own.set("limit:exports", 10_000).await?;
    for (id, tenant) in [("4", &four), ("42", &forty_two)] {
        let plan = tenant.plan()?.ok_or("no plan for everybody")?;
        let exports = tenant.limit("exports", 1);
        println!(
            "Tenant {id}: plan {}, {} seats, {exports} exports.",
            plan.name, plan.seats
        );
    }

    // What one tenant does, another neither sees nor hears.
    let (told, mut heard) = mpsc::unbounded_channel();
    four.own.on_change(Filter::all(), move |event| {
        if let Event::Changed(set) = event {
            for change in set.changes() {
                let _nobody_listens = told.send(change.key().to_string());
            }
        }
    })?;
    let checksum = four.own.checksum()?;
    let (greeter, other) = (
        Greeter {
            config: four.own.clone(),
        },
        Greeter {
            config: forty_two.own.clone(),
        },
    );
    other.change("Ahoy").await?;
    println!(
        "Tenant 42 greets with {}, tenant 4 with {}.",
        other.greet(),
        greeter.greet()
    );
    println!(
        "Tenant 4's checksum is the same as before: {}.",
        four.own.checksum()? == checksum
    );
    greeter.change("Salut").await?;
    let first = timeout(PATIENCE, heard.recv()).await?;
    println!(
        "The first that tenant 4 is told of: {first:?}, its own greeting: {}.",
        greeter.greet()
    );

    println!("The store itself:");
    for entry in config.get_all()? {
        println!("  {} = {}", entry.key(), entry.as_json());
    }

    // Ending a view ends what was subscribed through it; the store goes on.
    four.own.shutdown().await?;
    println!("Tenant 4 is gone, tenant 42 greets with {}.", other.greet());
    config.shutdown().await?;
    Ok(())
}
