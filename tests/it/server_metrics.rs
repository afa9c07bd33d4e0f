//! `sync-config serve`: names of requests, compressed answers, and metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::http::{Answer, Connection, Watch, get, head, put, raw_answer, request};
use crate::support::postgres::{TestDb, cluster};
use crate::support::program::Server;
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::{PATIENCE, eventually};

/// One metric as it is exported.
#[derive(Debug, Default)]
pub(crate) struct Exported {
    pub(crate) kind: String,
    unit: String,
    help: String,
    pub(crate) labels: BTreeSet<String>,
    /// Its samples, by their name and labels.
    samples: BTreeMap<String, f64>,
}

/// What `/metrics` tells, by the names that a query uses.
fn parsed(text: &str) -> BTreeMap<String, Exported> {
    let mut metrics: BTreeMap<String, Exported> = BTreeMap::new();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let mut current = String::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, name, rest) = (
                words.next().unwrap(),
                words.next().unwrap(),
                words.next().unwrap(),
            );
            current = name.to_owned();
            let metric = metrics.entry(current.clone()).or_default();
            match what {
                "HELP" => metric.help = rest.trim_end_matches('.').to_owned(),
                "TYPE" => metric.kind = rest.to_owned(),
                "UNIT" => metric.unit = rest.to_owned(),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let metric = metrics.get_mut(&current).unwrap();
        if let Some((_, labels)) = sample.split_once('{') {
            for label in labels
                .trim_end_matches('}')
                .split(',')
                .filter(|label| !label.is_empty())
            {
                let name = label.split('=').next().unwrap();
                if name != "le" {
                    metric.labels.insert(name.to_owned());
                }
            }
        }
        metric
            .samples
            .insert(sample.to_owned(), value.parse().unwrap());
    }
    // A counter is asked for by its name with a suffix.
    metrics
        .into_iter()
        .map(|(name, metric)| match metric.kind.as_str() {
            "counter" => (format!("{name}_total"), metric),
            "info" => (format!("{name}_info"), metric),
            _ => (name, metric),
        })
        .collect()
}

pub(crate) async fn metrics(at: SocketAddr) -> BTreeMap<String, Exported> {
    let answer = get(at, "/metrics").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.header("content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    parsed(&answer.body)
}

/// A row of the page of metrics.
fn row(name: &str, metric: &Exported) -> String {
    let or = |text: String| {
        if text.is_empty() {
            "–".to_owned()
        } else {
            text
        }
    };
    let labels: Vec<String> = metric
        .labels
        .iter()
        .map(|label| format!("`{label}`"))
        .collect();
    format!(
        "| `{name}` | {} | {} | {} | {} |",
        metric.kind,
        or(metric.unit.clone()),
        or(labels.join(", ")),
        metric.help
    )
}

#[tokio::test]
async fn every_metric_stands_on_its_page_with_type_unit_labels_and_meaning() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    put(at.address, "k", "1").await;
    let exported = metrics(at.address).await;
    let page = include_str!("../../src/guide/metrics.md");
    let rows: Vec<String> = exported
        .iter()
        .map(|(name, metric)| row(name, metric))
        .collect();
    let listed: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `sync_config_"))
        .collect();
    let missing: Vec<_> = rows
        .iter()
        .filter(|row| !listed.contains(&row.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "src/guide/metrics.md should hold:\n{}",
        missing
            .iter()
            .map(|row| row.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    );
    assert_eq!(
        listed.len(),
        rows.len(),
        "the page lists what is not exported"
    );
}

#[tokio::test]
async fn numbers_follow_what_happens_and_name_no_key() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    put(at.address, "secret/name", "1").await;
    put(at.address, "secret/name", "2").await;
    get(at.address, "/v1/config/secret/missing").await;
    request(at.address, "BREW", "/nowhere/secret", &[], "").await;
    let watch = Watch::open(at.address, "?prefix=secret", &[]).await;
    at.until("/v1/status", |answer| answer.json()["mode"] == "push")
        .await;
    let text = get(at.address, "/metrics").await.body;
    assert!(!text.contains("secret"), "{text}");
    let told = parsed(&text);
    let sample = |metric: &str, sample: &str| {
        let metric = told
            .get(metric)
            .unwrap_or_else(|| panic!("{metric} in {:?}", told.keys()));
        *metric
            .samples
            .get(sample)
            .unwrap_or_else(|| panic!("{sample} in {metric:?}"))
    };
    let plain = |name: &str| sample(name, name);
    assert_eq!(plain("sync_config_revision"), 2.0);
    assert_eq!(
        (plain("sync_config_entries"), plain("sync_config_ready")),
        (1.0, 1.0)
    );
    assert_eq!(plain("sync_config_writes_total"), 2.0);
    assert_eq!(plain("sync_config_listener_connected"), 1.0);
    assert!(plain("sync_config_staleness_seconds") < 60.0);
    assert_eq!(
        sample("sync_config_mode", "sync_config_mode{mode=\"push\"}"),
        1.0
    );
    assert_eq!(
        sample("sync_config_mode", "sync_config_mode{mode=\"offline\"}"),
        0.0
    );
    assert_eq!(
        sample(
            "sync_config_resyncs_total",
            "sync_config_resyncs_total{cause=\"gap\"}"
        ),
        0.0
    );
    assert_eq!(
        sample(
            "sync_config_listener_nonces_total",
            "sync_config_listener_nonces_total{outcome=\"returned\"}"
        ),
        1.0
    );
    let requests = "sync_config_http_requests_total";
    let labelled = |labels: &str| sample(requests, &format!("{requests}{{{labels}}}"));
    assert_eq!(
        labelled(r#"route="/v1/config/{key}",method="PUT",status="201""#),
        1.0
    );
    assert_eq!(
        labelled(r#"route="/v1/config/{key}",method="PUT",status="200""#),
        1.0
    );
    assert_eq!(
        labelled(r#"route="/v1/config/{key}",method="GET",status="404""#),
        1.0
    );
    assert_eq!(labelled(r#"route="none",method="OTHER",status="404""#), 1.0);
    let durations = "sync_config_http_request_duration_seconds";
    let count = format!("{durations}_count{{route=\"/v1/config/{{key}}\",method=\"PUT\"}}");
    assert_eq!(sample(durations, &count), 2.0);
    assert_eq!(
        plain("sync_config_http_requests_in_flight"),
        1.0,
        "this request itself"
    );
    let connections = "sync_config_relay_connections";
    let open = format!("{connections}{{transport=\"sse\"}}");
    assert_eq!(sample(connections, &open), 1.0);
    drop(watch);
    eventually("the stream is let go", PATIENCE, || async {
        let told = metrics(at.address).await;
        let left = told[connections].samples[&open];
        (left == 0.0).then_some(()).ok_or(left)
    })
    .await;
}

#[tokio::test]
async fn a_request_has_one_name_in_answer_problem_and_log() {
    let db = TestDb::new().await;
    let proxy = Proxy::to(cluster().address()).await;
    let at = Server::start(&db.url_through(&proxy)).await;
    let named = [("X-Request-Id", "order-42/a")];
    let answer = request(at.address, "GET", "/v1/config/none", &named, "").await;
    assert_eq!(
        (answer.status, answer.header("x-request-id")),
        (404, "order-42/a")
    );
    assert_eq!(answer.json()["requestId"], "order-42/a");
    let (one, two) = (
        get(at.address, "/v1/config").await,
        get(at.address, "/nowhere").await,
    );
    for answer in [&one, &two] {
        assert!(answer.header("x-request-id").len() > 16, "{answer:?}");
    }
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
    assert_eq!(two.json()["requestId"], two.header("x-request-id"));
    for forged in ["a b", "\"x\"", &"x".repeat(129)] {
        let answer = request(
            at.address,
            "GET",
            "/healthz",
            &[("X-Request-Id", forged)],
            "",
        )
        .await;
        assert_ne!(answer.header("x-request-id"), forged);
    }
    proxy.set(Mode::Refuse).await;
    proxy.cut().await;
    let failed = request(at.address, "PUT", "/v1/config/k", &named, "1").await;
    assert!(failed.status >= 500, "{failed:?}");
    at.log
        .until("the failure with the request's name", |log| {
            log.iter()
                .any(|line| line.contains("a request failed") && line.contains("order-42/a"))
        })
        .await;
}

/// What a GET answers to somebody who takes gzip, as it came over the wire.
async fn compressed(at: SocketAddr, path: &str) -> (Answer, Vec<u8>) {
    let mut tcp = TcpStream::connect(at).await.unwrap();
    let head = head(at, "GET", path, &[("Accept-Encoding", "br, gzip")], None);
    tcp.write_all(head.as_bytes()).await.unwrap();
    raw_answer(Connection::new(tcp)).await
}

#[tokio::test]
async fn a_long_answer_is_compressed_for_those_who_take_it_and_a_short_one_is_not() {
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    put(at.address, "short", "1").await;
    put(at.address, "long", &format!("\"{}\"", "x".repeat(100_000))).await;
    for path in ["/v1/config/long", "/v1/config"] {
        let plain = get(at.address, path).await;
        assert_eq!(plain.header("content-encoding"), "");
        assert!(
            plain
                .header("vary")
                .to_lowercase()
                .contains("accept-encoding"),
            "{plain:?}"
        );
        let (answer, bytes) = compressed(at.address, path).await;
        assert_eq!(answer.header("content-encoding"), "gzip");
        assert_eq!(
            answer.header("etag"),
            plain.header("etag"),
            "it names the state, not the bytes"
        );
        assert!(bytes.len() < 5_000, "{}", bytes.len());
        let mut text = String::new();
        flate2::read::GzDecoder::new(&bytes[..])
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, plain.body);
    }
    let (short, bytes) = compressed(at.address, "/v1/config/short").await;
    assert_eq!(short.header("content-encoding"), "");
    assert!(bytes.starts_with(b"{\"key\""));
    let watch = Watch::open(at.address, "", &[("Accept-Encoding", "gzip")]).await;
    let first = { watch }.next().await.expect("a snapshot");
    assert_eq!(first.event, "snapshot");
}
