//! Clients of the relay at unusual places: ahead of a server, before a large revision, in a state that takes long.

use std::time::Duration;

use serde_json::{Value, json};

use crate::relay::FREELY;
use crate::support::http::{put, request};
use crate::support::postgres::TestDb;
use crate::support::program::Server;
use crate::support::wait::{PATIENCE, eventually};
use crate::support::websocket::{Socket, cursor};

async fn server(db: &TestDb, arguments: &[&str]) -> Server {
    Server::start_with(db.url(), arguments, &FREELY).await
}

/// Reads one message that comes in parts; answers with the changes or entries, and where the client is then.
async fn whole(socket: &mut Socket, kind: &str, list: &str) -> (usize, String) {
    let mut items = 0;
    loop {
        let part = socket.expect(kind).await;
        items += part["payload"][list].as_array().unwrap().len();
        if part["cursor"].is_string() {
            return (items, cursor(&part));
        }
    }
}

#[tokio::test]
async fn a_number_ahead_of_the_server_is_waited_for_and_one_that_never_was_begins_anew() {
    let db = TestDb::new().await;
    let at = server(&db, &[]).await;
    put(at.address, "a", "1").await;
    let mut first = Socket::open(at.address, "").await;
    let ack = first.expect("connection.ack").await;
    let epoch = ack["payload"]["epoch"].as_str().unwrap();
    let next = format!("?epoch={epoch}&revision=2");
    let (mut ahead, _) = tokio::join!(Socket::open(at.address, &next), put(at.address, "a", "2"),);
    let ack = ahead.expect("connection.ack").await;
    assert_eq!(ack["payload"]["revision"], 2);
    put(at.address, "a", "3").await;
    let changed = ahead.expect("config.changed").await;
    assert_eq!(changed["payload"]["revision"], 3);
    let never = format!("?epoch={epoch}&revision=1000");
    let (_never, state) = Socket::begun(at.address, &never).await;
    assert_eq!(state["payload"]["revision"], 3);
}

#[tokio::test]
async fn a_large_revision_of_the_journal_comes_in_parts_and_the_next_ones_after_it() {
    let db = TestDb::new().await;
    let at = server(&db, &[]).await;
    put(at.address, "a", "1").await;
    let (_first, state) = Socket::begun(at.address, "").await;
    let place = cursor(&state);
    let large = "INSERT INTO sync_config SELECT 'k' || n, to_jsonb(repeat('x', 400000)) FROM generate_series(1, 20) n";
    db.client().await.batch_execute(large).await.unwrap();
    put(at.address, "a", "2").await;
    put(at.address, "a", "3").await;
    // A server that was not there reads the journal.
    let late = server(&db, &[]).await;
    let mut resumed = Socket::open(late.address, &format!("?cursor={place}")).await;
    resumed.expect("connection.ack").await;
    let (changes, after) = whole(&mut resumed, "config.changed", "changes").await;
    assert_eq!(changes, 20);
    for revision in 3..=4 {
        let changed = resumed.expect("config.changed").await;
        assert_eq!(changed["payload"]["revision"], revision);
    }
    let mut again = Socket::open(late.address, &format!("?cursor={after}")).await;
    again.expect("connection.ack").await;
    let changed = again.expect("config.changed").await;
    assert_eq!(changed["payload"]["revision"], 3);
}

#[tokio::test]
async fn a_client_that_takes_a_state_for_longer_than_it_may_be_silent_is_pinged_meanwhile() {
    let db = TestDb::new().await;
    let fill = "INSERT INTO sync_config SELECT 'k' || n, to_jsonb(repeat('x', 900000)) FROM generate_series(1, 40) n";
    let at = server(&db, &["--connection-timeout", "4s"]).await;
    put(at.address, "a", "1").await;
    db.client().await.batch_execute(fill).await.unwrap();
    at.until("/v1/config/k40", |answer| answer.status == 200)
        .await;
    let mut slow = Socket::open(at.address, "").await;
    slow.expect("connection.ack").await;
    let mut entries = 0;
    while entries < 41 {
        // So slow is its line: three times as long as it may be silent.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let part = slow.expect("config.snapshot").await;
        entries += part["payload"]["entries"].as_array().unwrap().len();
    }
    put(at.address, "a", "2").await;
    let changed = slow.expect("config.changed").await;
    assert_eq!(changed["payload"]["changes"][0]["new"], 2);
}

#[tokio::test]
async fn the_last_events_to_those_who_are_gone_leave_the_table_and_others_go_on() {
    let db = TestDb::new().await;
    let short = [("SYNC_CONFIG_EVENT_RETENTION", "3s"), FREELY[0]];
    let at = Server::start_with(db.url(), &["--events", "on"], &short).await;
    for name in ["gw-1", "gw-2"] {
        let event = json!({ "type": "n", "payload": 1, "to": { "client": name } }).to_string();
        let answer = request(at.address, "POST", "/v1/events", &[], &event).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    let client = db.client().await;
    let count = "SELECT count(*) FROM sync_config_events";
    eventually("an empty table", PATIENCE, || async {
        let rows: i64 = client.query_one(count, &[]).await.unwrap().get(0);
        (rows == 0).then_some(())
    })
    .await;
    let (mut socket, _) = Socket::begun(at.address, "?client=gw-1").await;
    let event = json!({ "type": "n", "payload": 2, "to": { "client": "gw-1" } }).to_string();
    let answer = request(at.address, "POST", "/v1/events", &[], &event).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let told: Value = socket.expect("n").await;
    assert_eq!(told["payload"], 2);
}

#[tokio::test]
async fn a_client_that_keeps_nothing_but_its_name_goes_on_after_what_it_acknowledged_on_any_server()
{
    let db = TestDb::new().await;
    let mut one = server(&db, &["--events", "on"]).await;
    let publish = async |at: &Server, number: u32| {
        let event = json!({ "type": "n", "payload": number, "to": { "client": "gw" } });
        let answer = request(at.address, "POST", "/v1/events", &[], &event.to_string()).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    };
    let (mut socket, _) = Socket::begun(one.address, "?client=gw").await;
    let mut places = Vec::new();
    for number in 1..=3 {
        publish(&one, number).await;
        let told = socket.expect("n").await;
        assert_eq!(told["payload"], number);
        places.push(cursor(&told));
    }
    let ack = json!({ "type": "ack", "cursor": places[0] });
    socket.say(ack).await;
    // Answered after the acknowledgement was taken in.
    socket.ping().await;
    drop(socket);
    // A stop stores what is not stored yet.
    one.signal("TERM").await;
    assert!(one.ended().await.success());
    let two = server(&db, &["--events", "on"]).await;
    publish(&two, 4).await;
    let (mut socket, _) = Socket::begun(two.address, "?client=gw").await;
    for number in 2..=4 {
        assert_eq!(socket.expect("n").await["payload"], number);
    }
    // Whoever has acknowledged nothing hears of what comes.
    let mut other = Socket::open(two.address, "?client=gw-2&state=false").await;
    other.expect("connection.ack").await;
    let event = json!({ "type": "n", "payload": 5, "to": "all" }).to_string();
    let answer = request(two.address, "POST", "/v1/events", &[], &event).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    for socket in [&mut socket, &mut other] {
        assert_eq!(socket.expect("n").await["payload"], 5);
    }
}
