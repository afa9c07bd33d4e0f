//! A real PgBouncer in front of a test's own server.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::local_postgres::random_port;
use super::postgres::OwnCluster;
use super::wait::{PATIENCE, eventually};

/// How many connections to PostgreSQL all clients share.
pub(crate) const SERVER_CONNECTIONS: i64 = 2;

/// Runs the pooler while its input is open: however this process ends, the pooler goes with it.
const GUARD: &str = r#""$0" "$1" >/dev/null 2>&1 </dev/null & read -r word; kill -s KILL $!; wait"#;

/// A PgBouncer in transaction mode, killed with this value.
#[derive(Debug)]
pub(crate) struct PgBouncer {
    program: PathBuf,
    config: PathBuf,
    owner: (u32, u32),
    port: u16,
    guard: Option<Child>,
}

/// The program. `None` (said on stderr) when it is not installed, which in CI (`CI` is set) is a failure.
fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = dirs
        .map(|dir| dir.join("pgbouncer"))
        .find(|file| file.is_file());
    if found.is_none() {
        let problem = "PgBouncer is not installed: apt-get install pgbouncer";
        assert!(std::env::var_os("CI").is_none(), "{problem}");
        eprintln!("NOT TESTED behind a transaction pooler: {problem}");
    }
    found
}

impl PgBouncer {
    /// Starts one in front of a server. `None` when it is not installed.
    pub(crate) async fn before(own: &mut OwnCluster) -> Option<Self> {
        Self::with(own, "").await
    }

    /// One that lets the settings fall that clients send when they log in, as many are set up to, instead of refusing them.
    pub(crate) async fn careless(own: &mut OwnCluster) -> Option<Self> {
        Self::with(own, "ignore_startup_parameters=options\n").await
    }

    async fn with(own: &mut OwnCluster, more: &str) -> Option<Self> {
        let program = find()?;
        let (home, server) = (own.server().home().to_owned(), own.server().port());
        // It refuses to run as root, as PostgreSQL does: it runs as whoever that runs as.
        let owner = fs::metadata(home.join("data")).unwrap();
        let owner = (owner.uid(), owner.gid());
        let port = free_port();
        let config = home.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={server} user=postgres\n\
             [pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nunix_socket_dir=\nauth_type=any\n\
             pool_mode=transaction\ndefault_pool_size={SERVER_CONNECTIONS}\nmax_client_conn=200\n\
             server_login_retry=1\nlogfile={}\n{more}",
            home.join("pgbouncer.log").display()
        );
        fs::write(&config, text).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&config, Some(owner.0), Some(owner.1)).unwrap();
        let mut pooler = Self {
            program,
            config,
            owner,
            port,
            guard: None,
        };
        pooler.start().await;
        Some(pooler)
    }

    /// Starts it again on its port.
    pub(crate) async fn start(&mut self) {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", GUARD])
            .arg(&self.program)
            .arg(&self.config);
        if fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
            command.uid(self.owner.0).gid(self.owner.1);
        }
        command
            .stdin(Stdio::piped())
            .process_group(0)
            .current_dir("/");
        self.guard = Some(command.spawn().unwrap());
        let url = self.url("postgres");
        eventually("PgBouncer answers", PATIENCE, async || {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
            let connection = tokio::spawn(connection);
            let answer = client.simple_query("SELECT 1").await;
            connection.abort();
            answer
        })
        .await;
    }

    /// Kills it, with all connections through it.
    pub(crate) fn kill(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            guard.wait().unwrap();
        }
    }

    /// The URL of a database through it.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        let log = self.config.with_extension("log");
        fs::read_to_string(Path::new(&log)).unwrap_or_default()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that was free just now.
fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let mut ports = std::iter::repeat_with(random_port);
    ports.find(free).unwrap()
}
