//! The connections of the HTTP service, which clients hold as long as they like, within bounds.
//!
//! Guarantees: at most 1,000 connections at once beside those that streams may have, fewer where the limit of open files is low,
//! WebSockets among them; further ones wait to be accepted; one
//! that does not send the head of a request within 30 s, be it the first or the next, is closed; so is one that takes nothing of
//! its answer for 60 s. What a connection holds, the state of which an answer is made included, is free then. A request's body
//! is bounded elsewhere. With TLS the handshake has as long as a head.

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

/// How long an accept that failed is waited with, as without file descriptors: they become free when others end.
const PAUSE: Duration = Duration::from_secs(1);

/// The address that a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) connections: usize,
    pub(super) head: Duration,
    pub(super) stall: Duration,
}

/// Connections for requests, beside those of the streams.
const REQUESTS: usize = 1_000;

impl Patience {
    /// As many connections as there may be streams, and more for requests beside them. 30 s are what a pool of
    /// connections keeps an idle one for; a network that moves nothing for 60 s has lost its other end.
    pub(super) fn beside(streams: usize) -> Self {
        Self {
            connections: super::descriptors::connections(streams.saturating_add(REQUESTS)),
            head: Duration::from_secs(30),
            stall: Duration::from_secs(60),
        }
    }
}

/// Serves until `stop` says so, then until all requests under way have ended. Dropped before, it cuts them off.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    patience: Patience,
    mut stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(patience.connections));
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
        let met = Met { router, peer };
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
}

impl Service<Request<Incoming>> for Met {
    type Response = Response;
    type Error = Infallible;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.router.call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::Body;
    use axum::routing::get;
    use futures_util::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// What an answer is made of, counted while it is held.
    struct Held(Arc<AtomicUsize>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    struct Server {
        address: SocketAddr,
        held: Arc<AtomicUsize>,
        stop: watch::Sender<bool>,
        task: JoinHandle<()>,
    }

    impl Server {
        async fn start(connections: usize, head: u64, stall: u64) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (stop, stopped) = watch::channel(false);
            let held: Arc<AtomicUsize> = Arc::default();
            let holds = held.clone();
            let endless = move || {
                holds.fetch_add(1, Ordering::SeqCst);
                let held = Held(holds.clone());
                let pieces = stream::repeat_with(move || {
                    let _used = &held;
                    Ok::<_, Infallible>(vec![b'x'; 100_000])
                });
                std::future::ready(Body::from_stream(pieces))
            };
            let router = Router::new()
                .route("/", get(|| std::future::ready("here")))
                .route("/endless", get(endless));
            let patience = Patience {
                connections,
                head: Duration::from_millis(head),
                stall: Duration::from_millis(stall),
            };
            let task = tokio::spawn(serve(listener, router, None, patience, stopped));
            Self {
                address,
                held,
                stop,
                task,
            }
        }

        async fn send(&self, text: &str) -> TcpStream {
            let mut tcp = TcpStream::connect(self.address).await.unwrap();
            tcp.write_all(text.as_bytes()).await.unwrap();
            tcp
        }

        /// Asks for `/` and reads until the server closes.
        async fn ask(&self) -> String {
            let head = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let mut tcp = self.send(head).await;
            let mut text = String::new();
            timeout(LONG, tcp.read_to_string(&mut text))
                .await
                .unwrap()
                .unwrap();
            text
        }

        async fn until_held(&self, count: usize) {
            let held = async {
                while self.held.load(Ordering::SeqCst) != count {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(LONG, held).await.unwrap();
        }
    }

    /// Waits until the server closes.
    async fn closed(mut tcp: TcpStream) {
        let mut sink = Vec::new();
        // A reset is an end too.
        drop(timeout(LONG, tcp.read_to_end(&mut sink)).await.unwrap());
    }

    /// The deadline of a head is that of a handshake, too: here nothing comes.
    #[tokio::test]
    async fn who_begins_no_handshake_is_let_go() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(
            rustls::crypto::ring::default_provider().into(),
        );
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        );
        let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, stopped) = watch::channel(false);
        let patience = Patience {
            connections: 1,
            head: Duration::from_millis(50),
            stall: LONG,
        };
        let task = serve(listener, Router::new(), Some(acceptor), patience, stopped);
        let task = tokio::spawn(task);
        // The second one waits for the first one's place.
        for _ in 0..2 {
            let mut silent = TcpStream::connect(address).await.unwrap();
            let mut read = Vec::new();
            let ended = timeout(LONG, silent.read_to_end(&mut read)).await;
            assert!(ended.is_ok() && read.is_empty(), "{read:?}");
        }
        task.abort();
    }

    #[tokio::test]
    async fn a_client_that_sends_half_a_request_or_none_is_closed_and_others_get_their_turn() {
        let server = Server::start(4, 200, 60_000).await;
        let mut half = Vec::new();
        for text in [
            "",
            "G",
            "GET / HTTP/1.1\r\nHost: loc",
            "GET / HTTP/1.1\r\nX: y\r\n",
        ] {
            half.push(server.send(text).await);
        }
        // All places are taken: this one waits for the others' end, and no longer.
        assert!(server.ask().await.ends_with("here"));
        for tcp in half {
            closed(tcp).await;
        }
    }

    #[tokio::test]
    async fn a_client_that_sends_a_byte_now_and_then_is_closed_all_the_same() {
        let server = Server::start(4, 300, 60_000).await;
        let (mut reader, mut writer) = server.send("GET / HTTP/1.1\r\nX: ").await.into_split();
        let drip = async {
            while writer.write_all(b"x").await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let end = async {
            let mut sink = Vec::new();
            drop(reader.read_to_end(&mut sink).await);
        };
        timeout(LONG, async { tokio::join!(drip, end) })
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_is_kept_and_not_used_is_closed() {
        let server = Server::start(4, 200, 60_000).await;
        closed(
            server
                .send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await,
        )
        .await;
    }

    #[tokio::test]
    async fn a_client_that_never_reads_its_answer_is_let_go_with_all_that_it_holds() {
        let server = Server::start(4, 60_000, 3_000).await;
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(
                server
                    .send("GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    .await,
            );
        }
        server.until_held(3).await;
        assert!(server.ask().await.ends_with("here"));
        server.until_held(0).await;
        drop(silent);
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_is_served_on() {
        let server = Server::start(4, 60_000, 2_000).await;
        let mut slow = server
            .send("GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        let mut piece = vec![0; 4_000_000];
        // Longer in all than it may take nothing.
        for _ in 0..25 {
            sleep(Duration::from_millis(100)).await;
            slow.read_exact(&mut piece).await.unwrap();
        }
        assert_eq!(server.held.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_stop_ends_what_is_idle_at_once_and_waits_for_answers() {
        let server = Server::start(4, 60_000, 2_000).await;
        let idle = server.send("").await;
        let silent = server
            .send("GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        server.until_held(1).await;
        server.stop.send_replace(true);
        closed(idle).await;
        timeout(LONG, server.task).await.unwrap().unwrap();
        assert_eq!(server.held.load(Ordering::SeqCst), 0);
        drop(silent);
    }
}
