//! API keys of the HTTP service: what one is, what is stored of it, and the store that they are in.
//!
//! The keys of a table stand in a second store of this very library beside it, in the same database or file: table and channel
//! carry the same names with `_keys` behind them. A revocation so reaches every server as any change does.
//!
//! Guarantees: a secret is 256 bits of the operating system's randomness, is shown once to whoever made it, and is stored as its
//! SHA-256 alone; an identity has at most two keys at a time, which the database decides; what is stored and not understood
//! lets nobody in.
//! Not guaranteed: anything against a role that may write to that table: whoever may, makes keys.

mod desk;
mod record;
mod token;

use std::time::Duration;

pub(crate) use self::desk::{Refusal, Wish, create, list, revoke, rotate};
#[cfg(feature = "server")]
pub(crate) use self::record::place;
pub(crate) use self::record::{Listed, Name, Record, Role};
#[cfg(feature = "server")]
pub(crate) use self::token::Digest;
pub(crate) use self::token::{KeyId, Token};
use crate::error::{Error, Result};
use crate::settings::Settings;

/// What the names of the keys' table and channel end with.
const ENDING: &str = "keys";

/// How often the keys are looked at while no notices of them arrive: a revocation is to reach every server within a second,
/// also where a pooler swallows notices.
const LOOK: Duration = Duration::from_millis(400);

/// Up to this much is added.
const JITTER: Duration = Duration::from_millis(100);

/// The settings of the store that holds a store's keys.
///
/// # Errors
///
/// [`Error::is_invalid_input`] where a name leaves no room for the ending, or the store is another server's.
pub(crate) fn settings(store: &Settings) -> Result<Settings> {
    let url = store.database_url.as_deref().unwrap_or_default();
    if url.starts_with("http://") || url.starts_with("https://") {
        let problem = "is a server's, and API keys are kept in a database or a file: name that one (`serve --keys-url`, `keys --url`)";
        return Err(Error::setting("database_url", "…", problem));
    }
    Ok(Settings {
        check_interval: store.check_interval.min(LOOK),
        poll_interval: store.poll_interval.min(LOOK),
        poll_jitter: store.poll_jitter.min(JITTER),
        // Nothing but an audit and the journal's upkeep writes.
        max_connections: 1,
        ..store.beside(ENDING, "API keys")?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_stand_beside_their_table_under_a_name_that_fits() {
        let mut store = Settings::default().table_name("t".repeat(43));
        store.state_file = Some("/var/lib/app/state".into());
        let keys = settings(&store).unwrap();
        assert_eq!(keys.table_name, format!("{}_keys", "t".repeat(43)));
        assert_eq!(keys.channel, "config_changes_keys");
        assert_eq!(
            keys.state_file.as_deref(),
            Some("/var/lib/app/state.keys".as_ref())
        );
        assert!(keys.check_interval + keys.poll_jitter < Duration::from_secs(1));
        assert!(keys.poll_interval + keys.poll_jitter < Duration::from_secs(1));
        keys.check().unwrap();
        for long in [
            Settings::default().table_name("t".repeat(44)),
            Settings::default().channel("t".repeat(44)),
        ] {
            let error = settings(&long).unwrap_err();
            assert!(error.is_invalid_input(), "{error}");
            assert!(error.to_string().contains("43"), "{error}");
        }
    }
}
