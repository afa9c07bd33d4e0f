//! `sync-config serve` with a certificate of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::keys::token;
use crate::support::postgres::TestDb;
use crate::support::program::{Scratch, Server, run};
use crate::support::tls::{Authority, Identity};
use crate::support::wait::{PATIENCE, eventually};

/// A server's files.
struct Files(Scratch);

impl Files {
    fn new(name: &str, identity: &Identity) -> Self {
        let files = Self(Scratch::new(name));
        files.put(identity);
        files
    }

    fn put(&self, identity: &Identity) {
        for (path, text) in [
            (self.certificate(), &identity.certificate),
            (self.key(), &identity.key),
        ] {
            self.replace(&path, text);
        }
    }

    /// Puts a file in another's place, whole.
    fn replace(&self, path: &Path, text: &str) {
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, path).unwrap();
    }

    fn certificate(&self) -> PathBuf {
        self.0.path().join("server.pem")
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("server.key")
    }

    async fn serve(&self, url: &str) -> Server {
        let (certificate, key) = (self.certificate(), self.key());
        let files = [certificate.to_str().unwrap(), key.to_str().unwrap()];
        let args = [
            "--auth",
            "keys",
            "--tls-cert",
            files[0],
            "--tls-key",
            files[1],
        ];
        Server::launch(Some(url), &args, &[]).await
    }
}

/// Connects to `localhost` if its certificate is of one of these.
async fn connect(at: SocketAddr, roots: &[&Authority]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut store = RootCertStore::empty();
    for root in roots {
        let certificate = CertificateDer::from_pem_slice(root.pem().as_bytes()).unwrap();
        store.add(certificate).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tcp = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let shaken = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    timeout(PATIENCE, shaken).await.unwrap()
}

async fn send(stream: &mut TlsStream<TcpStream>, path: &str, token: &str) {
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\napi-key: {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

/// Reads until a text has come.
async fn until(stream: &mut TlsStream<TcpStream>, wanted: &str) -> String {
    let read = async {
        let mut text = Vec::new();
        let mut bytes = [0; 4_096];
        while !String::from_utf8_lossy(&text).contains(wanted) {
            let count = stream.read(&mut bytes).await.unwrap();
            assert!(count > 0, "{wanted}: {}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&bytes[..count]);
        }
        String::from_utf8_lossy(&text).into_owned()
    };
    timeout(PATIENCE, read).await.unwrap()
}

/// Waits until new connections are shown a certificate of this one.
async fn until_shown(at: SocketAddr, root: &Authority) {
    eventually("the renewed certificate", PATIENCE, || async {
        let connected = connect(at, &[root]).await;
        connected.map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_renewed_while_connections_go_on() {
    let db = TestDb::new().await;
    let key = token(db.url(), "good", "write", &[]).await;
    let (old, new, newest) = (
        Authority::new("old"),
        Authority::new("new"),
        Authority::new("newest"),
    );
    let files = Files::new("renewed", &old.sign("server", &["localhost"]));
    let at = files.serve(db.url()).await;
    until_shown(at.address, &old).await;
    assert!(
        connect(at.address, &[&new]).await.is_err(),
        "it is not yet there"
    );
    let mut open = connect(at.address, &[&old]).await.unwrap();
    assert_eq!(open.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    eventually("it is loaded", PATIENCE, || async {
        let mut stream = connect(at.address, &[&old]).await.unwrap();
        send(&mut stream, "/readyz", "").await;
        let answer = until(&mut stream, "\r\n").await;
        answer.contains(" 200 ").then_some(()).ok_or(answer)
    })
    .await;
    send(&mut open, "/v1/watch", &key).await;
    until(&mut open, "event: snapshot").await;

    files.put(&new.sign("server", &["localhost"]));
    until_shown(at.address, &new).await;
    assert!(
        connect(at.address, &[&old]).await.is_err(),
        "the old one is gone"
    );

    // A key of another certificate, and a text that is none.
    let stranger = newest.sign("server", &["localhost"]);
    for broken in [stranger.key.as_str(), "no PEM"] {
        let told = at.log.seen().len();
        files.replace(&files.key(), broken);
        at.log
            .until("the file is refused", |log| {
                log[told..].iter().any(|line| line.contains("will not do"))
            })
            .await;
        assert!(
            connect(at.address, &[&new]).await.is_ok(),
            "the old one is kept"
        );
    }

    // The signal alone: what stands there is read again.
    files.put(&newest.sign("server", &["localhost"]));
    at.signal("HUP").await;
    until_shown(at.address, &newest).await;

    let sql = "INSERT INTO sync_config (key, value) VALUES ('k', '1')";
    db.client().await.batch_execute(sql).await.unwrap();
    until(&mut open, "event: change").await;
    let log = at.log.seen().join("\n");
    assert!(!log.contains("PRIVATE KEY"), "{log}");
}

#[tokio::test]
async fn a_stock_client_trusts_the_certificate_and_plaintext_gets_nothing() {
    let db = TestDb::new().await;
    let key = token(db.url(), "good", "read", &[]).await;
    let authority = Authority::new("root");
    let files = Files::new("curl", &authority.sign("server", &["localhost"]));
    let root = files.0.path().join("root.pem");
    std::fs::write(&root, authority.pem()).unwrap();
    let at = files.serve(db.url()).await;
    let port = at.address.port();
    let curl = async |scheme: &str, more: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "20", "--ipv4"]);
        command
            .args(["--cacert", root.to_str().unwrap()])
            .args(more);
        command.arg(format!("{scheme}://localhost:{port}/v1/config"));
        run(&mut command).await
    };
    let header = format!("Authorization: Bearer {key}");
    eventually("it is served", PATIENCE, async || {
        let output = curl("https", &["--header", &header, "--fail"]).await;
        let body = String::from_utf8_lossy(&output.stdout).into_owned();
        (body == r#"{"revision":0,"entries":[]}"#)
            .then_some(())
            .ok_or(format!("{output:?}"))
    })
    .await;
    let refused = curl("https", &["--write-out", "%{http_code}"]).await;
    assert!(
        String::from_utf8_lossy(&refused.stdout).ends_with("401"),
        "{refused:?}"
    );
    for version in ["1.2", "1.3"] {
        let most = ["--tls-max", version, "--header", &header, "--fail"];
        assert!(curl("https", &most).await.status.success(), "TLS {version}");
    }
    let plain = curl("http", &["--header", &header]).await;
    assert!(!plain.status.success(), "{plain:?}");
}

#[tokio::test]
async fn with_tls_others_are_let_in_without_insecure() {
    let db = TestDb::new().await;
    let authority = Authority::new("root");
    let files = Files::new("beyond", &authority.sign("server", &["localhost"]));
    let (certificate, key) = (files.certificate(), files.key());
    let variables = [
        ("SYNC_CONFIG_TLS_CERT", certificate.to_str().unwrap()),
        ("SYNC_CONFIG_TLS_KEY", key.to_str().unwrap()),
    ];
    let beyond = ["--listen", "0.0.0.0:0"];
    let mut at = Server::launch(Some(db.url()), &beyond, &variables).await;
    at.address.set_ip([127, 0, 0, 1].into());
    let mut stream = connect(at.address, &[&authority]).await.unwrap();
    send(&mut stream, "/v1/config", "").await;
    let answer = until(&mut stream, "\r\n").await;
    assert!(
        answer.contains(" 401 ") || answer.contains(" 503 "),
        "{answer}"
    );
    let log = at.log.seen();
    assert!(
        log[0].contains("\"tls\":true") && log[0].contains("\"auth\":\"keys\""),
        "{}",
        log[0]
    );
    assert!(
        !log.iter().any(|line| line.contains("plaintext")),
        "{log:?}"
    );
}
