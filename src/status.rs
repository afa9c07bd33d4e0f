//! What an instance knows of itself.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use crate::core::{Checksum, Epoch, Revision};
use crate::subscription::SubscriptionId;

/// A moment's view of an instance: what it shows, how fresh that is, and what it has been through.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Status {
    /// A random number, 16 hexadecimal digits, that names this instance in heartbeats.
    pub instance: String,
    /// The store, without password.
    pub store: String,
    /// Whether the first load is done. Reads say *not ready* before.
    pub ready: bool,
    /// The history followed.
    pub epoch: Option<Epoch>,
    /// The revision shown.
    pub revision: Revision,
    /// CRC32 of the sorted entries at that revision.
    pub checksum: Option<Checksum>,
    /// How many entries there are.
    pub entries: usize,
    /// How news arrives.
    pub mode: Mode,
    /// Why it is not *push*; or what an operator has to do where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When this state was last proven equal to the table's head: the time the question was asked.
    #[serde(serialize_with = "rfc3339")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub proven_at: Option<SystemTime>,
    /// What is shown was kept in the state file, because the store was away at the start; `None` as soon as the store has
    /// given its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale: Option<Stale>,
    /// The state file, if there is to be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_file: Option<StateFileStatus>,
    /// Heartbeats and audits.
    pub heartbeat: HeartbeatStatus,
    /// What was counted since the start.
    pub counters: Counters,
    /// How many subscriptions there are.
    pub subscriptions: usize,
    /// Named consumers of the journal that retention is about to pass, or has passed: their next revision is older than half
    /// of `event_retention`. The most urgent first, at most 20. Looked at every heartbeat, and four times in a retention.
    pub slow_consumers: Vec<SlowConsumer>,
    /// Subscribers of this instance whose queue is more than half full, that lagged within the last five minutes, or whose
    /// callback has not returned for 5 s. The fullest first, at most 20.
    pub slow_subscribers: Vec<SlowSubscriber>,
}

/// Slow ones that a status names at most: who has more has one cause, not twenty.
pub(crate) const MAX_NAMED: usize = 20;

/// A named consumer of the journal that is too far behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SlowConsumer {
    /// Its name.
    pub name: String,
    /// The last revision that it acknowledged.
    pub revision: Revision,
    /// How many revisions it has still to read.
    pub behind: u64,
    /// When retention reaches what it has to read next, in seconds from the look; `None` when that is no longer to be had,
    /// because it was trimmed or belongs to another history.
    #[serde(rename = "trimmedInSeconds", serialize_with = "seconds_if_any")]
    #[cfg_attr(feature = "server", schema(value_type = Option<u64>))]
    pub trimmed_in: Option<Duration>,
}

/// A subscriber of this instance that is too slow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SlowSubscriber {
    /// The subscription.
    #[cfg_attr(feature = "server", schema(value_type = u64))]
    pub id: SubscriptionId,
    /// The name that its filter was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Revisions that wait for it.
    pub queued: u64,
    /// Revisions dropped since its queue was full, of which it will be told.
    pub missed: u64,
    /// When it was last told that it lagged.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub lagged_at: Option<SystemTime>,
    /// When its callback was called that has not returned for more than 5 s, perhaps never will.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub running_since: Option<SystemTime>,
}

/// A state that stands in for a database that was away at the start.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Stale {
    /// The history it is of.
    pub epoch: Epoch,
    /// The revision it was kept at.
    pub revision: Revision,
    /// When it was written.
    #[serde(serialize_with = "rfc3339_always")]
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub written_at: SystemTime,
    /// When the database last proved it to be the newest.
    #[serde(serialize_with = "rfc3339_always")]
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub proven_at: SystemTime,
    /// How long ago that was, by this machine's clock.
    #[serde(rename = "ageSeconds", serialize_with = "seconds")]
    #[cfg_attr(feature = "server", schema(value_type = u64))]
    pub age: Duration,
}

/// What is known of the state file.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct StateFileStatus {
    /// The revision that this instance wrote last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// When it did.
    #[serde(serialize_with = "rfc3339")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub written_at: Option<SystemTime>,
    /// Why the state that was found is not served, or the present one cannot be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// How news arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Notices are proven to arrive, and the last check of the head was good.
    Push,
    /// The database answers; notices are switched off or not proven. Polling keeps the instance current.
    Poll,
    /// The last check failed. Reads go on with what is in memory.
    Offline,
}

/// What is known of heartbeats and audits.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct HeartbeatStatus {
    /// When this instance last broadcast one.
    #[serde(serialize_with = "rfc3339")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub last_sent: Option<SystemTime>,
    /// When another instance's last arrived.
    #[serde(serialize_with = "rfc3339")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub last_heard: Option<SystemTime>,
    /// When this instance last folded the table itself and found it equal.
    #[serde(serialize_with = "rfc3339")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub last_audit: Option<SystemTime>,
    /// Equal revisions with unequal checksums, found by this instance.
    pub mismatches: u64,
    /// Full resyncs done.
    pub resyncs: u64,
    /// Those of them that a mismatch led to and that found nothing to put right here: somebody's checksum was wrong.
    pub needless_resyncs: u64,
    /// Why the last one was done.
    pub last_cause: Option<String>,
}

/// What was counted since the start of an instance.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Counters {
    /// Revisions applied.
    pub revisions: u64,
    /// Writes of this instance that were applied.
    pub writes: u64,
    /// Sessions with the database that were lost, and attempts to open one that failed.
    pub sessions_lost: u64,
    /// Revisions found by a check although no notice had told of them.
    pub notices_missed: u64,
    /// Proven rewrites of the past.
    pub forks: u64,
    /// Callbacks that panicked.
    pub callback_panics: u64,
    /// Times a subscriber was too slow for its queue.
    pub subscribers_lagged: u64,
    /// Values that a getter with a default found to be of another type, once for each key and revision.
    pub wrong_types: u64,
    /// Values that a live handle could not decode, once for each key and revision: it keeps its previous value.
    pub rejected_values: u64,
    /// Times the state file was refused or could not be written.
    pub state_file_failures: u64,
}

fn seconds_if_any<S: Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => seconds(time, serializer),
        None => serializer.serialize_none(),
    }
}

fn rfc3339<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(&humantime::format_rfc3339_millis(*time)),
        None => serializer.serialize_none(),
    }
}

fn rfc3339_always<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    rfc3339(&Some(*time), serializer)
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(time.as_secs())
}
