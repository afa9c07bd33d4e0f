//! How a client begins: acknowledged, then after its own place, or with a state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;

use super::{Ended, On, Source, Stage};
use crate::core::{Cursor, Snapshot};
use crate::server::message;
use crate::server::relay::frames::{Kind, Message, place};
use crate::server::relay::hub::{Channel, Place};
use crate::server::relay::interest::Interest;
use crate::server::relay::parts::{Items, Parts};
use crate::sync_config::SyncConfig;
use crate::wire::{EntryView, json};

/// A client further behind gets a snapshot: reading so many revisions costs more.
const MAX_BEHIND: u64 = 10_000;

/// Values of a state that is encoded at once and kept for others.
const SHARED_STATE: usize = 512 * 1024;

/// How long the live revisions may need to reach what this server shows already.
const FOLLOW: Duration = Duration::from_secs(5);

/// Between two attempts to look a client's place up.
const AGAIN: Duration = Duration::from_secs(1);

impl Source {
    /// Looks up where a client begins that keeps nothing but its name. Until that is known, nothing is told to it.
    pub(in crate::server::relay) async fn find(&mut self) {
        let Stage::Find { end } = &mut self.stage else {
            return;
        };
        *end = end.or_else(|| Some(self.station.hub.end_now()?.cursor));
        let mut place = *end;
        if let Some(bookmarks) = &self.app.relay.bookmarks {
            loop {
                let found = {
                    // As for reading the journal; the semaphore is never closed.
                    let _turn = self.app.journal.acquire().await;
                    bookmarks.find(self.open.client()).await
                };
                match found {
                    Ok(found) => {
                        place = found.or(place);
                        break;
                    }
                    Err(error) => tracing::debug!(%error, "a client's place is not known yet"),
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
        self.stage = Stage::Begin(place);
    }

    /// Begins at the end, if that is known and where the client wants to begin.
    pub(in crate::server::relay) fn begin_now(&mut self) {
        let wanted = self.first && !self.state && !self.lost && self.greeted;
        if wanted
            && matches!(self.stage, Stage::Begin(None))
            && let Some(end) = self.station.hub.end_now()
        {
            self.first = false;
            (self.told, self.at, self.stage) = (Some(end.cursor), end.at, Stage::Live);
        }
    }

    pub(super) async fn begin(
        &mut self,
        resume: Option<Cursor>,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Ended> {
        let station = self.station.clone();
        let mut end = station.hub.end().await.ok_or(Ended::Closed)?;
        // What this server shows already is about to be heard here: whoever was told of a write finds it.
        let (shown, met) = (station.service.cursor(), end.cursor.epoch);
        let before = |end: Cursor, of: Cursor| of.epoch == end.epoch && of.revision > end.revision;
        let awaited = |end| {
            resume.is_some_and(|from| before(end, from))
                || shown.is_some_and(|shown| {
                    before(end, shown) || (shown.epoch != end.epoch && end.epoch == met)
                })
        };
        if awaited(end.cursor) {
            let reached = station.hub.end_where(|end| !awaited(end));
            if let Ok(reached) = tokio::time::timeout(FOLLOW, reached).await {
                end = reached.ok_or(Ended::Closed)?;
            }
        }
        if !std::mem::replace(&mut self.greeted, true) {
            self.ack(end.cursor, out);
        }
        let first = std::mem::take(&mut self.first);
        if first && resume.is_none() && !self.state && !self.lost {
            (self.told, self.at, self.stage) = (Some(end.cursor), end.at, Stage::Live);
            return Ok(());
        }
        match resume {
            Some(from) => self.resume(from, end, out),
            None => self.anew(end, out),
        }
        Ok(())
    }

    /// Goes on after a revision.
    fn resume(&mut self, from: Cursor, end: Place, out: &mut Vec<Bytes>) {
        if let Some(place) = self.station.hub.place(from) {
            (self.told, self.at, self.stage) = (Some(from), place.at, Stage::Live);
            self.resuming = true;
            return;
        }
        if self.events && from.epoch == end.cursor.epoch && from.revision > end.cursor.revision {
            // Told elsewhere, and still to be heard of here: until then what comes is passed over.
            (self.told, self.at, self.stage) = (Some(from), end.at, Stage::Live);
            return;
        }
        let behind = end.cursor.revision.get().checked_sub(from.revision.get());
        if from.epoch != end.cursor.epoch || behind.is_none_or(|behind| behind > MAX_BEHIND) {
            self.anew(end, out);
            return;
        }
        self.told = Some(from);
        self.resuming = true;
        self.stage = Stage::Replay {
            to: end,
            page: VecDeque::new(),
            reading: None,
        };
    }

    /// Goes on with a state, taken after the place from which the revisions follow it.
    fn anew(&mut self, end: Place, out: &mut Vec<Bytes>) {
        let (station, clock) = (self.station.clone(), self.app.service.clock().clone());
        self.at = end.at;
        self.resuming = false;
        if !self.state {
            let kind = if self.events {
                Kind::Missed
            } else {
                Kind::Reset
            };
            out.extend(place(
                self.framing,
                kind,
                end.cursor,
                &self.other,
                clock.wall(),
            ));
            (self.told, self.stage) = (Some(end.cursor), Stage::Live);
            return;
        }
        let Ok(state) = station.service.snapshot() else {
            // It has been loaded, or there would be no end: only a shutdown takes it away, which is noticed next.
            (self.told, self.stage) = (Some(end.cursor), Stage::Live);
            return;
        };
        let then = state.cursor();
        let id = self.other.beside(then);
        if let Some(frames) = station.hub.encoded(&self.channel, self.framing, &id) {
            out.extend_from_slice(&frames);
            (self.told, self.stage) = (Some(then), Stage::Live);
            return;
        }
        let small = is_small(&state, &self.channel);
        let place = (then, id.clone());
        let items = entries(state, self.channel.clone());
        let mut parts = Parts::snapshot(self.framing, place, clock.wall(), items);
        if small {
            let mut frames = Vec::new();
            while parts.push_next(&mut frames) {}
            station
                .hub
                .keep(&self.channel, self.framing, id, frames.clone().into());
            out.append(&mut frames);
            (self.told, self.stage) = (Some(then), Stage::Live);
        } else {
            self.stage = self.in_parts(parts, then, On::Ring);
        }
    }

    fn ack(&self, head: Cursor, out: &mut Vec<Bytes>) {
        let id = message::id(head);
        let (client, connection) = (self.open.client(), self.open.id());
        let (client, connection) = (json(&client), json(&connection));
        let (epoch, revision, server) = (head.epoch, head.revision, &self.app.relay.server);
        // Whoever holds a part knows that its checksum is none of the whole.
        let prefixes = match self.channel.interest() {
            Interest::Keys(scope) if !scope.is_all() => {
                format!(",\"prefixes\":{}", json(&scope.prefixes()))
            }
            Interest::Keys(_) | Interest::Events { .. } => String::new(),
        };
        let payload = format!(
            "{{\"clientId\":{client},\"gatewayId\":{client},\"connectionId\":{connection},\"epoch\":\"{epoch}\",\"revision\":{revision},\"cursor\":\"{id}\",\"server\":\"{server}\"{prefixes}}}"
        );
        let message = Message {
            kind: Kind::Ack,
            payload: &payload,
            // No place of the client's own: what it missed comes after this.
            cursor: None,
            correlation: self.open.id(),
            at: self.app.service.clock().wall(),
            beside: &format!(",\"gatewayId\":{client},\"connectionId\":{connection}"),
        };
        self.framing.push(&message, out);
    }
}

/// The matching entries of a state. Only the configuration has one.
fn entries(state: Arc<Snapshot>, channel: Arc<Channel>) -> Items {
    let Interest::Keys(scope) = channel.interest().clone() else {
        return Box::new(std::iter::empty());
    };
    let prefixes = 0..scope.prefixes().len();
    Box::new(prefixes.flat_map(move |number| {
        let (state, scope) = (state.clone(), scope.clone());
        let prefixed = move |state: &Snapshot, at: usize| {
            let prefix = scope.prefixes().get(number)?;
            let entry = state.prefixed(prefix).get(at)?;
            Some(json(&EntryView(entry)))
        };
        (0..).map_while(move |at| prefixed(&state, at))
    }))
}

/// Whether the matching entries are few enough to be encoded at once.
fn is_small(state: &Snapshot, channel: &Channel) -> bool {
    let Interest::Keys(scope) = channel.interest() else {
        return true;
    };
    let mut bytes = 0;
    scope.entries(state).all(|entry| {
        bytes += entry.key().len() + entry.as_json().len() + 64;
        bytes <= SHARED_STATE
    })
}
