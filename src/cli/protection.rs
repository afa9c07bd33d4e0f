//! What protects a server: API keys, TLS, and the addresses that can do without.
//!
//! Guarantees: beyond loopback nobody is let in without an API key, and nothing is said in plaintext unless `--insecure` allows it;
//! what is let in without a key is said at the start.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Notify;

use super::Failure;
use super::args::{Auth, Serve};
use crate::keys;
use crate::server::{Certificates, Origins, Rules};
use crate::settings::Settings;

pub(super) struct Protection {
    keys: bool,
    /// Plaintext beyond loopback.
    exposed: bool,
    /// Where the keys are, if not beside what is served.
    keys_url: Option<String>,
    pub(super) origins: Origins,
    pub(super) tls: Option<Certificates>,
}

impl Protection {
    /// What was asked for, if the addresses allow it.
    pub(super) fn choose(options: &Serve, found: &[SocketAddr]) -> Result<Self, Failure> {
        let beyond = found.iter().any(|address| !address.ip().is_loopback());
        let wrong = |problem: &str| {
            let text = &options.listen;
            Failure::Usage(format!("--listen {text:?}: is beyond loopback, {problem}"))
        };
        if beyond && options.auth == Auth::Off {
            return Err(wrong(
                "where --auth off would let everybody in; listen on 127.0.0.1, or leave --auth away and make API keys with `sync-config keys create`",
            ));
        }
        let plain = options.tls_cert.is_none();
        if beyond && plain && !options.insecure {
            return Err(wrong(
                "where plaintext shows values and API keys to whoever is on the way; give --tls-cert and --tls-key, listen on 127.0.0.1, \
                 or say --insecure if something in front of it has TLS",
            ));
        }
        let origins = Origins::parse(&options.allow_origin)
            .map_err(|problem| Failure::Usage(format!("--allow-origin: {problem}")))?;
        let tls = match (&options.tls_cert, &options.tls_key) {
            (Some(certificate), Some(key)) => {
                let again = hangups()?;
                let loaded = Certificates::load(certificate.clone(), key.clone(), again);
                Some(loaded.map_err(|problem| Failure::Usage(format!("--tls-cert: {problem}")))?)
            }
            _ => None,
        };
        Ok(Self {
            keys: beyond || options.auth == Auth::Keys,
            exposed: beyond && plain,
            keys_url: options.keys_url.as_ref().map(|url| url.0.clone()),
            origins,
            tls,
        })
    }

    /// What API keys are judged by, if they are asked for.
    pub(super) fn rules(
        &self,
        settings: &Settings,
        options: &Serve,
    ) -> Result<Option<Rules>, Failure> {
        if !self.keys {
            return Ok(None);
        }
        // What will not do is told before anything is opened.
        self.store(settings)?.check()?;
        Ok(Some(Rules {
            max_staleness: options.keys_max_staleness,
            requests_per_minute: options.requests_per_minute,
        }))
    }

    /// The settings of the store of the keys.
    pub(super) fn store(&self, served: &Settings) -> Result<Settings, Failure> {
        let Some(url) = &self.keys_url else {
            return Ok(keys::settings(served)?);
        };
        let elsewhere = Settings {
            database_url: Some(url.clone()),
            listen_database_url: None,
            ..served.clone()
        };
        Ok(keys::settings(&elsewhere)?)
    }

    /// Whether the keys are in a store of their own.
    pub(super) fn keys_are_elsewhere(&self) -> bool {
        self.keys_url.is_some()
    }

    pub(super) fn auth(&self) -> &'static str {
        if self.keys { "keys" } else { "off" }
    }

    /// Says what is open.
    pub(super) fn warn(&self) {
        if !self.keys {
            tracing::info!(
                "no API keys are asked for: every program on this machine reads and writes everything; --auth keys asks for them"
            );
        }
        if self.exposed {
            tracing::warn!(
                "--insecure: values and API keys are said in plaintext, for whoever is on the way to this address to read"
            );
        }
    }
}

/// Tells of each SIGHUP.
fn hangups() -> Result<Arc<Notify>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let problem = |error: std::io::Error| Failure::Other(error.to_string());
    let mut hangup = signal(SignalKind::hangup()).map_err(problem)?;
    let told = Arc::new(Notify::new());
    let tell = told.clone();
    // It ends with the process.
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tell.notify_one();
        }
    });
    Ok(told)
}
