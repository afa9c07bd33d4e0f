//! `sync-config export` and `import`: entries as files.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::postgres::TestDb;
use crate::support::program::{on_store, program, told};
use crate::support::sqlite::SqliteFile;

const DOCUMENT: &str = r#"{
  "flag": true,
  "limit:large": 123456789012345678901234567890,
  "limit:login": 1.50,
  "text": "a \"b\" é",
  "tree": {"a": [1, {"": null}], "bb": 1e-7}
}
"#;

/// The document as a store gives it back.
const STORED: &str = r#"{
  "flag": true,
  "limit:large": 123456789012345678901234567890,
  "limit:login": 1.50,
  "text": "a \"b\" é",
  "tree": {"a": [1, {"": null}], "bb": 0.0000001}
}
"#;

/// Runs an import of a text from stdin.
async fn import(url: &str, code: i32, text: &str, more: &[&str]) -> (String, String) {
    let args = [&["--url", url, "import"], more].concat();
    let mut command = program(None, &args);
    let command = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that refuses the arguments reads nothing.
    stdin.write_all(text.as_bytes()).await.ok();
    drop(stdin);
    told(&child.wait_with_output().await.unwrap(), code)
}

async fn revision(url: &str) -> Value {
    let (listed, _) = on_store(url, 0, &["list", "--json"]).await;
    serde_json::from_str::<Value>(&listed).unwrap()["revision"].clone()
}

async fn comes_back(url: &str) {
    let (printed, said) = import(url, 0, DOCUMENT, &[]).await;
    assert!(printed.contains("+ limit:login = 1.50\n"), "{printed}");
    assert!(printed.contains("5 added, 0 replaced"), "{printed}");
    assert!(said.contains("read 5 entries from stdin"), "{said}");
    assert_eq!(revision(url).await, 1, "one revision");
    let (exported, said) = on_store(url, 0, &["export"]).await;
    assert_eq!(exported, STORED);
    assert!(
        said.contains("exported 5 entries at revision 1, checksum "),
        "{said}"
    );
    let (printed, _) = import(url, 0, &exported, &[]).await;
    assert!(
        printed.starts_with("0 added, 0 replaced, 0 deleted; 5 equal"),
        "{printed}"
    );
    assert_eq!(revision(url).await, 1, "nothing differed");
}

#[tokio::test]
async fn a_document_comes_back_with_the_text_of_every_number_from_either_store() {
    let (file, db) = (SqliteFile::new(), TestDb::new().await);
    comes_back(&file.url()).await;
    comes_back(db.url()).await;
}

#[tokio::test]
async fn the_difference_is_shown_and_only_that_is_written() {
    let file = SqliteFile::new();
    let url = file.url();
    import(&url, 0, r#"{"a": 1, "b": 2, "c": 3}"#, &["-q"]).await;
    let long = "x".repeat(100);
    let changed = format!(r#"{{"a": 1, "b": "{long}", "d": null}}"#);
    let (printed, said) = import(&url, 0, &changed, &["--dry-run", "--quiet"]).await;
    assert_eq!(said, "");
    let lines: Vec<&str> = printed.lines().collect();
    assert!(
        lines[0].starts_with("~ b: 2 -> \"xxx") && lines[0].ends_with('…'),
        "{printed}"
    );
    assert_eq!(lines[1], "+ d = null");
    assert_eq!(
        lines[2],
        "would be: 1 added, 1 replaced, 0 deleted; 1 equal, 1 only in the store; nothing was written"
    );
    assert_eq!(revision(&url).await, 1);
    let (printed, _) = import(&url, 0, &changed, &["--delete-missing", "--json"]).await;
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let changes = printed["changes"].as_array().unwrap();
    assert_eq!(
        changes[0],
        json!({ "key": "b", "kind": "put", "old": 2, "new": long })
    );
    assert_eq!(
        changes[1],
        json!({ "key": "c", "kind": "delete", "old": 3 })
    );
    assert_eq!(
        (&printed["deleted"], &printed["revision"]),
        (&json!(1), &json!(2))
    );
    let (_, said) = on_store(&url, 3, &["get", "c"]).await;
    assert!(said.contains("no key"), "{said}");
}

#[tokio::test]
async fn a_prefix_bounds_what_is_written_and_what_is_deleted() {
    let file = SqliteFile::new();
    let url = file.url();
    import(&url, 0, r#"{"a:1": 1, "a:2": 2, "b:1": 3}"#, &[]).await;
    let args = ["--prefix", "a:", "--delete-missing"];
    let (_, said) = import(&url, 0, r#"{"a:1": 9, "b:2": 9}"#, &args).await;
    assert!(said.contains("left out 1 entry"), "{said}");
    let (exported, _) = on_store(&url, 0, &["export"]).await;
    let exported: Value = serde_json::from_str(&exported).unwrap();
    assert_eq!(exported, json!({ "a:1": 9, "b:1": 3 }));
    let (exported, _) = on_store(&url, 0, &["export", "--prefix", "b:"]).await;
    assert_eq!(exported, "{\n  \"b:1\": 3\n}\n");
}

#[tokio::test]
async fn a_file_of_toml_is_written_whole_and_read_again() {
    let file = SqliteFile::new();
    let url = file.url();
    let document = r#"{"limit:login": 1.50, "on": true, "tree": {"a": ["x", {"b": -7}]}, "\u009b\u202e": "\u007f"}"#;
    import(&url, 0, document, &[]).await;
    let toml = file.directory().join("out.toml");
    std::fs::write(&toml, "old").unwrap();
    let path = toml.to_str().unwrap();
    let (printed, _) = on_store(&url, 0, &["export", path, "--json"]).await;
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(printed["entries"], 4);
    let text = std::fs::read_to_string(&toml).unwrap();
    assert!(
        text.starts_with("\"limit:login\" = 1.50\n\"on\" = true\n"),
        "{text}"
    );
    assert!(
        text.contains("\"\\U0000009B\\U0000202E\" = \"\\U0000007F\""),
        "{text}"
    );
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&toml).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds every value");
    let other = SqliteFile::new();
    on_store(&other.url(), 0, &["import", path]).await;
    let one = on_store(&url, 0, &["export"]).await;
    let two = on_store(&other.url(), 0, &["export"]).await;
    assert_eq!(one.0, two.0);
    let written = "[\"limit:table\"]\nlogin = 0x10\nburst = 2.0\n";
    import(&other.url(), 0, written, &["--format", "toml"]).await;
    let (value, _) = on_store(&other.url(), 0, &["get", "limit:table"]).await;
    assert_eq!(value, "{\"burst\": 2.0, \"login\": 16}\n");
}

#[tokio::test]
async fn what_toml_cannot_hold_is_refused_with_its_key_and_leaves_the_file_alone() {
    let file = SqliteFile::new();
    let url = file.url();
    let path = file.directory().join("out.toml");
    let path = path.to_str().unwrap();
    for (value, problem) in [
        ("{\"hunter2\": null}", "null"),
        ("9223372036854775808", "9223372036854775807"),
        ("1e400", "9223372036854775807"),
    ] {
        on_store(&url, 0, &["set", "some:key", value]).await;
        let (_, said) = on_store(&url, 2, &["export", path]).await;
        assert!(
            said.contains("some:key") && said.contains(problem),
            "{said}"
        );
        assert!(!std::path::Path::new(path).exists());
    }
    on_store(&url, 0, &["export", path, "--prefix", "other:"]).await;
}

#[tokio::test]
async fn a_wrong_document_is_refused_by_its_place_and_nothing_is_written() {
    let file = SqliteFile::new();
    let url = file.url();
    on_store(&url, 0, &["migrate"]).await;
    let long = format!("{{\"k\": \"{}\"}}", "x".repeat(1_048_600));
    let key = format!("{{\"{}\": 1}}", "k".repeat(256));
    for (text, problem) in [
        ("{\"a\": 1,\n\"a\": \"hunter2\"}", "stdin:2: key \"a\""),
        ("{\"a\": hunter2}", "stdin:1: not JSON"),
        ("[\"hunter2\"]", "no object"),
        ("", "ends too early"),
        ("{\"\": 1}", "stdin"),
        (&key, "255"),
        (&long, "1048576"),
        ("{\"a\": 1, \"k\": \"\\u0000hunter2\"}", "\"k\""),
    ] {
        let (printed, said) = import(&url, 2, text, &[]).await;
        assert!(said.contains(problem), "{problem}: {said}");
        assert!(!said.contains("hunter2") && printed.is_empty(), "{said}");
    }
    let toml = ["--format", "toml"];
    let (_, said) = import(&url, 2, "a = 1\nb = inf\n", &toml).await;
    assert!(said.contains("stdin:2: key \"b\" is inf or nan"), "{said}");
    let (_, said) = on_store(&url, 2, &["import", "/nowhere/x.json"]).await;
    assert!(said.contains("/nowhere/x.json"), "{said}");
    assert_eq!(revision(&url).await, 0);
}
