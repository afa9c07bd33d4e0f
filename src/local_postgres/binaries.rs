//! Finding the PostgreSQL programs this machine has.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The oldest major version that the store's schema runs on.
const OLDEST_MAJOR: u32 = 13;

/// A directory with the server programs of one PostgreSQL version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The directory itself, with all links resolved: `initdb` looks for the rest of the
    /// installation next to its real place.
    pub dir: PathBuf,
    /// The major version, for example 17.
    pub major: u32,
    /// What `postgres --version` says.
    pub version: String,
}

impl Binaries {
    /// Looks at one directory; `None` when it has no usable server programs.
    pub fn in_dir(dir: &Path) -> Option<Self> {
        let dir = fs::canonicalize(dir.join("initdb"))
            .ok()?
            .parent()?
            .to_path_buf();
        let version = stdout_of(Command::new(dir.join("postgres")).arg("--version"))?;
        // "postgres (PostgreSQL) 17.2 (Debian 17.2-1)"
        let major = leading_number(version.split_whitespace().nth(2)?)?;
        (major >= OLDEST_MAJOR).then_some(Self {
            dir,
            major,
            version,
        })
    }
}

/// Finds server programs: in `$PG_BIN_DIR`, on `PATH`, where `pg_config` points, then in the
/// directories distributions use, newest major version first.
pub fn find_binaries() -> Option<Binaries> {
    candidates().find_map(|dir| Binaries::in_dir(&dir))
}

/// Finds server programs of every major version there is, in the order of [`find_binaries`];
/// the first find of a major version wins.
pub fn all_binaries() -> Vec<Binaries> {
    let mut found: Vec<Binaries> = Vec::new();
    for binaries in candidates().filter_map(|dir| Binaries::in_dir(&dir)) {
        if found.iter().all(|known| known.major != binaries.major) {
            found.push(binaries);
        }
    }
    found
}

/// How to get the server programs, for error messages.
pub fn install_hint() -> &'static str {
    "Install the PostgreSQL server, or name the directory of its programs in PG_BIN_DIR:\n\
     \x20 Debian, Ubuntu  apt-get install postgresql\n\
     \x20 Fedora, RHEL    dnf install postgresql-server\n\
     \x20 Alpine          apk add postgresql17\n\
     \x20 Arch            pacman -S postgresql\n\
     \x20 macOS           brew install postgresql@17"
}

/// Every directory worth a look, lazily: the later ones cost a process or a directory listing.
fn candidates() -> impl Iterator<Item = PathBuf> {
    let named = env::var_os("PG_BIN_DIR").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = env::split_paths(&path).collect();
    let configured = || stdout_of(Command::new("pg_config").arg("--bindir")).map(PathBuf::from);
    named
        .into_iter()
        .chain(on_path)
        .chain(std::iter::once_with(configured).flatten())
        .chain(std::iter::once_with(distribution_dirs).flatten())
}

/// Where packages put the programs: (parent directory, start of the version directory's name).
const VERSIONED_DIRS: [(&str, &str); 8] = [
    ("/usr/lib/postgresql", ""),                          // Debian, Ubuntu
    ("/usr/libexec", "postgresql"),                       // Alpine
    ("/usr", "pgsql-"),                                   // the PostgreSQL project's RPMs
    ("/opt/homebrew/opt", "postgresql"),                  // Homebrew, Apple silicon
    ("/usr/local/opt", "postgresql"),                     // Homebrew, Intel
    ("/opt/local/lib", "postgresql"),                     // MacPorts
    ("/Applications/Postgres.app/Contents/Versions", ""), // Postgres.app
    ("/Library/PostgreSQL", ""),                          // the EDB installer
];

/// Where self-built and unversioned packages put them.
const PLAIN_DIRS: [&str; 3] = ["/usr/local/pgsql/bin", "/usr/lib64/pgsql/bin", "/usr/bin"];

fn distribution_dirs() -> Vec<PathBuf> {
    let mut versioned: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix) in VERSIONED_DIRS {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(prefix)) else {
                continue;
            };
            let major = leading_number(rest.trim_start_matches(['@', '-'])).unwrap_or(0);
            let dir = entry.path();
            // Alpine and MacPorts differ: programs directly in the directory, or in `bin`
            versioned.extend([(major, dir.join("bin")), (major, dir)]);
        }
    }
    versioned.sort_by_key(|(major, _)| std::cmp::Reverse(*major)); // stable: keeps the table's order
    let plain = PLAIN_DIRS.iter().map(PathBuf::from);
    versioned
        .into_iter()
        .map(|(_, dir)| dir)
        .chain(plain)
        .collect()
}

/// The number a text starts with: 17 for "17.2" and for "17beta1".
fn leading_number(text: &str) -> Option<u32> {
    let digits = text.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn stdout_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_number_is_read_up_to_its_first_other_sign() {
        assert_eq!(leading_number("17.2"), Some(17));
        assert_eq!(leading_number("18beta1"), Some(18));
        assert_eq!(leading_number("Ubuntu"), None);
    }

    #[test]
    fn programs_older_than_the_store_needs_are_no_find() {
        let name = format!("sync-config-binaries-{}", std::process::id());
        let dir = env::temp_dir().join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("initdb"), "").unwrap();
        let postgres = dir.join("postgres");
        let found = [("12.22", None), ("13.0", Some(13))].map(|(version, major)| {
            // By another process: a child that somebody else starts at this moment would inherit a file that is open for writing,
            // and such a file cannot be run.
            let script = format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'");
            let write = r#"printf '%s\n' "$1" > "$0" && chmod 700 "$0""#;
            let mut sh = Command::new("sh");
            let written = sh.args(["-c", write]).arg(&postgres).arg(script).status();
            assert!(written.unwrap().success());
            (Binaries::in_dir(&dir).map(|found| found.major), major)
        });
        fs::remove_dir_all(&dir).unwrap();
        for (found, wanted) in found {
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn a_directory_without_server_programs_is_no_find() {
        assert_eq!(Binaries::in_dir(Path::new("/nonexistent")), None);
        assert_eq!(Binaries::in_dir(&env::temp_dir()), None);
    }
}
