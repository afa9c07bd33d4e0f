//! The server under the storm: restarts, a standby, backups, and what it says is true.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::task::block_in_place;
use tokio_postgres::{Client, IsolationLevel, NoTls};

use super::history::{Change, Revision, Texts, Truth};
use crate::ground::one;
use crate::support::postgres::{OwnCluster, connect};
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::{PATIENCE, eventually};

pub(crate) const NAME: &str = "chaos";

/// A server of our own, which may be replaced by another one.
#[derive(Debug)]
pub(crate) struct Database {
    primary: OwnCluster,
}

/// A standby that follows through a link that can be broken.
#[derive(Debug)]
pub(crate) struct Standby {
    cluster: OwnCluster,
    link: Proxy,
}

impl Database {
    pub(crate) async fn start() -> Self {
        let primary = block_in_place(OwnCluster::start);
        let admin = connect(&primary.url("postgres")).await;
        let create = format!("CREATE DATABASE {NAME}");
        admin.batch_execute(&create).await.unwrap();
        Self { primary }
    }

    pub(crate) fn port(&mut self) -> u16 {
        self.primary.server().port()
    }

    pub(crate) fn url(&self) -> String {
        self.primary.url(NAME)
    }

    /// A session that no proxy stands before.
    pub(crate) async fn client(&self) -> Client {
        let url = self.url();
        let connected = eventually("a session", PATIENCE, async || {
            let connected = tokio_postgres::connect(&url, NoTls).await;
            connected.map_err(|error| error.to_string())
        });
        let (client, connection) = connected.await;
        tokio::spawn(connection);
        client
    }

    pub(crate) fn stop(&mut self, immediate: bool) {
        let server = self.primary.server();
        block_in_place(|| {
            if immediate {
                server.stop_immediate()
            } else {
                server.stop_fast()
            }
        })
        .unwrap();
    }

    pub(crate) fn restart(&mut self) {
        block_in_place(|| self.primary.server().restart()).unwrap();
    }

    pub(crate) fn pause(&mut self) {
        block_in_place(|| self.primary.server().pause()).unwrap();
    }

    pub(crate) fn resume(&mut self) {
        block_in_place(|| self.primary.server().resume()).unwrap();
    }

    fn data(cluster: &mut OwnCluster) -> PathBuf {
        cluster.server().home().join("data")
    }

    /// Where a backup lies.
    fn saved(&mut self) -> PathBuf {
        self.primary.server().home().join("saved")
    }

    /// Takes a backup, for which the server stops.
    pub(crate) fn back_up(&mut self) {
        let (data, saved) = (Self::data(&mut self.primary), self.saved());
        self.stop(false);
        copy(&data, &saved);
        self.restart();
    }

    /// Brings the backup back: what was committed since then is gone.
    pub(crate) fn restore(&mut self) {
        let (data, saved) = (Self::data(&mut self.primary), self.saved());
        self.stop(false);
        std::fs::remove_dir_all(&data).unwrap();
        std::fs::rename(&saved, &data).unwrap();
        self.restart();
    }

    /// Sets up a standby, for which the server stops.
    pub(crate) async fn stand_by(&mut self) -> Standby {
        let mut cluster = block_in_place(OwnCluster::start);
        block_in_place(|| cluster.server().stop_fast()).unwrap();
        self.stop(false);
        let (from, to) = (Self::data(&mut self.primary), Self::data(&mut cluster));
        std::fs::remove_dir_all(&to).unwrap();
        copy(&from, &to);
        copy(&from.join("PG_VERSION"), &to.join("standby.signal"));
        let link = Proxy::start(self.port()).await;
        let source = format!(
            "primary_conninfo = 'host=127.0.0.1 port={} user=postgres'\n",
            link.port()
        );
        // The file is the copy's, and so is its owner.
        std::fs::write(to.join("postgresql.auto.conf"), source).unwrap();
        self.restart();
        block_in_place(|| cluster.server().restart()).unwrap();
        let standby = Standby { cluster, link };
        standby.reaches(head(&self.client().await).await).await;
        standby
    }

    /// Puts the standby in the place of the server, which ends as in a crash.
    pub(crate) async fn fail_over(&mut self, standby: Standby) {
        self.stop(true);
        let client = connect(&standby.cluster.url(NAME)).await;
        assert!(one::<bool>(&client, "SELECT pg_promote()").await);
        self.primary = standby.cluster;
    }

    /// How many sessions there are besides those of this kind.
    pub(crate) async fn nobody_else(&self) {
        let client = self.client().await;
        let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
            AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
        eventually("nobody else is connected", PATIENCE, async || {
            let left: i64 = one(&client, others).await;
            if left == 0 {
                Ok(())
            } else {
                Err(left.to_string())
            }
        })
        .await;
    }
}

impl Standby {
    pub(crate) fn url(&self) -> String {
        self.cluster.url(NAME)
    }

    /// Lets it lose everything from here on.
    pub(crate) async fn lose(&self) {
        self.link.set(Mode::Refuse).await;
        self.link.cut().await;
    }

    async fn reaches(&self, revision: u64) {
        let url = self.cluster.url(NAME);
        eventually("the standby is level", PATIENCE, async || {
            let (client, connection) = tokio_postgres::connect(&url, NoTls)
                .await
                .map_err(|error| error.to_string())?;
            let connection = tokio::spawn(connection);
            let row = client
                .query_one("SELECT revision FROM sync_config_head", &[])
                .await;
            connection.abort();
            let found: i64 = row.map_err(|error| error.to_string())?.get(0);
            if u64::try_from(found).unwrap() >= revision {
                Ok(())
            } else {
                Err(found.to_string())
            }
        })
        .await;
    }
}

/// Copies with owners and permissions.
fn copy(from: &Path, to: &Path) {
    let copied = block_in_place(|| Command::new("cp").arg("-a").args([from, to]).status());
    assert!(copied.unwrap().success(), "{} is copied", from.display());
}

pub(crate) async fn head(client: &Client) -> u64 {
    crate::ground::head(client).await
}

pub(crate) async fn epoch(client: &Client) -> String {
    one(client, "SELECT epoch::text FROM sync_config_head").await
}

/// Journal and table in one snapshot of the database.
pub(crate) async fn truth(client: &mut Client) -> Truth {
    let transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead);
    let transaction = transaction.read_only(true).start().await.unwrap();
    let head = transaction
        .query_one("SELECT epoch::text, revision FROM sync_config_head", &[])
        .await
        .unwrap();
    let journal = "SELECT r.revision, r.id::text, r.idempotency_key, j.key, j.old, j.new \
        FROM sync_config_revision r LEFT JOIN sync_config_journal j ON j.change = r.change \
        ORDER BY r.revision, j.key COLLATE \"C\"";
    let mut revisions: Vec<Revision> = Vec::new();
    for row in transaction.query(journal, &[]).await.unwrap() {
        let revision = u64::try_from(row.get::<_, i64>(0)).unwrap();
        if revisions
            .last()
            .is_none_or(|last| last.revision != revision)
        {
            revisions.push(Revision {
                revision,
                rid: row.get(1),
                idempotency_key: row.get(2),
                changes: Vec::new(),
            });
        }
        if let (Some(key), Some(last)) = (row.get::<_, Option<String>>(3), revisions.last_mut()) {
            last.changes.push(Change {
                key,
                old: row.get(4),
                new: row.get(5),
            });
        }
    }
    let table = "SELECT key::text, value::text FROM sync_config";
    let rows = transaction.query(table, &[]).await.unwrap();
    let table: Texts = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    transaction.commit().await.unwrap();
    Truth {
        epoch: head.get(0),
        head: u64::try_from(head.get::<_, i64>(1)).unwrap(),
        base: Texts::new(),
        revisions,
        table,
    }
}

/// How full the notification queue is, and who holds VACUUM back in two looks.
pub(crate) async fn unpinned(client: &Client) -> (f64, Vec<String>) {
    let pinned = "SELECT pid::text || ' ' || application_name FROM pg_stat_activity \
        WHERE datname = current_database() AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid() AND state = 'idle'";
    let look = async || -> Vec<String> {
        let rows = client.query(pinned, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let first = look().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let second = look().await;
    let both = second
        .into_iter()
        .filter(|found| first.contains(found))
        .collect();
    (
        one(client, "SELECT pg_notification_queue_usage()").await,
        both,
    )
}
