//! Servers of this program, as a URL names them.
//!
//! Guarantees: no error and no name of one holds more of the text than hosts and ports.

use std::fmt;

/// Servers at most: a list that is longer is a mistake.
const MOST: usize = 64;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Whether TLS is spoken.
    pub(crate) secure: bool,
}

impl Address {
    /// Parses `https://host:port`; why it is none otherwise.
    fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str =
            "holds a server that is not written as https://host:port or http://host:port";
        let (scheme, rest) = text.trim().split_once("://").ok_or(FORM)?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(FORM),
        };
        if rest.contains('@') {
            return Err("holds a user or a password; the key is given as api_key or api_key_file");
        }
        let place = rest.strip_suffix('/').unwrap_or(rest);
        if place.contains(['/', '?', '#', '\\']) {
            return Err("holds more than a host and a port; a server has no path of its own");
        }
        let (host, port) = match place.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
            Some((host, port)) => {
                let port = port.strip_prefix(':').or(port.is_empty().then_some(""));
                host.parse::<std::net::Ipv6Addr>().map_err(|_| FORM)?;
                (host, port.ok_or(FORM)?)
            }
            None => place.split_once(':').unwrap_or((place, "")),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(plain) {
            return Err(FORM);
        }
        let port = match port {
            "" => 443 - 363 * u16::from(!secure),
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| FORM)?
            }
            _ => return Err(FORM),
        };
        if port == 0 {
            return Err(FORM);
        }
        let host = host.to_ascii_lowercase();
        Ok(Self { host, port, secure })
    }

    /// Whether it is this machine.
    #[cfg(feature = "remote")]
    pub(crate) fn is_loopback(&self) -> bool {
        let ip = self.host.parse::<std::net::IpAddr>();
        ip.map_or(self.host == "localhost", |ip| ip.is_loopback())
    }
}

impl fmt::Display for Address {
    /// Host and port, as the header `Host` has them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

/// Reads a list of servers, parted by commas.
pub(super) fn parse(list: &str) -> Result<Vec<Address>, String> {
    let mut servers = Vec::new();
    for text in list.split(',') {
        let server = Address::parse(text)?;
        if servers.contains(&server) {
            return Err(format!("names {server} twice"));
        }
        servers.push(server);
    }
    if servers.len() > MOST {
        return Err(format!("names more than {MOST} servers"));
    }
    Ok(servers)
}

/// Names a list, the same in whatever order it was written.
#[cfg(feature = "remote")]
pub(crate) fn named(servers: &[Address]) -> String {
    let mut names: Vec<String> = servers.iter().map(Address::to_string).collect();
    names.sort();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_and_named_by_host_and_port() {
        let read = parse("https://A.example:8420, http://10.0.0.1/,https://[::1]:1,https://b");
        let names: Vec<String> = read.unwrap().iter().map(Address::to_string).collect();
        assert_eq!(names, ["a.example:8420", "10.0.0.1:80", "[::1]:1", "b:443"]);
    }

    #[cfg(feature = "remote")]
    #[test]
    fn a_list_has_one_name_and_this_machine_is_known() {
        let (one, two) = (
            parse("http://a:1,http://b:2"),
            parse("http://b:2,http://a:1"),
        );
        assert_eq!(named(&one.unwrap()), named(&two.unwrap()));
        let local = parse("http://localhost,http://[::1],http://127.0.0.9:1,http://a").unwrap();
        let local: Vec<bool> = local.iter().map(Address::is_loopback).collect();
        assert_eq!(local, [true, true, true, false]);
    }

    #[test]
    fn what_is_no_server_is_refused_without_its_text() {
        for wrong in [
            "",
            "https://",
            "a:8420",
            "ftp://hunter2:1",
            "https://hunter2@a:1",
            "https://u:hunter2@a:1",
            "https://a:1/hunter2",
            "https://a:1?hunter2",
            "https://a:0",
            "https://a:99999",
            "https://a:+1",
            "https://[::1",
            "https://[hunter2]:1",
            "https://a b:1",
            "https://a:1,https://a:1",
            "https://a:1,",
        ] {
            let refused = parse(wrong).unwrap_err();
            assert!(!refused.contains("hunter2"), "{refused}");
        }
        let many: Vec<String> = (1..100).map(|port| format!("http://a:{port}")).collect();
        assert!(parse(&many.join(",")).unwrap_err().contains("64"));
    }
}
