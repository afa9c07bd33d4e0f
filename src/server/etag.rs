//! Entity tags: `"<first 8 digits of the epoch>-<revision>"`, opaque to clients; a list of some keys has a third part that says of
//! which.
//!
//! Guarantees: a tag of another epoch never matches, and neither does that of a list of other keys; the precondition made of a tag is decided inside the database.

use axum::http::HeaderMap;
use axum::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use sha2::{Digest as _, Sha256};

use super::problem::Problem;
use super::scope::Scope;
use crate::core::{Epoch, Revision};
use crate::write::Precondition;

/// The tag of something that was last changed by a revision.
pub(super) fn of(epoch: Epoch, revision: Revision) -> String {
    format!("\"{}-{revision}\"", short(epoch))
}

/// The tag of the entries of a scope at a revision. Whoever comes with another key sees another part of the same list.
pub(super) fn of_list(epoch: Epoch, revision: Revision, scope: &Scope) -> String {
    if scope.is_all() {
        return of(epoch, revision);
    }
    let mut digest = Sha256::new();
    for prefix in scope.prefixes() {
        digest.update(prefix.len().to_le_bytes());
        digest.update(prefix.as_bytes());
    }
    let digest = digest.finalize();
    let digits = digest.iter().take(8).map(|byte| format!("{byte:02x}"));
    let digits: String = digits.collect();
    format!("\"{}-{revision}-{digits}\"", short(epoch))
}

fn short(epoch: Epoch) -> String {
    format!("{:08x}", epoch.as_u128() >> 96)
}

/// Whether a GET asks for anything but this tag: the answer is 304 if so.
pub(super) fn has(headers: &HeaderMap, tag: &str) -> Result<bool, Problem> {
    let tags = list(headers, &IF_NONE_MATCH)?;
    Ok(tags
        .iter()
        .any(|given| given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag))
}

/// What `If-Match` and `If-None-Match` of a PUT or DELETE demand. `current` is the revision that this instance shows for
/// the key; it only chooses among several tags.
pub(super) fn precondition(
    headers: &HeaderMap,
    epoch: Epoch,
    current: Option<Revision>,
) -> Result<Option<Precondition>, Problem> {
    let wanted = list(headers, &IF_MATCH)?;
    let unwanted = list(headers, &IF_NONE_MATCH)?;
    // A script whose tag is unset must not write without a condition.
    for (name, tags) in [(IF_MATCH, &wanted), (IF_NONE_MATCH, &unwanted)] {
        if tags.is_empty() && headers.contains_key(&name) {
            let problem = format!("{name} is empty; leave it out to write without a condition");
            return Err(Problem::bad_request(problem));
        }
    }
    match (wanted.as_slice(), unwanted.as_slice()) {
        ([], []) => Ok(None),
        ([], [any]) if any == "*" => Ok(Some(Precondition::Absent)),
        ([], _) => Err(Problem::bad_request(
            "a write takes If-None-Match: * (the key is absent) and no other form of it",
        )),
        (_, [_, ..]) => Err(Problem::bad_request(
            "If-Match and If-None-Match exclude each other",
        )),
        ([any], []) if any == "*" => Ok(Some(Precondition::Present)),
        (tags, []) => {
            let ours = of_epoch(tags, epoch);
            let chosen = current.filter(|current| ours.contains(current));
            match chosen.or_else(|| ours.first().copied()) {
                Some(revision) => Ok(Some(Precondition::Revision(revision))),
                None => Err(Problem::precondition_failed(
                    "If-Match names no revision of this store's present history; read the key again",
                )),
            }
        }
    }
}

/// Whether `If-Match` names a revision too, which this instance may not have seen yet when it chose another one.
pub(super) fn names(headers: &HeaderMap, epoch: Epoch, revision: Revision) -> bool {
    list(headers, &IF_MATCH).is_ok_and(|tags| of_epoch(&tags, epoch).contains(&revision))
}

/// What a single tag demands, with its quotes or without; `None` where it names nothing of this epoch.
pub(super) fn named(tag: &str, epoch: Epoch) -> Option<Precondition> {
    if tag == "*" {
        return Some(Precondition::Present);
    }
    let quoted = parse(tag, epoch).or_else(|| parse(&format!("\"{tag}\""), epoch));
    quoted.map(Precondition::Revision)
}

/// Lets a GET pass that demands a tag with `If-Match` if it is this one, or none if there is nothing.
pub(super) fn demand(headers: &HeaderMap, tag: Option<&str>) -> Result<(), Problem> {
    let wanted = list(headers, &IF_MATCH)?;
    if wanted.is_empty() && headers.contains_key(IF_MATCH) {
        return Err(Problem::bad_request("If-Match is empty; leave it out"));
    }
    let met = |given: &String| tag.is_some_and(|tag| given == "*" || given == tag);
    if wanted.is_empty() || wanted.iter().any(met) {
        return Ok(());
    }
    let problem = "what is asked for has none of the tags in If-Match";
    Err(Problem::precondition_failed(problem))
}

fn of_epoch(tags: &[String], epoch: Epoch) -> Vec<Revision> {
    tags.iter().filter_map(|tag| parse(tag, epoch)).collect()
}

/// The revision in a tag of this epoch.
fn parse(tag: &str, epoch: Epoch) -> Option<Revision> {
    let (of, revision) = tag.strip_prefix('"')?.strip_suffix('"')?.split_once('-')?;
    let digits = revision.bytes().all(|byte| byte.is_ascii_digit());
    if of == short(epoch) && digits {
        revision.parse().ok().map(Revision::new)
    } else {
        None
    }
}

/// The members of a header that lists tags. Ours hold no comma.
fn list(headers: &HeaderMap, name: &HeaderName) -> Result<Vec<String>, Problem> {
    let mut tags = Vec::new();
    for value in headers.get_all(name) {
        let Ok(text) = value.to_str() else {
            return Err(Problem::bad_request(format!("{name} is not ASCII")));
        };
        let members = text.split(',').map(str::trim);
        tags.extend(members.filter(|tag| !tag.is_empty()).map(str::to_owned));
    }
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().cloned();
        pairs
            .map(|(name, value)| (name, value.parse().unwrap()))
            .collect()
    }

    const EPOCH: Epoch = Epoch::from_u128(0x0123_abcd << 96);

    #[test]
    fn a_tag_is_read_back_in_its_own_epoch_only() {
        let tag = of(EPOCH, Revision::new(7));
        assert_eq!(tag, "\"0123abcd-7\"");
        assert_eq!(parse(&tag, EPOCH), Some(Revision::new(7)));
        assert_eq!(parse(&tag, Epoch::from_u128(1)), None);
        for wrong in [
            "",
            "\"",
            "7",
            "\"0123abcd-\"",
            "\"0123abcd-+7\"",
            "W/\"0123abcd-7\"",
        ] {
            assert_eq!(parse(wrong, EPOCH), None, "{wrong}");
        }
    }

    #[test]
    fn lists_of_other_keys_have_other_tags() {
        let of = |scope: &Scope| of_list(EPOCH, Revision::new(7), scope);
        assert_eq!(of(&Scope::all()), "\"0123abcd-7\"");
        let scopes = [
            Scope::all(),
            Scope::of::<&str>([]),
            Scope::of(["a"]),
            Scope::of(["a", "b"]),
            Scope::of(["ab"]),
        ];
        let tags: std::collections::BTreeSet<String> = scopes.iter().map(of).collect();
        assert_eq!(tags.len(), scopes.len(), "{tags:?}");
        assert_eq!(
            of(&Scope::of(["b", "a/x", "a"])),
            of(&Scope::of(["a", "b"]))
        );
        for tag in &tags {
            let writes = tag.matches('-').count() == 1;
            assert_eq!(parse(tag, EPOCH).is_some(), writes, "{tag}");
        }
    }

    #[test]
    fn a_get_may_demand_a_tag() {
        let met = |pairs: &[(HeaderName, &'static str)], tag| demand(&headers(pairs), tag).is_ok();
        assert!(met(&[], None) && met(&[], Some("\"a-1\"")));
        for tags in ["\"a-1\"", "\"b-1\", \"a-1\"", "*"] {
            assert!(met(&[(IF_MATCH, tags)], Some("\"a-1\"")), "{tags}");
            assert!(!met(&[(IF_MATCH, tags)], None), "{tags}");
        }
        assert!(!met(&[(IF_MATCH, "")], Some("\"a-1\"")));
        assert!(!met(&[(IF_MATCH, "W/\"a-1\"")], Some("\"a-1\"")));
    }

    #[test]
    fn preconditions_follow_the_headers() {
        let demand = |pairs: &[(HeaderName, &'static str)], current: Option<u64>| {
            precondition(&headers(pairs), EPOCH, current.map(Revision::new)).ok()
        };
        assert_eq!(demand(&[], None), Some(None));
        let absent = Some(Some(Precondition::Absent));
        assert_eq!(demand(&[(IF_NONE_MATCH, "*")], None), absent);
        let present = Some(Some(Precondition::Present));
        assert_eq!(demand(&[(IF_MATCH, "*")], None), present);
        let at = |revision| Some(Some(Precondition::Revision(Revision::new(revision))));
        let both = "\"0123abcd-7\", \"0123abcd-9\"";
        assert_eq!(demand(&[(IF_MATCH, both)], None), at(7));
        assert_eq!(demand(&[(IF_MATCH, both)], Some(9)), at(9));
        assert_eq!(demand(&[(IF_MATCH, "\"ffffffff-7\"")], Some(7)), None);
        assert_eq!(demand(&[(IF_NONE_MATCH, "\"0123abcd-7\"")], None), None);
        assert_eq!(demand(&[(IF_NONE_MATCH, "*"), (IF_MATCH, "*")], None), None);
        for empty in ["", " ", ",", " , "] {
            assert_eq!(demand(&[(IF_MATCH, empty)], Some(7)), None, "no condition");
            assert_eq!(demand(&[(IF_NONE_MATCH, empty)], Some(7)), None);
        }
    }
}
