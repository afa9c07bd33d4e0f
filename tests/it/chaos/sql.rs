//! Somebody with psql: plain SQL through a superuser's session, and the real program where it is installed.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, NoTls};

use super::database;
use super::history::{Asked, Outcome, Place};
use super::instance::Instance;
use super::run::{Run, asked};
use super::writers::key;
use crate::convergence::Dice;
use crate::support::proxy::Proxy;

/// A session whose server is frozen or unreachable is given up: longer than any lock is held on purpose.
const PATIENCE: Duration = Duration::from_secs(8);

/// Under which name these writes stand in the history.
const NAME: &str = "psql";

const NUMBER: &str = "SELECT change FROM sync_config_pending WHERE xid = pg_current_xact_id()";

const REVISION: &str = "SELECT h.epoch::text, r.revision, r.id::text FROM sync_config_head h \
    LEFT JOIN sync_config_revision r ON r.change = $1";

/// Statements of one transaction, and what they make of which keys.
struct Plan {
    statements: Vec<String>,
    items: Vec<Asked>,
    rolled_back: bool,
}

/// Writes until the run stops.
pub(crate) async fn plain_sql(
    run: Arc<Run>,
    proxy: Arc<Proxy>,
    agents: Vec<Arc<Instance>>,
    mut dice: Dice,
) {
    let url = proxy.url(database::NAME);
    let mut waits = JoinSet::new();
    while !run.stopped() {
        let connected = timeout(PATIENCE, tokio_postgres::connect(&url, NoTls)).await;
        let Ok(Ok((client, connection))) = connected else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let connection = tokio::spawn(connection);
        let prepare = "SET lock_timeout = '2s'; SET statement_timeout = '5s'";
        let mut whole = client.batch_execute(prepare).await.is_ok();
        while whole && !run.stopped() {
            sleep(Duration::from_millis(10 + dice.roll(60))).await;
            let done = timeout(PATIENCE, transaction(&run, &client, &mut dice)).await;
            let (good, made) = done.unwrap_or_default();
            if let Some(made) = made.filter(|_| dice.roll(4) == 0) {
                let at = usize::try_from(dice.roll(agents.len() as u64)).unwrap();
                waits.spawn(wait_for(run.clone(), agents[at].clone(), made));
            }
            while let Some(waited) = waits.try_join_next() {
                waited.unwrap();
            }
            whole = good;
        }
        connection.abort();
    }
    waits.join_all().await;
}

/// Asks an instance for a snapshot of a revision or later: it gives that, or says that it cannot, but never less.
async fn wait_for(run: Arc<Run>, of: Arc<Instance>, made: Place) {
    let order = json!({
        "do": "waitFor",
        "epoch": made.epoch,
        "revision": made.revision,
        "rid": made.rid,
        "millis": 5_000,
    });
    let Some(told) = of.ask(order, PATIENCE).await else {
        return; // it was killed meanwhile
    };
    if !told["error"].is_null() {
        return;
    }
    let shown = &told["shown"];
    // After it had reached the revision, the history may have been replaced.
    let less = shown["epoch"] == made.epoch && shown["revision"].as_u64() < Some(made.revision);
    assert!(!less, "{} waited for {made:?} and shows {told}", of.name);
    run.figures().waits += 1;
}

/// Runs one transaction. False when the session is no good any more; and the place of the revision that was made.
async fn transaction(run: &Run, client: &Client, dice: &mut Dice) -> (bool, Option<Place>) {
    if client.batch_execute("BEGIN").await.is_err() {
        return (false, None);
    }
    let plan = if dice.roll(60) == 0 {
        truncation(run, client).await
    } else {
        Some(plan(run, dice))
    };
    let Some(plan) = plan else {
        return (client.batch_execute("ROLLBACK").await.is_ok(), None);
    };
    let operation = run.operation();
    run.invoke(NAME, 1, &operation, plan.items);
    let outcome = carry_out(client, &plan.statements, plan.rolled_back).await;
    let whole = !matches!(outcome, Outcome::Unknown { .. });
    let made = match &outcome {
        Outcome::Applied { place, .. } if place.rid.is_some() => Some(place.clone()),
        _ => None,
    };
    run.answer(NAME, 1, &operation, outcome);
    // After an error within the transaction; harmless otherwise.
    let good = whole && client.batch_execute("ROLLBACK").await.is_ok();
    (good, made)
}

async fn carry_out(client: &Client, statements: &[String], rolled_back: bool) -> Outcome {
    let refused = |error: tokio_postgres::Error| Outcome::NotApplied {
        why: error.to_string(),
    };
    for statement in statements {
        if let Err(error) = client.batch_execute(statement).await {
            return refused(error);
        }
    }
    let number = match client.query_opt(NUMBER, &[]).await {
        Ok(row) => row.map(|row| row.get::<_, i64>(0)),
        Err(error) => return refused(error),
    };
    if rolled_back {
        let why = "rolled back".to_owned();
        return match client.batch_execute("ROLLBACK").await {
            Ok(()) | Err(_) => Outcome::NotApplied { why },
        };
    }
    match client.batch_execute("COMMIT").await {
        Ok(()) => {}
        // The server says that this transaction failed; if it ended the session instead, that may have been after the
        // commit.
        Err(error)
            if error
                .as_db_error()
                .is_some_and(|error| error.severity() == "ERROR") =>
        {
            return refused(error);
        }
        Err(error) => {
            let why = error.to_string();
            return Outcome::Unknown { why };
        }
    }
    match revision(client, number).await {
        Ok((place, changed)) => Outcome::Applied {
            place,
            changed,
            visible: false,
            replayed: false,
        },
        Err(error) => Outcome::Unknown {
            why: format!("committed, at a revision that cannot be asked for: {error}"),
        },
    }
}

/// The revision that a change got at its commit; the newest one if the transaction changed nothing in the end.
async fn revision(
    client: &Client,
    number: Option<i64>,
) -> Result<(Place, bool), tokio_postgres::Error> {
    let row = client.query_one(REVISION, &[&number]).await?;
    let (revision, rid): (Option<i64>, Option<String>) = (row.get(1), row.get(2));
    let changed = revision.is_some();
    let revision = match revision {
        Some(revision) => revision,
        None => {
            let head = "SELECT revision FROM sync_config_head";
            client.query_one(head, &[]).await?.get(0)
        }
    };
    let place = Place {
        epoch: row.get(0),
        revision: u64::try_from(revision).unwrap(),
        rid,
    };
    Ok((place, changed))
}

/// Empties the table. What is in it has to be known before, so nobody else may write meanwhile.
async fn truncation(run: &Run, client: &Client) -> Option<Plan> {
    let lock = "LOCK TABLE sync_config IN ACCESS EXCLUSIVE MODE";
    client.batch_execute(lock).await.ok()?;
    if run.keeps_all() {
        return None;
    }
    let rows = client.query("SELECT key::text FROM sync_config", &[]).await;
    let items = rows
        .ok()?
        .iter()
        .map(|row| asked(row.get(0), None))
        .collect();
    Some(Plan {
        statements: vec!["TRUNCATE sync_config".to_owned()],
        items,
        rolled_back: false,
    })
}

fn put(key: &str, text: &str) -> String {
    format!(
        "INSERT INTO sync_config VALUES ('{key}', '{text}') ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
    )
}

fn plan(run: &Run, dice: &mut Dice) -> Plan {
    let (statements, items) = match dice.roll(12) {
        0 => rename(run, dice),
        1 => bulk(run, dice),
        2 | 3 => {
            let key = key(dice);
            let delete = format!("DELETE FROM sync_config WHERE key = '{key}'");
            (vec![delete], vec![asked(&key, None)])
        }
        _ => upserts(run, dice),
    };
    Plan {
        statements,
        items,
        rolled_back: dice.roll(10) == 0,
    }
}

/// A few rows in one transaction, a statement each.
fn upserts(run: &Run, dice: &mut Dice) -> (Vec<String>, Vec<Asked>) {
    let mut keys: Vec<String> = (0..1 + dice.roll(4)).map(|_| key(dice)).collect();
    keys.sort();
    keys.dedup();
    let (mut statements, mut items) = (Vec::new(), Vec::new());
    for key in keys {
        let text = run.text();
        statements.push(put(&key, &text));
        items.push(asked(&key, Some(&text)));
    }
    (statements, items)
}

/// A key that changes its name, whatever was under either.
fn rename(run: &Run, dice: &mut Dice) -> (Vec<String>, Vec<Asked>) {
    let (from, text) = (key(dice), run.text());
    let to = format!("renamed:{}", dice.roll(6));
    let statements = vec![
        put(&from, &text),
        format!("DELETE FROM sync_config WHERE key = '{to}'"),
        format!("UPDATE sync_config SET key = '{to}' WHERE key = '{from}'"),
    ];
    (
        statements,
        vec![asked(&from, None), asked(&to, Some(&text))],
    )
}

/// Many rows in one statement.
fn bulk(run: &Run, dice: &mut Dice) -> (Vec<String>, Vec<Asked>) {
    let (mut rows, mut items) = (String::new(), Vec::new());
    for number in 0..20 + dice.roll(60) {
        let (key, text) = (format!("bulk:{number:03}"), run.text());
        let comma = if number > 0 { ", " } else { "" };
        write!(rows, "{comma}('{key}', '{text}')").unwrap();
        items.push(asked(&key, Some(&text)));
    }
    let statement = format!(
        "INSERT INTO sync_config VALUES {rows} ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
    );
    (vec![statement], items)
}

/// The real psql, if it is installed.
pub(crate) fn psql() -> Option<PathBuf> {
    let beside = crate::support::local_postgres::find_binaries()?;
    let beside = beside.dir.join("psql");
    beside.is_file().then_some(beside)
}

/// Writes by the real psql, a process for each transaction, until the run stops.
pub(crate) async fn by_psql(run: Arc<Run>, proxy: Arc<Proxy>, mut dice: Dice) {
    let Some(program) = psql() else {
        let why = "psql is not installed".to_owned();
        run.figures().not_made.insert("writes by psql", why);
        return;
    };
    let url = proxy.url(database::NAME);
    while !run.stopped() {
        sleep(Duration::from_millis(200 + dice.roll(400))).await;
        let Plan {
            statements, items, ..
        } = plan(&run, &mut dice);
        let mut script =
            String::from("SET lock_timeout = '2s'; SET statement_timeout = '5s';\nBEGIN;\n");
        for statement in statements {
            writeln!(script, "{statement};").unwrap();
        }
        // The number is asked for before the commit, and what it became after it. Where nothing changed there is none,
        // and psql stops before the commit.
        writeln!(script, "{NUMBER} \\gset").unwrap();
        writeln!(script, "COMMIT;\n\\echo committed").unwrap();
        let asked = REVISION.replace("$1", ":change");
        writeln!(script, "{asked};").unwrap();
        let operation = run.operation();
        run.invoke(NAME, 2, &operation, items);
        let outcome = match timeout(PATIENCE, run_script(&program, &url, &script)).await {
            Ok(Some(output)) => read_answer(&output),
            Ok(None) | Err(_) => unknown("psql gave no answer"),
        };
        run.answer(NAME, 2, &operation, outcome);
    }
}

fn unknown(why: &str) -> Outcome {
    Outcome::Unknown {
        why: why.to_owned(),
    }
}

async fn run_script(program: &PathBuf, url: &str, script: &str) -> Option<String> {
    use tokio::io::AsyncWriteExt as _;
    let mut child = Command::new(program)
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take()?;
    // psql that has ended already reads nothing; its answer says so.
    drop(stdin.write_all(script.as_bytes()).await);
    drop(stdin);
    let output = child.wait_with_output().await.ok()?;
    String::from_utf8(output.stdout).ok()
}

/// Without the word "committed" the commit failed, or its answer was lost.
fn read_answer(output: &str) -> Outcome {
    let mut lines = output
        .lines()
        .skip_while(|line| *line != "committed")
        .skip(1);
    let Some(row) = lines.next() else {
        return unknown("psql ended before it knew");
    };
    let fields: Vec<&str> = row.split('|').collect();
    let [epoch, revision, rid] = fields[..] else {
        return unknown("psql told no revision");
    };
    let Ok(revision) = revision.parse() else {
        return unknown("nothing was changed");
    };
    Outcome::Applied {
        place: Place {
            epoch: epoch.to_owned(),
            revision,
            rid: Some(rid.to_owned()),
        },
        changed: true,
        visible: false,
        replayed: false,
    }
}
