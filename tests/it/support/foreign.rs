//! Clients that were written elsewhere: curl, Python's websockets, and a browser.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::fetch;
use super::program::Scratch;
use super::wait::Probe;

/// The version of Python's `websockets`.
const WEBSOCKETS: &str = "websockets==16.0";

/// Where a program is. `None` (said on stderr) when it is not installed, which in CI (`CI` is set) is a failure.
fn find(program: &str, advice: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file());
    if found.is_none() {
        let problem = format!("{program} is not installed: {advice}");
        assert!(std::env::var_os("CI").is_none(), "{problem}");
        eprintln!("NOT TESTED with {program}: {problem}");
    }
    found
}

/// A program and the lines that it writes, ended with this value.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) lines: Probe<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let started = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = started.unwrap();
        let mut read = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines = Probe::new();
        let record = lines.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = read.next_line().await {
                record.push(line);
            }
        });
        Self { child, lines }
    }

    /// Waits for the end; true if it ended well.
    pub(crate) async fn ended(&mut self) -> bool {
        let ended = tokio::time::timeout(super::wait::PATIENCE, self.child.wait()).await;
        ended.expect("the program ends").unwrap().success()
    }
}

/// `curl -N` with arguments.
pub(crate) fn curl(arguments: &[&str]) -> Option<Running> {
    let curl = find("curl", "apt-get install curl")?;
    Some(Running::start(
        Command::new(curl).args(["-sSN"]).args(arguments),
    ))
}

/// A Python program that can import `websockets`.
pub(crate) fn python(program: &str, arguments: &[&str]) -> Option<Running> {
    let python = find("python3", "apt-get install python3 python3-pip")?;
    let packages = fetch::python(WEBSOCKETS).unwrap_or_else(|error| panic!("{error}"));
    let mut command = Command::new(python);
    command
        .args(["-u", "-c", program])
        .args(arguments)
        .env("PYTHONPATH", packages);
    Some(Running::start(&mut command))
}

/// A page in a headless browser, and what it reports.
#[derive(Debug)]
pub(crate) struct Page {
    _browser: Child,
    _profile: Scratch,
    pub(crate) reports: Probe<Value>,
}

/// Where a page is served from, known before there is a browser.
#[derive(Debug)]
pub(crate) struct Site {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Site {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// Opens a page with a script, which reports by `report(value)`. `None` when there is no browser.
    pub(crate) fn open(self, name: &str, script: &str) -> Option<Page> {
        let browser = find("chromium", "apt-get install chromium")?;
        let html = format!(
            "<!doctype html><meta charset=utf-8><script>
            const report = value => fetch('/report', {{ method: 'POST', body: JSON.stringify(value) }});
            {script}</script>"
        );
        let reports = Probe::new();
        tokio::spawn(serve(self.listener, html, reports.clone()));
        let profile = Scratch::new(name);
        let flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
        ];
        let started = Command::new(browser)
            .args(flags)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("http://{}/", self.address))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        Some(Page {
            _browser: started.unwrap(),
            _profile: profile,
            reports,
        })
    }
}

/// Serves the page and takes its reports.
async fn serve(listener: TcpListener, html: String, reports: Probe<Value>) {
    while let Ok((mut tcp, _)) = listener.accept().await {
        let (html, reports) = (html.clone(), reports.clone());
        tokio::spawn(async move {
            let mut read = Vec::new();
            let (head, length) = loop {
                let mut bytes = [0; 4_096];
                let count = tcp.read(&mut bytes).await.unwrap_or(0);
                if count == 0 {
                    return;
                }
                read.extend_from_slice(&bytes[..count]);
                if let Some(end) = read.windows(4).position(|part| part == b"\r\n\r\n") {
                    let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
                    let length = head
                        .lines()
                        .find_map(|line| line.strip_prefix("content-length: "));
                    let length: usize = length.map_or(0, |text| text.parse().unwrap());
                    read.drain(..end + 4);
                    break (head, length);
                }
            };
            while read.len() < length {
                let mut bytes = [0; 4_096];
                let count = tcp.read(&mut bytes).await.unwrap_or(0);
                if count == 0 {
                    return;
                }
                read.extend_from_slice(&bytes[..count]);
            }
            let body = if head.starts_with("post /report") {
                reports.push(serde_json::from_slice(&read).unwrap());
                ""
            } else if head.starts_with("get / ") {
                &html
            } else {
                ""
            };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            drop(tcp.write_all(answer.as_bytes()).await);
        });
    }
}
