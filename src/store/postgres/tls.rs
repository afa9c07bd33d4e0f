//! TLS by rustls: what an address asks for, made into a connector.
//!
//! Guarantees: no file is read on a thread that runs tasks; a key that others may read is refused; problems name the
//! parameter, the file and what to do.

use std::error::Error as StdError;
use std::fs::Metadata;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio_postgres::Socket;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::refusal::Refusal;
use super::security::{Root, Security};
use super::trust::{Anchors, Judge, Trust};

/// What is spoken over a connection: TLS, if it was agreed on.
pub(super) type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

type Inner = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;

/// Makes connectors, all of one set of files.
#[derive(Clone)]
pub(super) struct Maker {
    inner: MakeRustlsConnect,
    used: Arc<AtomicBool>,
}

impl Maker {
    /// For connections without TLS.
    pub(super) fn plain() -> Self {
        static NONE: LazyLock<MakeRustlsConnect> = LazyLock::new(|| {
            let judge = Judge::new(Trust::Nobody, provider());
            let config = ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(rustls::DEFAULT_VERSIONS);
            #[expect(
                clippy::expect_used,
                reason = "the provider is ring's, which knows these versions"
            )]
            let config = config.expect("known versions").dangerous();
            let config = config.with_custom_certificate_verifier(Arc::new(judge));
            MakeRustlsConnect::new(config.with_no_client_auth())
        });
        Self::of(NONE.clone())
    }

    /// Reads the files that an address names.
    pub(super) async fn load(security: &Security) -> Result<Self, String> {
        let security = security.clone();
        let config = tokio::task::spawn_blocking(move || config(&security)).await;
        let config = config.map_err(|_| "the certificates' reader ended early".to_owned())??;
        Ok(Self::of(MakeRustlsConnect::new(config)))
    }

    fn of(inner: MakeRustlsConnect) -> Self {
        Self {
            inner,
            used: Arc::default(),
        }
    }

    /// Whether a TLS handshake was begun.
    pub(super) fn used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }
}

impl MakeTlsConnect<Socket> for Maker {
    type Stream = Stream;
    type TlsConnect = Connector;
    type Error = Refusal;

    fn make_tls_connect(&mut self, host: &str) -> Result<Connector, Refusal> {
        // A name that TLS cannot carry is told apart only where it is used.
        let inner = MakeTlsConnect::<Socket>::make_tls_connect(&mut self.inner, host);
        Ok(Connector {
            inner: inner.map_err(|error| Refusal::new(error.to_string()))?,
            used: self.used.clone(),
        })
    }
}

/// Shakes hands on one connection.
pub(super) struct Connector {
    inner: Inner,
    used: Arc<AtomicBool>,
}

impl TlsConnect<Socket> for Connector {
    type Stream = Stream;
    type Error = <Inner as TlsConnect<Socket>>::Error;
    type Future = <Inner as TlsConnect<Socket>>::Future;

    fn connect(self, socket: Socket) -> Self::Future {
        self.used.store(true, Ordering::Relaxed);
        self.inner.connect(socket)
    }
}

/// Checks the files of an address at start, so that a wrong name is told before anything is tried.
pub(super) fn check(security: &Security) -> Result<(), String> {
    config(security).map(drop)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn config(security: &Security) -> Result<ClientConfig, String> {
    let trust = if security.checked() {
        let anchors = anchors(&security.root)?;
        match security.mode {
            super::security::SslMode::VerifyFull => Trust::ChainAndName(anchors),
            _ => Trust::Chain(anchors),
        }
    } else {
        Trust::Anybody
    };
    let judge = Arc::new(Judge::new(trust, provider()));
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(judge);
    let mut config = match &security.identity {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates("sslcert", certificate)?;
            let key = private_key(key)?;
            config
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("sslcert and sslkey do not fit together: {error}"))?
        }
    };
    // What libpq says; a server asked by sslnegotiation=direct insists on it.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    // PostgreSQL gives no tickets.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn anchors(root: &Root) -> Result<Anchors, String> {
    let found = match root {
        Root::None => return Err("no root certificate is named".to_owned()),
        Root::File(path) => certificates("sslrootcert", path)?,
        Root::System => {
            let found = rustls_native_certs::load_native_certs();
            if let (true, Some(error)) = (found.certs.is_empty(), found.errors.first()) {
                return Err(format!(
                    "sslrootcert=system: no certificate can be read: {error}"
                ));
            }
            found.certs
        }
    };
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(found.iter().cloned());
    if added == 0 {
        return Err("sslrootcert holds no usable certificate".to_owned());
    }
    Ok(Anchors {
        store,
        certificates: found,
    })
}

fn certificates(parameter: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let unreadable = |error| format!("{parameter}: {shown} cannot be read: {error}");
    let found = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(unreadable)?;
    if found.is_empty() {
        return Err(format!("{parameter}: {shown} holds no certificate in PEM"));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let shown = path.display();
    let metadata = std::fs::metadata(path);
    let metadata = metadata.map_err(|error| format!("sslkey: {shown} cannot be read: {error}"))?;
    if readable_by_others(&metadata) {
        return Err(format!(
            "sslkey: {shown} can be read by others: chmod 0600 it, or 0640 if it belongs to root"
        ));
    }
    // What cannot be understood may hold a key: it is not quoted.
    PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        rustls::pki_types::pem::Error::Io(error) => {
            format!("sslkey: {shown} cannot be read: {error}")
        }
        _ => format!("sslkey: {shown} holds no private key in PEM, or one with a passphrase, which is not supported"),
    })
}

/// libpq's rule.
#[cfg(unix)]
fn readable_by_others(metadata: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    metadata.mode() & forbidden != 0
}

#[cfg(not(unix))]
fn readable_by_others(_: &Metadata) -> bool {
    false
}

/// Says in this program's words why TLS did not come about; `None` for other errors.
pub(super) fn explain(error: &(dyn StdError + 'static)) -> Option<String> {
    let inner = error.downcast_ref::<std::io::Error>()?.get_ref()?;
    let error = inner.downcast_ref::<rustls::Error>()?;
    let why = match error {
        rustls::Error::InvalidCertificate(problem) => match problem {
            CertificateError::UnknownIssuer => {
                "the server's certificate is signed by an unknown authority, none of sslrootcert's"
                    .to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("the server's certificate is for another host name ({problem})")
            }
            // webpki's own, which rustls passes on without a name.
            other if other.to_string().contains("CaUsedAsEndEntity") => {
                "the server's certificate is that of an authority, and none of sslrootcert's"
                    .to_owned()
            }
            other => format!("the server's certificate is not accepted ({other})"),
        },
        rustls::Error::AlertReceived(alert) => {
            format!("the server ended the TLS handshake with {alert:?}")
        }
        other => other.to_string(),
    };
    Some(why)
}
