//! `sync-config keys`: what it refuses, and what it says to do instead.

use crate::support::keys::{keys, output};
use crate::support::postgres::TestDb;
use crate::support::program::{Scratch, program, run, told};
use crate::support::sqlite::SqliteFile;

#[tokio::test]
async fn a_prefix_that_is_empty_makes_no_key_of_the_whole_store() {
    let file = SqliteFile::new();
    let args = ["create", "x", "--role", "read", "--prefix", ""];
    let (printed, said) = told(&output(&file.url(), &args).await, 2);
    assert!(printed.is_empty() && said.contains("--prefix"), "{said}");
    let args = [
        "create", "x", "--role", "read", "--prefix", "a", "--prefix", "",
    ];
    told(&output(&file.url(), &args).await, 2);
    assert!(!file.path().exists());
    keys(&file.url(), 0, &["create", "x", "--role", "read"]).await;
}

#[tokio::test]
async fn where_a_private_postgresql_is_no_file_of_keys_is_made() {
    let dir = Scratch::new("cli-keys");
    std::fs::create_dir(dir.path().join("data")).unwrap();
    std::fs::write(dir.path().join("data").join("PG_VERSION"), "17\n").unwrap();
    let data = dir.path().to_str().unwrap();
    for command in [
        &["keys", "create", "x", "--role", "read"][..],
        &["set", "k", "1"],
    ] {
        let args = [command, &["--data", data]].concat();
        let (_, said) = told(&run(&mut program(None, &args)).await, 2);
        assert!(
            said.contains("pg-local") && said.contains("--url"),
            "{said}"
        );
        assert!(!dir.path().join("config.db").exists());
    }
}

#[tokio::test]
async fn what_makes_the_table_of_the_keys_is_named_where_it_is_not() {
    let db = TestDb::new().await;
    for args in [&["list"][..], &["rotate", "x"], &["revoke", "x"]] {
        let (printed, said) = told(&output(db.url(), args).await, 1);
        assert!(printed.is_empty(), "{printed}");
        for named in ["sync_config_keys", "migrate --keys", "keys create"] {
            assert!(said.contains(named), "{said}");
        }
    }
    keys(db.url(), 0, &["create", "x", "--role", "read"]).await;
    let (_, said) = told(&output(db.url(), &["list"]).await, 0);
    assert!(said.is_empty(), "{said}");
}
