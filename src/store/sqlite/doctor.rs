//! An examination of a file: what the store's guarantees stand on, and what people forget.

use std::path::{Path, PathBuf};

use super::admin::Admin;
use super::bench::Bench;
use super::desk::Desk;
use super::fault::Outcome;
use super::migrate;
use crate::error::Result;
use crate::store::finding::Finding;

const WHAT: &str = "examining the SQLite file";

/// A log that is longer is held by a reader that does not end: it is cut to 64 MiB when it begins anew.
const LOG_BYTES: u64 = 128 * 1_048_576;

/// Free pages that are worth a word, if they are more than half of the file: 64 MiB.
const FREE_BYTES: i64 = 64 * 1_048_576;

/// Rows of `PRAGMA quick_check` that are told.
const TOLD: usize = 3;

/// File systems on which SQLite cannot trust locks, or share the log's memory.
const REMOTE: [&str; 14] = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse.sshfs",
    "gfs2",
    "glusterfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
];

impl Admin {
    /// Examines the file and the store in it. No entry is changed.
    pub(crate) async fn examine(&self) -> Result<Vec<Finding>> {
        let (store, path) = (&self.store, self.store.shared.path.clone());
        let mut found = file_findings(&path);
        if !path.exists() {
            return Ok(found);
        }
        let read = store.turn(WHAT, |desk, _| desk.read(WHAT, content));
        found.extend(read.await?);
        let taken = store.turn(WHAT, |desk, turn| desk.change(Some(turn), WHAT, |_| Ok(())));
        found.push(lock(taken.await));
        found.push(store.turn(WHAT, |desk, _| Ok(schema(desk))).await?);
        Ok(found)
    }
}

fn schema(desk: &mut Desk) -> Finding {
    match migrate::examine(desk) {
        Err(error) => Finding::fail(
            "schema",
            error.to_string(),
            "run `sync-config migrate`, or restore the file from a backup if it says so",
        ),
        Ok(found) if !found.restored.is_empty() => Finding::fail(
            "schema",
            format!("triggers are missing: {}", found.restored.join(", ")),
            "start an instance, or run `sync-config migrate`: they are made again, and the next audit finds what was written meanwhile",
        ),
        Ok(found) if !found.hidden.is_empty() => {
            let rows = found
                .hidden
                .iter()
                .map(|(key, problem)| format!("{key}: {problem}"));
            Finding::warn(
                "schema",
                format!(
                    "rows that can have no revision: {}",
                    rows.collect::<Vec<_>>().join("; ")
                ),
                "put them right or delete them; nobody is shown them",
            )
        }
        Ok(_) => Finding::ok("schema", "up to date, all triggers are there"),
    }
}

/// What is in the file, read at one moment.
fn content(bench: &Bench<'_>) -> Outcome<Vec<Finding>> {
    let connection = bench.connection();
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let mut found = vec![Finding::ok(
        "version",
        format!("SQLite {}", rusqlite::version()),
    )];
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    found.push(Finding::ok("journal mode", mode));
    let mut check = connection.prepare("PRAGMA quick_check")?;
    let rows = check.query_map([], |row| row.get::<_, String>(0))?;
    let mut problems = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    // A row that is no entry is told as such.
    problems.retain(|row| row != "ok" && !row.starts_with("CHECK constraint failed"));
    problems.truncate(TOLD);
    found.push(if problems.is_empty() {
        Finding::ok("integrity", "quick_check found nothing")
    } else {
        Finding::fail(
            "integrity",
            problems.join("; "),
            "stop all instances, keep the file and its -wal, and restore a backup; `.recover` of a sqlite3 shell saves what is left",
        )
    });
    let (pages, free, size) = (
        number("page_count")?,
        number("freelist_count")?,
        number("page_size")?,
    );
    let told = format!(
        "{:.1} MiB, of which {:.1} MiB are free",
        mebibytes(pages * size),
        mebibytes(free * size)
    );
    found.push(if free * size > FREE_BYTES && free * 2 > pages {
        Finding::warn(
            "bloat",
            told,
            "VACUUM in a sqlite3 shell gives it back, while nobody writes",
        )
    } else {
        Finding::ok("bloat", told)
    });
    Ok(found)
}

fn mebibytes(bytes: i64) -> f64 {
    bytes as f64 / 1_048_576.0
}

fn lock(taken: Result<()>) -> Finding {
    match taken {
        Ok(()) => Finding::ok(
            "writing",
            "the write lock was to be had, and the file may be written",
        ),
        Err(error) => Finding::fail(
            "writing",
            error.to_string(),
            "see what it says; readers are not affected",
        ),
    }
}

/// What is known without opening it.
fn file_findings(path: &Path) -> Vec<Finding> {
    let shown = path.display();
    let place = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let mut found = vec![match std::fs::metadata(path) {
        Err(error) => {
            return vec![Finding::fail(
                "file",
                format!("{shown}: {error}"),
                "the first instance that may write makes it, as `sync-config migrate` does; its directory has to be there",
            )];
        }
        Ok(file) if !file.is_file() => {
            Finding::fail("file", format!("{shown} is no file"), "name another path")
        }
        Ok(file) => permissions(path, &file),
    }];
    found.push(match mount(&place) {
        Some(kind) if REMOTE.contains(&kind.as_str()) => Finding::fail(
            "file system",
            format!("{kind}, of another machine"),
            "put the file on a disk of this machine: SQLite cannot trust the locks there, and data is lost sooner or later",
        ),
        Some(kind) if kind.starts_with("fuse") => Finding::warn(
            "file system",
            kind,
            "make sure that it is a disk of this machine with real locks and shared memory",
        ),
        Some(kind) if ["tmpfs", "ramfs", "overlay"].contains(&kind.as_str()) => Finding::warn(
            "file system",
            format!("{kind}, which does not outlive the machine or the container"),
            "keep the file on a disk or a volume, unless it is meant to go",
        ),
        Some(kind) => Finding::ok("file system", kind),
        None => Finding::ok("file system", "not known on this platform"),
    });
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let log = std::fs::metadata(PathBuf::from(log)).map_or(0, |log| log.len());
    if log > LOG_BYTES {
        found.push(Finding::warn(
            "log",
            format!("the -wal file has {} MiB", log / 1_048_576),
            "end the connection that has been reading since: an open SELECT in a sqlite3 shell perhaps",
        ));
    }
    found
}

#[cfg(unix)]
fn permissions(path: &Path, file: &std::fs::Metadata) -> Finding {
    use std::os::unix::fs::MetadataExt;
    let (shown, mode) = (path.display(), file.mode() & 0o777);
    if mode & 0o002 != 0 {
        return Finding::fail(
            "file",
            format!("{shown}: every account of this machine may write it ({mode:03o})"),
            "chmod o-rwx on the file, its -wal and -shm",
        );
    }
    if mode & 0o004 != 0 && !closed(path) {
        return Finding::warn(
            "file",
            format!("{shown}: every account of this machine may read it ({mode:03o})"),
            "chmod o-rwx on the file, or its directory, if a value is not for everybody",
        );
    }
    Finding::ok("file", format!("{shown} ({mode:03o})"))
}

/// Whether another account cannot get at what is in a directory.
#[cfg(unix)]
fn closed(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let directories = path.ancestors().skip(1);
    let mut modes = directories.filter_map(|dir| std::fs::metadata(dir).ok());
    modes.any(|dir| dir.mode() & 0o001 == 0)
}

#[cfg(not(unix))]
fn permissions(path: &Path, _: &std::fs::Metadata) -> Finding {
    Finding::ok("file", path.display().to_string())
}

/// The kind of the file system that a path lies on, as Linux tells.
fn mount(path: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    kind_of(path, &mounts)
}

fn kind_of(path: &Path, mounts: &str) -> Option<String> {
    let mut nearest: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?.replace("\\040", " ");
        let kind = after.split(' ').next()?;
        // A later mount on the same point covers the one before.
        if path.starts_with(&point) && nearest.is_none_or(|(length, _)| point.len() >= length) {
            nearest = Some((point.len(), kind));
        }
    }
    nearest.map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lies_on_the_nearest_mount_above_it() {
        let mounts = "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            30 21 0:30 / /data rw shared:1 - nfs4 host:/x rw\n\
            31 30 8:2 / /data/my\\040disk rw - xfs /dev/sdb rw\n\
            32 21 0:5 / /data2 rw - tmpfs tmpfs rw\n\
            33 30 0:7 / /data/my\\040disk rw - btrfs /dev/sdc rw\n";
        for (path, kind) in [
            ("/etc/a.db", "ext4"),
            ("/data/a.db", "nfs4"),
            ("/data/my disk/a.db", "btrfs"),
            ("/data2/a.db", "tmpfs"),
            ("/data22/a.db", "ext4"),
        ] {
            assert_eq!(
                kind_of(Path::new(path), mounts).as_deref(),
                Some(kind),
                "{path}"
            );
        }
    }
}
