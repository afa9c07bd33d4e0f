//! What a client wants to hear of: keys of the configuration, or events that are published to it.
//!
//! Guarantees: clients with equal interests are told the same.

use crate::core::Key;
use crate::server::scope::Scope;

/// What concerns a client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Interest {
    /// Changes of these keys.
    Keys(Scope),
    /// Events to the client itself, to keys that it watches, or to all.
    Events { client: Box<str>, scope: Scope },
}

/// To whom an event is published: the key that it is put under, so that the journal keeps all events in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Client(String),
    Prefix(String),
    All,
}

const CLIENT: &str = "client/";
const PREFIX: &str = "prefix/";
const ALL: &str = "all";

impl Target {
    pub(super) fn key(&self) -> String {
        match self {
            Self::Client(name) => format!("{CLIENT}{name}"),
            Self::Prefix(prefix) => format!("{PREFIX}{prefix}"),
            Self::All => ALL.to_owned(),
        }
    }
}

impl Interest {
    /// Whether an event under a key is for the client.
    pub(super) fn is_addressed(&self, key: &Key) -> bool {
        let Self::Events { client, scope } = self else {
            return false;
        };
        if let Some(name) = key.strip_prefix(CLIENT) {
            return *name == **client;
        }
        match key.strip_prefix(PREFIX) {
            // One that watches a part of these keys is concerned as well as one that watches more than these.
            Some(prefix) => !scope.within(&Scope::of([prefix])).is_none(),
            None => key.as_str() == ALL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_for_its_client_for_who_watches_its_keys_or_for_all() {
        let interest = Interest::Events {
            client: "gw-1".into(),
            scope: Scope::of(["a/b/", "c"]),
        };
        let target = |target: Target| interest.is_addressed(&Key::parse(&target.key()).unwrap());
        assert!(target(Target::All) && target(Target::Client("gw-1".to_owned())));
        assert!(!target(Target::Client("gw-10".to_owned())));
        for (prefix, wanted) in [
            ("", true),
            ("a/", true),
            ("a/b/c", true),
            ("a/x", false),
            ("cd", true),
            ("b", false),
        ] {
            assert_eq!(
                target(Target::Prefix(prefix.to_owned())),
                wanted,
                "{prefix}"
            );
        }
        let keys = Interest::Keys(Scope::all());
        assert!(!keys.is_addressed(&Key::parse("all").unwrap()));
    }
}
