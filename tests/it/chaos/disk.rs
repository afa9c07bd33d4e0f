//! A disk that is full: a tablespace on a file system of a few megabytes, where this account may mount one.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::Client;

use super::faults::{Course, Fault};
use super::storm::Storm;
use crate::ground::run as execute;
use crate::support::wait::{PATIENCE, eventually};

/// Room for the journal of a run, before it is filled.
const SIZE: &str = "size=64m,mode=0700";

const TABLES: [&str; 2] = ["sync_config_journal", "sync_config_revision"];

impl Storm {
    /// A tablespace on a file system of a few megabytes, which is filled.
    pub(super) async fn disk_full(&mut self, fault: Fault, last: Duration) -> Instant {
        let client = self.database.client().await;
        match Small::mount(&client).await {
            Ok(small) => {
                let course = Course::begin(self, fault, &[]);
                small.move_in(&client).await;
                small.fill();
                course.in_effect();
                sleep(last * 2).await;
                course.mending();
                small.clear();
                small.move_out(&client).await;
                course.healed()
            }
            Err(why) => {
                self.run.figures().not_made.insert(fault.name(), why);
                Instant::now()
            }
        }
    }
}

/// The file system; unmounted with this value.
#[derive(Debug)]
pub(crate) struct Small {
    place: PathBuf,
}

impl Small {
    /// Mounts it for the account that the server runs under. The error says why not.
    pub(crate) async fn mount(client: &Client) -> Result<Self, String> {
        let data: String = crate::ground::one(client, "SHOW data_directory").await;
        let name = format!("sync-config-small-{}", std::process::id());
        let place = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&place).map_err(|error| error.to_string())?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", SIZE, "tmpfs"])
            .arg(&place)
            .output()
            .map_err(|error| error.to_string())?;
        if !mounted.status.success() {
            drop(std::fs::remove_dir(&place));
            return Err("this account may not mount a small file system".to_owned());
        }
        let small = Self { place };
        let owner = Command::new("chown")
            .arg(format!("--reference={data}"))
            .arg(&small.place)
            .status();
        assert!(owner.unwrap().success());
        Ok(small)
    }

    /// Moves the journal there.
    pub(crate) async fn move_in(&self, client: &Client) {
        let create = format!(
            "CREATE TABLESPACE small LOCATION '{}'",
            self.place.display()
        );
        execute(client, &create).await;
        for table in TABLES {
            settle(client, table, "small").await;
        }
    }

    /// Leaves no room.
    pub(crate) fn fill(&self) {
        let filled = Command::new("dd")
            .args(["if=/dev/zero", "bs=64k", "status=none"])
            .arg(format!("of={}", self.place.join("filling").display()))
            .output()
            .unwrap();
        assert!(!filled.status.success(), "it is full in the end");
    }

    /// Makes room again.
    pub(crate) fn clear(&self) {
        std::fs::remove_file(self.place.join("filling")).unwrap();
    }

    /// Moves the journal back to where it was.
    pub(crate) async fn move_out(self, client: &Client) {
        for table in TABLES {
            settle(client, table, "pg_default").await;
        }
        // What a checkpoint has still to remove is in the way.
        eventually("the tablespace is empty", PATIENCE, async || {
            execute(client, "CHECKPOINT").await;
            let dropped = client.batch_execute("DROP TABLESPACE small").await;
            dropped.map_err(|error| error.to_string())
        })
        .await;
    }
}

/// Moves a table with its indexes; writers hold it for moments only.
async fn settle(client: &Client, table: &str, place: &str) {
    let moved = format!(
        "SET lock_timeout = '500ms'; ALTER TABLE {table} SET TABLESPACE {place}; SET lock_timeout = 0"
    );
    eventually("a table is moved", Duration::from_secs(30), async || {
        let moved = client.batch_execute(&moved).await;
        moved.map_err(|error| error.to_string())
    })
    .await;
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a backend may still have a file open there.
        drop(Command::new("umount").arg("-l").arg(&self.place).status());
        drop(std::fs::remove_dir(&self.place));
    }
}
