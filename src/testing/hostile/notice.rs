//! What arrives through NOTIFY, from anybody.

use super::Target;
use crate::core::notice::Notice;
use crate::core::{Epoch, Revision};

pub(super) const NOTICE: Target = Target {
    name: "notice",
    holds,
    words: &[
        "c1 ",
        "h1 ",
        "n1 ",
        "c2 ",
        " ",
        "0123abcd-4567-89ef-0123-456789abcdef",
        "0123abcd456789ef0123456789abcdef",
        "9223372036854775807",
        "9223372036854775808",
        "-1",
        "+1",
        "00000000",
        "ffffffffffffffff",
        "1ffffffffffffffff",
        " a",
        " -",
        "7",
    ],
};

/// A text is no notice, or one that can be said again, of a revision that a database can have.
fn holds(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Some(notice) = Notice::decode(text) else {
        return;
    };
    let again = notice.encode();
    assert_eq!(Notice::decode(&again), Some(notice), "{text:?}");
    let bound = |revision: Revision| assert!(i64::try_from(revision.get()).is_ok(), "{text:?}");
    let unbroken = |epoch: Epoch| assert_eq!(epoch.to_string().parse(), Ok(epoch));
    match notice {
        Notice::Changed { epoch, revision } => {
            assert!(again.len() < 64, "{again}");
            bound(revision);
            unbroken(epoch);
        }
        Notice::Heartbeat {
            epoch, revision, ..
        } => {
            bound(revision);
            unbroken(epoch);
        }
        Notice::Nonce(_) => {}
    }
}
