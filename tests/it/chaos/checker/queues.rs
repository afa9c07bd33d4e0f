//! What a subscriber that does not come back from its callback costs.

use super::Findings;
use super::view::{Life, Step, Subscriber, View};
use crate::chaos::history::{Event, Place, Record, Told};

/// S9: of the revisions that come while a subscriber is held no more wait for it than its queue takes. That the others are
/// told as lag is seen to elsewhere.
pub(super) fn bounded(view: &View<'_>, findings: &mut Findings<'_>) {
    for (name, life) in &view.lives {
        for (record, subscriber, place) in &life.held {
            let known = view.subscribers.get(&(*name, *subscriber));
            let freed = freed(life, record, subscriber);
            let (Some(known), Some((freed, newest))) = (known, freed) else {
                continue;
            };
            let waited = waited(view, known, freed, (place, newest));
            if waited > view.bounds.queue {
                let expected = format!("at most {} revisions to wait", view.bounds.queue);
                findings.add(freed, newest.revision, expected, waited.to_string());
            }
        }
    }
}

/// When a subscriber that was held is freed.
fn freed<'a>(life: &Life<'a>, held: &Record, of: &str) -> Option<(&'a Record, &'a Place)> {
    if !matches!(held.event, Event::Held { .. }) {
        return None;
    }
    let mut later = life.held.iter().filter(|(record, ..)| record.at > held.at);
    let (record, _, place) = later.find(|(_, subscriber, _)| *subscriber == of)?;
    matches!(record.event, Event::Freed { .. }).then_some((*record, *place))
}

/// How many of the revisions between two places a subscriber is told after it was freed.
fn waited(
    view: &View<'_>,
    subscriber: &Subscriber<'_>,
    freed: &Record,
    (after, to): (&Place, &Place),
) -> usize {
    if view.common(after, to).is_none() {
        return 0;
    }
    let steps = subscriber.steps.iter();
    let told = steps.filter(|(record, step)| match step {
        Step::Told(place, Told::Changed(_)) => {
            let within = after.revision < place.revision && place.revision <= to.revision;
            record.at >= freed.at && within && view.common(place, to).is_some()
        }
        Step::Told(..) | Step::Began(_) => false,
    });
    told.count()
}
