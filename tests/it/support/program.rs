//! The program itself, run as a child process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::http;
use super::wait::{PATIENCE, Probe, eventually};

/// A command line with a clean environment and settings that make a test quick.
pub(crate) fn program(database_url: Option<&str>, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sync-config"));
    let settings = std::env::vars_os().map(|(name, _)| name);
    let ours = |name: &str| name.starts_with("SYNC_CONFIG_") || name.starts_with("PGSSL");
    for name in settings.filter(|name| ours(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    for name in ["DATABASE_URL", "LISTEN_DATABASE_URL"] {
        command.env_remove(name).env_remove(format!("{name}_FILE"));
    }
    command.env_remove("RUST_LOG");
    if let Some(url) = database_url {
        command.env("DATABASE_URL", url);
    }
    command
        .args(args)
        .env("SYNC_CONFIG_RECONNECT_INTERVAL", "100ms")
        // A store of whoever runs the tests is none of theirs.
        .env("XDG_DATA_HOME", "/nowhere")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// When a command is given up: some of them have tens of thousands of entries to bring from one store to another.
const LONG: Duration = Duration::from_secs(120);

/// Runs a command to its end.
pub(crate) async fn run(command: &mut Command) -> Output {
    let output = timeout(LONG, command.output()).await;
    output.expect("the program ends").unwrap()
}

/// What a command printed and said, once it is checked how it ended.
pub(crate) fn told(output: &Output, code: i32) -> (String, String) {
    let [printed, said] = [&output.stdout, &output.stderr];
    let texts = [printed, said].map(|text| String::from_utf8_lossy(text).into_owned());
    let [printed, said] = texts;
    assert_eq!(output.status.code(), Some(code), "{printed}{said}");
    (printed, said)
}

/// Runs a command on the store of a URL; what it printed and said.
pub(crate) async fn on_store(url: &str, code: i32, args: &[&str]) -> (String, String) {
    let args = [&["--url", url], args].concat();
    told(&run(&mut program(None, &args)).await, code)
}

/// A server as a child process.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// The lines it logs.
    pub(crate) log: Probe<String>,
}

impl Server {
    /// Serves a database, and waits until it is loaded.
    pub(crate) async fn start(database_url: &str) -> Self {
        Self::start_with(database_url, &[], &[]).await
    }

    /// The same with more arguments and variables.
    pub(crate) async fn start_with(
        database_url: &str,
        args: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let server = Self::launch(Some(database_url), args, variables).await;
        server.ready().await;
        server
    }

    /// Starts a server without waiting until it is loaded.
    pub(crate) async fn launch(
        database_url: Option<&str>,
        args: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let mut command = program(database_url, &["serve", "--log-format", "json"]);
        if !args.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(args).envs(variables.iter().copied());
        Self::spawn(command).await
    }

    /// Starts a server that may have so many files open, and waits until it is loaded.
    pub(crate) async fn start_within(files: u32, database_url: &str) -> Self {
        let args = ["serve", "--log-format", "json", "--listen", "127.0.0.1:0"];
        let direct = program(Some(database_url), &args);
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("ulimit -n {files}; exec \"$@\""), "sh"])
            .arg(direct.as_std().get_program())
            .args(direct.as_std().get_args());
        for (name, value) in direct.as_std().get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        let server = Self::spawn(command).await;
        server.ready().await;
        server
    }

    async fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Probe::new();
        let record = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                record.push(line);
            }
        });
        let first = log.until("the first log line", |log| !log.is_empty()).await;
        let address = serde_json::from_str::<Value>(&first[0])
            .ok()
            .and_then(|line| line["address"].as_str()?.parse().ok())
            .unwrap_or_else(|| panic!("no address in {}", first[0]));
        Self {
            child,
            address,
            log,
        }
    }

    /// Waits until it is loaded.
    pub(crate) async fn ready(&self) {
        eventually("the server is ready", PATIENCE, || async {
            let answer = http::get(self.address, "/readyz").await;
            (answer.status == 200).then_some(()).ok_or(answer.body)
        })
        .await;
    }

    /// Waits until a GET answers as wanted.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&http::Answer) -> bool) {
        eventually(path, PATIENCE, || async {
            let answer = http::get(self.address, path).await;
            let seen = format!("{} {}", answer.status, answer.body);
            wanted(&answer).then_some(()).ok_or(seen)
        })
        .await;
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("a running process")
    }

    /// Sends a signal.
    pub(crate) async fn signal(&self, name: &str) {
        signal(self.pid(), name).await;
    }

    /// Waits for the end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(PATIENCE, self.child.wait()).await;
        ended.expect("the server ends").unwrap()
    }
}

/// Sends a signal to a process.
pub(crate) async fn signal(pid: u32, name: &str) {
    let mut kill = Command::new("kill");
    let sent = kill.args(["-s", name, &pid.to_string()]).status().await;
    assert!(sent.unwrap().success(), "kill -s {name} {pid}");
}

/// A directory of a test that every account can reach, removed with this value.
#[derive(Debug)]
pub(crate) struct Scratch(std::path::PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("sctest-{}-{name}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
