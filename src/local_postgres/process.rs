//! A look at the operating system's processes.

use std::process::Command;
use std::{fs, io};

/// One process of this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) parent: u32,
    /// Stopped by a signal; or ended, and waiting for a stopped parent to take notice.
    pub(super) stopped: bool,
}

/// Lists all processes: from `/proc` where there is one, since small systems lack `ps`.
pub(super) fn all() -> io::Result<Vec<Process>> {
    if fs::exists("/proc/self/stat")? {
        let stats = fs::read_dir("/proc")?
            .flatten()
            .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        return Ok(stats.filter_map(|stat| from_stat(&stat)).collect());
    }
    let output = Command::new("ps")
        .args(["-A", "-o", "pid=", "-o", "ppid=", "-o", "state="])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(from_ps).collect())
}

/// "123 (a name) S 1 ...", where the name may hold anything, brackets too.
fn from_stat(stat: &str) -> Option<Process> {
    let (pid, _) = stat.split_once(' ')?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    process(pid, fields.next()?, state)
}

fn from_ps(line: &str) -> Option<Process> {
    let mut fields = line.split_whitespace();
    process(fields.next()?, fields.next()?, fields.next()?)
}

fn process(pid: &str, parent: &str, state: &str) -> Option<Process> {
    Some(Process {
        pid: pid.parse().ok()?,
        parent: parent.parse().ok()?,
        stopped: state.starts_with(['T', 'Z', 'X']),
    })
}
