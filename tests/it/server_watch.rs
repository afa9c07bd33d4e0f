//! `GET /v1/watch`: every revision once, in order, or a snapshot.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::http::{Answer, Message, Watch, get, head, put, request};
use crate::support::postgres::TestDb;
use crate::support::program::{Server, program, run};
use crate::support::wait::{PATIENCE, eventually};

/// How many streams a server's statistics show.
fn open_streams(stats: &Answer) -> u64 {
    stats.json()["gatewayConnections"]["totalActive"]
        .as_u64()
        .unwrap()
}

/// Applies a message to a copy, as a client would.
fn apply(copy: &mut BTreeMap<String, Value>, message: &Message) {
    let data = message.json();
    let list = |name: &str| data[name].as_array().cloned().unwrap_or_default();
    if message.event == "snapshot" && data["part"].as_u64().unwrap_or(1) == 1 {
        copy.clear();
    }
    for entry in list("entries") {
        copy.insert(
            entry["key"].as_str().unwrap().to_owned(),
            entry["value"].clone(),
        );
    }
    for change in list("changes") {
        let key = change["key"].as_str().unwrap();
        assert_eq!(copy.get(key), change.get("old"), "{change}");
        match change["kind"].as_str().unwrap() {
            "put" => copy.insert(key.to_owned(), change["new"].clone()),
            "delete" => copy.remove(key),
            other => panic!("{other}"),
        };
    }
}

#[tokio::test]
async fn a_watch_begins_with_a_snapshot_and_tells_each_revision_whole() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    put(at.address, "a", "1").await;
    let mut watch = Watch::open(at.address, "", &[]).await;
    let first = watch.next().await.unwrap();
    assert_eq!(first.event, "snapshot");
    let entries = first.json();
    assert_eq!(entries["revision"], 1);
    assert_eq!(
        entries["entries"][0],
        get(at.address, "/v1/config/a").await.json()
    );
    let sql = "BEGIN; UPDATE sync_config SET value = 'null' WHERE key = 'a';
        INSERT INTO sync_config VALUES ('b', '1e2'); INSERT INTO sync_config VALUES ('c', '\"\\u0007\\n\"'); COMMIT";
    let client = db.client().await;
    client.batch_execute(sql).await.unwrap();
    let change = watch.news().await;
    assert_eq!(change.event, "change");
    let told = json!({ "revision": 2, "changes": [
        { "key": "a", "kind": "put", "old": 1, "new": null },
        { "key": "b", "kind": "put", "new": 100 },
        { "key": "c", "kind": "put", "new": "\u{7}\n" },
    ]});
    assert_eq!(change.json(), told);
    client.batch_execute("TRUNCATE sync_config").await.unwrap();
    let change = watch.news().await;
    let told = json!({ "revision": 3, "changes": [
        { "key": "a", "kind": "delete", "old": null },
        { "key": "b", "kind": "delete", "old": 100 },
        { "key": "c", "kind": "delete", "old": "\u{7}\n" },
    ]});
    assert_eq!(change.json(), told);
    assert_ne!(change.resume(), first.resume());
}

#[tokio::test]
async fn a_client_resumes_with_exactly_the_next_revision_on_any_server() {
    let db = TestDb::new().await;
    let (at, other) = tokio::join!(Server::start(db.url()), Server::start(db.url()));
    put(at.address, "a", "1").await;
    let seen = Watch::open(at.address, "", &[])
        .await
        .next()
        .await
        .unwrap()
        .resume();
    for value in ["2", "3", "4"] {
        put(at.address, "a", value).await;
    }
    request(at.address, "DELETE", "/v1/config/a", &[], "").await;
    let query = format!("?lastEventId={seen}");
    let stale = "?lastEventId=0";
    let by = [
        Watch::resume(at.address, &seen).await,
        Watch::open(at.address, &query, &[]).await,
        Watch::open(at.address, stale, &[("Last-Event-ID", &seen)]).await,
        Watch::resume(other.address, &seen).await,
    ];
    for (turn, mut watch) in by.into_iter().enumerate() {
        for (revision, old, new) in [(2, 1, 2), (3, 2, 3), (4, 3, 4)] {
            let message = watch.news().await;
            let change = json!({ "key": "a", "kind": "put", "old": old, "new": new });
            assert_eq!(
                message.json(),
                json!({ "revision": revision, "changes": [change] })
            );
        }
        let deleted = json!({ "key": "a", "kind": "delete", "old": 4 });
        assert_eq!(watch.news().await.json()["changes"], json!([deleted]));
        put(at.address, "live", &turn.to_string()).await;
        loop {
            let live = watch.news().await.json();
            if live["changes"][0]["new"] == turn {
                break;
            }
        }
    }
}

#[tokio::test]
async fn resuming_under_writes_has_no_hole_and_no_overlap() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    let writer = db.client().await;
    let writes = tokio::spawn(async move {
        for round in 0..400 {
            let sql = format!(
                "INSERT INTO sync_config VALUES ('k{}', '{round}') ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value",
                round % 7
            );
            writer.batch_execute(&sql).await.unwrap();
        }
    });
    let mut copy = BTreeMap::new();
    let first = Watch::open(at.address, "", &[]).await.next().await.unwrap();
    apply(&mut copy, &first);
    let (mut id, mut revision) = (first.resume(), first.revision());
    while revision < 400 {
        let mut watch = Watch::resume(at.address, &id).await;
        for _ in 0..23 {
            if revision == 400 {
                break;
            }
            let message = watch.news().await;
            assert_eq!(
                (message.event.as_str(), message.revision()),
                ("change", revision + 1)
            );
            apply(&mut copy, &message);
            (id, revision) = (message.resume(), revision + 1);
        }
    }
    writes.await.unwrap();
    let all = get(at.address, "/v1/config").await.json();
    for entry in all["entries"].as_array().unwrap() {
        assert_eq!(
            copy.remove(entry["key"].as_str().unwrap()).as_ref(),
            Some(&entry["value"])
        );
    }
    assert!(copy.is_empty(), "{copy:?}");
}

#[tokio::test]
async fn an_id_that_leads_nowhere_begins_with_a_snapshot() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    put(at.address, "a", "1").await;
    let seen = Watch::open(at.address, "", &[])
        .await
        .next()
        .await
        .unwrap()
        .resume();
    put(at.address, "a", "2").await;
    let parts: Vec<&str> = seen.split('-').collect();
    let zero = "0".repeat(32);
    for wrong in [
        "garbage".to_owned(),
        "7".to_owned(),
        format!("{zero}-{}-{}", parts[1], parts[2]),
        format!("{}-{}-{zero}", parts[0], parts[1]),
        format!("{}-2-{zero}", parts[0]),
        format!("{}-999999-{}", parts[0], parts[2]),
        format!("{}-9223372036854775807-{}", parts[0], parts[2]),
    ] {
        let first = Watch::resume(at.address, &wrong)
            .await
            .next()
            .await
            .unwrap();
        assert_eq!(
            (first.event.as_str(), first.revision()),
            ("snapshot", 2),
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn a_new_epoch_is_told_by_a_snapshot() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    put(at.address, "a", "1").await;
    let mut watch = Watch::open(at.address, "", &[]).await;
    let old = watch.next().await.unwrap().resume();
    let output = run(&mut program(Some(db.url()), &["new-epoch"])).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let again = watch.news().await;
    assert_eq!((again.event.as_str(), again.revision()), ("snapshot", 1));
    assert_ne!(again.resume().split('-').next(), old.split('-').next());
    put(at.address, "a", "2").await;
    assert_eq!(watch.news().await.json()["changes"][0]["new"], 2);
    assert_eq!(
        Watch::resume(at.address, &old)
            .await
            .next()
            .await
            .unwrap()
            .event,
        "snapshot"
    );
}

#[tokio::test]
async fn a_client_too_far_behind_gets_a_snapshot() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    put(at.address, "a", "0").await;
    let first = Watch::open(at.address, "", &[])
        .await
        .next()
        .await
        .unwrap()
        .resume();
    put(at.address, "a", "1").await;
    let second = Watch::open(at.address, "", &[])
        .await
        .next()
        .await
        .unwrap()
        .resume();
    let many = "DO $$ BEGIN FOR n IN 2..10001 LOOP UPDATE sync_config SET value = to_jsonb(n); COMMIT; END LOOP; END $$";
    db.client().await.batch_execute(many).await.unwrap();
    at.until("/v1/config/a", |answer| answer.json()["value"] == 10_001)
        .await;
    let near = Watch::resume(at.address, &second)
        .await
        .next()
        .await
        .unwrap();
    assert_eq!((near.event.as_str(), near.revision()), ("change", 3));
    let far = Watch::resume(at.address, &first)
        .await
        .next()
        .await
        .unwrap();
    assert_eq!((far.event.as_str(), far.revision()), ("snapshot", 10_002));
}

#[tokio::test]
async fn a_client_below_the_floor_gets_a_snapshot() {
    let db = TestDb::new().await;
    let trimmed = [
        ("SYNC_CONFIG_EVENT_RETENTION", "1s"),
        ("SYNC_CONFIG_CLEANUP_INTERVAL", "100ms"),
    ];
    let at = Server::start_with(db.url(), &[], &trimmed).await;
    put(at.address, "a", "1").await;
    let seen = Watch::open(at.address, "", &[])
        .await
        .next()
        .await
        .unwrap()
        .resume();
    put(at.address, "a", "2").await;
    put(at.address, "a", "3").await;
    let client = db.client().await;
    eventually("the journal is trimmed", PATIENCE, || async {
        let row = client
            .query_one("SELECT min(revision) FROM sync_config_revision", &[])
            .await;
        let floor: i64 = row.unwrap().get(0);
        (floor > 1).then_some(()).ok_or(floor)
    })
    .await;
    // The server that told the client remembers more than the journal does.
    let next = Watch::resume(at.address, &seen).await.news().await;
    assert_eq!((next.event.as_str(), next.revision()), ("change", 2));
    let other = Server::start(db.url()).await;
    let first = Watch::resume(other.address, &seen)
        .await
        .next()
        .await
        .unwrap();
    assert_eq!((first.event.as_str(), first.revision()), ("snapshot", 3));
}

#[tokio::test]
async fn a_prefix_hides_other_keys_while_ids_advance() {
    let db = TestDb::new().await;
    let at = Server::start_with(db.url(), &["--progress-interval", "100ms"], &[]).await;
    put(at.address, "limit/a", "1").await;
    put(at.address, "other", "1").await;
    let mut watch = Watch::open(at.address, "?prefix=limit%2F", &[]).await;
    let snapshot = watch.next().await.unwrap().json();
    assert_eq!(
        (&snapshot["revision"], &snapshot["entries"][0]["key"]),
        (&json!(2), &json!("limit/a"))
    );
    assert_eq!(snapshot["entries"].as_array().unwrap().len(), 1);
    put(at.address, "other", "2").await;
    let progress = loop {
        let message = watch.next().await.unwrap();
        assert_eq!(message.event, "progress");
        if message.revision() == 3 {
            break message;
        }
    };
    let sql = "BEGIN; UPDATE sync_config SET value = '7'; INSERT INTO sync_config VALUES ('limit/b', '8'); COMMIT";
    db.client().await.batch_execute(sql).await.unwrap();
    let told = json!({ "revision": 4, "changes": [
        { "key": "limit/a", "kind": "put", "old": 1, "new": 7 },
        { "key": "limit/b", "kind": "put", "new": 8 },
    ]});
    assert_eq!(watch.news().await.json(), told);
    let resume = [("Last-Event-ID", progress.id.as_deref().unwrap())];
    let mut resumed = Watch::open(at.address, "?prefix=limit%2F", &resume).await;
    assert_eq!(resumed.news().await.json(), told);
}

#[tokio::test]
async fn a_large_revision_comes_in_parts_and_only_the_last_has_an_id() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    let mut watch = Watch::open(at.address, "", &[]).await;
    let mut copy = BTreeMap::new();
    apply(&mut copy, &watch.next().await.unwrap());
    let sql = "INSERT INTO sync_config SELECT 'k' || n, to_jsonb(repeat('x', 400000)) FROM generate_series(1, 6) n";
    db.client().await.batch_execute(sql).await.unwrap();
    let mut told = 0;
    for (event, list) in [("change", "changes"), ("snapshot", "entries")] {
        for part in 1..=3 {
            let message = watch.news().await;
            assert_eq!(message.event, event);
            assert!(message.data.len() <= 1_100_000);
            let data = message.json();
            assert_eq!(
                (&data["revision"], &data["part"]),
                (&json!(1), &json!(part))
            );
            assert_eq!(
                (data["last"] == true, message.id.is_some()),
                (part == 3, part == 3)
            );
            told += data[list].as_array().unwrap().len();
            apply(&mut copy, &message);
        }
        assert_eq!(copy.len(), 6);
        // This one is told by a snapshot, because the first has seen that the revision is here.
        watch = Watch::open(at.address, "", &[]).await;
    }
    assert_eq!(told, 12);
}

#[tokio::test]
async fn a_client_that_never_reads_costs_little_and_catches_up_later() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    let mut tcp = TcpStream::connect(at.address).await.unwrap();
    tcp.write_all(head(at.address, "GET", "/v1/watch", &[], None).as_bytes())
        .await
        .unwrap();
    at.until("/v1/stats", |answer| open_streams(answer) == 1)
        .await;
    let mut reader = Watch::open(at.address, "", &[]).await;
    let client = db.client().await;
    let mut copy = BTreeMap::new();
    apply(&mut copy, &reader.next().await.unwrap());
    let mut named = false;
    // More bytes than sockets and the ring hold, in so few revisions that the first one, which has a minute, is not let go.
    for round in 0..160 {
        let sql = format!(
            "INSERT INTO sync_config VALUES ('k{}', to_jsonb(repeat('{}', 120000))) ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value",
            round % 3,
            round % 10
        );
        client.batch_execute(&sql).await.unwrap();
        let message = reader.news().await;
        assert_eq!(message.revision(), round + 1);
        apply(&mut copy, &message);
        let stats = get(at.address, "/v1/stats").await.json();
        let open = stats["gatewayConnections"]["connections"].as_array();
        let behind = |open: &&Value| open["queued"].as_u64().unwrap() > 50;
        let behind = open.unwrap().iter().filter(behind).count();
        named |= behind == 1;
        assert!(behind <= 1, "the one that reads is not behind: {stats}");
    }
    assert!(named, "statistics show it");
    let status = get(at.address, "/v1/status").await.json();
    assert_eq!(
        status["counters"]["subscribersLagged"], 0,
        "a slow client holds no thread and no queue: {status}"
    );
    let mut slow = Watch::over(tcp).await;
    let mut late = BTreeMap::new();
    let mut revision = None;
    while revision != Some(160) {
        let message = slow.news().await;
        let expected = revision.map_or(message.revision(), |before| before + 1);
        assert!(message.event == "snapshot" || message.revision() == expected);
        apply(&mut late, &message);
        revision = Some(message.revision());
    }
    assert!(late == copy);
}

#[tokio::test]
async fn clients_that_never_read_cost_bounded_memory() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        let mut tcp = TcpStream::connect(at.address).await.unwrap();
        let head = head(at.address, "GET", "/v1/watch", &[], None);
        tcp.write_all(head.as_bytes()).await.unwrap();
        silent.push(tcp);
    }
    at.until("/v1/stats", |answer| open_streams(answer) == 8)
        .await;
    let client = db.client().await;
    for round in 0..200 {
        let sql = format!(
            "INSERT INTO sync_config VALUES ('k', to_jsonb(repeat('{}', 1000000))) ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value",
            round % 10
        );
        client.batch_execute(&sql).await.unwrap();
        at.until("/v1/status", |answer| {
            answer.json()["revision"] == round + 1
        })
        .await;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", at.pid()));
    // Where there is no /proc, the queue's own bounds are all there is to see.
    let peak = status.ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    // 400 MB of old and new values went by, and eight streams hold a few messages of 2 MB each.
    assert!(
        peak.is_none_or(|kilobytes| kilobytes < 230_000),
        "{peak:?} kB"
    );
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_place() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    let watch = Watch::open(at.address, "", &[]).await;
    at.until("/v1/stats", |answer| open_streams(answer) == 1)
        .await;
    drop(watch);
    at.until("/v1/stats", |answer| open_streams(answer) == 0)
        .await;
}
