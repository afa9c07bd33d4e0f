//! Values of another type than their readers want, and values that no Rust type or no JSON holds, on every store.

use std::sync::{Arc, Mutex};

use serde::Deserialize;
use sync_config::Value;
use sync_config::prelude::*;

use crate::fleet::Fleet;

on_every_store! {
    a_wrong_type_is_counted_once_for_each_key_and_revision
    numbers_beyond_rusts_are_kept_and_refused_only_where_they_do_not_fit
    what_json_cannot_hold_is_refused_with_its_key
}

async fn a_wrong_type_is_counted_once_for_each_key_and_revision(fleet: Fleet) {
    let one = fleet.start().await;
    let counted = || one.status().counters.wrong_types;
    assert_eq!(one.get_i64("absent", 7), 7);
    one.set("n", 3).await.unwrap();
    assert_eq!((one.get_i64("n", 0), one.get_f64("n", 0.0)), (3, 3.0));
    assert_eq!(counted(), 0, "nothing is wrong so far");
    for _ in 0..3 {
        assert!(one.get_bool("n", true));
        assert_eq!(one.get_string("n", "x"), "x");
    }
    assert_eq!(counted(), 1);
    one.set("n", ()).await.unwrap();
    assert_eq!((one.get_i64("n", 5), one.get_i64("n", 5)), (5, 5));
    assert_eq!(counted(), 2, "null is a value of another type");
    one.set("other", "text").await.unwrap();
    assert_eq!(one.get_f64("other", 0.5), 0.5);
    assert_eq!(counted(), 3);
    one.delete("n").await.unwrap();
    assert_eq!((one.get_i64("n", 5), counted()), (5, 3));
    assert_eq!(
        one.get_as::<bool>("other")
            .unwrap_err()
            .to_string()
            .matches("other")
            .count(),
        1
    );
    assert_eq!(counted(), 3, "a strict read says it itself");
}

async fn numbers_beyond_rusts_are_kept_and_refused_only_where_they_do_not_fit(fleet: Fleet) {
    let one = fleet.start().await;
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let refused = Value::parse(&deep).unwrap_err().to_string();
    assert!(refused.contains("127"), "{refused}");
    let written = one
        .set("deep", serde_json::from_str::<Deep>("200").unwrap())
        .await
        .unwrap_err();
    assert!(
        written.is_invalid_input() && written.to_string().contains("\"deep\""),
        "{written}"
    );
    let big = "9223372036854775809";
    one.set_value("big", Value::parse(big).unwrap())
        .await
        .unwrap();
    one.set_value("huge", Value::parse("1e400").unwrap())
        .await
        .unwrap();
    one.set("plain", 1).await.unwrap();
    if let Fleet::Postgres(db) = &fleet {
        let insert = format!("INSERT INTO sync_config (key, value) VALUES ('deep', '{deep}')");
        db.client().await.batch_execute(&insert).await.unwrap();
    }
    let two = fleet.start().await;
    assert_eq!(two.get("big").unwrap().unwrap().as_json(), big);
    assert_eq!(two.get_i64("big", 7), 7);
    assert_eq!(two.status().counters.wrong_types, 1);
    assert_eq!(*two.get_as::<u64>("big").unwrap().unwrap(), (1 << 63) + 1);
    assert_eq!(
        (two.get_f64("huge", 0.5), two.status().counters.wrong_types),
        (0.5, 2)
    );
    let error = two.get_as::<f64>("huge").unwrap_err();
    assert!(
        error.is_wrong_type() && error.to_string().contains("\"huge\""),
        "{error}"
    );
    if matches!(fleet, Fleet::Postgres(_)) {
        let error = two.get_as::<serde_json::Value>("deep").unwrap_err();
        assert!(
            error.is_wrong_type() && error.to_string().contains("\"deep\""),
            "{error}"
        );
        assert!(
            two.get("deep")
                .unwrap()
                .unwrap()
                .as_json()
                .starts_with("[[[")
        );
    }
    assert_eq!(two.get_i64("plain", 0), 1, "nothing else is concerned");
}

/// Nested as many levels deep as the number it is read from.
#[derive(Deserialize)]
#[serde(from = "u16")]
struct Deep(u16);

impl From<u16> for Deep {
    fn from(levels: u16) -> Self {
        Self(levels)
    }
}

impl serde::Serialize for Deep {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let inner: &[Self] = if self.0 > 1 { &[Self(self.0 - 1)] } else { &[] };
        serializer.collect_seq(inner)
    }
}

async fn what_json_cannot_hold_is_refused_with_its_key(fleet: Fleet) {
    let one = fleet.start().await;
    one.set("k", 1).await.unwrap();
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for error in [
            one.set("k", number).await.unwrap_err(),
            one.set("k", Some(vec![number])).await.unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(
                error.is_invalid_input() && text.contains("\"k\"") && text.contains("NaN"),
                "{error}"
            );
        }
    }
    assert!(one.set("k", f32::NAN).await.unwrap_err().is_invalid_input());
    assert_eq!((one.get_i64("k", 0), one.status().revision.get()), (1, 1));
    assert!(one.set("k", None::<f64>).await.unwrap().changed());
}

#[tokio::test]
async fn whoever_decodes_at_the_same_time_shares_one_result() {
    let one = Fleet::memory().start().await;
    for number in 0..100 {
        one.set("k", [number]).await.unwrap();
        let all: Vec<Arc<Vec<i64>>> = std::thread::scope(|scope| {
            let others = scope.spawn(|| one.get_as::<Vec<u8>>("k").unwrap());
            let run = |_| scope.spawn(|| one.get_as("k").unwrap().unwrap());
            let all: Vec<_> = (0..4).map(run).collect();
            others.join().unwrap();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(all.iter().all(|one| Arc::ptr_eq(one, &all[0])));
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn wrong_types_and_rejections_are_logged_once_with_key_and_revision_and_no_value() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let one = Fleet::memory().start().await;
    let view = one.scoped("a:").unwrap();
    let _handles = [one.live("a:k", 1u8).unwrap(), view.live("k", 1u8).unwrap()];
    one.set("a:k", "secret").await.unwrap();
    for _ in 0..3 {
        assert_eq!((one.get_i64("a:k", 1), view.get_i64("k", 1)), (1, 1));
    }
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
    assert_eq!(
        (count("default is used"), count("previous value")),
        (1, 1),
        "{text}"
    );
    assert!(
        text.lines()
            .all(|line| line.contains("a:k") && line.contains("revision=1")),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
}
