//! What a key has begun when it is revoked: a body that is on its way, and a question that waits.

use std::net::SocketAddr;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::http::{Answer, Connection, answer, head, put, request};
use crate::support::keys::{WITH_KEYS, ask, keys, token, until_let_in, until_status};
use crate::support::postgres::{TestDb, cluster};
use crate::support::program::Server;
use crate::support::proxy::{Mode, Proxy};
use crate::support::sqlite::SqliteFile;
use crate::support::wait::{PATIENCE, eventually};

/// A request whose head was let in and whose body is waited for.
async fn begun(
    at: SocketAddr,
    method: &str,
    path: &str,
    token: &str,
    length: Option<usize>,
) -> TcpStream {
    let mut headers = vec![("api-key", token), ("Expect", "100-continue")];
    if length.is_none() {
        headers.push(("Transfer-Encoding", "chunked"));
    }
    let head = head(at, method, path, &headers, length);
    let mut tcp = TcpStream::connect(at).await.unwrap();
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut told = [0; 25];
    let read = timeout(PATIENCE, tcp.read_exact(&mut told)).await;
    read.expect("the server asks for the body").unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    tcp
}

async fn ended(mut tcp: TcpStream, body: &str) -> Answer {
    // The server may have answered and hung up.
    drop(tcp.write_all(body.as_bytes()).await);
    let answered = timeout(PATIENCE, answer(Connection::new(tcp))).await;
    answered.expect("an answer")
}

#[tokio::test]
async fn a_body_that_comes_after_its_key_was_revoked_writes_nothing() {
    let file = SqliteFile::new();
    let url = file.url();
    let at = Server::start_with(&url, WITH_KEYS, &[]).await;
    let leaked = token(&url, "leaked", "write", &[]).await;
    let reader = token(&url, "reader", "read", &[]).await;
    until_let_in(at.address, &leaked).await;
    until_let_in(at.address, &reader).await;
    let batch = json!({ "items": [{ "key": "late/batch", "value": 1 }] }).to_string();
    let event = json!({ "type": "t", "payload": 1, "to": "all" }).to_string();
    let mut open = Vec::new();
    for (method, path, body) in [
        ("PUT", "/v1/config/late/put", "1"),
        ("POST", "/v1/batch", &batch),
        ("POST", "/v1/events", &event),
    ] {
        let whole = begun(at.address, method, path, &leaked, Some(body.len())).await;
        open.push((whole, body.to_owned(), path));
        let chunked = begun(at.address, method, path, &leaked, None).await;
        let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        open.push((chunked, chunks, path));
    }
    keys(&url, 0, &["revoke", "leaked"]).await;
    until_status(at.address, &leaked, 401).await;
    for (tcp, body, path) in open {
        let answer = ended(tcp, &body).await;
        assert_eq!(answer.status, 401, "{path}: {answer:?}");
    }
    let list = ask(at.address, "GET", "/v1/config", &reader, "").await;
    assert_eq!(list.json()["entries"], json!([]));
    let events: i64 = file.shell().one("SELECT count(*) FROM sync_config_events");
    assert_eq!(events, 0);
}

#[tokio::test]
async fn a_body_that_comes_in_time_is_written() {
    let file = SqliteFile::new();
    let url = file.url();
    let at = Server::start_with(&url, WITH_KEYS, &[]).await;
    let good = token(&url, "good", "write", &[]).await;
    until_let_in(at.address, &good).await;
    let tcp = begun(at.address, "PUT", "/v1/config/k", &good, Some(1)).await;
    assert_eq!(ended(tcp, "1").await.status, 201);
}

#[tokio::test]
async fn a_question_that_waits_is_given_up_when_its_key_is_revoked() {
    let (db, file) = (TestDb::new().await, SqliteFile::new());
    let proxy = Proxy::to(cluster().address()).await;
    let keys_url = file.url();
    let slow = [
        ("SYNC_CONFIG_KEYS_URL", keys_url.as_str()),
        ("SYNC_CONFIG_REQUEST_TIMEOUT", "2m"),
    ];
    let at = Server::start_with(&db.url_through(&proxy), WITH_KEYS, &slow).await;
    let direct = Server::start(db.url()).await;
    let first = put(direct.address, "k", "1").await;
    put(direct.address, "k", "2").await;
    let gone = token(&keys_url, "gone", "read", &[]).await;
    until_let_in(at.address, &gone).await;
    eventually("both revisions are shown", PATIENCE, || async {
        let list = ask(at.address, "GET", "/v1/config", &gone, "").await;
        (list.json()["revision"] == 2).then_some(())
    })
    .await;
    proxy.set(Mode::Freeze).await;
    let path = format!("/v1/changes?since={}", first.header("sync-config-cursor"));
    let headers = [("api-key", gone.as_str())];
    let (answer, _) = tokio::join!(
        request(at.address, "GET", &path, &headers, ""),
        keys(&keys_url, 0, &["revoke", "gone"]),
    );
    assert_eq!(answer.status, 401, "{answer:?}");
}
