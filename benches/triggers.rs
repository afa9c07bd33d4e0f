//! Plain SQL: what the table's triggers add to statements that know nothing of this library, against the same statements on
//! a table without triggers. There a single row's statement notifies by itself; one of 2,000 rows tells nobody.
#![allow(clippy::expect_used, reason = "a benchmark that cannot run stops")]
#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
mod support;

use std::time::Instant;

use support::bare::{Limit, Listening, key, micros, next};
use support::postgres::{Database, Server};
use support::{Case, Target, in_turn, quantile, row, smoke, table};
use sync_config::schema::{Names, QualifiedName, migrate};
use tokio::runtime::Runtime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

/// Entries of either table besides those that come and go.
const ENTRIES: usize = 4_096;
const ROUNDS: usize = 11;
/// Single statements of each kind in a round.
const SINGLES: usize = 200;
/// Rows of one large statement.
const ROWS: usize = 2_000;
/// Large statements of each kind in a round.
const LARGE: usize = 3;
/// The kinds of statements, as the tables name them. The first makes rows, the second writes over them.
const KINDS: [&str; 4] = ["insert", "upsert", "update", "delete"];

/// The statements on one table, prepared, and what its single ones carry in addition.
struct Side {
    client: Client,
    single: [Statement; 4],
    large: [Statement; 4],
    _listening: Listening,
    _database: Database,
}

impl Side {
    /// Ours: the triggers tell of what changed.
    async fn ours(server: &Server) -> Self {
        let database = server.database().await;
        let client = database.client().await;
        let qualified = QualifiedName::parse("public", "sync_config").expect("a name");
        let names = Names::new(qualified);
        migrate(&client, &names, "config_changes")
            .await
            .expect("make the table");
        let listening = Listening::on(&database, "config_changes", |_| ()).await;
        support::bare::fill(&client, "sync_config", ENTRIES).await;
        Self::with(database, client, listening, "sync_config", false).await
    }

    async fn theirs(server: &Server) -> Self {
        let database = server.database().await;
        support::bare::create(&database, ENTRIES).await;
        let client = database.client().await;
        let listening = Listening::start(&database, |_| ()).await;
        Self::with(database, client, listening, "bare", true).await
    }

    async fn with(
        database: Database,
        client: Client,
        listening: Listening,
        name: &str,
        notifies: bool,
    ) -> Self {
        let over = "ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value, updated_at = EXCLUDED.updated_at";
        let one = format!("INSERT INTO {name} (key, value) VALUES ($1, $2::text::jsonb)");
        let single = [
            one.clone(),
            format!("{one} {over}"),
            format!("UPDATE {name} SET value = $2::text::jsonb, updated_at = now() WHERE key = $1"),
            format!("DELETE FROM {name} WHERE key = $1 AND $2::text IS NOT NULL"),
        ]
        .map(|sql| match notifies {
            true => format!(
                "WITH done AS ({sql} RETURNING key) SELECT pg_notify('bare', key || ' ' || $2) FROM done"
            ),
            false => sql,
        });
        let all = format!(
            "INSERT INTO {name} (key, value) SELECT k, $2::text::jsonb FROM unnest($1::text[]) k"
        );
        let large = [
            all.clone(),
            format!("{all} {over}"),
            format!(
                "UPDATE {name} SET value = $2::text::jsonb, updated_at = now() WHERE key = ANY ($1::text[])"
            ),
            format!("DELETE FROM {name} WHERE key = ANY ($1::text[]) AND $2::text IS NOT NULL"),
        ];
        let (single, large) = (
            prepare(&client, single).await,
            prepare(&client, large).await,
        );
        Self {
            client,
            single,
            large,
            _listening: listening,
            _database: database,
        }
    }

    /// Runs each statement so often, one kind after the other on the same key or keys, and answers the medians.
    async fn round<K: ToSql + Sync>(
        &self,
        statements: &[Statement; 4],
        times: usize,
        keys: impl Fn(usize) -> K,
    ) -> Vec<(&'static str, f64)> {
        let mut took: [Vec<f64>; 4] = Default::default();
        for turn in 0..times {
            let keys = keys(turn);
            for (kind, statement) in statements.iter().enumerate() {
                let value = Limit::of(next()).json();
                let begin = Instant::now();
                let done = self.client.execute(statement, &[&keys, &value]).await;
                took[kind].push(micros(begin.elapsed()));
                done.expect("a statement");
            }
        }
        let median = |mut each: Vec<f64>| {
            each.sort_by(f64::total_cmp);
            quantile(&each, 0.5)
        };
        KINDS.into_iter().zip(took.map(median)).collect()
    }

    fn singles<'a>(&'a self, runtime: &'a Runtime, name: &str) -> Case<'a> {
        let times = if smoke() { 10 } else { SINGLES };
        Case::new(name, move || {
            let round = self.round(&self.single, times, |turn| key(ENTRIES + turn % 16));
            runtime.block_on(round)
        })
    }

    fn large<'a>(&'a self, runtime: &'a Runtime, name: &str) -> Case<'a> {
        let keys: Vec<String> = (ENTRIES..ENTRIES + ROWS).map(key).collect();
        Case::new(name, move || {
            let round = self.round(&self.large, LARGE, |_| keys.clone());
            runtime.block_on(round)
        })
    }
}

async fn prepare(client: &Client, sql: [String; 4]) -> [Statement; 4] {
    let mut statements = Vec::new();
    for sql in sql {
        statements.push(client.prepare(&sql).await.expect("prepare"));
    }
    statements.try_into().expect("four of them")
}

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    let server = Server::start();
    runtime.block_on(support::bare::introduce(&server));
    let ours = runtime.block_on(Side::ours(&server));
    let theirs = runtime.block_on(Side::theirs(&server));

    let cases = vec![
        theirs.singles(&runtime, "notified by the application"),
        ours.singles(&runtime, "plain, with our triggers"),
    ];
    let figures = in_turn(ROUNDS, cases);
    table("One row by plain SQL, median in microseconds");
    for (kind, target) in KINDS.into_iter().zip([
        Target::Told,
        Target::AtMost(1.4),
        Target::AtMost(1.4),
        Target::AtMost(1.4),
    ]) {
        row(&figures[1], &figures[0], kind, "µs", target);
    }

    let cases = vec![
        theirs.large(&runtime, "bare statement"),
        ours.large(&runtime, "with our triggers"),
    ];
    let figures = in_turn(ROUNDS, cases);
    table("2,000 rows in one statement of plain SQL, median in microseconds");
    for kind in KINDS {
        row(&figures[1], &figures[0], kind, "µs", Target::AtMost(3.0));
    }
}
