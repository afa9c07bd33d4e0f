//! The shell between this process and its server, which stops the server when this process ends.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use std::{fs, thread};

use super::account::Account;

/// How often a starting server is looked at.
const POLL: Duration = Duration::from_millis(5);
/// 60 s: a durable server that was cut off first replays its log.
const START_POLLS: u32 = 12_000;
/// A fast stop writes a checkpoint; on a busy disk this takes its time.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// A server on this machine answers within a millisecond; 5 s allow for a busy one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What to run, and what to remove after it.
pub(super) struct Plan<'a> {
    pub(super) account: Account,
    pub(super) postgres: PathBuf,
    pub(super) data: &'a Path,
    pub(super) log: &'a Path,
    pub(super) settings: Vec<String>,
    /// A throw-away directory, removed when the parent has ended.
    pub(super) remove: Option<&'a Path>,
}

/// Why a server did not start.
#[derive(Debug)]
pub(super) enum StartError {
    /// Something else listens on the port.
    PortTaken,
    /// A server runs on the data directory already.
    AlreadyRunning,
    /// Anything else, told by the server's log.
    Failed(io::Error),
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// A running guard. Dropping it stops the server and waits for that.
#[derive(Debug)]
pub(super) struct Guard {
    shell: Child,
    words: Option<ChildStdin>,
    /// Behind a lock only to be shared between threads; nobody waits for it.
    answers: Mutex<Receiver<String>>,
    data: PathBuf,
    log: PathBuf,
}

impl Guard {
    /// Starts the guard, without a server yet.
    pub(super) fn spawn(plan: &Plan<'_>) -> io::Result<Self> {
        let mut command = plan.account.command("/bin/sh");
        command
            .args(["-c", include_str!("guard.sh"), "guard.sh"])
            .arg(plan.remove.unwrap_or(Path::new("")))
            .arg(plan.log)
            .arg(&plan.postgres)
            .arg("-D")
            .arg(plan.data);
        for setting in &plan.settings {
            command.args(["-c", setting]);
        }
        let mut shell = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0) // a Ctrl-C for us must not reach the server before we are done
            .spawn()?;
        let words = shell.stdin.take();
        let (sender, answers) = channel();
        if let Some(output) = shell.stdout.take() {
            thread::Builder::new()
                .name("postgres-guard".to_owned())
                .spawn(move || {
                    let lines = BufReader::new(output).lines().map_while(Result::ok);
                    lines.for_each(|line| drop(sender.send(line)));
                })?;
        }
        Ok(Self {
            shell,
            words,
            answers: Mutex::new(answers),
            data: plan.data.to_path_buf(),
            log: plan.log.to_path_buf(),
        })
    }

    /// Starts the server and waits until it takes connections. Returns its process id.
    pub(super) fn start(&mut self, port: u16) -> Result<u32, StartError> {
        let log_before = fs::metadata(&self.log).map_or(0, |log| log.len());
        self.say(&format!("start {port}"))?;
        let answer = self.answer(STOP_TIMEOUT)?;
        let pid = answer
            .strip_prefix("pid ")
            .and_then(|pid| pid.parse().ok())
            .ok_or_else(|| io::Error::other(format!("the guard's shell said {answer:?}")))?;
        for _ in 0..START_POLLS {
            if PidFile::read(&self.data).is_some_and(|file| file.ready && file.pid == pid) {
                return Ok(pid);
            }
            match self.answer(POLL) {
                Ok(_ended) => return Err(self.start_error(log_before)),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StartError::Failed(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "PostgreSQL is not ready after {:?}; its log: {}",
                POLL * START_POLLS,
                tail(&self.log, log_before)
            ),
        )))
    }

    /// Sends a signal by its name ("TERM") to processes of the server.
    pub(super) fn signal(&mut self, name: &str, pids: &[u32]) -> io::Result<()> {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        self.say(&format!("signal {name} {}", pids.join(" ")))
    }

    /// Waits until the server has ended.
    pub(super) fn wait_for_end(&self) -> io::Result<()> {
        self.answer(STOP_TIMEOUT).map(drop)
    }

    fn start_error(&self, log_before: u64) -> StartError {
        let log = tail(&self.log, log_before);
        if log.contains("lock file \"postmaster.pid\" already exists") {
            StartError::AlreadyRunning
        } else if log.contains("Address already in use") {
            StartError::PortTaken
        } else {
            StartError::Failed(io::Error::other(format!(
                "PostgreSQL did not start; its log: {log}"
            )))
        }
    }

    fn say(&mut self, words: &str) -> io::Result<()> {
        let pipe = self.words.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(pipe, "{words}")
    }

    fn answer(&self, timeout: Duration) -> io::Result<String> {
        let answers = self
            .answers
            .lock()
            .map_err(|_| io::Error::other("a thread panicked while it used the server"))?;
        answers.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => io::Error::new(
                io::ErrorKind::TimedOut,
                "the server's guard does not answer",
            ),
            RecvTimeoutError::Disconnected => io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the server's guard has ended: somebody killed it",
            ),
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.words.take()); // the sign to stop the server and clean up
        drop(self.shell.wait());
    }
}

/// What a running server writes about itself into its data directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct PidFile {
    pub(super) pid: u32,
    pub(super) port: u16,
    /// The server takes connections.
    pub(super) ready: bool,
}

impl PidFile {
    pub(super) fn read(data: &Path) -> Option<Self> {
        let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        Some(Self {
            pid: lines.first()?.parse().ok()?,
            port: lines.get(3)?.parse().ok()?,
            ready: lines.get(7) == Some(&"ready"),
        })
    }

    /// Whether the server says that it is ready, and something like PostgreSQL is on its port.
    pub(super) fn answers(&self) -> bool {
        /// Asks for TLS: eight bytes, answered by one.
        const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
        let ask = || -> io::Result<[u8; 1]> {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
            let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            stream.write_all(&SSL_REQUEST)?;
            let mut answer = [0];
            stream.read_exact(&mut answer)?;
            Ok(answer)
        };
        self.ready && ask().is_ok_and(|answer| matches!(&answer, b"S" | b"N"))
    }
}

/// The end of a log file, at most 8 KiB of what lies beyond a position.
pub(super) fn tail(log: &Path, from: u64) -> String {
    const LONGEST: usize = 8 * 1024;
    let bytes = fs::read(log).unwrap_or_default();
    let start = usize::try_from(from).unwrap_or(0).min(bytes.len());
    let start = start.max(bytes.len().saturating_sub(LONGEST));
    String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned()
}
