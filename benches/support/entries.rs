//! Databases that hold many entries: keys of 30 bytes, values of 66.

use sync_config::SyncConfig;

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
