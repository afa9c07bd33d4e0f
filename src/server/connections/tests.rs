use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Extension;
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
        Self::start_for(connections, connections, head, stall).await
    }

    async fn start_for(connections: usize, strangers: usize, head: u64, stall: u64) -> Self {
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
            .route("/endless", get(endless))
            .route("/known", get(known));
        let patience = Patience {
            connections,
            strangers,
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

async fn known(stranger: Extension<Stranger>) -> &'static str {
    stranger.introduce();
    "known"
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
        strangers: 1,
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

#[tokio::test]
async fn an_address_keeps_places_by_showing_a_key_and_no_other_way() {
    let server = Server::start_for(8, 2, 60_000, 60_000).await;
    let ask = "GET /known HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut known = server.send(ask).await;
    let mut answer = [0; 12];
    known.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let silent = [server.send("").await, server.send("").await];
    closed(server.send(ask).await).await;
    drop(silent);
    let again = async {
        loop {
            let mut tcp = server.send(ask).await;
            if tcp.read_exact(&mut answer).await.is_ok() {
                break;
            }
        }
    };
    timeout(LONG, again).await.unwrap();
}
