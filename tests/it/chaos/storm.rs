//! One storm: a database, instances, writers and subscribers, every fault once in an order that the seed gives, and peace.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use super::checker::{Bounds, check};
use super::database::{self, Database, epoch, head, truth, unpinned};
use super::faults::Fault;
use super::figures::Figures;
use super::history::{self, Event, Outcome, Record};
use super::instance::{Instance, Kind};
use super::run::Run;
use super::{sql, streams, writers};
use crate::convergence::Dice;
use crate::support::program;
use crate::support::proxy::Proxy;
use crate::support::wait::eventually;

/// Within this everybody has to be in step after a fault is over. Far beyond what an idle machine needs: the bounded run
/// shares its cores with a debug build's other tests.
const CONVERGE: Duration = Duration::from_secs(30);

/// What the checker holds a run to. `notice`: checks come each 250 ms here, and an answer is waited for 3 s, or 5 s where rows
/// were under way; the rest is for machines that are busy.
const BOUNDS: Bounds = Bounds {
    notice: 5_800_000,
    converge: 15_000_000,
    slack: 100_000,
};

/// Everything of one storm.
#[derive(Debug)]
pub(crate) struct Storm {
    pub(crate) run: Arc<Run>,
    pub(crate) dice: Dice,
    pub(crate) database: Database,
    pub(crate) instances: Vec<Arc<Instance>>,
    /// Those of the writers of SQL.
    pub(crate) proxies: Vec<Arc<Proxy>>,
    tasks: JoinSet<()>,
}

impl Storm {
    /// Goes through one storm and proves the contract from its history, which is removed if it holds.
    pub(crate) async fn weather(seed: u64, directory: &Path) -> Figures {
        let begun = Instant::now();
        let mut storm = Self::brew(seed, directory).await;
        storm.rage().await;
        storm.calm().await;
        let mut figures = storm.run.figures().clone();
        drop(storm);
        verdict(seed, directory, &mut figures);
        (figures.storms, figures.seconds) = (1, begun.elapsed().as_secs());
        figures
    }

    async fn brew(seed: u64, directory: &Path) -> Self {
        let run = Arc::new(Run::new(directory));
        let mut dice = Dice(seed);
        let mut database = Database::start().await;
        let port = database.port();
        let migrated =
            program::run(&mut program::program(Some(&database.url()), &["migrate"])).await;
        assert!(migrated.status.success(), "{migrated:?}");
        let mut instances = Vec::new();
        for (name, kind) in [
            ("agent0", Kind::Agent),
            ("serve0", Kind::Served),
            ("agent1", Kind::Agent),
            ("serve1", Kind::Served),
        ] {
            let place = (port, database::NAME);
            let instance = Instance::new(&run, name.to_owned(), kind, place).await;
            instance.start().await;
            instances.push(instance);
        }
        let mut proxies = Vec::new();
        for _ in 0..2 {
            proxies.push(Arc::new(Proxy::start(port).await));
        }
        let mut storm = Self {
            run,
            dice: dice.fork(),
            database,
            instances,
            proxies,
            tasks: JoinSet::new(),
        };
        storm.converge(Instant::now()).await;
        storm.run.figures().converged.clear();
        storm.employ();
        storm
    }

    /// Sets everybody to work.
    fn employ(&mut self) {
        for instance in &self.instances {
            let (run, of) = (self.run.clone(), instance.clone());
            match instance.kind {
                Kind::Agent => {
                    let dice = self.dice.fork();
                    self.tasks
                        .spawn(writers::through_the_library(run, of, dice));
                }
                Kind::Served => {
                    for _ in 0..2 {
                        let (dice, run) = (self.dice.fork(), run.clone());
                        self.tasks.spawn(writers::over_http(run, of.clone(), dice));
                    }
                    for prefix in ["", "limit:"] {
                        let (dice, run) = (self.dice.fork(), run.clone());
                        let name = format!("watch-{}-{prefix}", of.name);
                        let watch = streams::watch(run, of.clone(), name, prefix, dice);
                        self.tasks.spawn(watch);
                    }
                }
            }
            let (run, of) = (self.run.clone(), instance.clone());
            self.tasks.spawn(look(run, of));
        }
        let agents = self.instances.iter();
        let agents = agents.filter(|one| one.kind == Kind::Agent).cloned();
        let (run, dice) = (self.run.clone(), self.dice.fork());
        let sql = sql::plain_sql(run, self.proxies[0].clone(), agents.collect(), dice);
        self.tasks.spawn(sql);
        let (run, dice) = (self.run.clone(), self.dice.fork());
        let psql = sql::by_psql(run, self.proxies[1].clone(), dice);
        self.tasks.spawn(psql);
    }

    async fn rage(&mut self) {
        let mut deck = Fault::all();
        for at in (1..deck.len()).rev() {
            let other = usize::try_from(self.dice.roll(at as u64 + 1)).unwrap();
            deck.swap(at, other);
        }
        for fault in deck {
            let begun = Instant::now();
            let healed = self.cause(fault).await;
            let lasted = begun.elapsed();
            self.converge(healed).await;
            let (name, converged) = (fault.name(), healed.elapsed());
            eprintln!("chaos: {name}: {lasted:.1?}, in step after {converged:.2?}");
        }
    }

    /// Waits until every instance has come to terms with the database, and counts how long that took.
    pub(crate) async fn converge(&self, since: Instant) {
        let mut client = self.database.client().await;
        let (mut wanted, mut at) = (epoch(&client).await, 0);
        let mut behind: Vec<&Arc<Instance>> = self.instances.iter().collect();
        let mut last = String::new();
        while !behind.is_empty() {
            assert!(
                since.elapsed() < CONVERGE,
                "not in step {CONVERGE:?} after the fault was over: {last}, wanted {wanted} {at}; the history is in {}",
                self.run.directory().display()
            );
            if client.is_closed() {
                client = self.database.client().await;
            }
            let present = epoch(&client).await;
            if at == 0 || present != wanted {
                (wanted, at) = (present, head(&client).await);
            }
            let mut left = Vec::new();
            for instance in behind {
                let status = instance.ask_status().await;
                let there = status.as_ref().is_some_and(|status| {
                    let place = status.place.as_ref();
                    let level =
                        |place: &history::Place| place.epoch == wanted && place.revision >= at;
                    status.ready && status.mode != "offline" && place.is_some_and(level)
                });
                if there {
                    self.run.figures().converged.push(since.elapsed());
                } else {
                    last = format!("{}: {status:?}", instance.name);
                    left.push(instance);
                }
            }
            behind = left;
            if !behind.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Ends the writers, waits until everything is the same everywhere, and records what the database says.
    async fn calm(&mut self) {
        self.run.stop();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        for instance in self.instances.iter().filter(|one| one.kind == Kind::Agent) {
            let settled = instance.ask(json!({ "do": "settle" }), CONVERGE).await;
            assert!(settled.is_some(), "{} still writes", instance.name);
        }
        let mut client = self.database.client().await;
        self.equal(&client).await;
        let truth = truth(&mut client).await;
        let (queue_usage, pinned_by) = unpinned(&client).await;
        self.run.figures().revisions += truth.revisions.len() as u64;
        let names = self.instances.iter().map(|instance| instance.name.clone());
        self.run.book.note(Event::Final {
            truth,
            processes: names.collect(),
            queue_usage,
            pinned_by,
        });
        for instance in &self.instances {
            instance.end().await;
        }
    }

    /// Waits until each instance is pushed to, and holds what the table holds.
    async fn equal(&self, client: &tokio_postgres::Client) {
        eventually("instances equal to the table", CONVERGE, async || {
            let rows = crate::ground::rows(client).await;
            let wanted = history::checksum(&rows.into_iter().collect());
            let (epoch, head) = (epoch(client).await, head(client).await);
            for instance in &self.instances {
                let status = instance.ask_status().await.ok_or("no answer")?;
                let place = status.place.as_ref();
                let level = place.is_some_and(|at| at.epoch == epoch && at.revision == head);
                if !level || status.mode != "push" || status.checksum.as_ref() != Some(&wanted) {
                    return Err(format!(
                        "{epoch} {head} {wanted}, but {}: {status:?}",
                        instance.name
                    ));
                }
            }
            Ok(())
        })
        .await;
        // What was delivered last is written down a moment after the status.
        for instance in &self.instances {
            let _again = instance.ask_status().await;
        }
    }
}

/// Proves the contract from what was recorded.
pub(super) fn verdict(seed: u64, directory: &Path, figures: &mut Figures) {
    let mut records = history::read(directory).unwrap();
    identify(&mut records);
    let report = check(&records, BOUNDS);
    let of = |guarantees: &[&str]| {
        let found = report.violations.iter();
        let found = found.filter(|violation| guarantees.contains(&violation.guarantee));
        found.count() as u64
    };
    figures.lost += of(&["durable", "complete or told"]);
    figures.duplicated += of(&["once", "idempotent"]);
    figures.disordered += of(&["ordered", "monotonic", "commit order"]);
    if report.violations.is_empty() {
        return;
    }
    let found = report.violations.iter().map(ToString::to_string);
    let found: Vec<String> = found.collect();
    std::fs::write(directory.join("violations.txt"), found.join("\n")).unwrap();
    panic!(
        "{} violations of {:?}; SYNC_CONFIG_TEST_SEED={seed}; the history and violations.txt are in {}; the first:\n{}",
        found.len(),
        report.broken(),
        directory.display(),
        found
            .iter()
            .take(20)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n")
    );
}

/// Gives answers that tell a revision without its id, as those over HTTP do, the id: of the history that was followed when
/// they came, or of the one before if it was replaced between request and answer.
fn identify(records: &mut [Record]) {
    let (mut lines, mut asked) = (Vec::new(), HashMap::new());
    for record in &*records {
        match &record.event {
            Event::Branch { truth, .. } => lines.push((record.at, truth.clone())),
            Event::Final { truth, .. } => lines.push((u64::MAX, truth.clone())),
            Event::Invoked { operation, request } => {
                let item = request.items.first().cloned();
                asked.insert(operation.clone(), (record.at, item));
            }
            _ => {}
        }
    }
    lines.sort_by_key(|(lost_at, _)| *lost_at);
    for record in records {
        let Event::Returned {
            operation,
            outcome: Outcome::Applied { place, .. },
        } = &mut record.event
        else {
            continue;
        };
        let Some((invoked, Some(item))) = asked.get(operation) else {
            continue;
        };
        if place.rid.is_some() {
            continue;
        }
        let followed = lines.iter().filter(|(lost_at, _)| *lost_at > *invoked);
        let made = followed.filter_map(|(lost_at, truth)| {
            let revisions = &truth.revisions;
            let at = revisions.binary_search_by_key(&place.revision, |made| made.revision);
            Some((lost_at, &revisions[at.ok()?]))
        });
        let does = |made: &history::Revision| {
            let mut changes = made.changes.iter();
            changes.any(|change| change.key == item.key && change.new == item.new)
        };
        let made: Vec<_> = made.collect();
        let now = made.iter().find(|(lost_at, _)| **lost_at > record.at);
        let fits = made.iter().find(|(_, made)| does(made));
        place.rid = fits.or(now).map(|(_, made)| made.rid.clone());
    }
}

/// Asks an instance for its status again and again.
async fn look(run: Arc<Run>, of: Arc<Instance>) {
    while !run.stopped() {
        let _recorded = of.ask_status().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Where the history of a storm is kept.
pub(crate) fn directory(seed: u64) -> PathBuf {
    let name = format!("sync-config-chaos-{}-{seed}", std::process::id());
    std::env::temp_dir().join(name)
}
