//! A replica without a database: a server on an SQLite file, a program that reads and writes by way of it, and the same
//! program while the server is away.
//!
//! Run it with `cargo run --features remote,server --example remote`. It starts the server by itself and ends with it.

#![allow(
    clippy::print_stdout,
    reason = "an example prints what a reader should see"
)]

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sync_config::Mode;
use sync_config::prelude::*;

type Outcome = Result<(), Box<dyn Error>>;

/// `sync-config serve` on a file of its own.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    /// Starts the program that stands beside this example's directory.
    fn start(file: &Path) -> Result<Self, Box<dyn Error>> {
        let example = std::env::current_exe()?;
        let built = example.parent().and_then(Path::parent);
        let program: PathBuf = built.ok_or("no directory")?.join("sync-config");
        if !program.exists() {
            return Err("build the server first: cargo build --features remote,server".into());
        }
        let mut process = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .arg("--url")
            .arg(format!("sqlite:{}", file.display()))
            .stderr(Stdio::piped())
            .spawn()?;
        let mut log = BufReader::new(process.stderr.take().ok_or("no log")?).lines();
        let first = log.next().ok_or("no first line")??;
        std::thread::spawn(move || log.for_each(drop));
        let first: serde_json::Value = serde_json::from_str(&first)?;
        let address = first["address"].as_str().ok_or("no address")?.to_owned();
        Ok(Self { process, address })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[tokio::main]
async fn main() -> Outcome {
    let dir = std::env::temp_dir().join(format!("sync-config-remote-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let done = example(&dir).await;
    std::fs::remove_dir_all(&dir)?;
    done
}

async fn example(dir: &Path) -> Outcome {
    let server = Server::start(&dir.join("config.db"))?;
    let settings = || {
        Settings::default()
            .check_interval(Duration::from_millis(200))
            .state_file(dir.join("state"))
    };
    let url = format!("http://{}", server.address);
    let start = async || {
        Builder::remote([url.clone()])
            .settings(settings())
            .start()
            .await
    };
    // The server is still opening its file, perhaps.
    let config = loop {
        match start().await {
            Ok(config) => break config,
            Err(error) if error.is_unavailable() => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let limit: Live<i64> = config.live("limit:login", 10)?;
    println!("Before anything is written the limit is {}.", *limit.load());
    let written = config.set("limit:login", 100).await?;
    println!(
        "Revision {}: the limit is {}, read from memory.",
        written.revision(),
        *limit.load()
    );
    config.shutdown().await?;

    drop(server);
    let kept = start().await?;
    let stale = kept.status().stale.is_some();
    println!(
        "Without the server the limit is {}, from the state file; stale: {stale}, offline: {}.",
        kept.get_i64("limit:login", 10),
        kept.status().mode == Mode::Offline
    );
    let refused = kept.set("limit:login", 1).await;
    println!(
        "A write is refused as unavailable: {}.",
        refused.is_err_and(|error| error.is_unavailable())
    );
    kept.shutdown().await?;
    Ok(())
}
