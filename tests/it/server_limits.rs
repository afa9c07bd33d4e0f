//! What `sync-config serve` takes of one client, and of pages of other sites.

#![allow(
    clippy::disallowed_methods,
    reason = "how many requests are free is a matter of time"
)]

use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::http::{Answer, get, head, request};
use crate::support::keys::{WITH_KEYS, token};
use crate::support::postgres::TestDb;
use crate::support::program::Server;
use crate::support::wait::{PATIENCE, eventually};

async fn ask(at: &Server, token: &str) -> Answer {
    request(at.address, "GET", "/v1/config", &[("api-key", token)], "").await
}

/// Asks until it is slowed down; how often it was answered before, with the status given, and the answer that slows it down. Of
/// so many requests a minute all may come at once, and then one after the other as time goes by.
async fn until_slowed(at: &Server, token: &str, status: u16, a_minute: u64) -> (u64, Answer) {
    let since = Instant::now();
    let mut answered = 0;
    loop {
        let answer = ask(at, token).await;
        if answer.status == 429 {
            return (answered, answer);
        }
        assert_eq!(answer.status, status, "{answer:?}");
        answered += 1;
        let most = a_minute + since.elapsed().as_secs() * a_minute / 60 + 1;
        assert!(answered <= most, "{answered} of {a_minute} a minute");
    }
}

#[tokio::test]
async fn a_key_that_asks_too_much_waits_and_no_other_does() {
    let db = TestDb::new().await;
    let few = token(db.url(), "few", "read", &["--requests-per-minute", "3"]).await;
    let usual = token(db.url(), "usual", "read", &[]).await;
    let any = token(db.url(), "any", "read", &["--requests-per-minute", "0"]).await;
    let bound = [("SYNC_CONFIG_REQUESTS_PER_MINUTE", "10")];
    let at = Server::start_with(db.url(), WITH_KEYS, &bound).await;
    for (token, count) in [(&few, 3), (&usual, 10)] {
        let (granted, slowed) = until_slowed(&at, token, 200, count).await;
        assert!(granted >= count, "{granted} of {count}");
        let wait: u64 = slowed.header("retry-after").parse().unwrap();
        assert!((1..=21).contains(&wait), "{wait}");
        assert_eq!(slowed.header("content-type"), "application/problem+json");
    }
    for _ in 0..30 {
        assert_eq!(ask(&at, &any).await.status, 200);
    }
    // Each server measures by itself.
    let other = Server::start_with(db.url(), WITH_KEYS, &bound).await;
    assert_eq!(ask(&other, &few).await.status, 200);
}

#[tokio::test]
async fn attempts_without_a_key_are_slowed_down_and_a_key_from_there_is_not() {
    let db = TestDb::new().await;
    let good = token(db.url(), "good", "read", &[]).await;
    let mut at = Server::start_with(db.url(), WITH_KEYS, &[]).await;
    let (mut judged, slowed) = until_slowed(&at, "guess", 401, 20).await;
    assert!(judged >= 20, "{judged}");
    assert!(!slowed.header("retry-after").is_empty(), "{slowed:?}");
    for _ in 0..10 {
        judged += u64::from(ask(&at, "guess").await.status == 401);
    }
    assert_eq!(ask(&at, &good).await.status, 200);
    assert_eq!(get(at.address, "/healthz").await.status, 200);
    at.signal("TERM").await;
    assert_eq!(at.ended().await.code(), Some(0));
    let stopped = |log: &[String]| log.iter().any(|line| line.contains("\"stopped\""));
    let log = at.log.until("the last line", stopped).await;
    let told = log
        .iter()
        .filter(|line| line.contains("without a valid API key"));
    assert_eq!(
        told.count() as u64,
        judged,
        "what is slowed down is not logged"
    );
}

#[tokio::test]
async fn requests_beyond_what_there_is_room_for_are_refused_and_health_is_told() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    let mut under_way = Vec::new();
    // A few more than there is room for: those that ask how it stands take a place themselves.
    for number in 0..530 {
        let mut tcp = TcpStream::connect(at.address).await.unwrap();
        let path = format!("/v1/config/k{number}");
        let head = head(at.address, "PUT", &path, &[], Some(2));
        tcp.write_all(head.as_bytes()).await.unwrap();
        under_way.push(tcp);
    }
    let full = async || get(at.address, "/v1/config").await;
    eventually("all are under way", PATIENCE, async || {
        (full().await.status == 503).then_some(())
    })
    .await;
    let refused = full().await;
    assert!(!refused.header("retry-after").is_empty(), "{refused:?}");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(at.address, path).await.status, 200);
    }
    drop(under_way);
    eventually("there is room again", PATIENCE, async || {
        (full().await.status == 200).then_some(())
    })
    .await;
}

/// The headers of CORS in an answer.
fn cors(answer: &Answer) -> Vec<&str> {
    let names = answer.headers.keys().map(String::as_str);
    names
        .filter(|name| name.starts_with("access-control-"))
        .collect()
}

#[tokio::test]
async fn no_page_of_another_site_is_answered_unless_it_was_allowed() {
    let db = TestDb::new().await;
    let good = token(db.url(), "good", "read", &[]).await;
    let allowed = [WITH_KEYS, &["--allow-origin", "https://console.example"]].concat();
    let (shut, open) = tokio::join!(
        Server::start_with(db.url(), WITH_KEYS, &[]),
        Server::start_with(db.url(), &allowed, &[]),
    );
    let page = ("Origin", "https://console.example");
    let other = ("Origin", "https://evil.example");
    let key = ("api-key", good.as_str());
    let asks = [
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", "api-key"),
    ];
    let ask = async |at: &Server, method: &str, headers: &[(&str, &str)]| {
        request(at.address, method, "/v1/config", headers, "").await
    };
    for (at, origin) in [(&shut, page), (&shut, other), (&open, other)] {
        let answer = ask(at, "GET", &[origin, key]).await;
        assert_eq!((answer.status, cors(&answer)), (403, vec![]), "{origin:?}");
        let answer = ask(at, "OPTIONS", &[origin, asks[0], asks[1]]).await;
        assert_eq!((answer.status, cors(&answer)), (403, vec![]), "{origin:?}");
        let upgrade = [
            origin,
            key,
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
        ];
        let answer = request(at.address, "GET", "/v1/watch", &upgrade, "").await;
        assert_eq!(answer.status, 403);
    }
    let preflight = ask(&open, "OPTIONS", &[page, asks[0], asks[1]]).await;
    assert_eq!(preflight.status, 204, "{preflight:?}");
    assert_eq!(preflight.header("access-control-allow-origin"), page.1);
    assert!(
        preflight
            .header("access-control-allow-headers")
            .contains("api-key")
    );
    assert_eq!(preflight.header("access-control-allow-credentials"), "");
    let answer = ask(&open, "GET", &[page, key]).await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (200, page.1)
    );
    assert_eq!(answer.header("vary"), "origin");
    let answer = ask(&open, "GET", &[page]).await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (401, page.1)
    );
    // Who is no page is told nothing of pages.
    let answer = ask(&open, "GET", &[key]).await;
    assert_eq!((answer.status, cors(&answer)), (200, vec![]));
    let answer = ask(&open, "OPTIONS", &[asks[0]]).await;
    assert_eq!(answer.status, 401);
}
