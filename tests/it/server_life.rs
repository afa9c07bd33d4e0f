//! `sync-config serve`: starting, being without a database, and stopping.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::ground::one;
use crate::support::http::{Connection, Watch, answer, get, head, put, request};
use crate::support::keys::token;
use crate::support::local_postgres::LocalPostgres;
use crate::support::postgres::{TestDb, cluster, local_binaries};
use crate::support::program::{Scratch, Server, program, run};
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::{PATIENCE, eventually};

/// Waits until the server has the head of a request whose body is still on its way.
async fn under_way(at: &Server) {
    // The other one asks for this.
    let two = "sync_config_http_requests_in_flight 2";
    at.until("/metrics", |answer| {
        answer.body.lines().any(|line| line == two)
    })
    .await;
}

/// Writes a key where a deadline is so short that an attempt may miss it.
async fn put_at_last(at: &Server, key: &str, value: &str) {
    eventually("a write", PATIENCE, async || {
        let answer = put(at.address, key, value).await;
        matches!(answer.status, 200 | 201)
            .then_some(())
            .ok_or(format!("{answer:?}"))
    })
    .await;
}

async fn behind_a_proxy(db: &TestDb) -> (Proxy, String) {
    let proxy = Proxy::to(cluster().address()).await;
    let url = db.url_through(&proxy);
    (proxy, url)
}

#[tokio::test]
async fn two_servers_are_in_step_with_each_other_and_with_psql() {
    let db = TestDb::new().await;
    let (one, two) = tokio::join!(Server::start(db.url()), Server::start(db.url()));
    put(one.address, "a", "1").await;
    two.until("/v1/config/a", |answer| answer.status == 200)
        .await;
    assert_eq!(put(two.address, "a", "2").await.status, 200);
    one.until("/v1/config/a", |answer| answer.json()["value"] == 2)
        .await;
    let sql = "UPDATE sync_config SET value = '[3]' WHERE key = 'a'";
    db.client().await.batch_execute(sql).await.unwrap();
    for server in [&one, &two] {
        server
            .until("/v1/config/a", |answer| {
                answer.json()["value"] == json!([3])
            })
            .await;
    }
    let (left, right) = (
        get(one.address, "/v1/config").await,
        get(two.address, "/v1/config").await,
    );
    assert_eq!(
        (&left.body, left.header("etag")),
        (&right.body, right.header("etag"))
    );
}

#[tokio::test]
async fn reads_go_on_while_the_database_is_away() {
    let db = TestDb::new().await;
    let (proxy, url) = behind_a_proxy(&db).await;
    let at = Server::start(&url).await;
    put(at.address, "k", "1").await;
    proxy.set(Mode::Refuse).await;
    proxy.cut().await;
    at.until("/v1/status", |answer| answer.json()["mode"] == "offline")
        .await;
    assert_eq!(get(at.address, "/v1/config/k").await.json()["value"], 1);
    assert_eq!(get(at.address, "/readyz").await.status, 200);
    let refused = put(at.address, "k", "2").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.header("content-type"), "application/problem+json");
    assert!(!refused.header("retry-after").is_empty());
    let mut watch = Watch::open(at.address, "", &[]).await;
    assert_eq!(watch.news().await.event, "snapshot");
    proxy.set(Mode::Pass).await;
    at.until("/v1/status", |answer| answer.json()["mode"] == "push")
        .await;
    assert_eq!(put(at.address, "k", "3").await.status, 200);
    assert_eq!(watch.news().await.json()["changes"][0]["new"], 3);
}

#[tokio::test]
async fn a_lost_answer_is_told_as_such() {
    let db = TestDb::new().await;
    // With a limit of its own the server would say in time that it did not apply it.
    let timeouts = [
        ("SYNC_CONFIG_REQUEST_TIMEOUT", "1s"),
        ("SYNC_CONFIG_STATEMENT_TIMEOUT", "0s"),
    ];
    let at = Server::start_with(db.url(), &[], &timeouts).await;
    put_at_last(&at, "k", "1").await;
    let holder = db.client().await;
    let lock = "BEGIN; UPDATE sync_config SET value = '2' WHERE key = 'k'";
    holder.batch_execute(lock).await.unwrap();
    let unknown = eventually("a write is sent in time", PATIENCE, async || {
        let answer = put(at.address, "k", "3").await;
        // What was not sent by then is known not to be applied.
        (answer.status != 503)
            .then_some(answer)
            .ok_or("it was not sent")
    })
    .await;
    assert_eq!(unknown.status, 504, "{unknown:?}");
    assert_eq!(
        unknown.json()["type"],
        "urn:sync-config:problem:outcome-unknown"
    );
}

#[tokio::test]
async fn a_frozen_database_costs_a_request_its_deadline_and_no_more() {
    let db = TestDb::new().await;
    let (proxy, url) = behind_a_proxy(&db).await;
    let timeout = [("SYNC_CONFIG_REQUEST_TIMEOUT", "2s")];
    let mut at = Server::start_with(&url, &[], &timeout).await;
    put_at_last(&at, "k", "1").await;
    proxy.set(Mode::Freeze).await;
    // The first statement was sent and not answered; the next one finds no connection to be sent on.
    assert_eq!(put(at.address, "k", "2").await.status, 504);
    assert_eq!(put(at.address, "k", "3").await.status, 503);
    assert_eq!(get(at.address, "/v1/config/k").await.json()["value"], 1);
    at.signal("TERM").await;
    assert_eq!(at.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_client_from_a_server_further_ahead_is_never_taken_back() {
    let db = TestDb::new().await;
    let (proxy, url) = behind_a_proxy(&db).await;
    let (ahead, behind) = tokio::join!(Server::start(db.url()), Server::start(&url));
    put(ahead.address, "k", "1").await;
    behind
        .until("/v1/config/k", |answer| answer.status == 200)
        .await;
    proxy.set(Mode::Freeze).await;
    put(ahead.address, "k", "2").await;
    let seen = Watch::open(ahead.address, "", &[])
        .await
        .next()
        .await
        .unwrap();
    assert_eq!(seen.revision(), 2);
    let id = seen.resume();
    let refused = request(
        behind.address,
        "GET",
        "/v1/watch",
        &[("Last-Event-ID", &id)],
        "",
    )
    .await;
    assert_eq!(refused.status, 503, "{refused:?}");
    // It is waited for, though not for ever: who is not told in time asks again.
    let granted = eventually("the server has caught up", PATIENCE, async || {
        let headers = [("Last-Event-ID", id.as_str())];
        let status = Watch::asked(behind.address, "", &headers).await;
        (status == 200).then_some(()).ok_or(status)
    });
    tokio::join!(granted, proxy.set(Mode::Pass));
    let mut resumed = Watch::resume(behind.address, &id).await;
    put(ahead.address, "k", "3").await;
    let next = resumed.news().await;
    assert_eq!((next.event.as_str(), next.revision()), ("change", 3));
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_off_after_a_stop() {
    let db = TestDb::new().await;
    let mut at = Server::start(db.url()).await;
    let mut tcp = TcpStream::connect(at.address).await.unwrap();
    let head = head(at.address, "PUT", "/v1/config/k", &[], Some(6));
    tcp.write_all(head.as_bytes()).await.unwrap();
    under_way(&at).await;
    at.signal("TERM").await;
    assert_eq!(at.ended().await.code(), Some(0));
    let cut = |log: &[String]| log.iter().any(|line| line.contains("cut off"));
    at.log.until("the cut is told", cut).await;
}

#[tokio::test]
async fn a_server_starts_before_its_database() {
    let db = TestDb::new().await;
    let (proxy, url) = behind_a_proxy(&db).await;
    proxy.set(Mode::Refuse).await;
    let at = Server::launch(Some(&url), &[], &[]).await;
    assert_eq!(get(at.address, "/healthz").await.status, 200);
    let waiting = get(at.address, "/readyz").await;
    assert_eq!(waiting.status, 503);
    assert!(
        !waiting.json()["reasons"].as_array().unwrap().is_empty(),
        "{waiting:?}"
    );
    for path in ["/v1/config", "/v1/config/k", "/v1/watch"] {
        let answer = get(at.address, path).await;
        assert_eq!(answer.status, 503, "{path}");
        assert!(!answer.header("retry-after").is_empty());
    }
    proxy.set(Mode::Pass).await;
    at.ready().await;
    assert_eq!(put(at.address, "k", "1").await.status, 201);
}

#[tokio::test]
async fn a_stop_ends_streams_lets_requests_finish_and_exits_with_0() {
    let db = TestDb::new().await;
    for signal in ["TERM", "INT"] {
        let mut at = Server::start(db.url()).await;
        let mut watch = Watch::open(at.address, "", &[]).await;
        assert_eq!(watch.news().await.event, "snapshot");
        let mut tcp = TcpStream::connect(at.address).await.unwrap();
        let head = head(
            at.address,
            "PUT",
            &format!("/v1/config/{signal}"),
            &[],
            Some(6),
        );
        tcp.write_all(format!("{head}[1,").as_bytes())
            .await
            .unwrap();
        under_way(&at).await;
        at.signal(signal).await;
        while watch.next().await.is_some() {}
        tcp.write_all(b"2 ]").await.unwrap();
        let finished = answer(Connection::new(tcp)).await;
        assert_eq!(finished.status, 201, "{finished:?}");
        assert_eq!(at.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_server_at_once() {
    let db = TestDb::new().await;
    let mut at = Server::start(db.url()).await;
    let mut tcp = TcpStream::connect(at.address).await.unwrap();
    let head = head(at.address, "PUT", "/v1/config/k", &[], Some(6));
    tcp.write_all(head.as_bytes()).await.unwrap();
    under_way(&at).await;
    at.signal("TERM").await;
    let stopping = |log: &[String]| log.iter().any(|line| line.contains("\"stopping\""));
    at.log.until("the first signal", stopping).await;
    at.signal("TERM").await;
    assert_eq!(at.ended().await.code(), Some(130));
}

#[tokio::test]
async fn the_log_names_the_store_and_neither_values_nor_passwords() {
    let db = TestDb::new().await;
    let (proxy, url) = behind_a_proxy(&db).await;
    let url = url.replacen("@", ":hunter2@", 1);
    let mut at = Server::start_with(&url, &[], &[("RUST_LOG", "trace")]).await;
    put(at.address, "k", "\"sesame-1\"").await;
    put(at.address, "k", "\"sesame-2\\u0000\"").await;
    put(at.address, "k", "sesame-3").await;
    let sql = "UPDATE sync_config SET value = '\"sesame-4\"'";
    db.client().await.batch_execute(sql).await.unwrap();
    at.until("/v1/config/k", |answer| answer.body.contains("sesame-4"))
        .await;
    proxy.set(Mode::Refuse).await;
    proxy.cut().await;
    at.until("/v1/status", |answer| answer.json()["mode"] == "offline")
        .await;
    put(at.address, "k", "\"sesame-5\"").await;
    at.signal("TERM").await;
    assert_eq!(at.ended().await.code(), Some(0));
    let log = at
        .log
        .until("the last line", |log| {
            log.iter().any(|line| line.contains("\"stopped\""))
        })
        .await;
    assert!(
        log[0].contains("serving") && log[0].contains(db.name()),
        "{}",
        log[0]
    );
    let lines: Vec<Value> = log
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.iter().any(|line| line["level"] == "DEBUG"));
    for line in &log {
        let clean = ["sesame", "hunter2", "postgres://"]
            .iter()
            .all(|word| !line.contains(word));
        assert!(clean, "{line}");
    }
}

/// A URL, arguments, variables, and the words that have to be said.
type Refused<'a> = (
    Option<&'a str>,
    &'a [&'a str],
    &'a [(&'a str, &'a str)],
    &'a [&'a str],
);

#[tokio::test]
async fn what_is_wrong_is_refused_at_the_start_with_what_to_do() {
    let url = "postgres://u:hunter2@127.0.0.1:1/d";
    let refused: [Refused<'_>; 14] = [
        (Some(""), &["--store", "postgres"], &[], &["DATABASE_URL"]),
        (
            Some("postgres://u:hunter2@h:x/d"),
            &[],
            &[],
            &["database_url"],
        ),
        (
            Some(url),
            &[],
            &[("SYNC_CONFIG_CHECK_INTERVAL", "5")],
            &["check_interval", "\"5\"", "5s"],
        ),
        (
            Some(url),
            &[],
            &[("SYNC_CONFIG_POLL_INTERVAL", "2h")],
            &["poll_interval", "2h", "1h"],
        ),
        (Some(url), &["--table", ""], &[], &["table_name", "48"]),
        (
            Some(url),
            &["--listen", "0.0.0.0:0"],
            &[],
            &["--insecure", "loopback"],
        ),
        (
            Some(url),
            &["--listen", "[::]:0"],
            &[],
            &["--insecure", "loopback"],
        ),
        (
            Some(url),
            &["--listen", "0.0.0.0:0", "--insecure", "--auth", "off"],
            &[],
            &["--auth off", "loopback", "sync-config keys create"],
        ),
        (
            Some(url),
            &["--tls-cert", "/nowhere/cert.pem"],
            &[],
            &["--tls-key"],
        ),
        (
            Some(url),
            &[
                "--tls-cert",
                "/nowhere/cert.pem",
                "--tls-key",
                "/nowhere/key.pem",
            ],
            &[],
            &["/nowhere/cert.pem", "cannot be read"],
        ),
        (
            Some(url),
            &["--allow-origin", "*"],
            &[],
            &["--allow-origin", "https://"],
        ),
        (
            Some(url),
            &["--auth", "keys"],
            &[(
                "SYNC_CONFIG_TABLE_NAME",
                "a_table_whose_name_has_as_many_as_44_bytes_x",
            )],
            &["table_name", "44", "43"],
        ),
        (
            Some(url),
            &["--keys-max-staleness", "5"],
            &[],
            &["--keys-max-staleness"],
        ),
        (
            Some(url),
            &[],
            &[("SYNC_CONFIG_AUTH", "none")],
            &["--auth", "none"],
        ),
    ];
    for (url, args, variables, words) in refused {
        let mut command = program(url, &["serve"]);
        if !args.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let output = run(command.args(args).envs(variables.iter().copied())).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            words.iter().all(|word| said.contains(word)),
            "{words:?}: {said}"
        );
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn beyond_loopback_nobody_is_let_in_without_a_key() {
    let db = TestDb::new().await;
    let open = ["--listen", "0.0.0.0:0", "--insecure"];
    // Before the server: asking for a key that it has not heard of yet is slowed down after a while.
    let key = token(db.url(), "gateway", "read", &[]).await;
    let mut at = Server::launch(Some(db.url()), &open, &[]).await;
    at.address.set_ip([127, 0, 0, 1].into());
    at.ready().await;
    let said = at.log.until("what is open", |log| log.len() > 1).await;
    assert!(said[0].contains("\"auth\":\"keys\""), "{}", said[0]);
    assert!(said[1].contains("plaintext"), "{}", said[1]);
    let ask = async |headers: &[(&str, &str)]| {
        let answer = request(at.address, "GET", "/v1/config", headers, "").await;
        answer.status
    };
    let (name, shown) = (("Host", "config.example"), ("api-key", key.as_str()));
    eventually("the key is known", PATIENCE, async || {
        (ask(&[name, shown]).await == 200).then_some(())
    })
    .await;
    assert_eq!(ask(&[name]).await, 401);
    assert_eq!(ask(&[]).await, 401, "from this machine, too");
    let page = ("Origin", "http://evil.example");
    assert_eq!(ask(&[name, shown, page]).await, 403);
}

#[tokio::test]
async fn without_a_database_servers_of_one_machine_share_an_sqlite_file_that_outlives_them() {
    let dir = Scratch::new("sqlite");
    let data = dir.path().join("made").join("here");
    let variables = [("SYNC_CONFIG_DATA", data.to_str().unwrap())];
    let (one, two) = tokio::join!(
        Server::launch(None, &[], &variables),
        Server::launch(None, &["--store", "sqlite"], &variables),
    );
    tokio::join!(one.ready(), two.ready());
    assert_eq!(put(one.address, "k", "1").await.status, 201);
    two.until("/v1/config/k", |answer| answer.json()["value"] == 1)
        .await;
    let file = data.join("config.db");
    let shell = rusqlite::Connection::open(&file).unwrap();
    shell
        .execute("UPDATE sync_config SET value = '[2]' WHERE key = 'k'", [])
        .unwrap();
    drop(shell);
    for server in [&one, &two] {
        server
            .until("/v1/config/k", |answer| {
                answer.json()["value"] == json!([2])
            })
            .await;
        let ready = get(server.address, "/readyz").await.json();
        let store = ready["store"].as_str().unwrap().to_owned();
        assert!(store.contains("config.db"), "{store}");
        assert!(server.log.seen()[0].contains("the SQLite file"));
    }
    let before = get(one.address, "/v1/config").await;
    for mut server in [one, two] {
        server.signal("TERM").await;
        assert_eq!(server.ended().await.code(), Some(0));
    }
    let again = Server::launch(None, &[], &variables).await;
    again.ready().await;
    let after = get(again.address, "/v1/config").await;
    assert_eq!(
        (before.header("etag"), &before.body),
        (after.header("etag"), &after.body)
    );
}

#[tokio::test]
async fn a_private_postgresql_keeps_its_data_over_a_restart() {
    local_binaries();
    let dir = Scratch::new("pg-local");
    let data = dir.path().join("store");
    let args = ["--store", "pg-local", "--data", data.to_str().unwrap()];
    let mut etag = String::new();
    for status in [201, 200] {
        let mut at = Server::launch(None, &args, &[]).await;
        at.ready().await;
        if status == 200 {
            assert_eq!(get(at.address, "/v1/config/k").await.header("etag"), etag);
        }
        let written = put(at.address, "k", "1").await;
        assert_eq!(written.status, status);
        etag = written.header("etag").to_owned();
        let log = at.log.seen();
        assert!(log[0].contains("private PostgreSQL"), "{}", log[0]);
        let password = std::fs::read_to_string(data.join("password")).unwrap();
        assert!(log.iter().all(|line| !line.contains(password.trim())));
        at.signal("TERM").await;
        assert_eq!(at.ended().await.code(), Some(0));
    }
    // Its own server is gone with it: another one may have the data now.
    let own = LocalPostgres::durable(&local_binaries(), &data, None).unwrap();
    assert!(own.owns_server());
}

#[tokio::test]
async fn connections_that_say_nothing_leave_the_database_the_files_it_needs() {
    let db = TestDb::new().await;
    let at = Server::start_within(200, db.url()).await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(at.address).await.unwrap());
    }
    let client = db.client().await;
    let ours =
        "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let newest = format!("SELECT max(backend_start)::text {ours}");
    let before: String = one(&client, &newest).await;
    let ended = format!("SELECT count(pg_terminate_backend(pid)) {ours}");
    assert!(one::<i64>(&client, &ended).await >= 1);
    eventually("another session", PATIENCE, async || {
        let found: Option<String> = one(&client, &newest).await;
        found.filter(|found| *found > before)
    })
    .await;
    let told = at.log.until("the bound", |log| {
        log.iter().any(|line| line.contains("limit of open files"))
    });
    told.await;
}
