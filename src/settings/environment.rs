//! The environment's variables, and the files that some of them name.
//!
//! Guarantees: a variable that is set is used or refused. Of the values `Debug` shows nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::layers::Origin;
use super::{SPECS, Spec, names};
use crate::core::is_unseen;
use crate::error::{Error, Result};

/// A secret is a URL; 64 KiB are more than any.
const SECRET_BYTES: u64 = 64 * 1024;

/// The variables that settings are read from: `DATABASE_URL`, `LISTEN_DATABASE_URL`, both with `_FILE`, and all that begin
/// with `SYNC_CONFIG_`. Those that Kubernetes sets beside a service of this name are left alone.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

/// A setting that was given somewhere.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) name: &'static str,
    pub(super) text: String,
    pub(super) origin: Origin,
}

impl Environment {
    /// The variables of this process.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] naming a variable that is not UTF-8.
    pub fn of_process() -> Result<Self> {
        let ours = |name: &OsString| is_ours(&name.to_string_lossy());
        let mut variables = BTreeMap::new();
        for (name, value) in std::env::vars_os().filter(|(name, _)| ours(name)) {
            let name = name.to_string_lossy().into_owned();
            let Ok(value) = value.into_string() else {
                let problem = "the variable is not UTF-8";
                return Err(Error::setting(names::told(&name), "…", problem));
            };
            variables.insert(name, value);
        }
        Ok(Self { variables })
    }

    /// The given variables instead of the process's; those that are no settings' are left out.
    pub fn new<N: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let variables = variables.into_iter();
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        Self {
            variables: variables.filter(|(name, _)| is_ours(name)).collect(),
        }
    }

    /// The settings that the variables without a section give.
    pub(super) fn plain(&self) -> Result<Vec<Given>> {
        let given = SPECS
            .iter()
            .map(|spec| self.given(spec, names::variables_of(spec)));
        Ok(given
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect())
    }

    /// What one of a setting's variables gives, or the file that it names.
    pub(super) fn given(
        &self,
        spec: &Spec,
        variables: impl Iterator<Item = String>,
    ) -> Result<Option<Given>> {
        let mut found: Option<Given> = None;
        for variable in variables {
            for (variable, is_file) in forms(spec, variable) {
                let Some(value) = self.value(spec, &variable) else {
                    continue;
                };
                if let Some(earlier) = &found {
                    let both = format!("is set by {} and by {variable}; unset one", earlier.origin);
                    return Err(Error::setting(spec.name, "…", both));
                }
                let (text, origin) = if is_file {
                    let path = file_path(&variable, value)?;
                    (
                        read_secret(&variable, &path)?,
                        Origin::SecretFile {
                            path,
                            named_by: variable,
                        },
                    )
                } else {
                    (value.to_owned(), Origin::Environment(variable))
                };
                found = Some(Given {
                    name: spec.name,
                    text,
                    origin,
                });
            }
        }
        Ok(found)
    }

    /// Refuses variables that nobody reads; `known` are those of settings.
    pub(super) fn refuse_unknown(&self, known: &[String]) -> Result<()> {
        let unknown = |(name, value): &(&String, &String)| {
            !known.contains(name)
                && !names::is_of_others(name)
                && !names::is_of_cluster(name, value)
        };
        let Some((name, _)) = self.variables.iter().find(unknown) else {
            return Ok(());
        };
        let hint = names::hint(name, known.iter().map(String::as_str));
        Err(Error::placed(
            "the environment",
            format!("there is no variable {}; {hint}", names::told(name)),
        ))
    }

    /// An empty address counts as none, which is how a shell unsets one for a single command. An empty name does not: a
    /// variable that failed to be filled in must not lead to another table.
    fn value(&self, spec: &Spec, variable: &str) -> Option<&str> {
        let value = self.variables.get(variable)?;
        (!value.is_empty() || !names::is_secret(spec.name)).then_some(value)
    }
}

/// A variable of a setting, and whether it names a file that holds the value.
pub(super) fn forms(spec: &Spec, variable: String) -> impl Iterator<Item = (String, bool)> + use<> {
    let file = names::is_secret(spec.name).then(|| (format!("{variable}_FILE"), true));
    std::iter::once((variable, false)).chain(file)
}

/// Every variable without a section.
pub(super) fn plain_names() -> Vec<String> {
    let named = |spec| names::variables_of(spec).flat_map(move |variable| forms(spec, variable));
    SPECS.iter().flat_map(named).map(|(name, _)| name).collect()
}

fn is_ours(name: &str) -> bool {
    name.starts_with(names::PREFIX) || plain_names().iter().any(|plain| plain == name)
}

/// The path of a file. Paths are shown: an address in the place of one, which may hold a password, is refused.
pub(super) fn file_path(named_by: &str, text: &str) -> Result<PathBuf> {
    let path = PathBuf::from(text);
    let words = text.contains('=') && text.contains("password");
    let begins_as_one = path.is_absolute() || text.starts_with('.');
    if text.contains("://") || words || text.contains('@') && !begins_as_one {
        let problem = "must be the path of a file and looks like an address; give that as database_url (a path with an @ in it has to begin with / or ./)";
        return Err(Error::placed(named_by, problem));
    }
    Ok(path)
}

/// Reads a secret from a file: its text without the line break at the end.
pub(super) fn read_secret(named_by: &str, path: &Path) -> Result<String> {
    let wrong = |problem: String| {
        let place = format!("{named_by}: file {}", path.display());
        Err(Error::placed(place, problem))
    };
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(SECRET_BYTES + 1).read_to_string(&mut text));
    if let Err(error) = read {
        return wrong(format!("cannot be read: {error}"));
    }
    if u64::try_from(text.len()).is_ok_and(|bytes| bytes > SECRET_BYTES) {
        return wrong(format!("holds more than {SECRET_BYTES} bytes"));
    }
    if let Some(line) = text.strip_suffix('\n') {
        text.truncate(line.strip_suffix('\r').unwrap_or(line).len());
    }
    if text.is_empty() {
        return wrong("is empty".to_owned());
    }
    if text.contains(is_unseen) {
        let problem =
            "holds a control character or another that cannot be seen, or more than one line";
        return wrong(problem.to_owned());
    }
    Ok(text)
}

impl fmt::Debug for Environment {
    /// Shows which variables are set, and no value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.variables.keys().map(|name| names::told(name));
        f.debug_set().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use crate::settings::layers::Layers;

    fn layered(variables: &[(&str, &str)]) -> Result<Layers> {
        let environment = Environment::new(variables.iter().copied());
        Layers::new(Settings::default()).environment(&environment)
    }

    #[test]
    fn a_variable_that_nobody_reads_is_refused_with_the_one_that_was_meant() {
        let error = layered(&[("SYNC_CONFIG_TABLENAME", "t")]).unwrap_err();
        let said = error.to_string();
        assert!(error.is_invalid_input(), "{said}");
        assert!(
            said.contains("SYNC_CONFIG_TABLENAME") && said.contains("SYNC_CONFIG_TABLE_NAME"),
            "{said}"
        );
        layered(&[
            ("SYNC_CONFIG_TEST_SEED", "1"),
            ("SYNC_CONFIG_LISTEN", "127.0.0.1:1"),
            ("HOME", "/"),
        ])
        .unwrap();
    }

    #[test]
    fn variables_of_a_cluster_are_no_typos() {
        let cluster = [
            ("SYNC_CONFIG_SERVICE_HOST", "10.0.0.11"),
            ("SYNC_CONFIG_SERVICE_PORT", "8420"),
            ("SYNC_CONFIG_SERVICE_PORT_HTTP", "8420"),
            ("SYNC_CONFIG_PORT", "tcp://10.0.0.11:8420"),
            ("SYNC_CONFIG_PORT_8420_TCP", "tcp://10.0.0.11:8420"),
            ("SYNC_CONFIG_PORT_8420_TCP_PROTO", "tcp"),
            ("SYNC_CONFIG_CANARY_SERVICE_HOST", "10.0.0.12"),
            ("SYNC_CONFIG_CANARY_PORT_8420_TCP_ADDR", "10.0.0.12"),
        ];
        layered(&cluster).unwrap();
        for (name, value) in [
            ("SYNC_CONFIG_PORT", "8420"),
            ("SYNC_CONFIG_PORT_X", "1"),
            ("SYNC_CONFIG_HOST", "h"),
        ] {
            layered(&[(name, value)]).unwrap_err();
        }
    }

    #[test]
    fn a_setting_that_is_set_twice_is_refused_whatever_the_values() {
        for (one, other) in [
            ("DATABASE_URL", "DATABASE_URL_FILE"),
            ("LISTEN_DATABASE_URL", "LISTEN_DATABASE_URL_FILE"),
            ("SYNC_CONFIG_POLL_JITTER", "SYNC_CONFIG_JITTER_MAX"),
        ] {
            let said = layered(&[(one, "1s"), (other, "1s")])
                .unwrap_err()
                .to_string();
            assert!(said.contains(one) && said.contains(other), "{said}");
        }
        layered(&[("DATABASE_URL", ""), ("DATABASE_URL_FILE", "")]).unwrap();
        let said = layered(&[("SYNC_CONFIG_TABLE_NAME", "")]).unwrap_err();
        assert!(said.to_string().contains("0 bytes"), "{said}");
    }

    /// A file that `DATABASE_URL_FILE` names, removed with this value.
    struct SecretFile(PathBuf);

    impl SecretFile {
        fn new(name: &str) -> Self {
            let name = format!("sctest-{}-{name}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn environment(&self) -> Environment {
            Environment::new([("DATABASE_URL_FILE", self.0.display().to_string())])
        }

        /// What is made of a content.
        fn read(&self, content: &[u8]) -> Result<Layers> {
            std::fs::write(&self.0, content).unwrap();
            Layers::new(Settings::default()).environment(&self.environment())
        }
    }

    impl Drop for SecretFile {
        fn drop(&mut self) {
            drop(std::fs::remove_file(&self.0));
        }
    }

    #[test]
    fn a_secret_is_read_from_the_file_that_its_variable_names() {
        let file = SecretFile::new("secret");
        for content in [
            "postgres://u:hunter2@h/d",
            "postgres://u:hunter2@h/d\n",
            "postgres://u:hunter2@h/d\r\n",
        ] {
            let layers = file.read(content.as_bytes()).unwrap();
            assert_eq!(
                layers.settings().database_url.as_deref(),
                Some("postgres://u:hunter2@h/d")
            );
            let origin = layers.origin("database_url").unwrap();
            assert!(
                matches!(origin, Origin::SecretFile { path, named_by } if *path == file.0 && named_by == "DATABASE_URL_FILE")
            );
        }
        let shown = format!("{:?}", file.environment());
        assert!(shown.contains("DATABASE_URL_FILE"), "{shown}");
        assert!(!shown.contains("sctest"), "{shown}");
    }

    #[test]
    fn a_file_without_a_usable_secret_is_refused_by_its_name_and_its_content_not_shown() {
        let file = SecretFile::new("no-secret");
        let long = vec![b'x'; 70_000];
        for (content, problem) in [
            (&b""[..], "empty"),
            (b"\n", "empty"),
            (b"postgres://u:hunter2@h/d\n\n", "more than one line"),
            (b"hunter2\xff", "cannot be read"),
            (&long, "65536 bytes"),
        ] {
            let said = file.read(content).unwrap_err().to_string();
            assert!(
                said.contains("DATABASE_URL_FILE") && said.contains(&file.0.display().to_string()),
                "{said}"
            );
            assert!(
                said.contains(problem) && !said.contains("hunter2"),
                "{said}"
            );
        }
        let said = file.read(b"mysql://u:hunter2@h/d").unwrap_err().to_string();
        assert!(
            said.contains("DATABASE_URL_FILE")
                && said.contains("postgres://")
                && !said.contains("hunter2"),
            "{said}"
        );
        std::fs::remove_file(&file.0).unwrap();
        let gone = Layers::new(Settings::default()).environment(&file.environment());
        assert!(gone.unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn an_address_in_the_place_of_a_path_is_refused_and_not_shown() {
        for address in [
            "postgres://u:hunter2@h/d",
            "u:hunter2@h/d",
            "host=h password=hunter2",
        ] {
            for variable in ["DATABASE_URL_FILE", "LISTEN_DATABASE_URL_FILE"] {
                let error = layered(&[(variable, address)]).unwrap_err();
                let said = format!("{error}{error:?}");
                assert!(
                    error.is_invalid_input() && said.contains(variable),
                    "{said}"
                );
                assert!(said.contains("path") && !said.contains("hunter2"), "{said}");
            }
        }
        let credential = "/run/credentials/app@1.service/sctest";
        let said = layered(&[("DATABASE_URL_FILE", credential)]).unwrap_err();
        assert!(said.to_string().contains(credential), "{said}");
    }
}
