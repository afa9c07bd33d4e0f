//! What an agent tells: lines of JSON in the words of a history.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value as Json, json};

use super::super::args::Agent;
use super::super::out::plain;
use crate::core::{Change, Cursor, Entry, Snapshot};
use crate::runtime::Clock;
use crate::service::ConfigService;
use crate::subscription::Event;
use crate::sync_config::SyncConfig;

/// Writes the history.
pub(super) struct Book {
    /// Held while something is looked at and told, so that the order told is the order seen.
    turn: Mutex<Turn>,
    clock: Clock,
    /// When that clock began.
    wall: SystemTime,
    options: Agent,
}

#[derive(Default)]
pub(super) struct Turn {
    loaded: bool,
    shown: Option<Cursor>,
}

impl Book {
    pub(super) fn open(options: Agent) -> Self {
        let clock = Clock::start();
        Self {
            turn: Mutex::default(),
            wall: clock.wall() - clock.now(),
            clock,
            options,
        }
    }

    /// The time since the start, which no order steps.
    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Tells something; what it says is looked up in turn.
    pub(super) fn note(&self, look: impl FnOnce(&mut Turn) -> Option<Json>) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut event) = look(&mut turn) else {
            return;
        };
        let since = self.wall.duration_since(SystemTime::UNIX_EPOCH);
        let at = since.unwrap_or_default() + self.clock.now();
        event["at"] = json!(micros(at));
        event["process"] = json!(self.options.process);
        event["incarnation"] = json!(self.options.incarnation);
        // Without a reader the test is over, and stdin says so.
        drop(plain(event));
    }

    pub(super) fn say(&self, event: Json) {
        self.note(|_| Some(event));
    }
}

/// Tells what the instance shows as a subscriber is told of something.
pub(super) fn show(service: &ConfigService, book: &Book, event: &Event) {
    book.note(|turn| {
        let shown = service.snapshot().ok()?;
        let cursor = shown.cursor();
        let kind = match event {
            _ if !turn.loaded => "loaded",
            Event::Resynced(_) => "reset",
            _ if turn.shown == Some(cursor) => return None,
            _ => "applied",
        };
        (turn.loaded, turn.shown) = (true, Some(cursor));
        let mut told = json!({
            "kind": kind,
            "place": place(cursor),
            "checksum": shown.checksum().to_string(),
        });
        if kind == "loaded" {
            told["kept"] = service.status().stale.is_some().into();
        } else if kind == "reset" {
            told["reason"] = service.status().heartbeat.last_cause.into();
            if told["reason"].is_null() {
                told["reason"] = "unsaid".into();
            }
        }
        Some(told)
    });
}

pub(super) fn delivered(subscriber: &str, event: &Event) -> Option<Json> {
    let (cursor, told) = match event {
        Event::State(state) => (state.cursor(), json!({ "state": texts(state) })),
        Event::Changed(set) => (set.cursor(), json!({ "changed": changes(set.changes()) })),
        Event::Resynced(set) => (set.cursor(), json!({ "resynced": changes(set.changes()) })),
        Event::Lagged { missed, state } => (
            state.cursor(),
            json!({ "lagged": { "missed": missed, "state": texts(state) } }),
        ),
    };
    let place = place(cursor);
    Some(json!({ "kind": "delivered", "subscriber": subscriber, "place": place, "told": told }))
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn texts(state: &Snapshot) -> BTreeMap<&str, &str> {
    let entries = state.iter();
    entries
        .map(|entry| (entry.key().as_str(), entry.as_json()))
        .collect()
}

fn changes(changes: &[Change]) -> Vec<Json> {
    let text = |entry: Option<&Arc<Entry>>| entry.map(|entry| entry.as_json().to_owned());
    let told = |change: &Change| {
        let (old, new) = (text(change.old()), text(change.new()));
        json!({ "key": change.key().as_str(), "old": old, "new": new })
    };
    changes.iter().map(told).collect()
}

pub(super) fn place(cursor: Cursor) -> Json {
    json!({
        "epoch": cursor.epoch.to_string(),
        "revision": cursor.revision.get(),
        "rid": cursor.id.to_string(),
    })
}
