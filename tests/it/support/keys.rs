//! API keys of a test, made by the command line as people make them.

use std::net::SocketAddr;
use std::process::Output;

use super::http::{Answer, Watch, request};
use super::program::{program, run};
use super::wait::{PATIENCE, eventually};

/// Asks for keys on loopback, too.
pub(crate) const WITH_KEYS: &[&str] = &["--auth", "keys"];

/// Runs `sync-config keys …` on a store, checks how it ends, and answers with what it printed.
pub(crate) async fn keys(url: &str, code: i32, args: &[&str]) -> String {
    let output = output(url, args).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `sync-config keys …` prints and says.
pub(crate) async fn output(url: &str, args: &[&str]) -> Output {
    let args = [&["--url", url, "keys"], args].concat();
    run(&mut program(None, &args)).await
}

/// Makes a key and answers with its token.
pub(crate) async fn token(url: &str, identity: &str, role: &str, more: &[&str]) -> String {
    let args = [&["create", identity, "--role", role], more].concat();
    let printed = keys(url, 0, &args).await;
    printed.trim_end().to_owned()
}

/// Asks with a token.
pub(crate) async fn ask(
    at: SocketAddr,
    method: &str,
    path: &str,
    token: &str,
    body: &str,
) -> Answer {
    request(at, method, path, &[("api-key", token)], body).await
}

/// A watch that has had its first message.
pub(crate) async fn watch(at: SocketAddr, token: &str) -> Watch {
    let mut watch = Watch::open(at, "", &[("api-key", token)]).await;
    assert_eq!(watch.news().await.event, "snapshot");
    watch
}

/// Waits until a key is let in: the server has heard of it.
pub(crate) async fn until_let_in(at: SocketAddr, token: &str) {
    until_status(at, token, 200).await;
}

/// The answer to a token that lets nobody in. Too many such attempts are slowed down; one of them is judged every three seconds.
pub(crate) async fn judged(at: SocketAddr, token: &str) -> Answer {
    eventually("an attempt is judged", PATIENCE, || async {
        let answer = ask(at, "GET", "/v1/config", token, "").await;
        match answer.status {
            429 => Err(format!("{answer:?}")),
            _ => Ok(answer),
        }
    })
    .await
}

/// Waits until a key is answered like this.
pub(crate) async fn until_status(at: SocketAddr, token: &str, status: u16) {
    eventually("the server has heard of the key", PATIENCE, || async {
        let answer = ask(at, "GET", "/v1/config", token, "").await;
        (answer.status == status)
            .then_some(())
            .ok_or(format!("{answer:?}"))
    })
    .await;
}
