//! Certificates made for a test, and a PostgreSQL server that uses them.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use tokio_postgres::Client;

use super::postgres::{OwnCluster, connect};
use super::wait::{PATIENCE, eventually};

/// Who signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

/// A certificate and its key.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// A certificate's fields: a common name, and names of hosts.
fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, name.to_owned());
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let (params, key) = (authority(name), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Signs a certificate for a common name and hosts.
    pub(crate) fn sign(&self, name: &str, hosts: &[&str]) -> Identity {
        self.sign_params(&params(name, hosts))
    }

    /// Signs one that has expired.
    pub(crate) fn sign_expired(&self, name: &str, hosts: &[&str]) -> Identity {
        let mut params = params(name, hosts);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.sign_params(&params)
    }

    fn sign_params(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        Identity {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// What PostgreSQL's manual shows first: a certificate that is its own authority, with the host as its common name.
pub(crate) fn self_signed(name: &str) -> Identity {
    let key = KeyPair::generate().unwrap();
    Identity {
        certificate: authority(name).self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

/// A server of a test's own that is set up anew while it runs.
pub(crate) struct TlsServer {
    _own: OwnCluster,
    home: PathBuf,
    port: u16,
}

impl TlsServer {
    pub(crate) fn start() -> Self {
        let mut own = OwnCluster::start();
        let (home, port) = (own.server().home().to_owned(), own.server().port());
        std::fs::create_dir(home.join("client")).unwrap();
        Self {
            _own: own,
            home,
            port,
        }
    }

    /// The port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A connection by the server's socket, which no rule below is about.
    pub(crate) async fn admin(&self) -> Client {
        let home = self.home.display();
        connect(&format!("host={home} port={} user=postgres", self.port)).await
    }

    /// The server's address by a name for it, with parameters.
    pub(crate) fn url(&self, host: &str, parameters: &str) -> String {
        format!(
            "postgres://postgres@{host}:{}/postgres?{parameters}",
            self.port
        )
    }

    /// Writes a file for clients, readable by its owner only, and says where.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home.join("client").join(name);
        write(&path, text);
        path
    }

    /// Sets the server's certificate (without one it has no TLS), the authority of its clients and the rules for
    /// connections over TCP.
    pub(crate) async fn set(
        &self,
        identity: Option<&Identity>,
        clients: Option<&str>,
        rules: &str,
    ) {
        let data = self.home.join("data");
        let owner = std::fs::metadata(&data).unwrap();
        let files = [
            ("pg_hba.conf", format!("local all all trust\n{rules}\n")),
            (
                "server.crt",
                identity.map_or_else(String::new, |own| own.certificate.clone()),
            ),
            (
                "server.key",
                identity.map_or_else(String::new, |own| own.key.clone()),
            ),
            ("clients.crt", clients.unwrap_or_default().to_owned()),
        ];
        for (name, text) in files {
            let path = data.join(name);
            write(&path, &text);
            chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        let loaded = "SELECT pg_conf_load_time()::text";
        let admin = self.admin().await;
        let before: String = admin.query_one(loaded, &[]).await.unwrap().get(0);
        let ca = if clients.is_some() { "clients.crt" } else { "" };
        let on = if identity.is_some() { "on" } else { "off" };
        for sql in [
            format!("ALTER SYSTEM SET ssl_ca_file = '{ca}'"),
            format!("ALTER SYSTEM SET ssl = {on}"),
            "SELECT pg_reload_conf()".to_owned(),
        ] {
            admin.batch_execute(&sql).await.unwrap();
        }
        eventually("the server's new settings", PATIENCE, async || {
            let new = self.admin().await;
            let now: String = new.query_one(loaded, &[]).await.unwrap().get(0);
            (now != before).then_some(())
        })
        .await;
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
