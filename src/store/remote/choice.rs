//! Which of the servers is asked.
//!
//! Guarantees: the first one is chosen by chance, so that clients spread; one that answers is stayed with; one that fails
//! comes last, and the others before it in an order of chance, so that not all clients of a dead server meet at the same
//! one; one that asks for time is left alone for so long.

use std::time::Duration;

use crate::core::backoff::Random;

/// How long a server that asks for time is left alone at most, whatever it asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Which server is to be asked.
#[derive(Debug)]
pub(super) struct Choice {
    preferred: usize,
    /// The one that failed last.
    failed: Option<usize>,
    /// When each may be asked again.
    not_before: Vec<Duration>,
    random: Random,
}

impl Choice {
    pub(super) fn new(servers: usize, seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        Self {
            preferred: below(servers, &mut random),
            failed: None,
            not_before: vec![Duration::ZERO; servers],
            random,
        }
    }

    /// The servers that may be asked now, in the order to ask them.
    pub(super) fn order(&mut self, now: Duration) -> Vec<usize> {
        let mut order = self.every();
        order.retain(|server| {
            self.not_before
                .get(*server)
                .is_some_and(|until| *until <= now)
        });
        order
    }

    /// All servers in the order to ask them, those too that want no new session now.
    pub(super) fn every(&mut self) -> Vec<usize> {
        let mut others: Vec<usize> = (0..self.not_before.len()).collect();
        for at in (1..others.len()).rev() {
            let with = below(at + 1, &mut self.random);
            others.swap(at, with);
        }
        let (preferred, failed) = (self.preferred, self.failed);
        others.sort_by_key(|server| match *server {
            server if Some(server) == failed => 2,
            server if server == preferred => 0,
            _ => 1,
        });
        others
    }

    /// Notes that a server answered.
    pub(super) fn good(&mut self, server: usize) {
        self.preferred = server;
        self.failed = None;
    }

    /// Notes that a server failed, and how long it wants to be left alone.
    pub(super) fn bad(&mut self, server: usize, now: Duration, pause: Option<Duration>) {
        self.failed = Some(server);
        if let Some(pause) = pause {
            self.leave(server, now, pause);
        }
    }

    /// Notes how long a server wants no new session.
    pub(super) fn leave(&mut self, server: usize, now: Duration, pause: Duration) {
        if let Some(not_before) = self.not_before.get_mut(server) {
            *not_before = now + pause.min(LONGEST_PAUSE);
        }
    }

    /// How long until the first of them may be asked.
    pub(super) fn pause(&self, now: Duration) -> Duration {
        let soonest = self.not_before.iter().min().copied();
        soonest.unwrap_or_default().saturating_sub(now)
    }
}

fn below(bound: usize, random: &mut Random) -> usize {
    let number = random.next() % (bound.max(1) as u64);
    usize::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_begin_at_servers_of_chance_and_stay_with_the_good_one() {
        let mut first = [0; 4];
        for seed in 0..400 {
            let mut choice = Choice::new(4, seed);
            first[choice.order(Duration::ZERO)[0]] += 1;
            choice.good(2);
            assert_eq!(choice.order(Duration::ZERO)[0], 2);
        }
        assert!(first.iter().all(|count| *count > 50), "{first:?}");
    }

    #[test]
    fn one_that_failed_comes_last_and_its_clients_spread() {
        let mut next = [0; 4];
        for seed in 0..300 {
            let mut choice = Choice::new(4, seed);
            choice.good(1);
            choice.bad(1, Duration::ZERO, None);
            let order = choice.order(Duration::ZERO);
            assert_eq!((order.len(), order[3]), (4, 1));
            next[order[0]] += 1;
        }
        assert!(next[1] == 0 && next.iter().filter(|count| **count > 50).count() == 3);
    }

    #[test]
    fn one_that_asks_for_time_is_left_alone_for_so_long_and_no_longer_than_five_minutes() {
        let mut choice = Choice::new(2, 7);
        let second = Duration::from_secs(1);
        choice.bad(0, second, Some(second * 10));
        choice.bad(1, second, Some(Duration::MAX));
        assert!(choice.order(second * 2).is_empty());
        assert_eq!(choice.pause(second * 2), second * 9);
        assert_eq!(choice.order(second * 11), [0]);
        assert_eq!(choice.order(second * 301).len(), 2);
    }
}
