//! TLS means to this program what it means to libpq, on every connection it opens.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sync_config::Mode as How;
use sync_config::prelude::*;
use tokio_postgres::Client;

use crate::fleet::{in_step, record, until_status};
use crate::ground::{changed_revisions, one, quick, run, start, terminate, until_push};
use crate::support::tls::{Authority, Identity, TlsServer, self_signed};
use crate::support::wait::{PATIENCE, eventually};

const ANYBODY: &str = "host all all 127.0.0.1/32 trust";
const ONLY_TLS: &str = "hostssl all all 127.0.0.1/32 trust";
const ONLY_PLAIN: &str = "hostnossl all all 127.0.0.1/32 trust";

/// What is to come of an attempt to connect.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Plain,
    Tls,
    /// An error with these words.
    Fails(&'static str),
}

use Outcome::{Fails, Plain, Tls};

/// Starts an instance and sees whether its sessions, of the pool and the one that listens, are encrypted.
async fn attempt(admin: &Client, url: &str) -> Result<Outcome, String> {
    let settings = quick(Settings::new(url)).request_timeout(Duration::from_secs(5));
    let service = match Builder::new(settings).start().await {
        Ok(service) => service,
        Err(error) => return Err(error.to_string()),
    };
    service.set("k", 1).await.unwrap();
    let sessions = encrypted(admin, "sync-config").await;
    service.shutdown().await.unwrap();
    eventually("no session left", PATIENCE, async || {
        encrypted(admin, "sync-config")
            .await
            .is_empty()
            .then_some(())
    })
    .await;
    assert!(sessions.len() >= 2, "{sessions:?}");
    match sessions.iter().filter(|encrypted| **encrypted).count() {
        0 => Ok(Plain),
        some if some == sessions.len() => Ok(Tls),
        _ => Err(format!("only some sessions are encrypted: {sessions:?}")),
    }
}

/// Whether each session of a name is encrypted.
async fn encrypted(admin: &Client, name: &str) -> Vec<bool> {
    let sql = "SELECT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.application_name = $1";
    let rows = admin.query(sql, &[&name]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn expect(server: &TlsServer, what: &str, cases: &[(&str, &str, Outcome)]) {
    let admin = server.admin().await;
    for (host, parameters, wanted) in cases {
        let found = attempt(&admin, &server.url(host, parameters)).await;
        let as_wanted = match (&found, wanted) {
            (Ok(Plain), Plain) | (Ok(Tls), Tls) => true,
            (Err(error), Fails(words)) => error.contains(words),
            _ => false,
        };
        assert!(
            as_wanted,
            "{what}, {host} with {parameters}: {found:?} instead of {wanted:?}"
        );
    }
}

/// A parameter for a file.
fn file(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sslmode_means_what_it_means_to_libpq_on_every_kind_of_server() {
    let server = TlsServer::start();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let good = ours.sign("postgres server", &["localhost", "127.0.0.1"]);
    let root = file("sslrootcert", &server.file("ours.crt", &ours.pem()));
    let other = file("sslrootcert", &server.file("theirs.crt", &theirs.pem()));
    let with = |mode: &str, root: &str| format!("sslmode={mode}&{root}");
    let [require, ca, full] = ["require", "verify-ca", "verify-full"].map(|mode| with(mode, &root));
    let strange = ["prefer", "require", "verify-ca", "verify-full"].map(|mode| with(mode, &other));
    let no_tls = "server does not support TLS";

    let cases = [
        ("localhost", "sslmode=disable", Plain),
        ("localhost", "sslmode=allow", Plain),
        ("localhost", "sslmode=prefer", Plain),
        ("localhost", "", Plain),
        ("localhost", "sslmode=require", Fails(no_tls)),
        ("localhost", &ca, Fails(no_tls)),
        ("localhost", &full, Fails(no_tls)),
    ];
    server.set(None, None, ANYBODY).await;
    expect(&server, "without TLS", &cases).await;

    let unknown = "unknown authority";
    let cases = [
        ("localhost", "sslmode=disable", Plain),
        ("localhost", "sslmode=allow", Plain),
        ("localhost", "sslmode=prefer", Tls),
        ("localhost", "", Tls),
        ("localhost", "sslmode=require", Tls),
        ("localhost", &require, Tls),
        ("localhost", &ca, Tls),
        ("localhost", &full, Tls),
        ("127.0.0.1", &full, Tls),
        ("localhost", &strange[0], Tls),
        ("localhost", &strange[1], Fails(unknown)),
        ("localhost", &strange[2], Fails(unknown)),
        ("127.0.0.1", &strange[3], Fails(unknown)),
    ];
    server.set(Some(&good), None, ANYBODY).await;
    expect(&server, "with TLS", &cases).await;

    let cases = [
        ("localhost", "sslmode=disable", Fails("no encryption")),
        ("localhost", "sslmode=allow", Tls),
        ("localhost", "sslmode=prefer", Tls),
        ("localhost", "sslmode=require", Tls),
    ];
    server.set(Some(&good), None, ONLY_TLS).await;
    expect(&server, "TLS only", &cases).await;

    let cases = [
        ("localhost", "sslmode=disable", Plain),
        ("localhost", "sslmode=allow", Plain),
        ("localhost", "sslmode=prefer", Plain),
        ("localhost", "sslmode=require", Fails("SSL encryption")),
        ("localhost", &full, Fails("SSL encryption")),
    ];
    server.set(Some(&good), None, ONLY_PLAIN).await;
    expect(&server, "no TLS allowed", &cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_judged_as_libpq_does() {
    let server = TlsServer::start();
    let ours = Authority::new("ours");
    let root = server.file("ours.crt", &ours.pem());
    let with = |mode: &str, root: &Path| format!("sslmode={mode}&{}", file("sslrootcert", root));
    let [require, ca, full] = ["require", "verify-ca", "verify-full"].map(|mode| with(mode, &root));

    let elsewhere = ours.sign("elsewhere", &["elsewhere.example.org"]);
    server.set(Some(&elsewhere), None, ANYBODY).await;
    let cases = [
        ("localhost", "sslmode=require", Tls),
        ("localhost", ca.as_str(), Tls),
        ("localhost", &full, Fails("another host name")),
        ("127.0.0.1", &full, Fails("another host name")),
    ];
    expect(&server, "another host", &cases).await;

    let expired = ours.sign_expired("localhost", &["localhost"]);
    server.set(Some(&expired), None, ANYBODY).await;
    let cases = [
        ("localhost", "sslmode=prefer", Tls),
        ("localhost", "sslmode=require", Tls),
        ("localhost", &require, Fails("expired")),
        ("localhost", &full, Fails("expired")),
    ];
    expect(&server, "expired", &cases).await;

    let by_common_name = ours.sign("localhost", &[]);
    server.set(Some(&by_common_name), None, ANYBODY).await;
    let cases = [
        ("localhost", full.as_str(), Tls),
        ("127.0.0.1", &full, Fails("another host name")),
    ];
    expect(&server, "a common name", &cases).await;

    // An alternative name makes the common name count for nothing.
    let both = ours.sign("localhost", &["elsewhere.example.org"]);
    server.set(Some(&both), None, ANYBODY).await;
    let cases = [("localhost", full.as_str(), Fails("another host name"))];
    expect(&server, "both names", &cases).await;

    let own = self_signed("localhost");
    let itself = with("verify-full", &server.file("itself.crt", &own.certificate));
    server.set(Some(&own), None, ANYBODY).await;
    let cases = [
        ("localhost", itself.as_str(), Tls),
        ("localhost", &full, Fails("none of sslrootcert's")),
    ];
    expect(&server, "its own authority", &cases).await;

    let like_it = with(
        "verify-full",
        &server.file("like.crt", &self_signed("localhost").certificate),
    );
    let cases = [(
        "localhost",
        like_it.as_str(),
        Fails("none of sslrootcert's"),
    )];
    expect(&server, "another of its name", &cases).await;
}

/// A server that asks for certificates, and an instance's address with one.
async fn with_client(server: &TlsServer, authority: &Authority, client: &Identity) -> String {
    let identity = authority.sign("server", &["localhost"]);
    let rules = "hostssl all all 127.0.0.1/32 cert";
    server
        .set(Some(&identity), Some(&authority.pem()), rules)
        .await;
    let root = server.file("root.crt", &authority.pem());
    let certificate = server.file("client.crt", &client.certificate);
    let key = server.file("client.key", &client.key);
    let files = [
        ("sslrootcert", &root),
        ("sslcert", &certificate),
        ("sslkey", &key),
    ];
    let files = files.map(|(name, path)| file(name, path)).join("&");
    server.url("localhost", &format!("sslmode=verify-full&{files}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_logs_in_and_a_renewed_one_is_taken_without_a_restart() {
    let server = TlsServer::start();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let good = ours.sign("postgres", &[]);
    let url = with_client(&server, &ours, &good).await;
    let admin = server.admin().await;
    let bare = server.url("localhost", "sslmode=require");
    let refused = attempt(&admin, &bare).await.unwrap_err();
    assert!(refused.contains("certificate"), "{refused}");

    let service = start(quick(Settings::new(url))).await;
    until_push(&service).await;
    assert!(
        encrypted(&admin, "sync-config")
            .await
            .iter()
            .all(|encrypted| *encrypted)
    );
    let bad = theirs.sign("postgres", &[]);
    server.file("client.crt", &bad.certificate);
    server.file("client.key", &bad.key);
    assert!(terminate(&admin, "sync-config").await >= 2);
    until_status(&service, "offline with the wrong certificate", |status| {
        let why = status.reason.as_deref().unwrap_or_default();
        status.mode == How::Offline && why.contains("UnknownCA")
    })
    .await;
    let renewed = ours.sign("postgres", &[]);
    server.file("client.crt", &renewed.certificate);
    server.file("client.key", &renewed.key);
    until_push(&service).await;
    eventually("a write", PATIENCE, async || service.set("k", 1).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_will_not_do_are_told_at_start_by_the_parameters_name() {
    use std::os::unix::fs::PermissionsExt;
    let server = TlsServer::start();
    let ours = Authority::new("ours");
    let (one, two) = (ours.sign("postgres", &[]), ours.sign("postgres", &[]));
    let root = file("sslrootcert", &server.file("root.crt", &ours.pem()));
    let certificate = file("sslcert", &server.file("one.crt", &one.certificate));
    let open = server.file("open.key", &one.key);
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let open = file("sslkey", &open);
    let stranger = file("sslkey", &server.file("two.key", &two.key));
    let empty = server.file("empty", "");
    let cases = [
        ("sslrootcert=/no/such.crt".to_owned(), "sslrootcert"),
        (file("sslrootcert", &empty), "sslrootcert"),
        (
            format!("{root}&{certificate}&{open}"),
            "can be read by others",
        ),
        (
            format!("{root}&{certificate}&{stranger}"),
            "do not fit together",
        ),
        (
            format!("{root}&{certificate}&{}", file("sslkey", &empty)),
            "sslkey",
        ),
        (
            format!("{root}&{certificate}&sslkey=/no/such.key"),
            "sslkey",
        ),
        (
            "sslrootcert=system&sslmode=require".to_owned(),
            "verify-full",
        ),
    ];
    for (parameters, words) in cases {
        let mode = if parameters.contains("sslmode") {
            ""
        } else {
            "&sslmode=verify-ca"
        };
        let url = server.url("localhost", &format!("{parameters}{mode}"));
        let error = Builder::new(Settings::new(url)).start().await.unwrap_err();
        assert!(
            error.is_invalid_input() && error.to_string().contains(words),
            "{parameters}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_notices_arrive_and_a_terminated_listener_comes_back() {
    let server = TlsServer::start();
    let ours = Authority::new("ours");
    let identity = ours.sign("server", &["localhost"]);
    server.set(Some(&identity), None, ONLY_TLS).await;
    let root = file("sslrootcert", &server.file("root.crt", &ours.pem()));
    let url = server.url("localhost", &format!("sslmode=verify-full&{root}"));
    let admin = server.admin().await;
    let writer = start(quick(Settings::new(&url))).await;
    let ears = format!("{url}&application_name=ears");
    let reader = start(quick(Settings::new(&url)).listen_database_url(ears)).await;
    assert_eq!(reader.status().mode, How::Push);
    assert_eq!(encrypted(&admin, "ears").await, [true]);
    let seen = record(&reader, Filter::all());
    for round in 0..3u64 {
        let lost = reader.status().counters.sessions_lost;
        for step in 0..10u64 {
            writer.set("k", round * 10 + step).await.unwrap();
            if step == 5 {
                assert_eq!(terminate(&admin, "ears").await, 1);
            }
        }
        until_status(&reader, "push again", |status| {
            status.counters.sessions_lost > lost && status.mode == How::Push
        })
        .await;
    }
    let events = seen
        .until("all", |seen| changed_revisions(seen).len() >= 30)
        .await;
    assert_eq!(changed_revisions(&events), (1..=30).collect::<Vec<_>>());
    // A page of some size is many records of TLS.
    run(
        &admin,
        "INSERT INTO sync_config (key, value) SELECT 'bulk:' || n, to_jsonb(repeat('x', 500)) FROM generate_series(1, 20000) n",
    )
    .await;
    let written = writer.set("k", "last").await.unwrap();
    in_step(&[&writer, &reader], written.revision()).await;
    assert!(
        encrypted(&admin, "ears")
            .await
            .iter()
            .all(|encrypted| *encrypted)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_was_given_up_is_cancelled_over_tls() {
    let server = TlsServer::start();
    let ours = Authority::new("ours");
    let identity = ours.sign("server", &["localhost"]);
    server.set(Some(&identity), None, ONLY_TLS).await;
    let root = file("sslrootcert", &server.file("root.crt", &ours.pem()));
    let direct = server.url("localhost", &format!("sslmode=verify-full&{root}"));
    let relay = Arc::new(Relay::to(server.port()).await);
    let through = direct.replace(
        &format!(":{}/", server.port()),
        &format!(":{}/", relay.port),
    );
    let settings = quick(Settings::new(through))
        .listen_database_url(direct)
        .request_timeout(Duration::from_secs(2))
        .statement_timeout(Duration::ZERO);
    let service = start(settings).await;
    service.set("k", 1).await.unwrap();
    let (admin, watcher) = (server.admin().await, server.admin().await);
    run(
        &admin,
        "BEGIN; UPDATE sync_config SET value = '2' WHERE key = 'k'",
    )
    .await;
    let before = relay.greetings().len();
    let error = service.set("k", 3).await.unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    eventually("the statement ended", PATIENCE, async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        (one::<i64>(&watcher, waiting).await == 0).then_some(())
    })
    .await;
    run(&admin, "COMMIT").await;
    let greetings = relay.greetings();
    assert!(greetings.len() > before, "the server was told");
    let asks_for_tls = [0, 0, 0, 8, 4, 210, 22, 47];
    assert!(
        greetings.iter().all(|greeting| *greeting == asks_for_tls),
        "{greetings:?}"
    );
}

#[cfg(feature = "cli")]
#[tokio::test]
async fn where_the_address_says_nothing_libpqs_variables_count() {
    use crate::support::program::{program, run};
    let server = TlsServer::start();
    server.set(None, None, ANYBODY).await;
    let said = async |url: &str| {
        let mut command = program(Some(url), &["migrate"]);
        let output = run(command.env("PGSSLMODE", "require")).await;
        (
            output.status.success(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (worked, error) = said(&server.url("localhost", "connect_timeout=5")).await;
    assert!(!worked && error.contains("does not support TLS"), "{error}");
    let (worked, error) = said(&server.url("localhost", "sslmode=prefer")).await;
    assert!(worked, "{error}");
}

#[cfg(feature = "cli")]
#[tokio::test]
async fn libpqs_own_files_that_will_not_do_keep_nobody_who_only_prefers_tls_from_connecting() {
    use std::os::unix::fs::PermissionsExt;

    use crate::support::program::{Scratch, program, run};
    let server = TlsServer::start();
    let (ours, home) = (Authority::new("ours"), Scratch::new("home"));
    let client = ours.sign("postgres", &[]);
    let files = home.path().join(".postgresql");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("postgresql.crt"), &client.certificate).unwrap();
    let key = files.join("postgresql.key");
    std::fs::write(&key, &client.key).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = async |parameters: &str| {
        let url = server.url("localhost", parameters);
        let mut command = program(Some(&url), &["migrate"]);
        let output = run(command.env("HOME", home.path())).await;
        (
            output.status.success(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    server.set(None, None, ANYBODY).await;
    let (worked, error) = said("").await;
    assert!(worked, "{error}");
    assert!(
        error.contains("can be read by others"),
        "it is said: {error}"
    );
    let (worked, error) = said("sslmode=require").await;
    assert!(
        !worked && error.contains("can be read by others"),
        "{error}"
    );
    // With TLS there, and without need for it, libpq goes plain too.
    let identity = ours.sign("server", &["localhost"]);
    server.set(Some(&identity), None, ANYBODY).await;
    let (worked, error) = said("sslmode=prefer").await;
    assert!(worked, "{error}");
    server.set(Some(&identity), None, ONLY_TLS).await;
    let (worked, error) = said("sslmode=prefer").await;
    assert!(!worked && error.contains("no encryption"), "{error}");
}

/// Passes connections on, and keeps the first bytes that each client sent.
struct Relay {
    port: u16,
    greetings: Arc<std::sync::Mutex<Vec<[u8; 8]>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    async fn to(port: u16) -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let greetings = Arc::new(std::sync::Mutex::new(Vec::new()));
        let record = greetings.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new(); // they end with this task
            while let Ok((mut client, _)) = listener.accept().await {
                let record = record.clone();
                connections.spawn(async move {
                    let mut greeting = [0; 8];
                    client.read_exact(&mut greeting).await?;
                    record.lock().unwrap().push(greeting);
                    let mut server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
                    server.write_all(&greeting).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Self {
            port: own,
            greetings,
            task,
        }
    }

    fn greetings(&self) -> Vec<[u8; 8]> {
        self.greetings.lock().unwrap().clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
