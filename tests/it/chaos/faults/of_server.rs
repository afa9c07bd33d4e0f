//! Faults of the server, and of what lies in it.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{Course, Fault};
use crate::chaos::storm::Storm;
use crate::ground::{alter, one, run as execute};
use crate::support::wait::{PATIENCE, eventually};

impl Storm {
    /// All sessions end, or some of them at random.
    pub(super) async fn terminate(&self, fault: Fault) -> Instant {
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

    pub(super) async fn restart(
        &mut self,
        fault: Fault,
        immediate: bool,
        last: Duration,
    ) -> Instant {
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

    pub(super) async fn freeze(&mut self, fault: Fault, last: Duration) -> Instant {
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

    /// Every write waits for the head's row, and the pools fill with those that wait.
    pub(super) async fn locked(&self, fault: Fault, last: Duration) -> Instant {
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
    pub(super) async fn crowded(&self, fault: Fault, last: Duration) -> Instant {
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

    pub(super) async fn read_only(&self, fault: Fault, last: Duration) -> Instant {
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

    /// A session that listens and never comes to rest keeps every notice in the queue, which a flood fills.
    pub(super) async fn stuck_listener(&self, fault: Fault, last: Duration) -> Instant {
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

    /// Rows that no trigger sees are numbered by an audit.
    pub(super) async fn altered(&mut self, fault: Fault) -> Instant {
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
        // Until an instance has reached the audit's revision it may show the altered rows at an earlier one.
        self.converge(Instant::now()).await;
        course.healed()
    }
}
