//! A replica with an API key: one that is revoked, one for a part of the keys, one that may only read.

use sync_config::Mode;
use sync_config::prelude::*;

use crate::fleet::until_status;
use crate::support::http;
use crate::support::program::{Scratch, Server, program, run};
use crate::support::remote::{quick, serve, url};
use crate::support::sqlite::SqliteFile;
use crate::support::tls::Authority;
use crate::support::wait::{PATIENCE, eventually};

/// Makes a key and answers with its token.
async fn create(file: &SqliteFile, args: &[&str]) -> String {
    let output = run(program(Some(&file.url()), &["keys", "create"]).args(args)).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_ends_the_news_and_the_writes_but_no_reads() {
    let file = SqliteFile::new();
    let token = create(&file, &["app", "--role", "write"]).await;
    let server = serve(&file.url(), &["--auth", "keys"]).await;
    let one = Builder::remote([url(&server)]).settings(quick().api_key(&token));
    let one = one.start().await.unwrap();
    assert!(one.set("k", 1).await.unwrap().visible());
    let output = run(&mut program(Some(&file.url()), &["keys", "revoke", "app"])).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let status = until_status(&one, "it is told", |status| {
        let why = status.reason.as_deref().unwrap_or_default();
        status.mode == Mode::Offline && why.contains("api_key")
    })
    .await;
    assert!(!format!("{status:?}").contains(&token), "{status:?}");
    assert_eq!(one.get_i64("k", 0), 1);
    let refused = one.set("k", 2).await.unwrap_err();
    assert!(
        refused.is_denied() && !refused.to_string().contains(&token),
        "{refused}"
    );
    let again = Builder::remote([url(&server)]).settings(quick().api_key(&token));
    assert!(again.start().await.unwrap_err().is_denied());
    let without = Builder::remote([url(&server)]).settings(quick());
    assert!(without.start().await.unwrap_err().is_denied());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_for_a_part_shows_that_part_and_says_so() {
    let file = SqliteFile::new();
    let writer = create(&file, &["writer", "--role", "write"]).await;
    let token = create(
        &file,
        &[
            "part", "--role", "write", "--prefix", "a:", "--prefix", "b:",
        ],
    )
    .await;
    let server = serve(&file.url(), &["--auth", "keys"]).await;
    let whole = Builder::remote([url(&server)])
        .settings(quick().api_key(&writer))
        .start()
        .await
        .unwrap();
    whole
        .write(Batch::new().put("a:1", 1).put("b:1", 1).put("c:1", 1))
        .await
        .unwrap();
    let settings = quick()
        .api_key(&token)
        .heartbeat_interval(std::time::Duration::from_millis(200));
    let part = Builder::remote([url(&server)])
        .settings(settings)
        .start()
        .await
        .unwrap();
    assert_eq!(part.status().entries, 2);
    let status = until_status(&part, "push", |status| status.mode == Mode::Push).await;
    let reason = status.reason.unwrap_or_default();
    assert!(
        reason.contains("\"a:\"") && reason.contains("\"b:\""),
        "{reason}"
    );
    until_status(&whole, "push, with nothing to say", |status| {
        status.mode == Mode::Push && status.reason.is_none()
    })
    .await;
    // Revisions of others are followed all the same, so that its own are read at once.
    let theirs = whole.set("c:1", 2).await.unwrap();
    part.wait_for(theirs.cursor().into(), PATIENCE)
        .await
        .unwrap();
    let own = part.set("a:1", 3).await.unwrap();
    assert!(own.visible() && part.get_i64("a:1", 0) == 3 && part.get("c:1").unwrap().is_none());
    assert!(part.set("c:1", 4).await.unwrap_err().is_denied());
    let status = part.status();
    assert_eq!(
        (status.heartbeat.mismatches, status.heartbeat.resyncs),
        (0, 0),
        "{status:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_only_reads_writes_nothing() {
    let file = SqliteFile::new();
    let token = create(&file, &["reader", "--role", "read"]).await;
    let server = serve(&file.url(), &["--auth", "keys"]).await;
    let one = Builder::remote([url(&server)])
        .settings(quick().api_key(&token))
        .start()
        .await
        .unwrap();
    let refused = one.set("k", 1).await.unwrap_err();
    assert!(
        refused.is_denied() && refused.to_string().contains("write"),
        "{refused}"
    );
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    let missing = http::request(server.address, "GET", "/v1/config/k", &headers, "").await;
    assert_eq!(missing.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_believed_only_by_a_certificate_of_its_name_and_of_a_known_authority() {
    let (file, dir) = (SqliteFile::new(), Scratch::new("remote-tls"));
    let authority = Authority::new("sctest authority");
    let identity = authority.sign("sctest", &["localhost"]);
    let written = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (ca, other) = (
        written("ca.pem", &authority.pem()),
        written("other.pem", &Authority::new("somebody else").pem()),
    );
    let (certificate, key) = (
        written("server.pem", &identity.certificate),
        written("server.key", &identity.key),
    );
    private(&key);
    let args = ["--tls-cert", &certificate, "--tls-key", &key];
    let server = Server::launch(Some(&file.url()), &args, &[]).await;
    let port = server.address.port();
    let start = async |host: &str, ca: &str| {
        let settings = quick().ca_file(ca);
        let servers = [format!("https://{host}:{port}")];
        Builder::remote(servers).settings(settings).start().await
    };
    let one = eventually("the server is loaded", PATIENCE, || start("localhost", &ca)).await;
    assert!(one.set("k", 1).await.unwrap().visible());
    until_status(&one, "push", |status| status.mode == Mode::Push).await;
    for (host, ca) in [("127.0.0.1", &ca), ("localhost", &other)] {
        let error = start(host, ca).await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        assert!(error.to_string().contains("TLS: "), "{error}");
    }
    let missing = start("localhost", "/nowhere/ca.pem").await.unwrap_err();
    assert!(missing.to_string().contains("ca_file"), "{missing}");
    // Somebody who speaks no TLS is no server either.
    let plain = Builder::remote([format!("http://localhost:{port}")]).settings(quick());
    assert!(plain.start().await.unwrap_err().is_unavailable());
}

/// Lets nobody else read a key.
fn private(path: &str) {
    use std::os::unix::fs::PermissionsExt;
    let owner = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, owner).unwrap();
}
