//! SQLite files of tests, and what a `sqlite3` shell does to them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use rusqlite::types::FromSql;

/// A file in a directory of its own, which is removed with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct SqliteFile {
    directory: Arc<Directory>,
}

#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl SqliteFile {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("sctest-sqlite-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).unwrap();
        Self {
            directory: Arc::new(Directory(directory)),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.0.join("config.db")
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory.0
    }

    /// Copies it, as it is now, to another file of its directory.
    pub(crate) fn copy(&self, name: &str) -> PathBuf {
        let copy = self.directory.0.join(name);
        self.shell()
            .run(&format!("VACUUM INTO '{}'", copy.display()));
        copy
    }

    /// The URL that names it.
    pub(crate) fn url(&self) -> String {
        format!("sqlite:{}", self.path().display())
    }

    /// Has the stock `sqlite3` program run statements and commands; answers with what it prints and says.
    #[cfg(feature = "cli")]
    pub(crate) fn stock_shell(&self, script: &str) -> String {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let mut command = Command::new("sqlite3");
        command.arg("-batch").arg(self.path());
        let pipes = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = pipes.spawn().unwrap_or_else(|error| {
            panic!(
                "the sqlite3 shell cannot be started: {error}; on Debian apt-get install sqlite3"
            )
        });
        let mut stdin = child.stdin.take().unwrap();
        // It ends at the first error that a script wants to stop at.
        drop(stdin.write_all(script.as_bytes()));
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let texts = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        texts.concat()
    }

    /// Another connection, which knows nothing of the library.
    pub(crate) fn shell(&self) -> Shell {
        Shell(Connection::open(self.path()).unwrap())
    }
}

/// A connection as a `sqlite3` shell has it.
pub(crate) struct Shell(pub(crate) Connection);

impl Shell {
    /// Runs statements.
    pub(crate) fn run(&self, sql: &str) {
        self.0
            .execute_batch(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Runs statements that are refused, and answers why.
    pub(crate) fn refused(&self, sql: &str) -> String {
        self.0.execute_batch(sql).unwrap_err().to_string()
    }

    /// The first value of a query.
    pub(crate) fn one<T: FromSql>(&self, sql: &str) -> T {
        self.0
            .query_row(sql, [], |row| row.get(0))
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}
