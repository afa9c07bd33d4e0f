//! What clients of the relay may take, and how each of them is let go.

#![allow(
    clippy::disallowed_methods,
    reason = "how many attempts are free is a matter of time"
)]

use serde_json::{Value, json};
use std::time::Instant;

use crate::relay::FREELY;
use crate::support::http::{Watch, get, put};
use crate::support::postgres::TestDb;
use crate::support::program::Server;
use crate::support::websocket::Socket;
use tokio_tungstenite::tungstenite::{Bytes, Message};

async fn open(at: &Server) -> Socket {
    let mut socket = Socket::open(at.address, "").await;
    socket.expect("connection.ack").await;
    socket.expect("config.snapshot").await;
    socket
}

fn active(stats: &Value) -> u64 {
    stats["gatewayConnections"]["totalActive"].as_u64().unwrap()
}

#[tokio::test]
async fn an_address_asks_ten_times_a_minute_and_is_told_when_it_may_again() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    let since = Instant::now();
    let mut granted = 0;
    let refused = loop {
        match Socket::ask(at.address, "", &[]).await {
            Ok(socket) => drop(socket),
            Err(refused) => break refused,
        }
        granted += 1;
        // One more is free every six seconds.
        let most = 10 + since.elapsed().as_secs() / 6 + 1;
        assert!(granted <= most, "{granted}");
    };
    assert!(granted >= 10, "{granted}");
    assert_eq!(refused.status(), 429);
    let wait: u64 = refused.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=7).contains(&wait), "{wait}");
    let body: Value = serde_json::from_slice(refused.body().as_ref().unwrap()).unwrap();
    assert_eq!(body["type"], "urn:sync-config:problem:too-many-requests");
    // Requests and streams of events are not counted.
    assert_eq!(get(at.address, "/v1/config").await.status, 200);
    drop(Watch::open(at.address, "", &[]).await);
}

#[tokio::test]
async fn the_seeds_names_of_the_limits_are_taken_where_no_others_are_given() {
    let db = TestDb::new().await;
    let seeds = [
        ("WS_MAX_CONNECTIONS", "2"),
        ("WS_RATE_LIMIT_PER_MINUTE", "100"),
        ("WS_CONNECTION_TIMEOUT", "60"),
    ];
    let at = Server::start_with(db.url(), &[], &seeds).await;
    let (one, _two) = (open(&at).await, Watch::open(at.address, "", &[]).await);
    let refused = Socket::ask(at.address, "", &[]).await.unwrap_err();
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    let stats = get(at.address, "/v1/stats").await.json();
    assert_eq!(stats["gatewayConnections"]["limit"], 2);
    drop(one);
    at.until("/v1/stats", |stats| active(&stats.json()) == 1)
        .await;
    drop(open(&at).await);
    let own = [seeds[0], ("SYNC_CONFIG_WS_MAX_CONNECTIONS", "7")];
    let at = Server::start_with(db.url(), &[], &own).await;
    let stats = get(at.address, "/v1/stats").await.json();
    assert_eq!(stats["gatewayConnections"]["limit"], 7);
}

#[tokio::test]
async fn a_client_that_does_not_answer_pings_is_gone_in_time_and_one_that_does_stays() {
    let db = TestDb::new().await;
    let at = Server::start_with(db.url(), &["--connection-timeout", "10s"], &FREELY).await;
    let mut there = open(&at).await;
    let answering = tokio::spawn(async move {
        // Reading answers pings.
        there.expect("config.changed").await;
        there
    });
    // Nobody reads this one, so nobody answers its pings.
    let silent = open(&at).await;
    at.until("/v1/stats", |stats| active(&stats.json()) == 1)
        .await;
    let stats = get(at.address, "/v1/stats").await.json();
    assert_eq!(
        stats["eventDelivery"]["lastFailureReason"],
        "the client is silent"
    );
    assert_eq!(stats["eventDelivery"]["failedDeliveries"], 1);
    drop(silent);
    put(at.address, "k", "1").await;
    let mut there = answering.await.unwrap();
    there.ping().await;
}

#[tokio::test]
async fn whoever_breaks_the_protocol_is_told_so_by_the_code() {
    let db = TestDb::new().await;
    let at = Server::start_with(db.url(), &[], &FREELY).await;
    let mut long = open(&at).await;
    long.send(Message::text("x".repeat(70_000))).await;
    assert_eq!(long.closed().await.0, 1009);
    let mut binary = open(&at).await;
    binary.send(Message::binary(Bytes::from_static(b"x"))).await;
    assert_eq!(binary.closed().await.0, 1003);
    let mut unmasked = open(&at).await;
    unmasked.raw(&[0x81, 0x02, b'{', b'}']).await;
    assert_eq!(unmasked.closed().await.0, 1002);
    let mut no_text = open(&at).await;
    no_text.raw(&[0x81, 0x81, 0, 0, 0, 0, 0xff]).await;
    assert_eq!(no_text.closed().await.0, 1007);
}

#[tokio::test]
async fn a_stop_is_told_to_every_client_and_ends_the_server_in_time() {
    let db = TestDb::new().await;
    let mut at = Server::start_with(db.url(), &[], &FREELY).await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(open(&at).await);
    }
    let mut events = Watch::open(at.address, "", &[]).await;
    assert_eq!(events.next().await.unwrap().event, "snapshot");
    at.signal("TERM").await;
    for socket in &mut sockets {
        assert_eq!(socket.closed().await, (1000, "shutdown".to_owned()));
    }
    assert!(events.next().await.is_none());
    assert_eq!(at.ended().await.code(), Some(0));
    let stopped = |log: &[String]| log.iter().any(|line| line.contains("\"stopped\""));
    let log = at.log.until("the last line", stopped).await;
    let late = |line: &String| line.contains("were still under way");
    assert!(!log.iter().any(late), "nobody was cut off: {log:?}");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_let_go_and_holds_nobody_up() {
    let db = TestDb::new().await;
    let at = Server::start_with(db.url(), &["--connection-timeout", "15s"], &FREELY).await;
    put(at.address, "k", "0").await;
    let stuck = open(&at).await;
    let mut reader = open(&at).await;
    let client = db.client().await;
    for revision in 2..=41 {
        let sql = format!(
            "UPDATE sync_config SET value = to_jsonb(repeat('{}', 900000))",
            revision % 10
        );
        client.batch_execute(&sql).await.unwrap();
        let changed = reader.expect("config.changed").await;
        assert_eq!(changed["payload"]["revision"], revision);
    }
    // Reading answers pings.
    let read = tokio::spawn(async move { reader.expect("config.changed").await });
    at.until("/v1/stats", |stats| active(&stats.json()) == 1)
        .await;
    let stats = get(at.address, "/v1/stats").await.json();
    let delivery = &stats["eventDelivery"];
    assert_eq!(delivery["failedDeliveries"], json!(1), "{stats}");
    // It answers no ping either, whichever is noticed first.
    let reason = delivery["lastFailureReason"].as_str().unwrap();
    let reasons = ["the client takes nothing", "the client is silent"];
    assert!(reasons.contains(&reason), "{stats}");
    drop(stuck);
    put(at.address, "k", "1").await;
    assert_eq!(read.await.unwrap()["payload"]["revision"], 42);
}
