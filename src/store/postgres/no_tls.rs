//! Without the feature `tls`: every connection is plain, and an address that requires more was refused before.

use std::error::Error as StdError;

use tokio_postgres::tls::{MakeTlsConnect, NoTlsError, NoTlsStream};
use tokio_postgres::{NoTls, Socket};

use super::security::Security;

/// What is spoken over a connection.
pub(super) type Stream = NoTlsStream;

/// Makes connectors that are never used.
#[derive(Clone)]
pub(super) struct Maker;

impl Maker {
    /// For connections without TLS.
    pub(super) fn plain() -> Self {
        Self
    }

    /// For connections without TLS, too.
    #[expect(clippy::unused_async, reason = "with TLS it reads files")]
    pub(super) async fn load(_: &Security) -> Result<Self, String> {
        Ok(Self)
    }

    /// Whether a TLS handshake was begun.
    pub(super) fn used(&self) -> bool {
        false
    }
}

impl MakeTlsConnect<Socket> for Maker {
    type Stream = NoTlsStream;
    type TlsConnect = NoTls;
    type Error = NoTlsError;

    fn make_tls_connect(&mut self, host: &str) -> Result<NoTls, NoTlsError> {
        MakeTlsConnect::<Socket>::make_tls_connect(&mut NoTls, host)
    }
}

/// There are no files to check.
pub(super) fn check(_: &Security) -> Result<(), String> {
    Ok(())
}

/// No error is TLS's.
pub(super) fn explain(_: &(dyn StdError + 'static)) -> Option<String> {
    None
}
