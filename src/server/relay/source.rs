//! What one client is told, in order, whatever transport it is on.
//!
//! Guarantees: after a snapshot of revision r come exactly r + 1, r + 2 and so on, each whole; a client that resumes
//! continues with exactly the next one, or begins anew when nothing leads there. To join the two, a place among the live
//! revisions is taken first, then the state or the journal is read, then the overlap is dropped. [`Source::next`] may be
//! cancelled at any time and loses nothing.

mod beginning;
mod live;
mod replaying;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::watch;

use self::replaying::{Reading, past};
use super::frames::{Framing, Kind, Other, place};
use super::hub::{Channel, Place};
use super::interest::Interest;
use super::parts::Parts;
use super::registry::Open;
use super::told::Told;
use super::{Asked, Station};
use crate::core::Cursor;
use crate::server::{Shared, WHOLE_TIMEOUT};
use crate::store::Recorded;

/// Bytes gathered before they are sent. One revision may be larger.
const BATCH_BYTES: usize = 64 * 1024;

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The store is shut down.
    Closed,
    /// The client does not keep up.
    Slow,
}

enum Stage {
    /// Looks up where the client is, which keeps nothing but its name; if nobody knows, it is where the end was when it came.
    Find {
        end: Option<Cursor>,
    },
    /// Finds out how to go on after a revision, or with a state.
    Begin(Option<Cursor>),
    /// By the journal, up to a place of the ring.
    Replay {
        to: Place,
        page: VecDeque<Recorded>,
        reading: Option<Reading>,
    },
    /// A state or a large revision in parts, then on.
    Tell {
        parts: Box<Parts>,
        then: Cursor,
        since: Duration,
        on: On,
    },
    Live,
}

/// Where a client goes on behind what it was told in parts.
#[derive(Clone, Copy)]
enum On {
    Ring,
    Journal,
}

/// What one client is told.
pub(super) struct Source {
    app: Shared,
    station: Arc<Station>,
    channel: Arc<Channel>,
    woken: watch::Receiver<()>,
    framing: Framing,
    open: Arc<Open>,
    stage: Stage,
    /// Whether a state stands for what a client missed, or the word that it did.
    state: bool,
    /// The place to go on from is not known, or not any more.
    lost: bool,
    /// The newest revision whose matching changes the client has been sent.
    told: Option<Cursor>,
    /// The place of the next revision.
    at: u64,
    greeted: bool,
    /// Nothing was begun with yet.
    first: bool,
    /// These are events.
    events: bool,
    /// Where the client is in what else it is told of.
    other: Other,
    /// It resumed, and has not been told yet that it has everything.
    resuming: bool,
    falls: u32,
    found: Vec<Arc<Told>>,
}

impl Source {
    /// The changes of the configuration, with what a client is greeted with before them.
    pub(super) fn of_config(
        app: &Shared,
        asked: &Asked,
        framing: Framing,
        open: &Arc<Open>,
    ) -> Self {
        let station = app.relay.config.clone();
        let channel = station
            .hub
            .channel(Interest::Keys(asked.scope.clone()), asked.all);
        open.listens(channel.clone());
        Self {
            state: asked.state,
            lost: asked.lost,
            ..Self::new(app, station, channel, asked.resume, framing, open)
        }
    }

    /// The events for a client, from its place on or from now on.
    pub(super) fn of_events(
        app: &Shared,
        station: &Arc<Station>,
        asked: &Asked,
        framing: Framing,
        open: &Arc<Open>,
    ) -> Self {
        let interest = Interest::Events {
            client: asked.client.as_str().into(),
            scope: asked.scope.clone(),
        };
        let channel = station.hub.channel(interest, false);
        let resume = asked.events_after;
        let stage = match resume {
            None if asked.named => Stage::Find { end: None },
            resume => Stage::Begin(resume),
        };
        Self {
            greeted: true,
            events: true,
            stage,
            ..Self::new(app, station.clone(), channel, resume, framing, open)
        }
    }

    fn new(
        app: &Shared,
        station: Arc<Station>,
        channel: Arc<Channel>,
        resume: Option<Cursor>,
        framing: Framing,
        open: &Arc<Open>,
    ) -> Self {
        Self {
            woken: channel.woken(),
            station,
            channel,
            framing,
            open: open.clone(),
            stage: Stage::Begin(resume),
            first: true,
            state: false,
            lost: false,
            events: false,
            other: Other::None,
            told: None,
            at: 0,
            greeted: false,
            resuming: false,
            falls: 0,
            found: Vec::new(),
            app: app.clone(),
        }
    }

    /// Waits for the next messages.
    pub(super) async fn next(&mut self) -> Result<Vec<Bytes>, Ended> {
        loop {
            let mut out = Vec::new();
            match &mut self.stage {
                Stage::Find { .. } => self.find().await,
                Stage::Begin(resume) => {
                    let resume = *resume;
                    self.begin(resume, &mut out).await?;
                }
                Stage::Replay { to, page, reading } => {
                    if page.is_empty() {
                        let (app, told) = (&self.app, self.told.unwrap_or(to.cursor));
                        let station = &self.station;
                        let reading = reading.get_or_insert_with(|| {
                            Box::pin(past(app.clone(), station.clone(), told, to.cursor))
                        });
                        let past = reading.await;
                        self.read(past);
                    }
                    self.replay(&mut out);
                }
                Stage::Tell {
                    parts,
                    then,
                    since,
                    on,
                } => {
                    if self.app.service.clock().now() > *since + WHOLE_TIMEOUT {
                        return Err(Ended::Slow);
                    }
                    if !parts.push_next(&mut out) {
                        let (then, on) = (Some(*then), *on);
                        self.told = then;
                        self.stage = match on {
                            On::Ring => Stage::Live,
                            On::Journal => Stage::Begin(then),
                        };
                    }
                }
                Stage::Live => {
                    self.woken.mark_unchanged();
                    if !self.has_all() {
                        self.live(&mut out)?;
                    }
                    if out.is_empty() && matches!(self.stage, Stage::Live) {
                        if self.station.hub.is_closed() || self.woken.changed().await.is_err() {
                            return Err(Ended::Closed);
                        }
                        continue;
                    }
                }
            }
            if !out.is_empty() {
                return Ok(out);
            }
        }
    }

    /// Whether nothing was heard that concerns the client and that it was not told; without the lock that all clients share.
    fn has_all(&self) -> bool {
        self.falls == 0 && !self.resuming && self.channel.newest() < self.at
    }

    /// Tells of something part by part from now on.
    fn in_parts(&self, parts: Parts, then: Cursor, on: On) -> Stage {
        Stage::Tell {
            parts: Box::new(parts),
            then,
            since: self.app.service.clock().now(),
            on,
        }
    }

    /// Passes over what is not for the client.
    pub(super) fn skip(&mut self) {
        if let (Stage::Live, Some(told)) = (&self.stage, self.told)
            && let Some(end) = self.station.hub.skip(&self.channel, self.at)
            && end.cursor.epoch == told.epoch
            && end.cursor.revision >= told.revision
        {
            (self.at, self.told) = (end.at, Some(end.cursor));
        }
    }

    /// Says how far the client has come; nothing before it was told anything.
    pub(super) fn progress(&mut self) -> Vec<Bytes> {
        self.skip();
        let now = self.app.service.clock().wall();
        self.told.map_or_else(Vec::new, |told| {
            place(self.framing, Kind::Progress, told, &self.other, now)
        })
    }

    /// Notes where the client is in what else it is told of.
    pub(super) fn beside(&mut self, other: Other) {
        self.other = other;
    }

    /// The newest revision that the client has been told of.
    pub(super) fn told(&self) -> Option<Cursor> {
        self.told
    }

    /// Where the client is, or begins.
    pub(super) fn place(&self) -> Option<Cursor> {
        match self.stage {
            Stage::Begin(after) => self.told.or(after),
            _ => self.told,
        }
    }

    /// The place of the next revision; 0 while it is not one of the ring.
    pub(super) fn at(&self) -> u64 {
        match self.stage {
            Stage::Live => self.at,
            _ => 0,
        }
    }
}
