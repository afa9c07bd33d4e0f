//! Connections to a server: TCP, and TLS where its address says so.
//!
//! Guarantees: a certificate is checked against the authorities of `ca_file`, else those of the system, and for the host's
//! name; no file is read on a thread that runs tasks; problems hold no key.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::{Error, Result};
use crate::settings::Address;

/// How long a server may take to accept a connection, TLS included: so that a second and a third one can be tried within
/// what a caller waits.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Makes connections.
pub(super) struct Connector {
    ca_file: Option<PathBuf>,
    /// Of the certificates, once they are read.
    tls: OnceCell<TlsConnector>,
}

/// A connection.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connector {
    pub(super) fn new(ca_file: Option<PathBuf>) -> Self {
        Self {
            ca_file,
            tls: OnceCell::new(),
        }
    }

    /// Reads the certificates; once that has worked it does nothing.
    pub(super) async fn prepare(&self) -> Result<()> {
        self.tls().await.map(drop)
    }

    async fn tls(&self) -> Result<&TlsConnector> {
        let read = || async {
            let file = self.ca_file.clone();
            let read = tokio::task::spawn_blocking(move || config(file.as_deref())).await;
            let read = read.unwrap_or_else(|_| Err("their reader ended early".to_owned()));
            let config = read.map_err(|problem| Error::refused("the certificates", problem))?;
            Ok(TlsConnector::from(Arc::new(config)))
        };
        self.tls.get_or_try_init(read).await
    }

    /// Connects; why it could not be done otherwise.
    pub(super) async fn connect(&self, address: &Address) -> Result<Stream, String> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.opened(address)).await {
            Ok(opened) => opened,
            Err(_) => Err("it does not accept a connection within 3s".to_owned()),
        }
    }

    async fn opened(&self, address: &Address) -> Result<Stream, String> {
        let place = (address.host.as_str(), address.port);
        let tcp = TcpStream::connect(place).await;
        let tcp = tcp.map_err(|error| error.to_string())?;
        // Without this a small request waits for the acknowledgement of the one before it: 40 ms.
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        if !address.secure {
            return Ok(Stream::Plain(tcp));
        }
        let tls = self.tls().await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from(address.host.clone());
        let name = name.map_err(|_| "its host is no name that TLS can carry".to_owned())?;
        match tls.connect(name, tcp).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(error) => Err(format!("TLS: {error}")),
        }
    }
}

fn config(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let found = match ca_file {
        Some(path) => certificates(path)?,
        None => {
            let found = rustls_native_certs::load_native_certs();
            if let (true, Some(error)) = (found.certs.is_empty(), found.errors.first()) {
                return Err(format!("none of the system can be read: {error}"));
            }
            found.certs
        }
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found);
    if added == 0 {
        return Err(
            "there is no authority to trust; name a file of them by the setting ca_file".to_owned(),
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let unreadable = |error| format!("setting ca_file: {shown} cannot be read: {error}");
    let found = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(unreadable)?;
    if found.is_empty() {
        return Err(format!(
            "setting ca_file: {shown} holds no certificate in PEM"
        ));
    }
    Ok(found)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Self::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}
