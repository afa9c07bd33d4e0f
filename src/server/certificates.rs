//! The server's own certificate, renewed while it serves.
//!
//! Guarantees: files that change are read again within two seconds, or at once when asked for; connections that are open go on
//! under the certificate that they began with; files that will not do leave the old certificate in place, and the log says why.

use std::fmt;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at: a look costs two questions to the file system.
const LOOK: Duration = Duration::from_secs(1);

/// The only protocol that is spoken.
const ALPN: &[u8] = b"http/1.1";

/// A certificate with its chain and its key, in PEM files.
pub(crate) struct Certificates {
    files: Files,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    acceptor: TlsAcceptor,
    /// The files as they were before they were first read: what changes from then on is read again.
    first: Stamp,
    /// Asks for the files to be read now.
    again: Arc<Notify>,
}

#[derive(Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// What tells a file from the one that stood there before.
type Stamp = Option<[(u64, Option<std::time::SystemTime>, u64); 2]>;

/// What new connections are shown.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// When one cannot be read or does not hold what it should, or the key is another certificate's; the text names the file.
    pub(crate) fn load(
        certificate: PathBuf,
        key: PathBuf,
        again: Arc<Notify>,
    ) -> Result<Self, String> {
        let files = Files { certificate, key };
        let provider = Arc::new(ring::default_provider());
        let first = files.stamp();
        let current = files.read(&provider)?;
        let current = Arc::new(Current(ArcSwap::from_pointee(current)));
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS: {error}"))?;
        let mut config = config
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            files,
            provider,
            current,
            acceptor: Arc::new(config).into(),
            first,
            again,
        })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// Reads the files again whenever they change, until it is dropped.
    pub(super) async fn tend(&self) {
        let mut known = self.first;
        loop {
            let asked = tokio::time::timeout(LOOK, self.again.notified())
                .await
                .is_ok();
            let now = self.stamp().await;
            if asked || now != known {
                known = now;
                self.renew().await;
            }
        }
    }

    async fn stamp(&self) -> Stamp {
        let files = self.files.clone();
        let looked = tokio::task::spawn_blocking(move || files.stamp());
        looked.await.ok().flatten()
    }

    async fn renew(&self) {
        let (files, provider) = (self.files.clone(), self.provider.clone());
        let read = tokio::task::spawn_blocking(move || files.read(&provider)).await;
        match read {
            Ok(Ok(renewed)) => {
                self.current.0.store(Arc::new(renewed));
                tracing::info!("the server's certificate was read again");
            }
            Ok(Err(problem)) => {
                tracing::error!(
                    problem,
                    "the server's new certificate will not do; the old one is kept"
                );
            }
            Err(error) => tracing::error!(%error, "the server's certificate was not read"),
        }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (certificate, key) = (&self.files.certificate, &self.files.key);
        write!(f, "Certificates({certificate:?}, {key:?})")
    }
}

impl Files {
    fn stamp(&self) -> Stamp {
        Some([stamp(&self.certificate)?, stamp(&self.key)?])
    }

    fn read(&self, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
        let chain = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| problem(&self.certificate, &error))?;
        if chain.is_empty() {
            return Err(problem(&self.certificate, &PemError::NoItemsFound));
        }
        let key =
            PrivateKeyDer::from_pem_file(&self.key).map_err(|error| problem(&self.key, &error))?;
        // It also looks whether the one belongs to the other.
        CertifiedKey::from_der(chain, key, provider).map_err(|error| {
            let (certificate, key) = (self.certificate.display(), self.key.display());
            format!("the certificate {certificate} and the key {key}: {error}")
        })
    }
}

/// Says what is wrong with a file, and nothing of what it holds.
fn problem(path: &Path, error: &PemError) -> String {
    let told = match error {
        PemError::Io(error) => format!("cannot be read: {error}"),
        PemError::NoItemsFound => "holds no such thing in PEM".to_owned(),
        _ => "is no PEM".to_owned(),
    };
    format!("the file {} {told}", path.display())
}

fn stamp(path: &Path) -> Option<(u64, Option<std::time::SystemTime>, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok(), number(&metadata)))
}

/// A file that was put in another's place may be as long and as old.
#[cfg(unix)]
fn number(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn number(_metadata: &Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tokio::time::{sleep, timeout};

    use super::*;

    /// A new certificate in the files, as it is shown to clients.
    fn renew(files: [&Path; 2]) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(files[0], certificate.pem()).unwrap();
        std::fs::write(files[1], key.serialize_pem()).unwrap();
        certificate.der().to_vec()
    }

    #[tokio::test]
    async fn a_certificate_that_is_renewed_before_the_server_serves_is_shown() {
        let name = format!("sync-config-certificates-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let (certificate, key) = (dir.join("server.pem"), dir.join("server.key"));
        renew([&certificate, &key]);
        let again = Arc::new(Notify::new());
        let loaded = Certificates::load(certificate.clone(), key.clone(), again).unwrap();
        // What a start waits for meanwhile, a database for instance, may take its time.
        let newest = renew([&certificate, &key]);
        let shown = async {
            while loaded.current.0.load().cert[0].as_ref() != newest {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let ended = timeout(Duration::from_secs(20), async {
            tokio::select! {
                () = shown => true,
                () = loaded.tend() => false,
            }
        });
        assert_eq!(ended.await, Ok(true));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
