//! Entries that come from elsewhere: another store, or a file.
//!
//! Guarantees: what is written is what was planned and shown, in one revision, or nothing at all: each key carries the
//! condition that it still is what the plan saw. Afterwards the store is read anew, and its checksum is the expected one.

pub(super) mod copy;
mod document;
pub(super) mod export;
pub(super) mod import;
mod plan;
mod progress;
mod toml_text;

use std::sync::Arc;
use std::time::Duration;

use self::plan::Plan;
use self::progress::{Progress, counted, during};
use super::Failure;
use super::commands::reader;
use crate::core::{Checksum, Entry, Fold, Revision, Snapshot};
use crate::error::Error;
use crate::service::Builder;
use crate::settings::Settings;
#[cfg(any(feature = "sqlite", feature = "remote"))]
use crate::settings::StoreUrl;
use crate::sync_config::SyncConfig;

/// Keys and values of one revision: half of what PostgreSQL takes in one message, which is 1 GiB.
const MOST_BYTES: usize = 512 * 1_048_576;

/// Of a server's: it takes bodies of 16 MiB, of which keys, values and conditions written as JSON fill at most this.
#[cfg(feature = "remote")]
const MOST_BYTES_OF_A_SERVER: usize = 12 * 1_048_576;

/// What a write of any size may take, and each 1,000 keys of it more. A slow disk takes a tenth.
const WRITE_TIME: Duration = Duration::from_secs(60);
const KEYS_TIME: Duration = Duration::from_secs(2);

/// The longest that the setting may be.
const MOST_TIME: Duration = Duration::from_secs(600);

/// What is there now.
struct Present {
    store: String,
    snapshot: Arc<Snapshot>,
}

/// Reads a store whole, once.
async fn read(settings: &Settings) -> Result<Present, Failure> {
    let service = reader(settings.clone()).await?;
    let (store, snapshot) = (service.status().store, service.snapshot());
    service.shutdown().await?;
    Ok(Present {
        store,
        snapshot: snapshot?,
    })
}

/// Reads a store that may not be there yet, and makes it unless it is only looked at.
async fn read_or_make(settings: &Settings, dry_run: bool) -> Result<Present, Failure> {
    if dry_run {
        #[cfg(feature = "sqlite")]
        if let Some(StoreUrl::Sqlite(path)) = settings.store_url()?
            && !path.exists()
        {
            return Err(Failure::Usage(format!(
                "there is no file {}, and --dry-run makes none; `sync-config migrate` does",
                path.display()
            )));
        }
        return read(settings).await;
    }
    let settings = settings.clone().enable_notification(false);
    let service = Builder::new(settings.migrate(true)).start().await?;
    let (store, snapshot) = (service.status().store, service.snapshot());
    service.shutdown().await?;
    Ok(Present {
        store,
        snapshot: snapshot?,
    })
}

/// Writes a plan in one revision; answers with that revision, or the present one if nothing is to be done.
async fn apply(
    settings: &Settings,
    plan: &Plan,
    present: &Snapshot,
    progress: Progress,
) -> Result<Revision, Failure> {
    let (keys, bytes) = (plan.changes(), plan.bytes());
    if keys == 0 {
        return Ok(present.revision());
    }
    let most = most_bytes(settings)?;
    if bytes > most {
        return Err(Failure::Usage(format!(
            "{} and their values have {bytes} bytes, and one revision holds at most {most} there; nothing was written; \
             take them in parts with --prefix",
            counted(keys, "key")
        )));
    }
    let thousands = u32::try_from(keys / 1_000).unwrap_or(u32::MAX);
    let needed = WRITE_TIME.saturating_add(KEYS_TIME.saturating_mul(thousands));
    let settings = Settings {
        request_timeout: settings.request_timeout.max(needed).min(MOST_TIME),
        ..settings.clone().enable_notification(false)
    };
    let service = Builder::new(settings).start().await?;
    let doing = format!("writing {} in one revision", counted(keys, "key"));
    let written = during(progress, &doing, service.write(plan.batch())).await;
    service.shutdown().await?;
    Ok(written?.revision())
}

/// The most bytes of one revision of a store.
fn most_bytes(settings: &Settings) -> Result<usize, Failure> {
    match settings.store_url()? {
        #[cfg(feature = "remote")]
        Some(StoreUrl::Remote(_)) => Ok(MOST_BYTES_OF_A_SERVER),
        _ => Ok(MOST_BYTES),
    }
}

/// Reads the store anew and compares it with what the plan leads to.
async fn verify(
    settings: &Settings,
    plan: &Plan,
    prefix: &str,
    revision: Revision,
) -> Result<Checksum, Failure> {
    let now = read(settings).await?;
    let (found, expected) = (folded(now.snapshot.prefixed(prefix)), plan.expected());
    if found == expected {
        return Ok(found);
    }
    let at = now.snapshot.revision();
    Err(Failure::Other(if at == revision {
        format!(
            "revision {at} was written, but the store's checksum is {found} and {expected} was expected; \
             do not use it before `sync-config doctor` says why"
        )
    } else {
        format!(
            "revision {revision} was written, but others have written since (it is at {at}), so that the checksums cannot be \
             compared; compare again with --dry-run"
        )
    }))
}

/// The checksum of some entries, in the order of their keys.
fn folded(entries: &[Arc<Entry>]) -> Checksum {
    let mut fold = Fold::default();
    for entry in entries {
        fold.add(entry.key(), entry.as_json());
    }
    fold.finish()
}

/// A value that a key of the plan cannot have.
fn value_error(key: &crate::core::Key, error: crate::core::ValueError) -> Error {
    let key = key.clone();
    crate::error::Kind::Value { key, error }.into()
}
