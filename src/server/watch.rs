//! `GET /v1/watch`: a stream of revisions.
//!
//! Guarantees: after a snapshot of revision r come exactly r + 1, r + 2 and so on, each whole; a client that resumes
//! continues with exactly the next one, or begins anew with a snapshot when the journal cannot lead there. To join the two,
//! the live stream is subscribed to first, then the journal is read, then the overlap is dropped.
//! Memory of one stream is bounded by [`QUEUE`] revisions of [`QUEUE_BYTES`] (shared among streams) and [`MESSAGES`]
//! messages; a stream that falls behind further goes on by the journal. The state that it begins with is held until it was sent,
//! ten minutes at most.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, OriginalUri, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch as signal};
use tokio::time::Sleep;
use tracing::Instrument;

use super::identity::{Identity, Role};
use super::message::{self, Items, Parts};
use super::metrics::{Open, Transport};
use super::openapi::BadRequest;
use super::problem::Problem;
use super::query;
use super::scope::Scope;
use super::{App, Shared};
use crate::core::{ChangeSet, Cursor, Snapshot};
use crate::error::{Error, Kind};
use crate::service::ConfigService;
use crate::store::Recorded;
use crate::subscription::{Behind, Event, Filter, SubscriptionId};
use crate::sync_config::{SyncConfig, SyncConfigExt};
use crate::wire::{ChangeView, EntryView, json};

/// Revisions that wait for a stream before it falls back on the journal.
const QUEUE: usize = 256;

/// Bytes of values in them; one revision may be larger.
const QUEUE_BYTES: usize = 8 * 1_048_576;

/// Messages on their way to one client, besides the one that is being sent. Large values make each of them 2 MiB.
const MESSAGES: usize = 1;

/// A client further behind gets a snapshot: reading so many revisions costs more.
const MAX_BEHIND: u64 = 10_000;

/// Revisions read from the journal at a time.
const PAGE: u32 = 32;

/// A page of the journal that takes longer is given up for a snapshot.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that takes no message for this long is let go.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a client that comes from a server further ahead waits for this one to follow.
const FOLLOW: Duration = Duration::from_secs(5);

/// Follow revisions
///
/// Server-sent events: `snapshot` with the state, then one `change` for each revision that changes a matching key, and `progress` with
/// the revision reached when nothing else was told for a while. The last part of each has an id; a client that comes back with it is
/// told exactly what came after it, or begins anew with a `snapshot`.
#[utoipa::path(
    get, path = "/v1/watch", tag = "changes", operation_id = "watch",
    params(
        ("prefix" = Option<String>, Query, description = "Only keys that begin with this"),
        ("lastEventId" = Option<String>, Query, description = "Where to go on, for those who cannot set the header"),
        ("Last-Event-ID" = Option<String>, Header, description = "Where to go on")
    ),
    responses(
        (status = 200, description = "The events; the data of each is an `Event`", body = String, content_type = "text/event-stream"),
        (status = 400, response = BadRequest)
    )
)]
pub(super) async fn watch(
    State(app): State<Shared>,
    Extension(identity): Extension<Identity>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    identity.demand(Role::Read)?;
    let [prefix, last_event_id] = query::values(&uri, ["prefix", "lastEventId"])?;
    let Ok(permit) = app.streams.clone().try_acquire_owned() else {
        return Err(Problem::unavailable("too many streams are open"));
    };
    // A browser that reconnects sends the header along with the query it began with.
    let last = match headers.get("last-event-id") {
        Some(header) => header.to_str().ok().map(str::to_owned),
        None => last_event_id,
    };
    let resume = last.as_deref().and_then(message::cursor);
    let resume = attainable(&app, resume).await?;
    if app.stopping() {
        return Err(Problem::unavailable("shutting down"));
    }
    let (out, mut messages) = mpsc::channel(MESSAGES);
    let relay = Relay {
        stop: app.stop.clone(),
        idle: Box::pin(tokio::time::sleep(app.progress)),
        counted: app.metrics.relay.open(Transport::sse),
        app,
        scope: Scope::of([prefix.unwrap_or_default()]).within(identity.scope()),
        name: identity.name().clone(),
        out,
        told: None,
        _permit: permit,
    };
    // With the request's name in the lines of its log.
    tokio::spawn(relay.run(resume).in_current_span());
    let messages = stream::poll_fn(move |context| messages.poll_recv(context));
    let body = Body::from_stream(messages.map(Ok::<Bytes, Infallible>));
    let mut response = body.into_response();
    let fixed = HeaderValue::from_static;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, fixed("text/event-stream"));
    headers.insert(CACHE_CONTROL, fixed("no-store"));
    headers.insert("x-accel-buffering", fixed("no"));
    Ok(response)
}

/// Makes sure that this instance shows what a client has seen elsewhere already; time must not go backwards for it.
async fn attainable(app: &App, resume: Option<Cursor>) -> Result<Option<Cursor>, Problem> {
    let Some(shown) = app.service.cursor() else {
        return Err(Error::from(Kind::NotReady).into());
    };
    let ahead = |from: &Cursor| from.epoch != shown.epoch || from.revision > shown.revision;
    let Some(from) = resume.filter(ahead) else {
        return Ok(resume);
    };
    let behind = || Problem::unavailable("this instance is behind what the client has seen");
    let known = tokio::time::timeout(FOLLOW, app.service.history(from, 1)).await;
    match known.map_err(|_| behind())? {
        Ok(Some(_)) => {}
        // It is of a past that the database has not, or not any more, or the id is made up.
        Ok(None) => return Ok(None),
        Err(_) => return Err(behind()),
    }
    if app.service.shows(from, FOLLOW).await {
        Ok(Some(from))
    } else {
        Err(behind())
    }
}

/// The client has gone, or the server stops.
struct Ended;

/// How a stream goes on after its subscription.
enum Next {
    /// The queue overflowed: with the next revision, by the journal.
    Resume,
    /// The past is another one, or parts of it are lost: with a snapshot.
    Anew,
}

/// Carries events from a subscription to one client.
struct Relay {
    app: Shared,
    scope: Scope,
    /// Who watches.
    name: Arc<str>,
    out: mpsc::Sender<Bytes>,
    stop: signal::Receiver<bool>,
    /// The newest revision whose matching changes the client has been sent.
    told: Option<Cursor>,
    idle: Pin<Box<Sleep>>,
    counted: Open,
    _permit: OwnedSemaphorePermit,
}

impl Relay {
    async fn run(mut self, mut resume: Option<Cursor>) {
        while let Some((mut live, state)) = Live::join(&self.app.service, &self.name).await {
            if self.begin(&state, resume).await.is_err() {
                return;
            }
            // It is of the past from here on; a stream must not keep old values alive.
            drop(state);
            resume = match self.follow(&mut live).await {
                Ok(Next::Resume) => {
                    self.counted.lagged();
                    self.told
                }
                Ok(Next::Anew) => None,
                Err(Ended) => return,
            };
        }
    }

    /// Brings the client to the state with which a subscription began, which is held meanwhile.
    async fn begin(&mut self, state: &Arc<Snapshot>, resume: Option<Cursor>) -> Result<(), Ended> {
        let brought = tokio::time::timeout(super::WHOLE_TIMEOUT, self.bring(state, resume)).await;
        brought.unwrap_or(Err(Ended))
    }

    async fn bring(&mut self, state: &Arc<Snapshot>, resume: Option<Cursor>) -> Result<(), Ended> {
        if let Some(from) = resume
            && self.replay(from, state.cursor()).await?
        {
            return self.progress().await;
        }
        for part in Parts::snapshot(state.cursor(), self.entries(state)) {
            send(&self.out, &mut self.stop, &self.counted, part).await?;
        }
        self.told = Some(state.cursor());
        self.busy();
        Ok(())
    }

    /// Sends the journal's revisions after `from` up to `to`. False if it does not lead from the one to the other.
    async fn replay(&mut self, from: Cursor, to: Cursor) -> Result<bool, Ended> {
        let behind = to.revision.get().checked_sub(from.revision.get());
        if from.epoch != to.epoch || behind.is_none_or(|behind| behind > MAX_BEHIND) {
            return Ok(false);
        }
        let mut at = from;
        while at.revision < to.revision {
            let Some(page) = self.page(at).await? else {
                return Ok(false);
            };
            let before = at;
            for recorded in page {
                if recorded.cursor.epoch != to.epoch {
                    return Ok(false);
                }
                if recorded.cursor.revision > to.revision {
                    break;
                }
                at = recorded.cursor;
                let changes = self.recorded(recorded);
                self.change(at, changes).await?;
            }
            if at == before {
                return Ok(false);
            }
        }
        self.told = Some(at);
        Ok(at.id == to.id)
    }

    /// A page of the journal; `None` when it does not lead on from there, or cannot be read now.
    async fn page(&mut self, after: Cursor) -> Result<Option<Vec<Recorded>>, Ended> {
        let app = self.app.clone();
        let read = async {
            // The semaphore is never closed.
            let _turn = app.journal.acquire().await;
            let page = app.service.history(after, PAGE);
            tokio::time::timeout(PAGE_TIMEOUT, page).await
        };
        let mut read = pin!(read);
        loop {
            let page = tokio::select! {
                biased;
                _ = self.stop.wait_for(|stop| *stop) => return Err(Ended),
                () = self.out.closed() => return Err(Ended),
                () = &mut self.idle => None,
                page = &mut read => Some(page),
            };
            match page {
                Some(page) => return Ok(page.ok().and_then(|page| page.ok().flatten())),
                // Also while others have their turn, and where nothing matches: who is cut off then goes on from there.
                None => self.progress().await?,
            }
        }
    }

    /// Sends what the subscription tells until it cannot go on.
    async fn follow(&mut self, live: &mut Live) -> Result<Next, Ended> {
        loop {
            let event = tokio::select! {
                biased;
                _ = self.stop.wait_for(|stop| *stop) => return Err(Ended),
                () = self.out.closed() => return Err(Ended),
                () = &mut self.idle => None,
                event = live.next() => Some(event),
            };
            let Some(event) = event else {
                self.progress().await?;
                continue;
            };
            match event {
                Some(Event::Changed(set)) => {
                    let (cursor, changes) = (set.cursor(), self.changed(set));
                    self.change(cursor, changes).await?;
                }
                // The state is what it was; only a new epoch has to be told.
                Some(Event::Resynced(set))
                    if self.unmoved(set.cursor()) && set.changes().is_empty() => {}
                Some(Event::Resynced(_) | Event::Lagged { .. } | Event::State(_)) => {
                    return Ok(Next::Anew);
                }
                None => return Ok(Next::Resume),
            }
        }
    }

    /// The matching entries of a state.
    fn entries(&self, state: &Arc<Snapshot>) -> Items {
        let (state, prefixes) = (state.clone(), self.scope.prefixes().to_vec());
        Box::new(prefixes.into_iter().flat_map(move |prefix| {
            let state = state.clone();
            let count = state.prefixed(&prefix).len();
            (0..count).filter_map(move |at| {
                let entry = state.prefixed(&prefix).get(at)?;
                Some(json(&EntryView(entry)))
            })
        }))
    }

    /// The matching changes of a revision that was just applied.
    fn changed(&self, set: Arc<ChangeSet>) -> Items {
        let scope = self.scope.clone();
        Box::new((0..set.changes().len()).filter_map(move |at| {
            let change = set.changes().get(at)?;
            let matches = scope.contains(change.key());
            matches.then(|| json(&ChangeView::from(change)))
        }))
    }

    /// The matching changes of a revision in the journal.
    fn recorded(&self, recorded: Recorded) -> Items {
        let scope = self.scope.clone();
        let changes = recorded.changes.into_iter().filter_map(move |change| {
            let matches = scope.contains(&change.key);
            matches.then(|| json(&ChangeView::from(&change)))
        });
        Box::new(changes)
    }

    /// Sends the matching changes of one revision; a revision without any is passed over.
    async fn change(&mut self, cursor: Cursor, matching: Items) -> Result<(), Ended> {
        let mut parts = Parts::change(cursor, matching);
        if !parts.is_empty() {
            for part in parts {
                send(&self.out, &mut self.stop, &self.counted, part).await?;
            }
            self.busy();
        }
        self.told = Some(cursor);
        Ok(())
    }

    async fn progress(&mut self) -> Result<(), Ended> {
        self.busy();
        match self.told {
            Some(cursor) => {
                send(
                    &self.out,
                    &mut self.stop,
                    &self.counted,
                    message::progress(cursor),
                )
                .await
            }
            None => Ok(()),
        }
    }

    /// Begins the time after which a client that heard nothing is told how far it is.
    fn busy(&mut self) {
        self.idle = Box::pin(tokio::time::sleep(self.app.progress));
    }

    fn unmoved(&self, cursor: Cursor) -> bool {
        self.told == Some(cursor)
    }
}

async fn send(
    out: &mpsc::Sender<Bytes>,
    stop: &mut signal::Receiver<bool>,
    counted: &Open,
    message: Bytes,
) -> Result<(), Ended> {
    let bytes = message.len();
    tokio::select! {
        biased;
        sent = tokio::time::timeout(PATIENCE, out.send(message)) => match sent {
            Ok(Ok(())) => {
                counted.sent(bytes);
                Ok(())
            }
            Ok(Err(_)) => Err(Ended),
            Err(_) => {
                counted.failed();
                Err(Ended)
            }
        },
        _ = stop.wait_for(|stop| *stop) => Err(Ended),
    }
}

/// A subscription to everything, so that a stream with a prefix knows how far it has come, too.
struct Live {
    events: mpsc::Receiver<Event>,
    /// Bytes of values that wait in `events`.
    waiting: Arc<AtomicUsize>,
    /// How many wait there.
    queued: Arc<AtomicUsize>,
    _subscription: Subscription,
}

/// Unsubscribes when it goes.
struct Subscription {
    service: Arc<ConfigService>,
    id: SubscriptionId,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.service.unsubscribe(self.id);
    }
}

impl Live {
    /// Subscribes. Answers with the state after which the events go on; `None` when the service is shut down.
    async fn join(service: &Arc<ConfigService>, name: &str) -> Option<(Self, Arc<Snapshot>)> {
        let (sender, mut events) = mpsc::channel(QUEUE);
        let mut sender = Some(sender);
        let waiting = Arc::new(AtomicUsize::new(0));
        let account = waiting.clone();
        let queued = Arc::new(AtomicUsize::new(0));
        let count = queued.clone();
        let forward = move |event: &Event| {
            let Some(open) = &sender else {
                return;
            };
            count.fetch_add(1, Ordering::Relaxed);
            let before = account.fetch_add(bytes(event), Ordering::Relaxed);
            // The callback never blocks. A queue that is full ends here, and the relay goes on by the journal.
            if before > QUEUE_BYTES || open.try_send(event.clone()).is_err() {
                sender = None;
            }
        };
        let behind = Behind {
            queued: queued.clone(),
            bytes: waiting.clone(),
            most: (QUEUE, QUEUE_BYTES),
        };
        let filter = Filter::all().with_state().before(behind);
        let id = service
            .on_change(filter.named(format!("watch {name}")), forward)
            .ok()?;
        let service = service.clone();
        let subscription = Subscription { service, id };
        match events.recv().await? {
            Event::State(state) | Event::Lagged { state, .. } => {
                queued.fetch_sub(1, Ordering::Relaxed);
                let live = Self {
                    events,
                    waiting,
                    queued,
                    _subscription: subscription,
                };
                Some((live, state))
            }
            Event::Changed(_) | Event::Resynced(_) => None,
        }
    }
    /// The next event; `None` after the queue was full, or when the service is shut down.
    async fn next(&mut self) -> Option<Event> {
        let event = self.events.recv().await?;
        self.waiting.fetch_sub(bytes(&event), Ordering::Relaxed);
        self.queued.fetch_sub(1, Ordering::Relaxed);
        Some(event)
    }
}

/// What an event keeps in memory that may be gone from the table. A state is the table.
fn bytes(event: &Event) -> usize {
    let set = match event {
        Event::Changed(set) | Event::Resynced(set) => set,
        Event::State(_) | Event::Lagged { .. } => return 0,
    };
    let entries = set
        .changes()
        .iter()
        .flat_map(|change| [change.old(), change.new()]);
    entries.flatten().map(|entry| entry.as_json().len()).sum()
}
