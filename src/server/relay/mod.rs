//! `GET /v1/watch`: revisions as they come, over WebSocket and as server-sent events.
//!
//! Guarantees: what a client is told does not depend on its transport: [`source`] says what, [`frames`] how it is written, `sse` and
//! `websocket` send it. The store is subscribed to once; clients read from a ring of the newest revisions, which is all
//! that waits for them, so that a client that does not read costs a bounded amount of memory, and goes on by the journal or with
//! a state when it reads again. The state that it begins with is held until it was sent, ten minutes at most.

mod asked;
mod attempts;
mod bookmarks;
pub(super) mod events;
mod feed;
mod frames;
mod hub;
mod interest;
mod parts;
mod registry;
mod replies;
mod ring;
mod source;
mod sse;
pub(super) mod stats;
mod sweep;
mod told;
mod websocket;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use sha2::{Digest, Sha256};
use tokio::sync::watch as signal;
use tokio::task::JoinSet;

use self::asked::Asked;
use self::attempts::Attempts;
use self::bookmarks::Bookmarks;
pub(crate) use self::events::settings as events_settings;
use self::hub::{Hearing, Hub};
use self::registry::Registry;
use super::connections::Peer;
use super::identity::{Identity, Role};
use super::metrics::Transport;
use super::openapi::BadRequest;
use super::problem::Problem;
use super::{App, Shared};
use crate::core::{Cursor, Epoch, Revision, RevisionId};
use crate::error::{Error, Kind, Result};
use crate::service::ConfigService;

/// How long a client that comes from a server further ahead waits for this one to follow.
const FOLLOW: Duration = Duration::from_secs(5);

/// At a stop connections end one after the other, so that their clients do not all come to another server at the same
/// moment: a millisecond apart, all of them within two seconds.
const APART: Duration = Duration::from_millis(1);
const DRAIN: Duration = Duration::from_secs(2);

/// What clients of the relay may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Open streams at once.
    pub(crate) connections: usize,
    /// WebSockets that one address may ask for in a minute; 0 is no limit.
    pub(crate) attempts: u32,
    /// A WebSocket whose client was not heard of for this long is closed.
    pub(crate) silence: Duration,
    /// Bytes of a WebSocket's frame.
    pub(crate) frame: usize,
}

impl Default for Limits {
    /// What the command line begins with.
    fn default() -> Self {
        Self {
            connections: 1_000,
            attempts: 10,
            silence: Duration::from_secs(30),
            frame: 1_048_576,
        }
    }
}

/// What is published to clients.
#[derive(Debug)]
pub(crate) struct Events {
    pub(crate) service: Arc<ConfigService>,
    /// How long the journal keeps them.
    pub(crate) retention: Duration,
}

/// What all streams share.
pub(super) struct Relay {
    config: Arc<Station>,
    events: Option<Arc<Station>>,
    /// Of clients among the events.
    bookmarks: Option<Bookmarks>,
    /// How long events are kept.
    retention: Duration,
    registry: Arc<Registry>,
    limits: Limits,
    attempts: Attempts,
    /// Names this server to clients.
    server: String,
    tasks: Mutex<JoinSet<()>>,
}

/// A store and what it tells everybody.
struct Station {
    service: Arc<ConfigService>,
    hub: Arc<Hub>,
    _hearing: Hearing,
}

impl Station {
    fn open(service: &Arc<ConfigService>, name: &str) -> Result<Arc<Self>> {
        let (hub, hearing) = Hub::open(service, name)?;
        Ok(Arc::new(Self {
            service: service.clone(),
            hub,
            _hearing: hearing,
        }))
    }
}

impl Relay {
    /// Begins to hear what a store tells, and that of the events if there is one.
    pub(super) fn open(
        service: &Arc<ConfigService>,
        events: Option<&Events>,
        limits: Limits,
    ) -> Result<Self> {
        let clock = service.clock();
        Ok(Self {
            config: Station::open(service, "relay")?,
            events: events
                .map(|events| Station::open(&events.service, "events"))
                .transpose()?,
            bookmarks: events.map(|events| Bookmarks::new(&events.service)),
            retention: events.map_or(Duration::MAX, |events| events.retention),
            registry: Registry::new(clock.clone(), limits.connections),
            limits,
            attempts: Attempts::new(clock.clone(), limits.attempts),
            server: format!("{:016x}", clock.random()),
            tasks: Mutex::default(),
        })
    }

    /// Keeps places among the events, and the events' table small. Never ends.
    pub(super) async fn tend(&self) {
        let (Some(events), Some(bookmarks)) = (&self.events, &self.bookmarks) else {
            return std::future::pending().await;
        };
        let sweep = sweep::sweep(&events.service, bookmarks, self.retention);
        tokio::join!(bookmarks.tend(), sweep);
    }

    /// Waits until every stream has ended, which a stop leads to.
    pub(super) async fn drained(&self) {
        self.registry.emptied().await;
        if let Some(bookmarks) = &self.bookmarks {
            bookmarks.store().await;
        }
    }

    /// Whether the place of the newest event is known, if there are events.
    pub(super) fn hears_events(&self) -> bool {
        let events = self.events.as_ref();
        events.is_none_or(|events| events.hub.end_now().is_some())
    }

    /// Runs a stream, which ends with the server at the latest.
    fn spawn(&self, stream: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(stream);
    }

    /// How long a stream waits at a stop before it ends.
    fn pause(&self, random: u64) -> Duration {
        let most = APART
            .saturating_mul(u32::try_from(self.registry.len()).unwrap_or(u32::MAX))
            .min(DRAIN);
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(random % micros.max(1))
    }
}

/// Follow revisions
///
/// Server-sent events, or a WebSocket where one is asked for: an acknowledgement, then the state, then each revision that changes a
/// matching key, and now and then the revision reached when nothing else was told. The last part of each has an id (a cursor); a
/// client that comes back with it to any server is told exactly what came after it, or begins anew with the state.
#[utoipa::path(
    get, path = "/v1/watch", tag = "changes", operation_id = "watch",
    params(
        ("prefix" = Option<Vec<String>>, Query, description = "Only keys that begin with this; may stand 64 times", style = Form, explode),
        ("cursor" = Option<String>, Query, description = "Where to go on"),
        ("lastEventId" = Option<String>, Query, description = "The same, for those who cannot set the header"),
        ("Last-Event-ID" = Option<String>, Header, description = "The same, as browsers send it; before those of the query"),
        ("epoch" = Option<String>, Query, description = "With `revision`: where to go on, for those who keep no cursor"),
        ("revision" = Option<u64>, Query, description = "With `epoch`"),
        ("state" = Option<bool>, Query, description = "false: begin without the state"),
        ("all" = Option<bool>, Query, description = "true: every revision is told, with the revision and the time of each change"),
        ("events" = Option<bool>, Query, description = "Whether published events are told; they are to clients with a name"),
        ("client" = Option<String>, Query, description = "The client's name, where there are no API keys")
    ),
    responses(
        (status = 101, description = "A WebSocket"),
        (status = 200, description = "The events; the data of each is an `Event`", body = String, content_type = "text/event-stream"),
        (status = 400, response = BadRequest), (status = 426, description = "Another version of WebSocket than 13")
    )
)]
pub(super) async fn watch(
    State(app): State<Shared>,
    Extension(identity): Extension<Identity>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> std::result::Result<Response, Problem> {
    identity.demand(Role::Read)?;
    let (mut parts, _) = request.into_parts();
    let upgrade = websocket::asked_for(&parts.headers);
    if upgrade {
        app.relay
            .attempts
            .admit(peer.0.ip().to_canonical())
            .map_err(|wait| {
                Problem::too_many(
                    "this address asks for WebSockets too often; see Retry-After",
                    wait,
                )
            })?;
    }
    let mut asked = Asked::read(&parts.uri, &parts.headers, &identity)?;
    if let Some(number) = asked.number {
        asked.resume = numbered(&app, number).await?;
        asked.lost = asked.resume.is_none();
    } else if let Some(from) = asked.resume.take() {
        asked.resume = attainable(&app, from).await?;
        asked.lost = asked.resume.is_none();
    } else if app.service.cursor().is_none() {
        return Err(Error::from(Kind::NotReady).into());
    }
    if app.stopping() {
        return Err(Problem::unavailable("shutting down"));
    }
    let transport = if upgrade { "websocket" } else { "sse" };
    let counted = app.metrics.relay.open(if upgrade {
        Transport::websocket
    } else {
        Transport::sse
    });
    let Some(admitted) = app.relay.registry.admit(&asked, transport, counted) else {
        let most = app.relay.registry.most();
        return Err(Problem::too_many(
            format!(
                "{most} streams are open, which is as many as may be; try another server, or raise SYNC_CONFIG_WS_MAX_CONNECTIONS"
            ),
            DRAIN,
        ));
    };
    if upgrade {
        websocket::open(app, asked, identity, admitted, &mut parts)
    } else {
        Ok(sse::open(app, &asked, identity, admitted))
    }
}

/// A name that is the same for the same text, and another one for every other.
fn hashed(kind: &str, text: &str) -> RevisionId {
    let hash = Sha256::digest([kind, "\0", text].concat());
    let half = hash.iter().take(16);
    RevisionId::from_u128(half.fold(0, |id, byte| id << 8 | u128::from(*byte)))
}

async fn stopped(stop: &mut signal::Receiver<bool>) {
    // Without a sender nobody could ask for a stop any more.
    drop(stop.wait_for(|stop| *stop).await);
}

fn behind() -> Problem {
    Problem::unavailable("this instance is behind what the client has seen")
}

/// The place of a client that kept epoch and number alone: the id is that of this server's own past, as far as it is remembered.
async fn numbered(
    app: &App,
    (epoch, revision): (Epoch, Revision),
) -> std::result::Result<Option<Cursor>, Problem> {
    let Some(shown) = app.service.cursor() else {
        return Err(Error::from(Kind::NotReady).into());
    };
    let known = || {
        let shown = app.service.cursor().filter(|shown| shown.epoch == epoch)?;
        let id = app.service.id_of(revision)?;
        Some(Cursor {
            revision,
            id,
            ..shown
        })
    };
    if shown.epoch == epoch && revision > shown.revision {
        let awaited = Cursor { revision, ..shown };
        if !app.service.shows(awaited, FOLLOW).await {
            // There is none of that number, or there may be and this instance does not hear of it.
            let glance = app.service.glance();
            let proven = glance.and_then(|glance| glance.proven);
            return match proven.filter(|proven| *proven < FOLLOW) {
                Some(_) => Ok(known()),
                None => Err(behind()),
            };
        }
    }
    Ok(known())
}

/// Makes sure that this instance shows what a client has seen elsewhere already; time must not go backwards for it.
async fn attainable(app: &App, from: Cursor) -> std::result::Result<Option<Cursor>, Problem> {
    let Some(shown) = app.service.cursor() else {
        return Err(Error::from(Kind::NotReady).into());
    };
    if from.epoch == shown.epoch && from.revision <= shown.revision {
        return Ok(Some(from));
    }
    let known = async {
        // The semaphore is never closed.
        let _turn = app.journal.acquire().await;
        app.service.history(from, 1).await
    };
    let known = tokio::time::timeout(FOLLOW, known).await;
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
