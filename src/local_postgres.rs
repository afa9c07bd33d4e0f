//! A private PostgreSQL server, run from the programs that are installed on this machine.
//!
//! Guaranteed: the server listens on 127.0.0.1 only, needs no privileges (as root it runs under
//! another account), and ends with the process that started it, however that process ends,
//! `kill -9` included. A [temporary](LocalPostgres::temporary) server leaves no files behind; a
//! [durable](LocalPostgres::durable) one keeps its data.
//!
//! Not guaranteed: that processes which share a durable server outlive the one that started it;
//! an upgrade of a data directory to another major version of PostgreSQL; Windows.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the library and its tests include this file, and each uses a part of it"
)]

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io, thread};

#[path = "local_postgres/account.rs"]
mod account;
#[path = "local_postgres/binaries.rs"]
mod binaries;
#[path = "local_postgres/guard.rs"]
mod guard;
#[path = "local_postgres/home.rs"]
mod home;
#[path = "local_postgres/process.rs"]
mod process;

use account::Account;
pub use account::running_as_root;
pub use binaries::{Binaries, all_binaries, find_binaries, install_hint};
use guard::{Guard, PidFile, Plan, StartError};
use home::SUPERUSER;

/// Ports to choose from: below those that Linux and macOS give to outgoing connections, so that
/// nobody takes our port while the server restarts.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Ports to try before giving up.
const PORT_TRIES: u32 = 20;
/// How long another process's server may take to start or to stop: 60 s, as our own may.
const OTHER_SERVER_TRIES: u32 = 1_200;
const OTHER_SERVER_POLL: Duration = Duration::from_millis(50);
/// How often to look, each millisecond, whether processes have frozen.
const FREEZE_TRIES: u32 = 10_000;

/// A PostgreSQL server of our own. It stops when this value is dropped.
pub struct LocalPostgres {
    home: PathBuf,
    log: PathBuf,
    port: u16,
    password: Option<String>,
    /// `None` when the server belongs to another process.
    guard: Option<Guard>,
    /// The server's main process; `None` while it is stopped.
    pid: Option<u32>,
    paused: Vec<u32>,
    /// Held while a durable server is ours. The last field: it goes when the server has stopped.
    owner: Option<fs::File>,
}

impl LocalPostgres {
    /// Starts a server for tests: fast instead of durable, open to every local user, in a new
    /// directory below the system's temporary one that goes with the server.
    ///
    /// # Errors
    ///
    /// With the end of the server's log, when it does not start.
    pub fn temporary(binaries: &Binaries) -> io::Result<Self> {
        Self::temporary_with(binaries, &[])
    }

    /// As [`temporary`](Self::temporary), with settings of PostgreSQL that come after the usual ones and win
    /// ("fsync=on").
    ///
    /// # Errors
    ///
    /// As [`temporary`](Self::temporary).
    pub fn temporary_with(binaries: &Binaries, settings: &[&str]) -> io::Result<Self> {
        let account = Account::choose()?;
        account.must_reach(&binaries.dir.join("postgres"))?;
        let number = random_number();
        let name = format!("sync-config-pg-{}-{number:016x}", std::process::id());
        let home = std::env::temp_dir().join(name);
        home::create_private_dir(&home)?;
        account.own(&home, 0o700)?;
        let log = home.join("server.log");
        let mut all_settings = home::temporary_settings(&home);
        all_settings.extend(settings.iter().map(|setting| (*setting).to_owned()));
        let plan = Plan {
            account,
            postgres: binaries.dir.join("postgres"),
            data: &home.join("data"),
            log: &log,
            settings: all_settings,
            remove: Some(&home),
        };
        // before anything is in the directory: from here on the guard cleans up, errors included
        let mut guard = Guard::spawn(&plan)?;
        account.must_reach(&home)?;
        home::initdb(account, binaries, plan.data, &["--auth=trust", "--no-sync"])?;
        let (pid, port) = start_on_some_port(&mut guard, random_port())
            .map_err(|error| into_io_error(error, None))?;
        Ok(Self {
            home,
            log,
            port,
            password: None,
            guard: Some(guard),
            pid: Some(pid),
            paused: Vec::new(),
            owner: None,
        })
    }

    /// Starts a server that keeps its data in `home`, a directory of its own: `home/data` is the
    /// data directory, `home/password` (readable by its owner only) the superuser's password. As
    /// root, `home` stays root's, and the server's account owns only what the server writes.
    ///
    /// Another process may do the same at the same time: when a server already runs there, the
    /// result stands for that one (see [`owns_server`](Self::owns_server)), on whatever port it
    /// has. Without a `port` of your own the server comes back on its last one when that is free.
    ///
    /// # Errors
    ///
    /// When `home` holds something else, was made by another major version of PostgreSQL, is out
    /// of reach for the server's account, or when `port` is taken; else with the server's log.
    pub fn durable(binaries: &Binaries, home: &Path, port: Option<u16>) -> io::Result<Self> {
        let account = Account::choose()?;
        account.must_reach(&binaries.dir.join("postgres"))?;
        let home = home::prepare_durable(account, home)?;
        let _one_at_a_time = home::lock(&home)?;
        let password = home::ensure_durable_data(account, binaries, &home)?;
        let data = home.join("data");
        for _ in 0..OTHER_SERVER_TRIES {
            let mut server = Self {
                home: home.clone(),
                log: home.join("log").join("server.log"),
                port: 0, // known when it runs
                password: Some(password.clone()),
                guard: None,
                pid: None,
                paused: Vec::new(),
                owner: home::try_own(&home)?,
            };
            if server.owner.is_some() {
                home::must_fit(binaries, &data)?;
                match server.start_durable(account, binaries, port) {
                    Ok(()) => return Ok(server),
                    // its owner has gone, and it is about to stop
                    Err(StartError::AlreadyRunning) => {}
                    Err(error) => return Err(into_io_error(error, port)),
                }
            } else if let Some(running) = PidFile::read(&data).filter(PidFile::answers) {
                (server.pid, server.port) = (Some(running.pid), running.port);
                return Ok(server);
            }
            drop(server);
            thread::sleep(OTHER_SERVER_POLL);
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "another PostgreSQL holds {} (postmaster.pid names it) and does not answer",
                data.display()
            ),
        ))
    }

    /// The URL of a database on this server. With a password in it, if the server has one.
    pub fn url(&self, database: &str) -> String {
        let password = self.password.as_ref().map(|word| format!(":{word}"));
        format!(
            "postgres://{SUPERUSER}{}@{}:{}/{database}",
            password.unwrap_or_default(),
            Ipv4Addr::LOCALHOST,
            self.port
        )
    }

    /// The port on 127.0.0.1, the same for the life of this value.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the server; `None` while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// The directory with all of the server's files.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Whether this value started the server and will stop it. Otherwise the server belongs to
    /// another process and ends with that.
    pub fn owns_server(&self) -> bool {
        self.guard.is_some()
    }

    /// Stops the server in order: open connections are closed, all data is written.
    ///
    /// # Errors
    ///
    /// When the server is not ours, or does not end within a minute.
    pub fn stop_fast(&mut self) -> io::Result<()> {
        self.stop("INT")
    }

    /// Stops the server as a crash would: the next start recovers from the log.
    ///
    /// # Errors
    ///
    /// As [`stop_fast`](Self::stop_fast).
    pub fn stop_immediate(&mut self) -> io::Result<()> {
        self.stop("QUIT")
    }

    /// Starts the server again, on the same port and data; stops it first if it still runs.
    ///
    /// # Errors
    ///
    /// As [`stop_fast`](Self::stop_fast), and when something else took the port meanwhile.
    pub fn restart(&mut self) -> io::Result<()> {
        self.stop_fast()?;
        let port = self.port;
        let started = self.guard()?.start(port);
        self.pid = Some(started.map_err(|error| into_io_error(error, Some(port)))?);
        Ok(())
    }

    /// Freezes every process of the server: connections stay open and nothing answers.
    ///
    /// # Errors
    ///
    /// When the server is not ours or does not run.
    pub fn pause(&mut self) -> io::Result<()> {
        let server = self
            .pid
            .ok_or_else(|| io::Error::other("the server is stopped"))?;
        self.freeze(&[server])?; // first, so that no further processes appear
        let children: Vec<u32> = process::all()?
            .iter()
            .filter(|process| process.parent == server)
            .map(|process| process.pid)
            .collect();
        self.freeze(&children)
    }

    /// Lets a [paused](Self::pause) server go on.
    ///
    /// # Errors
    ///
    /// When the server is not ours.
    pub fn resume(&mut self) -> io::Result<()> {
        let paused = std::mem::take(&mut self.paused);
        if paused.is_empty() {
            return Ok(());
        }
        self.guard()?.signal("CONT", &paused)
    }

    /// The end of the server's log, for error messages.
    pub fn log_tail(&self) -> String {
        guard::tail(&self.log, 0)
    }

    fn start_durable(
        &mut self,
        account: Account,
        binaries: &Binaries,
        port: Option<u16>,
    ) -> Result<(), StartError> {
        home::ensure_accounts_dir(account, &self.home.join("log"))?;
        let mut guard = Guard::spawn(&Plan {
            account,
            postgres: binaries.dir.join("postgres"),
            data: &self.home.join("data"),
            log: &self.log,
            settings: home::durable_settings(&self.home),
            remove: None,
        })?;
        let memo = self.home.join("port");
        let last = || fs::read_to_string(&memo).ok()?.trim().parse().ok();
        let (pid, port) = match port {
            Some(port) => (guard.start(port)?, port),
            None => start_on_some_port(&mut guard, last().unwrap_or_else(random_port))?,
        };
        home::replace_file(&memo, &port.to_string())?;
        (self.guard, self.pid, self.port) = (Some(guard), Some(pid), port);
        Ok(())
    }

    fn guard(&mut self) -> io::Result<&mut Guard> {
        self.guard
            .as_mut()
            .ok_or_else(|| io::Error::other("this PostgreSQL server belongs to another process"))
    }

    fn stop(&mut self, signal: &str) -> io::Result<()> {
        self.resume()?; // a frozen server notices nothing
        let Some(pid) = self.pid else { return Ok(()) };
        let guard = self.guard()?;
        guard.signal(signal, &[pid])?;
        guard.wait_for_end()?;
        self.pid = None;
        Ok(())
    }

    fn freeze(&mut self, pids: &[u32]) -> io::Result<()> {
        self.guard()?.signal("STOP", pids)?;
        self.paused.extend(pids);
        for _ in 0..FREEZE_TRIES {
            let awake =
                |process: &process::Process| pids.contains(&process.pid) && !process.stopped;
            if !process::all()?.iter().any(awake) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1)); // the shell passes the signal on
        }
        Err(io::Error::other("the server's processes do not freeze"))
    }
}

impl fmt::Debug for LocalPostgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalPostgres") // never the password
            .field("home", &self.home)
            .field("port", &self.port)
            .field("pid", &self.pid)
            .field("owns_server", &self.owns_server())
            .finish_non_exhaustive()
    }
}

/// Starts on the given port, or else on others until one is free.
fn start_on_some_port(guard: &mut Guard, first: u16) -> Result<(u32, u16), StartError> {
    let mut port = first;
    for _ in 0..PORT_TRIES {
        match guard.start(port) {
            Ok(pid) => return Ok((pid, port)),
            Err(StartError::PortTaken) => port = random_port(),
            Err(error) => return Err(error),
        }
    }
    Err(StartError::PortTaken)
}

fn into_io_error(error: StartError, port: Option<u16>) -> io::Error {
    match error {
        StartError::Failed(error) => error,
        StartError::PortTaken => io::Error::new(
            io::ErrorKind::AddrInUse,
            match port {
                Some(port) => format!("port {port} of 127.0.0.1 is taken by another program"),
                None => format!("{PORT_TRIES} ports of 127.0.0.1 in a row were taken"),
            },
        ),
        StartError::AlreadyRunning => {
            io::Error::other("another server runs on this data directory")
        }
    }
}

/// A port that a server may listen on, chosen at random; it may be taken.
pub fn random_port() -> u16 {
    let ports = u64::from(PORTS.end - PORTS.start);
    let offset = u16::try_from(random_number() % ports).unwrap_or(0);
    PORTS.start + offset
}

/// A number that differs between calls and processes; no secret.
fn random_number() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
