//! What answers and heads of requests may take of a server's memory, and what is told of lists and rehearsals besides.

use std::io::Read;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::server_batch::batch;
use crate::support::http::{Connection, get, head, put, raw_answer, request};
use crate::support::keys::{WITH_KEYS, ask, token, until_let_in};
use crate::support::program::Server;
use crate::support::sqlite::SqliteFile;
use crate::support::wait::{PATIENCE, eventually};

/// Three answers with all values take 120 of the budget's 128 MiB.
const LARGE: usize = 40;
const HELD: usize = 3;

/// Asks and reads the beginning of the answer alone.
async fn begun(at: SocketAddr, body: &str) -> TcpStream {
    let mut tcp = TcpStream::connect(at).await.unwrap();
    let head = head(at, "POST", "/v1/batch", &[], Some(body.len()));
    tcp.write_all(head.as_bytes()).await.unwrap();
    tcp.write_all(body.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    tcp.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    tcp
}

#[tokio::test]
async fn answers_that_nobody_takes_hold_no_more_memory_than_the_budget() {
    let file = SqliteFile::new();
    let at = Server::start(&file.url()).await;
    let value = "x".repeat(1_048_576 - 2);
    let names: Vec<String> = (0..LARGE).map(|number| format!("large/{number}")).collect();
    for names in names.chunks(15) {
        let items: Vec<Value> = (names.iter())
            .map(|name| json!({ "key": name, "value": value }))
            .collect();
        let written = batch(at.address, &json!({ "items": items })).await;
        assert_eq!(written.status, 200, "{}", written.body);
    }
    let items: Vec<Value> = (names.iter())
        .map(|name| json!({ "key": name, "delete": true }))
        .collect();
    let asked = json!({ "items": items, "dryRun": true, "values": true });
    let mut held = Vec::new();
    for _ in 0..HELD {
        held.push(begun(at.address, &asked.to_string()).await);
    }
    let refused = batch(at.address, &asked).await;
    assert_eq!(refused.status, 503, "{} bytes", refused.body.len());
    assert!(!refused.header("retry-after").is_empty());
    drop(held);
    eventually("there is room again", PATIENCE, || async {
        let answer = batch(at.address, &asked).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_head_of_a_request_is_bounded_also_without_a_key() {
    let file = SqliteFile::new();
    let at = Server::start_with(&file.url(), WITH_KEYS, &[]).await;
    for (length, status) in [(60_000, 401), (65_500, 431)] {
        let long = "x".repeat(length);
        let answer = request(at.address, "GET", "/v1/config", &[("x", &long)], "").await;
        assert_eq!(answer.status, status, "{length}");
    }
}

#[tokio::test]
async fn the_document_is_told_as_gzip_to_those_who_take_it() {
    let file = SqliteFile::new();
    let at = Server::start(&file.url()).await;
    let plain = get(at.address, "/openapi.json").await;
    assert_eq!(plain.header("content-encoding"), "");
    let taken = [("Accept-Encoding", "br, gzip")];
    let mut tcp = TcpStream::connect(at.address).await.unwrap();
    let head = head(at.address, "GET", "/openapi.json", &taken, None);
    tcp.write_all(head.as_bytes()).await.unwrap();
    let (answer, bytes) = raw_answer(Connection::new(tcp)).await;
    assert_eq!(answer.header("content-encoding"), "gzip");
    assert_eq!(answer.header("vary"), "accept-encoding");
    let mut text = String::new();
    let mut decoder = flate2::read::GzDecoder::new(&bytes[..]);
    decoder.read_to_string(&mut text).unwrap();
    assert_eq!(text, plain.body);
}

#[tokio::test]
async fn a_list_that_a_narrow_key_has_is_not_what_a_wide_one_sees() {
    let file = SqliteFile::new();
    let url = file.url();
    let at = Server::start_with(&url, WITH_KEYS, &[]).await;
    let wide = token(&url, "wide", "write", &[]).await;
    let narrow = token(&url, "narrow", "read", &["--prefix", "a/"]).await;
    for token in [&wide, &narrow] {
        until_let_in(at.address, token).await;
    }
    for key in ["a/1", "b/1"] {
        let path = format!("/v1/config/{key}");
        assert_eq!(ask(at.address, "PUT", &path, &wide, "1").await.status, 201);
    }
    let path = "/v1/config";
    let seen = ask(at.address, "GET", path, &narrow, "").await;
    let tag = seen.header("etag");
    for (token, status) in [(&narrow, 304), (&wide, 200)] {
        let headers = [("api-key", token.as_str()), ("If-None-Match", tag)];
        let answer = request(at.address, "GET", path, &headers, "").await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
}

#[tokio::test]
async fn a_rehearsal_names_a_tag_of_another_history_among_the_conflicts() {
    let file = SqliteFile::new();
    let at = Server::start(&file.url()).await;
    put(at.address, "k", "1").await;
    let items = json!([
        { "key": "k", "value": 2, "ifMatch": "\"ffffffff-1\"" },
        { "key": "none", "delete": true, "ifMatch": "ffffffff-9" },
        { "key": "new", "value": 1, "ifPresent": true },
    ]);
    let told = batch(at.address, &json!({ "items": items, "dryRun": true })).await;
    assert_eq!(told.status, 200, "{told:?}");
    let told = told.json();
    let conflicts = told["conflicts"].as_array().unwrap();
    let keys: Vec<_> = conflicts.iter().map(|conflict| &conflict["key"]).collect();
    assert_eq!(keys, ["k", "none", "new"]);
    assert_eq!(conflicts[0]["expected"], "at a revision of another history");
    assert_eq!(conflicts[0]["actual"], "at revision 1");
    let refused = batch(at.address, &json!({ "items": items })).await;
    assert_eq!(refused.status, 412, "{refused:?}");
}
