//! The SQLite store: from the call of `set` in one process to the callback in another, against a bare program that looks at
//! `PRAGMA data_version` every millisecond and reads the row; and what the looking costs while nothing happens.
#![allow(clippy::expect_used, reason = "a benchmark that cannot run stops")]
#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
mod support;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::Connection;
use support::{Case, Target, bounded, bounds, in_turn, latencies, row, smoke, table};
use sync_config::prelude::*;
use sync_config::rusqlite;
use tokio::runtime::Runtime;

const ROUNDS: usize = 9;
/// Changes in a round.
const CHANGES: usize = 200;
/// Between two looks of the bare program: what the library's are apart just after a change.
const LOOK: Duration = Duration::from_millis(1);
/// How long an idle process is watched.
const WATCHED: Duration = Duration::from_secs(20);
/// After a second without a change the library looks less often.
const CALM: Duration = Duration::from_millis(1_500);
/// Names the process on the other side: which of the two it is, and the file.
const CHILD: &str = "SYNC_CONFIG_BENCH_SQLITE";
const KEY: &str = "limit:login";

/// A directory that goes with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = format!("sync-config-bench-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a directory");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The time that two processes share, in microseconds.
fn shared_micros() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("after 1970").as_secs_f64() * 1e6
}

/// How long each thread has been on a processor, in nanoseconds.
type Worked = HashMap<OsString, f64>;

/// A process that tells when it has seen which count.
struct Other {
    child: Child,
    told: BufReader<ChildStdout>,
}

impl Other {
    fn start(kind: &str, file: &Path) -> Self {
        let own = std::env::current_exe().expect("this program");
        let mut child = Command::new(own)
            .env(CHILD, format!("{kind}:{}", file.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the other process");
        let told = BufReader::new(child.stdout.take().expect("its output"));
        let mut other = Self { child, told };
        let (count, _) = other.next();
        assert_eq!(count, 0, "it says when it is ready");
        other
    }

    /// The next count that it saw, and when.
    fn next(&mut self) -> (u64, f64) {
        let mut line = String::new();
        self.told.read_line(&mut line).expect("a line");
        let (count, at) = line.trim().split_once(' ').expect("count and time");
        (count.parse().expect("a count"), at.parse().expect("a time"))
    }

    /// Waits until it has seen a count, and tells when that was.
    fn until(&mut self, count: u64) -> f64 {
        loop {
            let (seen, at) = self.next();
            if seen == count {
                return at;
            }
        }
    }

    /// How long its threads have been on a processor; `None` where the system does not tell.
    fn worked(&self) -> Option<Worked> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).ok()?;
        let mut worked = Worked::new();
        for thread in threads {
            let thread = thread.ok()?;
            // A thread may end while it is looked at.
            let Ok(told) = std::fs::read_to_string(thread.path().join("schedstat")) else {
                continue;
            };
            worked.insert(thread.file_name(), told.split(' ').next()?.parse().ok()?);
        }
        Some(worked)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn tell(count: u64) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{count} {}", shared_micros()).expect("tell");
    stdout.flush().expect("tell");
}

/// The other process with the library: lives until its standard input ends.
fn be_ours(file: &str) {
    let runtime = Runtime::new().expect("a runtime");
    let started = runtime.block_on(Builder::sqlite(file).start());
    let config = started.expect("start an instance");
    let seen = |_: Option<&u64>, new: Option<&u64>| tell(new.copied().unwrap_or(0));
    let _subscription = config.subscribe_as::<u64>(KEY, seen).expect("subscribe");
    tell(0);
    drop(std::io::stdin().read_to_end(&mut Vec::new()));
}

/// The other process without it.
fn be_bare(file: &str) {
    let connection = Connection::open(file).expect("open");
    let mut version = connection
        .prepare("PRAGMA data_version")
        .expect("a statement");
    let mut value = connection
        .prepare("SELECT value FROM plain WHERE key = ?1")
        .expect("a statement");
    let mut last: i64 = version.query_row([], |row| row.get(0)).expect("look");
    tell(0);
    loop {
        std::thread::sleep(LOOK);
        let now: i64 = version.query_row([], |row| row.get(0)).expect("look");
        if now != last {
            last = now;
            let text: String = value.query_row([KEY], |row| row.get(0)).expect("read");
            tell(text.parse().expect("a count"));
        }
    }
}

/// Changes at times that fall everywhere between two looks; the latencies in milliseconds.
fn changes(other: &mut Other, from: &mut u64, mut change: impl FnMut(u64)) -> Vec<f64> {
    let times = if smoke() { 5 } else { CHANGES };
    let mut each = Vec::with_capacity(times);
    for _ in 0..times {
        *from += 1;
        std::thread::sleep(Duration::from_micros(3_000 + *from * 7_919 % 11_000));
        let begin = shared_micros();
        change(*from);
        each.push((other.until(*from) - begin) / 1e3);
    }
    each
}

fn ours<'a>(
    runtime: &'a Runtime,
    config: &'a Arc<ConfigService>,
    other: &'a mut Other,
    count: &'a mut u64,
) -> Case<'a> {
    Case::new("the library", move || {
        let write = |count| {
            let written = runtime.block_on(config.set(KEY, count));
            written.expect("write");
        };
        latencies(changes(other, count, write))
    })
}

fn bare<'a>(connection: &'a Connection, other: &'a mut Other, count: &'a mut u64) -> Case<'a> {
    Case::new("a bare program", move || {
        let write = |count: u64| put(connection, count);
        latencies(changes(other, count, write))
    })
}

fn put(connection: &Connection, count: u64) {
    const PUT: &str = "INSERT INTO plain (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    let mut put = connection.prepare_cached(PUT).expect("a statement");
    put.execute((KEY, count.to_string())).expect("write");
}

/// A plain table, with the same durability.
fn plain(file: &Path) -> Connection {
    let connection = Connection::open(file).expect("open");
    let schema = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
        CREATE TABLE plain (key TEXT PRIMARY KEY, value TEXT NOT NULL)";
    connection.execute_batch(schema).expect("a table");
    put(&connection, 0);
    connection
}

/// The share of a core that each process takes while `busy` happens.
fn share(others: &[&Other], mut busy: impl FnMut()) -> Option<Vec<f64>> {
    let watched = if smoke() {
        Duration::from_secs(1)
    } else {
        WATCHED
    };
    // What was before is no part of it.
    std::thread::sleep(CALM);
    busy();
    let before: Option<Vec<Worked>> = others.iter().map(|other| other.worked()).collect();
    let begin = Instant::now();
    while begin.elapsed() < watched {
        busy();
    }
    let took = begin.elapsed().as_secs_f64();
    let after: Option<Vec<Worked>> = others.iter().map(|other| other.worked()).collect();
    let (before, after) = before.zip(after)?;
    let shares = before.iter().zip(&after);
    Some(
        shares
            .map(|(before, after)| {
                // What has ended since is left out; it was one that had nothing to do.
                let grown =
                    |(thread, time): (&OsString, &f64)| time - before.get(thread).unwrap_or(&0.0);
                after.iter().map(grown).sum::<f64>() / took / 1e7
            })
            .collect(),
    )
}

fn cost(seer: &Other, looker: &Other, mut change: impl FnMut()) {
    bounds("What looking costs a process that hears nothing");
    let calm = share(&[seer, looker], || {
        std::thread::sleep(Duration::from_millis(500));
    });
    // A change now and then keeps it looking each 5 ms or oftener.
    let watched = share(&[seer], || {
        std::thread::sleep(Duration::from_millis(500));
        change();
    });
    match calm.zip(watched) {
        Some((calm, watched)) => {
            bounded("calm", "% of a core", calm[..1].to_vec(), Some(0.1));
            bounded(
                "with a change each 0.5 s",
                "% of a core",
                watched,
                Some(1.0),
            );
            bounded(
                "the bare program, always each 1 ms",
                "% of a core",
                calm[1..].to_vec(),
                None,
            );
        }
        None => println!("the processor's time of a process is not to be had here"),
    }
}

fn main() {
    if let Ok(child) = std::env::var(CHILD) {
        return match child.split_once(':') {
            Some(("ours", file)) => be_ours(file),
            Some((_, file)) => be_bare(file),
            None => {}
        };
    }
    let scratch = Scratch::new();
    let (file, other_file) = (scratch.0.join("ours.db"), scratch.0.join("bare.db"));
    let runtime = Runtime::new().expect("a runtime");
    let started = runtime.block_on(Builder::sqlite(&file).start());
    let config = started.expect("start an instance");
    let connection = plain(&other_file);
    let mut seer = Other::start("ours", &file);
    let mut looker = Other::start("bare", &other_file);
    let (mut one, mut two) = (0, 0);

    let figures = in_turn(
        ROUNDS,
        vec![
            bare(&connection, &mut looker, &mut one),
            ours(&runtime, &config, &mut seer, &mut two),
        ],
    );
    table("From `set` in one process to the callback in another, milliseconds");
    row(&figures[1], &figures[0], "p50", "ms", Target::Told);
    row(&figures[1], &figures[0], "p99", "ms", Target::Told);
    bounds("The same at default settings");
    bounded("p50 of a round", "ms", figures[1].of("p50"), Some(3.0));
    let mut late = Vec::new();
    for _ in 0..if smoke() { 1 } else { 15 } {
        std::thread::sleep(CALM);
        two += 1;
        let begin = shared_micros();
        runtime.block_on(config.set(KEY, two)).expect("write");
        late.push((seer.until(two) - begin) / 1e3);
    }
    bounded(
        "the first change after a calm second",
        "ms",
        late,
        Some(60.0),
    );

    cost(&seer, &looker, || {
        two += 1;
        runtime.block_on(config.set(KEY, two)).expect("write");
    });
    runtime.block_on(config.shutdown()).expect("shut down");
}
