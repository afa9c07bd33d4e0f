//! One revision as it is told to many clients.
//!
//! Guarantees: what clients are told of a revision is encoded once for all that are told the same of it, whichever
//! prefixes led there, and shared by reference; a revision that would take too much memory that way is encoded part by part
//! for each.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::body::Bytes;

use super::events::Published;
use super::frames::{Framing, Other};
use super::hub::Channel;
use super::interest::Interest;
use super::parts::{Items, Parts};
use crate::core::{Change, ChangeSet, Cursor, Entry, Key};
use crate::server::scope::Scope;
use crate::store::{Recorded, RecordedChange};
use crate::wire::{ChangeView, json};

/// A revision with longer values than these is not kept in encoded form.
const MAX_SHARED: usize = 4 * 1_048_576;

/// Encodings of one revision that are kept: more than there are ways to cut a usual revision by prefixes.
const MAX_CUTS: usize = 64;

/// Bytes of encodings that are kept of any revision; of a large one twice what it weighs more, for one of either transport.
const MIN_KEPT: usize = 16 * 1024;

/// One revision.
pub(super) struct Told {
    cursor: Cursor,
    /// When this server heard of it.
    at: SystemTime,
    changes: Changes,
    weight: usize,
    /// Bytes of the encodings.
    kept: AtomicUsize,
    encoded: Mutex<Vec<(Cut, Encoded)>>,
}

/// Where it was heard of.
enum Changes {
    Applied {
        set: Arc<ChangeSet>,
        /// With those that kept their value and got a new revision, where there are any.
        exact: Option<Arc<ChangeSet>>,
    },
    /// In byte order of their keys, with the time of their transaction.
    Recorded(Vec<RecordedChange>, Option<SystemTime>),
}

/// Which changes are told, and how.
#[derive(Clone, PartialEq, Eq)]
struct Cut {
    ranges: Ranges,
    all: bool,
    framing: Framing,
    other: Other,
}

/// Neighbouring changes; several where a scope has several prefixes.
type Ranges = Vec<Range<usize>>;

/// What a client with some scope is told.
pub(super) enum Telling {
    /// Nothing of it concerns that one.
    Nothing,
    One(Bytes),
    Many(Arc<[Bytes]>),
    /// Too much to be kept.
    Parts(Parts),
}

#[derive(Clone)]
enum Encoded {
    One(Bytes),
    Many(Arc<[Bytes]>),
}

impl Told {
    pub(super) fn applied(set: Arc<ChangeSet>, at: SystemTime) -> Self {
        let texts = |change: &Change| {
            let length =
                |entry: Option<&Arc<Entry>>| entry.map_or(0, |entry| entry.as_json().len());
            size_of::<Change>() + change.key().len() + length(change.old()) + length(change.new())
        };
        let weight = set.changes().iter().map(texts).sum();
        let cursor = set.cursor();
        let (set, exact) = if set.changes().iter().any(is_silent) {
            let changes = set.changes().iter().filter(|change| !is_silent(change));
            let changes = changes.cloned().collect();
            (Arc::new(ChangeSet { changes, ..*set }), Some(set))
        } else {
            (set, None)
        };
        Self::new(cursor, at, Changes::Applied { set, exact }, weight)
    }

    pub(super) fn recorded(recorded: Recorded, at: SystemTime) -> Self {
        let time = recorded.time();
        let Recorded {
            cursor,
            mut changes,
            ..
        } = recorded;
        changes.sort_unstable_by(|one, two| one.key.cmp(&two.key));
        let length = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        let texts = |change: &RecordedChange| {
            size_of::<RecordedChange>()
                + change.key.len()
                + length(&change.old)
                + length(&change.new)
        };
        let weight = changes.iter().map(texts).sum();
        Self::new(cursor, at, Changes::Recorded(changes, time), weight)
    }

    fn new(cursor: Cursor, at: SystemTime, changes: Changes, weight: usize) -> Self {
        Self {
            cursor,
            at,
            changes,
            weight: weight + size_of::<Self>(),
            kept: AtomicUsize::new(0),
            encoded: Mutex::default(),
        }
    }

    pub(super) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The memory that it may take.
    pub(super) fn weight(&self) -> usize {
        self.weight + self.kept.load(Ordering::Relaxed)
    }

    /// Whether it concerns somebody.
    pub(super) fn concerns(&self, interest: &Interest) -> bool {
        !self.matching(interest, false).is_empty()
    }

    /// What a client is told; with `all` also of a revision of which nothing matches. `other` is its place elsewhere.
    pub(super) fn tell(
        self: &Arc<Self>,
        channel: &Channel,
        framing: Framing,
        other: &Other,
    ) -> Telling {
        let (interest, all) = (channel.interest(), channel.all());
        let ranges = self.matching(interest, all);
        if ranges.is_empty() && !all {
            return Telling::Nothing;
        }
        let cut = Cut {
            ranges,
            all,
            framing,
            other: other.clone(),
        };
        let events = matches!(interest, Interest::Events { .. });
        if self.weight > MAX_SHARED && !events {
            return Telling::Parts(self.parts(&cut));
        }
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = encoded.iter().find(|(known, _)| *known == cut) {
            return found.clone().into();
        }
        let made = if events {
            self.events(&cut)
        } else {
            self.encode(&cut)
        };
        let kept = self.kept.load(Ordering::Relaxed) + made.bytes();
        if encoded.len() < MAX_CUTS && kept <= 2 * self.weight + MIN_KEPT {
            encoded.push((cut, made.clone()));
            self.kept.store(kept, Ordering::Relaxed);
        }
        made.into()
    }

    fn encode(self: &Arc<Self>, cut: &Cut) -> Encoded {
        let mut parts = self.parts(cut);
        let mut frames = Vec::with_capacity(1);
        while parts.push_next(&mut frames) {}
        frames.into()
    }

    fn parts(self: &Arc<Self>, cut: &Cut) -> Parts {
        let (told, ranges, all) = (self.clone(), cut.ranges.clone(), cut.all);
        let items: Items = Box::new(
            ranges
                .into_iter()
                .flatten()
                .filter_map(move |at| told.item(at, all)),
        );
        let place = (self.cursor, cut.other.beside(self.cursor));
        Parts::changed(cut.framing, place, self.at, items)
    }

    /// The published events among the changes, each a message; the last one has the cursor.
    fn events(&self, cut: &Cut) -> Encoded {
        let values = cut
            .ranges
            .iter()
            .cloned()
            .flatten()
            .filter_map(|at| match &self.changes {
                Changes::Applied { set, .. } => Some(set.changes().get(at)?.new()?.as_json()),
                Changes::Recorded(changes, _) => changes.get(at)?.new.as_deref(),
            });
        let mut events = values.filter_map(Published::read).peekable();
        let (mut frames, place) = (Vec::with_capacity(1), cut.other.beside(self.cursor));
        while let Some(event) = events.next() {
            let last = events.peek().is_none();
            event.push(
                cut.framing,
                last.then_some(place.as_str()),
                self.at,
                &mut frames,
            );
        }
        frames.into()
    }

    fn item(&self, at: usize, all: bool) -> Option<String> {
        let (view, time) = match &self.changes {
            Changes::Applied { set, exact } => {
                let exact = exact.as_ref().filter(|_| all);
                let change = exact.unwrap_or(set).changes().get(at)?;
                let time = change.new().map(|entry| entry.updated_at());
                (ChangeView::from(change), time)
            }
            Changes::Recorded(changes, time) => (ChangeView::from(changes.get(at)?), *time),
        };
        if all {
            return Some(json(&view.made_by(self.cursor.revision, time)));
        }
        Some(json(&view))
    }

    fn matching(&self, interest: &Interest, all: bool) -> Ranges {
        match (&self.changes, interest) {
            (Changes::Applied { set, exact }, Interest::Keys(scope)) => {
                let exact = exact.as_ref().filter(|_| all);
                matching(exact.unwrap_or(set).changes(), scope, |change| change.key())
            }
            (Changes::Recorded(changes, _), Interest::Keys(scope)) => {
                matching(changes, scope, |change| &change.key)
            }
            (Changes::Applied { set, .. }, _) => addressed(
                interest,
                set.changes()
                    .iter()
                    .map(|change| (change.key(), change.new().is_some())),
            ),
            (Changes::Recorded(changes, _), _) => addressed(
                interest,
                changes
                    .iter()
                    .map(|change| (&change.key, change.new.is_some())),
            ),
        }
    }
}

/// Where the events for a client are among changes; there are few in a revision.
fn addressed<'a>(interest: &Interest, changes: impl Iterator<Item = (&'a Key, bool)>) -> Ranges {
    let addressed = changes
        .enumerate()
        .filter(|(_, (key, put))| *put && interest.is_addressed(key));
    addressed.map(|(at, _)| at..at + 1).collect()
}

/// Whether a change is none but for the revision of its entry.
fn is_silent(change: &Change) -> bool {
    matches!((change.old(), change.new()), (Some(old), Some(new)) if Arc::ptr_eq(old, new))
}

/// Where the changes of a scope are among changes in byte order of their keys.
fn matching<T>(changes: &[T], scope: &Scope, key: impl Fn(&T) -> &str) -> Ranges {
    let mut ranges = Ranges::new();
    for prefix in scope.prefixes() {
        let from = changes.partition_point(|change| key(change) < &**prefix);
        let rest = changes.get(from..).unwrap_or_default();
        let length = rest.partition_point(|change| key(change).starts_with(&**prefix));
        match ranges.last_mut() {
            _ if length == 0 => {}
            // Neighbours are one range, so that scopes which are told the same have the same ranges.
            Some(last) if last.end == from => last.end = from + length,
            _ => ranges.push(from..from + length),
        }
    }
    ranges
}

impl Encoded {
    fn bytes(&self) -> usize {
        match self {
            Self::One(frame) => frame.len(),
            Self::Many(frames) => frames.iter().map(Bytes::len).sum(),
        }
    }
}

impl From<Vec<Bytes>> for Encoded {
    fn from(frames: Vec<Bytes>) -> Self {
        match <[Bytes; 1]>::try_from(frames) {
            Ok([only]) => Self::One(only),
            Err(many) => Self::Many(many.into()),
        }
    }
}

impl From<Encoded> for Telling {
    fn from(encoded: Encoded) -> Self {
        match encoded {
            Encoded::One(frame) => Self::One(frame),
            Encoded::Many(frames) => Self::Many(frames),
        }
    }
}
