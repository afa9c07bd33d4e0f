//! What an address asks of TLS, with libpq's words and meaning.
//!
//! | `sslmode` | what is done |
//! | --- | --- |
//! | `disable` | no TLS |
//! | `allow` | no TLS, unless the server refuses to go without |
//! | `prefer` (default) | TLS if the server has it, unchecked; without TLS if that is refused |
//! | `require` | TLS, unchecked; with a root certificate as `verify-ca` |
//! | `verify-ca` | TLS, and the server's certificate is signed by a root certificate |
//! | `verify-full` | the same, and the certificate is for the host's name or address |
//!
//! Guarantees: with `require` and above nothing but the TLS greeting is sent in the clear. Files are read anew for every
//! connection, so that renewed certificates are taken without a restart.

use std::path::PathBuf;

use super::dsn::Parts;

/// How much TLS is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Where trusted root certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Root {
    None,
    /// Those of the operating system.
    System,
    File(PathBuf),
}

/// The TLS part of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Security {
    pub(super) mode: SslMode,
    pub(super) root: Root,
    /// The client's certificate and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    /// Whether the address, and not a default, names any file.
    pub(super) names_files: bool,
}

impl SslMode {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let modes = [
            Self::Disable,
            Self::Allow,
            Self::Prefer,
            Self::Require,
            Self::VerifyCa,
            Self::VerifyFull,
        ];
        let found = modes.into_iter().find(|mode| mode.word() == text);
        found.ok_or_else(|| {
            format!(
                "sslmode must be one of {}",
                modes.map(SslMode::word).join(", ")
            )
        })
    }
}

impl Security {
    /// Reads the parameters of an address. Where they say nothing the environment does (`PGSSLMODE` and so on), then
    /// libpq's files in `~/.postgresql`.
    pub(super) fn parse(
        parts: &Parts,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let said = |name: &str| {
            let given = parts.own(name).map(str::to_owned);
            given
                .or_else(|| environment(&format!("PG{}", name.to_uppercase())))
                .filter(|text| !text.is_empty())
        };
        let root = match said("sslrootcert").as_deref() {
            None => None,
            Some("system") => Some(Root::System),
            Some(path) => Some(Root::File(path.into())),
        };
        let system = root == Some(Root::System);
        let mode = match said("sslmode") {
            Some(text) => SslMode::parse(&text)?,
            None if system => SslMode::VerifyFull,
            None => SslMode::Prefer,
        };
        if system && mode != SslMode::VerifyFull {
            return Err(format!(
                "sslmode={} is too weak for sslrootcert=system: anybody gets a certificate of a public authority; write verify-full",
                mode.word()
            ));
        }
        let (certificate, key) = (said("sslcert"), said("sslkey"));
        let names_files = root.is_some() || certificate.is_some() || key.is_some();
        let own = |name: &str| {
            let home = environment("HOME").filter(|home| !home.is_empty())?;
            let file = PathBuf::from(home).join(".postgresql").join(name);
            file.is_file().then_some(file)
        };
        let root = root.or_else(|| own("root.crt").map(Root::File));
        let identity = match (certificate, key) {
            (Some(certificate), key) => Some((
                certificate.into(),
                key.map(PathBuf::from)
                    .or_else(|| own("postgresql.key"))
                    .ok_or("sslcert needs sslkey, the file with its private key")?,
            )),
            (None, Some(_)) if own("postgresql.crt").is_none() => {
                return Err("sslkey needs sslcert, the file with its certificate".to_owned());
            }
            (None, key) => {
                let key = key.map(PathBuf::from).or_else(|| own("postgresql.key"));
                own("postgresql.crt").zip(key)
            }
        };
        let security = Self {
            mode,
            root: root.unwrap_or(Root::None),
            identity,
            names_files,
        };
        security.check()
    }

    fn check(self) -> Result<Self, String> {
        let mode = self.mode.word();
        if cfg!(not(feature = "tls")) && self.mode >= SslMode::Require {
            return Err(format!(
                "sslmode={mode} needs TLS, which this build does not have: build it with the feature `tls`, or write sslmode=disable"
            ));
        }
        if self.mode >= SslMode::VerifyCa && self.root == Root::None {
            return Err(format!(
                "sslmode={mode} needs a root certificate: name its file in sslrootcert (or put it into ~/.postgresql/root.crt)"
            ));
        }
        Ok(self)
    }

    /// Whether the server's certificate is checked at all.
    #[cfg(feature = "tls")]
    pub(super) fn checked(&self) -> bool {
        self.mode >= SslMode::VerifyCa || self.mode == SslMode::Require && self.root != Root::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(address: &str, environment: &[(&str, &str)]) -> Result<Security, String> {
        let lookup = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Security::parse(&Parts::of(address).unwrap(), &lookup)
    }

    #[test]
    fn without_a_word_tls_is_preferred() {
        let security = parsed("postgres://u@h/d", &[]).unwrap();
        assert_eq!(security.mode, SslMode::Prefer);
        assert!(security.root == Root::None && !security.names_files);
    }

    #[test]
    fn the_address_beats_the_environment() {
        let environment = [("PGSSLMODE", "disable"), ("PGSSLROOTCERT", "/ca.pem")];
        let security = parsed("postgres://u@h/d", &environment).unwrap();
        assert_eq!(security.mode, SslMode::Disable);
        assert_eq!(security.root, Root::File("/ca.pem".into()));
        let security = parsed("postgres://u@h/d?sslmode=allow", &environment).unwrap();
        assert_eq!(security.mode, SslMode::Allow);
    }

    #[test]
    fn nonsense_is_refused_by_the_parameters_name() {
        for (address, name) in [
            ("postgres://u@h/d?sslmode=hunter2", "sslmode"),
            ("postgres://u@h/d?sslmode=", "sslmode"),
            ("postgres://u@h/d?sslkey=/k", "sslcert"),
            ("postgres://u@h/d?sslcert=/c", "sslkey"),
            #[cfg(feature = "tls")]
            ("host=h sslmode=verify-ca", "sslrootcert"),
            ("host=h sslrootcert=system sslmode=prefer", "verify-full"),
        ] {
            match parsed(address, &[]) {
                // An empty word says nothing, as for libpq.
                Ok(security) => assert_eq!(security.mode, SslMode::Prefer, "{address}"),
                Err(problem) => {
                    assert!(
                        problem.contains(name) && !problem.contains("hunter2"),
                        "{problem}"
                    );
                }
            }
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn libpqs_own_files_count_where_nothing_else_is_said() {
        let home = std::env::temp_dir().join(format!("sync-config-home-{}", std::process::id()));
        std::fs::create_dir_all(home.join(".postgresql")).unwrap();
        for name in ["root.crt", "postgresql.crt", "postgresql.key"] {
            std::fs::write(home.join(".postgresql").join(name), "").unwrap();
        }
        let environment = [("HOME", home.to_str().unwrap())];
        let security = parsed("postgres://u@h/d?sslmode=require", &environment);
        let named = parsed("postgres://u@h/d?sslrootcert=/r", &environment);
        std::fs::remove_dir_all(&home).unwrap();
        let security = security.unwrap();
        assert!(security.checked() && security.identity.is_some() && !security.names_files);
        assert_eq!(security.root, Root::File(home.join(".postgresql/root.crt")));
        assert_eq!(named.unwrap().root, Root::File("/r".into()));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_root_certificate_makes_require_check() {
        let checked = |address: &str| parsed(address, &[]).unwrap().checked();
        assert!(!checked("postgres://u@h/d?sslmode=require"));
        assert!(checked("postgres://u@h/d?sslmode=require&sslrootcert=/r"));
        assert!(!checked("postgres://u@h/d?sslmode=prefer&sslrootcert=/r"));
        let system = parsed("postgres://u@h/d?sslrootcert=system", &[]).unwrap();
        assert_eq!(system.mode, SslMode::VerifyFull);
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn without_the_feature_whoever_requires_tls_is_told_which() {
        for mode in ["require", "verify-ca", "verify-full"] {
            let problem = parsed(
                &format!("postgres://u@h/d?sslmode={mode}&sslrootcert=/r"),
                &[],
            );
            assert!(problem.unwrap_err().contains("feature `tls`"));
        }
        parsed("postgres://u@h/d?sslmode=allow", &[]).unwrap();
    }
}
