//! What has to be done so that a store holds certain entries.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::sync::Arc;

use crate::core::{Checksum, Entry, Fold, Key, Value};
use crate::wire::{ChangeView, json};
use crate::write::{Batch, Precondition};

/// An entry that a store is to have. The value's text is the canonical one.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) key: Key,
    pub(super) value: Value,
}

/// What becomes of one key.
#[derive(Debug)]
pub(super) enum Step {
    Keep(Arc<Entry>),
    Add(Wanted),
    Replace(Arc<Entry>, Wanted),
    /// A key that is not wanted, and stays.
    Spare(Arc<Entry>),
    Delete(Arc<Entry>),
}

/// The way from what is there to what is wanted, in the order of the keys.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) counts: Counts,
}

/// How many keys of each kind there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) unchanged: usize,
    pub(super) added: usize,
    pub(super) replaced: usize,
    pub(super) spared: usize,
    pub(super) deleted: usize,
}

impl Plan {
    /// Compares what is wanted with what is there, both in the order of their keys.
    pub(super) fn new(
        wanted: impl IntoIterator<Item = Wanted>,
        present: &[Arc<Entry>],
        delete: bool,
    ) -> Self {
        let mut plan = Self::default();
        let mut wanted = wanted.into_iter().peekable();
        let mut present = present.iter().peekable();
        while let Some(step) = next(&mut wanted, &mut present, delete) {
            let counts = &mut plan.counts;
            *match &step {
                Step::Keep(_) => &mut counts.unchanged,
                Step::Add(_) => &mut counts.added,
                Step::Replace(..) => &mut counts.replaced,
                Step::Spare(_) => &mut counts.spared,
                Step::Delete(_) => &mut counts.deleted,
            } += 1;
            plan.steps.push(step);
        }
        plan
    }

    /// How many keys it writes.
    pub(super) fn changes(&self) -> usize {
        let Counts {
            added,
            replaced,
            deleted,
            ..
        } = self.counts;
        added + replaced + deleted
    }

    /// The bytes of the keys and values that it writes.
    pub(super) fn bytes(&self) -> usize {
        let bytes = |step: &Step| match step {
            Step::Add(wanted) | Step::Replace(_, wanted) => {
                wanted.key.len() + wanted.value.as_json().len()
            }
            Step::Delete(entry) => entry.key().len(),
            Step::Keep(_) | Step::Spare(_) => 0,
        };
        self.steps.iter().map(bytes).sum()
    }

    /// Its writes, each on the condition that the key is what this plan has seen.
    pub(super) fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        for step in &self.steps {
            batch = match step {
                Step::Keep(_) | Step::Spare(_) => batch,
                Step::Add(new) => {
                    batch.put_value(&new.key, new.value.clone(), Some(Precondition::Absent))
                }
                Step::Replace(old, new) => {
                    let unchanged = Precondition::Revision(old.revision());
                    batch.put_value(&new.key, new.value.clone(), Some(unchanged))
                }
                Step::Delete(old) => {
                    batch.delete_if(old.key(), Precondition::Revision(old.revision()))
                }
            };
        }
        batch
    }

    /// The checksum of what is there afterwards.
    pub(super) fn expected(&self) -> Checksum {
        let mut fold = Fold::default();
        for step in &self.steps {
            match step {
                Step::Keep(entry) | Step::Spare(entry) => fold.add(entry.key(), entry.as_json()),
                Step::Add(new) | Step::Replace(_, new) => fold.add(&new.key, new.value.as_json()),
                Step::Delete(_) => {}
            }
        }
        fold.finish()
    }

    /// Keys of the store that are not wanted.
    pub(super) fn spared(&self) -> impl Iterator<Item = &Key> {
        self.steps.iter().filter_map(|step| match step {
            Step::Spare(entry) => Some(entry.key()),
            _ => None,
        })
    }
}

impl Step {
    /// The change as one of a revision's, for programs; `None` for what stays as it is.
    pub(super) fn as_json(&self) -> Option<String> {
        let (key, old, new) = match self {
            Self::Keep(_) | Self::Spare(_) => return None,
            Self::Add(new) => (&new.key, None, Some(new)),
            Self::Replace(old, new) => (&new.key, Some(old), Some(new)),
            Self::Delete(old) => (old.key(), Some(old), None),
        };
        let old = old.map(|entry| entry.as_json());
        let new = new.map(|wanted| wanted.value.as_json());
        Some(json(&ChangeView::of(key, old, new)))
    }
}

fn next<'a>(
    wanted: &mut Peekable<impl Iterator<Item = Wanted>>,
    present: &mut Peekable<impl Iterator<Item = &'a Arc<Entry>>>,
    delete: bool,
) -> Option<Step> {
    let order = match (wanted.peek(), present.peek()) {
        (Some(wanted), Some(present)) => wanted.key.as_str().cmp(present.key()),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => return None,
    };
    Some(match order {
        Ordering::Less => Step::Add(wanted.next()?),
        Ordering::Greater if delete => Step::Delete(present.next()?.clone()),
        Ordering::Greater => Step::Spare(present.next()?.clone()),
        Ordering::Equal => {
            let (wanted, present) = (wanted.next()?, present.next()?.clone());
            if wanted.value.as_json() == present.as_json() {
                Step::Keep(present)
            } else {
                Step::Replace(present, wanted)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Revision;

    fn wanted(key: &str, json: &str) -> Wanted {
        Wanted {
            key: Key::parse(key).unwrap(),
            value: Value::parse(json).unwrap(),
        }
    }

    fn present(key: &str, json: &str) -> Arc<Entry> {
        let Wanted { key, value } = wanted(key, json);
        Arc::new(Entry::new(key, value, Revision::new(7), 0))
    }

    #[test]
    fn only_what_differs_is_written_and_a_strange_key_stays_unless_it_is_to_go() {
        let there = [
            present("a", "1"),
            present("b", "2"),
            present("d", "4"),
            present("z", "9"),
        ];
        let wished = || {
            [
                wanted("0", "0"),
                wanted("a", "1"),
                wanted("b", "3"),
                wanted("c", "3"),
            ]
        };
        let plan = Plan::new(wished(), &there, false);
        let expected = Counts {
            unchanged: 1,
            added: 2,
            replaced: 1,
            spared: 2,
            deleted: 0,
        };
        assert_eq!((plan.counts, plan.changes()), (expected, 3));
        assert_eq!(plan.batch().len(), 3);
        let spared: Vec<&str> = plan.spared().map(Key::as_str).collect();
        assert_eq!(spared, ["d", "z"]);
        let plan = Plan::new(wished(), &there, true);
        assert_eq!((plan.counts.deleted, plan.counts.spared), (2, 0));
        assert_eq!(plan.batch().len(), 5);
        let mut fold = Fold::default();
        for wanted in wished() {
            fold.add(&wanted.key, wanted.value.as_json());
        }
        assert_eq!(plan.expected(), fold.finish());
        let told: Vec<String> = plan.steps.iter().filter_map(Step::as_json).collect();
        assert_eq!(told[1], r#"{"key":"b","kind":"put","old":2,"new":3}"#);
        assert_eq!(told[3], r#"{"key":"d","kind":"delete","old":4}"#);
    }
}
