//! The JSON that people and programs see: one shape for HTTP and the command line.
//!
//! Guarantees: values are written as the store's own text, so no number is rounded on its way; absence is a missing
//! member, never `null`; names are camelCase.

use std::time::{Duration, SystemTime};

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::core::{Change, ChangeKind, Entry, Revision};
use crate::store::RecordedChange;

/// An entry as `{"key", "value", "revision", "updatedAt"}`.
pub(crate) struct EntryView<'a>(pub(crate) &'a Entry);

impl Serialize for EntryView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut view = serializer.serialize_struct("Entry", 4)?;
        view.serialize_field("key", self.0.key())?;
        view.serialize_field("value", self.0.value())?;
        view.serialize_field("revision", &self.0.revision())?;
        view.serialize_field("updatedAt", &timestamp(self.0.updated_at()))?;
        view.end()
    }
}

/// A change as `{"key", "kind", "old", "new"}`; what was or is absent is left out.
#[derive(Serialize)]
pub(crate) struct ChangeView<'a> {
    pub(crate) key: &'a str,
    kind: ChangeKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<&'a RawValue>,
    /// The revision of the new entry, where the reader is to keep it.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<Revision>,
    #[serde(rename = "updatedAt", skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
}

impl<'a> ChangeView<'a> {
    pub(crate) fn of(key: &'a str, old: Option<&'a str>, new: Option<&'a str>) -> Self {
        let kind = if new.is_some() {
            ChangeKind::Put
        } else {
            ChangeKind::Delete
        };
        Self {
            key,
            kind,
            old: old.map(raw),
            new: new.map(raw),
            revision: None,
            updated_at: None,
        }
    }

    /// With the revision and the time of the new entry, if there is one: what a reader needs to keep entries as the store
    /// shows them.
    #[cfg(feature = "server")]
    pub(crate) fn made_by(mut self, revision: Revision, at: Option<SystemTime>) -> Self {
        if self.new.is_some() {
            self.revision = Some(revision);
            self.updated_at = at.map(timestamp);
        }
        self
    }
}

impl<'a> From<&'a Change> for ChangeView<'a> {
    fn from(change: &'a Change) -> Self {
        let old = change.old().map(|entry| entry.as_json());
        Self::of(change.key(), old, change.new().map(|entry| entry.as_json()))
    }
}

impl<'a> From<&'a RecordedChange> for ChangeView<'a> {
    fn from(change: &'a RecordedChange) -> Self {
        Self::of(&change.key, change.old.as_deref(), change.new.as_deref())
    }
}

/// Renders a view. Views of entries and changes always have a JSON form.
pub(crate) fn json(view: &impl Serialize) -> String {
    serde_json::to_string(view).unwrap_or_else(|_| "null".to_owned())
}

/// A store's text as JSON. A store holds nothing but JSON texts.
fn raw(text: &str) -> &RawValue {
    serde_json::from_str(text).unwrap_or(RawValue::NULL)
}

/// The time as RFC 3339 in microseconds, the database's own precision.
pub(crate) fn timestamp(time: SystemTime) -> String {
    /// The last second of the year 9999, where RFC 3339 ends.
    const END: Duration = Duration::from_secs(253_402_300_799);
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    humantime::format_rfc3339_micros(SystemTime::UNIX_EPOCH + since.min(END)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absence_is_left_out_and_null_is_not() {
        let put = json(&ChangeView::of("k", None, Some("null")));
        assert_eq!(put, r#"{"key":"k","kind":"put","new":null}"#);
        let delete = json(&ChangeView::of("k", Some("1e400"), None));
        assert_eq!(delete, r#"{"key":"k","kind":"delete","old":1e400}"#);
    }

    #[test]
    fn times_outside_of_rfc_3339_are_clamped() {
        let early = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(timestamp(early), "1970-01-01T00:00:00.000000Z");
        let late = SystemTime::UNIX_EPOCH + Duration::from_secs(300_000_000_000);
        assert_eq!(timestamp(late), "9999-12-31T23:59:59.000000Z");
    }
}
