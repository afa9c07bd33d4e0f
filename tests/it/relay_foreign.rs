//! The relay with clients that were not written here.

use serde_json::Value;

use crate::relay::FREELY;
use crate::support::foreign::{Site, curl, python};
use crate::support::http::put;
use crate::support::postgres::TestDb;
use crate::support::program::Server;
use crate::support::wait::PATIENCE;

/// A browser's first start takes its time on a loaded machine.
const BROWSER: std::time::Duration = std::time::Duration::from_secs(60);

#[tokio::test]
async fn curl_reads_the_events() {
    let db = TestDb::new().await;
    // A progress would be a line more.
    let at = Server::start_with(db.url(), &["--progress-interval", "5m"], &[]).await;
    put(at.address, "a", "1").await;
    let url = format!("http://{}/v1/watch?prefix=a", at.address);
    let Some(curl) = curl(&[&url]) else {
        return;
    };
    let has = |line: &'static str| move |lines: &[String]| lines.iter().any(|seen| seen == line);
    curl.lines.until("the state", has("event: snapshot")).await;
    put(at.address, "b", "1").await;
    put(at.address, "a", "[2]").await;
    let told = "data: {\"revision\":3,\"changes\":[{\"key\":\"a\",\"kind\":\"put\",\"old\":1,\"new\":[2]}]}";
    let lines = curl.lines.until("the change", has(told)).await;
    let names: Vec<&String> = lines
        .iter()
        .filter(|line| line.starts_with("event: "))
        .collect();
    assert_eq!(names, ["event: ack", "event: snapshot", "event: change"]);
    assert!(
        !lines.iter().any(|line| line.contains("\"b\"")),
        "{lines:?}"
    );
}

const PYTHON: &str = r#"
import asyncio, json, sys, websockets

async def main(url):
    cursor, kinds = None, []
    for turn in range(2):
        async with websockets.connect(url + (f"?cursor={cursor}" if cursor else "")) as socket:
            async for text in socket:
                message = json.loads(text)
                print(message["type"], json.dumps(message["payload"].get("revision")), flush=True)
                cursor = message.get("cursor", cursor)
                if message["type"] == "config.changed":
                    await socket.send(json.dumps({"type": "ack", "revision": message["payload"]["revision"]}))
                    await (await socket.ping())
                    if turn == 0:
                        break
            if turn == 1:
                print("closed", socket.close_code, socket.close_reason, flush=True)

asyncio.run(main(sys.argv[1]))
"#;

#[tokio::test]
async fn pythons_websockets_follow_resume_and_are_told_of_the_end() {
    let db = TestDb::new().await;
    let mut at = Server::start_with(db.url(), &[], &FREELY).await;
    put(at.address, "a", "1").await;
    let url = format!("ws://{}/v1/watch", at.address);
    let Some(mut python) = python(PYTHON, &[&url]) else {
        return;
    };
    let has = |line: &'static str| move |lines: &[String]| lines.iter().any(|seen| seen == line);
    python
        .lines
        .until_within("the state", BROWSER, has("config.snapshot 1"))
        .await;
    put(at.address, "a", "2").await;
    let resumed = |lines: &[String]| {
        lines
            .iter()
            .filter(|line| line.starts_with("connection.ack"))
            .count()
            == 2
    };
    python.lines.until("its second connection", resumed).await;
    put(at.address, "a", "3").await;
    let lines = python
        .lines
        .until("the next change", has("config.changed 3"))
        .await;
    let told: Vec<&str> = lines
        .iter()
        .map(String::as_str)
        .filter(|line| line.starts_with("config.c"))
        .collect();
    assert_eq!(told, ["config.changed 2", "config.changed 3"]);
    at.signal("TERM").await;
    python
        .lines
        .until("the end", has("closed 1000 shutdown"))
        .await;
    assert!(python.ended().await);
    assert_eq!(at.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_browser_follows_by_both_transports_and_comes_back_by_itself() {
    let db = TestDb::new().await;
    let site = Site::new().await;
    let origin = format!("http://{}", site.address);
    let args = ["--allow-origin", origin.as_str(), "--listen"];
    let mut at =
        Server::start_with(db.url(), &[&args[..], &["127.0.0.1:0"]].concat(), &FREELY).await;
    put(at.address, "a", "1").await;
    let script = format!(
        "const at = '{}';
        const events = new EventSource(`http://${{at}}/v1/watch`);
        for (const name of ['ack', 'snapshot', 'change'])
            events.addEventListener(name, event => report({{ by: 'sse', name, id: event.lastEventId, data: JSON.parse(event.data) }}));
        const socket = new WebSocket(`ws://${{at}}/v1/watch`, ['sync-config']);
        socket.onmessage = event => {{
            const message = JSON.parse(event.data);
            report({{ by: 'ws', name: message.type, protocol: socket.protocol, data: message.payload }});
        }};
        socket.onclose = event => report({{ by: 'ws', name: 'close', code: event.code, reason: event.reason }});",
        at.address
    );
    let Some(page) = site.open("browser", &script) else {
        return;
    };
    let named = |by: &str, name: &str| {
        let (by, name) = (by.to_owned(), name.to_owned());
        move |reports: &[Value]| {
            reports
                .iter()
                .any(|report| report["by"] == *by && report["name"] == *name)
        }
    };
    page.reports
        .until_within("the state by events", BROWSER, named("sse", "snapshot"))
        .await;
    page.reports
        .until_within(
            "the state by WebSocket",
            BROWSER,
            named("ws", "config.snapshot"),
        )
        .await;
    put(at.address, "a", "2").await;
    page.reports
        .until("the change by events", named("sse", "change"))
        .await;
    let reports = page
        .reports
        .until("the change by WebSocket", named("ws", "config.changed"))
        .await;
    let data = |by: &str, name: &str| {
        reports
            .iter()
            .find(|report| report["by"] == by && report["name"] == name)
            .unwrap()["data"]
            .clone()
    };
    assert_eq!(data("sse", "change"), data("ws", "config.changed"));
    assert!(
        reports
            .iter()
            .all(|report| report["by"] != "ws" || report["protocol"] == "sync-config")
    );
    let address = at.address.to_string();
    at.signal("TERM").await;
    assert_eq!(at.ended().await.code(), Some(0));
    let reports = page.reports.until("the end", named("ws", "close")).await;
    let close = reports
        .iter()
        .find(|report| report["name"] == "close")
        .unwrap();
    assert_eq!(
        (&close["code"], &close["reason"]),
        (&Value::from(1000), &Value::from("shutdown"))
    );
    // The browser reconnects after some seconds, with the id of what it heard last.
    let args = ["--allow-origin", &origin, "--listen", &address];
    let again = Server::start_with(db.url(), &args, &FREELY).await;
    put(again.address, "a", "3").await;
    let told = |reports: &[Value]| {
        let changes = reports
            .iter()
            .filter(|report| report["by"] == "sse" && report["name"] == "change");
        changes
            .filter(|report| report["data"]["revision"] == 3)
            .count()
            == 1
    };
    let reports = page
        .reports
        .until_within("the next change", PATIENCE * 2, told)
        .await;
    let states = reports
        .iter()
        .filter(|report| report["name"] == "snapshot")
        .count();
    assert_eq!(states, 1, "it resumed: {reports:?}");
}
