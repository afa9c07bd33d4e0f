//! Thousands of clients while their servers are replaced one after the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::support::http::get;
use crate::support::postgres::TestDb;
use crate::support::program::Server;
use crate::support::wait::eventually;

const CLIENTS: usize = 5_000;

/// Revisions that are written meanwhile. Every client is told of each.
const REVISIONS: u64 = 120;

/// Connecting so many takes its time where there are two cores for all of it.
const LONG: Duration = Duration::from_secs(240);

const LIMITS: [(&str, &str); 2] = [
    ("SYNC_CONFIG_WS_RATE_LIMIT_PER_MINUTE", "0"),
    ("SYNC_CONFIG_WS_MAX_CONNECTIONS", "6000"),
];

/// Lets this process have a socket for each client, and more.
fn raise_the_limit_of_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let enough = limit.maximum.is_none_or(|most| most >= 6_500);
    assert!(enough, "this test needs 6,500 open files: ulimit -Hn");
}

/// What all clients share.
struct Herd {
    servers: [SocketAddr; 2],
    connected: AtomicUsize,
    connections: AtomicUsize,
    at_the_end: AtomicUsize,
    told: AtomicU64,
}

/// The text of a member, where it is a number or a string without escapes.
fn member<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let rest = text.split_once(name)?.1;
    let rest = rest.strip_prefix('"').unwrap_or(rest);
    rest.split(['"', ',', '}']).next()
}

/// Follows until the last revision, on whichever server there is, and fails where one is skipped or told twice.
async fn client(number: usize, herd: Arc<Herd>) {
    let (mut turn, mut revision, mut cursor) = (number, None::<u64>, String::new());
    while revision != Some(REVISIONS) {
        let address = herd.servers[turn % 2];
        turn += 1;
        let query = if cursor.is_empty() {
            String::new()
        } else {
            format!("&cursor={cursor}")
        };
        let url = format!("ws://{address}/v1/watch?all=true{query}");
        let config = WebSocketConfig::default().read_buffer_size(4_096);
        let opened = async {
            let tcp = TcpStream::connect(address).await.ok()?;
            client_async_with_config(url, tcp, Some(config)).await.ok()
        };
        let Ok(Some((mut socket, _))) = timeout(LONG, opened).await else {
            // Apart from each other, as clients should be.
            sleep(Duration::from_millis(200 + (number as u64 * 37) % 800)).await;
            continue;
        };
        herd.connections.fetch_add(1, Ordering::Relaxed);
        herd.connected.fetch_add(1, Ordering::Relaxed);
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else {
                continue;
            };
            let told = member(&text, "\"payload\":{\"revision\":");
            let told = told.and_then(|told| told.parse::<u64>().ok());
            if text.starts_with("{\"type\":\"config.snapshot\"") {
                assert_eq!(revision, None, "it was taken back to a state: {text}");
                revision = told;
            } else if text.starts_with("{\"type\":\"config.changed\"") {
                assert_eq!(told, revision.map(|before| before + 1), "client {number}");
                revision = told;
                herd.told.fetch_add(1, Ordering::Relaxed);
            } else {
                continue;
            }
            cursor = member(&text, "\"cursor\":").unwrap().to_owned();
            if revision == Some(REVISIONS) {
                break;
            }
        }
        herd.connected.fetch_sub(1, Ordering::Relaxed);
    }
    herd.at_the_end.fetch_add(1, Ordering::Relaxed);
}

async fn all_connected(herd: &Herd) {
    eventually("all clients are connected", LONG, || async {
        let connected = herd.connected.load(Ordering::Relaxed);
        let there = connected + herd.at_the_end.load(Ordering::Relaxed);
        (there == CLIENTS).then_some(()).ok_or(connected)
    })
    .await;
}

/// Ends a server and starts another one in its place.
async fn replace(server: &mut Server, url: &str) {
    let address = server.address.to_string();
    server.signal("TERM").await;
    assert_eq!(server.ended().await.code(), Some(0));
    *server = Server::launch(Some(url), &["--listen", &address], &LIMITS).await;
    // It comes up while half of the clients come back to the other one.
    eventually("the server is ready", LONG, || async {
        let answer = get(server.address, "/readyz").await;
        (answer.status == 200).then_some(()).ok_or(answer.body)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_clients_miss_nothing_while_two_servers_are_replaced_under_writes() {
    raise_the_limit_of_files();
    let db = TestDb::new().await;
    let mut one = Server::start_with(db.url(), &[], &LIMITS).await;
    let mut two = Server::start_with(db.url(), &[], &LIMITS).await;
    let herd = Arc::new(Herd {
        servers: [one.address, two.address],
        connected: AtomicUsize::new(0),
        connections: AtomicUsize::new(0),
        at_the_end: AtomicUsize::new(0),
        told: AtomicU64::new(0),
    });
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(number, herd.clone()));
    }
    all_connected(&herd).await;
    let writer = db.client().await;
    let (replaced, both_replaced) = oneshot::channel();
    let writes = tokio::spawn(async move {
        let mut both_replaced = Some(both_replaced);
        for revision in 1..=REVISIONS {
            // Whoever has the last one is at the end: not before each of them had to come back.
            if revision == REVISIONS
                && let Some(both) = both_replaced.take()
            {
                both.await.unwrap();
            }
            let sql = format!(
                "INSERT INTO sync_config VALUES ('k{}', '{revision}') ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value",
                revision % 7
            );
            writer.batch_execute(&sql).await.unwrap();
            // Spread over the time in which servers come and go.
            sleep(Duration::from_millis(150)).await;
        }
    });
    replace(&mut one, db.url()).await;
    all_connected(&herd).await;
    replace(&mut two, db.url()).await;
    replaced.send(()).unwrap();
    all_connected(&herd).await;
    writes.await.unwrap();
    let ended = async {
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
    };
    timeout(LONG, ended)
        .await
        .expect("every client comes to the end");
    assert_eq!(herd.at_the_end.load(Ordering::Relaxed), CLIENTS);
    assert_eq!(
        herd.told.load(Ordering::Relaxed),
        CLIENTS as u64 * REVISIONS
    );
    let connections = herd.connections.load(Ordering::Relaxed);
    assert!(
        connections >= 2 * CLIENTS,
        "each came back at least once: {connections}"
    );
}
