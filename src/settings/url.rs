//! The form of database URLs: what is refused before a driver sees it, and how one is shown.
//!
//! Guarantees: neither an error nor [`redacted`] holds a password, whatever the text; what is not understood is not shown.

use super::HIDDEN;
use super::written::{self, Url};
use crate::core::is_unseen;
use crate::error::{Error, Result};

/// How an address is written.
const FORM: &str = "write postgres://user@host:5432/database, or sqlite:/path/of/file.db";

/// The parameters whose values are shown: none of them can hold a secret.
const SHOWN: [&str; 14] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "load_balance_hosts",
    "port",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
    "user",
];

/// The parts of a URL as they are written, percent-encoded.
struct Parts<'a> {
    postgres: bool,
    scheme: &'a str,
    user: Option<&'a str>,
    password: Option<&'a str>,
    hosts: &'a str,
    database: Option<&'a str>,
    parameters: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// The parts of a URL; `None` for `name=value` words.
    fn cut(text: &'a str) -> Option<Self> {
        let url = Url::cut(text)?;
        let (user, password) = match url.credentials.map(|text| text.split_once(':')) {
            Some(Some((user, password))) => (Some(user), Some(password)),
            _ => (url.credentials, None),
        };
        let (hosts, database) = match url.place.split_once('/') {
            Some((hosts, database)) => (hosts, Some(database)),
            None => (url.place, None),
        };
        Some(Self {
            postgres: url.is_postgres(),
            scheme: url.scheme,
            user,
            password,
            hosts,
            database,
            parameters: url.query,
        })
    }

    /// What is wrong with them, without a part of them.
    fn problem(&self) -> Option<&'static str> {
        if !self.postgres {
            return Some("must begin with postgres:// or postgresql://");
        }
        let written = [
            self.user,
            self.password,
            Some(self.hosts),
            self.database,
            self.parameters,
        ];
        if written.iter().flatten().any(|part| !is_encoded(part)) {
            return Some(
                "holds a % that is not followed by two hexadecimal digits of UTF-8; write % itself as %25",
            );
        }
        let control = |part: &&str| part.contains(is_unseen);
        let blank = |part: &&str| part.contains(char::is_whitespace);
        if written.iter().flatten().any(control) || written[..4].iter().flatten().any(blank) {
            return Some(
                "holds a blank, a control character or another that cannot be seen; write it percent-encoded, a blank as %20",
            );
        }
        // It may end a password with a / or a ? in it, of which a part would be taken for hosts and database.
        let behind = [Some(self.hosts), self.database, self.parameters];
        if behind.iter().flatten().any(|part| part.contains('@')) {
            return Some(
                "holds an @ behind the one that ends user and password; write those within as %40, a / as %2F, a ? as %3F",
            );
        }
        if !self.hosts.split(',').all(is_host) {
            return Some(
                "holds no host and port as in localhost:5432 or [::1]:5432; a port is from 1 to 65535",
            );
        }
        if self
            .parameters
            .is_some_and(|text| !text.is_empty() && !text.split('&').all(|pair| pair.contains('=')))
        {
            return Some(
                "holds a parameter without a value after its ?; write name=value, and & between two",
            );
        }
        None
    }

    fn redacted(&self) -> String {
        let mut text = format!("{}://", self.scheme);
        if let Some(user) = self.user {
            text += user;
            if self.password.is_some() {
                text += ":";
                text += HIDDEN;
            }
            text += "@";
        }
        text += self.hosts;
        if let Some(database) = self.database {
            text += "/";
            text += database;
        }
        if let Some(parameters) = self.parameters {
            let pairs: Vec<String> = parameters.split('&').map(shown_pair).collect();
            text += "?";
            text += &pairs.join("&");
        }
        text
    }
}

/// Refuses a text that is no address of a database, as far as its form tells.
pub(super) fn check(name: &str, text: &str) -> Result<()> {
    let problem = if text.trim().is_empty() {
        Some("is empty")
    } else if let Some(parts) = Parts::cut(text) {
        parts.problem()
    } else if text.contains('=') {
        // `host=… user=…`: the driver knows its form.
        text.contains(is_unseen)
            .then_some("holds a control character or another that cannot be seen")
    } else {
        Some("is no address of a database")
    };
    match problem {
        Some(problem) => Err(Error::setting(name, HIDDEN, format!("{problem}; {FORM}"))),
        None => Ok(()),
    }
}

/// An address with user and host, without a password.
pub(super) fn redacted(text: &str) -> String {
    if check("", text).is_err() {
        return HIDDEN.to_owned();
    }
    match Parts::cut(text) {
        Some(parts) => parts.redacted(),
        None => redacted_words(text).unwrap_or_else(|| HIDDEN.to_owned()),
    }
}

/// `host=h password=p` with `…` for whatever may be a secret. `None` for what is not written like that.
fn redacted_words(text: &str) -> Option<String> {
    let words = written::words(text).ok()?;
    let words = words
        .iter()
        .map(|word| shown_pair(&format!("{}={}", word.name, word.written)));
    Some(words.collect::<Vec<_>>().join(" "))
}

fn shown_pair(pair: &str) -> String {
    match pair.split_once('=') {
        Some((name, _)) if SHOWN.contains(&name) => pair.to_owned(),
        Some((name, _))
            if name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_') =>
        {
            format!("{name}={HIDDEN}")
        }
        _ => HIDDEN.to_owned(),
    }
}

/// `name`, `name:5432`, `[::1]` or `[::1]:5432`. A URL without a host is left to the driver: parameters may name one.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((host, port)) = rest.split_once(']') else {
                return false;
            };
            // What follows a % is the zone, as in fe80::1%25eth0.
            let address = host.split('%').next().unwrap_or(host);
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match port.strip_prefix(':') {
                Some(port) => ("", Some(port)),
                None if port.is_empty() => ("", None),
                None => return false,
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let named = host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._%~+".contains(&byte));
    let port = port.is_none_or(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    named && port
}

/// Whether each `%` begins two hexadecimal digits, and the bytes they stand for are UTF-8.
pub(super) fn is_encoded(text: &str) -> bool {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |at: usize| char::from(*after.get(at).unwrap_or(&b' ')).to_digit(16);
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return false;
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or(u8::MAX));
        rest = &after[2..];
    }
    std::str::from_utf8(&bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_addresses_are_refused_by_name_and_never_shown() {
        for (text, problem) in [
            ("", "empty"),
            ("  ", "empty"),
            ("hunter2", "no address"),
            ("//u:hunter2@h/d", "no address"),
            ("u:hunter2@h/d", "no address"),
            ("http://u:hunter2@h/d", "postgres://"),
            ("mysql://u:hunter2@h/d", "postgres://"),
            ("POSTGRES://u:hunter2@h/d", "postgres://"),
            ("://u:hunter2@h/d", "postgres://"),
            ("postgres ://u:hunter2@h/d", "postgres://"),
            ("postgres://u:hunter2@h:port/d", "65535"),
            ("postgres://u:hunter2@h:/d", "65535"),
            ("postgres://u:hunter2@h:0/d", "65535"),
            ("postgres://u:hunter2@h:65536/d", "65535"),
            ("postgres://u:hunter2@h:+1/d", "65535"),
            ("postgres://u:hunter2@h:1:2/d", "65535"),
            ("postgres://u:hunter2@höst/d", "host"),
            ("postgres://u:hunter2@[::1/d", "[::1]"),
            ("postgres://u:hunter2@[]/d", "[::1]"),
            ("postgres://u:hunter2@[::g]/d", "[::1]"),
            ("postgres://u:hunter2@[::1]x/d", "[::1]"),
            ("postgres://u:hunter2@::1/d", "[::1]"),
            ("postgres://u:hunter2@h,[::1/d", "[::1]"),
            ("postgres://u:hunter2%@h/d", "%25"),
            ("postgres://u:hunter2%zz@h/d", "%25"),
            ("postgres://u:hunter2%ff@h/d", "%25"),
            ("postgres://u:hunter2@h/%e4", "%25"),
            ("postgres://u:hunter2@h o/d", "%20"),
            ("postgres://u:hunter 2@h/d", "%20"),
            ("postgres://u:hunter2@h/d\n", "%20"),
            ("postgres://u:hun@ter2@h/d", "%40"),
            ("postgres://u:hun@hunter/2@h/d", "%40"),
            ("postgres://u:1/hunter2?x=y@h/d", "%40"),
            ("postgres://u@h/d?user=hunter@h", "%40"),
            ("postgres://u:hunter2@h/d?sslmode", "name=value"),
            ("postgres://u:hunter2@h/d?&", "name=value"),
            ("host=h password=hunter2\u{7}", "control"),
        ] {
            let error = check("database_url", text).unwrap_err();
            let said = error.to_string();
            assert!(
                error.is_invalid_input() && said.contains("database_url"),
                "{said}"
            );
            assert!(
                said.contains(problem) && !said.contains("hunter"),
                "{text}: {said}"
            );
            assert_eq!(redacted(text), HIDDEN, "{text}");
        }
    }

    #[test]
    fn an_address_is_shown_without_its_password() {
        for (text, shown) in [
            ("postgres://u:hunter2@h:5433/d", "postgres://u:…@h:5433/d"),
            ("postgresql://u@h/d", "postgresql://u@h/d"),
            ("postgres://u:hunter2@h/d?", "postgres://u:…@h/d?…"),
            (
                "postgres://u:hunter2?x@[::1]:5/d",
                "postgres://u:…@[::1]:5/d",
            ),
            (
                "postgres://u:hunter2@a:1,b:2/d?sslmode=disable&password=hunter2&connect_timeout=3",
                "postgres://u:…@a:1,b:2/d?sslmode=disable&password=…&connect_timeout=3",
            ),
            ("postgres://u@h/d?hunter2=x", "postgres://u@h/d?…"),
            (
                "postgres://u@h/d?options=-c%20x%3Dhunter2",
                "postgres://u@h/d?options=…",
            ),
            (
                "postgres:///d?host=/tmp&user=u",
                "postgres:///d?host=/tmp&user=u",
            ),
            (
                "postgres://u:hunter2@[fe80::1%25eth0]:1,my_db/d",
                "postgres://u:…@[fe80::1%25eth0]:1,my_db/d",
            ),
            (
                "postgres://u:hunter2@%2Ftmp%2Fhunter/d",
                "postgres://u:…@%2Ftmp%2Fhunter/d",
            ),
            ("postgres://ü:hünter2@h/d", "postgres://ü:…@h/d"),
            (
                "host=h user=u password=hunter2 dbname=d",
                "host=h user=u password=… dbname=d",
            ),
            (
                "host=h password = 'hun\\'ter 2' user=u",
                "host=h password=… user=u",
            ),
            (
                "postgres://h/d?user=a&options=-c a=hunter2",
                "postgres://h/d?user=a&options=…",
            ),
            ("host=h password=hunter2://x", "host=h password=…"),
            ("host=h passwd=hunter2", "host=h passwd=…"),
            ("host=h password='hunter2", "…"),
            ("host=h hunter2", "…"),
        ] {
            check("database_url", text).unwrap();
            assert_eq!(redacted(text), shown, "{text}");
        }
    }
}
