//! `sync-config serve`: the API's document is true.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::http::{Answer, Watch, get, put, request};
use crate::support::postgres::TestDb;
use crate::support::program::Server;

/// Paths with their methods.
type Operations = BTreeSet<(String, String)>;

/// A server's document, and what has been held against it.
struct Document {
    text: Value,
    asked: Operations,
}

impl Document {
    async fn of(at: &Server) -> Self {
        let answer = get(at.address, "/openapi.json").await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, "application/json")
        );
        assert_eq!(answer.body, include_str!("../../src/server/openapi.json"));
        Self {
            text: answer.json(),
            asked: BTreeSet::new(),
        }
    }

    /// Follows a reference.
    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value.get("$ref").and_then(Value::as_str) {
            Some(reference) => {
                let pointer = reference.strip_prefix('#').unwrap();
                self.text
                    .pointer(pointer)
                    .unwrap_or_else(|| panic!("{reference} leads nowhere"))
            }
            None => value,
        }
    }

    /// What is wrong with a value by a schema of the document.
    fn faults(&self, schema: &Value, value: &Value) -> Vec<String> {
        let whole = json!({ "allOf": [schema], "components": self.text["components"] });
        let validator =
            jsonschema::draft202012::new(&whole).unwrap_or_else(|error| panic!("{error}"));
        validator
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect()
    }

    /// Holds an answer against what is documented.
    fn check(&mut self, method: &str, path: &str, answer: &Answer) {
        let operation = &self.text["paths"][path][method.to_lowercase()];
        assert!(operation.is_object(), "{method} {path} is not documented");
        let documented = &operation["responses"][answer.status.to_string()];
        assert!(
            documented.is_object(),
            "{method} {path}: {} is not documented: {answer:?}",
            answer.status
        );
        let documented = self.resolved(documented);
        for header in documented["headers"].as_object().into_iter().flatten() {
            let (name, header) = header;
            let value = answer.header(&name.to_lowercase());
            let faults = self.faults(&header["schema"], &json!(value));
            assert!(
                !value.is_empty() && faults.is_empty(),
                "{method} {path}: {name}: {value:?} {faults:?}"
            );
        }
        let media = answer.header("content-type").split(';').next().unwrap();
        match documented["content"].as_object() {
            None => assert_eq!(answer.body, "", "{method} {path}"),
            Some(content) => {
                let kind = content
                    .get(media)
                    .unwrap_or_else(|| panic!("{method} {path}: {media} in {content:?}"));
                if media.ends_with("json") {
                    let faults = self.faults(&kind["schema"], &answer.json());
                    assert!(
                        faults.is_empty(),
                        "{method} {path}: {faults:?} in {}",
                        answer.body
                    );
                }
            }
        }
        let asked = if answer.status < 400 {
            method.to_owned()
        } else {
            format!("{method} {}", answer.status)
        };
        self.asked.insert((path.to_owned(), asked));
    }

    async fn ask(
        &mut self,
        at: &Server,
        method: &str,
        path: &str,
        route: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let answer = request(at.address, method, path, headers, body).await;
        self.check(method, route, &answer);
        answer
    }

    /// The operations that have been asked for with success, and all there are.
    fn coverage(&self) -> (Operations, Operations) {
        let mut all = BTreeSet::new();
        for (path, item) in self.text["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                all.insert((path.clone(), method.to_uppercase()));
            }
        }
        (self.asked.intersection(&all).cloned().collect(), all)
    }
}

#[tokio::test]
async fn every_documented_route_answers_as_documented() {
    let db = TestDb::new().await;
    let at = Server::start_with(db.url(), &["--events", "on"], &[]).await;
    let mut api = Document::of(&at).await;
    at.until("/v1/status", |answer| answer.json()["mode"] == "push")
        .await;
    let entry = "/v1/config/{key}";
    let created = api
        .ask(
            &at,
            "PUT",
            "/v1/config/a",
            entry,
            &[],
            "{\"x\":[1.50,null]}",
        )
        .await;
    api.ask(&at, "PUT", "/v1/config/a", entry, &[], "null")
        .await;
    let tag = created.header("etag").to_owned();
    api.ask(
        &at,
        "PUT",
        "/v1/config/a",
        entry,
        &[("If-Match", &tag)],
        "1",
    )
    .await;
    api.ask(&at, "PUT", "/v1/config/a", entry, &[], "{").await;
    api.ask(
        &at,
        "PUT",
        "/v1/config/a",
        entry,
        &[],
        &format!("\"{}\"", "x".repeat(1_100_000)),
    )
    .await;
    let read = api.ask(&at, "GET", "/v1/config/a", entry, &[], "").await;
    api.ask(
        &at,
        "GET",
        "/v1/config/a",
        entry,
        &[("If-None-Match", read.header("etag"))],
        "",
    )
    .await;
    api.ask(
        &at,
        "GET",
        "/v1/config/a",
        entry,
        &[("If-Match", "\"x\"")],
        "",
    )
    .await;
    api.ask(&at, "GET", "/v1/config/none", entry, &[], "").await;
    for key in ["b", "c"] {
        put(at.address, key, "1").await;
    }
    api.ask(&at, "DELETE", "/v1/config/b", entry, &[], "").await;
    api.ask(&at, "DELETE", "/v1/config/b", entry, &[], "").await;
    let list = "/v1/config";
    let whole = api.ask(&at, "GET", list, list, &[], "").await;
    api.ask(
        &at,
        "GET",
        list,
        list,
        &[("If-None-Match", whole.header("etag"))],
        "",
    )
    .await;
    let page = api
        .ask(&at, "GET", "/v1/config?limit=1", list, &[], "")
        .await;
    let next = page.json()["next"].as_str().unwrap().to_owned();
    api.ask(
        &at,
        "GET",
        &format!("/v1/config?after={next}"),
        list,
        &[],
        "",
    )
    .await;
    api.ask(&at, "GET", "/v1/config?limit=0", list, &[], "")
        .await;
    let lost = format!(
        "/v1/config?after={}-9-{}.61",
        "0".repeat(32),
        "0".repeat(32)
    );
    api.ask(&at, "GET", &lost, list, &[], "").await;
    let batch = "/v1/batch";
    let items =
        json!([{ "key": "a", "value": null, "ifPresent": true }, { "key": "n", "delete": true }]);
    for (dry, conditional) in [(false, false), (true, false), (true, true), (false, true)] {
        let mut body = json!({ "items": items, "dryRun": dry, "values": true, "actor": "alice" });
        if conditional {
            body["items"][0] = json!({ "key": "a", "value": 2, "ifRevision": 1 });
        }
        let faults = api.faults(&json!({ "$ref": "#/components/schemas/Batch" }), &body);
        assert!(faults.is_empty(), "{faults:?}");
        api.ask(
            &at,
            "POST",
            batch,
            batch,
            &[("Idempotency-Key", "once")],
            &body.to_string(),
        )
        .await;
    }
    let wrong = json!({ "items": [{ "key": "a", "value": 1, "delete": true }] });
    assert!(
        !api.faults(&json!({ "$ref": "#/components/schemas/Batch" }), &wrong)
            .is_empty()
    );
    api.ask(&at, "POST", batch, batch, &[], &wrong.to_string())
        .await;
    let changes = "/v1/changes";
    let since = created.header("sync-config-cursor").to_owned();
    api.ask(
        &at,
        "GET",
        &format!("{changes}?since={since}"),
        changes,
        &[],
        "",
    )
    .await;
    api.ask(&at, "GET", changes, changes, &[], "").await;
    api.ask(
        &at,
        "GET",
        &format!("{changes}?since={}-9-{}", "0".repeat(32), "0".repeat(32)),
        changes,
        &[],
        "",
    )
    .await;
    let event = json!({ "type": "deploy.done", "payload": { "x": 1 }, "to": { "prefix": "a/" }, "correlationId": "c" });
    for to in [
        json!("all"),
        json!({ "client": "c" }),
        json!({ "prefix": "a/" }),
    ] {
        let mut event = event.clone();
        event["to"] = to;
        let faults = api.faults(
            &json!({ "$ref": "#/components/schemas/Publication" }),
            &event,
        );
        assert!(faults.is_empty(), "{faults:?}");
        api.ask(
            &at,
            "POST",
            "/v1/events",
            "/v1/events",
            &[],
            &event.to_string(),
        )
        .await;
    }
    api.ask(&at, "POST", "/v1/events", "/v1/events", &[], "{}")
        .await;
    for path in [
        "/",
        "/healthz",
        "/health",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/v1/status",
    ] {
        api.ask(&at, "GET", path, path, &[], "").await;
    }
    let foreign = [("Origin", "http://evil.example")];
    api.ask(&at, "GET", "/v1/status", "/v1/status", &foreign, "")
        .await;
    let mut watch = Watch::open(at.address, "", &[]).await;
    for event in ["snapshot", "change"] {
        let message = watch.news().await;
        let schema = json!({ "$ref": "#/components/schemas/Event" });
        let faults = api.faults(&schema, &message.json());
        assert!(
            message.event == event && faults.is_empty(),
            "{message:?} {faults:?}"
        );
        // A state that was read after the write would hold it already.
        put(at.address, "w", "1").await;
    }
    let ack = json!({ "$ref": "#/components/schemas/Acknowledgement" });
    let faults = api.faults(&ack, &watch.ack().json());
    assert!(faults.is_empty(), "{faults:?}");
    api.ask(&at, "GET", "/v1/stats", "/v1/stats", &[], "").await;
    api.asked.insert(("/v1/watch".to_owned(), "GET".to_owned()));
    let (asked, all) = api.coverage();
    assert_eq!(asked, all, "every operation is asked for");
    let index = get(at.address, "/").await.json();
    let listed: BTreeSet<&str> = index["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    let named: Vec<String> = all
        .iter()
        .map(|(path, method)| format!("{method} {path}"))
        .collect();
    assert_eq!(listed, named.iter().map(String::as_str).collect());
}

#[tokio::test]
async fn a_server_that_has_nothing_yet_and_one_that_cannot_write_answer_as_documented() {
    let at = Server::launch(Some("postgres://nobody@127.0.0.1:1/none"), &[], &[]).await;
    let mut api = Document::of(&at).await;
    for path in ["/v1/config", "/readyz"] {
        let refused = api.ask(&at, "GET", path, path, &[], "").await;
        assert_eq!(refused.status, 503, "{refused:?}");
    }
    let body = r#"{"items":[{"key":"a","value":1}]}"#;
    assert_eq!(
        api.ask(&at, "POST", "/v1/batch", "/v1/batch", &[], body)
            .await
            .status,
        503
    );
}

#[test]
fn the_guide_says_of_every_documented_route_who_may_ask() {
    let document: Value =
        serde_json::from_str(include_str!("../../src/server/openapi.json")).unwrap();
    let guide = include_str!("../../src/guide/security.md");
    let (_, table) = guide
        .split_once("<!-- routes: walked by a test -->")
        .unwrap();
    let (table, _) = table.split_once("<!-- /routes -->").unwrap();
    let told: BTreeSet<&str> = table
        .lines()
        .filter_map(|row| row.split('`').nth(1))
        .collect();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            documented.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    assert_eq!(told, documented.iter().map(String::as_str).collect());
}

/// Every value of a document by its place.
fn walk<'a>(value: &'a Value, each: &mut impl FnMut(&'a str, &'a Value)) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                each(name, member);
                walk(member, each);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, each)),
        _ => {}
    }
}

#[test]
fn every_reference_of_the_document_leads_somewhere_and_every_schema_is_used() {
    let document: Value =
        serde_json::from_str(include_str!("../../src/server/openapi.json")).unwrap();
    let mut used = BTreeSet::new();
    walk(&document, &mut |name, value| {
        if name == "$ref" {
            let reference = value.as_str().unwrap();
            assert!(
                document.pointer(&reference[1..]).is_some(),
                "{reference} leads nowhere"
            );
            used.insert(reference.to_owned());
        }
    });
    for kind in ["schemas", "responses"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            let reference = format!("#/components/{kind}/{name}");
            // The data of events has no place of its own in an answer; a method that a path does not take has no operation.
            let mentioned =
                ["Acknowledgement", "Event", "MethodNotAllowed"].contains(&name.as_str());
            assert!(
                mentioned || used.contains(&reference),
                "{reference} is not used"
            );
        }
    }
}
