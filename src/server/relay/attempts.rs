//! How often an address asks for a WebSocket.
//!
//! Guarantees: an address that asks more often than allowed within a minute is refused, and told when it may ask again; what
//! is remembered of addresses is bounded, and forgotten a minute after they asked last.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::runtime::Clock;

/// The time over which attempts are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered. Those who have more to spend are not kept out by counting.
const MAX_ADDRESSES: usize = 10_000;

/// Who asked how often.
pub(super) struct Attempts {
    clock: Clock,
    /// In a window; 0 is no limit.
    most: u32,
    /// When each address would have asked all of its attempts, were they evenly spread.
    known: Mutex<HashMap<IpAddr, Duration>>,
}

impl Attempts {
    pub(super) fn new(clock: Clock, most: u32) -> Self {
        Self {
            clock,
            most,
            known: Mutex::default(),
        }
    }

    /// Counts an attempt. A refused one does not count; the error is the time after which one is let in.
    pub(super) fn admit(&self, address: IpAddr) -> Result<(), Duration> {
        if self.most == 0 {
            return Ok(());
        }
        self.admit_at(network(address), self.clock.now())
    }

    fn admit_at(&self, address: IpAddr, now: Duration) -> Result<(), Duration> {
        // A bucket that holds a window's attempts and drains evenly: one number for each address.
        let each = WINDOW / self.most;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let full_until = known.get(&address).copied().unwrap_or(now).max(now) + each;
        if let Some(wait) = full_until
            .checked_sub(now + WINDOW)
            .filter(|wait| !wait.is_zero())
        {
            return Err(wait);
        }
        if known.len() >= MAX_ADDRESSES && !known.contains_key(&address) {
            known.retain(|_, until| *until > now);
            if known.len() >= MAX_ADDRESSES {
                let first = known.iter().min_by_key(|(_, until)| **until);
                if let Some(first) = first.map(|(address, _)| *address) {
                    known.remove(&first);
                }
            }
        }
        known.insert(address, full_until);
        Ok(())
    }
}

/// An IPv6 network of 64 bits is one customer's, who may use any address of it.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(most: u32) -> Attempts {
        Attempts::new(Clock::start(), most)
    }

    #[test]
    fn an_address_has_its_attempts_a_minute_and_others_have_theirs() {
        let attempts = attempts(10);
        let (one, two) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let now = Duration::from_secs(100);
        for _ in 0..10 {
            assert_eq!(attempts.admit_at(one, now), Ok(()));
        }
        assert_eq!(attempts.admit_at(one, now), Err(Duration::from_secs(6)));
        assert_eq!(attempts.admit_at(two, now), Ok(()));
        let later = now + Duration::from_secs(6);
        assert_eq!(attempts.admit_at(one, later), Ok(()));
        assert_eq!(attempts.admit_at(one, later), Err(Duration::from_secs(6)));
        for _ in 0..10 {
            assert_eq!(attempts.admit_at(one, later + WINDOW), Ok(()));
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten() {
        let attempts = attempts(10);
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        for number in 0..20_000 {
            assert_eq!(
                attempts.admit_at(address(number), Duration::from_secs(1)),
                Ok(())
            );
        }
        assert_eq!(attempts.known.lock().unwrap().len(), MAX_ADDRESSES);
        let later = Duration::from_secs(100);
        assert_eq!(attempts.admit_at(address(20_000), later), Ok(()));
        assert_eq!(attempts.known.lock().unwrap().len(), 1);
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let text = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            network(text("2001:db8:1:2::9")),
            network(text("2001:db8:1:2:ffff::1"))
        );
        assert_ne!(
            network(text("2001:db8:1:3::9")),
            network(text("2001:db8:1:2::9"))
        );
    }
}
