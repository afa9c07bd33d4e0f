//! API keys of the HTTP service: made, renewed, listed and revoked where they are stored.
//!
//! Guarantees: a token goes to stdout once, and nowhere else; `list` shows neither tokens nor what they are known by.

use std::sync::Arc;
use std::time::Duration;

use super::Failure;
use super::args::{CreateKey, Keys, RotateKey};
use super::out::{print, print_json, say};
use crate::core::shown;
use crate::error::Kind;
use crate::keys::{self, KeyId, Listed, Name, Record, Refusal, Token, Wish};
use crate::service::{Builder, ConfigService};
use crate::settings::Settings;
use crate::sync_config::SyncConfig;
use crate::wire::timestamp;

pub(super) async fn run(settings: Settings, action: Keys) -> Result<(), Failure> {
    // Nobody waits for notices here, and a state that was kept is none to write on.
    let settings = Settings {
        state_file: None,
        enable_notification: false,
        ..keys::settings(&settings)?
    };
    match action {
        Keys::Create(wanted) => create(settings, wanted).await,
        Keys::Rotate(wanted) => rotate(settings, wanted).await,
        Keys::List { json } => list(settings, json).await,
        Keys::Revoke { identity, id } => revoke(settings, &identity, id.as_deref()).await,
    }
}

async fn create(settings: Settings, wanted: CreateKey) -> Result<(), Failure> {
    let name = Name::parse(&wanted.identity)?;
    let wish = Wish {
        role: wanted.role,
        prefixes: wanted.prefix,
        lifetime: wanted.expires,
        requests_per_minute: wanted.requests_per_minute,
    };
    let service = Builder::new(settings).start().await?;
    let made = keys::create(&service, &name, wish, service.wall()).await;
    finish(&service, &name, made, wanted.json).await
}

async fn rotate(settings: Settings, wanted: RotateKey) -> Result<(), Failure> {
    let name = Name::parse(&wanted.identity)?;
    let service = open(settings).await?;
    let now = service.wall();
    let made = keys::rotate(&service, &name, wanted.expires, wanted.old_expires, now).await;
    finish(&service, &name, made, wanted.json).await
}

/// Shows a new key, this once.
async fn finish(
    service: &Arc<ConfigService>,
    name: &Name,
    made: Result<(Token, Record), Refusal>,
    json: bool,
) -> Result<(), Failure> {
    // First of all: the key is in the store, and nobody else knows its token.
    let shown = match made {
        Ok((token, record)) => show(
            name,
            &token,
            &Listed::new(name, &record, service.wall()),
            json,
        ),
        Err(refusal) => Err(failure(name, refusal)),
    };
    let ended = service.shutdown().await;
    shown?;
    Ok(ended?)
}

fn show(name: &Name, token: &Token, listed: &Listed, json: bool) -> Result<(), Failure> {
    if !json {
        let (id, may) = (listed.id, rights(listed));
        say(format_args!("{name}: key {id}, {may}"));
        say("it is shown this once; whoever has it has these rights:");
        return print(token.text());
    }
    let mut view = serde_json::json!(listed);
    view["token"] = token.text().into();
    print_json(view)
}

/// The keys' store as it is: what only looks, or changes what is there, makes no table.
async fn open(settings: Settings) -> Result<Arc<ConfigService>, Failure> {
    let started = Builder::new(settings.migrate(false)).start().await;
    if let Err(error) = &started
        && (error.is_older_schema() || matches!(error.kind(), Kind::Refused { .. }))
    {
        say(
            "sync-config: if the table of the API keys is not there yet, `sync-config migrate --keys` makes it; so does \
             `sync-config keys create` with the first key, where its role may",
        );
    }
    Ok(started?)
}

async fn list(settings: Settings, json: bool) -> Result<(), Failure> {
    let service = open(settings).await?;
    let (snapshot, now) = (service.snapshot(), service.wall());
    service.shutdown().await?;
    let snapshot = snapshot?;
    let (listed, wrong) = keys::list(&snapshot, now);
    for (entry, problem) in wrong {
        say(format_args!(
            "sync-config: the entry \"{}\" is no API key and lets nobody in: {problem}",
            entry.key()
        ));
    }
    if json {
        return print_json(serde_json::json!(listed));
    }
    let width = listed.iter().map(|key| key.identity.len());
    let width = width.max().unwrap_or(0).max("IDENTITY".len());
    print(format_args!(
        "{:<width$}  {:<16}  {:<27}  {:<27}  MAY",
        "IDENTITY", "ID", "CREATED", "EXPIRES"
    ))?;
    for key in &listed {
        let (name, id, created) = (&key.identity, key.id, timestamp(key.created_at));
        let expires = match key.expires_at {
            None => "never".to_owned(),
            Some(end) => timestamp(end),
        };
        let may = rights(key);
        print(format_args!(
            "{name:<width$}  {id:<16}  {created:<27}  {expires:<27}  {may}"
        ))?;
    }
    Ok(())
}

async fn revoke(settings: Settings, identity: &str, id: Option<&str>) -> Result<(), Failure> {
    let name = Name::parse(identity)?;
    let id = id.map(|text| {
        let wrong = "--id: write the 16 hexadecimal digits that `keys list` shows";
        KeyId::parse(text).ok_or_else(|| Failure::Usage(wrong.to_owned()))
    });
    let id = id.transpose()?;
    let service = open(settings).await?;
    let revoked = keys::revoke(&service, &name, id).await;
    let shown = match revoked {
        Ok(ids) => print_json(serde_json::json!({ "identity": name.as_str(), "revoked": ids })),
        Err(refusal) => Err(failure(&name, refusal)),
    };
    let ended = service.shutdown().await;
    shown?;
    Ok(ended?)
}

fn failure(name: &Name, refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Missing => Failure::MissingApiKey(name.to_string()),
        Refusal::Taken(problem) => Failure::Unexpected(format!("{name}: {problem}")),
        Refusal::Library(error) => Failure::Library(error),
    }
}

/// What a key may do, in words.
fn rights(key: &Listed) -> String {
    let of = match &key.prefixes[..] {
        [] => " of nothing".to_owned(),
        prefixes if prefixes.iter().any(String::is_empty) => String::new(),
        prefixes => format!(" of {}*", prefixes.join("*, ")),
    };
    let limit = match key.requests_per_minute {
        None => String::new(),
        Some(0) => ", any number of requests".to_owned(),
        Some(count) => format!(", {count} requests a minute"),
    };
    let expired = if key.expired { " (expired)" } else { "" };
    shown(&format!("{}{of}{limit}{expired}", key.role)).to_string()
}

/// Reads a prefix of keys. An empty one would be every key, which a variable that is not set must not give away.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err(
            "is empty, which would be every key; leave --prefix out if that is meant".to_owned(),
        );
    }
    Ok(text.to_owned())
}

/// Reads how long a key lives.
pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(1)..=Duration::from_secs(3_650 * 86_400)).contains(&time) {
        Ok(time)
    } else {
        Err("must be from 1s to 3650days".to_owned())
    }
}
