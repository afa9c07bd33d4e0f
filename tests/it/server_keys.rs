//! API keys of `sync-config serve`: who is let in, and to what.

use std::net::SocketAddr;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::ground::one;
use crate::support::http::{Answer, Watch, get, request};
use crate::support::keys::{
    WITH_KEYS, ask, judged, keys, output, token, until_let_in, until_status, watch,
};
use crate::support::postgres::TestDb;
use crate::support::program::Server;
use crate::support::sqlite::SqliteFile;

#[tokio::test]
async fn whatever_is_wrong_with_a_token_the_answer_is_the_same() {
    let db = TestDb::new().await;
    let good = token(db.url(), "good", "read", &[]).await;
    let other = token(db.url(), "other", "read", &[]).await;
    let at = Server::start_with(db.url(), WITH_KEYS, &[]).await;
    let bearer = |token: &str| format!("Bearer {token}");
    let protocol = format!("sync-config, sync-config.key.{good}");
    for headers in [
        vec![("api-key", good.clone())],
        vec![("Authorization", bearer(&good))],
        vec![("authorization", format!("bearer {good}"))],
        vec![("Sec-WebSocket-Protocol", protocol)],
        vec![("api-key", good.clone()), ("Authorization", bearer(&good))],
        vec![
            ("api-key", good.clone()),
            ("Authorization", "Basic eDp5".to_owned()),
        ],
    ] {
        let borrowed: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let answer = request(at.address, "GET", "/v1/config", &borrowed, "").await;
        assert_eq!(answer.status, 200, "{headers:?}");
    }
    let last = good.len() - 1;
    let wrong_secret = format!(
        "{}{}",
        &good[..last],
        if good.ends_with('0') { '1' } else { '0' }
    );
    let unknown = format!("sck_{}{}", "0".repeat(16), &good[20..]);
    let mixed = format!("{}{}", &good[..20], &other[20..]);
    let url = format!("/v1/config?api-key={good}&token={good}&access_token={good}");
    let refused = [
        ("/v1/config", vec![]),
        ("/v1/config", vec![("api-key", String::new())]),
        ("/v1/config", vec![("api-key", "garbage".to_owned())]),
        ("/v1/config", vec![("api-key", "x".repeat(5_000))]),
        ("/v1/config", vec![("api-key", wrong_secret)]),
        ("/v1/config", vec![("api-key", unknown)]),
        ("/v1/config", vec![("api-key", mixed)]),
        ("/v1/config", vec![("Authorization", good.clone())]),
        (
            "/v1/config",
            vec![("Authorization", format!("Basic {good}"))],
        ),
        (
            "/v1/config",
            vec![("api-key", good.clone()), ("Authorization", bearer(&other))],
        ),
        (url.as_str(), vec![]),
        ("/v1/no-such-path", vec![]),
    ];
    let mut first: Option<Answer> = None;
    for (path, headers) in refused {
        let mut borrowed: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        borrowed.push(("x-request-id", "same"));
        let mut answer = request(at.address, "GET", path, &borrowed, "").await;
        answer.headers.remove("date");
        assert_eq!(answer.status, 401, "{headers:?}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let first = first.get_or_insert_with(|| Answer {
            status: answer.status,
            headers: answer.headers.clone(),
            body: answer.body.clone(),
        });
        assert_eq!(
            (&answer.headers, &answer.body),
            (&first.headers, &first.body),
            "{headers:?}"
        );
    }
}

/// A row of the table of routes in the guide.
struct Route {
    method: String,
    path: String,
    /// `–` for none.
    role: String,
    keys: String,
}

fn routes() -> Vec<Route> {
    let page = include_str!("../../src/guide/security.md");
    let (_, table) = page
        .split_once("<!-- routes: walked by a test -->")
        .unwrap();
    let (table, _) = table.split_once("<!-- /routes -->").unwrap();
    let rows = table.trim().lines().skip(2);
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [request, role, keys] = cells[..] else {
            panic!("three cells: {row}");
        };
        let (method, path) = request.trim_matches('`').split_once(' ').unwrap();
        Route {
            method: method.to_owned(),
            path: path.to_owned(),
            role: role.to_owned(),
            keys: keys.to_owned(),
        }
    })
    .collect()
}

/// The rank of a role, as the guide orders them.
fn rank(role: &str) -> usize {
    let ranks = ["–", "read", "write", "admin"];
    ranks.iter().position(|known| *known == role).unwrap()
}

/// What a key of a role and with a prefix may do with a route, according to the guide: 2xx, 401 or 403.
fn expected(route: &Route, role: &str, prefix: &str, key: &str) -> u16 {
    if route.role == "–" {
        return 200;
    }
    if role == "–" {
        return 401;
    }
    let may = rank(role) >= rank(&route.role)
        && match route.keys.as_str() {
            "only one of its own" => key.starts_with(prefix),
            "not limited to prefixes" => prefix.is_empty(),
            "shows its own" => true,
            other => panic!("the guide says {other:?}"),
        };
    if may { 200 } else { 403 }
}

#[tokio::test]
async fn every_route_lets_in_whom_the_guide_says() {
    let db = TestDb::new().await;
    let any = [("SYNC_CONFIG_REQUESTS_PER_MINUTE", "0")];
    let with_all = [WITH_KEYS, &["--events", "on"]].concat();
    let at = Server::start_with(db.url(), &with_all, &any).await;
    let admin = token(db.url(), "root", "admin", &[]).await;
    until_let_in(at.address, &admin).await;
    let state = ask(at.address, "GET", "/v1/config", &admin, "").await;
    let since = state.header("sync-config-cursor").to_owned();
    let routes = routes();
    let endpoints = get(at.address, "/").await.json()["endpoints"].clone();
    for endpoint in endpoints.as_array().unwrap() {
        let endpoint = endpoint.as_str().unwrap();
        let endpoint = endpoint.split('?').next().unwrap();
        let listed = |route: &Route| endpoint == format!("{} {}", route.method, route.path);
        assert!(
            routes.iter().any(listed),
            "{endpoint} is not in the guide's table"
        );
    }
    let mut checked = 0;
    for role in ["–", "read", "write", "admin"] {
        for prefix in ["", "in/"] {
            let token = match role {
                "–" => String::new(),
                _ => {
                    let prefixed = ["--prefix", prefix];
                    let more = if prefix.is_empty() {
                        &[][..]
                    } else {
                        &prefixed
                    };
                    let name = format!("{role}-{}", prefix.trim_end_matches('/'));
                    let token = token(db.url(), name.trim_end_matches('-'), role, more).await;
                    until_let_in(at.address, &token).await;
                    token
                }
            };
            // Only those of a key's own are let in by their names; so it does not matter what they are.
            for key in ["in/k", "out/k", "in"] {
                for route in &routes {
                    ask(at.address, "PUT", "/v1/config/in/k", &admin, "1").await;
                    ask(at.address, "PUT", "/v1/config/out/k", &admin, "1").await;
                    ask(at.address, "PUT", "/v1/config/in", &admin, "1").await;
                    let status = status(at.address, route, &token, key, &since).await;
                    // Failures are slowed down; what is told of them is another test's.
                    let status = if status == 429 { 401 } else { status };
                    let class = if status < 300 { 200 } else { status };
                    let wanted = expected(route, role, prefix, key);
                    let what = format!(
                        "{} {} of {key}, {role} {prefix:?}",
                        route.method, route.path
                    );
                    assert_eq!(class, wanted, "{what}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked >= 200, "{checked}");
}

/// The status of a route's answer.
async fn status(at: SocketAddr, route: &Route, token: &str, key: &str, since: &str) -> u16 {
    let mut path = route.path.replace("{key}", key);
    let header = [("api-key", token)];
    let body = match (route.method.as_str(), path.as_str()) {
        (_, "/v1/watch") => return Watch::asked(at, "", &header).await,
        (_, "/v1/changes") => {
            path += &format!("?since={since}");
            String::new()
        }
        (_, "/v1/batch") => {
            json!({ "items": [{ "key": "in/other", "value": 1 }, { "key": key, "value": 2 }] })
                .to_string()
        }
        (_, "/v1/events") => {
            json!({ "type": "t", "payload": 1, "to": { "prefix": key } }).to_string()
        }
        ("PUT", _) => "2".to_owned(),
        _ => String::new(),
    };
    let answer = request(at, &route.method, &path, &header, &body).await;
    answer.status
}

#[tokio::test]
async fn a_key_sees_its_own_prefixes_and_nothing_else() {
    let db = TestDb::new().await;
    let admin = token(db.url(), "root", "admin", &[]).await;
    let own = token(
        db.url(),
        "own",
        "write",
        &["--prefix", "a/", "--prefix", "c"],
    )
    .await;
    let at = Server::start_with(db.url(), WITH_KEYS, &[]).await;
    let before = ask(at.address, "GET", "/v1/config", &admin, "").await;
    let before = before.header("sync-config-cursor").to_owned();
    for key in ["a", "a/1", "a/2", "b/1", "c", "c1"] {
        let put = ask(at.address, "PUT", &format!("/v1/config/{key}"), &admin, "1").await;
        assert_eq!(put.status, 201);
    }
    let shown = |answer: &Value| -> Vec<String> {
        let entries = answer["entries"].as_array().unwrap();
        entries
            .iter()
            .map(|entry| entry["key"].as_str().unwrap().to_owned())
            .collect()
    };
    for (query, keys) in [
        ("", &["a/1", "a/2", "c", "c1"][..]),
        ("?prefix=a", &["a/1", "a/2"]),
        ("?prefix=c1", &["c1"]),
        ("?prefix=b", &[]),
    ] {
        let listed = ask(at.address, "GET", &format!("/v1/config{query}"), &own, "")
            .await
            .json();
        assert_eq!(shown(&listed), keys, "{query}");
        let header = [("api-key", own.as_str())];
        if keys.is_empty() {
            // Nothing would ever come.
            assert_eq!(Watch::asked(at.address, query, &header).await, 403);
            continue;
        }
        let mut watch = Watch::open(at.address, query, &header).await;
        assert_eq!(shown(&watch.news().await.json()), keys, "{query}");
    }
    let mut watch = watch(at.address, &own).await;
    for key in ["b/1", "a", "c2"] {
        ask(at.address, "PUT", &format!("/v1/config/{key}"), &admin, "2").await;
    }
    let first = watch.news().await.json();
    assert_eq!(
        first["changes"],
        json!([{ "key": "c2", "kind": "put", "new": 2 }])
    );
    for (method, key) in [
        ("GET", "b/1"),
        ("GET", "not/there"),
        ("PUT", "b/1"),
        ("DELETE", "b/1"),
    ] {
        let answer = ask(at.address, method, &format!("/v1/config/{key}"), &own, "3").await;
        assert_eq!(answer.status, 403, "{method} {key}");
    }
    let mixed = json!({ "items": [{ "key": "a/1", "value": 3 }, { "key": "b/1", "value": 3 }] });
    let refused = ask(at.address, "POST", "/v1/batch", &own, &mixed.to_string()).await;
    assert_eq!(refused.status, 403);
    let unchanged = ask(at.address, "GET", "/v1/config/a/1", &own, "").await;
    assert_eq!(unchanged.json()["value"], 1);
    assert_eq!(unchanged.header("cache-control"), "private, no-cache");
    assert!(
        unchanged.header("vary").contains("api-key"),
        "{unchanged:?}"
    );
    let page = format!("/v1/changes?since={before}");
    let changes = ask(at.address, "GET", &page, &own, "").await;
    assert!(
        changes.body.contains("a/2") && !changes.body.contains("b/1"),
        "{changes:?}"
    );
    let after = ask(at.address, "GET", "/v1/config/b/1", &admin, "").await;
    assert_eq!(after.json()["value"], 2);
}

#[tokio::test]
async fn an_identity_has_two_keys_at_most_and_a_secret_is_shown_once() {
    let db = TestDb::new().await;
    let first = token(
        db.url(),
        "gateway",
        "write",
        &["--prefix", "a/", "--expires", "90d"],
    )
    .await;
    keys(db.url(), 4, &["create", "gateway", "--role", "read"]).await;
    let rotated = keys(db.url(), 0, &["rotate", "gateway", "--json"]).await;
    let rotated: Value = serde_json::from_str(&rotated).unwrap();
    let second = rotated["token"].as_str().unwrap().to_owned();
    assert_eq!(
        (&rotated["role"], &rotated["prefixes"]),
        (&json!("write"), &json!(["a/"]))
    );
    keys(db.url(), 4, &["rotate", "gateway"]).await;
    keys(db.url(), 3, &["rotate", "nobody"]).await;
    keys(db.url(), 3, &["revoke", "nobody"]).await;
    keys(db.url(), 2, &["create", "a/b", "--role", "read"]).await;
    keys(db.url(), 2, &["create", "x", "--role", "root"]).await;
    keys(
        db.url(),
        2,
        &["create", "x", "--role", "read", "--expires", "90"],
    )
    .await;

    let at = Server::start_with(db.url(), WITH_KEYS, &[]).await;
    for token in [&first, &second] {
        assert_eq!(
            ask(at.address, "GET", "/v1/config", token, "").await.status,
            200
        );
    }
    let digests: String = one(
        &db.client().await,
        "SELECT string_agg(value::text, ' ') FROM sync_config_keys",
    )
    .await;
    for args in [&["list"][..], &["list", "--json"]] {
        let listed = output(db.url(), args).await;
        let listed = format!("{listed:?}") + &String::from_utf8_lossy(&listed.stdout);
        for token in [&first, &second] {
            let (id, secret) = token[4..].split_once('_').unwrap();
            let hash: String = Sha256::digest(token)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert!(listed.contains(id), "{listed}");
            assert!(digests.contains(&hash) && !digests.contains(secret));
            assert!(
                !listed.contains(secret) && !listed.contains(&hash),
                "{listed}"
            );
        }
    }
    let id = &first[4..20];
    keys(db.url(), 2, &["revoke", "gateway", "--id", &first]).await;
    keys(db.url(), 0, &["revoke", "gateway", "--id", id]).await;
    until_status(at.address, &first, 401).await;
    assert_eq!(
        ask(at.address, "GET", "/v1/config", &second, "")
            .await
            .status,
        200
    );
    let said = at.log.seen().join("\n");
    for secret in [&first[21..], &second[21..]] {
        assert!(!said.contains(secret), "{said}");
    }
}

#[tokio::test]
async fn what_is_stored_and_not_understood_lets_nobody_in() {
    let db = TestDb::new().await;
    let good = token(db.url(), "good", "admin", &[]).await;
    let at = Server::start_with(db.url(), WITH_KEYS, &[]).await;
    until_let_in(at.address, &good).await;
    let client = db.client().await;
    let record: String = one(&client, "SELECT value::text FROM sync_config_keys").await;
    let record: Value = serde_json::from_str(&record).unwrap();
    let forged = |change: &dyn Fn(&mut Value)| {
        let token = format!("sck_{:016x}_{}", 7, "ab".repeat(32));
        let mut record = record.clone();
        record["id"] = json!(&token[4..20]);
        let hash = Sha256::digest(&token);
        record["hash"] = hash
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
            .into();
        change(&mut record);
        (token, record.to_string())
    };
    let put = async |key: &str, record: &str| {
        let sql = "INSERT INTO sync_config_keys (key, value) VALUES ($1, $2::text::jsonb) ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value";
        client.execute(sql, &[&key, &record]).await.unwrap();
    };
    // It would let somebody in where it belongs: the forgery is one.
    let (forger, right) = forged(&|_| ());
    put("forged/a", &right).await;
    until_let_in(at.address, &forger).await;
    let wrong: [(&str, String); 4] = [
        (
            "forged/a",
            forged(&|record| record["onlyFrom"] = json!("10.0.0.0/8")).1,
        ),
        (
            "forged/a",
            forged(&|record| record["prefixes"] = json!([])).1,
        ),
        ("forged/c", right.clone()),
        ("forged", right.clone()),
    ];
    for (key, record) in wrong {
        client
            .execute("DELETE FROM sync_config_keys WHERE key LIKE 'forged%'", &[])
            .await
            .unwrap();
        until_status(at.address, &forger, 401).await;
        put(key, &record).await;
        put("forged/b", "7").await;
        // What came after it is heard of later.
        let last = token(db.url(), "last", "read", &[]).await;
        until_let_in(at.address, &last).await;
        let answer = ask(at.address, "GET", "/v1/config", &forger, "").await;
        if record.contains("\"prefixes\":[]") {
            assert_eq!(
                answer.json()["entries"],
                json!([]),
                "a key of no prefix sees nothing"
            );
        } else {
            assert!(matches!(answer.status, 401 | 429), "{key} {record}");
        }
        keys(db.url(), 0, &["revoke", "last"]).await;
    }
    // Two with one id: neither.
    put("forged/a", &right).await;
    put("forged/b", &right).await;
    until_status(at.address, &forger, 401).await;
    let named = |log: &[String]| log.iter().any(|line| line.contains("forged/c"));
    at.log.until("the entry that is none is named", named).await;
    assert_eq!(
        ask(at.address, "GET", "/v1/config", &good, "").await.status,
        200
    );
}

#[tokio::test]
async fn on_loopback_everybody_is_let_in_and_that_is_said() {
    let db = TestDb::new().await;
    for args in [&[][..], &["--auth", "auto"], &["--auth", "off"]] {
        let at = Server::start_with(db.url(), args, &[]).await;
        assert_eq!(get(at.address, "/v1/config").await.status, 200);
        let log = at.log.until("what is open", |log| log.len() > 1).await;
        assert!(log[0].contains("\"auth\":\"off\""), "{}", log[0]);
        assert!(log[1].contains("no API keys are asked for"), "{}", log[1]);
    }
}

#[tokio::test]
async fn the_journal_names_who_wrote_and_nobody_takes_anothers_idempotency_key() {
    let db = TestDb::new().await;
    let one_of = token(db.url(), "one", "write", &[]).await;
    let other = token(db.url(), "other", "write", &[]).await;
    let at = Server::start_with(db.url(), WITH_KEYS, &[]).await;
    let mut answers = Vec::new();
    for (token, value) in [(&one_of, 1), (&other, 2), (&other, 3)] {
        let body = json!({ "items": [{ "key": "k", "value": value }], "actor": "deploy" });
        let headers = [("api-key", token.as_str()), ("Idempotency-Key", "same")];
        let answer = request(at.address, "POST", "/v1/batch", &headers, &body.to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answers.push(answer.json()["replayed"] == true);
    }
    assert_eq!(answers, [false, false, true]);
    ask(at.address, "PUT", "/v1/config/k", &one_of, "4").await;
    let sql = "SELECT string_agg(actor, ', ' ORDER BY revision) FROM sync_config_revision";
    let actors: String = one(&db.client().await, sql).await;
    assert_eq!(actors, "one: deploy, other: deploy, one");
}

#[tokio::test]
async fn keys_may_be_kept_in_another_store_than_what_is_served() {
    let (db, file) = (TestDb::new().await, SqliteFile::new());
    let elsewhere = [("SYNC_CONFIG_KEYS_URL", file.url())];
    let elsewhere = elsewhere
        .each_ref()
        .map(|(name, url)| (*name, url.as_str()));
    let at = Server::start_with(db.url(), WITH_KEYS, &elsewhere).await;
    let here = token(&file.url(), "here", "read", &[]).await;
    let there = token(db.url(), "there", "read", &[]).await;
    until_let_in(at.address, &here).await;
    let refused = judged(at.address, &there).await;
    assert_eq!(refused.status, 401, "{refused:?}");
}
