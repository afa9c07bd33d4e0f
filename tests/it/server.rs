//! `sync-config serve`: reading, writing and refusing.

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::deaf::DeafProxy;
use crate::support::http::{Answer, Connection, answer, get, head, put, request};
use crate::support::postgres::{TestDb, cluster};
use crate::support::program::Server;

/// Checks that an answer is a problem of a certain status, and says nothing of `secret`.
fn assert_problem(answer: &Answer, status: u16, secret: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let body = answer.json();
    assert_eq!(body["status"], status);
    for member in ["type", "title", "detail"] {
        assert!(
            body[member].as_str().is_some_and(|text| !text.is_empty()),
            "{body}"
        );
    }
    assert!(secret.is_empty() || !answer.body.contains(secret), "{body}");
}

#[tokio::test]
async fn an_entry_is_created_read_replaced_and_deleted() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    let created = put(at.address, "feature:new_ui", " true\n").await;
    assert_eq!(created.status, 201, "{created:?}");
    let body = created.json();
    assert_eq!(body["key"], "feature:new_ui");
    assert_eq!(body["value"], true);
    assert_eq!(body["revision"], 1);
    let updated = body["updatedAt"].as_str().unwrap();
    assert!(updated.ends_with('Z') && updated.len() == "2026-01-01T00:00:00.000000Z".len());
    assert_eq!(body.as_object().unwrap().len(), 4);
    let read = get(at.address, "/v1/config/feature:new_ui").await;
    assert_eq!((read.status, read.json()), (200, body));
    assert_eq!(read.header("etag"), created.header("etag"));

    let plain = [("Content-Type", "text/plain")];
    let path = "/v1/config/feature:new_ui";
    let replaced = request(at.address, "PUT", path, &plain, "null").await;
    assert_eq!(
        (replaced.status, replaced.json()["revision"].as_u64()),
        (200, Some(2))
    );
    assert_eq!(get(at.address, path).await.json()["value"], json!(null));
    let same = put(at.address, "feature:new_ui", "null").await;
    assert_eq!(
        (same.status, same.json()["revision"].as_u64()),
        (200, Some(2))
    );

    let deleted = request(at.address, "DELETE", path, &[], "").await;
    assert_eq!(deleted.status, 200);
    assert_eq!(
        deleted.json(),
        json!({ "key": "feature:new_ui", "revision": 3 })
    );
    assert_problem(&get(at.address, path).await, 404, "");
    assert_problem(&request(at.address, "DELETE", path, &[], "").await, 404, "");
    assert_eq!(put(at.address, "feature:new_ui", "1").await.status, 201);
}

#[tokio::test]
async fn a_key_is_everything_after_the_path_decoded_once() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    for (sent, key) in [
        ("a/b/c", "a/b/c"),
        ("x%2Fy", "x/y"),
        ("p%25q%252F", "p%q%2F"),
        ("/lead//trail/", "/lead//trail/"),
        ("..%2e/+%20?no=query", ".../+ "),
        ("%C3%A4%E2%82%AC", "ä€"),
    ] {
        let created = put(at.address, sent, "1").await;
        assert_eq!(created.status, 201, "{sent}: {created:?}");
        assert_eq!(created.json()["key"], key);
        assert_eq!(
            get(at.address, &format!("/v1/config/{sent}")).await.status,
            200
        );
    }
    let keys = db.client().await;
    let rows = keys
        .query("SELECT key FROM sync_config WHERE key = 'x/y'", &[])
        .await;
    assert_eq!(rows.unwrap().len(), 1);
    for wrong in ["", "%", "%f", "%zz", "%ff", "%00", &"k".repeat(256)] {
        assert_problem(&put(at.address, wrong, "1").await, 400, "");
    }
}

#[tokio::test]
async fn numbers_keep_every_digit() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    let value = "[123456789012345678901234567890.12300, 1.0, -0.0, 0.1]";
    assert!(
        put(at.address, "n", value)
            .await
            .body
            .contains("123456789012345678901234567890.12300")
    );
    for path in ["/v1/config/n", "/v1/config"] {
        let body = get(at.address, path).await.body;
        assert!(
            body.contains("[123456789012345678901234567890.12300, 1.0, "),
            "{body}"
        );
    }
    assert!(
        put(at.address, "huge", "1e400")
            .await
            .body
            .contains(&"0".repeat(400))
    );
}

#[tokio::test]
async fn an_etag_guards_a_write_against_a_lost_update() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    let path = "/v1/config/limit";
    let first = put(at.address, "limit", "1")
        .await
        .header("etag")
        .to_owned();
    assert!(first.starts_with('"') && first.ends_with("-1\""), "{first}");
    let second = request(at.address, "PUT", path, &[("If-Match", &first)], "2").await;
    assert_eq!(second.status, 200);
    let second = second.header("etag").to_owned();
    assert_ne!(first, second);
    let refused = [
        ("PUT", "If-Match", first.clone()),
        ("DELETE", "If-Match", first.clone()),
        ("PUT", "If-Match", second.replace(&second[1..9], "00000000")),
        ("PUT", "If-Match", format!("W/{second}")),
        ("PUT", "If-Match", "garbage".to_owned()),
        ("PUT", "If-None-Match", "*".to_owned()),
        ("DELETE", "If-None-Match", "*".to_owned()),
    ];
    for (method, header, tag) in &refused {
        let answer = request(at.address, method, path, &[(header, tag)], "3").await;
        assert_problem(&answer, 412, "");
    }
    let none = [("If-Match", "*")];
    assert_problem(
        &request(at.address, "PUT", "/v1/config/none", &none, "1").await,
        412,
        "",
    );
    let both = format!("{first}, {second}");
    let answer = request(at.address, "PUT", path, &[("If-Match", &both)], "3").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        request(at.address, "DELETE", path, &none, "").await.status,
        200
    );
    let absent = [("If-None-Match", "*")];
    assert_problem(
        &request(at.address, "DELETE", path, &absent, "").await,
        404,
        "",
    );
    assert_eq!(
        request(at.address, "PUT", path, &absent, "4").await.status,
        201
    );
    let tagged = [("If-None-Match", first.as_str())];
    for headers in [&tagged, &[("If-Match", "")], &[("If-Match", " , ")]] {
        assert_problem(
            &request(at.address, "PUT", path, headers, "5").await,
            400,
            "",
        );
    }
}

#[tokio::test]
async fn a_server_that_has_not_seen_the_newest_of_several_tags_takes_it_all_the_same() {
    let db = TestDb::new().await;
    let proxy = DeafProxy::to(cluster().address()).await;
    let late = [("SYNC_CONFIG_CHECK_INTERVAL", "1h")];
    let first = put_directly(&db, "1").await;
    let at = Server::start_with(&proxy.url(db.url()), &[], &late).await;
    at.until("/v1/status", |answer| answer.json()["mode"] == "push")
        .await;
    proxy.deafen();
    let second = put_directly(&db, "2").await;
    let path = "/v1/config/k";
    assert_eq!(get(at.address, path).await.header("etag"), first);
    let both = format!("{first}, {second}");
    let tags = [("If-Match", both.as_str())];
    let answer = request(at.address, "PUT", path, &tags, "3").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = request(at.address, "DELETE", path, &tags, "").await;
    assert_problem(&answer, 412, "");
}

/// Puts the key `k` through a server of its own; its tag.
async fn put_directly(db: &TestDb, value: &str) -> String {
    let at = Server::start(db.url()).await;
    put(at.address, "k", value).await.header("etag").to_owned()
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_again() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    put(at.address, "a", "1").await;
    for path in ["/v1/config/a", "/v1/config", "/v1/config?prefix=a"] {
        let tag = get(at.address, path).await.header("etag").to_owned();
        for given in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
            let again = request(at.address, "GET", path, &[("If-None-Match", &given)], "").await;
            assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
            assert_eq!(again.header("etag"), tag);
        }
        put(at.address, "a", &format!("\"{path}\"")).await;
        let news = request(at.address, "GET", path, &[("If-None-Match", &tag)], "").await;
        assert_eq!(news.status, 200);
    }
}

#[tokio::test]
async fn a_list_is_of_one_revision_in_byte_order() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    assert_eq!(
        get(at.address, "/v1/config").await.json(),
        json!({ "revision": 0, "entries": [] })
    );
    let sql = "INSERT INTO sync_config (key, value) SELECT 'k/' || n, to_jsonb(repeat('x', 500)) FROM generate_series(1, 2000) n";
    db.client().await.batch_execute(sql).await.unwrap();
    put(at.address, "B", "null").await;
    at.until("/v1/config?prefix=k/2000", |answer| {
        answer.body.contains("k/2000")
    })
    .await;
    let all = get(at.address, "/v1/config").await.json();
    assert_eq!(all["revision"], 2);
    let entries = all["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2_001);
    assert_eq!(entries[0]["key"], "B");
    let keys: Vec<&str> = entries
        .iter()
        .map(|entry| entry["key"].as_str().unwrap())
        .collect();
    assert!(keys.is_sorted());
    let some = get(at.address, "/v1/config?prefix=k%2F199").await.json();
    assert_eq!(some["entries"].as_array().unwrap().len(), 11);
    assert_problem(&get(at.address, "/v1/config?prefix=%ff").await, 400, "");
}

#[tokio::test]
async fn errors_are_problems_and_repeat_no_value() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    for wrong in [
        "",
        "hunter2",
        "{\"a\":hunter2}",
        "1 2",
        "[1",
        "\"hunter2\\u0000\"",
        "NaN",
    ] {
        assert_problem(&put(at.address, "k", wrong).await, 400, "hunter2");
    }
    assert_problem(&put(at.address, "k", &"[".repeat(200)).await, 400, "");
    assert_problem(&get(at.address, "/v2/config").await, 404, "");
    for (method, path) in [
        ("POST", "/v1/config/k"),
        ("PUT", "/v1/config"),
        ("POST", "/v1/watch"),
    ] {
        let answer = request(at.address, method, path, &[], "").await;
        assert_problem(&answer, 405, "");
        assert!(answer.header("allow").contains("GET"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_value_may_have_a_mebibyte_and_no_more() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    assert_eq!(put(at.address, "k", &text(1_048_576)).await.status, 201);
    for bytes in [1_048_577, 1_100_000, 3_000_000] {
        assert_problem(&put(at.address, "k", &text(bytes)).await, 413, "xx");
    }
    // Expands to more than the bound in the database only.
    assert_problem(
        &put(
            at.address,
            "k",
            &format!("[{}1e9999]", "1e99999,".repeat(50)),
        )
        .await,
        413,
        "",
    );
    // No length, sent in chunks.
    let mut tcp = TcpStream::connect(at.address).await.unwrap();
    let chunked = [("Transfer-Encoding", "chunked")];
    let head = head(at.address, "PUT", "/v1/config/k", &chunked, None);
    tcp.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 1_000_000, "7".repeat(1_000_000));
    for part in [&chunk, &chunk, "0\r\n\r\n"] {
        tcp.write_all(part.as_bytes()).await.unwrap();
    }
    assert_problem(&answer(Connection::new(tcp)).await, 413, "77");
}

#[tokio::test]
async fn a_page_of_another_site_gets_nothing() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    let here = at.address.to_string();
    let local = format!("localhost:{}", at.address.port());
    let same = format!("http://{here}");
    for headers in [
        vec![("Host", here.as_str())],
        vec![("Host", local.as_str())],
        vec![("Host", here.as_str()), ("Origin", same.as_str())],
    ] {
        let answer = request(at.address, "PUT", "/v1/config/k", &headers, "1").await;
        assert!(answer.status < 300, "{headers:?}: {answer:?}");
    }
    for headers in [
        vec![("Host", "evil.example")],
        vec![("Host", "127.0.0.1.evil.example")],
        vec![("Host", here.as_str()), ("Origin", "http://evil.example")],
        vec![("Host", here.as_str()), ("Origin", "null")],
        vec![("Host", local.as_str()), ("Origin", same.as_str())],
    ] {
        for (method, path) in [
            ("PUT", "/v1/config/k"),
            ("GET", "/v1/watch"),
            ("GET", "/healthz"),
        ] {
            let answer = request(at.address, method, path, &headers, "2").await;
            assert_problem(&answer, 403, "");
        }
    }
    assert_eq!(get(at.address, "/v1/config/k").await.json()["value"], 1);
}

#[tokio::test]
async fn the_index_and_the_status_tell_what_is_there() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    put(at.address, "k", "1").await;
    assert!(get(at.address, "/").await.body.contains("GET /v1/watch"));
    for path in ["/healthz", "/health", "/readyz"] {
        assert_eq!(get(at.address, path).await.status, 200);
    }
    at.until("/v1/status", |answer| answer.json()["mode"] == "push")
        .await;
    let status = get(at.address, "/v1/status").await.json();
    assert_eq!(
        (&status["revision"], &status["entries"]),
        (&json!(1), &json!(1))
    );
    assert!(status["provenAt"].is_string() && status["checksum"].is_string());
    assert!(status["store"].as_str().unwrap().contains(db.name()));
    assert!(!status.to_string().contains("postgres://"));
}
