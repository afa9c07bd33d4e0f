//! `sync-config doctor`: everything that a store needs, looked at once.

use std::fmt;

use super::Failure;
use super::out::{print, print_json};
use crate::error::Error;
use crate::runtime::Clock;
use crate::service::{Builder, ConfigService, describe};
use crate::settings::{Settings, StoreUrl};
use crate::status::Mode;
use crate::store::finding::{Finding, Level};
use crate::store::postgres::admin::Admin;
#[cfg(feature = "sqlite")]
use crate::store::sqlite::admin::Admin as FileAdmin;
use crate::sync_config::SyncConfig;

/// Examines the store and this program's way to it: a line for each thing, with what to do where something is wrong.
///
/// PostgreSQL: connection, version, primary, TLS, clocks, notification queue, connections, durability, transactions left open,
/// schema, privileges, triggers, bloat, journal. SQLite: file, permissions, file system, version, journal mode, integrity, bloat,
/// write lock, schema. Both: whether notices really arrive (a pooler in between keeps them away), consumers, and whether the table
/// is what its journal says. Changes nothing. Exit code 1 if anything fails; a warning alone is 0.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    /// Prints JSON: {"store", "ok", "findings": [{"check", "level": "ok"|"warn"|"fail", "found", "advice"}]}.
    #[arg(long)]
    json: bool,
}

pub(super) async fn doctor(settings: Settings, doctor: Doctor) -> Result<(), Failure> {
    let store = describe(&settings)?;
    let mut found = match examine(&settings).await {
        Ok(found) => found,
        Err(error) => vec![unreachable(&error)],
    };
    if !found.iter().any(|finding| {
        finding.level == Level::Fail && ["connection", "schema", "file"].contains(&finding.check)
    }) {
        found.extend(served(&settings).await);
    }
    let failed = found
        .iter()
        .filter(|finding| finding.level == Level::Fail)
        .count();
    if doctor.json {
        print_json(serde_json::json!({ "store": store, "ok": failed == 0, "findings": found }))?;
    } else {
        print(&store)?;
        for finding in &found {
            finding.to_string().lines().try_for_each(print)?;
        }
    }
    match failed {
        0 => Ok(()),
        failed => Err(Failure::Other(format!(
            "{failed} of {} checks failed",
            found.len()
        ))),
    }
}

/// What the store's own adapter looks at.
async fn examine(settings: &Settings) -> Result<Vec<Finding>, Error> {
    let clock = Clock::start();
    match settings.store_url()? {
        None | Some(StoreUrl::Postgres) => {
            let examined = Admin::new(settings)?.examine(|| clock.wall()).await?;
            let reached = Finding::ok("connection", "the server answers");
            Ok(std::iter::once(reached).chain(examined).collect())
        }
        #[cfg(feature = "sqlite")]
        Some(StoreUrl::Sqlite(path)) => {
            let admin = FileAdmin::new(settings, &path, clock.sources())?;
            let examined = admin.examine().await;
            admin.close().await;
            examined
        }
        // Its own store is for the server to examine; what an instance meets is looked at below.
        #[cfg(feature = "remote")]
        Some(StoreUrl::Remote(_)) => Ok(Vec::new()),
    }
}

fn unreachable(error: &Error) -> Finding {
    let advice = if error.is_unavailable() {
        "see that the server runs, that the address is right and that nothing between here and there closes the port"
    } else {
        "see what it says; `sync-config config print` shows the settings and where each comes from"
    };
    Finding::fail("connection", error.to_string(), advice)
}

/// What an instance of the library meets.
async fn served(settings: &Settings) -> Vec<Finding> {
    let settings = settings.clone().migrate(false);
    let (notices, relayed) = (settings.enable_notification, is_relayed(&settings));
    let service = match Builder::new(settings).start().await {
        Ok(service) => service,
        Err(error) => {
            let advice = "see what it says; an instance meets the same";
            return vec![Finding::fail("start", error.to_string(), advice)];
        }
    };
    let looked = match relayed {
        true => None,
        false => Some(service.look_at_consumers().await),
    };
    let status = service.status();
    let mut found = vec![listening(status.mode, status.reason.as_deref(), notices)];
    found.extend(looked.map(|looked| match looked {
        Err(error) => Finding::warn("consumers", error.to_string(), "see what it says"),
        Ok(()) if status.slow_consumers.is_empty() => {
            Finding::ok("consumers", "none is about to lose revisions")
        }
        Ok(()) => {
            let names = status.slow_consumers.iter();
            let names: Vec<&str> = names.map(|slow| slow.name.as_str()).collect();
            Finding::warn(
                "consumers",
                format!("slow: {}", names.join(", ")),
                "let them catch up, or `sync-config consumers remove` those that nobody uses; else the journal is trimmed before they have read it",
            )
        }
    }));
    if relayed {
        let advice = "run it where the server's database or file is";
        found.push(Finding::warn(
            "store",
            "what the server stands on is not seen from here",
            advice,
        ));
    } else {
        found.push(content(&service).await);
    }
    // It was only started to be looked at.
    drop(service.shutdown().await);
    found
}

/// Whether the store is a server's, which looks after it.
fn is_relayed(settings: &Settings) -> bool {
    match settings.store_url() {
        #[cfg(feature = "remote")]
        Ok(Some(StoreUrl::Remote(_))) => true,
        _ => false,
    }
}

fn listening(mode: Mode, reason: Option<&str>, wanted: bool) -> Finding {
    let reason = reason.unwrap_or("no reason is known");
    match mode {
        Mode::Push => Finding::ok(
            "listening",
            "one was sent and heard: changes arrive at once",
        ),
        _ if !wanted => Finding::ok("listening", "not used, as enable_notification says"),
        Mode::Poll => Finding::warn(
            "listening",
            format!("they do not arrive, and changes are polled for: {reason}"),
            "set LISTEN_DATABASE_URL to a direct address if a pooler stands before the database; let WebSockets through if a proxy stands before a server",
        ),
        Mode::Offline => Finding::fail("listening", reason, "see what it says"),
    }
}

/// Whether the table is what its journal has led to.
async fn content(service: &ConfigService) -> Finding {
    /// Keys that are named.
    const NAMED: usize = 5;
    match service.altered().await {
        Ok(keys) if keys.is_empty() => Finding::ok("content", "the table is what its journal says"),
        Ok(keys) => {
            let first: Vec<&str> = keys.iter().take(NAMED).map(|key| key.as_str()).collect();
            Finding::warn(
                "content",
                format!(
                    "{} rows were altered behind the triggers: {}",
                    keys.len(),
                    first.join(", ")
                ),
                "the next audit gives them a revision; find who writes with triggers disabled",
            )
        }
        Err(error) => Finding::warn("content", error.to_string(), "see what it says"),
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        write!(f, "{level:<4}  {:<13} {}", self.check, self.found)?;
        match &self.advice {
            Some(advice) => write!(f, "\n      {:<13} -> {advice}", ""),
            None => Ok(()),
        }
    }
}
