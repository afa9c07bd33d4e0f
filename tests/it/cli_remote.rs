//! The command line on the store of a server, named by its URL.

use serde_json::Value;

use crate::support::program::{on_store, program, run, told};
use crate::support::remote::{serve, url};
use crate::support::sqlite::SqliteFile;

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn a_store_is_copied_to_a_server_and_from_it_and_compared_by_checksum() {
    let (own, served, back) = (SqliteFile::new(), SqliteFile::new(), SqliteFile::new());
    let server = serve(&served.url(), &[]).await;
    let document = own.directory().join("in.json");
    let entries: Vec<String> = (0..3_000)
        .map(|n| format!("\"limit:{n}\": [{n}, \"é\", 1.50]"))
        .collect();
    std::fs::write(&document, format!("{{{}}}", entries.join(","))).unwrap();
    on_store(&own.url(), 0, &["import", document.to_str().unwrap(), "-q"]).await;
    let copy = async |from: String, to: String, code| {
        let args = ["copy", "--from", &from, "--to", &to, "--json"];
        told(&run(&mut program(None, &args)).await, code)
    };
    let (there, _) = copy(own.url(), url(&server), 0).await;
    let there = parsed(&there);
    assert_eq!(
        (&there["added"], &there["revision"]),
        (&3_000.into(), &1.into())
    );
    let (again, _) = copy(own.url(), url(&server), 0).await;
    assert_eq!(parsed(&again)["unchanged"], 3_000);
    let (here, _) = copy(url(&server), back.url(), 0).await;
    assert_eq!(parsed(&here)["checksum"], there["checksum"]);
    on_store(&url(&server), 0, &["set", "other", "1"]).await;
    let (_, said) = copy(own.url(), url(&server), 4).await;
    assert!(said.contains("the target alone has 1 key: other"), "{said}");
}

#[tokio::test]
async fn what_is_too_much_for_a_server_is_refused_and_nothing_is_written() {
    let (own, served) = (SqliteFile::new(), SqliteFile::new());
    let server = serve(&served.url(), &[]).await;
    let document = own.directory().join("in.json");
    let large = "x".repeat(1_000_000);
    let entries: Vec<String> = (0..18).map(|n| format!("\"k{n}\": \"{large}\"")).collect();
    std::fs::write(&document, format!("{{{}}}", entries.join(","))).unwrap();
    let args = ["import", document.to_str().unwrap()];
    let (_, said) = on_store(&url(&server), 2, &args).await;
    assert!(
        said.contains("12582912") && said.contains("--prefix"),
        "{said}"
    );
    let (listed, _) = on_store(&url(&server), 0, &["list", "--json"]).await;
    assert_eq!(parsed(&listed)["revision"], 0);
}

#[tokio::test]
async fn entries_of_a_server_are_exported_imported_and_examined() {
    let file = SqliteFile::new();
    let server = serve(&file.url(), &[]).await;
    let url = url(&server);
    let document = file.directory().join("in.toml");
    std::fs::write(&document, "\"limit:a\" = 1.50\n\"limit:b\" = [true]\n").unwrap();
    let args = ["import", document.to_str().unwrap()];
    let (printed, _) = on_store(&url, 0, &args).await;
    assert!(printed.contains("+ limit:a = 1.50"), "{printed}");
    let (exported, _) = on_store(&url, 0, &["export", "--format", "toml"]).await;
    assert_eq!(exported, "\"limit:a\" = 1.50\n\"limit:b\" = [true]\n");
    let (examined, _) = on_store(&url, 0, &["doctor", "--json"]).await;
    let examined = parsed(&examined);
    let findings = examined["findings"].as_array().unwrap();
    let listening = findings.iter().find(|one| one["check"] == "listening");
    assert_eq!(listening.unwrap()["level"], "ok", "{examined}");
    for args in [&["new-epoch"][..], &["migrate", "--uninstall", "--yes"]] {
        let (_, said) = on_store(&url, 2, args).await;
        assert!(said.contains("server"), "{said}");
    }
}
