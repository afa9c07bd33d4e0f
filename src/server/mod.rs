//! The HTTP service: the configuration of a store for programs that speak HTTP.
//!
//! Guarantees: reads come from memory and go on while the database is away; a watcher gets every revision once, in order,
//! or is told to begin anew with a snapshot; a client that does not read, or does not send, costs bounded memory and is let go;
//! streams end at shutdown.
//! Not guaranteed: that two requests see the same revision; authentication, wherefore it listens on loopback by default.

mod connections;
mod descriptors;
mod entries;
mod etag;
mod gate;
mod health;
mod identity;
mod message;
mod problem;
mod query;
mod relay;
mod scope;

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::watch as signal;

use self::connections::Patience;
use self::problem::Problem;
pub(crate) use self::relay::Limits;
use self::relay::Relay;
use crate::service::ConfigService;

/// A request that is no stream is given up after this long; the library's own bounds are shorter by default.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that has not taken a whole state after this long is let go. What is sent of it is held in memory, at the revision
/// that it had; 200 kB/s are enough for a million small entries.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(600);

/// How long requests may go on after the stop was asked for.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a server is told.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Lets any `Host` in.
    pub(crate) insecure: bool,
    /// How long a stream may be idle before it tells its progress.
    pub(crate) progress: Duration,
    pub(crate) relay: Limits,
}

/// What all requests share.
struct App {
    service: Arc<ConfigService>,
    bound: IpAddr,
    insecure: bool,
    progress: Duration,
    stop: signal::Receiver<bool>,
    relay: Relay,
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
    let relay = Relay::open(&service, options.relay).map_err(io::Error::other)?;
    let app = Arc::new(App {
        service,
        bound,
        insecure: options.insecure,
        progress: options.progress,
        stop: stopped.clone(),
        relay,
    });
    let mut wait = stopped.clone();
    let patience = Patience::beside(options.relay.connections);
    let server = connections::serve(listener, router(app.clone()), patience, stopped);
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
    tokio::select! {
        () = server => Ok(()),
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
        .route("/v1/config", get(entries::list))
        .route("/v1/config/", entries.clone())
        .route("/v1/config/{*key}", entries)
        .route("/v1/status", get(health::status))
        .route("/healthz", get(health::alive))
        .route("/health", get(health::alive))
        .route("/readyz", get(health::ready))
        .layer(from_fn(in_time))
        .route("/v1/stats", get(relay::stats))
        .route("/v1/watch", get(relay::watch))
        .fallback(async || Problem::no_such_path())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(from_fn_with_state(app.clone(), gate::gate))
        .with_state(app)
}

/// Gives a request up that takes too long.
async fn in_time(request: Request, next: Next) -> Response {
    let writes = matches!(*request.method(), Method::PUT | Method::DELETE);
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) if writes => Problem::outcome_unknown().into_response(),
        Err(_) => Problem::unavailable("no answer within 30s").into_response(),
    }
}

async fn index(State(app): State<Shared>) -> Json<serde_json::Value> {
    Json(serde_json::json!({
        "service": "sync-config",
        "version": env!("CARGO_PKG_VERSION"),
        "ready": app.service.cursor().is_some() && !app.stopping(),
        "endpoints": [
            "GET /v1/config?prefix=",
            "GET /v1/config/{key}",
            "PUT /v1/config/{key}",
            "DELETE /v1/config/{key}",
            "GET /v1/watch?prefix=",
            "GET /v1/status",
            "GET /v1/stats",
            "GET /healthz",
            "GET /readyz",
        ],
    }))
}
