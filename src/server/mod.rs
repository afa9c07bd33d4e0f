//! The HTTP service: the configuration of a store for programs that speak HTTP.
//!
//! Guarantees: reads come from memory and go on while the database is away; a watcher gets every revision once, in order,
//! or is told to begin anew with a snapshot; a client that does not read, or does not send, costs bounded memory and is let go;
//! streams end at shutdown.
//! Not guaranteed: that two requests see the same revision; authentication where it listens on loopback, unless it is asked for.

mod batch;
mod body;
mod budget;
mod certificates;
mod changes;
mod connections;
mod descriptors;
mod ending;
mod entries;
mod etag;
mod gate;
mod health;
mod identity;
mod keyring;
mod listing;
mod message;
mod metrics;
mod openapi;
mod origin;
mod patient;
mod place;
mod problem;
mod query;
mod relay;
mod request_id;
mod scope;
mod strangers;
mod throttle;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch as signal};
use tower_http::compression::predicate::{NotForContentType, SizeAbove};
use tower_http::compression::{CompressionLayer, CompressionLevel, Predicate};

use self::budget::Budget;
pub(crate) use self::certificates::Certificates;
use self::connections::Patience;
use self::gate::Door;
use self::keyring::Keyring;
pub(crate) use self::keyring::Rules;
use self::metrics::Metrics;
pub(crate) use self::origin::Origins;
use self::problem::Problem;
use self::relay::Relay;
pub(crate) use self::relay::{Events, Limits, events_settings};
use self::request_id::Names;
use crate::service::ConfigService;

/// Those that read the journal at once, so that a thousand streams that resume together leave connections to writers.
const MAX_JOURNAL_READERS: usize = 2;

/// A request that is no stream is given up after this long; the library's own bounds are shorter by default.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that has not taken a whole state after this long is let go. What is sent of it is held in memory, at the revision
/// that it had; 200 kB/s are enough for a million small entries.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(600);

/// How long requests may go on after the stop was asked for.
const FAREWELL: Duration = Duration::from_secs(5);

/// Requests under way at once that are no streams: each may hold a value of 1 MiB on its way in.
const MAX_REQUESTS: usize = 512;

/// What a server is told.
#[derive(Debug)]
pub(crate) struct Options {
    /// The store of the API keys; without it everybody is let in who reaches the address.
    pub(crate) keys: Option<(Arc<ConfigService>, Rules)>,
    /// The store of what is published to clients; without it nothing is.
    pub(crate) events: Option<Events>,
    /// The sites whose pages may ask.
    pub(crate) origins: Origins,
    /// Without it, plaintext is spoken.
    pub(crate) tls: Option<Certificates>,
    /// How long a stream may be idle before it tells its progress.
    pub(crate) progress: Duration,
    pub(crate) relay: Limits,
}

/// What all requests share.
struct App {
    service: Arc<ConfigService>,
    door: Door,
    origins: Origins,
    progress: Duration,
    stop: signal::Receiver<bool>,
    relay: Relay,
    /// Turns at reading the journal.
    journal: Semaphore,
    /// Places for requests that are no streams.
    requests: Semaphore,
    /// The memory that bodies and answers may hold.
    budget: Budget,
    /// Names for requests that bring none.
    names: Names,
    metrics: Metrics,
}

type Shared = Arc<App>;

impl App {
    fn stopping(&self) -> bool {
        *self.stop.borrow()
    }
}

/// Serves until `stop` resolves, then lets requests end. The service itself is left running.
///
/// # Errors
///
/// When the listener has no address or fails for good.
pub(crate) async fn serve(
    listener: TcpListener,
    service: Arc<ConfigService>,
    options: Options,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let bound = listener.local_addr()?.ip();
    let (stopping, stopped) = signal::channel(false);
    let relay =
        Relay::open(&service, options.events.as_ref(), options.relay).map_err(io::Error::other)?;
    let (keys, door) = match options.keys {
        Some((keys, rules)) => (Some(keys.clone()), Door::locked(Keyring::new(keys, rules))),
        None => (None, Door::Open { bound }),
    };
    let patience = Patience::beside(options.relay.connections, keys.is_some());
    let app = Arc::new(App {
        names: Names::of(service.clock().random()),
        metrics: Metrics::of(service.clone(), keys),
        service,
        door,
        origins: options.origins,
        progress: options.progress,
        stop: stopped.clone(),
        relay,
        journal: Semaphore::new(MAX_JOURNAL_READERS),
        requests: Semaphore::new(MAX_REQUESTS),
        budget: Budget::default(),
    });
    let mut wait = stopped.clone();
    let tls = options.tls;
    let acceptor = tls.as_ref().map(Certificates::acceptor);
    let server = connections::serve(listener, router(app.clone()), acceptor, patience, stopped);
    let server = async {
        let ((), ()) = tokio::join!(server, async move {
            stop.await;
            stopping.send_replace(true);
        });
        app.relay.drained().await;
    };
    let overdue = async {
        // The sender goes only after it has sent.
        drop(wait.wait_for(|stop| *stop).await);
        tokio::time::sleep(FAREWELL).await;
    };
    let tended = async {
        match &tls {
            Some(tls) => drop(tokio::join!(app.door.tend(), app.relay.tend(), tls.tend())),
            None => drop(tokio::join!(app.door.tend(), app.relay.tend())),
        }
    };
    tokio::select! {
        () = server => Ok(()),
        // It never ends by itself.
        () = tended => Ok(()),
        () = overdue => {
            tracing::warn!("requests were still under way 5 s after the stop; they are cut off");
            Ok(())
        }
    }
}

fn router(app: Shared) -> Router {
    let entries = get(entries::read).put(entries::put).delete(entries::delete);
    Router::new()
        .route("/", get(index))
        .route("/v1/config", get(listing::list))
        .route("/v1/config/", entries.clone())
        .route("/v1/config/{*key}", entries)
        .route("/v1/batch", post(batch::batch))
        .route("/v1/changes", get(changes::changes))
        .route("/v1/status", get(health::status))
        .route("/v1/stats", get(relay::stats::stats))
        .route("/v1/events", post(relay::events::publish))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(openapi::document))
        .layer(from_fn_with_state(app.clone(), in_time))
        // What tells whether the process lives is answered also while there is no place for anything else.
        .route("/healthz", get(health::alive))
        .route("/health", get(health::health))
        .route("/readyz", get(health::ready))
        .route("/v1/watch", get(relay::watch))
        .fallback(async || Problem::no_such_path())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(from_fn_with_state(app.clone(), gate::gate))
        .layer(from_fn_with_state(app.clone(), metrics::measured))
        .layer(from_fn_with_state(app.clone(), request_id::named))
        .layer(compression())
        .with_state(app)
}

/// Answers shorter than this are sent as they are: they fit into one packet either way.
const WORTH_COMPRESSING: u64 = 1_024;

/// Compresses answers for those who take gzip, and says so in `Vary`. Events are left alone, since they have to go out at once.
/// Lengths of compressed answers can give away what stands in them to somebody who may put guesses of his own into the same
/// answer and watch the wire (BREACH). Nobody may here: a page of another site is refused before it is answered, no browser
/// adds a key by itself, and no answer repeats more of a request than a key's name.
fn compression() -> CompressionLayer<impl Predicate> {
    let worthwhile = SizeAbove::new(WORTH_COMPRESSING).and(NotForContentType::SSE);
    let fast = CompressionLevel::Fastest;
    CompressionLayer::new()
        .quality(fast)
        .compress_when(worthwhile)
}

/// Gives a request up that takes too long, or for which there is no place.
async fn in_time(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let Ok(_place) = app.requests.try_acquire() else {
        return Problem::unavailable("too many requests are under way").into_response();
    };
    let writes = matches!(
        *request.method(),
        Method::PUT | Method::DELETE | Method::POST
    );
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) if writes => Problem::outcome_unknown().into_response(),
        Err(_) => Problem::unavailable("no answer within 30s").into_response(),
    }
}

/// What there is to ask for
#[utoipa::path(
    get, path = "/", tag = "operation", operation_id = "index",
    responses((status = 200, description = "Methods and paths", body = openapi::Index))
)]
async fn index(State(app): State<Shared>) -> Json<serde_json::Value> {
    Json(serde_json::json!({
        "service": "sync-config",
        "version": env!("CARGO_PKG_VERSION"),
        "ready": app.service.cursor().is_some() && !app.stopping(),
        "endpoints": openapi::endpoints(),
    }))
}
