//! What the API sends, where it is not written by a type that describes itself.
#![allow(
    dead_code,
    reason = "their shapes are described here; what is sent is written as the store's own text"
)]

use serde::{Deserialize, Serialize};
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
    #[schema(required = false, value_type = After)]
    next: String,
}

/// One key of a batch, with at most one condition.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::server) enum BatchItem {
    Put(BatchPut),
    Delete(BatchDelete),
}

/// A key that is to have a value.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::server) struct BatchPut {
    #[schema(value_type = Key)]
    key: String,
    /// Any JSON value, `null` among them, at most 1 MiB of text.
    value: serde_json::Value,
    /// The key was last changed by this revision.
    #[schema(required = false, value_type = Revision)]
    if_revision: u64,
    /// The key has no value.
    #[schema(required = false)]
    if_absent: bool,
    /// The key has a value.
    #[schema(required = false)]
    if_present: bool,
    /// The key has this entity tag.
    #[schema(required = false, value_type = ETag)]
    if_match: String,
}

/// A key that is to be absent.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::server) struct BatchDelete {
    #[schema(value_type = Key)]
    key: String,
    /// True.
    #[schema(schema_with = truth)]
    delete: bool,
    /// The key was last changed by this revision.
    #[schema(required = false, value_type = Revision)]
    if_revision: u64,
    /// The key has no value.
    #[schema(required = false)]
    if_absent: bool,
    /// The key has a value.
    #[schema(required = false)]
    if_present: bool,
    /// The key has this entity tag.
    #[schema(required = false, value_type = ETag)]
    if_match: String,
}

fn truth() -> Schema {
    let only = [serde_json::Value::Bool(true)];
    ObjectBuilder::new()
        .schema_type(Type::Boolean)
        .enum_values(Some(only))
        .into()
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

/// What is to be published.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::server) struct Publication {
    /// What clients know it by; none of the relay's own types.
    #[schema(pattern = "^[A-Za-z0-9._:/-]{1,128}$")]
    r#type: String,
    /// Any JSON value.
    payload: serde_json::Value,
    to: Target,
    #[schema(required = false, max_length = 256)]
    correlation_id: String,
}

/// To whom it goes.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::server) enum Target {
    /// To the client of this name.
    Client(String),
    /// To those who watch keys with this prefix.
    Prefix(String),
    /// To everybody.
    All,
}

/// An event that was published.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::server) struct Published {
    id: String,
    /// Its place among the events.
    revision: Revision,
    #[schema(value_type = Cursor)]
    cursor: String,
    /// An earlier request under the same idempotency key had published it.
    replayed: bool,
    #[schema(format = DateTime)]
    accepted_at: String,
}

/// The first message of a stream: the data of `ack`, the payload of `connection.ack`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::server) struct Acknowledgement {
    client_id: String,
    /// The same.
    gateway_id: String,
    connection_id: String,
    epoch: Epoch,
    /// The newest revision at the time.
    revision: Revision,
    #[schema(value_type = Cursor)]
    cursor: String,
    /// Names the server.
    server: String,
    /// What the keys begin with that are told of, if not all are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<String>, required = false)]
    prefixes: Option<Vec<String>>,
}

/// The connections of a server and what was delivered over them.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::server) struct Stats {
    /// Names the server to its clients.
    server: String,
    /// The revision shown.
    revision: Option<u64>,
    gateway_connections: Connections,
    /// The clients by name, also those that are away whose acknowledgement is remembered.
    clients: Vec<Client>,
    event_delivery: Delivery,
}

/// The open connections.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::server) struct Connections {
    total_active: u64,
    /// As many as may be.
    limit: u64,
    connections: Vec<Connection>,
}

/// An open connection.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::server) struct Connection {
    /// The client's name.
    gateway_id: String,
    connection_id: String,
    #[schema(format = DateTime)]
    connected_at: String,
    /// When the client was last heard of.
    #[schema(format = DateTime)]
    last_heartbeat: String,
    /// `connected`, or `behind` while revisions wait for it.
    #[schema(pattern = "^(connected|behind)$")]
    status: String,
    #[schema(pattern = "^(websocket|sse)$")]
    transport: String,
    /// The newest revision that it was told of.
    revision: u64,
    /// The revision that it acknowledged.
    applied: Option<u64>,
    /// Revisions that wait for it.
    queued: u64,
    /// Times it was too slow for what is kept in memory.
    fell_behind: u64,
}

/// A client, which may have several connections.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::server) struct Client {
    client_id: String,
    connections: u64,
    /// The revision that all of its connections have acknowledged.
    applied: Option<u64>,
}

/// What was delivered since the start.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::server) struct Delivery {
    total_events_sent: u64,
    failed_deliveries: u64,
    #[schema(format = DateTime)]
    last_failure_time: Option<String>,
    last_failure_reason: Option<String>,
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

/// A place in the history, as text.
pub(in crate::server) struct Cursor;

/// An entity tag.
pub(in crate::server) struct ETag;

/// Entity tags with commas between, or `*`.
pub(in crate::server) struct ETags;

/// `*`.
pub(in crate::server) struct Any;

/// The name under which a write is done once.
pub(in crate::server) struct IdempotencyKey;

/// Where a page begins.
pub(in crate::server) struct After;

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
    Cursor: text("A place in the history; opaque").pattern(Some("^[0-9a-f]{32}-[0-9]{1,19}-[0-9a-f]{32}$")),
    ETag: text("An entity tag: it names the revision that last changed the entry; of a list its revision, and the keys that it is of where those are not all").pattern(Some("^\"[0-9a-f]{8}-[0-9]{1,19}(-[0-9a-f]{16})?\"$")),
    ETags: text("Entity tags with commas between, or `*`").pattern(Some("^([*]|(W/)?\"[!#-~]*\"(, *(W/)?\"[!#-~]*\")*)$")),
    Any: text("`*`").pattern(Some("^[*]$")),
    IdempotencyKey: text("1 to 255 visible ASCII characters").pattern(Some("^[!-~]{1,255}$")),
    After: text("Where a page begins; opaque").pattern(Some("^[0-9a-f]{32}-[0-9]{1,19}-[0-9a-f]{32}\\.([0-9a-f]{2}){1,1020}$")),
    Checksum: text("CRC-32 of the sorted entries, 8 hexadecimal digits").pattern(Some("^[0-9a-f]{8}$")),
}
