//! Databases that hold many entries: keys of 30 bytes, values of 66.
#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::sync::Arc;

use sync_config::{Batch, Builder, ConfigService, MemoryDatabase, SyncConfig, Value};

use super::postgres::{Database, Server};

/// A key that a filled database holds: the `number`th, from 1.
pub(crate) fn key(number: u32) -> String {
    // What the database makes of md5('1'), and so on, is not known here: only a few are needed.
    let beginning = ["c4ca4", "c81e7", "eccbc"][number as usize - 1];
    format!("{beginning}:{number:07}:a-key-of-30-byte")
}

/// Creates a database with the library's schema and this many entries, written in no order of their keys.
pub(crate) async fn filled(server: &Server, entries: usize) -> Database {
    let database = server.database().await;
    let client = database.client().await;
    // As a table that was there before: a million rows through the journal would take a minute and measure nothing more.
    let create = "CREATE TABLE sync_config (key varchar(255) COLLATE \"C\" PRIMARY KEY, value jsonb NOT NULL,
                                            updated_at timestamptz NOT NULL DEFAULT now())";
    client.batch_execute(create).await.expect("create table");
    let number = i32::try_from(entries).expect("fewer than 2^31");
    let fill = "INSERT INTO sync_config (key, value)
                SELECT left(md5(n::text), 5) || ':' || lpad(n::text, 7, '0') || ':' || 'a-key-of-30-byte',
                       jsonb_build_object('name', 'one value of 66 bytes', 'burst', 20, 'limit', lpad(n::text, 7, '0'))
                FROM generate_series(1, $1) n";
    client.execute(fill, &[&number]).await.expect("fill");
    if entries > 0 {
        let lengths =
            "SELECT octet_length(key), octet_length(value::text) FROM sync_config LIMIT 1";
        let row = client.query_one(lengths, &[]).await.expect("look");
        assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (30, 66));
    }
    sync_config::connect(&database.url)
        .await
        .expect("migrate")
        .shutdown()
        .await
        .expect("shut down");
    for settle in ["VACUUM ANALYZE", "CHECKPOINT"] {
        client.batch_execute(settle).await.expect("settle");
    }
    database
}

/// A key of a service on a database in memory; their order is not that of the numbers.
pub(crate) fn memory_key(number: u32) -> String {
    format!(
        "{:08x}:{number:08}:a-key-of-30-",
        number.wrapping_mul(0x9E37_79B9)
    )
}

/// What such a key has for a value.
pub(crate) fn memory_value(number: u32) -> String {
    format!(r#"{{"name": "one value of 66 bytes", "burst": 20, "limit": "{number:07}"}}"#)
}

/// Starts a service on a database in memory that holds so many entries.
pub(crate) async fn in_memory(entries: u32) -> Arc<ConfigService> {
    let started = Builder::memory(&MemoryDatabase::new()).start().await;
    let config = started.expect("start in memory");
    for begin in (0..entries).step_by(1_000) {
        let mut batch = Batch::new();
        for number in begin..(begin + 1_000).min(entries) {
            let value = Value::parse(&memory_value(number)).expect("JSON");
            batch = batch.put_value(&memory_key(number), value, None);
        }
        config.write(batch).await.expect("fill");
    }
    config
}
