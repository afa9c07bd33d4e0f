//! Subscribers of the small world.

use super::{Subscriber, World, within};
use crate::chaos::history::{Event, Scope, Told};

impl World {
    pub(super) fn subscribe(&mut self, at: usize, name: &str, scope: Scope) {
        let subscriber = name.to_owned();
        self.instances[at]
            .subscribers
            .retain(|known| known.name != name);
        self.instances[at].subscribers.push(Subscriber {
            name: subscriber.clone(),
            scope: scope.clone(),
            waiting: None,
        });
        let began = Event::Subscribed {
            subscriber,
            filter: scope.clone(),
            from: None,
        };
        self.told(at, began);
        let state = Told::State(within(&self.instances[at].texts, &scope));
        self.deliver(at, name, state);
    }

    pub(super) fn deliver(&mut self, at: usize, subscriber: &str, told: Told) {
        let place = self.instances[at].place.clone().unwrap();
        let subscriber = subscriber.to_owned();
        self.told(
            at,
            Event::Delivered {
                subscriber,
                place,
                told,
            },
        );
    }

    pub(crate) fn block(&mut self, at: usize, subscriber: usize) {
        let blocked = &mut self.instances[at].subscribers[subscriber];
        if blocked.waiting.is_none() {
            blocked.waiting = Some(0);
            let subscriber = blocked.name.clone();
            let place = self.instances[at].place.clone().unwrap();
            self.told(at, Event::Held { subscriber, place });
        }
    }

    /// Tells a subscriber that was blocked how much it missed, and the state.
    pub(crate) fn unblock(&mut self, at: usize, subscriber: usize) {
        let subscriber = &mut self.instances[at].subscribers[subscriber];
        let Some(missed) = subscriber.waiting.take() else {
            return;
        };
        let (name, scope) = (subscriber.name.clone(), subscriber.scope.clone());
        let place = self.instances[at].place.clone().unwrap();
        let subscriber = name.clone();
        self.told(at, Event::Freed { subscriber, place });
        if missed > 0 {
            let state = within(&self.instances[at].texts, &scope);
            self.deliver(at, &name, Told::Lagged { missed, state });
        }
    }

    pub(crate) fn bookmark(&mut self, at: usize, subscriber: usize) {
        let subscriber = &self.instances[at].subscribers[subscriber];
        if subscriber.waiting.is_none() {
            let name = subscriber.name.clone();
            self.deliver(at, &name, Told::Bookmark);
        }
    }

    /// A stream is cut and goes on from where it was.
    pub(crate) fn resume(&mut self, at: usize, subscriber: usize) {
        let resumed = &self.instances[at].subscribers[subscriber];
        if resumed.waiting.is_none() {
            let began = Event::Subscribed {
                subscriber: resumed.name.clone(),
                filter: resumed.scope.clone(),
                from: self.instances[at].place.clone(),
            };
            self.told(at, began);
        }
    }
}
