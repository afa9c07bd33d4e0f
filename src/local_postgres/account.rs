//! The operating system account the server runs as: PostgreSQL refuses to run as root.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, fchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{fs, io};

const ROOT: u32 = 0;

/// Who the server's processes and files belong to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Account {
    /// This process's own user.
    Own,
    /// Another user, because this process is root.
    Other {
        name: &'static str,
        uid: u32,
        gid: u32,
    },
}

impl Account {
    /// Chooses the account: our own, or for root `postgres`, else `nobody`.
    pub(super) fn choose() -> io::Result<Self> {
        if !running_as_root() {
            return Ok(Self::Own);
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| Self::in_passwd(&users, name))
            .ok_or_else(|| {
                io::Error::other(
                    "PostgreSQL does not run as root, and neither `postgres` nor `nobody` is a \
                     user of this machine: run this as another user",
                )
            })
    }

    fn in_passwd(users: &str, name: &'static str) -> Option<Self> {
        // name:password:uid:gid:...
        let mut fields = users
            .lines()
            .map(|line| line.split(':'))
            .find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Self::Other { name, uid, gid })
    }

    /// Prepares a command that runs as this account, unimpressed by the caller's PostgreSQL
    /// settings, locale and directory.
    pub(super) fn command(self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        for setting in ["PGDATA", "PGPORT", "PGOPTIONS", "LC_ALL", "LANGUAGE"] {
            command.env_remove(setting);
        }
        command.env("LC_ALL", "C").current_dir("/");
        if let Self::Other { uid, gid, .. } = self {
            command.uid(uid).gid(gid); // also gives up root's supplementary groups
        }
        command
    }

    /// Makes a file or directory this account's, with the given permission bits.
    pub(super) fn own(self, path: &Path, mode: u32) -> io::Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid, .. } => chown(path, Some(uid), Some(gid)),
        }
    }

    /// Makes a directory the one of whoever runs this. As root that is root: this account passes through it and changes
    /// nothing in it, or it could put links where root writes.
    pub(super) fn keep(self, dir: &Path) -> io::Result<()> {
        if let Self::Own = self {
            return fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
        chown(dir, Some(ROOT), None)
    }

    /// Takes a directory back that an earlier version of this program, as root, gave to this account.
    pub(super) fn take_back(self, dir: &Path) -> io::Result<()> {
        let Self::Other { uid, .. } = self else {
            return Ok(());
        };
        match fs::metadata(dir)?.uid() {
            ROOT => Ok(()),
            owner if owner == uid => self.keep(dir),
            owner => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("it belongs to user {owner}, and this was started by root"),
            )),
        }
    }

    /// Gives an open file, which only its owner reads, to this account.
    pub(super) fn give(self, file: &fs::File) -> io::Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid, .. } => fchown(file, Some(uid), Some(gid)),
        }
    }

    /// Checks that this account gets to a path, which root's own directories do not let it.
    pub(super) fn must_reach(self, path: &Path) -> io::Result<()> {
        let Self::Other { name, .. } = self else {
            return Ok(());
        };
        let mut look = self.command("/bin/sh");
        look.args(["-c", r#"test -x "$1""#, "sh"]).arg(path);
        if look.stderr(Stdio::null()).status()?.success() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "started by root, PostgreSQL runs as the user `{name}`, who has no access to {}: \
                 use a place outside of root's own directories, or run this as another user",
                path.display()
            ),
        ))
    }
}

pub fn running_as_root() -> bool {
    match fs::metadata("/proc/self") {
        Ok(process) => process.uid() == 0,
        Err(_) => Command::new("id")
            .arg("-u")
            .output()
            .is_ok_and(|output| output.stdout.trim_ascii() == b"0"),
    }
}
