//! Which store a URL names: the one place where its scheme is looked at.
//!
//! Guarantees: what a build has no adapter for is refused by the name of the feature that it lacks, before anything is opened.

use std::path::PathBuf;

#[cfg(feature = "remote")]
use super::Address;
use super::{HIDDEN, Settings, servers, url};
use crate::core::is_unseen;
use crate::error::{Error, Result};

/// What the URL of an SQLite file begins with.
const SQLITE: &str = "sqlite:";

/// A store, as its URL names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreUrl {
    /// A PostgreSQL database. What the URL says is its driver's to read.
    Postgres,
    /// An SQLite file.
    #[cfg(feature = "sqlite")]
    Sqlite(PathBuf),
    /// Servers of this program.
    #[cfg(feature = "remote")]
    Remote(Vec<Address>),
}

/// Whether a text names servers by their scheme.
fn is_remote(text: &str) -> bool {
    let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
    scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http")
}

impl StoreUrl {
    /// Reads the URL that a setting holds.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        match text.strip_prefix(SQLITE) {
            Some(place) => {
                let path = path(place).map_err(|problem| {
                    let form = "write sqlite:/path/of/file.db, or sqlite:file.db for one in the working directory";
                    Error::setting(name, HIDDEN, format!("{problem}; {form}"))
                })?;
                sqlite(name, path)
            }
            None if is_remote(text) => remote(name, text),
            None => url::check(name, text).map(|()| Self::Postgres),
        }
    }
}

impl Settings {
    /// The store that these settings name, if they name one.
    pub(crate) fn store_url(&self) -> Result<Option<StoreUrl>> {
        let text = self.database_url.as_deref();
        text.map(|text| StoreUrl::parse("database_url", text))
            .transpose()
    }

    /// Checks both addresses, and that they go together.
    pub(super) fn check_urls(&self) -> Result<()> {
        let store = self.store_url()?;
        let Some(listen) = &self.listen_database_url else {
            return Ok(());
        };
        let refused = |problem| Err(Error::setting("listen_database_url", HIDDEN, problem));
        if listen.starts_with(SQLITE) {
            return refused(
                "is for the listening session of PostgreSQL, and an SQLite file needs none; give the file as database_url alone",
            );
        }
        url::check("listen_database_url", listen)?;
        match store {
            None | Some(StoreUrl::Postgres) => Ok(()),
            #[cfg(feature = "sqlite")]
            Some(StoreUrl::Sqlite(_)) => refused(
                "is for the listening session of PostgreSQL, and database_url names an SQLite file; unset it",
            ),
            #[cfg(feature = "remote")]
            Some(StoreUrl::Remote(_)) => refused(
                "is for the listening session of PostgreSQL, and database_url names a server; unset it",
            ),
        }
    }
}

/// The URL without what may be a password in it; the whole of what is not understood.
pub(super) fn redacted(text: &str) -> String {
    match text.strip_prefix(SQLITE) {
        // A path holds no password, and one that does is refused for its form.
        Some(place) if path(place).is_ok() => text.to_owned(),
        Some(_) => HIDDEN.to_owned(),
        None if is_remote(text) => match servers::parse(text) {
            Ok(_) => text.to_owned(),
            Err(_) => HIDDEN.to_owned(),
        },
        None => url::redacted(text),
    }
}

#[cfg(feature = "sqlite")]
#[expect(clippy::unnecessary_wraps, reason = "other builds refuse it")]
fn sqlite(_: &str, path: PathBuf) -> Result<StoreUrl> {
    Ok(StoreUrl::Sqlite(path))
}

#[cfg(not(feature = "sqlite"))]
fn sqlite(name: &str, _: PathBuf) -> Result<StoreUrl> {
    let problem = "names an SQLite file, and this build is without the feature `sqlite`; build with `--features sqlite`";
    Err(Error::setting(name, HIDDEN, problem))
}

#[cfg(feature = "remote")]
fn remote(name: &str, text: &str) -> Result<StoreUrl> {
    read_servers(name, text).map(StoreUrl::Remote)
}

/// Reads a list of servers.
#[cfg(feature = "remote")]
pub(crate) fn read_servers(name: &str, text: &str) -> Result<Vec<Address>> {
    servers::parse(text).map_err(|problem| {
        let form = "write https://host:port, and a comma between two";
        Error::setting(name, HIDDEN, format!("{problem}; {form}"))
    })
}

#[cfg(not(feature = "remote"))]
fn remote(name: &str, _: &str) -> Result<StoreUrl> {
    let problem = "names a server, and this build is without the feature `remote`; build with `--features remote`";
    Err(Error::setting(name, HIDDEN, problem))
}

/// The path behind `sqlite:`, percent-encoded where a character would mean something else.
fn path(place: &str) -> std::result::Result<PathBuf, &'static str> {
    let written = match place.strip_prefix("//") {
        Some(rest) if !rest.starts_with('/') => {
            return Err("holds a host, and a file is on this machine");
        }
        Some(rest) => rest,
        None => place,
    };
    if written.contains("://") || written.contains(is_unseen) {
        return Err("holds no path, but an address or characters that cannot be seen");
    }
    if written.contains(['?', '#']) {
        return Err("takes no parameters; write a ? in the path as %3F and a # as %23");
    }
    if !url::is_encoded(written) {
        return Err(
            "holds a % that is not followed by two hexadecimal digits of UTF-8; write % itself as %25",
        );
    }
    let decoded = percent_encoding::percent_decode_str(written).decode_utf8_lossy();
    if decoded.contains(is_unseen) {
        return Err("holds a character that cannot be seen");
    }
    if decoded == ":memory:" {
        return Err("is of a store in memory, which no other process could see");
    }
    if decoded.starts_with("~/") {
        return Err("begins with ~, which only a shell replaces; write the whole path");
    }
    let path = PathBuf::from(&*decoded);
    match path.file_name() {
        Some(_) if !decoded.ends_with('/') => Ok(path),
        _ => Err("names no file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_by_its_path_and_nothing_else_is_taken_for_one() {
        for (text, expected) in [
            ("sqlite:/var/lib/a.db", "/var/lib/a.db"),
            ("sqlite:///var/lib/a.db", "/var/lib/a.db"),
            ("sqlite:a.db", "a.db"),
            ("sqlite:../b/a b%3F.db", "../b/a b?.db"),
        ] {
            let place = text.strip_prefix(SQLITE).unwrap();
            assert_eq!(path(place), Ok(expected.into()), "{text}");
            assert_eq!(redacted(text), text);
        }
        for (text, problem) in [
            ("sqlite:", "names no file"),
            ("sqlite:/var/lib/", "names no file"),
            ("sqlite:/var/..", "names no file"),
            ("sqlite://u:hunter2@h/a.db", "host"),
            ("sqlite::memory:", "memory"),
            ("sqlite:~/a.db", "whole path"),
            ("sqlite:a.db?password=hunter2", "%3F"),
            ("sqlite:a%zz.db", "%25"),
            ("sqlite:a%0a.db", "seen"),
            ("sqlite:a\n.db", "seen"),
            ("sqlite:postgres://u:hunter2@h/d", "address"),
        ] {
            let error = StoreUrl::parse("database_url", text).unwrap_err();
            let said = error.to_string();
            assert!(
                error.is_invalid_input() && said.contains("database_url"),
                "{said}"
            );
            assert!(
                said.contains(problem) && !said.contains("hunter"),
                "{text}: {said}"
            );
            assert_eq!(redacted(text), HIDDEN);
        }
    }

    #[test]
    fn a_database_is_named_by_either_scheme_or_by_words() {
        for text in ["postgres://u@h/d", "postgresql://u@h/d", "host=h user=u"] {
            let parsed = StoreUrl::parse("database_url", text);
            assert_eq!(parsed.unwrap(), StoreUrl::Postgres);
        }
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn a_file_has_no_listening_session() {
        let refused = |database: &str, listen: &str| {
            let settings = Settings::new(database).listen_database_url(listen);
            settings.check().unwrap_err().to_string()
        };
        let said = refused("sqlite:a.db", "postgres://u:hunter2@h/d");
        assert!(
            said.contains("listen_database_url") && said.contains("unset"),
            "{said}"
        );
        for database in ["sqlite:a.db", "postgres://u:hunter2@h/d"] {
            let said = refused(database, "sqlite:a.db");
            assert!(said.contains("database_url alone"), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
        Settings::new("sqlite:a.db").check().unwrap();
    }

    #[cfg(not(feature = "sqlite"))]
    #[test]
    fn a_build_without_an_adapter_says_which_feature_it_lacks() {
        let error = Settings::new("sqlite:a.db").check().unwrap_err();
        assert!(error.to_string().contains("feature `sqlite`"), "{error}");
    }
}
