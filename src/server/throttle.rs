//! How much one client may ask for.
//!
//! Guarantees: each key has its own measure on each server, so that one client cannot take another's; whoever shows no valid key
//! is slowed down by its address, and never those that show one. What is remembered of addresses is bounded.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter};

/// Requests without a valid key that one address may make in a minute. Guessing 256 bits is hopeless at any rate; this bounds what
/// the attempts cost, and what they write into the log.
const FAILURES: NonZeroU32 = NonZeroU32::new(20).expect("20 is not 0");

/// Addresses that are remembered. Further ones share one measure: about 100 bytes each.
const MAX_ADDRESSES: usize = 10_000;

/// How often one client may ask, if that is bounded.
pub(super) struct Pace(Option<DefaultDirectRateLimiter>);

impl Pace {
    /// So many requests a minute, which may come all at once; 0 is any number.
    pub(super) fn new(requests_per_minute: u32) -> Self {
        let count = NonZeroU32::new(requests_per_minute);
        Self(count.map(|count| RateLimiter::direct(Quota::per_minute(count))))
    }

    /// Counts a request.
    ///
    /// # Errors
    ///
    /// How long to wait before the next one.
    pub(super) fn take(&self) -> Result<(), Duration> {
        let taken = self.0.as_ref().map_or(Ok(()), RateLimiter::check);
        taken.map_err(|until| wait(&until))
    }
}

/// The failures of every address.
pub(super) struct Failures(DefaultKeyedRateLimiter<IpAddr>);

impl Failures {
    pub(super) fn new() -> Self {
        Self(RateLimiter::keyed(Quota::per_minute(FAILURES)))
    }

    /// Counts a failure.
    ///
    /// # Errors
    ///
    /// How long to wait before the next attempt, when there were too many.
    pub(super) fn note(&self, from: IpAddr) -> Result<(), Duration> {
        let mut network = network(from);
        if self.0.len() >= MAX_ADDRESSES {
            self.forget();
            if self.0.len() >= MAX_ADDRESSES {
                network = Ipv6Addr::UNSPECIFIED.into();
            }
        }
        self.0.check_key(&network).map_err(|until| wait(&until))
    }

    /// Forgets the addresses that have not failed lately.
    pub(super) fn forget(&self) {
        self.0.retain_recent();
    }
}

fn wait(until: &NotUntil<<DefaultClock as Clock>::Instant>) -> Duration {
    until.wait_time_from(DefaultClock::default().now())
}

/// An address as far as it tells one client from another: of an IPv6 network a client has all of a /64 to choose from.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_asks_too_much_is_told_how_long_to_wait() {
        let pace = Pace::new(3);
        assert!((0..3).all(|_| pace.take().is_ok()));
        let wait = pace.take().unwrap_err();
        assert!(
            wait > Duration::ZERO && wait <= Duration::from_secs(20),
            "{wait:?}"
        );
        let any = Pace::new(0);
        assert!((0..10_000).all(|_| any.take().is_ok()));
    }

    #[test]
    fn failures_are_counted_by_network_and_remembered_within_a_bound() {
        let failures = Failures::new();
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        assert!((0..FAILURES.get()).all(|_| failures.note(one).is_ok()));
        assert!(failures.note(neighbour).is_err());
        assert!(failures.note("2001:db8:0:1::1".parse().unwrap()).is_ok());
        let mapped = ["::ffff:10.0.0.1", "10.0.0.1"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(network(mapped[0]), mapped[1]);
        for number in 0..2 * MAX_ADDRESSES as u32 {
            let _wait = failures.note(IpAddr::V4(number.into()));
        }
        assert!(
            failures.0.len() <= MAX_ADDRESSES + 1,
            "{}",
            failures.0.len()
        );
    }
}
