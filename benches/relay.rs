//! The relay: how soon a thousand WebSockets, and five thousand, have a revision, what a burst of revisions costs, what an idle
//! connection takes, what the way through a server adds, and what a read costs behind it. The baseline is a server that writes ready frames to plain TCP
//! sockets, a task for each.
#![allow(clippy::expect_used, reason = "a benchmark that cannot run stops")]
#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
mod support;

use std::hint::black_box;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::bare::introduce;
use support::postgres::{Database, Server};
use support::sockets::{Clients, TIME};
use support::{Case, Target, bounded, bounds, in_turn, latencies, row, smoke, table};
use sync_config::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, broadcast};

const ROUNDS: usize = 21;
/// Revisions of a burst.
const BURST: u64 = 200;
/// Writes whose way is timed.
const WRITES: usize = 300;
/// Reads of a round.
const READS: u32 = 500_000;
/// Says that this process is the baseline's server, and how long its frames are.
const RAW: &str = "SYNC_CONFIG_BENCH_RELAY_FRAME";

/// A server in a process of its own.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn relay(database: &Database, connections: usize) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sync-config"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .args(["--connection-timeout", "1h", "--progress-interval", "5m"])
            .args(["--max-connections", &connections.to_string()])
            .args(["--rate-limit-per-minute", "0"])
            .env("DATABASE_URL", &database.url)
            .stderr(Stdio::piped())
            .spawn()
            .expect("start a server");
        let mut lines = std::io::BufReader::new(child.stderr.take().expect("a log")).lines();
        let first = lines.next().expect("a line").expect("a line");
        let first: serde_json::Value = serde_json::from_str(&first).expect("JSON");
        let address = first["address"].as_str().expect("an address").parse();
        // Whoever does not read a log stops its writer.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            address: address.expect("an address"),
        }
    }

    /// The baseline, with frames of so many bytes.
    fn raw(frame: usize) -> (Self, ChildStdin) {
        let own = std::env::current_exe().expect("this program");
        let mut child = Command::new(own)
            .env(RAW, frame.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the baseline");
        let mut line = String::new();
        let told = child.stdout.take().expect("its output");
        std::io::BufReader::new(told)
            .read_line(&mut line)
            .expect("a line");
        let address = line.trim().parse().expect("an address");
        let orders = child.stdin.take().expect("its input");
        (Self { child, address }, orders)
    }

    /// Memory in KiB; `None` where the system does not tell.
    fn memory(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    fn signal(&self, name: &str) {
        let told = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status();
        assert!(told.expect("kill").success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The baseline: a task for each socket, which writes what is ready.
async fn be_raw(length: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    let (sender, _) = broadcast::channel::<Arc<[u8]>>(1_024);
    let orders = sender.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let count: u64 = line.expect("an order").parse().expect("a number");
            for _ in 0..count {
                drop(orders.send(raw_frame(length)));
            }
        }
        std::process::exit(0);
    });
    loop {
        let (mut tcp, _) = listener.accept().await.expect("a client");
        tcp.set_nodelay(true).expect("an option");
        let mut frames = sender.subscribe();
        tokio::spawn(async move {
            let mut hello = [0; 2_048];
            let ack = b"{\"type\":\"connection.ack\"}";
            let greeting = [b"HTTP/1.1 101 \r\n\r\n\x81\x19", &ack[..]].concat();
            if tcp.read(&mut hello).await.is_err() || tcp.write_all(&greeting).await.is_err() {
                return;
            }
            while let Ok(frame) = frames.recv().await {
                if tcp.write_all(&frame).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// A frame as the relay's, of the same length.
fn raw_frame(length: usize) -> Arc<[u8]> {
    let now = humantime::format_rfc3339_micros(SystemTime::now());
    let mut payload = format!("{{\"type\":\"config.changed\",{TIME}{now}\",\"x\":\"");
    let fill = length.saturating_sub(payload.len() + 2 + 4);
    payload.push_str(&"x".repeat(fill));
    payload.push_str("\"}");
    let mut frame = vec![0x81, 126];
    frame.extend_from_slice(&u16::try_from(payload.len()).expect("short").to_be_bytes());
    frame.extend_from_slice(payload.as_bytes());
    frame.into()
}

fn hello(address: SocketAddr) -> String {
    format!(
        "GET /v1/watch?state=false HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// So many revisions, each of a small change.
fn revisions(count: u64) -> String {
    format!(
        "DO $$ BEGIN FOR n IN 1..{count} LOOP UPDATE sync_config SET value = to_jsonb(md5(random()::text)); COMMIT; END LOOP; END $$"
    )
}

/// Connects so many clients, and says what they take while nothing happens.
async fn idle(relay: &Process, count: usize) -> Clients {
    let before = relay.memory();
    let clients = Clients::connect(relay.address, &hello(relay.address), count).await;
    // What connecting took is given back.
    tokio::time::sleep(Duration::from_secs(if smoke() { 0 } else { 3 })).await;
    bounds(&format!("{count} idle WebSockets"));
    match before.zip(relay.memory()) {
        Some((before, after)) => {
            let each = (after - before) / count as f64;
            bounded("memory of a connection", "KiB", vec![each], Some(12.0));
            bounded(
                "of all",
                "MB",
                vec![(after - before) / 1_024.0 * 1.048_576],
                None,
            );
        }
        None => println!("the memory of a process is not to be had here"),
    }
    clients
}

/// Fan-out to so many clients.
fn fan_out(runtime: &Runtime, server: &Server, count: usize) {
    let database = runtime.block_on(server.database());
    let relay = Process::relay(&database, count + 10);
    let (client, clients) = runtime.block_on(async {
        let client = database.client().await;
        ready(relay.address).await;
        let first = "INSERT INTO sync_config VALUES ('limit:000001:a-key-of-30-bytes', '\"0123456789abcdef0123456789abcdef\"')";
        client.batch_execute(first).await.expect("an entry");
        let clients = idle(&relay, count).await;
        (client, clients)
    });
    let length = runtime.block_on(async {
        let cause = async { client.batch_execute(&revisions(1)).await.expect("write") };
        clients.each_has(1, cause).await;
        clients.received.first.lock().expect("no panic").len() + 4
    });
    let (raw, mut orders) = Process::raw(length);
    let bare = runtime.block_on(Clients::connect(raw.address, &hello(raw.address), count));
    let mut order = |frames: u64| {
        let orders = &mut orders;
        runtime.block_on(bare.each_has(frames, async move {
            writeln!(orders, "{frames}").expect("an order");
        }))
    };
    let rate = |took: f64| (BURST * count as u64) as f64 / took;
    let figures = in_turn(
        ROUNDS,
        vec![
            Case::new("raw TCP", || {
                let last = order(1);
                vec![("last", last * 1e3), ("burst", rate(order(BURST)))]
            }),
            Case::new("relay", || {
                runtime.block_on(async {
                    let one = async { client.batch_execute(&revisions(1)).await.expect("write") };
                    let last = clients.each_has(1, one).await;
                    // All at once: the server finds them in one page.
                    let burst = async {
                        relay.signal("STOP");
                        client
                            .batch_execute(&revisions(BURST))
                            .await
                            .expect("write");
                        relay.signal("CONT");
                    };
                    let burst = clients.each_has(BURST, burst).await;
                    vec![("last", last * 1e3), ("burst", rate(burst))]
                })
            }),
        ],
    );
    table(&format!(
        "{count} clients, frames of {length} bytes; a burst of {BURST} revisions"
    ));
    row(&figures[1], &figures[0], "last", "ms", Target::AtMost(1.3));
    row(
        &figures[1],
        &figures[0],
        "burst",
        "/s",
        Target::AtLeast(3.0),
    );
}

async fn ready(address: SocketAddr) {
    loop {
        let mut tcp = TcpStream::connect(address).await.expect("connect");
        let ask = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        tcp.write_all(ask.as_bytes()).await.expect("ask");
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.expect("an answer");
        if answer.starts_with("HTTP/1.1 200") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The way of a write to another instance, and through a relay to a client.
fn way(runtime: &Runtime, server: &Server) {
    let database = runtime.block_on(server.database());
    let relay = Process::relay(&database, 10);
    let (writer, other, clients) = runtime.block_on(async {
        ready(relay.address).await;
        let writer = sync_config::connect(&database.url)
            .await
            .expect("an instance");
        let other = sync_config::connect(&database.url)
            .await
            .expect("an instance");
        let clients = Clients::connect(relay.address, &hello(relay.address), 1).await;
        (writer, other, clients)
    });
    let heard = Arc::new(Notify::new());
    let tell = heard.clone();
    let told = other.on_change(Filter::all(), move |_| tell.notify_one());
    let id = told.expect("subscribe");
    let writes = if smoke() { 20 } else { WRITES };
    let mut value = 0_u64;
    let mut timed = |relayed: bool| {
        let mut each = Vec::new();
        for _ in 0..writes {
            value += 1;
            let took = runtime.block_on(async {
                let begin = SystemTime::now();
                if relayed {
                    let cause = async { drop(writer.set("limit", value).await.expect("a write")) };
                    clients.each_has(1, cause).await;
                    let took = begin.elapsed();
                    heard.notified().await;
                    return took.unwrap_or_default();
                } else {
                    let cause = async {
                        let (written, ()) =
                            tokio::join!(writer.set("limit", value), heard.notified());
                        written.expect("a write");
                    };
                    cause.await;
                }
                begin.elapsed().unwrap_or_default()
            });
            each.push(took.as_secs_f64() * 1e6);
        }
        latencies(each)
    };
    let timed = std::cell::RefCell::new(&mut timed);
    let figures = in_turn(
        7,
        vec![
            Case::new("to another instance", || timed.borrow_mut()(false)),
            Case::new("to a client of a relay", || timed.borrow_mut()(true)),
        ],
    );
    table("From the call of `set` until it is known elsewhere");
    row(&figures[1], &figures[0], "p50", "µs", Target::AtMost(2.0));
    row(&figures[1], &figures[0], "p99", "µs", Target::Told);
    other.unsubscribe(id);
    runtime.block_on(async {
        writer.shutdown().await.expect("shut down");
        other.shutdown().await.expect("shut down");
    });
}

/// Reads of an instance over the relay beside those of one on the database.
fn reads(runtime: &Runtime, server: &Server) {
    let database = runtime.block_on(server.database());
    let relay = Process::relay(&database, 10);
    let (local, remote) = runtime.block_on(async {
        ready(relay.address).await;
        let local = sync_config::connect(&database.url).await.expect("local");
        local.set("limit", 7).await.expect("a write");
        let url = format!("http://{}", relay.address);
        let remote = sync_config::connect(&url).await.expect("remote");
        (local, remote)
    });
    let handles = [&local, &remote].map(|config| config.live("limit", 0_u64).expect("a handle"));
    let [near, far] = &handles;
    let get = |config: &ConfigService| config.get_i64("limit", 0);
    let figures = in_turn(
        ROUNDS,
        vec![
            Case::per_call("`live` on the database", READS, || {
                black_box(*near.load());
            }),
            Case::per_call("`live` over the relay", READS, || {
                black_box(*far.load());
            }),
            Case::per_call("`get_i64` on the database", READS, || {
                black_box(get(&local));
            }),
            Case::per_call("`get_i64` over the relay", READS, || {
                black_box(get(&remote));
            }),
        ],
    );
    assert_eq!((*near.load(), *far.load(), get(&remote)), (7, 7, 7));
    table("Reads of an instance over the relay, nanoseconds a call");
    row(&figures[1], &figures[0], "ns", "ns", Target::AtMost(1.05));
    row(&figures[3], &figures[2], "ns", "ns", Target::AtMost(1.05));
    runtime.block_on(async {
        remote.shutdown().await.expect("shut down");
        local.shutdown().await.expect("shut down");
    });
}

fn main() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("the limit of open files");
    let runtime = Runtime::new().expect("a runtime");
    if let Ok(length) = std::env::var(RAW) {
        return runtime.block_on(be_raw(length.parse().expect("a number")));
    }
    let server = Server::start();
    runtime.block_on(introduce(&server));
    let counts: &[usize] = if smoke() { &[50] } else { &[1_000, 5_000] };
    for count in counts {
        fan_out(&runtime, &server, *count);
    }
    way(&runtime, &server);
    reads(&runtime, &server);
}
