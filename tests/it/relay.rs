//! `GET /v1/watch` by WebSocket: what is told, and what can be asked.

use serde_json::{Value, json};

use crate::support::http::{Watch, get, put, request};
use crate::support::postgres::TestDb;
use crate::support::program::{Server, program, run};
use crate::support::websocket::{Socket, cursor};
use tokio_tungstenite::tungstenite::Message;

/// No limit to the attempts of an address: tests open many.
pub(crate) const FREELY: [(&str, &str); 1] = [("SYNC_CONFIG_WS_RATE_LIMIT_PER_MINUTE", "0")];

/// A client that has heard of nothing for a while is told how far it is: not here, however long a test takes.
async fn server(db: &TestDb) -> Server {
    Server::start_with(db.url(), &["--progress-interval", "5m"], &FREELY).await
}

#[tokio::test]
async fn a_client_is_acknowledged_then_told_the_state_and_each_revision_whole() {
    let db = TestDb::new().await;
    let at = server(&db).await;
    put(at.address, "a", "1").await;
    let mut socket = Socket::open(at.address, "?client=gw-1").await;
    let ack = socket.expect("connection.ack").await;
    for name in ["clientId", "gatewayId"] {
        assert_eq!(ack["payload"][name], "gw-1", "{ack}");
    }
    assert_eq!(ack["gatewayId"], "gw-1");
    assert_eq!(ack["connectionId"], ack["payload"]["connectionId"]);
    assert_eq!(ack["payload"]["revision"], 1);
    let state = socket.expect("config.snapshot").await;
    assert_eq!(state["payload"]["revision"], 1);
    assert_eq!(
        state["payload"]["entries"][0],
        get(at.address, "/v1/config/a").await.json()
    );
    assert_eq!(cursor(&state), ack["payload"]["cursor"]);
    let sql = "BEGIN; UPDATE sync_config SET value = 'null' WHERE key = 'a';
        INSERT INTO sync_config VALUES ('b', '1e2'); COMMIT";
    db.client().await.batch_execute(sql).await.unwrap();
    let changed = socket.expect("config.changed").await;
    let told = json!({ "revision": 2, "changes": [
        { "key": "a", "kind": "put", "old": 1, "new": null },
        { "key": "b", "kind": "put", "new": 100 },
    ]});
    assert_eq!(changed["payload"], told);
    for name in ["timestamp", "correlationId", "cursor"] {
        assert!(changed[name].is_string(), "{changed}");
    }
    // The other transport tells the same, without the envelope.
    let resume = Watch::resume(at.address, &cursor(&state))
        .await
        .news()
        .await;
    assert_eq!(resume.json(), told);
    assert_eq!(resume.resume(), cursor(&changed));
}

#[tokio::test]
async fn a_client_resumes_by_cursor_or_number_on_any_server() {
    let db = TestDb::new().await;
    let (at, other) = tokio::join!(server(&db), server(&db));
    put(at.address, "a", "1").await;
    let mut socket = Socket::open(at.address, "").await;
    let ack = socket.news().await;
    let seen = cursor(&socket.news().await);
    for value in ["2", "3", "4"] {
        put(at.address, "a", value).await;
    }
    other
        .until("/v1/config/a", |answer| answer.json()["value"] == 4)
        .await;
    let late = server(&db).await;
    let epoch = ack["payload"]["epoch"].as_str().unwrap();
    let by_number = format!("?epoch={epoch}&revision=1");
    let by_cursor = format!("?cursor={seen}");
    // The last one was not there and reads the journal; the number alone leads nowhere in that.
    let by = [
        (&at, &by_cursor),
        (&at, &by_number),
        (&other, &by_cursor),
        (&other, &by_number),
        (&late, &by_cursor),
    ];
    for (server, query) in by {
        let mut resumed = Socket::open(server.address, query).await;
        resumed.expect("connection.ack").await;
        for revision in 2..=4 {
            let changed = resumed.expect("config.changed").await;
            assert_eq!(changed["payload"]["revision"], revision, "{query}");
        }
        let progress = resumed.next().await.unwrap();
        assert_eq!(progress["type"], "config.progress");
        assert_eq!(progress["payload"]["revision"], 4);
    }
}

#[tokio::test]
async fn a_copy_hears_of_every_revision_from_the_acknowledged_one_on() {
    let db = TestDb::new().await;
    let at = server(&db).await;
    put(at.address, "a/x", "1").await;
    let mut copy = Socket::open(at.address, "?all=true&state=false&prefix=a/").await;
    let ack = copy.expect("connection.ack").await;
    assert_eq!(ack["payload"]["revision"], 1);
    put(at.address, "b", "1").await;
    put(at.address, "a/y", "2").await;
    let other = copy.expect("config.changed").await;
    assert_eq!(other["payload"], json!({ "revision": 2, "changes": [] }));
    let changed = copy.expect("config.changed").await;
    let entry = get(at.address, "/v1/config/a/y").await.json();
    let change = &changed["payload"]["changes"][0];
    assert_eq!(change["revision"], entry["revision"]);
    assert_eq!(change["updatedAt"], entry["updatedAt"]);
    // A server that reads the journal tells the same.
    let late = server(&db).await;
    let query = format!(
        "?all=true&state=false&prefix=a/&cursor={}",
        ack["payload"]["cursor"].as_str().unwrap()
    );
    let mut resumed = Socket::open(late.address, &query).await;
    resumed.expect("connection.ack").await;
    assert_eq!(resumed.news().await["payload"], other["payload"]);
    assert_eq!(resumed.news().await["payload"], changed["payload"]);
    // Nothing leads on from a place that there never was: it has to begin anew by itself.
    let lost = format!("?all=true&state=false&cursor=garbage{}", "0".repeat(20));
    let mut lost = Socket::open(at.address, &lost).await;
    lost.expect("connection.ack").await;
    let reset = lost.expect("config.reset").await;
    assert_eq!(reset["payload"]["revision"], 3);
    put(at.address, "b", "2").await;
    assert_eq!(
        lost.expect("config.changed").await["payload"]["revision"],
        4
    );
}

#[tokio::test]
async fn a_new_epoch_is_told_by_a_state_or_the_word_to_begin_anew() {
    let db = TestDb::new().await;
    let at = server(&db).await;
    put(at.address, "a", "1").await;
    let mut one = Socket::open(at.address, "").await;
    one.expect("connection.ack").await;
    one.expect("config.snapshot").await;
    let mut two = Socket::open(at.address, "?state=false").await;
    two.expect("connection.ack").await;
    let output = run(&mut program(Some(db.url()), &["new-epoch"])).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let (state, reset) = (
        one.expect("config.snapshot").await,
        two.expect("config.reset").await,
    );
    assert_eq!(cursor(&state), cursor(&reset));
    put(at.address, "a", "2").await;
    for socket in [&mut one, &mut two] {
        assert_eq!(
            socket.expect("config.changed").await["payload"]["changes"][0]["new"],
            2
        );
    }
}

#[tokio::test]
async fn several_prefixes_are_one_watch() {
    let db = TestDb::new().await;
    let at = server(&db).await;
    for key in ["a/1", "b/1", "c/1"] {
        put(at.address, key, "1").await;
    }
    let mut socket = Socket::open(at.address, "?prefix=c/&prefix=a/&prefix=a/1").await;
    socket.expect("connection.ack").await;
    let state = socket.expect("config.snapshot").await;
    let keys = |list: &Value| -> Vec<String> {
        let keys = list
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["key"].as_str().unwrap().to_owned());
        keys.collect()
    };
    assert_eq!(keys(&state["payload"]["entries"]), ["a/1", "c/1"]);
    put(at.address, "b/2", "2").await;
    let sql = "UPDATE sync_config SET value = '7'";
    db.client().await.batch_execute(sql).await.unwrap();
    let changed = socket.expect("config.changed").await;
    assert_eq!(changed["payload"]["revision"], 5);
    assert_eq!(keys(&changed["payload"]["changes"]), ["a/1", "c/1"]);
}

#[tokio::test]
async fn no_frame_is_longer_than_a_mebibyte_and_nothing_is_lost_by_that() {
    let db = TestDb::new().await;
    let at = server(&db).await;
    let client = db.client().await;
    let mut socket = Socket::open(at.address, "?state=false").await;
    socket.expect("connection.ack").await;
    let six = "INSERT INTO sync_config SELECT 'k' || n, to_jsonb(repeat('x', 400000)) FROM generate_series(1, 6) n";
    client.batch_execute(six).await.unwrap();
    let (mut changes, mut last) = (0, false);
    while !last {
        let text = socket.text().await.unwrap();
        assert!(text.len() <= 1_048_576);
        let part: Value = serde_json::from_str(&text).unwrap();
        last = part["payload"]["last"] == true;
        assert_eq!(part["cursor"].is_string(), last);
        changes += part["payload"]["changes"].as_array().unwrap().len();
    }
    assert_eq!(changes, 6);
    // Old and new value together do not fit, and stand in one change.
    for letter in ["y", "z"] {
        let sql = format!(
            "UPDATE sync_config SET value = to_jsonb(repeat('{letter}', 1000000)) WHERE key = 'k1'"
        );
        client.batch_execute(&sql).await.unwrap();
    }
    let first = socket.news().await;
    assert_eq!(first["payload"]["revision"], 2);
    let mut pieces = Vec::new();
    loop {
        let text = socket.text().await.unwrap();
        assert!(text.len() <= 1_048_576);
        let piece: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(piece["type"], "config.chunk");
        assert_eq!(piece["payload"]["of"], "config.changed");
        pieces.push(piece["payload"]["text"].as_str().unwrap().to_owned());
        if piece["payload"]["last"] == true {
            break;
        }
    }
    let whole: Value = serde_json::from_str(&pieces.concat()).unwrap();
    let change = &whole["payload"]["changes"][0];
    assert_eq!(change["old"].as_str().unwrap(), "y".repeat(1_000_000));
    assert_eq!(change["new"].as_str().unwrap(), "z".repeat(1_000_000));
    assert!(pieces.len() > 1 && whole["cursor"].is_string());
}

#[tokio::test]
async fn a_client_can_ask_for_the_head_and_acknowledge() {
    let db = TestDb::new().await;
    let at = server(&db).await;
    put(at.address, "a", "1").await;
    put(at.address, "a", "2").await;
    let (mut one, mut two) = (
        Socket::open(at.address, "?client=gw").await,
        Socket::open(at.address, "?client=gw").await,
    );
    let mut state = Value::Null;
    for socket in [&mut one, &mut two] {
        socket.expect("connection.ack").await;
        state = socket.expect("config.snapshot").await;
    }
    one.say(json!({ "type": "head", "id": {"n": 7}, "revision": 2 }))
        .await;
    let head = one.expect("head").await;
    assert_eq!(head["id"], json!({"n": 7}));
    assert_eq!(head["payload"]["revision"], 2);
    assert_eq!(head["payload"]["cursor"], state["cursor"]);
    let own = cursor(&state).rsplit('-').next().unwrap().to_owned();
    assert_eq!(head["payload"]["ownId"], own);
    assert!(head["payload"]["staleMs"].is_u64() && head["payload"]["mode"].is_string());
    one.say(json!({ "type": "ping", "id": 1 })).await;
    assert_eq!(one.expect("pong").await["id"], 1);
    one.ping().await;
    for wrong in [
        "nonsense",
        "{}",
        "{\"type\":\"x\"}",
        "{\"type\":\"ack\"}",
        "[1]",
    ] {
        one.send(Message::text(wrong)).await;
        let answer = one.expect("error").await;
        assert!(answer["payload"]["problem"].is_string(), "{wrong}");
    }
    one.say(json!({ "type": "ack", "revision": 2 })).await;
    let applied = |answer: &Value, wanted: Value| answer["clients"][0]["applied"] == wanted;
    // The other connection has acknowledged nothing, and the client is as far as its last connection.
    at.until("/v1/stats", |stats| {
        let stats = stats.json();
        let connections = stats["gatewayConnections"]["connections"]
            .as_array()
            .unwrap()
            .clone();
        connections.iter().any(|one| one["applied"] == 2) && applied(&stats, Value::Null)
    })
    .await;
    two.say(json!({ "type": "ack", "cursor": cursor(&state) }))
        .await;
    at.until("/v1/stats", |stats| applied(&stats.json(), json!(2)))
        .await;
    drop((one, two));
    at.until("/v1/stats", |stats| {
        let stats = stats.json();
        stats["gatewayConnections"]["totalActive"] == 0 && applied(&stats, json!(2))
    })
    .await;
}

#[tokio::test]
async fn statistics_name_each_connection_and_what_was_delivered() {
    let db = TestDb::new().await;
    let at = server(&db).await;
    put(at.address, "a", "1").await;
    let mut socket = Socket::open(at.address, "?client=gw").await;
    let ack = socket.expect("connection.ack").await;
    socket.expect("config.snapshot").await;
    let _watch = Watch::open(at.address, "?client=page", &[]).await;
    // What was told is noted once it is sent.
    at.until("/v1/stats", |stats| {
        let stats = stats.json();
        let all = &stats["gatewayConnections"];
        let mut connections = all["connections"].as_array().unwrap().iter();
        all["totalActive"] == 2
            && connections.all(|one| one["revision"] == 1 && one["status"] == "connected")
            && stats["eventDelivery"]["totalEventsSent"].as_u64() >= Some(2)
    })
    .await;
    let stats = get(at.address, "/v1/stats").await.json();
    let connections = &stats["gatewayConnections"]["connections"];
    let shown = connections
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["transport"] == "websocket")
        .unwrap();
    assert_eq!(shown["gatewayId"], "gw");
    assert_eq!(shown["connectionId"], ack["connectionId"]);
    assert_eq!(
        (&shown["status"], &shown["revision"]),
        (&json!("connected"), &json!(1))
    );
    for name in ["connectedAt", "lastHeartbeat"] {
        assert!(shown[name].as_str().unwrap().ends_with('Z'));
    }
    assert!(stats["eventDelivery"]["totalEventsSent"].as_u64().unwrap() >= 2);
    assert_eq!(stats["eventDelivery"]["failedDeliveries"], 0);
    // The memory for the connections of a server shows here, too.
    assert_eq!(stats["gatewayConnections"]["limit"], 1_000);
}

#[tokio::test]
async fn a_client_that_reads_late_misses_nothing() {
    let db = TestDb::new().await;
    // It answers no ping while it does not read.
    let patient = ["--connection-timeout", "10m"];
    let at = Server::start_with(db.url(), &patient, &FREELY).await;
    let client = db.client().await;
    put(at.address, "k", "0").await;
    let mut late = Socket::open(at.address, "?all=true").await;
    late.expect("connection.ack").await;
    late.expect("config.snapshot").await;
    // More than sockets and the ring hold, in few rounds: nothing is waited for longer than a minute.
    for round in 0..60 {
        let sql = format!(
            "UPDATE sync_config SET value = to_jsonb(repeat('{}', 400000))",
            round % 10
        );
        client.batch_execute(&sql).await.unwrap();
    }
    at.until("/v1/stats", |stats| stats.json()["revision"] == 61)
        .await;
    for revision in 2..=61 {
        let changed = late.expect("config.changed").await;
        assert_eq!(changed["payload"]["revision"], revision);
    }
    let stats = get(at.address, "/v1/stats").await.json();
    assert_eq!(stats["eventDelivery"]["failedDeliveries"], 0, "{stats}");
}

#[tokio::test]
async fn an_ordinary_request_for_a_websocket_is_checked() {
    let db = TestDb::new().await;
    let at = server(&db).await;
    let ask =
        async |headers: &[(&str, &str)]| request(at.address, "GET", "/v1/watch", headers, "").await;
    let key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let (upgrade, version) = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"));
    // The helper's own Connection: close is no Upgrade.
    assert_eq!(ask(&[upgrade, version, key]).await.status, 400);
    let refused = Socket::ask(at.address, "", &[("Sec-WebSocket-Version", "8")])
        .await
        .unwrap_err();
    assert_eq!(refused.status(), 426);
    assert_eq!(refused.headers()["sec-websocket-version"], "13");
    let refused = Socket::ask(at.address, "", &[("Origin", "http://evil.example")])
        .await
        .unwrap_err();
    assert_eq!(refused.status(), 403);
    let refused = Socket::ask(at.address, "", &[("Host", "evil.example")])
        .await
        .unwrap_err();
    assert_eq!(refused.status(), 403);
    let refused = Socket::ask(at.address, "?state=perhaps", &[])
        .await
        .unwrap_err();
    assert_eq!(refused.status(), 400);
    let asked = [("Sec-WebSocket-Protocol", "other, sync-config")];
    let socket = Socket::ask(at.address, "", &asked).await.unwrap();
    assert_eq!(socket.protocol.as_deref(), Some("sync-config"));
}
