//! What the library costs those who do not use it: transactions of other tables while a fleet listens, and an instance that
//! nobody writes to.
#![allow(clippy::expect_used, reason = "a benchmark that cannot run stops")]
#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
mod support;

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::bare::{closed_loop, introduce, next};
use support::postgres::{Database, Server};
use support::{Case, Target, bounded, bounds, in_turn, row, smoke, table};
use sync_config::prelude::*;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, Statement};

const ROUNDS: usize = 11;
/// Instances that listen beside the application.
const FLEET: usize = 10;
/// Clients of the application, and the accounts they move money between.
const CLIENTS: usize = 4;
const ACCOUNTS: i32 = 10_000;
/// Names the process that is an idle instance.
const CHILD: &str = "SYNC_CONFIG_BENCH_IDLE_URL";
/// Idle instances that are watched, and for how long.
const IDLE: usize = 5;
const WATCHED: Duration = Duration::from_secs(30);

/// An application that knows nothing of configuration: moves as pgbench makes them.
struct Application {
    clients: Arc<Vec<(Client, [Statement; 3])>>,
    database: Database,
}

impl Application {
    async fn start(server: &Server) -> Self {
        let database = server.database().await;
        let client = database.client().await;
        let create = format!(
            "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
             INSERT INTO account SELECT n, 0 FROM generate_series(1, {ACCOUNTS}) n;
             CREATE TABLE move (account int NOT NULL, amount bigint NOT NULL, at timestamptz NOT NULL DEFAULT now());
             ANALYZE"
        );
        client.batch_execute(&create).await.expect("fill");
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let client = database.client().await;
            let mut statements = Vec::new();
            for sql in [
                "UPDATE account SET balance = balance + $2 WHERE id = $1",
                "SELECT balance FROM account WHERE id = $1 AND $2::bigint IS NOT NULL",
                "INSERT INTO move (account, amount) VALUES ($1, $2)",
            ] {
                statements.push(client.prepare(sql).await.expect("prepare"));
            }
            let statements = statements.try_into().expect("three of them");
            clients.push((client, statements));
        }
        Self {
            clients: Arc::new(clients),
            database,
        }
    }

    /// Transactions in a second.
    async fn rate(&self) -> f64 {
        let clients = self.clients.clone();
        let time = Duration::from_millis(if smoke() { 100 } else { 800 });
        closed_loop(CLIENTS, time, move |number| {
            let clients = clients.clone();
            async move {
                let (client, statements) = &clients[number];
                let turn = next();
                let account = i32::try_from(turn * 7_919 % ACCOUNTS as u64).expect("small") + 1;
                client.batch_execute("BEGIN").await.expect("begin");
                for statement in statements {
                    let done = client.execute(statement, &[&account, &1_i64]).await;
                    done.expect("a statement");
                }
                client.batch_execute("COMMIT").await.expect("commit");
            }
        })
        .await
    }
}

fn without<'a>(runtime: &'a Runtime, application: &'a Application) -> Case<'a> {
    Case::new("no instance", move || {
        vec![("rate", runtime.block_on(application.rate()))]
    })
}

fn beside<'a>(runtime: &'a Runtime, application: &'a Application) -> Case<'a> {
    Case::new(
        format!("{FLEET} instances in the same database"),
        move || {
            runtime.block_on(async {
                let mut fleet = Vec::new();
                for _ in 0..FLEET {
                    let settings = Settings::new(&application.database.url).max_connections(1);
                    let instance = Builder::new(settings).start().await;
                    fleet.push(instance.expect("start an instance"));
                }
                // What a start does is no part of it.
                tokio::time::sleep(Duration::from_millis(300)).await;
                let rate = application.rate().await;
                for instance in fleet {
                    instance.shutdown().await.expect("shut down");
                }
                vec![("rate", rate)]
            })
        },
    )
}

/// A process with nothing in it but an instance.
struct Idle(Child);

impl Idle {
    fn start(url: &str) -> Self {
        let own = std::env::current_exe().expect("this program");
        let child = Command::new(own)
            .env(CHILD, url)
            .stdin(Stdio::piped())
            .spawn()
            .expect("start an instance");
        Self(child)
    }

    /// How long it has been on a processor, all threads together, in nanoseconds; `None` where the system does not tell.
    fn worked(&self) -> Option<f64> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).ok()?;
        let mut worked = 0.0;
        for thread in threads {
            let told = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            worked += told.split(' ').next()?.parse::<f64>().ok()?;
        }
        Some(worked)
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The other end: lives until its standard input ends.
fn be_idle(runtime: &Runtime, url: &str) {
    let started = runtime.block_on(sync_config::connect(url));
    let _config = started.expect("start an instance");
    let mut nothing = Vec::new();
    drop(std::io::stdin().read_to_end(&mut nothing));
}

/// Transactions of a database so far, seen from another one.
async fn transactions(watcher: &Client, name: &str) -> i64 {
    const COMMITS: &str =
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1";
    let row = watcher.query_one(COMMITS, &[&name]).await;
    row.expect("ask").get(0)
}

fn idle(runtime: &Runtime, server: &Server) {
    let (database, elsewhere) =
        runtime.block_on(async { (server.database().await, server.database().await) });
    let watcher = runtime.block_on(elsewhere.client());
    let name = database.url.rsplit('/').next().expect("a database");
    let fleet: Vec<Idle> = (0..IDLE).map(|_| Idle::start(&database.url)).collect();
    let (settle, watched) = match smoke() {
        true => (Duration::from_secs(2), Duration::from_secs(3)),
        // A session tells what it has done up to ten seconds late.
        false => (Duration::from_secs(15), WATCHED),
    };
    std::thread::sleep(settle);
    let before: Option<Vec<f64>> = fleet.iter().map(Idle::worked).collect();
    let (first, begin) = (
        runtime.block_on(transactions(&watcher, name)),
        Instant::now(),
    );
    std::thread::sleep(watched);
    let (last, took) = (
        runtime.block_on(transactions(&watcher, name)),
        begin.elapsed().as_secs_f64(),
    );
    let after: Option<Vec<f64>> = fleet.iter().map(Idle::worked).collect();
    bounds("An idle instance with default settings");
    let queries = (last - first) as f64 / took / IDLE as f64;
    bounded(
        "transactions of an instance, the mean of five",
        "/s",
        vec![queries],
        Some(0.6),
    );
    match before.zip(after) {
        Some((before, after)) => {
            let shares = before.iter().zip(&after);
            let shares = shares.map(|(before, after)| (after - before) / took / 1e7);
            let what = "processor of each of five";
            bounded(what, "% of a core", shares.collect(), Some(0.1));
        }
        None => println!("the processor's time of a process is not to be had here"),
    }
}

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    if let Ok(url) = std::env::var(CHILD) {
        return be_idle(&runtime, &url);
    }
    let server = Server::with(&["max_connections=100"]);
    runtime.block_on(introduce(&server));
    let application = runtime.block_on(Application::start(&server));
    let cases = vec![
        without(&runtime, &application),
        beside(&runtime, &application),
    ];
    let figures = in_turn(ROUNDS, cases);
    table("Transactions a second that touch no configuration");
    row(
        &figures[1],
        &figures[0],
        "rate",
        "/s",
        Target::AtLeast(0.97),
    );
    idle(&runtime, &server);
}
