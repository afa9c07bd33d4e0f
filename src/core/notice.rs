//! Notices: the texts that travel through NOTIFY.
//!
//! Guarantees: a notice carries no key and no value, and nothing in it is believed: it only says that a read is worth
//! while. Whatever cannot be understood (another program's, a newer version's, a forged one) decodes to `None`, which a
//! replica treats as "look at the head".
//!
//! Format, version 1, fields parted by one blank:
//! `c1 EPOCH REVISION` after a commit (sent by the database itself, under 64 bytes);
//! `h1 EPOCH REVISION CRC32 INSTANCE (a|-)` as heartbeat, `a` after an audit against the table;
//! `n1 NONCE` to prove that notices arrive.

use super::{Checksum, Epoch, Revision};

/// What a notice says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A transaction made this revision.
    Changed { epoch: Epoch, revision: Revision },
    /// An instance holds this checksum at this revision.
    Heartbeat {
        epoch: Epoch,
        revision: Revision,
        checksum: Checksum,
        instance: u64,
        audited: bool,
    },
    /// The proof that somebody asked for.
    Nonce(u64),
}

impl Notice {
    pub(crate) fn encode(self) -> String {
        match self {
            Self::Changed { epoch, revision } => format!("c1 {epoch} {revision}"),
            Self::Heartbeat {
                epoch,
                revision,
                checksum,
                instance,
                audited,
            } => {
                let audited = if audited { 'a' } else { '-' };
                format!("h1 {epoch} {revision} {checksum} {instance:016x} {audited}")
            }
            Self::Nonce(nonce) => format!("n1 {nonce:016x}"),
        }
    }

    pub(crate) fn decode(text: &str) -> Option<Self> {
        let mut fields = text.split(' ');
        let mut field = || fields.next();
        let notice = match field()? {
            "c1" => Self::Changed {
                epoch: field()?.parse().ok()?,
                revision: revision(field()?)?,
            },
            "h1" => Self::Heartbeat {
                epoch: field()?.parse().ok()?,
                revision: revision(field()?)?,
                checksum: Checksum::new(u32::from_str_radix(field()?, 16).ok()?),
                instance: u64::from_str_radix(field()?, 16).ok()?,
                audited: match field()? {
                    "a" => true,
                    "-" => false,
                    _ => return None,
                },
            },
            "n1" => Self::Nonce(u64::from_str_radix(field()?, 16).ok()?),
            _ => return None,
        };
        if fields.next().is_some() {
            None
        } else {
            Some(notice)
        }
    }
}

/// PostgreSQL's `bigint` bounds a revision, whatever a forged notice says.
fn revision(text: &str) -> Option<Revision> {
    let number: i64 = text.parse().ok()?;
    u64::try_from(number).ok().map(Revision::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(epoch: u128, revision in 0..=i64::MAX as u64, crc: u32, instance: u64, audited: bool) {
            let (epoch, revision) = (Epoch::from_u128(epoch), Revision::new(revision));
            let checksum = Checksum::new(crc);
            for notice in [
                Notice::Changed { epoch, revision },
                Notice::Heartbeat { epoch, revision, checksum, instance, audited },
                Notice::Nonce(instance),
            ] {
                prop_assert_eq!(Notice::decode(&notice.encode()), Some(notice));
            }
            let notice = Notice::Changed { epoch, revision }.encode();
            prop_assert!(notice.len() < 64);
        }

        #[test]
        fn no_text_makes_decoding_panic(text: String) {
            prop_assert!(Notice::decode(&text).is_none_or(|notice| Notice::decode(&notice.encode()) == Some(notice)));
        }
    }

    #[test]
    fn strange_texts_are_nothing() {
        let epoch = Epoch::from_u128(1);
        let changed = Notice::Changed {
            epoch,
            revision: Revision::new(5),
        }
        .encode();
        for strange in [
            "",
            "c1",
            "c2 x 5",
            &format!("{changed} more"),
            &changed.replace(" 5", " -5"),
            &changed.replace(" 5", " 99999999999999999999"),
        ] {
            assert_eq!(Notice::decode(strange), None, "{strange}");
        }
    }
}
