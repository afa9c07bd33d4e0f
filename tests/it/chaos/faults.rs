//! The faults, what the history says of each, and those of links.

mod of_processes;
mod of_server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::history::{Event, FaultKind};
use super::instance::Instance;
use super::storm::Storm;
use crate::support::proxy::Mode;

/// So long a silence lasts at least: instances notice it within 6 s, and the checker looks whether they did.
const SILENCE: Duration = Duration::from_millis(6_200);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    KillAll,
    Stop,
    Terminate,
    TerminateAll,
    Restart { immediate: bool },
    Freeze,
    Link(Link),
    Locked,
    Crowded,
    ReadOnly,
    DiskFull,
    Restore { told: bool },
    FailOver,
    StepClock,
    StuckListener,
    SlowSubscriber,
    Falsify,
    Alter,
}

/// What goes wrong between an instance and its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Cut,
    Refuse,
    Freeze,
    Delay,
    Throttle,
    Blackhole,
    BlackholeToServer,
    BlackholeToClient,
}

impl Fault {
    /// Each of them once; what happens most often in life, twice.
    pub(crate) fn all() -> Vec<Self> {
        use Link::{
            Blackhole, BlackholeToClient, BlackholeToServer, Cut, Delay, Freeze, Refuse, Throttle,
        };
        let links = [
            Cut,
            Refuse,
            Freeze,
            Delay,
            Throttle,
            Blackhole,
            BlackholeToServer,
            BlackholeToClient,
        ];
        let mut all = vec![
            Self::Kill,
            Self::Kill,
            Self::KillAll,
            Self::Stop,
            Self::Terminate,
            Self::TerminateAll,
            Self::Restart { immediate: false },
            Self::Restart { immediate: true },
            Self::Freeze,
            Self::Locked,
            Self::Crowded,
            Self::ReadOnly,
            Self::DiskFull,
            Self::Restore { told: false },
            Self::Restore { told: true },
            Self::FailOver,
            Self::StepClock,
            Self::StuckListener,
            Self::SlowSubscriber,
            Self::Falsify,
            Self::Alter,
        ];
        all.extend(links.map(Self::Link));
        all
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill one instance",
            Self::KillAll => "kill all instances at once",
            Self::Stop => "stop a process (SIGSTOP)",
            Self::Terminate => "terminate some backends",
            Self::TerminateAll => "terminate all backends",
            Self::Restart { immediate: false } => "restart, fast",
            Self::Restart { immediate: true } => "restart, immediate",
            Self::Freeze => "freeze the server",
            Self::Link(Link::Cut) => "link cut",
            Self::Link(Link::Refuse) => "link refused",
            Self::Link(Link::Freeze) => "link frozen",
            Self::Link(Link::Delay) => "link delayed",
            Self::Link(Link::Throttle) => "link throttled",
            Self::Link(Link::Blackhole) => "link blackholed",
            Self::Link(Link::BlackholeToServer) => "link blackholed to the server",
            Self::Link(Link::BlackholeToClient) => "link blackholed to the client",
            Self::Locked => "pools exhausted by a held lock",
            Self::Crowded => "connections of the server exhausted",
            Self::ReadOnly => "read-only server",
            Self::DiskFull => "disk full",
            Self::Restore { told: false } => "restore of a backup, nobody told",
            Self::Restore { told: true } => "restore of a backup and new-epoch",
            Self::FailOver => "failover to a standby that lost commits",
            Self::StepClock => "wall clock stepped",
            Self::StuckListener => "stuck listener",
            Self::SlowSubscriber => "subscriber blocked for longer than its queue",
            Self::Falsify => "cache edited",
            Self::Alter => "rows altered behind the triggers",
        }
    }

    fn kind(self) -> FaultKind {
        match self {
            Self::Kill | Self::KillAll => FaultKind::Killed,
            Self::Stop | Self::Restart { .. } | Self::Freeze => FaultKind::CutOff,
            Self::Link(Link::Refuse | Link::Freeze | Link::Blackhole) => FaultKind::CutOff,
            Self::Restore { .. } | Self::FailOver => FaultKind::Replaced,
            Self::Falsify => FaultKind::Falsified,
            Self::Alter => FaultKind::Altered,
            _ => FaultKind::Disturbed,
        }
    }
}

/// Records the course of a fault.
pub(super) struct Course<'a> {
    storm: &'a Storm,
    pub(super) name: String,
}

impl<'a> Course<'a> {
    pub(super) fn begin(storm: &'a Storm, fault: Fault, of: &[&Arc<Instance>]) -> Self {
        storm.run.figures().count(fault.name());
        let name = format!("fault{}", storm.run.number());
        storm.run.book.note(Event::Fault {
            fault: name.clone(),
            what: fault.kind(),
            processes: of.iter().map(|instance| instance.name.clone()).collect(),
        });
        Self { storm, name }
    }

    pub(super) fn in_effect(&self) {
        let fault = self.name.clone();
        self.storm.run.book.note(Event::InEffect { fault });
    }

    pub(super) fn mending(&self) {
        let fault = self.name.clone();
        self.storm.run.book.note(Event::Mending { fault });
    }

    pub(super) fn healed(self) -> Instant {
        let fault = self.name;
        self.storm.run.book.note(Event::Healed { fault });
        Instant::now()
    }
}

impl Storm {
    /// Causes a fault, lets it last and heals it. Answers when that was over.
    pub(crate) async fn cause(&mut self, fault: Fault) -> Instant {
        let one = self.one_of(|_| true);
        let last = Duration::from_millis(300 + self.dice.roll(900));
        match fault {
            Fault::Kill => self.kill(fault, &[one], last).await,
            Fault::KillAll => {
                let all = self.instances.clone();
                self.kill(fault, &all, last).await
            }
            Fault::Stop => self.stop(fault, &one, last * 2).await,
            Fault::Terminate | Fault::TerminateAll => self.terminate(fault).await,
            Fault::Restart { immediate } => self.restart(fault, immediate, last).await,
            Fault::Freeze => self.freeze(fault, SILENCE + last).await,
            Fault::Link(link @ (Link::Freeze | Link::Blackhole)) => {
                self.link(fault, link, &one, SILENCE + last).await
            }
            Fault::Link(link) => self.link(fault, link, &one, last * 3).await,
            Fault::Locked => self.locked(fault, last * 3).await,
            Fault::Crowded => self.crowded(fault, last).await,
            Fault::ReadOnly => self.read_only(fault, last).await,
            Fault::DiskFull => self.disk_full(fault, last).await,
            Fault::Restore { told } => self.restore(fault, told, last).await,
            Fault::FailOver => self.fail_over(fault, last).await,
            Fault::StepClock => self.step_clock(fault).await,
            Fault::StuckListener => self.stuck_listener(fault, last * 2).await,
            Fault::SlowSubscriber => self.slow_subscriber(fault).await,
            Fault::Falsify => self.falsify(fault).await,
            Fault::Alter => self.altered(fault).await,
        }
    }

    pub(super) fn one_of(&mut self, wanted: impl Fn(&Instance) -> bool) -> Arc<Instance> {
        let fit: Vec<_> = self.instances.iter().filter(|one| wanted(one)).collect();
        let at = usize::try_from(self.dice.roll(fit.len() as u64)).unwrap();
        fit[at].clone()
    }

    /// The rest of a course, after the database was somebody else's for a moment.
    pub(super) fn course(&self, name: String) -> Course<'_> {
        Course { storm: self, name }
    }

    async fn link(&self, fault: Fault, link: Link, one: &Arc<Instance>, last: Duration) -> Instant {
        let course = Course::begin(self, fault, &[one]);
        let mode = match link {
            Link::Cut => Mode::Pass,
            Link::Refuse => Mode::Refuse,
            Link::Freeze => Mode::Freeze,
            Link::Delay => Mode::Delay(Duration::from_millis(200)),
            Link::Throttle => Mode::Throttle(20_000),
            Link::Blackhole => Mode::Blackhole,
            Link::BlackholeToServer => Mode::BlackholeToServer,
            Link::BlackholeToClient => Mode::BlackholeToClient,
        };
        one.proxy.set(mode).await;
        if matches!(link, Link::Cut | Link::Refuse) {
            one.proxy.cut().await;
        }
        course.in_effect();
        if link != Link::Cut {
            sleep(last).await;
        }
        course.mending();
        one.proxy.set(Mode::Pass).await;
        course.healed()
    }
}
