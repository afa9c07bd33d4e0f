//! The files of a server: its directory, its data, its password.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::account::Account;
use super::binaries::Binaries;

/// The name of the database superuser.
pub(super) const SUPERUSER: &str = "postgres";

/// The longest path of a socket that all systems take is 103 bytes; `/.s.PGSQL.12345` follows.
const LONGEST_SOCKET_DIR: usize = 85;

/// Makes a new directory that only its owner enters.
pub(super) fn create_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(dir)
        .map_err(|error| at(dir, &error))
}

/// Makes `home` ready to hold a durable server. Returns its absolute path.
pub(super) fn prepare_durable(account: Account, home: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(home).map_err(|error| at(home, &error))?;
    let home = fs::canonicalize(home)?;
    let mut entries = fs::read_dir(&home).map_err(|error| at(&home, &error))?;
    if entries.next().is_none() {
        account.keep(&home).map_err(|error| at(&home, &error))?;
    } else if !home.join("lock").exists() {
        // its permissions are about to change: never those of a directory named by mistake
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!(
                "{} holds other files: a PostgreSQL of our own needs a directory of its own",
                home.display()
            ),
        ));
    } else {
        account
            .take_back(&home)
            .map_err(|error| at(&home, &error))?;
    }
    if let Account::Other { .. } = account {
        for name in ["lock", "owner", "password", "port"] {
            must_not_lead_elsewhere(&home.join(name))?;
        }
    }
    account.must_reach(&home)?;
    Ok(home)
}

/// Refuses a link where root reads and writes: the account may have left it while the directory was the account's.
fn must_not_lead_elsewhere(file: &Path) -> io::Result<()> {
    match fs::symlink_metadata(file) {
        Ok(found) if !found.is_file() => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is not a plain file: remove it", file.display()),
        )),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(file, &error)),
        _ => Ok(()),
    }
}

/// Waits for the right to change `home`. It ends with the returned value.
pub(super) fn lock(home: &Path) -> io::Result<File> {
    let lock = lock_file(&home.join("lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// Becomes the owner of the server in `home`; `None` when another process is. The operating system
/// ends the ownership with the process, so an owner is always alive.
pub(super) fn try_own(home: &Path) -> io::Result<Option<File>> {
    let owner = lock_file(&home.join("owner"))?;
    match owner.try_lock() {
        Ok(()) => Ok(Some(owner)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| at(path, &error))
}

/// Makes the data directory of a durable server, unless it is there. Returns the password.
pub(super) fn ensure_durable_data(
    account: Account,
    binaries: &Binaries,
    home: &Path,
) -> io::Result<String> {
    let password_file = home.join("password");
    let data = home.join("data");
    if data.exists() {
        let password = fs::read_to_string(&password_file);
        return Ok(password
            .map_err(|error| at(&password_file, &error))?
            .trim()
            .to_owned());
    }
    // under another name until it is complete: an interrupted start leaves nothing half done
    let unfinished = home.join("data.unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    let password = new_password()?;
    replace_file(&password_file, &password)?;
    ensure_accounts_dir(account, &home.join("socket"))?;
    ensure_accounts_dir(account, &unfinished)?;
    let copy = home.join("password.initdb"); // the account's own, since the other one may be root's
    account.give(&new_file(&copy, &password)?)?;
    let password_option = format!("--pwfile={}", copy.display());
    let options = ["--auth=scram-sha-256", &password_option];
    let made = initdb(account, binaries, &unfinished, &options);
    fs::remove_file(&copy)?;
    made?;
    fs::rename(&unfinished, &data)?;
    Ok(password)
}

/// Makes a directory that is the account's alone, unless it is there.
pub(super) fn ensure_accounts_dir(account: Account, dir: &Path) -> io::Result<()> {
    if dir.exists() {
        return Ok(());
    }
    create_private_dir(dir)?;
    account.own(dir, 0o700).map_err(|error| at(dir, &error))
}

/// Runs `initdb`: UTF-8, and the C locale, which is the same on every machine.
pub(super) fn initdb(
    account: Account,
    binaries: &Binaries,
    data: &Path,
    options: &[&str],
) -> io::Result<()> {
    let output = account
        .command(binaries.dir.join("initdb"))
        .arg("-D")
        .arg(data)
        .args(["-U", SUPERUSER, "-E", "UTF8", "--locale=C"])
        .args(options)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "initdb of {} could not make {}: {}",
        binaries.version,
        data.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

/// Checks that the programs are of the version that made the data.
pub(super) fn must_fit(binaries: &Binaries, data: &Path) -> io::Result<()> {
    let file = data.join("PG_VERSION");
    let made_by = fs::read_to_string(&file).map_err(|error| at(&file, &error))?;
    let made_by = made_by.trim();
    if made_by == binaries.major.to_string() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "{} was made by PostgreSQL {made_by}, but the programs in {} are PostgreSQL {}: name \
             the directory of version {made_by} in PG_BIN_DIR, or use another data directory",
            data.display(),
            binaries.dir.display(),
            binaries.major
        ),
    ))
}

/// The server's settings when tests may lose their data.
pub(super) fn temporary_settings(home: &Path) -> Vec<String> {
    let mut settings = vec![socket_setting(home)];
    settings.extend(
        [
            "listen_addresses=127.0.0.1",
            "fsync=off",
            "full_page_writes=off",
            "max_connections=300",
            "shared_buffers=32MB",
            "logging_collector=off",
        ]
        .map(str::to_owned),
    );
    settings
}

/// The server's settings when nobody may lose data: PostgreSQL's own.
pub(super) fn durable_settings(home: &Path) -> Vec<String> {
    vec![
        socket_setting(&home.join("socket")),
        "listen_addresses=127.0.0.1".to_owned(),
        "logging_collector=off".to_owned(),
    ]
}

fn socket_setting(dir: &Path) -> String {
    match dir.to_str() {
        Some(dir) if dir.len() <= LONGEST_SOCKET_DIR => {
            format!("unix_socket_directories=\"{}\"", dir.replace('"', "\"\""))
        }
        _ => "unix_socket_directories=".to_owned(), // none: 127.0.0.1 is enough
    }
}

fn new_password() -> io::Result<String> {
    let mut random = [0_u8; 24]; // 192 bits
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Puts a line into a file that nobody else reads, in place of the file, or the link, that is there.
pub(super) fn replace_file(file: &Path, line: &str) -> io::Result<()> {
    let new = file.with_extension("new");
    new_file(&new, line)?;
    fs::rename(&new, file).map_err(|error| at(file, &error))
}

/// Makes a file that nobody else reads. A left-over of that name is removed.
fn new_file(file: &Path, line: &str) -> io::Result<File> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(file, &error)),
        _ => {}
    }
    let mut output = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .map_err(|error| at(file, &error))?;
    writeln!(output, "{line}")?;
    output.sync_all()?;
    Ok(output)
}

/// Says which file an error is about.
fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
