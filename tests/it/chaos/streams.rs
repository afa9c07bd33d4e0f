//! Subscribers over HTTP: a watch of each server, resumed after each loss.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};

use super::history::{Change, Event, Place, Scope, Texts, Told};
use super::instance::Instance;
use super::request::{Message, Stream};
use super::run::Run;
use super::writers::Entry;
use crate::convergence::Dice;

/// How long a stream may say nothing before the reader gives it up: two and a half intervals of progress, and time for a
/// machine that has other things to do.
const SILENCE: Duration = Duration::from_secs(5);

/// Reads a watch until the run stops, and resumes it where it ended.
pub(crate) async fn watch(
    run: Arc<Run>,
    of: Arc<Instance>,
    subscriber: String,
    prefix: &'static str,
    mut dice: Dice,
) {
    let mut last: Option<String> = None;
    while !run.stopped() {
        let life = of.life();
        let Some(address) = life.address else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        // Somebody forgets where he was now and then.
        last = last.filter(|_| dice.roll(5) > 0);
        let from = last.as_deref().and_then(place);
        let path = format!("/v1/watch?prefix={prefix}");
        let mut stream = match Stream::open(address, &path, last.as_deref()).await {
            Ok(stream) => stream,
            Err(status) => {
                // No answer, or one that it cannot serve at the moment.
                if ![0, 503].contains(&status) {
                    of.unexpected(life.incarnation, status);
                }
                sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let filter = match prefix {
            "" => Scope::All,
            prefix => Scope::Prefix(prefix.to_owned()),
        };
        let note = |event| run.book.note_of(&of.name, life.incarnation, event);
        note(Event::Subscribed {
            subscriber: subscriber.clone(),
            filter,
            from,
        });
        let mut parts = Vec::new();
        while let Ok(Some(message)) = timeout(SILENCE, stream.next()).await {
            if let Some(id) = &message.id {
                last = Some(id.clone());
            }
            let (place, told) = match tell(&run, message, &mut parts) {
                Ok(Some(told)) => told,
                Ok(None) => continue,
                Err(message) => {
                    of.unexpected(life.incarnation, message);
                    break;
                }
            };
            run.figures().hear(&told);
            note(Event::Delivered {
                subscriber: subscriber.clone(),
                place,
                told,
            });
            if run.stopped() || dice.roll(400) == 0 {
                break;
            }
        }
        note(Event::Ended {
            subscriber: subscriber.clone(),
        });
    }
}

/// An id is `epoch-revision-rid` in hexadecimal digits without hyphens.
fn place(id: &str) -> Option<Place> {
    let mut parts = id.split('-');
    let epoch: sync_config::Epoch = parts.next()?.parse().ok()?;
    let revision = parts.next()?.parse().ok()?;
    let rid: sync_config::RevisionId = parts.next()?.parse().ok()?;
    Some(Place {
        epoch: epoch.to_string(),
        revision,
        rid: Some(rid.to_string()),
    })
}

#[derive(serde::Deserialize)]
struct Data<'a> {
    #[serde(borrow, default)]
    entries: Vec<Entry<'a>>,
    #[serde(borrow, default)]
    changes: Vec<Changed<'a>>,
}

#[derive(serde::Deserialize)]
struct Changed<'a> {
    key: String,
    #[serde(borrow)]
    old: Option<&'a RawValue>,
    #[serde(borrow)]
    new: Option<&'a RawValue>,
}

/// What a message tells; nothing as long as only a part of a revision has come. The message itself if it is none of those
/// that there are.
fn tell(
    run: &Run,
    message: Message,
    parts: &mut Vec<Message>,
) -> Result<Option<(Place, Told)>, Message> {
    // What every stream begins with tells nothing of the store.
    if message.event == "ack" {
        return Ok(None);
    }
    let place = message.id.as_deref().and_then(place);
    let event = message.event.clone();
    let known = ["snapshot", "change", "progress"].contains(&event.as_str());
    if !known || serde_json::from_str::<Data<'_>>(&message.data).is_err() {
        return Err(message);
    }
    parts.push(message);
    let Some(place) = place else {
        return Ok(None);
    };
    run.know_epoch(&place.epoch);
    let whole = std::mem::take(parts);
    let data = whole
        .iter()
        .filter_map(|part| serde_json::from_str::<Data<'_>>(&part.data).ok());
    let told = match event.as_str() {
        "snapshot" => {
            let entries = data.flat_map(|part| part.entries);
            let texts = entries.map(|entry| (entry.key, entry.value.get().to_owned()));
            Told::State(texts.collect::<Texts>())
        }
        "change" => {
            let text = |raw: Option<&RawValue>| raw.map(|raw| raw.get().to_owned());
            let changes = data.flat_map(|part| part.changes);
            let changes: Vec<Change> = changes
                .map(|change| Change {
                    key: change.key,
                    old: text(change.old),
                    new: text(change.new),
                })
                .collect();
            for change in &changes {
                run.know_revision(&change.key, place.revision);
            }
            Told::Changed(changes)
        }
        _ => Told::Bookmark,
    };
    Ok(Some((place, told)))
}
