//! `sync-config serve`: batches, pages of a state, and the journal.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::http::{Answer, get, put, request};
use crate::support::postgres::TestDb;
use crate::support::program::Server;

async fn batch(at: SocketAddr, body: &Value) -> Answer {
    batch_with(at, body, &[]).await
}

async fn batch_with(at: SocketAddr, body: &Value, headers: &[(&str, &str)]) -> Answer {
    request(at, "POST", "/v1/batch", headers, &body.to_string()).await
}

/// The place of which an answer is.
fn cursor(answer: &Answer) -> String {
    let cursor = answer.header("sync-config-cursor").to_owned();
    assert!(!cursor.is_empty(), "{answer:?}");
    cursor
}

#[tokio::test]
async fn a_batch_is_one_revision_and_answers_with_the_state_of_each_key() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    put(at.address, "old", "1").await;
    let items = json!([
        { "key": "a", "value": null },
        { "key": "b/c", "value": [1.50, { "x": "y" }], "ifAbsent": true },
        { "key": "old", "delete": true, "ifRevision": 1 },
        { "key": "none", "delete": true },
    ]);
    // The number as a client would write it that keeps digits.
    let asked = json!({ "items": items, "values": true }).to_string();
    let asked = asked.replace("1.5", "1.50");
    let answer = request(at.address, "POST", "/v1/batch", &[], &asked).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    assert_eq!(
        (&body["revision"], &body["changed"]),
        (&json!(2), &json!(true))
    );
    assert_eq!(body["replayed"], false);
    assert_eq!(body["cursor"], cursor(&answer));
    let keys = body["keys"].as_array().unwrap();
    let told: Vec<_> = keys
        .iter()
        .map(|key| {
            (
                key["key"].as_str().unwrap(),
                key["changed"].as_bool().unwrap(),
                key["revision"].as_u64(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("a", true, Some(2)),
            ("b/c", true, Some(2)),
            ("old", true, None),
            ("none", false, None)
        ]
    );
    assert_eq!(keys[0]["value"], json!(null));
    assert!(answer.body.contains("1.50"), "every digit: {}", answer.body);
    for (key, told) in [("a", &keys[0]), ("b/c", &keys[1])] {
        let read = get(at.address, &format!("/v1/config/{key}")).await;
        assert_eq!(told["updatedAt"], read.json()["updatedAt"]);
        assert_eq!(told["etag"], read.header("etag"));
        assert_eq!(cursor(&read), cursor(&answer));
    }
    let again = batch(
        at.address,
        &json!({ "items": [{ "key": "a", "value": null }] }),
    )
    .await
    .json();
    assert_eq!(
        (&again["revision"], &again["changed"]),
        (&json!(2), &json!(false))
    );
    assert_eq!(again["keys"][0]["revision"], 2);
    assert!(again["keys"][0].get("value").is_none());
}

#[tokio::test]
async fn one_condition_that_does_not_hold_keeps_the_whole_batch_out_and_is_named() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    let tag = put(at.address, "k", "1").await.header("etag").to_owned();
    put(at.address, "other", "1").await;
    let good = json!({ "key": "new", "value": 1 });
    for (condition, expected) in [
        (json!({ "ifAbsent": true }), "absent"),
        (json!({ "ifRevision": 7 }), "at revision 7"),
        (
            json!({ "ifMatch": tag.replace("-1", "-2") }),
            "at revision 2",
        ),
    ] {
        let mut item = json!({ "key": "k", "value": 2 });
        item.as_object_mut()
            .unwrap()
            .extend(condition.as_object().unwrap().clone());
        let refused = batch(at.address, &json!({ "items": [good, item] })).await;
        assert_eq!(refused.status, 412, "{refused:?}");
        let problem = refused.json();
        assert_eq!(
            problem["type"],
            "urn:sync-config:problem:precondition-failed"
        );
        assert_eq!(
            (&problem["key"], &problem["expected"]),
            (&json!("k"), &json!(expected))
        );
        assert_eq!(problem["actual"], "at revision 1");
        assert_eq!(problem["actualRevision"], 1);
    }
    let items = json!([{ "key": "none", "delete": true, "ifPresent": true }]);
    let refused = batch(at.address, &json!({ "items": items })).await.json();
    assert_eq!(
        (&refused["actual"], refused.get("actualRevision")),
        (&json!("absent"), None)
    );
    let foreign = json!([{ "key": "k", "value": 2, "ifMatch": "\"ffffffff-1\"" }]);
    let refused = batch(at.address, &json!({ "items": foreign })).await;
    assert_eq!((refused.status, &refused.json()["key"]), (412, &json!("k")));
    assert_eq!(get(at.address, "/v1/config").await.json()["revision"], 2);
    let right = json!([{ "key": "k", "value": 2, "ifMatch": tag }, { "key": "other", "delete": true, "ifPresent": true }]);
    assert_eq!(
        batch(at.address, &json!({ "items": right })).await.json()["revision"],
        3
    );
}

#[tokio::test]
async fn a_dry_run_tells_every_conflict_and_every_change_and_writes_nothing() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    put(at.address, "same", "{\"b\":1,\"a\":2}").await;
    put(at.address, "other", "1").await;
    let rehearsal = |items: Value| json!({ "dryRun": true, "items": items });
    let answer = batch(
        at.address,
        &rehearsal(json!([
            { "key": "same", "value": { "a": 2, "b": 1 } },
            { "key": "other", "value": 2, "ifRevision": 2 },
            { "key": "none", "delete": true },
        ])),
    )
    .await;
    let body = answer.json();
    assert_eq!(
        (answer.status, &body["dryRun"], &body["changed"]),
        (200, &json!(true), &json!(true))
    );
    assert_eq!(
        (&body["revision"], &body["conflicts"]),
        (&json!(2), &json!([]))
    );
    let changed: Vec<_> = body["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["changed"] == true)
        .collect();
    assert_eq!(changed, [false, true, false]);
    let body = batch(
        at.address,
        &rehearsal(json!([
            { "key": "same", "value": 1, "ifAbsent": true },
            { "key": "other", "value": 2, "ifRevision": 1 },
            { "key": "none", "value": 2, "ifPresent": true },
        ])),
    )
    .await
    .json();
    assert_eq!(body["changed"], false);
    let conflicts = body["conflicts"].as_array().unwrap();
    assert_eq!(conflicts.len(), 3);
    assert_eq!(
        conflicts[1],
        json!({ "key": "other", "expected": "at revision 1", "actual": "at revision 2", "actualRevision": 2 })
    );
    assert_eq!(get(at.address, "/v1/config").await.json()["revision"], 2);
}

#[tokio::test]
async fn a_batch_sent_again_under_its_idempotency_key_is_done_once() {
    let db = TestDb::new().await;
    let (one, two) = (Server::start(db.url()).await, Server::start(db.url()).await);
    let keyed = [("Idempotency-Key", "order-42")];
    let body = json!({ "items": [{ "key": "n", "value": 1 }], "actor": "alice" });
    let first = batch_with(one.address, &body, &keyed).await.json();
    put(one.address, "n", "2").await;
    let again = batch_with(two.address, &body, &keyed).await.json();
    assert_eq!(
        (&first["replayed"], &again["replayed"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(
        (&again["revision"], &again["cursor"]),
        (&first["revision"], &first["cursor"])
    );
    assert_eq!(get(one.address, "/v1/config/n").await.json()["value"], 2);
    let client = db.client().await;
    let actor: String = client
        .query_one(
            "SELECT actor FROM sync_config_revision WHERE revision = 1",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(actor, "alice");
    let single = request(
        one.address,
        "PUT",
        "/v1/config/s",
        &[("Idempotency-Key", "s-1")],
        "1",
    )
    .await;
    put(one.address, "s", "2").await;
    let repeated = request(
        two.address,
        "PUT",
        "/v1/config/s",
        &[("Idempotency-Key", "s-1")],
        "1",
    )
    .await;
    assert_eq!((single.status, repeated.status), (201, 201));
    assert_eq!(get(one.address, "/v1/config/s").await.json()["value"], 2);
    request(two.address, "DELETE", "/v1/config/s", &[], "").await;
    let gone = request(
        one.address,
        "PUT",
        "/v1/config/s",
        &[("Idempotency-Key", "s-1")],
        "1",
    )
    .await;
    assert_eq!(
        (gone.status, &gone.json()["type"]),
        (409, &json!("urn:sync-config:problem:already-done"))
    );
    for wrong in ["a b", "ä", &"k".repeat(256)] {
        assert_eq!(
            batch_with(one.address, &body, &[("Idempotency-Key", wrong)])
                .await
                .status,
            400,
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn a_batch_that_is_none_is_refused_and_repeats_no_value() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    for wrong in [
        "",
        "hunter2",
        "[]",
        "{}",
        "{\"items\":[]}",
        "{\"items\":\"hunter2\"}",
        "{\"items\":[{\"key\":\"k\"}]}",
        "{\"items\":[{\"key\":\"k\",\"value\":\"hunter2\",\"delete\":true}]}",
        "{\"items\":[{\"key\":\"\",\"value\":\"hunter2\"}]}",
        "{\"items\":[{\"key\":\"k\",\"value\":\"hunter2\\u0000\"}]}",
        "{\"items\":[{\"key\":\"k\",\"value\":1},{\"key\":\"k\",\"value\":\"hunter2\"}]}",
        "{\"items\":[{\"key\":\"k\",\"value\":\"hunter2\",\"ifRevison\":1}]}",
        "{\"items\":[{\"key\":\"k\",\"value\":1,\"ifRevision\":\"hunter2\"}]}",
        "{\"items\":[{\"key\":\"k\",\"value\":1}],\"actor\":\"a\\nb\"}",
        "{\"items\":[{\"key\":\"k\",\"value\":1}],\"dryrun\":true}",
    ] {
        let answer = request(at.address, "POST", "/v1/batch", &[], wrong).await;
        assert_eq!(answer.status, 400, "{wrong}: {answer:?}");
        assert!(!answer.body.contains("hunter2"), "{answer:?}");
    }
    let item = json!({ "key": "k", "value": 1 });
    let guarded = batch_with(
        at.address,
        &json!({ "items": [item] }),
        &[("If-Match", "*")],
    )
    .await;
    assert_eq!(
        guarded.status, 400,
        "a condition in a header would be passed over"
    );
    let many: Vec<Value> = (0..10_001)
        .map(|n| json!({ "key": format!("k{n}"), "value": n }))
        .collect();
    assert_eq!(
        batch(at.address, &json!({ "items": many })).await.status,
        413
    );
    let long = json!({ "items": [{ "key": "k", "value": "x".repeat(17 * 1_048_576) }] });
    assert_eq!(batch(at.address, &long).await.status, 413);
    assert_eq!(get(at.address, "/v1/config").await.json()["revision"], 0);
    assert_eq!(
        batch(at.address, &json!({ "items": many[..10_000] }))
            .await
            .json()["revision"],
        1
    );
}

/// The entries of every page of a listing, with its revision.
async fn pages(
    servers: &[&Server],
    query: &str,
    mut between: impl AsyncFnMut(usize),
) -> (u64, Vec<Value>) {
    let mut path = format!("/v1/config?{query}");
    let (mut found, mut revisions) = (Vec::new(), Vec::new());
    for page in 0.. {
        let server = servers[page % servers.len()];
        let body = get(server.address, &path).await.json();
        revisions.push(
            body["revision"]
                .as_u64()
                .unwrap_or_else(|| panic!("{body}")),
        );
        found.extend(body["entries"].as_array().unwrap().iter().cloned());
        let Some(next) = body["next"].as_str() else {
            break;
        };
        path = format!("/v1/config?{query}&after={next}");
        between(page).await;
    }
    assert!(
        revisions.len() > 1 && revisions.iter().all(|at| *at == revisions[0]),
        "{revisions:?}"
    );
    (revisions[0], found)
}

#[tokio::test]
async fn the_pages_of_a_listing_are_of_one_revision_on_any_server_while_others_write() {
    let db = TestDb::new().await;
    let (one, two) = (Server::start(db.url()).await, Server::start(db.url()).await);
    let items: Vec<Value> = (0..25)
        .map(|n| json!({ "key": format!("k/{n:02}"), "value": n }))
        .collect();
    batch(one.address, &json!({ "items": items })).await;
    put(one.address, "z", "1").await;
    let whole = get(one.address, "/v1/config").await.json();
    let changed = async |page: usize| {
        let items = json!([
            { "key": format!("k/{page:02}"), "delete": true },
            { "key": format!("k/{:02}", 24 - page), "value": "later" },
            { "key": format!("k/{:02}x", page * 4), "value": "new" },
        ]);
        batch(one.address, &json!({ "items": items })).await;
    };
    let (revision, entries) = pages(&[&one, &two], "limit=4", changed).await;
    assert_eq!(
        (json!(revision), json!(entries)),
        (whole["revision"].clone(), whole["entries"].clone())
    );
    let (_, some) = pages(&[&two], "prefix=k/0&prefix=z&limit=3", async |_| {}).await;
    let now = get(two.address, "/v1/config?prefix=z&prefix=k/0&prefix=k/01")
        .await
        .json();
    assert_eq!(json!(some), now["entries"]);
}

#[tokio::test]
async fn a_listing_that_is_no_longer_remembered_has_to_begin_anew() {
    let db = TestDb::new().await;
    let first = {
        let at = Server::start(db.url()).await;
        for key in ["a", "b", "c"] {
            put(at.address, key, "1").await;
        }
        get(at.address, "/v1/config?limit=1").await.json()
    };
    let after = first["next"].as_str().unwrap();
    let at = Server::start(db.url()).await;
    let path = format!("/v1/config?limit=1&after={after}");
    assert_eq!(
        get(at.address, &path).await.json()["entries"][0]["key"],
        "b",
        "nothing came later"
    );
    let put = put(at.address, "d", "1").await;
    assert_eq!(put.status, 201);
    assert_eq!(
        get(at.address, &path).await.json()["entries"][0]["key"],
        "b"
    );
    let fresh = Server::start(db.url()).await;
    let refused = get(fresh.address, &path).await;
    assert_eq!(refused.status, 410, "{refused:?}");
    assert_eq!(refused.json()["type"], "urn:sync-config:problem:too-old");
    for wrong in [
        "limit=0",
        "limit=10001",
        "limit=x",
        "after=x",
        "limit=1&limit=2",
    ] {
        assert_eq!(
            get(at.address, &format!("/v1/config?{wrong}")).await.status,
            400,
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn the_journal_is_read_in_whole_revisions_from_any_answers_place() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    let begin = cursor(&get(at.address, "/v1/config").await);
    let missing = get(at.address, "/v1/config/a").await;
    assert_eq!((missing.status, cursor(&missing)), (404, begin.clone()));
    let written = batch(
        at.address,
        &json!({ "items": [{ "key": "a", "value": 1 }, { "key": "b", "value": 2 }] }),
    )
    .await;
    put(at.address, "a", "1.50").await;
    let deleted = request(at.address, "DELETE", "/v1/config/b", &[], "").await;
    let path = |since: &str, more: &str| format!("/v1/changes?since={since}{more}");
    let all = get(at.address, &path(&begin, "")).await;
    let body = all.json();
    assert_eq!(body["more"], false);
    assert_eq!(body["from"], json!({ "revision": 0, "cursor": begin }));
    assert_eq!(
        (&body["head"], body["next"]["cursor"].as_str().unwrap()),
        (&body["next"], cursor(&deleted).as_str())
    );
    let revisions = body["revisions"].as_array().unwrap();
    assert_eq!(revisions.len(), 3);
    assert_eq!(revisions[0]["cursor"], cursor(&written));
    let entry = get(at.address, "/v1/config/a").await.json();
    assert_eq!(
        revisions[1]["changes"],
        json!([{ "key": "a", "kind": "put", "old": 1, "new": 1.50, "revision": 2, "updatedAt": entry["updatedAt"] }])
    );
    assert_eq!(revisions[1]["committedAt"], entry["updatedAt"]);
    assert!(all.body.contains("1.50"));
    assert_eq!(
        revisions[2]["changes"],
        json!([{ "key": "b", "kind": "delete", "old": 2 }])
    );
    let page = get(at.address, &path(&begin, "&limit=2")).await.json();
    assert_eq!(
        (page["revisions"].as_array().unwrap().len(), &page["more"]),
        (2, &json!(true))
    );
    assert_eq!(page["head"]["revision"], 3);
    let rest = get(
        at.address,
        &path(page["next"]["cursor"].as_str().unwrap(), ""),
    )
    .await
    .json();
    assert_eq!(rest["revisions"], json!([revisions[2]]));
    let none = get(at.address, &path(&cursor(&deleted), "")).await.json();
    assert_eq!(
        (&none["revisions"], &none["more"]),
        (&json!([]), &json!(false))
    );
    let some = get(at.address, &path(&begin, "&prefix=b")).await.json();
    let numbers: Vec<_> = some["revisions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|told| told["revision"].as_u64().unwrap())
        .collect();
    assert_eq!((numbers, &some["next"]), (vec![1, 3], &body["next"]));
    let every = get(at.address, &path(&begin, "&prefix=b&all=true"))
        .await
        .json();
    assert_eq!(every["revisions"][1]["changes"], json!([]));
    for wrong in [
        "",
        "since=x",
        "since=1",
        &format!("since={begin}&limit=1025"),
        &format!("since={begin}&all=yes"),
    ] {
        assert_eq!(
            get(at.address, &format!("/v1/changes?{wrong}"))
                .await
                .status,
            400,
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn a_journal_that_does_not_lead_there_says_so() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    let begin = cursor(&get(at.address, "/v1/config").await);
    let first = cursor(&put(at.address, "a", "1").await);
    put(at.address, "a", "2").await;
    put(at.address, "a", "3").await;
    let (epoch, id) = (&first[..32], &first[first.len() - 32..]);
    for strange in [
        format!("{epoch}-1-{}", "0".repeat(32)),
        format!("{}-1-{id}", "0".repeat(32)),
        format!("{epoch}-999-{id}"),
    ] {
        let refused = get(at.address, &format!("/v1/changes?since={strange}")).await;
        assert_eq!(refused.status, 410, "{strange}: {refused:?}");
        assert_eq!(refused.json()["type"], "urn:sync-config:problem:too-old");
    }
    let since = format!("/v1/changes?since={begin}");
    assert_eq!(get(at.address, &since).await.status, 200);
    let trim = "SELECT sync_config_trim('0s', 1)";
    db.client().await.batch_execute(trim).await.unwrap();
    let refused = get(at.address, &since).await;
    assert_eq!(refused.status, 410, "{refused:?}");
    let kept = get(at.address, &format!("/v1/changes?since={first}"))
        .await
        .json();
    assert_eq!(kept["revisions"].as_array().unwrap().len(), 2);
}
