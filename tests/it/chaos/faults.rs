//! The faults: how each is caused and healed, and what the history says of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use super::history::{Event, FaultKind};
use super::instance::{Instance, Kind};
use super::storm::Storm;
use super::writers;
use crate::ground::{alter, one, run as execute};
use crate::support::proxy::Mode;
use crate::support::wait::{PATIENCE, eventually};

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
            Fault::Falsify => self.falsify(fault).await,
            Fault::Alter => self.altered(fault).await,
        }
    }

    fn one_of(&mut self, wanted: impl Fn(&Instance) -> bool) -> Arc<Instance> {
        let fit: Vec<_> = self.instances.iter().filter(|one| wanted(one)).collect();
        let at = usize::try_from(self.dice.roll(fit.len() as u64)).unwrap();
        fit[at].clone()
    }

    async fn kill(&self, fault: Fault, those: &[Arc<Instance>], last: Duration) -> Instant {
        let course = Course::begin(self, fault, &those.iter().collect::<Vec<_>>());
        for instance in those {
            instance.kill().await;
            self.run.figures().killed += 1;
        }
        course.in_effect();
        sleep(last).await;
        course.mending();
        for instance in those {
            instance.start().await;
        }
        course.healed()
    }

    async fn stop(&self, fault: Fault, one: &Arc<Instance>, last: Duration) -> Instant {
        let course = Course::begin(self, fault, &[one]);
        one.freeze(true).await;
        course.in_effect();
        sleep(last).await;
        course.mending();
        one.freeze(false).await;
        // What it was asked meanwhile is answered late; after that it is itself again.
        let _late = one.ask_status().await;
        course.healed()
    }

    /// All sessions end, or some of them at random.
    async fn terminate(&self, fault: Fault) -> Instant {
        let client = self.database.client().await;
        let mut ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
            WHERE datname = current_database() AND pid <> pg_backend_pid()"
            .to_owned();
        if fault == Fault::Terminate {
            ended += " AND random() < 0.4";
        }
        let course = Course::begin(self, fault, &[]);
        execute(&client, &ended).await;
        course.in_effect();
        course.mending();
        course.healed()
    }

    async fn restart(&mut self, fault: Fault, immediate: bool, last: Duration) -> Instant {
        let begun = Course::begin(self, fault, &[]).name;
        self.database.stop(immediate);
        let course = self.course(begun);
        course.in_effect();
        sleep(last).await;
        course.mending();
        let begun = course.name;
        self.database.restart();
        self.course(begun).healed()
    }

    /// The rest of a course, after the database was somebody else's for a moment.
    pub(super) fn course(&self, name: String) -> Course<'_> {
        Course { storm: self, name }
    }

    async fn freeze(&mut self, fault: Fault, last: Duration) -> Instant {
        let begun = Course::begin(self, fault, &[]).name;
        self.database.pause();
        let course = self.course(begun);
        course.in_effect();
        sleep(last).await;
        course.mending();
        let begun = course.name;
        self.database.resume();
        self.course(begun).healed()
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

    /// Every write waits for the head's row, and the pools fill with those that wait.
    async fn locked(&self, fault: Fault, last: Duration) -> Instant {
        let client = self.database.client().await;
        let course = Course::begin(self, fault, &[]);
        execute(&client, "BEGIN; SELECT FROM sync_config_head FOR UPDATE").await;
        course.in_effect();
        sleep(last).await;
        course.mending();
        execute(&client, "ROLLBACK").await;
        course.healed()
    }

    /// No connection is left, and every session has to be opened anew.
    async fn crowded(&self, fault: Fault, last: Duration) -> Instant {
        let client = self.database.client().await;
        let url = self.database.url();
        let course = Course::begin(self, fault, &[]);
        let mut crowd = Vec::new();
        let crowded = format!("{url}?application_name=crowd");
        let connect = async || tokio_postgres::connect(&crowded, tokio_postgres::NoTls).await;
        while let Ok((member, connection)) = connect().await {
            crowd.push((member, tokio::spawn(connection)));
        }
        course.in_effect();
        let others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> 'crowd'";
        execute(&client, others).await;
        // Nobody is quick enough to take every place that they leave.
        let deadline = Instant::now() + last;
        while Instant::now() < deadline {
            match connect().await {
                Ok((member, connection)) => crowd.push((member, tokio::spawn(connection))),
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
        course.mending();
        drop(crowd);
        let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'crowd'";
        eventually("the crowd has gone", PATIENCE, async || {
            let left: i64 = one(&client, left).await;
            (left == 0).then_some(())
        })
        .await;
        course.healed()
    }

    async fn read_only(&self, fault: Fault, last: Duration) -> Instant {
        let client = self.database.client().await;
        execute(&client, "SET default_transaction_read_only = off").await;
        let set = async |yes: &str| {
            let alter = format!("ALTER SYSTEM SET default_transaction_read_only = {yes}");
            execute(&client, &alter).await;
            execute(&client, "SELECT pg_reload_conf()").await;
        };
        let course = Course::begin(self, fault, &[]);
        set("on").await;
        course.in_effect();
        sleep(last * 2).await;
        course.mending();
        set("off").await;
        course.healed()
    }

    async fn step_clock(&mut self, fault: Fault) -> Instant {
        let one = self.one_of(|one| one.kind == Kind::Agent);
        let hours = i64::try_from(self.dice.roll(49)).unwrap() - 24;
        let course = Course::begin(self, fault, &[&one]);
        let order = json!({ "do": "stepClock", "micros": hours * 3_600_000_000 + 1_000_000 });
        assert!(one.ask(order, PATIENCE).await.is_some(), "{}", one.name);
        course.in_effect();
        course.mending();
        course.healed()
    }

    /// A session that listens and never comes to rest keeps every notice in the queue, which a flood fills.
    async fn stuck_listener(&self, fault: Fault, last: Duration) -> Instant {
        let stuck = self.database.client().await;
        let course = Course::begin(self, fault, &[]);
        execute(&stuck, "LISTEN config_changes").await;
        execute(&stuck, "BEGIN; SELECT FROM sync_config_head").await;
        let flood = self.database.client().await;
        let notices = "SELECT pg_notify('config_changes', repeat(md5(n::text), 200)) FROM generate_series(1, 500) n";
        execute(&flood, notices).await;
        course.in_effect();
        sleep(last).await;
        course.mending();
        execute(&stuck, "ROLLBACK; UNLISTEN *").await;
        course.healed()
    }

    /// One instance shows what was never written, until a heartbeat finds it.
    async fn falsify(&mut self, fault: Fault) -> Instant {
        let one = self.one_of(|one| one.kind == Kind::Agent);
        let key = writers::key(&mut self.dice);
        let course = Course::begin(self, fault, &[&one]);
        let order = json!({ "do": "falsify", "key": key, "text": "\"never written\"" });
        let told = one.ask(order, PATIENCE).await.expect("an answer");
        assert!(told["error"].is_null(), "{told}");
        course.in_effect();
        course.mending();
        eventually("the falsified copy is repaired", PATIENCE, async || {
            // Two looks at different revisions say nothing; nor does a key that somebody has written meanwhile.
            let text = one.ask_text(&key).await;
            (text.as_deref() != Some("\"never written\"")).then_some(())
        })
        .await;
        course.healed()
    }

    /// Rows that no trigger sees are numbered by an audit.
    async fn altered(&mut self, fault: Fault) -> Instant {
        let client = self.database.client().await;
        // Nobody else writes this key, or the journal would never tell what it was in between.
        let (key, text) = (format!("altered:{}", self.dice.roll(3)), self.run.text());
        self.run.keep_all(true);
        let numbered = "SELECT count(*) FROM sync_config_revision WHERE mark = 'audit'";
        let before: i64 = one(&client, numbered).await;
        let course = Course::begin(self, fault, &[]);
        let sql = format!(
            "SET LOCAL lock_timeout = '10s'; INSERT INTO sync_config VALUES ('{key}', '{text}') \
             ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
        );
        alter(&client, &sql).await;
        course.in_effect();
        course.mending();
        eventually("altered rows are numbered", PATIENCE * 2, async || {
            (one::<i64>(&client, numbered).await > before).then_some(())
        })
        .await;
        self.run.keep_all(false);
        course.healed()
    }
}
