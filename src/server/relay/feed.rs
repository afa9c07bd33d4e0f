//! What one client is told of both stores: the configuration, and the events that are published.
//!
//! Guarantees: each in its own order; every message that has a cursor names the client's place in both, so that whoever resumes
//! with it misses nothing of either.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;

use super::Station;
use super::asked::Asked;
use super::frames::{Framing, Other};
use super::registry::Admitted;
use super::source::{Ended, Source};
use crate::core::Cursor;
use crate::server::Shared;

/// What one client is told.
pub(super) struct Feed {
    config: Source,
    /// Beside the one of the configuration it would take as much again where there are no events.
    events: Option<Box<Source>>,
    /// The events that a client's place is looked up in before anything else.
    awaited: Option<Arc<Station>>,
}

/// How long the first message waits for the place of the newest event, without which it names none.
const PLACE: Duration = Duration::from_secs(2);

impl Feed {
    pub(super) fn new(app: &Shared, asked: &Asked, framing: Framing, admitted: &Admitted) -> Self {
        let events = app.relay.events.as_ref().filter(|_| asked.events);
        Self {
            awaited: events.filter(|_| asked.events_after.is_none()).cloned(),
            events: events
                .map(|station| Source::of_events(app, station, asked, framing, &admitted.open))
                .map(Box::new),
            config: Source::of_config(app, asked, framing, &admitted.open),
        }
    }

    /// Waits for the next messages. May be cancelled at any time and loses nothing.
    pub(super) async fn next(&mut self) -> Result<Vec<Bytes>, Ended> {
        if let Some(station) = &self.awaited {
            let events = self.events.as_mut();
            let known = async {
                if let Some(events) = events {
                    events.find().await;
                }
                station.hub.end().await
            };
            drop(tokio::time::timeout(PLACE, known).await);
            self.awaited = None;
        }
        loop {
            self.agree();
            let Some(events) = &mut self.events else {
                return self.config.next().await;
            };
            // An event's cursor names a place in the configuration: there is none before the client was told of it.
            if self.config.told().is_none() {
                return self.config.next().await;
            }
            // Either may be busy for ever: they take turns.
            let happened = tokio::select! {
                told = self.config.next() => return told,
                happened = events.next() => happened,
            };
            match happened {
                Err(Ended::Closed) => self.events = None,
                told => return told,
            }
        }
    }

    /// Says how far the client has come.
    pub(super) fn progress(&mut self) -> Vec<Bytes> {
        self.agree();
        self.config.progress()
    }

    /// The newest revision that the client has been told of.
    pub(super) fn told(&self) -> Option<Cursor> {
        self.config.told()
    }

    /// The place of the next revision.
    pub(super) fn at(&self) -> u64 {
        self.config.at()
    }

    /// Lets each know where the client is in the other one.
    fn agree(&mut self) {
        let Some(events) = &mut self.events else {
            return;
        };
        self.config.skip();
        // Even the first message names a place among the events, so that none is missed by whoever is gone after it.
        events.begin_now();
        events.skip();
        if let Some(config) = self.config.told() {
            events.beside(Other::Config(config));
        }
        if let Some(events) = events.place() {
            self.config.beside(Other::Events(events));
        }
    }
}
