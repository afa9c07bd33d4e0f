//! What a run counts, and the table of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Counted in one run, or in several together.
#[derive(Debug, Default, Clone)]
pub(crate) struct Figures {
    pub(crate) storms: u64,
    /// Processes, where a fault kills several.
    pub(crate) killed: u64,
    pub(crate) seconds: u64,
    pub(crate) applied: u64,
    pub(crate) conflicts: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) resent: u64,
    pub(crate) revisions: u64,
    pub(crate) lost_revisions: u64,
    pub(crate) delivered: u64,
    pub(crate) changes: u64,
    pub(crate) resets: u64,
    pub(crate) waits: u64,
    pub(crate) statuses: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) disordered: u64,
    /// By the name of the fault.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// Faults that cannot be caused on this machine, and why.
    pub(crate) not_made: BTreeMap<&'static str, String>,
    pub(crate) converged: Vec<Duration>,
}

impl Figures {
    pub(crate) fn add(&mut self, other: Self) {
        let mine = [
            &mut self.storms,
            &mut self.killed,
            &mut self.seconds,
            &mut self.applied,
            &mut self.conflicts,
            &mut self.refused,
            &mut self.unknown,
            &mut self.resent,
            &mut self.revisions,
            &mut self.lost_revisions,
            &mut self.delivered,
            &mut self.changes,
            &mut self.resets,
            &mut self.waits,
            &mut self.statuses,
            &mut self.lost,
            &mut self.duplicated,
            &mut self.disordered,
        ];
        let theirs = [
            other.storms,
            other.killed,
            other.seconds,
            other.applied,
            other.conflicts,
            other.refused,
            other.unknown,
            other.resent,
            other.revisions,
            other.lost_revisions,
            other.delivered,
            other.changes,
            other.resets,
            other.waits,
            other.statuses,
            other.lost,
            other.duplicated,
            other.disordered,
        ];
        for (mine, theirs) in mine.into_iter().zip(theirs) {
            *mine += theirs;
        }
        for (name, count) in other.faults {
            *self.faults.entry(name).or_default() += count;
        }
        self.not_made.extend(other.not_made);
        self.converged.extend(other.converged);
    }

    pub(crate) fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    fn faults_of(&self, group: Group) -> u64 {
        let of = |(name, count): (&&str, &u64)| (Group::of(name) == group).then_some(*count);
        self.faults.iter().filter_map(of).sum()
    }
}

/// What a fault counts as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Kill,
    Restart,
    Partition,
    Other,
}

impl Group {
    fn of(fault: &str) -> Self {
        let begins = |word| fault.starts_with(word);
        if begins("kill") {
            Self::Kill
        } else if begins("restart") {
            Self::Restart
        } else if begins("link") {
            Self::Partition
        } else {
            Self::Other
        }
    }
}

/// The value below which so many per cent of the sorted values lie.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(at).copied().unwrap_or_default()
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.converged.clone();
        sorted.sort_unstable();
        let millis = |percent| percentile(&sorted, percent).as_millis();
        writeln!(f, "| figure | count |\n| --- | ---: |")?;
        let rows: [(&str, String); 18] = [
            ("storms", self.storms.to_string()),
            ("seconds", self.seconds.to_string()),
            ("instances killed with SIGKILL", self.killed.to_string()),
            (
                "server restarts, fast and immediate",
                self.faults_of(Group::Restart).to_string(),
            ),
            (
                "partitions and other faults of a link",
                self.faults_of(Group::Partition).to_string(),
            ),
            ("other faults", self.faults_of(Group::Other).to_string()),
            ("writes applied", self.applied.to_string()),
            (
                "writes that met a condition that did not hold",
                self.conflicts.to_string(),
            ),
            ("writes refused", self.refused.to_string()),
            (
                "writes of unknown outcome (sent again)",
                format!("{} ({})", self.unknown, self.resent),
            ),
            (
                "revisions (on branches that were lost)",
                format!("{} ({})", self.revisions, self.lost_revisions),
            ),
            (
                "revisions delivered to subscribers (changes)",
                format!("{} ({})", self.delivered, self.changes),
            ),
            ("resets told to subscribers", self.resets.to_string()),
            (
                "revisions waited for on another instance",
                self.waits.to_string(),
            ),
            ("looks at an instance's status", self.statuses.to_string()),
            (
                "revisions lost / duplicated / out of order",
                format!("{} / {} / {}", self.lost, self.duplicated, self.disordered),
            ),
            ("heals measured (instances)", sorted.len().to_string()),
            (
                "time to converge, p50 / p99 / max",
                format!("{} / {} / {} ms", millis(50), millis(99), millis(100)),
            ),
        ];
        for (name, value) in rows {
            writeln!(f, "| {name} | {value} |")?;
        }
        for (name, count) in &self.faults {
            writeln!(f, "| – {name} | {count} |")?;
        }
        for (name, why) in &self.not_made {
            writeln!(f, "| – {name} | not made: {why} |")?;
        }
        Ok(())
    }
}
