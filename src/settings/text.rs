//! What a setting's text means, and the bounds of names.

use std::path::Path;
use std::time::Duration;

use super::{HIDDEN, Settings};
use crate::core::{is_unseen, shown_start};
use crate::error::{Error, Result};

impl Settings {
    /// The text that [`Settings::with`] would take for a setting; `None` for one that has no value.
    pub(crate) fn text_of(&self, name: &str) -> Option<String> {
        let duration = |value: Duration| Some(in_days(value));
        match name {
            "database_url" => self.database_url.clone(),
            "listen_database_url" => self.listen_database_url.clone(),
            "schema" => self.schema.clone(),
            "table_name" => Some(self.table_name.clone()),
            "channel" => Some(self.channel.clone()),
            "instance_name" => self.instance_name.clone(),
            "heartbeat_interval" => duration(self.heartbeat_interval),
            "check_interval" => duration(self.check_interval),
            "reconnect_interval" => duration(self.reconnect_interval),
            "poll_interval" => duration(self.poll_interval),
            "poll_jitter" => duration(self.poll_jitter),
            "event_retention" => duration(self.event_retention),
            "cleanup_interval" => duration(self.cleanup_interval),
            "consumer_grace" => duration(self.consumer_grace),
            "request_timeout" => duration(self.request_timeout),
            "statement_timeout" => self.statement_timeout.and_then(duration),
            "lock_timeout" => duration(self.lock_timeout),
            "sync_on_mismatch" => Some(self.sync_on_mismatch.to_string()),
            "enable_notification" => Some(self.enable_notification.to_string()),
            "migrate" => Some(self.migrate.to_string()),
            "max_state_age" => duration(self.max_state_age),
            "api_key" => self.api_key.clone(),
            "ca_file" => self
                .ca_file
                .as_ref()
                .map(|path| path.to_string_lossy().into_owned()),
            "state_file" => self
                .state_file
                .as_ref()
                .map(|path| path.to_string_lossy().into_owned()),
            "max_connections" => Some(self.max_connections.to_string()),
            _ => None,
        }
    }
}

/// A duration with nothing longer than days, which are what people set: months and years of others have fractions.
pub(super) fn in_days(value: Duration) -> String {
    const DAY: u64 = 86_400;
    let days = value.as_secs() / DAY;
    let rest = value.saturating_sub(Duration::from_secs(days * DAY));
    let unit = if days == 1 { "day" } else { "days" };
    match (days, rest.is_zero()) {
        (0, _) => humantime::format_duration(rest).to_string(),
        (days, true) => format!("{days}{unit}"),
        (days, false) => format!("{days}{unit} {}", humantime::format_duration(rest)),
    }
}

/// A duration's text in bytes: every unit there is, with room. What is wrong with one is said with parts of it.
const MAX_DURATION: usize = 128;

pub(super) fn duration(name: &str, text: &str) -> Result<Duration> {
    if text.len() > MAX_DURATION {
        let bytes = text.len();
        let problem = format!(
            "not a duration such as 5m or 250ms: {bytes} bytes; the bound is {MAX_DURATION}"
        );
        return Err(Error::setting(name, text, problem));
    }
    if !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return Err(Error::setting(
            name,
            text,
            format!("a duration needs a unit: write {text}m, {text}s or {text}ms"),
        ));
    }
    humantime::parse_duration(text).map_err(|error| {
        Error::setting(
            name,
            text,
            format!("not a duration such as 5m or 250ms: {error}"),
        )
    })
}

pub(super) fn switch(name: &str, text: &str) -> Result<bool> {
    match text {
        "true" | "1" | "on" | "yes" => Ok(true),
        "false" | "0" | "off" | "no" => Ok(false),
        _ => Err(Error::setting(name, text, "write true or false")),
    }
}

/// The longest name of a table or a channel in bytes: helpers carry the table's name as a prefix, and PostgreSQL truncates names
/// at 63.
pub(super) const MAX_NAME: usize = 48;

/// Such a name, or another one that is bounded like them.
pub(crate) fn check_name(name: &str, value: &str) -> Result<()> {
    let shown = shown_start(value);
    if value.is_empty() || value.len() > MAX_NAME {
        return Err(Error::setting(
            name,
            shown,
            format!("has {} bytes; must be from 1 to {MAX_NAME}", value.len()),
        ));
    }
    // It may hold a password, and names are shown.
    if value.contains("://") {
        let problem = "has 1 to 48 bytes and is no address; give that as database_url";
        return Err(Error::setting(name, shown, problem));
    }
    if value.contains(is_unseen) {
        let problem = "must not hold control characters, or others that cannot be seen";
        return Err(Error::setting(name, shown, problem));
    }
    Ok(())
}

/// A file of that name can be made in some directory.
pub(super) fn check_path(name: &str, path: &Path) -> Result<()> {
    let text = path.to_string_lossy();
    // An address may hold a password, and paths are shown.
    let named = path.file_name().is_some() && !text.ends_with('/') && !text.contains("://");
    if named && !text.contains(is_unseen) {
        return Ok(());
    }
    let problem =
        "must be the path of a file, without characters that cannot be seen and no address";
    Err(Error::setting(name, shown_start(&text), problem))
}

/// The longest API key: those of this service have 80 characters or so.
const MAX_API_KEY: usize = 512;

/// An API key fits into a header, whoever made it.
pub(super) fn check_api_key(key: &str) -> Result<()> {
    if (1..=MAX_API_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let problem = format!("must be 1 to {MAX_API_KEY} visible characters of ASCII");
    Err(Error::setting("api_key", HIDDEN, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_told_as_it_is_written() {
        for text in [
            "0s",
            "250ms",
            "1m 30s",
            "1day",
            "90days",
            "365days 1h",
            "3650days",
        ] {
            assert_eq!(in_days(duration("x", text).unwrap()), text);
        }
    }
}
