//! Which keys a request concerns.
//!
//! Guarantees: no prefix of a scope begins with another of it, and they stand in byte order, so that the entries of a sorted
//! state are met once each and in order. Two scopes are equal exactly when they hold the same keys.

use std::sync::Arc;

use crate::core::{Entry, Snapshot};

/// The keys with one of some prefixes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scope(Arc<[Box<str>]>);

impl Scope {
    /// Every key.
    pub(super) fn all() -> Self {
        Self::of([""])
    }

    /// The keys with one of these prefixes; without any, no key.
    pub(super) fn of<P: Into<Box<str>>>(prefixes: impl IntoIterator<Item = P>) -> Self {
        let mut prefixes: Vec<Box<str>> = prefixes.into_iter().map(Into::into).collect();
        prefixes.sort_unstable();
        // What begins with another one stands after it, with nothing between that does not.
        prefixes.dedup_by(|next, kept| next.starts_with(&**kept));
        Self(prefixes.into())
    }

    /// The keys that are in both.
    pub(super) fn within(&self, other: &Self) -> Self {
        let narrower = |one: &str, two: &str| {
            let (short, long) = if one.len() < two.len() {
                (one, two)
            } else {
                (two, one)
            };
            long.starts_with(short).then(|| Box::<str>::from(long))
        };
        let pairs = self
            .0
            .iter()
            .flat_map(|one| other.0.iter().map(move |two| (one, two)));
        Self::of(pairs.filter_map(|(one, two)| narrower(one, two)))
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.0.iter().any(|prefix| key.starts_with(&**prefix))
    }

    /// Whether it holds every key.
    pub(super) fn is_all(&self) -> bool {
        matches!(&*self.0, [only] if only.is_empty())
    }

    /// Whether it holds no key.
    pub(super) fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn prefixes(&self) -> &[Box<str>] {
        &self.0
    }

    /// Its entries in a state, in the order of their keys.
    pub(super) fn entries<'a>(
        &'a self,
        state: &'a Snapshot,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.0.iter().flat_map(|prefix| state.prefixed(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(scope: &Scope) -> Vec<&str> {
        scope.prefixes().iter().map(|prefix| &**prefix).collect()
    }

    #[test]
    fn a_prefix_within_another_is_left_out() {
        assert_eq!(
            texts(&Scope::of(["b", "a/x", "a/", "b", "a-"])),
            ["a-", "a/", "b"]
        );
        assert!(Scope::of(["x", ""]).is_all());
        assert!(Scope::of::<&str>([]).is_none());
    }

    #[test]
    fn what_is_in_both_is_in_their_intersection_and_nothing_else_is() {
        let (one, two) = (Scope::of(["a/", "b/c", "d"]), Scope::of(["a/b", "b/", "e"]));
        assert_eq!(texts(&one.within(&two)), ["a/b", "b/c"]);
        assert_eq!(one.within(&two), two.within(&one));
        assert_eq!(one.within(&Scope::all()), one);
        for key in ["a/", "a/b", "a/bc", "b/", "b/c", "b/cd", "d", "e", ""] {
            let both = one.contains(key) && two.contains(key);
            assert_eq!(one.within(&two).contains(key), both, "{key}");
        }
    }
}
