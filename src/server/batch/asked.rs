//! What a batch should look like, and what its items demand.

use std::fmt;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::MAX_ITEMS;
use crate::core::{Epoch, Key, Revision, Value, canonical};
use crate::error::{Error, Kind};
use crate::server::body::misread;
use crate::server::problem::Problem;
use crate::server::{etag, openapi};
use crate::write::{Batch, Precondition};

/// The longest name of an author.
const MAX_ACTOR: usize = 255;

/// What a batch should look like, for those whose body does not.
const SHAPE: &str = "write {\"items\":[{\"key\":…,\"value\":…} or {\"key\":…,\"delete\":true}]}, \
     each item with at most one of ifRevision, ifAbsent, ifPresent, ifMatch";

/// What is to be written.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Batch)]
pub(in crate::server) struct Asked {
    #[schema(value_type = Vec<openapi::BatchItem>, min_items = 1, max_items = 10_000)]
    #[serde(deserialize_with = "items")]
    pub(super) items: Vec<AskedItem>,
    /// Only says what would become of it.
    #[serde(default)]
    pub(super) dry_run: bool,
    /// Answers with the values too, as the store holds them.
    #[serde(default)]
    pub(super) values: bool,
    /// Who writes, for the journal; the holder of an API key is named before it.
    #[schema(min_length = 1, max_length = 255)]
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = String)]
    pub(super) actor: Option<String>,
}

/// One key, with either a value or `"delete": true`, and at most one condition.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::server) struct AskedItem {
    pub(super) key: String,
    /// Any JSON value, `null` among them, at most 1 MiB of text.
    #[serde(default, deserialize_with = "given")]
    value: Option<Box<RawValue>>,
    /// The key is to be absent.
    #[serde(default)]
    delete: bool,
    /// The key was last changed by this revision.
    #[serde(default, deserialize_with = "given")]
    if_revision: Option<u64>,
    /// The key has no value.
    #[serde(default)]
    if_absent: bool,
    /// The key has a value.
    #[serde(default)]
    if_present: bool,
    /// The key has this entity tag.
    #[serde(default, deserialize_with = "given")]
    if_match: Option<String>,
}

impl AskedItem {
    /// How long its value is in an answer: as the store will hold it. What is none is refused before there is an answer.
    pub(super) fn told(&self) -> usize {
        let text = self.value.as_ref().map(|value| canonical(value.get()));
        text.and_then(Result::ok).map_or(0, |text| text.len())
    }
}

/// Tells `null` from absence: as a value it is one, and a condition that a client forgot to set is none to be passed over.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Reads one item more than a batch may have at most, so that it is told from one that may be: 16 MiB of the shortest items would
/// take ten times as much as items.
fn items<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<AskedItem>, D::Error> {
    struct Items;

    impl<'de> Visitor<'de> for Items {
        type Value = Vec<AskedItem>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of items")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = list.next_element()? {
                items.push(item);
                if items.len() > MAX_ITEMS {
                    while list.next_element::<IgnoredAny>()?.is_some() {}
                    break;
                }
            }
            Ok(items)
        }
    }

    deserializer.deserialize_seq(Items)
}

/// A name for the journal is a line.
pub(super) fn named(actor: &str) -> Result<&str, Problem> {
    let length = (1..=MAX_ACTOR).contains(&actor.chars().count());
    if length && !actor.contains(char::is_control) {
        return Ok(actor);
    }
    let problem = format!("actor is 1 to {MAX_ACTOR} characters without control characters");
    Err(Problem::bad_request(problem))
}

pub(super) fn add(
    batch: Batch,
    key: &Key,
    item: &AskedItem,
    condition: Option<Precondition>,
) -> Result<Batch, Problem> {
    match (&item.value, item.delete) {
        (Some(text), false) => {
            let value = Value::parse(text.get()).map_err(|error| {
                let key = key.clone();
                Problem::from(Error::from(Kind::Value { key, error }))
            })?;
            Ok(batch.put_value(key, value, condition))
        }
        (None, true) => Ok(match condition {
            Some(condition) => batch.delete_if(key, condition),
            None => batch.delete(key),
        }),
        (Some(_), true) | (None, false) => {
            let problem = format!("key \"{key}\" needs either a value or \"delete\": true");
            Err(Problem::bad_request(problem))
        }
    }
}

/// What a tag of another history demands of a key, in a rehearsal: a revision that no store counts to, and that none can be asked
/// for by number.
pub(super) const FOREIGN: Precondition = Precondition::Revision(Revision::new(i64::MAX as u64));

/// What an item demands of its key. A tag of another history is refused where something would be written.
pub(super) fn condition(
    item: &AskedItem,
    key: &Key,
    epoch: Epoch,
    dry_run: bool,
) -> Result<Option<Precondition>, Problem> {
    let mut demands = Vec::new();
    if item.if_absent {
        demands.push(Precondition::Absent);
    }
    if item.if_present {
        demands.push(Precondition::Present);
    }
    if let Some(number) = item.if_revision {
        // Stores count up to i64::MAX, which stands for no revision in some of their answers.
        if i64::try_from(number).is_ok_and(|number| number < i64::MAX) {
            demands.push(Precondition::Revision(Revision::new(number)));
        } else {
            let problem = format!("ifRevision of key \"{key}\" is beyond what a store counts to");
            return Err(Problem::bad_request(problem));
        }
    }
    if let Some(tag) = &item.if_match {
        let foreign = dry_run.then_some(FOREIGN);
        demands.push(etag::named(tag, epoch).or(foreign).ok_or_else(|| {
            let problem = format!(
                "not applied: ifMatch of key \"{key}\" names no revision of this store's present history; read the key again"
            );
            Problem::precondition_failed(problem).with("key", key.as_str())
        })?);
    }
    match demands[..] {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        [..] => Err(Problem::bad_request(format!(
            "key \"{key}\" has more than one condition; give at most one of ifRevision, ifAbsent, ifPresent, ifMatch"
        ))),
    }
}

/// Says what is wrong with a body.
pub(super) fn not_a_batch(error: &serde_json::Error) -> Problem {
    misread("batch", error, SHAPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Asked, Problem> {
        serde_json::from_str(body).map_err(|error| not_a_batch(&error))
    }

    fn item(text: &str) -> AskedItem {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn null_is_a_value_and_absence_is_none() {
        let null = item(r#"{"key":"k","value": null}"#);
        assert_eq!(null.value.unwrap().get(), "null");
        assert!(item(r#"{"key":"k","delete":true}"#).value.is_none());
    }

    #[test]
    fn what_is_wrong_is_told_without_a_value() {
        for (body, told) in [
            (
                r#"{"items":[{"key":"k","value":1,"ifRevison":3}]}"#,
                "ifRevison",
            ),
            (r#"{"items":[{"value":1}]}"#, "missing field `key`"),
            (
                r#"{"items":[{"key":"k","key":"l","value":1}]}"#,
                "duplicate field",
            ),
            (r#"{"items":[{"key":"k","delete":"hunter2"}]}"#, "line 1"),
            (r#"{"items":"hunter2"}"#, "line 1"),
            (
                r#"{"items":[{"key":"k","value":1,"ifRevision":null}]}"#,
                "line 1",
            ),
            (
                r#"{"items":[{"key":"k","value":1,"ifMatch":null}]}"#,
                "line 1",
            ),
            (r#"{"items":[{"key":"k","value":hunter2}]}"#, "line 1"),
            ("", "line 1"),
        ] {
            let problem = format!("{:?}", read(body).unwrap_err());
            assert!(problem.contains(told), "{body}: {problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn an_item_has_one_condition_at_most() {
        let epoch = Epoch::from_u128(0x0123_abcd << 96);
        let demand = |more: &str| {
            let item = item(&format!("{{\"key\":\"k\",\"value\":1{more}}}"));
            let key = Key::stored("k");
            let rehearsed = condition(&item, &key, epoch, true).ok();
            let written = condition(&item, &key, epoch, false).ok();
            assert!(written == rehearsed || rehearsed == Some(Some(FOREIGN)));
            written
        };
        assert_eq!(demand(""), Some(None));
        let at = Some(Some(Precondition::Revision(Revision::new(7))));
        for more in [
            r#","ifRevision":7"#,
            r#","ifMatch":"\"0123abcd-7\"""#,
            r#","ifMatch":"0123abcd-7""#,
            r#","ifRevision":7,"ifAbsent":false"#,
        ] {
            assert_eq!(demand(more), at, "{more}");
        }
        let present = Some(Some(Precondition::Present));
        assert_eq!(demand(r#","ifPresent":true"#), present);
        assert_eq!(demand(r#","ifMatch":"*""#), present);
        assert_eq!(
            demand(r#","ifAbsent":true"#),
            Some(Some(Precondition::Absent))
        );
        for wrong in [
            r#","ifRevision":7,"ifAbsent":true"#,
            r#","ifMatch":"ffffffff-7""#,
            r#","ifMatch":"""#,
            r#","ifRevision":9223372036854775807"#,
        ] {
            assert_eq!(demand(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_batch_that_is_too_long_is_read_no_further_than_it_takes_to_say_so() {
        let of = |count: usize| {
            format!(
                r#"{{"items":[{}]}}"#,
                vec![r#"{"key":""}"#; count].join(",")
            )
        };
        for (count, read_items) in [
            (0, 0),
            (MAX_ITEMS, MAX_ITEMS),
            (MAX_ITEMS + 1, MAX_ITEMS + 1),
            (20 * MAX_ITEMS, MAX_ITEMS + 1),
        ] {
            assert_eq!(read(&of(count)).unwrap().items.len(), read_items, "{count}");
        }
        let broken = of(20 * MAX_ITEMS).replace("]}", ",}");
        assert!(read(&broken).is_err(), "the rest is JSON all the same");
    }
}
