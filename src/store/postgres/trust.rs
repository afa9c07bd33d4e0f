//! Whether a server's certificate is to be trusted, as libpq sees it.
//!
//! rustls is stricter in two things that PostgreSQL's own manual leads into: a self-signed certificate that serves as its
//! own root, and a host's name that stands in the subject's common name alone. Both are taken here; everything else is
//! rustls's judgement.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;

const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Whom to trust.
#[derive(Debug)]
pub(super) enum Trust {
    /// No server, since none is to be asked for a certificate.
    Nobody,
    /// Every server: what is sent is secret, but who receives it is not known.
    Anybody,
    /// Who has a certificate of an authority.
    Chain(Anchors),
    /// Who has one for the host's name, too.
    ChainAndName(Anchors),
}

/// The root certificates.
#[derive(Debug)]
pub(super) struct Anchors {
    pub(super) store: RootCertStore,
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

#[derive(Debug)]
pub(super) struct Judge {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl Judge {
    pub(super) fn new(trust: Trust, provider: Arc<CryptoProvider>) -> Self {
        Self { trust, provider }
    }

    /// Whether the peer has to show that the certificate is its own. Where anybody is trusted that proves nothing, and
    /// would refuse old certificates.
    fn proof_needed(&self) -> bool {
        !matches!(self.trust, Trust::Anybody)
    }

    fn chain(
        &self,
        anchors: &Anchors,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let itself = |root: &CertificateDer<'_>| root.as_ref() == certificate.as_ref();
        if anchors.certificates.iter().any(itself) {
            return valid_at(certificate, now);
        }
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(certificate)?,
            &anchors.store,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::Nobody => return Err(CertificateError::UnknownIssuer.into()),
            Trust::Anybody => {}
            Trust::Chain(anchors) => self.chain(anchors, certificate, intermediates, now)?,
            Trust::ChainAndName(anchors) => {
                self.chain(anchors, certificate, intermediates, now)?;
                is_for(certificate, host)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !self.proof_needed() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !self.proof_needed() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn parsed(certificate: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

fn valid_at(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let validity = parsed(certificate)?.tbs_certificate.validity;
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Whether a certificate is for a host: by its alternative names, or where it has none by its common name.
fn is_for(certificate: &CertificateDer<'_>, host: &ServerName<'_>) -> Result<(), Error> {
    let refused = match verify_server_name(&ParsedCertificate::try_from(certificate)?, host) {
        Ok(()) => return Ok(()),
        Err(refused) => refused,
    };
    let fields = parsed(certificate)?.tbs_certificate;
    let extensions = fields.extensions.iter().flatten();
    if extensions
        .into_iter()
        .any(|extension| extension.extn_id == SUBJECT_ALT_NAME)
    {
        return Err(refused);
    }
    let mut attributes = fields.subject.0.iter().flat_map(|set| set.0.iter());
    let name = attributes.find(|attribute| attribute.oid == COMMON_NAME);
    let name = name.and_then(|name| std::str::from_utf8(name.value.value()).ok());
    match name {
        Some(name) if covers(name, &host.to_str(), matches!(host, ServerName::DnsName(_))) => {
            Ok(())
        }
        _ => Err(refused),
    }
}

/// Whether a certificate's name covers a host's; a star stands for one label, the first.
fn covers(name: &str, host: &str, stars: bool) -> bool {
    match name.strip_prefix("*.") {
        Some(domain) if stars => host
            .split_once('.')
            .is_some_and(|(first, rest)| !first.is_empty() && rest.eq_ignore_ascii_case(domain)),
        _ => name.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_label() {
        assert!(covers("DB.example.org", "db.example.org", true));
        assert!(covers("*.example.org", "db.example.org", true));
        assert!(!covers("*.example.org", "a.db.example.org", true));
        assert!(!covers("*.example.org", "example.org", true));
        assert!(!covers("*.0.0.1", "127.0.0.1", false));
        assert!(covers("127.0.0.1", "127.0.0.1", false));
    }
}
