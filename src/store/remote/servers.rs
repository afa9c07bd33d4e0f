//! The servers that are given, and which of them is asked.
//!
//! Guarantees: the first one is chosen by chance, so that clients spread; one that answers is stayed with; one that fails
//! comes last, and the others before it in an order of chance, so that not all clients of a dead server meet at the same
//! one; one that asks for time is left alone for so long. No error holds the text of an address.

use std::fmt;
use std::time::Duration;

use crate::core::backoff::Random;

/// Servers at most: a list that is longer is a mistake.
const MOST: usize = 64;

/// How long a server that asks for time is left alone at most, whatever it asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    /// Whether TLS is spoken.
    pub(super) secure: bool,
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
    pub(super) fn is_loopback(&self) -> bool {
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
pub(super) fn named(servers: &[Address]) -> String {
    let mut names: Vec<String> = servers.iter().map(Address::to_string).collect();
    names.sort();
    names.join(", ")
}

/// Which server is to be asked.
#[derive(Debug)]
pub(super) struct Choice {
    preferred: usize,
    /// The one that failed last.
    failed: Option<usize>,
    /// When each may be asked again.
    not_before: Vec<Duration>,
    random: Random,
}

impl Choice {
    pub(super) fn new(servers: usize, seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        Self {
            preferred: below(servers, &mut random),
            failed: None,
            not_before: vec![Duration::ZERO; servers],
            random,
        }
    }

    /// The servers that may be asked now, in the order to ask them.
    pub(super) fn order(&mut self, now: Duration) -> Vec<usize> {
        let mut others: Vec<usize> = (0..self.not_before.len()).collect();
        for at in (1..others.len()).rev() {
            let with = below(at + 1, &mut self.random);
            others.swap(at, with);
        }
        let (preferred, failed) = (self.preferred, self.failed);
        others.sort_by_key(|server| match *server {
            server if Some(server) == failed => 2,
            server if server == preferred => 0,
            _ => 1,
        });
        others.retain(|server| self.not_before[*server] <= now);
        others
    }

    /// Notes that a server answered.
    pub(super) fn good(&mut self, server: usize) {
        self.preferred = server;
        self.failed = None;
    }

    /// Notes that a server failed, and how long it wants to be left alone.
    pub(super) fn bad(&mut self, server: usize, now: Duration, pause: Option<Duration>) {
        self.failed = Some(server);
        if let Some(pause) = pause
            && let Some(not_before) = self.not_before.get_mut(server)
        {
            *not_before = now + pause.min(LONGEST_PAUSE);
        }
    }

    /// How long until the first of them may be asked.
    pub(super) fn pause(&self, now: Duration) -> Duration {
        let soonest = self.not_before.iter().min().copied();
        soonest.unwrap_or_default().saturating_sub(now)
    }
}

fn below(bound: usize, random: &mut Random) -> usize {
    let number = random.next() % (bound.max(1) as u64);
    usize::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_and_named_by_host_and_port() {
        let read = parse("https://A.example:8420, http://10.0.0.1/,https://[::1]:1,https://b");
        let names: Vec<String> = read.unwrap().iter().map(Address::to_string).collect();
        assert_eq!(names, ["a.example:8420", "10.0.0.1:80", "[::1]:1", "b:443"]);
        let (one, two) = (parse("http://a:1,http://b:2"), parse("http://b:2,http://a:1"));
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

    #[test]
    fn clients_begin_at_servers_of_chance_and_stay_with_the_good_one() {
        let mut first = [0; 4];
        for seed in 0..400 {
            let mut choice = Choice::new(4, seed);
            first[choice.order(Duration::ZERO)[0]] += 1;
            choice.good(2);
            assert_eq!(choice.order(Duration::ZERO)[0], 2);
        }
        assert!(first.iter().all(|count| *count > 50), "{first:?}");
    }

    #[test]
    fn one_that_failed_comes_last_and_its_clients_spread() {
        let mut next = [0; 4];
        for seed in 0..300 {
            let mut choice = Choice::new(4, seed);
            choice.good(1);
            choice.bad(1, Duration::ZERO, None);
            let order = choice.order(Duration::ZERO);
            assert_eq!((order.len(), order[3]), (4, 1));
            next[order[0]] += 1;
        }
        assert!(next[1] == 0 && next.iter().filter(|count| **count > 50).count() == 3);
    }

    #[test]
    fn one_that_asks_for_time_is_left_alone_for_so_long_and_no_longer_than_five_minutes() {
        let mut choice = Choice::new(2, 7);
        let second = Duration::from_secs(1);
        choice.bad(0, second, Some(second * 10));
        choice.bad(1, second, Some(Duration::MAX));
        assert!(choice.order(second * 2).is_empty());
        assert_eq!(choice.pause(second * 2), second * 9);
        assert_eq!(choice.order(second * 11), [0]);
        assert_eq!(choice.order(second * 301).len(), 2);
    }
}
