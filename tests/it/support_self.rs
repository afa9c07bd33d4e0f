//! Tests of the test support itself: what every other test relies on.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::timeout;

use crate::support::fetch;
use crate::support::local_postgres::{LocalPostgres, all_binaries, running_as_root};
use crate::support::postgres::{
    OwnCluster, TestDb, cluster, connect, local_binaries, newest_cluster,
};
use crate::support::wait::{PATIENCE, eventually};

/// Long enough for anything that is to come on one machine; waited out where nothing may come.
const NOTHING_COMES: Duration = Duration::from_millis(150);

/// A directory of a test, removed with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("sctest-{}-{name}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

async fn number(url: &str, query: &str) -> i32 {
    connect(url)
        .await
        .query_one(query, &[])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test]
async fn the_shared_server_answers() {
    assert_eq!(number(&cluster().url("postgres"), "SELECT 42").await, 42);
}

#[tokio::test]
async fn a_server_of_every_major_version_found_answers() {
    let mut by_major: BTreeMap<u32, _> = BTreeMap::new();
    for binaries in all_binaries().into_iter().chain(fetch::from_npm()) {
        by_major.insert(binaries.major, binaries);
    }
    for (major, binaries) in by_major {
        let server = LocalPostgres::temporary(&binaries).unwrap();
        let query = "SELECT current_setting('server_version_num')::int / 10000";
        let answer = number(&server.url("postgres"), query).await;
        assert_eq!(u32::try_from(answer), Ok(major));
    }
}

#[tokio::test]
async fn the_newest_server_is_not_older_than_the_shared_one() {
    let Some(newest) = newest_cluster() else {
        return;
    };
    let query = "SELECT current_setting('server_version_num')::int / 10000";
    let newest = number(&newest.url("postgres"), query).await;
    assert!(newest >= number(&cluster().url("postgres"), query).await);
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own_that_goes_with_it() {
    let (one, two) = (TestDb::new().await, TestDb::new().await);
    one.client()
        .await
        .batch_execute("CREATE TABLE t ()")
        .await
        .unwrap();
    let in_two = two.client().await.batch_execute("TABLE t").await;
    assert!(in_two.is_err(), "a table of another test's database");
    let name = one.name().to_owned();
    drop(one);
    let query = format!("SELECT count(*)::int FROM pg_database WHERE datname = '{name}'");
    assert_eq!(number(two.url(), &query).await, 0);
}

#[tokio::test]
async fn a_restart_keeps_the_port_and_the_data() {
    let mut own = OwnCluster::start();
    let (port, url) = (own.server().port(), own.url("postgres"));
    let before = connect(&url).await;
    before
        .batch_execute("CREATE TABLE t AS SELECT 7 AS n")
        .await
        .unwrap();

    own.server().stop_fast().unwrap();
    assert!(
        tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .is_err()
    );
    own.server().restart().unwrap();
    assert_eq!(own.server().port(), port);
    assert_eq!(number(&url, "SELECT n FROM t").await, 7);

    own.server().stop_immediate().unwrap();
    assert_eq!(own.server().pid(), None);
    own.server().restart().unwrap();
    assert_eq!(number(&url, "SELECT n FROM t").await, 7);
    eventually(
        "the connection from before has ended",
        PATIENCE,
        async || before.is_closed().then_some(()),
    )
    .await;
}

#[tokio::test]
async fn a_paused_server_is_silent_until_it_goes_on() {
    let mut own = OwnCluster::start();
    let client = connect(&own.url("postgres")).await;
    own.server().pause().unwrap();
    let query = client.query_one("SELECT 1", &[]);
    tokio::pin!(query);
    assert!(timeout(NOTHING_COMES, &mut query).await.is_err());
    own.server().resume().unwrap();
    query.await.unwrap();
    own.server().pause().unwrap(); // and a frozen server can be stopped
    own.server().stop_fast().unwrap();
}

#[test]
fn a_temporary_server_leaves_no_files() {
    let server = LocalPostgres::temporary(&local_binaries()).unwrap();
    let home = server.home().to_path_buf();
    assert!(home.join("data/PG_VERSION").exists());
    drop(server);
    assert!(!home.exists());
}

#[tokio::test]
async fn a_durable_server_keeps_its_data_and_asks_for_its_password() {
    let scratch = Scratch::new("durable");
    let home = scratch.0.join("home of postgres");
    let binaries = local_binaries();
    let server = LocalPostgres::durable(&binaries, &home, None).unwrap();
    let (port, url) = (server.port(), server.url("postgres"));
    connect(&url)
        .await
        .batch_execute("CREATE TABLE t AS SELECT 7 AS n")
        .await
        .unwrap();
    drop(server);

    let server = LocalPostgres::durable(&binaries, &home, None).unwrap();
    assert_eq!((server.port(), server.url("postgres")), (port, url.clone()));
    assert_eq!(number(&url, "SELECT n FROM t").await, 7);
    assert_eq!(
        number(&url, "SELECT (current_setting('fsync') = 'on')::int").await,
        1
    );

    let password = std::fs::read_to_string(home.join("password")).unwrap();
    let without = url.replace(&format!(":{}@", password.trim()), "@");
    let wrong = url.replace(password.trim(), "guess");
    for url in [without, wrong] {
        assert!(
            tokio_postgres::connect(&url, tokio_postgres::NoTls)
                .await
                .is_err()
        );
    }
    // The server's account passes through a directory of root's.
    let open = if running_as_root() { 0o711 } else { 0o700 };
    for (file, mode) in [("", open), ("password", 0o600), ("socket", 0o700)] {
        let found = std::fs::metadata(home.join(file)).unwrap().mode() & 0o777;
        assert_eq!(found, mode, "{file}");
    }
    assert!(!format!("{server:?}").contains(password.trim()));
}

fn owner(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().uid()
}

#[tokio::test]
async fn root_keeps_the_directory_and_gives_away_only_what_the_server_writes() {
    if !running_as_root() {
        return;
    }
    let scratch = Scratch::new("roots");
    let home = scratch.0.join("home");
    let binaries = local_binaries();
    drop(LocalPostgres::durable(&binaries, &home, None).unwrap());
    for name in ["", "lock", "owner", "password", "port"] {
        assert_eq!(owner(&home.join(name)), 0, "{name}");
    }
    for name in ["data", "socket", "log", "log/server.log"] {
        assert_ne!(owner(&home.join(name)), 0, "{name}");
    }
    let files: Vec<_> = std::fs::read_dir(&home).unwrap().collect();
    assert_eq!(files.len(), 7, "nothing is left over: {files:?}");
}

#[tokio::test]
async fn root_takes_an_older_directory_back_and_follows_no_link_in_it() {
    if !running_as_root() {
        return;
    }
    let scratch = Scratch::new("older");
    let home = scratch.0.join("home");
    let binaries = local_binaries();
    let server = LocalPostgres::durable(&binaries, &home, None).unwrap();
    let url = server.url("postgres");
    connect(&url)
        .await
        .batch_execute("CREATE TABLE t AS SELECT 7 AS n")
        .await
        .unwrap();
    drop(server);
    // As older versions left it: all of it the account's, which may have replaced any file by now.
    let account = owner(&home.join("data"));
    drop(std::fs::remove_dir_all(home.join("log")));
    for name in ["", "password"] {
        std::os::unix::fs::chown(home.join(name), Some(account), None).unwrap();
    }
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o700)).unwrap();
    for name in ["port", "password", "lock", "owner"] {
        let (file, aside) = (home.join(name), home.join("aside"));
        let victim = scratch.0.join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::fs::rename(&file, &aside).unwrap();
        std::os::unix::fs::symlink(&victim, &file).unwrap();
        let error = LocalPostgres::durable(&binaries, &home, None).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(owner(&victim), 0);
        std::fs::rename(&aside, &file).unwrap();
    }

    let server = LocalPostgres::durable(&binaries, &home, None).unwrap();
    assert_eq!(number(&server.url("postgres"), "SELECT n FROM t").await, 7);
    assert_eq!(server.url("postgres"), url);
    assert_eq!(owner(&home), 0);
}

#[tokio::test]
async fn a_second_start_on_the_same_data_joins_the_running_server() {
    let scratch = Scratch::new("join");
    let binaries = local_binaries();
    let first = LocalPostgres::durable(&binaries, &scratch.0, None).unwrap();
    let mut second = LocalPostgres::durable(&binaries, &scratch.0, None).unwrap();
    assert!(first.owns_server() && !second.owns_server());
    assert_eq!(second.url("postgres"), first.url("postgres"));
    assert!(second.stop_fast().is_err());
    drop(second);
    assert_eq!(number(&first.url("postgres"), "SELECT 1").await, 1);
}

#[test]
fn starts_at_the_same_time_on_an_empty_directory_make_one_server() {
    let scratch = Scratch::new("together");
    let binaries = local_binaries();
    let servers: Vec<LocalPostgres> = std::thread::scope(|scope| {
        let start = || LocalPostgres::durable(&binaries, &scratch.0, None).unwrap();
        let starts: Vec<_> = (0..3).map(|_| scope.spawn(start)).collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .collect()
    });
    assert_eq!(
        servers.iter().filter(|server| server.owns_server()).count(),
        1
    );
    assert!(
        servers
            .iter()
            .all(|server| server.pid() == servers[0].pid())
    );
}

#[tokio::test]
async fn a_start_right_after_the_owner_was_killed_waits_and_owns_a_new_server() {
    let scratch = Scratch::new("successor");
    let mut holder = Holder::start(&[("HOLD_DURABLE", scratch.0.to_str().unwrap())]);
    holder.kill();
    let server = LocalPostgres::durable(&local_binaries(), &scratch.0, None).unwrap();
    assert!(server.owns_server());
    assert_eq!(number(&server.url("postgres"), "SELECT 1").await, 1);
}

#[test]
fn data_of_another_major_version_is_refused_with_both_versions_named() {
    let scratch = Scratch::new("version");
    let binaries = local_binaries();
    drop(LocalPostgres::durable(&binaries, &scratch.0, None).unwrap());
    std::fs::write(scratch.0.join("data/PG_VERSION"), "9\n").unwrap();
    let error = LocalPostgres::durable(&binaries, &scratch.0, None).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("made by PostgreSQL 9,"), "{message}");
    assert!(
        message.contains(&format!("are PostgreSQL {}:", binaries.major)),
        "{message}"
    );
}

#[test]
fn a_directory_with_other_files_in_it_is_left_alone() {
    let scratch = Scratch::new("foreign");
    std::fs::write(scratch.0.join("letter"), "dear").unwrap();
    let error = LocalPostgres::durable(&local_binaries(), &scratch.0, None).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::metadata(&scratch.0).unwrap().mode() & 0o777, 0o755);
}

#[test]
fn a_taken_port_is_an_error_only_when_it_was_asked_for() {
    let scratch = Scratch::new("port");
    let binaries = local_binaries();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = LocalPostgres::durable(&binaries, &scratch.0, Some(port)).unwrap_err();
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    std::fs::write(scratch.0.join("port"), port.to_string()).unwrap();
    let server = LocalPostgres::durable(&binaries, &scratch.0, None).unwrap();
    assert_ne!(server.port(), port);
}

/// Started by other tests, which kill it.
#[test]
#[ignore = "holds a server until it is killed"]
fn hold_a_server() {
    let binaries = local_binaries();
    let mut server = match std::env::var_os("HOLD_DURABLE") {
        Some(home) => LocalPostgres::durable(&binaries, Path::new(&home), None).unwrap(),
        None => LocalPostgres::temporary(&binaries).unwrap(),
    };
    if std::env::var_os("HOLD_FROZEN").is_some() {
        server.pause().unwrap();
    }
    println!(
        "\nHOLDS {} {}",
        server.pid().unwrap(),
        server.home().display()
    );
    loop {
        std::thread::park();
    }
}

/// A process that holds a server.
struct Holder {
    process: Child,
    server_pid: String,
    home: PathBuf,
}

impl Holder {
    fn start(settings: &[(&str, &str)]) -> Self {
        let mut command = this_test("support_self::hold_a_server");
        command.arg("--ignored").envs(settings.iter().copied());
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines
            .map(Result::unwrap)
            .find(|line| line.starts_with("HOLDS "))
            .unwrap();
        let mut words = line.splitn(3, ' ').skip(1);
        Self {
            process,
            server_pid: words.next().unwrap().to_owned(),
            home: PathBuf::from(words.next().unwrap()),
        }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn server_runs(&self) -> bool {
        let mut look = Command::new("kill");
        look.args(["-0", &self.server_pid]).stderr(Stdio::null());
        look.status().unwrap().success()
    }
}

async fn a_killed_holder_leaves_nothing(settings: &[(&str, &str)]) {
    let mut holder = Holder::start(settings);
    assert!(holder.server_runs() && holder.home.exists());
    holder.kill();
    eventually("the server ends", PATIENCE, async || {
        (!holder.server_runs()).then_some(())
    })
    .await;
    eventually("the directory goes", PATIENCE, async || {
        (!holder.home.exists()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_killed_process_leaves_no_server_and_no_files() {
    a_killed_holder_leaves_nothing(&[]).await;
}

#[tokio::test]
async fn a_killed_process_leaves_no_frozen_server_either() {
    a_killed_holder_leaves_nothing(&[("HOLD_FROZEN", "1")]).await;
}

/// This test program again, for one test.
fn this_test(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture"])
        .stdin(Stdio::null());
    command
}

#[tokio::test]
async fn root_and_other_users_both_start_servers() {
    let mut rerun = this_test("support_self::a_temporary_server_leaves_no_files");
    if std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() != 0) {
        return; // the test named above has run as another user than root
    }
    // a copy, since root's directories may be closed to others
    let scratch = Scratch::new("unprivileged");
    let copy = scratch.0.join("it");
    // By another process: a child that somebody else starts at this moment would inherit a file that is open for writing, and
    // such a file cannot be run.
    let mut cp = Command::new("cp");
    let copied = cp.arg("-p").arg(rerun.get_program()).arg(&copy).status();
    assert!(copied.unwrap().success());
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let nobody = passwd
        .lines()
        .find(|line| line.starts_with("nobody:"))
        .unwrap();
    let ids: Vec<u32> = nobody
        .split(':')
        .filter_map(|field| field.parse().ok())
        .collect();
    let arguments: Vec<_> = rerun.get_args().map(ToOwned::to_owned).collect();
    rerun = Command::new(copy);
    rerun.args(arguments).stdin(Stdio::null()).current_dir("/");
    rerun.env("PG_BIN_DIR", local_binaries().dir); // fetched ones are found by root only
    let output = rerun.uid(ids[0]).gid(ids[1]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{output:?}"
    );
}
