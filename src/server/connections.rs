//! The connections of the HTTP service, which clients hold as long as they like, within bounds.
//!
//! Guarantees: at most 1,000 connections at once beside those that streams may have, fewer where the limit of open files is low,
//! WebSockets among them; further ones wait to be accepted; one
//! that does not send the head of a request within 30 s, be it the first or the next, is closed, or sends more than 64 KiB of one;
//! so is one that takes nothing of its answer for 60 s. What a connection holds, the state of which an answer is made included, is free then. A request's body
//! is bounded elsewhere. With TLS the handshake has as long as a head. Where keys are asked for, one address cannot take all places
//! without showing one.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::patient::Patient;
use super::strangers::{Stranger, Strangers};

/// How long an accept that failed is waited with, as without file descriptors: they become free when others end.
const PAUSE: Duration = Duration::from_secs(1);

/// The address that a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) connections: usize,
    /// Of those, so many of one address that have shown no key.
    pub(super) strangers: usize,
    pub(super) head: Duration,
    pub(super) stall: Duration,
}

/// Connections for requests, beside those of the streams.
const REQUESTS: usize = 1_000;

impl Patience {
    /// As many connections as there may be streams, and more for requests beside them. 30 s are what a pool of
    /// connections keeps an idle one for; a network that moves nothing for 60 s has lost its other end. Where there are keys, a
    /// half of the places is for one address: as many as streams that come again at once through one balancer.
    pub(super) fn beside(streams: usize, keys: bool) -> Self {
        let connections = super::descriptors::connections(streams.saturating_add(REQUESTS));
        Self {
            connections,
            strangers: if keys {
                (connections / 2).max(1)
            } else {
                connections
            },
            head: Duration::from_secs(30),
            stall: Duration::from_secs(60),
        }
    }
}

/// The head of a request at most: as much as its URL alone may have, with 64 prefixes in it. Whoever has no key is held to it too.
const MAX_HEAD: usize = 64 * 1_024;

/// Serves until `stop` says so, then until all requests under way have ended. Dropped before, it cuts them off.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    patience: Patience,
    mut stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(patience.connections));
    let strangers = Strangers::new(patience.strangers);
    let mut connections = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned();
        let accepted = async { (place.await, listener.accept().await) };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            Some(_) = connections.join_next() => continue,
            () = stopped(&mut stop) => break,
        };
        let (tcp, peer) = match accepted {
            Ok((tcp, peer)) => (tcp, Peer(peer)),
            Err(error) if is_the_clients(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted; trying again");
                sleep(PAUSE).await;
                continue;
            }
        };
        let (tls, stop) = (tls.clone(), stop.clone());
        let router = TowerToHyperService::new(router.clone());
        let Some(stranger) = strangers.meet(peer.0.ip()) else {
            tracing::debug!(address = %peer.0, "a connection is closed: there are too many of its address that showed no API key");
            continue;
        };
        let met = Met {
            router,
            peer,
            stranger,
        };
        let tcp = Patient::new(tcp, patience.stall, place.ok());
        connections.spawn(connection(tcp, met, tls, patience, stop));
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves one connection to its end, or until it is a WebSocket, which keeps the place.
async fn connection(
    tcp: Patient,
    met: Met,
    tls: Option<TlsAcceptor>,
    patience: Patience,
    mut stop: watch::Receiver<bool>,
) {
    // Without this a small event waits for the acknowledgement of the one before it: 40 ms.
    if let Err(error) = tcp.tcp.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY is not to be had");
    }
    let Some(tls) = tls else {
        return requests(tcp, met, patience, stop).await;
    };
    let shaken = tokio::select! {
        shaken = timeout(patience.head, tls.accept(tcp)) => shaken,
        () = stopped(&mut stop) => return,
    };
    match shaken {
        Ok(Ok(tls)) => requests(tls, met, patience, stop).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// Answers the requests of a connection, until its end or until it is a WebSocket.
async fn requests(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    met: Met,
    patience: Patience,
    mut stop: watch::Receiver<bool>,
) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_header_size(MAX_HEAD)
        .serve_connection(TokioIo::new(io), met)
        .with_upgrades();
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stopped(&mut stop) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Without a sender nobody could ask for a stop any more.
    drop(stop.wait_for(|stop| *stop).await);
}

/// Whether a connection was gone before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionAborted | ConnectionReset
    )
}

/// Says of each request where it comes from.
struct Met {
    router: TowerToHyperService<Router>,
    peer: Peer,
    stranger: Stranger,
}

impl Service<Request<Incoming>> for Met {
    type Response = Response;
    type Error = Infallible;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        request.extensions_mut().insert(self.stranger.clone());
        self.router.call(request)
    }
}

#[cfg(test)]
mod tests;
