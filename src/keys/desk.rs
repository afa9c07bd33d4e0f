//! Making, renewing, listing and revoking keys, in the store that they are in.
//!
//! Guarantees: two of these at the same time never leave an identity with more than two keys, nor take a record away that was not
//! looked at: every write says what it expects of both places, and the database decides.

use std::time::{Duration, SystemTime};

use super::record::{Listed, Name, Record, Role, place};
use super::token::{KeyId, Token};
use crate::core::{Entry, Revision, Snapshot};
use crate::error::Error;
use crate::service::ConfigService;
use crate::sync_config::SyncConfig;
use crate::write::{Batch, Precondition};

/// Why an entry that cannot be read is not written over.
const STRANGE: &str = "it has an entry that is no key to this version, and may be one to a later version; \
     use that version, or take all that it has with `revoke`, without --id, and create it anew";

/// What a key is to be.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) role: Role,
    /// Every key where there is none.
    pub(crate) prefixes: Vec<String>,
    pub(crate) lifetime: Option<Duration>,
    pub(crate) requests_per_minute: Option<u32>,
}

/// Why it was not done.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The identity has no such key.
    Missing,
    /// The identity has as many keys as it may, for what was asked.
    Taken(&'static str),
    Library(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

/// One of an identity's two places, as it was found.
struct Slot {
    key: String,
    revision: Option<Revision>,
    /// What it holds, if that can be read.
    record: Option<Record>,
}

impl Slot {
    /// Expects it as it was found.
    fn condition(&self) -> Precondition {
        (self.revision).map_or(Precondition::Absent, Precondition::Revision)
    }

    fn live(&self, now: SystemTime) -> Option<&Record> {
        self.record.as_ref().filter(|record| record.is_live(now))
    }

    /// Whether it holds something that is no record to this version, of a later one perhaps, on whose servers it lets somebody in.
    fn is_strange(&self) -> bool {
        self.revision.is_some() && self.record.is_none()
    }

    /// Empties it, if it holds something.
    fn empty(&self, batch: Batch) -> Batch {
        match self.revision {
            Some(_) => batch.delete_if(&self.key, self.condition()),
            None => batch,
        }
    }
}

fn slots(service: &ConfigService, name: &Name) -> Result<[Slot; 2], Error> {
    let snapshot = service.snapshot()?;
    Ok(name.slots().map(|key| {
        let entry = snapshot.get(&key);
        Slot {
            revision: entry.map(|entry| entry.revision()),
            record: entry.and_then(|entry| Some(place(entry).ok()?.1)),
            key,
        }
    }))
}

/// Makes the first key of an identity; expired ones of it go.
///
/// # Errors
///
/// [`Refusal::Taken`] when it has a key that is live, or something that is none to this version.
pub(crate) async fn create(
    service: &ConfigService,
    name: &Name,
    wish: Wish,
    now: SystemTime,
) -> Result<(Token, Record), Refusal> {
    let [first, second] = slots(service, name)?;
    if first.live(now).or(second.live(now)).is_some() {
        return Err(Refusal::Taken(
            "it has a key already; `rotate` gives it a second one, `revoke` takes what it has",
        ));
    }
    if first.is_strange() || second.is_strange() {
        return Err(Refusal::Taken(STRANGE));
    }
    let token = Token::draw()?;
    let record = Record {
        id: token.id(),
        hash: token.digest(),
        role: wish.role,
        prefixes: if wish.prefixes.is_empty() {
            vec![String::new()]
        } else {
            wish.prefixes
        },
        created_at: now,
        expires_at: ends(now, wish.lifetime)?,
        requests_per_minute: wish.requests_per_minute,
    };
    let batch = Batch::new().put_if(&first.key, &record, first.condition());
    write(service, second.empty(batch)).await?;
    Ok((token, record))
}

/// Makes a second key of an identity, with the rights of the one that it has. That one goes on until `old_ends` is over, or until
/// it is revoked.
///
/// # Errors
///
/// [`Refusal::Missing`] when it has none that is live, [`Refusal::Taken`] when it has two, or one and something that is none to this
/// version.
pub(crate) async fn rotate(
    service: &ConfigService,
    name: &Name,
    lifetime: Option<Duration>,
    old_ends: Option<Duration>,
    now: SystemTime,
) -> Result<(Token, Record), Refusal> {
    let [first, second] = slots(service, name)?;
    if first.is_strange() || second.is_strange() {
        return Err(Refusal::Taken(STRANGE));
    }
    let (old, free) = match (first.live(now), second.live(now)) {
        (Some(_), Some(_)) => {
            return Err(Refusal::Taken(
                "it has two keys already; `revoke --id` takes the old one",
            ));
        }
        (Some(_), None) => (&first, &second),
        (None, Some(_)) => (&second, &first),
        (None, None) => return Err(Refusal::Missing),
    };
    let Some(model) = old.record.clone() else {
        return Err(Refusal::Missing);
    };
    // Without a word it lives as long as the one before it did.
    let lived = (model.expires_at).and_then(|end| end.duration_since(model.created_at).ok());
    let token = Token::draw()?;
    let record = Record {
        id: token.id(),
        hash: token.digest(),
        created_at: now,
        expires_at: ends(now, lifetime.or(lived))?,
        ..model.clone()
    };
    let mut kept = model.clone();
    if let Some(rest) = old_ends {
        let end = ends(now, Some(rest))?;
        kept.expires_at = match (model.expires_at, end) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
    }
    // It is put again also as it was: so it is still there when the new one is.
    let batch = Batch::new()
        .put_if(&free.key, &record, free.condition())
        .put_if(&old.key, &kept, old.condition());
    write(service, batch).await?;
    Ok((token, record))
}

/// Takes an identity's keys away, or the one of an id. Answers with the ids of those that could be read.
///
/// # Errors
///
/// [`Refusal::Missing`] when there is none.
pub(crate) async fn revoke(
    service: &ConfigService,
    name: &Name,
    only: Option<KeyId>,
) -> Result<Vec<KeyId>, Refusal> {
    let mut batch = Batch::new();
    let mut revoked = Vec::new();
    for slot in slots(service, name)? {
        let id = slot.record.as_ref().map(|record| record.id);
        if only.is_none_or(|only| id == Some(only)) {
            batch = slot.empty(batch);
            revoked.extend(id);
        }
    }
    if batch.is_empty() {
        return Err(Refusal::Missing);
    }
    write(service, batch).await?;
    Ok(revoked)
}

/// The keys, in the order of their identities; and the entries that are none, with why.
pub(crate) fn list(
    snapshot: &Snapshot,
    now: SystemTime,
) -> (Vec<Listed>, Vec<(&Entry, &'static str)>) {
    let (mut keys, mut wrong) = (Vec::new(), Vec::new());
    for entry in snapshot.iter() {
        match place(entry) {
            Ok((name, record)) => keys.push(Listed::new(&name, &record, now)),
            Err(problem) => wrong.push((&**entry, problem)),
        }
    }
    (keys, wrong)
}

async fn write(service: &ConfigService, batch: Batch) -> Result<(), Error> {
    service.write(batch.actor("sync-config keys")).await?;
    Ok(())
}

fn ends(now: SystemTime, lifetime: Option<Duration>) -> Result<Option<SystemTime>, Error> {
    let Some(lifetime) = lifetime else {
        return Ok(None);
    };
    match now.checked_add(lifetime) {
        Some(end) => Ok(Some(end)),
        None => Err(Error::setting(
            "expires",
            "…",
            "is beyond the end of the calendar",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::service::Builder;
    use crate::store::memory::MemoryDatabase;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;
    const HOUR: Duration = Duration::from_secs(3_600);

    async fn service(database: &MemoryDatabase) -> Arc<ConfigService> {
        Builder::memory(database).start().await.unwrap()
    }

    fn wish(lifetime: Option<Duration>) -> Wish {
        Wish {
            role: Role::Read,
            prefixes: vec!["a/".to_owned()],
            lifetime,
            requests_per_minute: None,
        }
    }

    fn live(service: &ConfigService, now: SystemTime) -> Vec<KeyId> {
        let snapshot = service.snapshot().unwrap();
        let listed = list(&snapshot, now).0.into_iter();
        listed
            .filter(|key| !key.expired)
            .map(|key| key.id)
            .collect()
    }

    #[tokio::test]
    async fn an_identity_has_two_keys_at_most_and_each_goes_by_itself() {
        let at = service(&MemoryDatabase::new()).await;
        let name = Name::parse("gateway").unwrap();
        let rotated = rotate(&at, &name, None, None, NOW).await;
        assert!(matches!(rotated, Err(Refusal::Missing)), "{rotated:?}");
        let (first, _) = create(&at, &name, wish(Some(HOUR)), NOW).await.unwrap();
        let again = create(&at, &name, wish(None), NOW).await;
        assert!(matches!(again, Err(Refusal::Taken(_))), "{again:?}");
        let later = NOW + HOUR / 2;
        let (second, record) = rotate(&at, &name, None, None, later).await.unwrap();
        assert_eq!(
            record.expires_at,
            Some(later + HOUR),
            "as long as the first"
        );
        assert_eq!(record.prefixes, ["a/"]);
        let third = rotate(&at, &name, None, None, later).await;
        assert!(matches!(third, Err(Refusal::Taken(_))), "{third:?}");
        let gone = revoke(&at, &name, Some(first.id())).await.unwrap();
        assert_eq!(
            (gone, live(&at, later)),
            (vec![first.id()], vec![second.id()])
        );
        let (third, _) = rotate(&at, &name, None, Some(HOUR / 4), later)
            .await
            .unwrap();
        assert_eq!(live(&at, later).len(), 2);
        assert_eq!(live(&at, later + HOUR / 4), [third.id()]);
        assert_eq!(revoke(&at, &name, None).await.unwrap().len(), 2);
        assert!(matches!(
            revoke(&at, &name, None).await,
            Err(Refusal::Missing)
        ));
        at.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn what_a_later_version_wrote_is_not_written_over() {
        let at = service(&MemoryDatabase::new()).await;
        let name = Name::parse("gateway").unwrap();
        for (place, beside) in [("gateway/a", "gateway/b"), ("gateway/b", "gateway/a")] {
            let later = Batch::new().put(place, serde_json::json!({ "version": 2 }));
            at.write(later).await.unwrap();
            let refused = create(&at, &name, wish(None), NOW).await;
            assert!(matches!(refused, Err(Refusal::Taken(why)) if why.contains("revoke")));
            // Beside a key of this version, too.
            let (token, record) = (Token::draw().unwrap(), wish(None));
            let record = Record {
                id: token.id(),
                hash: token.digest(),
                role: record.role,
                prefixes: record.prefixes,
                created_at: NOW,
                expires_at: None,
                requests_per_minute: None,
            };
            at.write(Batch::new().put(beside, &record)).await.unwrap();
            let refused = rotate(&at, &name, None, None, NOW).await;
            assert!(matches!(refused, Err(Refusal::Taken(why)) if why.contains("revoke")));
            assert!(at.get(place).unwrap().is_some(), "it is still there");
            assert_eq!(revoke(&at, &name, None).await.unwrap(), [token.id()]);
            assert!(at.get(place).unwrap().is_none());
        }
        create(&at, &name, wish(None), NOW).await.unwrap();
        at.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn of_two_that_make_a_key_at_once_one_is_refused() {
        let database = MemoryDatabase::new();
        let (one, two) = (service(&database).await, service(&database).await);
        let name = Name::parse("gateway").unwrap();
        let (left, right) = tokio::join!(
            create(&one, &name, wish(None), NOW),
            create(&two, &name, wish(None), NOW)
        );
        assert!(left.is_ok() != right.is_ok(), "{left:?} {right:?}");
        let (left, right) = tokio::join!(
            rotate(&one, &name, None, None, NOW),
            rotate(&two, &name, None, None, NOW)
        );
        assert!(left.is_ok() != right.is_ok(), "{left:?} {right:?}");
        let shown = [&one, &two].map(|at| at.snapshot().unwrap().cursor());
        let [left, right] = shown;
        let newest = if left.revision > right.revision {
            left
        } else {
            right
        };
        for at in [one, two] {
            at.wait_for(newest.into(), HOUR).await.unwrap();
            assert_eq!(at.snapshot().unwrap().len(), 2);
            at.shutdown().await.unwrap();
        }
    }
}
