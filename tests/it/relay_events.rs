//! Events that are published to clients: in order, from any server, for those who come back as well.

use serde_json::{Value, json};

use crate::relay::FREELY;
use crate::support::http::{Answer, Watch, put, request};
use crate::support::postgres::TestDb;
use crate::support::program::Server;
use crate::support::websocket::{Socket, cursor};

async fn server(db: &TestDb) -> Server {
    Server::start_with(db.url(), &["--events", "on"], &FREELY).await
}

/// Publishes once the server can, which loads the events' store beside the other one.
async fn publish(at: &Server, event: Value) -> Answer {
    request(at.address, "POST", "/v1/events", &[], &event.to_string()).await
}

async fn published(at: &Server, kind: &str, payload: Value, to: Value) -> Value {
    let event = json!({ "type": kind, "payload": payload, "to": to });
    let answer = publish(at, event).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()
}

async fn named(at: &Server, query: &str) -> Socket {
    Socket::begun(at.address, query).await.0
}

#[tokio::test]
async fn an_event_reaches_whom_it_is_for_on_every_server_and_nobody_else() {
    let db = TestDb::new().await;
    let one = server(&db).await;
    let two = server(&db).await;
    put(one.address, "limits/a", "1").await;
    two.until("/v1/config/limits/a", |answer| answer.status == 200)
        .await;
    let mut here = named(&one, "?client=gw-1").await;
    let mut there = named(&two, "?client=gw-1&prefix=limits/").await;
    let mut other = named(&two, "?client=gw-2&prefix=flags/").await;
    let mut page = Watch::open(one.address, "?events=true", &[]).await;
    assert_eq!(page.next().await.unwrap().event, "snapshot");
    let sent = published(
        &one,
        "api.deployed",
        json!({"n": 1}),
        json!({"client": "gw-1"}),
    )
    .await;
    published(
        &two,
        "limits.checked",
        json!([2]),
        json!({"prefix": "limits/a"}),
    )
    .await;
    published(&one, "all.hands", json!("3"), json!("all")).await;
    for socket in [&mut here, &mut there] {
        let first = socket.expect("api.deployed").await;
        assert_eq!(first["payload"], json!({"n": 1}));
        assert_eq!(first["correlationId"], sent["id"]);
        assert_eq!(socket.expect("limits.checked").await["payload"], json!([2]));
        assert_eq!(socket.expect("all.hands").await["payload"], "3");
    }
    assert_eq!(other.expect("all.hands").await["payload"], "3");
    assert_eq!(page.news().await.event, "limits.checked");
    let last = page.news().await;
    assert_eq!(
        (last.event.as_str(), last.json()),
        ("all.hands", json!("3"))
    );
    // Changes go on beside them.
    put(one.address, "limits/a", "2").await;
    for socket in [&mut here, &mut there] {
        assert_eq!(
            socket.expect("config.changed").await["payload"]["changes"][0]["new"],
            2
        );
    }
}

#[tokio::test]
async fn a_client_that_was_away_hears_in_order_what_it_missed_on_another_server() {
    let db = TestDb::new().await;
    let one = server(&db).await;
    put(one.address, "k", "0").await;
    // Already the state names the place among the events.
    let (socket, state) = Socket::begun(one.address, "?client=gw").await;
    let mut place = cursor(&state);
    drop(socket);
    let mut expected = 0;
    for round in 0..3 {
        for _ in 0..40 {
            published(&one, "n", json!(expected), json!({"client": "gw"})).await;
            published(&one, "n", json!("other's"), json!({"client": "gw-2"})).await;
            expected += 1;
        }
        put(one.address, "k", &format!("1{round}")).await;
        let fresh = server(&db).await;
        let mut socket = Socket::open(fresh.address, &format!("?client=gw&cursor={place}")).await;
        socket.expect("connection.ack").await;
        let (mut next, mut changed) = (round * 40, false);
        while next < expected || !changed {
            let message = socket.news().await;
            match message["type"].as_str().unwrap() {
                "n" => {
                    assert_eq!(message["payload"], next);
                    next += 1;
                }
                "config.changed" => changed = true,
                other => panic!("{other}"),
            }
            place = cursor(&message);
        }
    }
}

#[tokio::test]
async fn an_event_sent_again_with_its_idempotency_key_is_published_once() {
    let db = TestDb::new().await;
    let at = server(&db).await;
    let mut socket = named(&at, "?client=gw").await;
    let event = json!({ "type": "once", "payload": 1, "to": "all" }).to_string();
    let header = [("Idempotency-Key", "7")];
    let first = request(at.address, "POST", "/v1/events", &header, &event).await;
    assert_eq!(first.status, 202, "{first:?}");
    let again = request(at.address, "POST", "/v1/events", &header, &event).await;
    assert_eq!(again.json()["replayed"], true);
    assert_eq!(again.json()["id"], first.json()["id"]);
    published(&at, "after", json!(2), json!("all")).await;
    let once = socket.expect("once").await;
    assert_eq!(once["correlationId"], first.json()["id"]);
    socket.expect("after").await;
}

#[tokio::test]
async fn a_wrong_event_is_refused_with_a_reason() {
    let db = TestDb::new().await;
    let at = server(&db).await;
    for wrong in [
        json!({}),
        json!({ "type": "x", "payload": 1 }),
        json!({ "type": "", "payload": 1, "to": "all" }),
        json!({ "type": "a b", "payload": 1, "to": "all" }),
        json!({ "type": "config.changed", "payload": 1, "to": "all" }),
        json!({ "type": "ack", "payload": 1, "to": "all" }),
        json!({ "type": "x", "payload": 1, "to": "everybody" }),
        json!({ "type": "x", "payload": 1, "to": {"client": ""} }),
        json!({ "type": "x", "payload": 1, "to": {"client": "x".repeat(129)} }),
        json!({ "type": "open", "payload": 1, "to": "all" }),
        json!({ "type": "x", "payload": 1, "to": "all", "correlationId": "\u{1}".repeat(50) }),
        json!({ "type": "x", "payload": 1, "to": "all", "correlationId": "x".repeat(300) }),
    ] {
        let answer = publish(&at, wrong.clone()).await;
        assert_eq!(answer.status, 400, "{wrong} {answer:?}");
    }
    let off = Server::start(db.url()).await;
    let answer = publish(&off, json!({ "type": "x", "payload": 1, "to": "all" })).await;
    assert_eq!(answer.status, 503);
    assert!(
        answer.json()["detail"]
            .as_str()
            .unwrap()
            .contains("--events on")
    );
}
