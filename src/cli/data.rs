//! The SQLite file of this machine: what `serve` makes where no store is named, and what the other commands then use.
//!
//! Guarantees: a file in a directory that nobody named is only used if it is there, so that a forgotten URL makes no new store.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, utf8_percent_encode};

use super::Failure;
use crate::core::shown;
#[cfg(all(feature = "server", unix))]
use crate::local_postgres::running_as_root;

/// The variable beside `--data`.
pub(super) const VARIABLE: &str = "SYNC_CONFIG_DATA";

/// The directory of SQLite under that of the platform. It is not that of pg-local, which belongs to another account if root
/// starts it.
const SQLITE_DIR: &str = "sync-config-sqlite";

/// The file of SQLite in its directory.
const SQLITE_FILE: &str = "config.db";

/// The directory that was given, or the platform's of that name.
pub(super) fn dir(given: Option<&Path>, name: &str) -> Result<PathBuf, Failure> {
    let found = given.map(Path::to_path_buf).or_else(|| {
        let base = platform(|name| std::env::var_os(name), running_as_root());
        Some(base?.join(name))
    });
    found.ok_or_else(|| {
        Failure::Usage(
            "there is no home directory to keep data in; name one with --data".to_owned(),
        )
    })
}

/// The SQLite file in the directory that was given, or in the platform's.
pub(super) fn file(given: Option<&Path>) -> Result<PathBuf, Failure> {
    Ok(dir(given, SQLITE_DIR)?.join(SQLITE_FILE))
}

/// The file of a command for which no URL is given.
pub(super) fn without_url(given: Option<&Path>, may_make: bool) -> Result<PathBuf, Failure> {
    let file = file(given)?;
    if file.exists() {
        return Ok(file);
    }
    let cluster = file.with_file_name("data").join("PG_VERSION");
    if given.is_some() && cluster.exists() {
        return Err(local(&file));
    }
    if given.is_some() && may_make {
        make_room(&file)?;
        return Ok(file);
    }
    Err(Failure::Usage(format!(
        "no store is named and {} is not there; set DATABASE_URL, or give --url (postgres://user@host:5432/database or \
         sqlite:/path/of/file.db), or run `sync-config serve` first, which makes that file (--data says where)",
        shown(&file.to_string_lossy())
    )))
}

/// Why no file is made in the directory of a private PostgreSQL, and how to reach that.
fn local(file: &Path) -> Failure {
    let dir = file.parent().unwrap_or(file).to_string_lossy();
    let dir = shown(&dir);
    Failure::Usage(format!(
        "{dir} holds the private PostgreSQL of `serve --store pg-local`, and no SQLite file; while that runs, give \
         --url \"postgres://postgres:$(cat '{dir}/password')@127.0.0.1:$(sed -n 4p '{dir}/data/postmaster.pid')/postgres\""
    ))
}

/// The URL of a file.
pub(super) fn url(file: &Path) -> Result<String, Failure> {
    /// What would mean something else in the URL.
    const WRITTEN: &AsciiSet = &AsciiSet::EMPTY.add(b'%').add(b'?').add(b'#');
    let path = file.to_str().ok_or_else(|| {
        let file = file.to_string_lossy();
        Failure::Usage(format!("the path {} is not UTF-8", shown(&file)))
    })?;
    Ok(format!("sqlite:{}", utf8_percent_encode(path, WRITTEN)))
}

/// Makes the directory of a file, for nobody else to look into.
pub(super) fn make_room(file: &Path) -> Result<(), Failure> {
    let Some(dir) = file.parent() else {
        return Ok(());
    };
    let mut maker = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut maker, 0o700);
    maker.recursive(true).create(dir).map_err(|error| {
        let problem = format!("the directory {} cannot be made: {error}", dir.display());
        Failure::Other(problem)
    })
}

/// Where programs of this user keep their data. Root's PostgreSQL runs under another account, which root's own home
/// directory is closed to.
fn platform(variable: impl Fn(&str) -> Option<OsString>, root: bool) -> Option<PathBuf> {
    let absolute = |name| {
        let dir = PathBuf::from(variable(name)?);
        dir.is_absolute().then_some(dir)
    };
    absolute("XDG_DATA_HOME").or_else(|| {
        if root {
            Some(PathBuf::from("/var/lib"))
        } else {
            Some(absolute("HOME")?.join(".local/share"))
        }
    })
}

/// Whether root runs this: the directory of a process belongs to the account whose rights it has.
#[cfg(all(not(feature = "server"), unix))]
fn running_as_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

#[cfg(not(unix))]
fn running_as_root() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_kept_where_the_platform_says() {
        let dir = |variables: &[(&str, &str)], root| {
            let found = |name: &str| variables.iter().find(|(given, _)| *given == name);
            let dir = platform(|name| found(name).map(|(_, value)| value.into()), root);
            dir.map(|dir| dir.display().to_string())
        };
        let home = ("HOME", "/home/u");
        let own = Some("/home/u/.local/share".to_owned());
        assert_eq!(dir(&[home], false), own);
        assert_eq!(dir(&[home, ("XDG_DATA_HOME", "relative")], false), own);
        let given = Some("/data".to_owned());
        for root in [false, true] {
            assert_eq!(dir(&[home, ("XDG_DATA_HOME", "/data")], root), given);
        }
        assert_eq!(dir(&[("HOME", "/root")], true).as_deref(), Some("/var/lib"));
        assert_eq!(dir(&[], false), None);
    }
}
