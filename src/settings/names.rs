//! What settings and variables are called, and what was probably meant by a name that there is not.

use super::{SPECS, Spec};
use crate::core::shown_start;

/// What every variable of this program begins with, but the addresses'.
pub(super) const PREFIX: &str = "SYNC_CONFIG_";

/// Another name of `poll_jitter`.
const ALIAS: (&str, &str) = ("jitter_max", "poll_jitter");

/// The settings that may hold a password: never shown whole, and also read from a file that is named instead.
const SECRETS: [&str; 3] = ["database_url", "listen_database_url", "api_key"];

/// Variables that begin as the settings' do and are none: those of the command line and of the server.
const OTHERS: [&str; 18] = [
    "SYNC_CONFIG_ALLOW_ORIGIN",
    "SYNC_CONFIG_AUTH",
    "SYNC_CONFIG_DATA",
    "SYNC_CONFIG_EVENTS",
    "SYNC_CONFIG_FILE",
    "SYNC_CONFIG_KEYS_MAX_STALENESS",
    "SYNC_CONFIG_KEYS_URL",
    "SYNC_CONFIG_LISTEN",
    "SYNC_CONFIG_LOG_FORMAT",
    "SYNC_CONFIG_REQUESTS_PER_MINUTE",
    "SYNC_CONFIG_SERVICE",
    "SYNC_CONFIG_STORE",
    "SYNC_CONFIG_TLS_CERT",
    "SYNC_CONFIG_TLS_KEY",
    "SYNC_CONFIG_WS_CONNECTION_TIMEOUT",
    "SYNC_CONFIG_WS_MAX_CONNECTIONS",
    "SYNC_CONFIG_WS_MAX_MESSAGE_BYTES",
    "SYNC_CONFIG_WS_RATE_LIMIT_PER_MINUTE",
];

/// Those of the project's own tests and benchmarks, which this process may be one of.
const TESTS: [&str; 4] = [
    "SYNC_CONFIG_TEST_",
    "SYNC_CONFIG_BENCH_",
    "SYNC_CONFIG_CHAOS_",
    "SYNC_CONFIG_LONG_TESTS",
];

/// The setting of a name or of its alias.
pub(super) fn find(name: &str) -> Option<&'static Spec> {
    let name = if name == ALIAS.0 { ALIAS.1 } else { name };
    SPECS.iter().find(|spec| spec.name == name)
}

/// The names of a setting, its own first.
pub(super) fn all_of(spec: &Spec) -> impl Iterator<Item = &'static str> + use<> {
    let alias = (spec.name == ALIAS.1).then_some(ALIAS.0);
    std::iter::once(spec.name).chain(alias)
}

/// The variables of a setting, its own first.
pub(super) fn variables_of(spec: &Spec) -> impl Iterator<Item = String> + use<> {
    let others = all_of(spec).skip(1).map(|name| variable("", name));
    std::iter::once(spec.env.to_owned()).chain(others)
}

/// The variable of a setting, of a section if that is not empty: `SYNC_CONFIG_ORDERS_CHANNEL`.
pub(super) fn variable(section: &str, name: &str) -> String {
    let part = |text: &str| text.to_ascii_uppercase().replace('-', "_");
    let (section, name) = (part(section), part(name));
    if section.is_empty() {
        format!("{PREFIX}{name}")
    } else {
        format!("{PREFIX}{section}_{name}")
    }
}

/// Whether a setting may hold a password.
pub(super) fn is_secret(name: &str) -> bool {
    SECRETS.contains(&name)
}

/// A name that somebody gave, short and on one line. An address that stands in the place of a name may hold a password.
pub(super) fn told(name: &str) -> String {
    if name.contains("://") || name.contains('@') {
        return "…".to_owned();
    }
    shown_start(name)
}

/// Whether a variable is somebody else's of this program.
pub(super) fn is_of_others(variable: &str) -> bool {
    OTHERS.contains(&variable) || TESTS.iter().any(|test| variable.starts_with(test))
}

/// Whether a variable is one that Kubernetes gives to every pod beside a service that is called `sync-config` or
/// `sync-config-…`: nobody mistyped it.
pub(super) fn is_of_cluster(variable: &str, value: &str) -> bool {
    let host = variable.ends_with("_SERVICE_HOST");
    let port = variable.ends_with("_SERVICE_PORT") || variable.contains("_SERVICE_PORT_");
    let protocol = ["tcp", "udp", "sctp"];
    // SYNC_CONFIG_PORT=tcp://10.0.0.11:8420; without an address it is somebody's mistake.
    let link = variable.ends_with("_PORT")
        && (value.split_once("://")).is_some_and(|(scheme, _)| protocol.contains(&scheme));
    // SYNC_CONFIG_PORT_8420_TCP, and _ADDR, _PORT and _PROTO of it.
    let numbered = variable.split_once("_PORT_").is_some_and(|(_, rest)| {
        let mut parts = rest.split('_');
        parts.next().is_some_and(|port| port.parse::<u16>().is_ok())
            && parts
                .next()
                .is_some_and(|name| protocol.contains(&name.to_ascii_lowercase().as_str()))
    });
    host || port || link || numbered
}

/// Every name of a setting.
pub(super) fn known() -> Vec<&'static str> {
    SPECS.iter().flat_map(all_of).collect()
}

/// Says which known name is the nearest to one that there is not, or which there are.
pub(super) fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let nearest = (known.iter()).min_by_key(|candidate| distance(name, candidate));
    // Two letters may be wrong, of a long name a third: a word of it too much. But never all of it.
    let letters = name.chars().count();
    let most = (letters / 3).max(2).min(letters / 2);
    match nearest {
        Some(nearest) if distance(name, nearest) <= most => {
            format!("did you mean {nearest}?")
        }
        Some(_) => format!("there are {}", known.join(", ")),
        None => "there is none".to_owned(),
    }
}

/// How many letters have to be put, taken or replaced (Levenshtein). Only the first 64 letters are looked at, longer
/// than every name.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().take(64).collect();
    let right: Vec<char> = right.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, a) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (to, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[to + 1];
            row[to + 1] = replaced.min(row[to] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_answered_with_the_nearest_name_and_nonsense_with_all() {
        let known = || known().into_iter();
        for (typo, meant) in [
            ("heartbeat_intervall", "heartbeat_interval"),
            ("tablename", "table_name"),
            ("databse_url", "database_url"),
            ("jitter_maximum", "jitter_max"),
        ] {
            assert_eq!(hint(typo, known()), format!("did you mean {meant}?"));
        }
        assert!(hint("frobnicate", known()).starts_with("there are database_url, "));
        assert_eq!(hint("c", ["a", "b"]), "there are a, b");
        assert_eq!(hint("x", []), "there is none");
    }

    #[test]
    fn a_variable_is_made_of_section_and_name() {
        for spec in SPECS.iter().filter(|spec| spec.env.starts_with(PREFIX)) {
            assert_eq!(variable("", spec.name), spec.env);
        }
        assert_eq!(
            variable("my-orders", "table_name"),
            "SYNC_CONFIG_MY_ORDERS_TABLE_NAME"
        );
    }

    #[test]
    fn distances_are_those_of_levenshtein() {
        for (left, right, letters) in [
            ("", "", 0),
            ("a", "", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 2),
        ] {
            assert_eq!(distance(left, right), letters, "{left} {right}");
        }
    }
}
