//! The parameters of an address, whichever way it is written, sorted without being shown.
//!
//! Guarantees: what tokio-postgres parses is handed on as it was written; what it does not know, or means otherwise than
//! libpq, is taken out before, and of what is said twice the last one counts. Problems name a parameter, never a value.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::settings::written::{Url, Word, words};

/// Parameters that are honoured by this program itself.
const OWN: [&str; 6] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "target_session_attrs",
    // In milliseconds, which tokio-postgres takes for seconds.
    "tcp_user_timeout",
];

/// Parameters that tokio-postgres takes as they are.
const PASSED_ON: [&str; 16] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "channel_binding",
    "load_balance_hosts",
];

/// Parameters of libpq that ask for what happens anyway, with the values that do.
const WITHOUT_EFFECT: [(&str, &[&str]); 5] = [
    ("gssencmode", &["disable", "prefer"]),
    ("sslcompression", &["0"]),
    ("sslsni", &["1"]),
    (
        "client_encoding",
        &["utf8", "UTF8", "utf-8", "UTF-8", "auto"],
    ),
    ("replication", &["false", "off", "no", "0"]),
];

/// What stays as it is in a URL's value.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// What tokio-postgres is told, each name once.
type Passed = Vec<(String, String)>;

/// An address in two parts.
#[derive(Default)]
pub(super) struct Parts {
    /// What tokio-postgres parses.
    pub(super) rest: String,
    own: Vec<(String, String)>,
}

impl Parts {
    /// Takes an address apart.
    pub(super) fn of(address: &str) -> Result<Self, String> {
        let mut parts = Self::default();
        let mut passed = Vec::new();
        match Url::cut(address).filter(Url::is_postgres) {
            Some(url) => {
                for (name, value) in query_words(url.query.unwrap_or_default())? {
                    parts.sort(name, value, &mut passed)?;
                }
                let place = place_beside(url.place, &mut passed)?;
                parts.rest = match url.credentials {
                    Some(credentials) => format!("postgres://{credentials}@{place}"),
                    None => format!("postgres://{place}"),
                };
                let mut mark = '?';
                for (name, value) in passed {
                    // tokio-postgres takes one host at a time here.
                    let several = if name == "host" { ',' } else { '\0' };
                    for value in value.split(several) {
                        let value = utf8_percent_encode(value, PLAIN);
                        parts.rest += &format!("{mark}{name}={value}");
                        mark = '&';
                    }
                }
            }
            None => {
                for Word { name, value, .. } in words(address)? {
                    parts.sort(name.to_owned(), value, &mut passed)?;
                }
                for (name, value) in passed {
                    let value = value.replace('\\', "\\\\").replace('\'', "\\'");
                    parts.rest += &format!("{name}='{value}' ");
                }
            }
        }
        Ok(parts)
    }

    /// The value of a parameter that was taken out; the last one counts, as for libpq.
    pub(super) fn own(&self, name: &str) -> Option<&str> {
        let mut found = self.own.iter().rev().filter(|(own, _)| own == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// Keeps what is ours, drops what has no effect, and puts what is to be handed on in the place of an earlier one of its
    /// name: tokio-postgres would try the hosts of both.
    fn sort(&mut self, name: String, value: String, passed: &mut Passed) -> Result<(), String> {
        if OWN.contains(&name.as_str()) {
            self.own.push((name, value));
            return Ok(());
        }
        let name = match name.as_str() {
            "keepalives_count" => "keepalives_retries".to_owned(),
            _ => name,
        };
        if PASSED_ON.contains(&name.as_str()) {
            passed.retain(|(earlier, _)| *earlier != name);
            passed.push((name, value));
            return Ok(());
        }
        for (known, values) in WITHOUT_EFFECT {
            if name == known {
                return match values.contains(&value.as_str()) {
                    true => Ok(()),
                    false => Err(format!("{name}: only {} is supported", values.join(", "))),
                };
            }
        }
        // A name that looks like none may be a piece of a password.
        let a_name = name.len() <= 32
            && (name.bytes()).all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            && (name.contains('_') || name.starts_with("ssl") || name.starts_with("gss"));
        match a_name {
            true => Err(format!("the parameter {name} is not supported")),
            false => Err("it holds a parameter that is not known; percent-encode special characters, as in %40 for @".to_owned()),
        }
    }
}

/// Hosts and database of a URL. Where a parameter names hosts or ports those of the URL do not count, as for libpq: then
/// what is left of them is told by parameters too.
fn place_beside(place: &str, passed: &mut Passed) -> Result<String, String> {
    let given = |wanted: &str| passed.iter().any(|(name, _)| name == wanted);
    let (hosts_given, ports_given) = (given("host"), given("port"));
    if !hosts_given && !ports_given {
        return Ok(place.to_owned());
    }
    let (written, database) = place.split_at(place.find('/').unwrap_or(place.len()));
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for one in written.split(',') {
        let (host, port) = match one.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => match one.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (one, None),
            },
        };
        hosts.push(decoded(host)?);
        ports.push(decoded(port.unwrap_or_default())?);
    }
    if !hosts_given && !written.is_empty() {
        passed.push(("host".to_owned(), hosts.join(",")));
    }
    if !ports_given && ports.iter().any(|port| !port.is_empty()) {
        passed.push(("port".to_owned(), ports.join(",")));
    }
    Ok(database.to_owned())
}

fn decoded(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(std::borrow::Cow::into_owned)
        .map_err(|_| "a parameter is not UTF-8".to_owned())
}

fn query_words(query: &str) -> Result<Vec<(String, String)>, String> {
    let words = query.split('&').filter(|word| !word.is_empty());
    words
        .map(|word| {
            let (name, value) = word
                .split_once('=')
                .ok_or("a parameter after the ? has no value")?;
            Ok((decoded(name)?, decoded(value)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::Host;

    use super::*;

    fn rest(address: &str) -> String {
        Parts::of(address).map(|parts| parts.rest).unwrap()
    }

    #[test]
    fn what_is_ours_is_taken_out_of_a_url_and_the_rest_stays() {
        let parts = Parts::of(
            "postgresql://u:p%40@a:1,b:2/d?sslmode=verify-full&application_name=x%20y&sslrootcert=%2Fca.pem&sslmode=require",
        )
        .unwrap();
        assert_eq!(
            parts.rest,
            "postgres://u:p%40@a:1,b:2/d?application_name=x%20y"
        );
        assert_eq!(parts.own("sslmode"), Some("require"));
        assert_eq!(parts.own("sslrootcert"), Some("/ca.pem"));
        assert_eq!(parts.own("sslkey"), None);
    }

    #[test]
    fn what_is_ours_is_taken_out_of_words_and_quotes_stay() {
        let parts =
            Parts::of(r"host=h password='it\'s \\ me' sslmode = verify-ca  sslcert='/a b' user=u")
                .unwrap();
        assert_eq!(parts.own("sslmode"), Some("verify-ca"));
        assert_eq!(parts.own("sslcert"), Some("/a b"));
        let config: tokio_postgres::Config = parts.rest.parse().unwrap();
        assert_eq!(config.get_password(), Some(br"it's \ me".as_slice()));
        assert_eq!(config.get_user(), Some("u"));
    }

    #[test]
    fn a_question_mark_or_an_at_belongs_where_it_stands() {
        assert_eq!(rest("postgres://u:p?w@h/d"), "postgres://u:p?w@h/d");
        assert_eq!(
            rest("postgres://h/d?user=a@b&options=-c a=b"),
            "postgres://h/d?user=a%40b&options=%2Dc%20a%3Db".replace("%2D", "-")
        );
        assert_eq!(rest("postgres://u@h?gssencmode=disable"), "postgres://u@h");
        assert_eq!(
            rest("postgres:///d?host=/run,b&port=1,2"),
            "postgres:///d?host=%2Frun&host=b&port=1%2C2"
        );
        assert_eq!(
            rest("postgres://u@h?keepalives_count=4"),
            "postgres://u@h?keepalives_retries=4"
        );
    }

    #[test]
    fn a_later_host_or_port_replaces_an_earlier_one_instead_of_standing_beside_it() {
        let places = |address: &str| {
            let config: tokio_postgres::Config = rest(address).parse().unwrap();
            let hosts: Vec<String> = (config.get_hosts().iter())
                .map(|host| match host {
                    Host::Tcp(name) => name.clone(),
                    #[cfg(unix)]
                    Host::Unix(path) => path.display().to_string(),
                })
                .collect();
            let ports: Vec<String> = config.get_ports().iter().map(u16::to_string).collect();
            format!("{} {}", hosts.join(","), ports.join(","))
        };
        for (address, found) in [
            #[cfg(unix)]
            (
                "postgres://u:p@localhost/d?host=/cloudsql/inst",
                "/cloudsql/inst ",
            ),
            ("postgres://u@a:1/d?host=b", "b 1"),
            ("postgres://u@a:1,b/d?host=c,d", "c,d 1,5432"),
            ("postgres://u@a:1/d?port=2", "a 2"),
            ("postgres://u@a,[::1]:1/d?port=2,3", "a,::1 2,3"),
            ("postgres://u@a:1?host=b&port=2&host=c&port=3", "c 3"),
            ("postgres://u@a/d?hostaddr=127.0.0.1", "a 5432"),
            ("host=a user=u host=b port=1 port=2", "b 2"),
            ("host=a,b user=u host=c", "c "),
        ] {
            assert_eq!(places(address), found, "{address}");
        }
        let twice = rest("hostaddr=127.0.0.1 user=u hostaddr=127.0.0.2");
        let config: tokio_postgres::Config = twice.parse().unwrap();
        assert_eq!(config.get_hostaddrs().len(), 1, "{twice}");
    }

    #[test]
    fn a_piece_of_a_password_is_not_taken_for_a_name() {
        for address in [
            "host=h password=my hunter2=x",
            "postgres://u@h/d?hunter2=x",
            "host=h password='hunter2",
            "hunter2",
        ] {
            let problem = Parts::of(address).err().unwrap();
            assert!(!problem.contains("hunter2"), "{problem}");
        }
        let problem = Parts::of("postgres://u@h/d?sslcrl=x").err().unwrap();
        assert!(problem.contains("sslcrl"), "{problem}");
    }
}
