//! Business data and configuration in one transaction: both are committed, or neither; a condition that is not met leaves
//! the transaction to its owner; plain SQL does the same.
//!
//! Run it with `cargo run --example business_transaction`. It ends by itself.

#![allow(
    clippy::print_stdout,
    reason = "an example prints what a reader should see"
)]

mod common;

use std::sync::Arc;

use common::{Database, Outcome, PATIENCE};
use sync_config::prelude::*;
use tokio::time::timeout;
use tokio_postgres::Client;

const LIMIT: &str = "tenant:42:limit";

/// From any language; the commit numbers the change and announces it.
const PLAIN_SQL: &str = "
    BEGIN;
    UPDATE account SET plan = 'team', balance = balance - 10 WHERE id = 42;
    INSERT INTO sync_config (key, value) VALUES ('tenant:42:limit', '20000')
        ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value;
    COMMIT";

/// Sells plans: what a tenant pays is business, what it may do is configuration.
struct Sales {
    config: Arc<ConfigService>,
    client: Client,
}

impl Sales {
    /// Moves the tenant to a plan. The plan and its limit change together or not at all; an error of the commit itself is
    /// the old question of every transaction, whether its answer was lost.
    async fn upgrade(&mut self, plan: &str, price: i64, limit: i64) -> Outcome {
        let transaction = self.client.transaction().await?;
        let pay = "UPDATE account SET plan = $1, balance = balance - $2 WHERE id = 42";
        transaction.execute(pay, &[&plan, &price]).await?;
        let batch = Batch::new().put(LIMIT, limit).actor("sales");
        let joined = self.config.write_in(&transaction, batch).await?;
        let left: i64 = transaction
            .query_one("SELECT balance FROM account WHERE id = 42", &[])
            .await?
            .try_get(0)?;
        if left < 0 {
            transaction.rollback().await?;
            return Err(format!("{plan} costs {price}, which the account does not have").into());
        }
        transaction.commit().await?;
        let made = match self.config.committed(&joined).await? {
            Some(cursor) => format!("revision {}", cursor.revision),
            None => "no revision, since the limit was that before".to_owned(),
        };
        let now = self.config.get_i64(LIMIT, 0);
        println!("  Committed as {made}; {LIMIT} reads {now}.");
        Ok(())
    }

    /// Gives the trial, once for each tenant: the condition is decided by the database. Who had it already is noted, in the
    /// same transaction, which a refused condition leaves as it was.
    async fn trial(&mut self) -> Outcome {
        let transaction = self.client.transaction().await?;
        let once = Batch::new().put_if("tenant:42:trial", true, Precondition::Absent);
        let note = match self.config.write_in(&transaction, once).await {
            Ok(_joined) => "trial given",
            Err(error) if error.is_conflict() => {
                println!("  {error}.");
                "trial refused"
            }
            Err(error) => return Err(error.into()),
        };
        transaction
            .execute("INSERT INTO ledger VALUES (42, $1)", &[&note])
            .await?;
        transaction.commit().await?;
        println!("  The ledger says: {note}.");
        Ok(())
    }

    async fn show(&self) -> Outcome {
        let row = self
            .client
            .query_one("SELECT plan, balance FROM account WHERE id = 42", &[])
            .await?;
        let (plan, balance): (&str, i64) = (row.try_get(0)?, row.try_get(1)?);
        let limit = self.config.get_i64(LIMIT, 0);
        println!("  The account: {plan}, balance {balance}; the limit: {limit}.");
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Outcome {
    common::run(example).await
}

async fn example(database: &mut Database) -> Outcome {
    let config = database.instance().await?;
    let other = database.instance().await?;
    let tables =
        "CREATE TABLE account (id int PRIMARY KEY, plan text NOT NULL, balance bigint NOT NULL);
                  CREATE TABLE ledger (id int NOT NULL, note text NOT NULL);
                  INSERT INTO account VALUES (42, 'free', 100)";
    database.psql(tables).await?;
    let (client, connection) = database.client().await?;
    let mut sales = Sales {
        config: config.clone(),
        client,
    };
    let mut changes = other.changes(Filter::prefix("tenant:42:"))?;

    println!("The plan pro costs 80 of 100.");
    sales.upgrade("pro", 80, 10_000).await?;
    sales.show().await?;

    println!("The plan gold costs 500.");
    if let Err(error) = sales.upgrade("gold", 500, 1_000_000).await {
        println!("  Rolled back: {error}.");
    }
    sales.show().await?;

    println!("The trial, twice.");
    sales.trial().await?;
    sales.trial().await?;

    println!("Plain SQL does the same.");
    database.psql(PLAIN_SQL).await?;
    println!("Another instance was told:");
    for _ in 0..3 {
        let change = timeout(PATIENCE, changes.next())
            .await?
            .ok_or("the store closed")?;
        let value = change.new().map_or("deleted", |entry| entry.as_json());
        println!("  {} = {value}", change.key());
    }

    drop(sales);
    connection.await?;
    config.shutdown().await?;
    other.shutdown().await?;
    Ok(())
}
