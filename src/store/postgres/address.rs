//! Where the database is: URLs parsed once, without their password ever being shown.

use std::time::Duration;

use tokio_postgres::Config;

use crate::error::{Error, Result};
use crate::settings::Settings;

/// A write that waits longer than this for a connection was not sent: half the default request timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Parses the URL of a setting.
pub(super) fn parse(setting: &str, url: &str, settings: &Settings) -> Result<Config> {
    for word in [
        "sslmode=verify-ca",
        "sslmode=verify-full",
        "sslmode=require",
        "sslrootcert=",
    ] {
        if url.contains(word) {
            let problem = format!(
                "{word} needs TLS, which this build does not have; without TLS write sslmode=disable"
            );
            return Err(Error::setting(setting, "…", problem));
        }
    }
    let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
        Error::setting(
            setting,
            "…",
            format!("not a PostgreSQL URL: {}", cause(&error)),
        )
    })?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(Error::setting(
            setting,
            "…",
            "names no host; write postgres://user@host:5432/database",
        ));
    }
    if config.get_user().is_none() {
        return Err(Error::setting(
            setting,
            "…",
            "names no user; write postgres://user@host:5432/database",
        ));
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_application_name().is_none() {
        config.application_name(settings.instance_name.as_deref().unwrap_or("sync-config"));
    }
    // A peer that is gone is found within about 12 s, also on a pooled connection that nobody asks anything.
    config.keepalives_idle(Duration::from_secs(5));
    config.keepalives_interval(Duration::from_secs(2));
    config.keepalives_retries(3);
    config.tcp_user_timeout(Duration::from_secs(10));
    Ok(config)
}

/// An error with its innermost cause, which is where tokio-postgres says what happened.
pub(super) fn cause(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// Names the database for people: host, port and database, no user and no password.
pub(super) fn describe(config: &Config) -> String {
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .zip(config.get_ports().iter().chain(std::iter::repeat(&5432)))
        .map(|(host, port)| match host {
            tokio_postgres::config::Host::Tcp(host) => format!("{host}:{port}"),
            #[cfg(unix)]
            tokio_postgres::config::Host::Unix(path) => format!("{}:{port}", path.display()),
        })
        .collect();
    format!(
        "{}/{}",
        hosts.join(","),
        config.get_dbname().or(config.get_user()).unwrap_or("")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_is_named_by_its_setting_and_never_shown() {
        let settings = Settings::default();
        for url in [
            "postgres://u:hunter2@",
            "nonsense hunter2",
            "postgres://u:hunter2@h:hunter2/d",
            "postgres://u:hunter2@h/d?sslmode=verify-full",
            "",
        ] {
            let error = parse("database_url", url, &settings).unwrap_err();
            assert!(error.is_invalid_input(), "{url}");
            assert!(
                error.to_string().contains("database_url")
                    && !error.to_string().contains("hunter2"),
                "{error}"
            );
        }
        let config = parse("database_url", "postgres://u:hunter2@h:5433/d", &settings).unwrap();
        assert_eq!(describe(&config), "h:5433/d");
    }
}
