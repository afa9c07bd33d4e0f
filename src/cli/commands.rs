//! Reading and writing entries.
//!
//! Each command starts a service of its own and shuts it down; reading never creates or changes a schema.

use std::io::Read;
use std::sync::Arc;

use super::Failure;
use super::args::Set;
use super::out::{print, print_json, say};
use crate::core::{Entry, Key, MAX_VALUE_BYTES, Revision, Value, shown};
use crate::error::{Error, Kind};
use crate::service::{Builder, ConfigService};
use crate::settings::Settings;
use crate::sync_config::SyncConfig;
use crate::wire::{EntryView, json, timestamp};
use crate::write::{Batch, Precondition, Written};

/// A value is cut in the table of `list` after so many characters; `--json` shows it whole.
const SHOWN: usize = 60;

pub(super) async fn get(settings: Settings, key: &str) -> Result<(), Failure> {
    let key = Key::parse(key).map_err(Error::from)?;
    let service = reader(settings).await?;
    let entry = service.get(&key);
    service.shutdown().await?;
    match entry? {
        Some(entry) => print_json(entry.as_json()),
        None => Err(Failure::Missing(key.to_string())),
    }
}

pub(super) async fn set(settings: Settings, set: Set) -> Result<(), Failure> {
    let key = Key::parse(&set.key).map_err(Error::from)?;
    let text = if set.json == "-" { stdin()? } else { set.json };
    let value = if set.string {
        Value::encode(&text)
    } else {
        Value::parse(&text)
    };
    let value = value.map_err(|error| {
        let key = key.clone();
        Error::from(Kind::Value { key, error })
    })?;
    let precondition = match (set.if_revision, set.if_absent) {
        (Some(revision), _) => Some(Precondition::Revision(Revision::new(revision))),
        (None, true) => Some(Precondition::Absent),
        (None, false) => None,
    };
    let written = write(settings, Batch::new().put_value(&key, value, precondition)).await?;
    let entry = written.keys().first().and_then(|key| key.entry());
    let revision = entry.map_or(written.revision(), |entry| entry.revision());
    print_json(
        serde_json::json!({ "key": key, "revision": revision, "changed": written.changed() }),
    )
}

pub(super) async fn delete(settings: Settings, key: &str) -> Result<(), Failure> {
    let written = write(settings, Batch::new().delete(key)).await?;
    if !written.changed() {
        return Err(Failure::Missing(key.to_owned()));
    }
    print_json(serde_json::json!({ "key": key, "revision": written.revision() }))
}

pub(super) async fn list(settings: Settings, prefix: &str, as_json: bool) -> Result<(), Failure> {
    let service = reader(settings).await?;
    let snapshot = service.snapshot();
    service.shutdown().await?;
    let snapshot = snapshot?;
    let entries = snapshot.prefixed(prefix);
    if as_json {
        let views: Vec<String> = entries
            .iter()
            .map(|entry| json(&EntryView(entry)))
            .collect();
        let (revision, views) = (snapshot.revision(), views.join(","));
        print_json(format_args!(
            "{{\"revision\":{revision},\"entries\":[{views}]}}"
        ))
    } else {
        table(entries)
    }
}

pub(super) async fn status(settings: Settings) -> Result<(), Failure> {
    let service = Builder::new(settings.migrate(false)).start().await?;
    // A service that has just begun has not looked at the consumers yet.
    let looked = service.look_at_consumers().await;
    let status = service.status();
    service.shutdown().await?;
    if let Err(error) = looked {
        say(format_args!("sync-config: {error}"));
    }
    match serde_json::to_string_pretty(&status) {
        Ok(text) => print_json(text),
        Err(error) => Err(Failure::Other(error.to_string())),
    }
}

/// A service that is loaded once and hears nothing.
pub(super) async fn reader(settings: Settings) -> Result<Arc<ConfigService>, Error> {
    let settings = settings.migrate(false).enable_notification(false);
    Builder::new(settings).start().await
}

async fn write(settings: Settings, batch: Batch) -> Result<Written, Error> {
    let service = Builder::new(settings.enable_notification(false))
        .start()
        .await?;
    let written = service.write(batch).await;
    service.shutdown().await?;
    written
}

fn stdin() -> Result<String, Failure> {
    // One byte more than a value may have, so that a longer one is refused as too long.
    let bound = u64::try_from(MAX_VALUE_BYTES).unwrap_or(u64::MAX) + 1;
    let mut text = String::new();
    match std::io::stdin()
        .lock()
        .take(bound)
        .read_to_string(&mut text)
    {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::Usage(format!("stdin cannot be read: {error}"))),
    }
}

fn table(entries: &[Arc<Entry>]) -> Result<(), Failure> {
    let width = entries
        .iter()
        .map(|entry| entry.key().to_string().chars().count());
    let width = width.max().unwrap_or(0).max("KEY".len());
    print(format_args!(
        "{:<width$}  {:>10}  {:<27}  VALUE",
        "KEY", "REVISION", "UPDATED"
    ))?;
    for entry in entries {
        let (key, revision) = (entry.key().to_string(), entry.revision().get());
        let mut value = shown(entry.as_json()).to_string();
        if value.chars().count() > SHOWN {
            value = value.chars().take(SHOWN - 1).chain(['…']).collect();
        }
        let updated = timestamp(entry.updated_at());
        print(format_args!(
            "{key:<width$}  {revision:>10}  {updated:<27}  {value}"
        ))?;
    }
    Ok(())
}
