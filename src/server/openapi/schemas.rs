//! What the API sends, where it is not written by a type that describes itself.
#![allow(
    dead_code,
    reason = "their shapes are described here; what is sent is written as the store's own text"
)]

use serde::Serialize;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{KnownFormat, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::core::{Checksum, Epoch, Key, Revision};

/// An entry.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::server) struct Entry {
    key: Key,
    /// Any JSON value, `null` among them.
    value: serde_json::Value,
    /// The revision that last changed it.
    revision: Revision,
    /// When, by the database's clock.
    #[schema(format = DateTime)]
    updated_at: String,
}

/// Entries of one revision, in byte order of their keys.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::server) struct EntryList {
    revision: Revision,
    entries: Vec<Entry>,
    /// Where the next page begins: pass it as `after`. Missing on the last one.
    #[schema(required = false)]
    next: String,
}

/// A key that was deleted.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::server) struct Deleted {
    key: Key,
    /// The revision that deleted it.
    revision: Revision,
}

/// A change of one key. What was or is absent is left out; `null` is a value.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::server) struct Change {
    key: Key,
    kind: ChangeKind,
    /// The value before.
    #[schema(required = false)]
    old: serde_json::Value,
    /// The value after.
    #[schema(required = false)]
    new: serde_json::Value,
    /// The revision of the new entry.
    #[schema(required = false)]
    revision: Revision,
    /// When it was changed, by the database's clock.
    #[schema(required = false, format = DateTime)]
    updated_at: String,
}

/// What became of a key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::server) enum ChangeKind {
    Put,
    Delete,
}

/// The data of a server-sent event: `snapshot` has `entries`, `change` has `changes`, `progress` neither. A revision longer than
/// 1 MiB comes in parts, of which only the last has an id.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::server) struct Event {
    revision: Revision,
    #[schema(required = false)]
    entries: Vec<Entry>,
    #[schema(required = false)]
    changes: Vec<Change>,
    /// Which part it is, from 1.
    #[schema(required = false)]
    part: u64,
    /// Whether it is the last part.
    #[schema(required = false)]
    last: bool,
}

/// The process lives.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct Alive {
    #[schema(pattern = "^alive$")]
    status: String,
}

/// The server can serve.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct Ready {
    #[schema(pattern = "^ready$")]
    status: String,
    /// The store, without password; where no API keys are asked for.
    #[schema(required = false)]
    store: String,
    /// The revision shown; where no API keys are asked for.
    #[schema(required = false)]
    revision: Revision,
    /// That a kept state is served: how old it is, or, where API keys are asked for, only whether.
    #[schema(required = false)]
    stale: serde_json::Value,
    /// The same in words.
    #[schema(required = false)]
    reason: String,
}

/// What there is to ask for.
#[derive(Serialize, ToSchema)]
pub(in crate::server) struct Index {
    #[schema(pattern = "^sync-config$")]
    service: String,
    version: String,
    ready: bool,
    /// Methods and paths.
    endpoints: Vec<String>,
}

macro_rules! described {
    ($($name:ident: $schema:expr),* $(,)?) => {$(
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $schema.into()
            }
        }

        impl ToSchema for $name {}
    )*};
}

fn text(about: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(about))
}

described! {
    Key: text("1 to 255 characters, without NUL").min_length(Some(1)).max_length(Some(255)),
    Revision: ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .minimum(Some(0))
        .description(Some("A place in the history: dense and in commit order; 0 before the first change")),
    Epoch: text("Names one unbroken history").format(Some(SchemaFormat::Custom("uuid".to_owned()))),
    Checksum: text("CRC-32 of the sorted entries, 8 hexadecimal digits").pattern(Some("^[0-9a-f]{8}$")),
}
