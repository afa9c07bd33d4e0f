//! What one client is told, in order, whatever transport it is on.
//!
//! Guarantees: after a snapshot of revision r come exactly r + 1, r + 2 and so on, each whole; a client that resumes
//! continues with exactly the next one, or begins anew when nothing leads there. To join the two, a place among the live
//! revisions is taken first, then the state or the journal is read, then the overlap is dropped. [`Source::next`] may be
//! cancelled at any time and loses nothing.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::watch;

use super::frames::{Framing, Items, Kind, Message, Other, Parts, place};
use super::hub::{Channel, Place};
use super::interest::Interest;
use super::registry::Open;
use super::ring::{After, REVISIONS};
use super::told::{Telling, Told};
use super::{Asked, Station};
use crate::core::{Cursor, Snapshot};
use crate::server::{Shared, WHOLE_TIMEOUT, message};
use crate::store::Recorded;
use crate::sync_config::SyncConfig;
use crate::wire::{EntryView, json};

/// A client further behind gets a snapshot: reading so many revisions costs more.
const MAX_BEHIND: u64 = 10_000;

/// Revisions read from the journal at a time, for one client alone.
const PAGE: usize = 32;

/// A page of the journal that takes longer is given up for a snapshot.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Revisions looked at, and bytes gathered, before they are sent. One revision may be larger.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 64 * 1024;

/// Values of a state that is encoded at once and kept for others.
const SHARED_STATE: usize = 512 * 1024;

/// How often a client may fall behind what is kept without having caught up between.
const MAX_FALLS: u32 = 8;

/// How long the live revisions may need to reach what this server shows already.
const FOLLOW: Duration = Duration::from_secs(5);

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The store is shut down.
    Closed,
    /// The client does not keep up.
    Slow,
}

/// What the journal had.
enum Past {
    /// The ring has it by now.
    Known,
    Page(Vec<Recorded>),
    /// It does not lead on from there, or cannot be read now.
    Nothing,
}

type Reading = Pin<Box<dyn Future<Output = Past> + Send>>;

enum Stage {
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
    },
    Live,
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
        Self {
            greeted: true,
            events: true,
            ..Self::new(
                app,
                station.clone(),
                channel,
                asked.events_after,
                framing,
                open,
            )
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
                Stage::Tell { parts, then, since } => {
                    if self.app.service.clock().now() > *since + WHOLE_TIMEOUT {
                        return Err(Ended::Slow);
                    }
                    if !parts.push_next(&mut out) {
                        self.told = Some(*then);
                        self.stage = Stage::Live;
                    }
                }
                Stage::Live => {
                    self.woken.mark_unchanged();
                    self.live(&mut out)?;
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

    /// Begins at the end, if that is known and where the client wants to begin.
    pub(super) fn begin_now(&mut self) {
        let wanted = self.first && !self.state && !self.lost && self.greeted;
        if wanted
            && matches!(self.stage, Stage::Begin(None))
            && let Some(end) = self.station.hub.end_now()
        {
            self.first = false;
            (self.told, self.at, self.stage) = (Some(end.cursor), end.at, Stage::Live);
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

    /// The place of the next revision; 0 while it is not one of the ring.
    pub(super) fn at(&self) -> u64 {
        match self.stage {
            Stage::Live => self.at,
            _ => 0,
        }
    }

    async fn begin(&mut self, resume: Option<Cursor>, out: &mut Vec<Bytes>) -> Result<(), Ended> {
        let station = self.station.clone();
        let mut end = station.hub.end().await.ok_or(Ended::Closed)?;
        // What this server shows is about to be heard here.
        if let Some(from) = resume
            .filter(|from| from.epoch == end.cursor.epoch && from.revision > end.cursor.revision)
        {
            let reached = station
                .hub
                .end_where(|end| end.epoch != from.epoch || end.revision >= from.revision);
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
            self.stage = Stage::Tell {
                parts: Box::new(parts),
                then,
                since: clock.now(),
            };
        }
    }

    /// Takes a page of the journal, or goes another way.
    fn read(&mut self, past: Past) {
        self.stage = match (past, &self.stage) {
            (Past::Page(page), Stage::Replay { to, .. }) if !page.is_empty() => Stage::Replay {
                to: *to,
                page: page.into(),
                reading: None,
            },
            // The ring, or else the state.
            (Past::Known, _) => Stage::Begin(self.told),
            _ => Stage::Begin(None),
        };
    }

    /// Tells of a page of the journal as much as is sent at a time.
    fn replay(&mut self, out: &mut Vec<Bytes>) {
        let (wall, mut bytes) = (self.app.service.clock().wall(), 0);
        let Stage::Replay { to, page, .. } = &mut self.stage else {
            return;
        };
        let to = *to;
        while bytes < BATCH_BYTES
            && let Some(recorded) = page.pop_front()
        {
            let cursor = recorded.cursor;
            if cursor.epoch != to.cursor.epoch || cursor.revision > to.cursor.revision {
                self.stage = Stage::Begin(None);
                return;
            }
            let (told, before) = (Arc::new(Told::recorded(recorded, wall)), out.len());
            match told.tell(&self.channel, self.framing, &self.other) {
                Telling::Nothing => {}
                Telling::One(frame) => out.push(frame),
                Telling::Many(frames) => out.extend_from_slice(&frames),
                Telling::Parts(mut parts) => while parts.push_next(out) {},
            }
            bytes += out.iter().skip(before).map(Bytes::len).sum::<usize>();
            self.told = Some(cursor);
            if cursor.revision == to.cursor.revision {
                self.at = to.at;
                self.stage = if cursor.id == to.cursor.id {
                    Stage::Live
                } else {
                    Stage::Begin(None)
                };
                return;
            }
        }
    }

    /// Tells what the ring has for this client.
    fn live(&mut self, out: &mut Vec<Bytes>) -> Result<(), Ended> {
        let (station, mut bytes) = (self.station.clone(), 0);
        while bytes < BATCH_BYTES {
            let mut found = std::mem::take(&mut self.found);
            let after = station.hub.after(self.at, BATCH, &mut found);
            match after {
                After::Broken => self.stage = Stage::Begin(None),
                After::Fallen => match station.hub.skip(&self.channel, self.at) {
                    // Nothing of what went by was for this client.
                    Some(end) if self.told.is_some_and(|told| told.epoch == end.cursor.epoch) => {
                        (self.at, self.told) = (end.at, Some(end.cursor));
                    }
                    _ => {
                        self.falls += 1;
                        self.open.fell();
                        if self.falls > MAX_FALLS {
                            return Err(Ended::Slow);
                        }
                        self.stage = Stage::Begin(self.told);
                    }
                },
                After::Revisions if found.is_empty() => self.caught_up(out),
                After::Revisions => {
                    for told in found.drain(..) {
                        bytes += self.tell(&told, out);
                        if bytes >= BATCH_BYTES || !matches!(self.stage, Stage::Live) {
                            break;
                        }
                    }
                    found.clear();
                    self.found = found;
                    if matches!(self.stage, Stage::Live) {
                        continue;
                    }
                }
            }
            break;
        }
        Ok(())
    }

    fn caught_up(&mut self, out: &mut Vec<Bytes>) {
        self.falls = 0;
        if std::mem::take(&mut self.resuming) && !self.events {
            out.append(&mut self.progress());
        }
    }

    /// Tells one revision. Answers with the bytes that this takes.
    fn tell(&mut self, next: &Arc<Told>, out: &mut Vec<Bytes>) -> usize {
        let (cursor, told) = (next.cursor(), self.told);
        if let Some(told) = told
            && told.epoch == cursor.epoch
            && told.revision >= cursor.revision
        {
            self.at += 1;
            return 0;
        }
        let follows = told.is_some_and(|told| {
            told.epoch == cursor.epoch && told.revision.next() == cursor.revision
        });
        if !follows {
            self.stage = Stage::Begin(None);
            return 0;
        }
        self.at += 1;
        let bytes = match next.tell(&self.channel, self.framing, &self.other) {
            Telling::Nothing => 0,
            Telling::One(frame) => {
                let length = frame.len();
                out.push(frame);
                length
            }
            Telling::Many(frames) => {
                out.extend_from_slice(&frames);
                frames.iter().map(Bytes::len).sum()
            }
            Telling::Parts(parts) => {
                self.stage = Stage::Tell {
                    parts: Box::new(parts),
                    then: cursor,
                    since: self.app.service.clock().now(),
                };
                return 0;
            }
        };
        self.told = Some(cursor);
        bytes
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

/// Reads the journal after a revision. Few do so at once: a thousand that resume together leave connections to writers, and find what
/// the first one read.
async fn past(app: Shared, station: Arc<Station>, after: Cursor, to: Cursor) -> Past {
    // The semaphore is never closed.
    let _turn = app.journal.acquire().await;
    if station.hub.place(after).is_some() {
        return Past::Known;
    }
    let base = station.hub.base().filter(|base| base.epoch == after.epoch);
    let gap = base.and_then(|base| base.revision.get().checked_sub(after.revision.get()));
    let gap = gap
        .and_then(|gap| usize::try_from(gap).ok())
        .filter(|gap| *gap <= REVISIONS);
    let limit = u32::try_from(gap.unwrap_or(PAGE).max(1)).unwrap_or(1);
    let read = station.service.history(after, limit);
    let Ok(Ok(Some(mut page))) = tokio::time::timeout(PAGE_TIMEOUT, read).await else {
        return Past::Nothing;
    };
    if page.last().is_some_and(|last| base == Some(last.cursor)) {
        station.hub.remember(page.clone(), after);
        if station.hub.place(after).is_some() {
            return Past::Known;
        }
    }
    page.retain(|recorded| recorded.cursor.revision <= to.revision);
    page.truncate(PAGE);
    Past::Page(page)
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
