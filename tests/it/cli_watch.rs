//! `sync-config watch --exec` and `--once`: commands that follow changes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr};
use tokio::time::timeout;

use crate::support::program::{on_store, program, signal};
use crate::support::sqlite::SqliteFile;
use crate::support::wait::{PATIENCE, eventually};

/// A watch that runs a command in the directory of its file.
struct Watch {
    file: SqliteFile,
    child: Child,
    said: Lines<BufReader<ChildStderr>>,
}

impl Watch {
    async fn start(args: &[&str]) -> Self {
        let file = SqliteFile::new();
        on_store(&file.url(), 0, &["set", "begin", "0"]).await;
        let url = file.url();
        let mut command = program(None, &[&["--url", &url, "watch"], args].concat());
        let pipes = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.current_dir(file.directory()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = timeout(PATIENCE, said.next_line()).await.unwrap().unwrap();
        assert_eq!(first.as_deref(), Some("watching from revision 1"));
        Self { file, child, said }
    }

    async fn set(&self, key: &str, value: &str) {
        on_store(&self.file.url(), 0, &["set", key, value]).await;
    }

    fn path(&self, name: &str) -> PathBuf {
        self.file.directory().join(name)
    }

    /// Waits until a file has so many lines.
    async fn lines(&self, name: &str, count: usize) -> Vec<String> {
        let path = self.path(name);
        eventually(name, PATIENCE, || async {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if lines.len() >= count && text.ends_with('\n') {
                Ok(lines)
            } else {
                Err(text)
            }
        })
        .await
    }

    async fn said(&mut self) -> String {
        let line = timeout(PATIENCE, self.said.next_line()).await.unwrap();
        line.unwrap().unwrap_or_default()
    }

    async fn ended(&mut self) -> Option<i32> {
        let ended = timeout(PATIENCE, self.child.wait()).await.unwrap();
        ended.unwrap().code()
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn a_command_is_given_the_change_and_never_run_twice_at_a_time() {
    // It waits for a file that the test makes, and tells of another run beside it.
    let command = "mkdir run || echo overlap >> log; cat >> log; \
        echo \"$CHANGED_REVISION $CHANGED_REVISIONS $CHANGED_KEYS ${CHANGED_KEY-none}\" >> env; \
        while [ ! -e go ]; do sleep 0.01; done; rmdir run";
    let mut watch = Watch::start(&["limit:", "--exec", command]).await;
    watch.set("limit:a", "1").await;
    let first = watch.lines("log", 1).await;
    assert_eq!(
        parsed(&first[0]),
        json!({ "revision": 2, "revisions": 1, "changes": [{ "key": "limit:a", "kind": "put", "new": 1 }] })
    );
    // All of this while the first run is under way.
    watch.set("limit:a", "2").await;
    watch.set("other", "1").await;
    watch.set("limit:b", "1").await;
    watch.set("limit:c", "1").await;
    on_store(&watch.file.url(), 0, &["delete", "limit:c"]).await;
    watch.set("limit:a", "3").await;
    std::fs::write(watch.path("go"), "").unwrap();
    let log = eventually("the last revision is given", PATIENCE, || async {
        let log = watch.lines("log", 2).await;
        let last = parsed(log.last().unwrap());
        (last["revision"] == 8).then_some(log)
    })
    .await;
    assert!(!log.iter().any(|line| line.contains("overlap")), "{log:?}");
    // One run as a rule; more where the watch itself was behind when the first one ended.
    let (mut revisions, mut net) = (0, BTreeMap::new());
    for line in &log[1..] {
        let run = parsed(line);
        revisions += run["revisions"].as_u64().unwrap();
        for change in run["changes"].as_array().unwrap() {
            let key = change["key"].as_str().unwrap().to_owned();
            let old = change.get("old").cloned();
            let entry = net.entry(key).or_insert((old, None));
            entry.1 = change.get("new").cloned();
        }
    }
    net.retain(|_, (old, new)| old != new);
    let expected = [
        ("limit:a".to_owned(), (Some(json!(1)), Some(json!(3)))),
        ("limit:b".to_owned(), (None, Some(json!(1)))),
    ];
    assert_eq!((revisions, net), (5, BTreeMap::from(expected)), "{log:?}");
    let env = watch.lines("env", log.len()).await;
    assert_eq!(env[0], "2 1 1 limit:a");
    if let [_, second] = env.as_slice() {
        assert_eq!(second, "8 5 2 none");
    }
    signal(watch.child.id().unwrap(), "TERM").await;
    assert_eq!(watch.ended().await, Some(0));
}

#[tokio::test]
async fn a_command_that_fails_is_told_and_the_next_change_is_given_all_the_same() {
    let command = "read line; echo \"$line\" >> log; test \"$CHANGED_KEY\" = good";
    let mut watch = Watch::start(&["--exec", command]).await;
    watch.set("bad", "\"hunter2\"").await;
    let said = watch.said().await;
    assert!(
        said.contains("the command failed (exit status: 1) at revision 2"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
    watch.set("good", "1").await;
    let log = watch.lines("log", 2).await;
    assert_eq!(parsed(&log[1])["changes"][0]["key"], "good");
    signal(watch.child.id().unwrap(), "INT").await;
    assert_eq!(watch.ended().await, Some(0));
}

#[tokio::test]
async fn once_ends_with_the_first_run_and_says_how_that_ended() {
    for (command, code) in [("true", 0), ("exit 7", 1)] {
        let mut watch = Watch::start(&["--once", "--exec", command]).await;
        watch.set("k", "1").await;
        assert_eq!(watch.ended().await, Some(code), "{command}");
    }
    let mut watch = Watch::start(&["--once"]).await;
    watch.set("k", "1").await;
    watch.set("k", "2").await;
    assert_eq!(watch.ended().await, Some(0));
    let mut lines = BufReader::new(watch.child.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    assert_eq!(parsed(&first)["revision"], 2);
    assert_eq!(lines.next_line().await.unwrap(), None);
}

#[tokio::test]
async fn a_run_that_is_under_way_at_the_end_is_waited_for() {
    let command = "echo begun >> log; while [ ! -e go ]; do sleep 0.01; done; echo done >> log";
    let mut watch = Watch::start(&["--exec", command]).await;
    watch.set("k", "1").await;
    watch.lines("log", 1).await;
    signal(watch.child.id().unwrap(), "TERM").await;
    std::fs::write(watch.path("go"), "").unwrap();
    assert_eq!(watch.ended().await, Some(0));
    assert_eq!(watch.lines("log", 2).await, ["begun", "done"]);
}
