//! Where the database is and how to speak to it: addresses parsed once, without their password ever being shown.

use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, TargetSessionAttrs};

use super::dsn::Parts;
use super::refusal::Refusal;
use super::security::{Security, SslMode};
use super::tls;
use crate::core::shown;
use crate::error::{Error, Result};
use crate::settings::Settings;

/// A write that waits longer than this for a connection was not sent: half the default request timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Several hosts or addresses share it, whatever the address says of each, so that one that is silent leaves time for the
/// next before whoever waits gives up and begins anew with the first. A handshake across an ocean takes less than this.
const LEAST_TIMEOUT: Duration = Duration::from_secs(1);

const EXAMPLE: &str = "write postgres://user@host:5432/database";

/// An address, parsed.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) config: Config,
    pub(super) security: Security,
    /// How long one attempt may take, if the address says it.
    timeout: Option<Duration>,
    /// How long the attempts may take together, if there are several.
    together: Duration,
}

impl Target {
    /// Parses the address of a setting.
    pub(super) fn parse(setting: &str, address: &str, settings: &Settings) -> Result<Self> {
        let environment = |name: &str| std::env::var(name).ok();
        Self::understand(address, settings, &environment)
            .map_err(|problem| Error::setting(setting, "…", problem))
    }

    fn understand(
        address: &str,
        settings: &Settings,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let not_one = |problem: String| format!("not a PostgreSQL address: {problem}");
        let parts = Parts::of(address).map_err(not_one)?;
        let mut config: Config = parts.rest.parse().map_err(|error| not_one(cause(&error)))?;
        check(&config)?;
        let security = Security::parse(&parts, environment)?;
        if security.mode >= SslMode::Require
            || security.mode != SslMode::Disable && security.names_files
        {
            tls::check(&security)?;
        }
        let hosts = config.get_hosts().len().max(config.get_hostaddrs().len());
        config.target_session_attrs(session(parts.own("target_session_attrs"), hosts)?);
        let timeout = config.get_connect_timeout().copied();
        if config.get_application_name().is_none() {
            config.application_name(settings.instance_name.as_deref().unwrap_or("sync-config"));
        }
        if let Some(limit) = unacknowledged(parts.own("tcp_user_timeout"))? {
            config.tcp_user_timeout(limit);
        }
        keep_alive(&mut config);
        Ok(Self {
            config,
            security,
            timeout,
            // Half of what a write takes at most, as by default.
            together: CONNECT_TIMEOUT.min(settings.request_timeout / 2),
        })
    }

    /// How long one attempt may take, of as many as the present host has addresses.
    pub(super) fn limit(&self, addresses: usize) -> Duration {
        let attempts = u32::try_from(count(&self.config) * addresses).unwrap_or(u32::MAX);
        if attempts <= 1 {
            return self.timeout.unwrap_or(CONNECT_TIMEOUT);
        }
        let share = (self.together / attempts).max(LEAST_TIMEOUT);
        self.timeout.map_or(share, |timeout| timeout.min(share))
    }

    /// Names the database for people: hosts, ports and database, no user and no password.
    pub(super) fn describe(&self) -> String {
        let names: Vec<String> = (0..count(&self.config))
            .map(|number| place(&self.config, number))
            .collect();
        let database = self.config.get_dbname().or(self.config.get_user());
        let named = format!("{}/{}", names.join(","), database.unwrap_or(""));
        // A name may hold anything, percent-encoded.
        shown(&named).to_string()
    }
}

/// How long what was sent may stay unacknowledged; 0 says nothing.
fn unacknowledged(milliseconds: Option<&str>) -> Result<Option<Duration>, String> {
    let Some(text) = milliseconds else {
        return Ok(None);
    };
    // As many as the operating system takes.
    let limit = text.trim().parse().ok().filter(|limit: &i32| *limit >= 0);
    let limit = limit.and_then(|limit| u64::try_from(limit).ok());
    let limit = limit.ok_or("tcp_user_timeout must be milliseconds, from 0 to 2147483647")?;
    Ok((limit > 0).then(|| Duration::from_millis(limit)))
}

/// A peer that is gone is found within about 12 s, also on a pooled connection that nobody asks anything.
fn keep_alive(config: &mut Config) {
    if config.get_keepalives_idle() == Config::new().get_keepalives_idle() {
        config.keepalives_idle(Duration::from_secs(5));
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(Duration::from_secs(2));
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(3);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(Duration::from_secs(10));
    }
}

/// What is missing or cannot be in an address that was parsed.
fn check(config: &Config) -> Result<(), String> {
    let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
    if hosts.is_empty() && addresses.is_empty() {
        return Err(format!("names no host; {EXAMPLE}"));
    }
    for host in hosts {
        if let Host::Tcp(name) = host {
            if name.is_empty() {
                return Err(format!("names an empty host; {EXAMPLE}"));
            }
            // A piece of a password would be looked up, and shown.
            let odd =
                |character: char| character.is_whitespace() || "@/?#[]\\'\"".contains(character);
            if name.contains(odd) {
                return Err("a host's name holds a character that none can have; percent-encode those of the password, as in %40 for @".to_owned());
            }
        }
    }
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return Err(format!(
            "names {} hosts and {} hostaddr",
            hosts.len(),
            addresses.len()
        ));
    }
    let ports = config.get_ports();
    if ports.len() > 1 && ports.len() != count(config) {
        return Err(format!(
            "names {} hosts and {} ports",
            count(config),
            ports.len()
        ));
    }
    if ports.contains(&0) {
        return Err("port must be from 1 to 65535".to_owned());
    }
    if config.get_user().is_none_or(str::is_empty) {
        return Err(format!("names no user; {EXAMPLE}"));
    }
    Ok(())
}

/// What the server has to be. With several hosts it is the one that takes writes, unless the address says otherwise: the
/// others are of no use here.
fn session(word: Option<&str>, hosts: usize) -> Result<TargetSessionAttrs, String> {
    match word {
        None | Some("") if hosts > 1 => Ok(TargetSessionAttrs::ReadWrite),
        None | Some("" | "any") => Ok(TargetSessionAttrs::Any),
        Some("read-write" | "primary") => Ok(TargetSessionAttrs::ReadWrite),
        Some("read-only" | "standby" | "prefer-standby") => Err(
            "target_session_attrs asks for a standby, which lags behind and sends no notices; write read-write"
                .to_owned(),
        ),
        Some(_) => Err("target_session_attrs must be read-write, primary or any".to_owned()),
    }
}

/// How many hosts an address names.
pub(super) fn count(config: &Config) -> usize {
    config.get_hosts().len().max(config.get_hostaddrs().len())
}

/// The port of a host.
pub(super) fn port(config: &Config, number: usize) -> u16 {
    let ports = config.get_ports();
    let port = ports.get(number).or_else(|| ports.first());
    port.copied().unwrap_or(5432)
}

/// Names a host with its port.
pub(super) fn place(config: &Config, number: usize) -> String {
    let port = port(config, number);
    match (
        config.get_hosts().get(number),
        config.get_hostaddrs().get(number),
    ) {
        (Some(Host::Tcp(host)), _) if host.contains(':') => format!("[{host}]:{port}"),
        (Some(Host::Tcp(host)), _) => format!("{host}:{port}"),
        #[cfg(unix)]
        (Some(Host::Unix(path)), _) => format!("{}:{port}", path.display()),
        (None, Some(address)) => std::net::SocketAddr::new(*address, port).to_string(),
        (None, None) => String::new(),
    }
}

/// An error with its innermost cause, which is where tokio-postgres says what happened.
pub(super) fn cause(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(refusal) = inner.downcast_ref::<Refusal>() {
            return refusal.to_string();
        }
        let inner_text = tls::explain(inner).unwrap_or_else(|| inner.to_string());
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    // The parser quotes the character that it did not expect.
    shown(text.split(" but got").next().unwrap_or_default()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(address: &str) -> Result<Target> {
        Target::parse("database_url", address, &Settings::default())
    }

    #[test]
    fn a_wrong_address_is_named_by_its_setting_and_never_shown() {
        for address in [
            "",
            " ",
            "nonsense hunter2",
            "hunter2://u@h/d",
            "http://u:hunter2@h/d",
            "postgres:/u:hunter2@h/d",
            "postgres://",
            "postgres://u:hunter2@",
            "postgres://u:hunter2@/d",
            "postgres://h/d",
            "postgres://:hunter2@h/d",
            "postgres://u:hunter2@h:hunter2/d",
            "postgres://u:hunter2@h:0/d",
            "postgres://u:hunter2@h:65536/d",
            "postgres://u:hunter2@[::1/d",
            "postgres://u:pass@hunter2@h/d",
            "postgres://u:hunter2@a,,b/d",
            "postgres://u:hunter2@h/d?sslmode=hunter2",
            "postgres://u:hunter2@h/d?sslmode=verify-full",
            "postgres://u:hunter2@h/d?sslmode=require&sslrootcert=/no/such/file",
            "postgres://u:hunter2@h/d?sslmode=prefer&sslcert=/no/cert&sslkey=/no/key",
            "postgres://u:hunter2@h/d?target_session_attrs=hunter2",
            "postgres://u:hunter2@h/d?target_session_attrs=read-only",
            "postgres://u:hunter2@h/d?connect_timeout=hunter2",
            "postgres://u:hunter2@h/d?tcp_user_timeout=hunter2",
            "postgres://u:hunter2@h/d?tcp_user_timeout=-1",
            "postgres://u:hunter2@h/d?tcp_user_timeout=2147483648",
            "postgres://u:hunter2@h/d?hunter2",
            "postgres://u:hunter2@h/d?hunter2=1",
            "postgres://u:hunter2@h/d?sslcrl=/x",
            "postgres://u:hunter2@h/%ff",
            "host=h port=5432,5433 user=u password=hunter2",
            "host=h hostaddr=hunter2 user=u",
            "host=a,b hostaddr=127.0.0.1 user=u password=hunter2",
            "host=h user=u password='hunter2",
            "host=h user=u password=a hunter2",
        ] {
            let error = match parse(address) {
                Err(error) => error,
                // Without TLS there are no files to look at.
                Ok(_) if cfg!(not(feature = "tls")) && address.contains("sslcert") => continue,
                Ok(target) => panic!("{address}: {}", target.describe()),
            };
            assert!(error.is_invalid_input(), "{address}");
            let text = error.to_string();
            assert!(
                text.contains("database_url") && !text.contains("hunter2"),
                "{address}: {text}"
            );
        }
    }

    #[test]
    fn an_address_is_described_without_user_and_password() {
        for (address, described) in [
            ("postgres://u:hunter2@h:5433/d", "h:5433/d"),
            ("postgresql://u@h", "h:5432/u"),
            ("postgres://u:p@a,b:5433/d", "a:5432,b:5433/d"),
            ("postgres://u@[::1]:5433/d", "[::1]:5433/d"),
            ("host=a,b port=5433 user=u dbname=d", "a:5433,b:5433/d"),
            ("hostaddr=127.0.0.1 user=u", "127.0.0.1:5432/u"),
            #[cfg(unix)]
            ("host=/run/pg user=u", "/run/pg:5432/u"),
        ] {
            assert_eq!(parse(address).unwrap().describe(), described);
        }
    }

    #[test]
    fn several_hosts_mean_the_one_that_takes_writes_and_share_the_time() {
        let of = |address: &str| {
            let target = parse(address).unwrap();
            let limits = [target.limit(1), target.limit(2)].map(|limit| limit.as_millis());
            (target.config.get_target_session_attrs(), limits)
        };
        let (any, primary) = (TargetSessionAttrs::Any, TargetSessionAttrs::ReadWrite);
        assert_eq!(of("postgres://u@a/d"), (any, [5_000, 2_500]));
        assert_eq!(of("postgres://u@a,b/d"), (primary, [2_500, 1_250]));
        assert_eq!(of("postgres://u@a,b,c,d,e,f/d").1, [1_000, 1_000]);
        let said = "postgres://u@a,b/d?target_session_attrs=any&connect_timeout=2";
        assert_eq!(of(said), (any, [2_000, 1_250]));
        // Longer than all of them have together: the first would take everybody's.
        assert_eq!(of("postgres://u@a/d?connect_timeout=30").1, [30_000, 2_500]);
        let long = "postgres://u@a,b/d?connect_timeout=30";
        assert_eq!(of(long).1, [2_500, 1_250]);
        let settings = Settings::default().request_timeout(Duration::from_secs(6));
        let hasty = Target::parse("database_url", long, &settings).unwrap();
        assert_eq!(hasty.limit(1), Duration::from_millis(1_500));
        let words = "host=a user=u target_session_attrs=primary";
        assert_eq!(of(words).0, primary);
    }

    #[test]
    fn tcp_user_timeout_counts_milliseconds_as_for_libpq() {
        for (address, milliseconds) in [
            ("postgres://u@h/d?tcp_user_timeout=1500", 1_500),
            ("host=h user=u tcp_user_timeout=250", 250),
            ("postgres://u@h/d?tcp_user_timeout=0", 10_000),
            ("postgres://u@h/d", 10_000),
        ] {
            let target = parse(address).unwrap();
            let limit = target.config.get_tcp_user_timeout().copied();
            assert_eq!(
                limit,
                Some(Duration::from_millis(milliseconds)),
                "{address}"
            );
        }
    }

    #[test]
    fn the_address_names_the_application_or_the_instance_does() {
        let settings = Settings::default().instance_name("one");
        let named = |address: &str| {
            let target = Target::parse("database_url", address, &settings).unwrap();
            target.config.get_application_name().map(str::to_owned)
        };
        assert_eq!(named("postgres://u@h/d").as_deref(), Some("one"));
        assert_eq!(
            named("postgres://u@h/d?application_name=two").as_deref(),
            Some("two")
        );
    }
}
