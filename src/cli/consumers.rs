//! The named consumers of the journal.

use super::Failure;
use super::args::Consumers;
use super::commands::reader;
use super::out::{print, print_json};
use crate::core::shown;
use crate::service::ConsumerPlace;
use crate::settings::Settings;
use crate::sync_config::SyncConfig;
use crate::wire::timestamp;

pub(super) async fn run(settings: Settings, action: Option<Consumers>) -> Result<(), Failure> {
    match action {
        None => list(settings, false).await,
        Some(Consumers::List { json }) => list(settings, json).await,
        Some(Consumers::Remove { name }) => remove(settings, name).await,
    }
}

async fn list(settings: Settings, as_json: bool) -> Result<(), Failure> {
    let service = reader(settings).await?;
    let places = service.consumers().await;
    service.shutdown().await?;
    let places = places?;
    if as_json {
        let views: Vec<serde_json::Value> = places.iter().map(view).collect();
        return print_json(serde_json::Value::from(views));
    }
    let width = places
        .iter()
        .map(|place| shown(&place.name).to_string().chars().count());
    let width = width.max().unwrap_or(0).max("NAME".len());
    print(format_args!(
        "{:<width$}  {:>10}  {:>8}  {:<27}  STATE",
        "NAME", "REVISION", "BEHIND", "SEEN"
    ))?;
    for place in &places {
        let (name, revision) = (shown(&place.name).to_string(), place.cursor.revision.get());
        let (behind, seen) = (place.behind, timestamp(place.seen_at));
        let state = if place.follows {
            "follows"
        } else {
            "too old, or of another history"
        };
        print(format_args!(
            "{name:<width$}  {revision:>10}  {behind:>8}  {seen:<27}  {state}"
        ))?;
    }
    Ok(())
}

async fn remove(settings: Settings, name: String) -> Result<(), Failure> {
    let service = reader(settings).await?;
    let removed = service.remove_consumer(&name).await;
    service.shutdown().await?;
    if removed? {
        print_json(serde_json::json!({ "removed": name }))
    } else {
        Err(Failure::MissingConsumer(name))
    }
}

fn view(place: &ConsumerPlace) -> serde_json::Value {
    serde_json::json!({
        "name": place.name,
        "revision": place.cursor.revision,
        "behind": place.behind,
        "seenAt": timestamp(place.seen_at),
        "follows": place.follows,
    })
}
