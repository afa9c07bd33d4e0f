//! `sync-config serve`: a state page by page, and the journal.

use serde_json::{Value, json};

use crate::server_batch::{batch, cursor};
use crate::support::http::{get, put, request};
use crate::support::postgres::TestDb;
use crate::support::program::Server;
use crate::support::wait::{PATIENCE, eventually};

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
        // A server that has not heard of a revision yet waits for it, though not for ever.
        let answer = eventually("a page", PATIENCE, async || {
            let answer = get(server.address, &path).await;
            let behind = answer.status == 503;
            if behind { Err(answer.body) } else { Ok(answer) }
        })
        .await;
        let body = answer.json();
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
    let head = get(one.address, "/v1/config?limit=1").await.json();
    two.until("/v1/config?limit=1", |answer| {
        answer.json()["revision"] == head["revision"]
    })
    .await;
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
