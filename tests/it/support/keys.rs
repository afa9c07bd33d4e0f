//! API keys of a test, made by the command line as people make them.

use std::process::Output;

use super::program::{program, run};

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
