//! PostgreSQL programs from a package registry, for machines that have none (or only old ones).
//! They are kept below the target directory. `SYNC_CONFIG_TEST_PG_FETCH=off` switches this off.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::local_postgres::Binaries;

/// The version of the npm packages. Its major version is [`NPM_MAJOR`].
const NPM_VERSION: &str = "18.4.0-beta.17";
/// The major version of PostgreSQL that npm has.
pub(crate) const NPM_MAJOR: u32 = 18;
/// The Python package: PostgreSQL 16.
const PIP_PACKAGE: &str = "pgserver==0.1.4";

/// Fetches PostgreSQL programs, unless an earlier run did: from npm, else from PyPI. The error
/// says what was tried.
pub(crate) fn any() -> Result<Binaries, String> {
    from_npm().or_else(|npm| from_pip().map_err(|pip| format!("{npm}\n{pip}")))
}

/// Fetches the newest version there is.
pub(crate) fn from_npm() -> Result<Binaries, String> {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    let package = format!("@embedded-postgres/{system}-{machine}");
    let wanted = format!("{package}@{NPM_VERSION}");
    once(&format!("npm-{NPM_VERSION}"), &wanted, |dir| {
        // its install script restores links: scripts stay on
        run(Command::new("npm")
            .args(["install", "--no-save", "--prefix"])
            .arg(dir)
            .arg(&wanted))?;
        Ok(dir.join("node_modules").join(&package).join("native/bin"))
    })
}

/// Fetches the version PyPI has: the wheel is a zip file with the programs in it.
fn from_pip() -> Result<Binaries, String> {
    once("pip-0.1.4", PIP_PACKAGE, |dir| {
        run(Command::new("python3")
            .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"])
            .args(["--python-version", "3.12", PIP_PACKAGE, "-d"])
            .arg(dir))?;
        let wheel = fs::read_dir(dir)
            .map_err(|error| error.to_string())?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|end| end == "whl"))
            .ok_or("pip downloaded no wheel")?;
        run(Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(&wheel)
            .arg(dir))?;
        let programs = dir.join("pgserver/pginstall/bin");
        // zip files of Python's do not keep permissions
        run(Command::new("chmod").arg("-R").arg("a+rX").arg(dir))?;
        run(Command::new("/bin/sh")
            .args(["-c", r#"chmod a+x "$0"/*"#])
            .arg(&programs))?;
        Ok(programs)
    })
}

/// Fetches a Python package that is one wheel, and answers with the directory to import it from.
pub(crate) fn python(package: &str) -> Result<PathBuf, String> {
    let dir = std::env::temp_dir().join(format!("sctest-python-{}", std::process::id()));
    let text = |error: std::io::Error| format!("{package}: {error}");
    fs::create_dir_all(&dir).map_err(text)?;
    run(Command::new("python3")
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"])
        .args([package, "-d"])
        .arg(&dir))?;
    let wheels = fs::read_dir(&dir).map_err(text)?.flatten();
    let mut wheels = wheels.map(|entry| entry.path());
    let wheel = wheels
        .find(|path| path.extension().is_some_and(|end| end == "whl"))
        .ok_or("pip downloaded no wheel")?;
    run(Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg(&dir))?;
    Ok(dir)
}

/// Runs `install` once for all processes, and looks for the programs where it says they are.
fn once(
    name: &str,
    what: &str,
    install: impl FnOnce(&Path) -> Result<PathBuf, String>,
) -> Result<Binaries, String> {
    let text = |error: std::io::Error| format!("{what}: {error}");
    let cache = cache_dir().map_err(text)?;
    let lock = File::create(cache.join(format!("{name}.lock"))).map_err(text)?;
    lock.lock().map_err(text)?;
    let done = cache.join(format!("{name}.path"));
    let known = fs::read_to_string(&done).ok();
    if let Some(found) = known.and_then(|path| Binaries::in_dir(Path::new(&path))) {
        return Ok(found);
    }
    if std::env::var("SYNC_CONFIG_TEST_PG_FETCH").is_ok_and(|fetch| fetch == "off") {
        return Err(format!("{what}: SYNC_CONFIG_TEST_PG_FETCH is off"));
    }
    eprintln!("fetching {what} into {}", cache.display());
    let dir = cache.join(name);
    drop(fs::remove_dir_all(&dir)); // an interrupted attempt
    fs::create_dir(&dir).map_err(text)?;
    let programs = install(&dir).map_err(|error| format!("{what}: {error}"))?;
    let found = Binaries::in_dir(&programs)
        .ok_or_else(|| format!("{what}: no usable programs in {}", programs.display()))?;
    fs::write(&done, programs.to_str().ok_or("a path that is not UTF-8")?).map_err(text)?;
    Ok(found)
}

/// The target directory, or a place in the system's temporary one when this is root and the
/// account of the server could not get into the target directory.
fn cache_dir() -> std::io::Result<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let open = |dir: &Path| fs::metadata(dir).is_ok_and(|dir| dir.mode() & 0o001 != 0);
    let dir = if target.ancestors().all(open) {
        target.join("postgres")
    } else {
        std::env::temp_dir().join("sync-config-test-postgres")
    };
    fs::create_dir_all(&dir)?;
    let probe = dir.join(format!("probe-{}", std::process::id()));
    File::create(&probe)?;
    let ours = fs::metadata(&dir)?.uid() == fs::metadata(&probe)?.uid();
    fs::remove_file(&probe)?;
    if ours {
        return Ok(dir);
    }
    let message = format!("{} belongs to somebody else", dir.display());
    Err(std::io::Error::other(message)) // never run programs another user may change
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}", program.display(), complaint.trim()))
}
