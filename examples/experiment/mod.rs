//! Experiments: who takes part, and in which variant. Decided by arithmetic on integers that any language can repeat, so
//! that every instance, the database and tomorrow's analysis agree without storing an assignment.
//!
//! A unit (a user, a device) has two buckets from 0 to 9,999 in an experiment, one that decides whether it takes part, and
//! one that decides the variant:
//!
//! ```text
//! bucket(purpose) = be32(SHA-256(salt ":" purpose ":" unit)) mod 10000      purpose: "allocation" or "variant"
//! ```
//!
//! `be32` is the first four bytes of the digest as an unsigned big-endian number, and the text is UTF-8. It takes part if
//! its allocation bucket is below `allocation`; its variant is the first one whose weight, added to those before it, is
//! above the variant bucket.
//!
//! Why SHA-256: it is at hand everywhere, PostgreSQL included; sequential ids fall evenly, and two experiments are
//! independent, which a CRC or an FNV does not give (a CRC of two salts of one length differs by a constant). Four bytes
//! fit the exact integers of every language; the first 7,296 buckets are likelier than the rest by 2 in a million.

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// What weights add up to, and the number of buckets: basis points.
pub(crate) const BUCKETS: u32 = 10_000;

/// An experiment that holds together.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Definition")]
pub(crate) struct Experiment {
    salt: String,
    allocation: u32,
    variants: Vec<Variant>,
}

/// The JSON, as an administrator writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Definition {
    /// What the experiment is hashed with. Keep it as long as the experiment runs.
    salt: String,
    /// How many basis points of all units take part. It may grow; it may shrink.
    allocation: u32,
    /// In this order. While an experiment runs neither order nor weights may change.
    variants: Vec<Variant>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    name: String,
    weight: u32,
}

impl Experiment {
    /// An experiment in which nobody takes part: what holds while there is none.
    pub(crate) fn nobody() -> Self {
        Self {
            salt: String::new(),
            allocation: 0,
            variants: Vec::new(),
        }
    }

    /// The unit's variant; `None` when it does not take part.
    pub(crate) fn variant(&self, unit: &str) -> Option<&str> {
        if bucket(&self.salt, "allocation", unit) >= self.allocation {
            return None;
        }
        let bucket = bucket(&self.salt, "variant", unit);
        let mut end = 0;
        let mut variants = self.variants.iter();
        let found = variants.find(|variant| {
            end += variant.weight;
            bucket < end
        });
        found.map(|variant| variant.name.as_str())
    }
}

/// A unit's bucket from 0 to 9,999.
pub(crate) fn bucket(salt: &str, purpose: &str, unit: &str) -> u32 {
    let digest = Sha256::digest(format!("{salt}:{purpose}:{unit}"));
    let first = digest.iter().take(4);
    let hash = first.fold(0, |hash, byte| hash << 8 | u32::from(*byte));
    hash % BUCKETS
}

impl TryFrom<Definition> for Experiment {
    type Error = String;

    fn try_from(given: Definition) -> Result<Self, String> {
        let Definition {
            salt,
            allocation,
            variants,
        } = given;
        if salt.is_empty() || salt.contains(':') {
            return Err("salt: a text without \":\" is needed".to_owned());
        }
        if allocation > BUCKETS {
            return Err(format!("allocation: {allocation} is above {BUCKETS}"));
        }
        let sum: u64 = variants.iter().map(|one| u64::from(one.weight)).sum();
        if sum != u64::from(BUCKETS) {
            return Err(format!("weights: they add up to {sum}, not to {BUCKETS}"));
        }
        let named = |at: usize| {
            variants
                .iter()
                .position(|one| one.name == variants[at].name)
        };
        if (0..variants.len()).any(|at| named(at) != Some(at)) {
            return Err("variants: two have the same name".to_owned());
        }
        Ok(Self {
            salt,
            allocation,
            variants,
        })
    }
}
