//! Delays between attempts: doubling, jittered, bounded, and begun anew after a healthy spell. On the way they stay below a second
//! for as long as a server takes to restart.

use std::time::Duration;

/// The first delay is at most this: 100 ms, so that a killed connection is back before a person notices.
const FIRST: Duration = Duration::from_millis(100);

/// Doublings before the delays stay as they are for a while: 800 ms.
const QUICK: u32 = 3;

/// Attempts until they go on doubling. Fifteen take about 8 s, which is a restart; without them one that takes 2 s would be
/// noticed 2 s late.
const RESTART: u32 = 15;

/// Counts attempts and says how long to wait before the next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    attempt: u32,
}

impl Backoff {
    /// The next delay: between half and the whole of 100 ms, doubled with each attempt but for the pause at 800 ms, never above
    /// `longest`. `random` is any number.
    pub(crate) fn next(&mut self, longest: Duration, random: u64) -> Duration {
        let doublings = self
            .attempt
            .min(QUICK.max((QUICK + self.attempt).saturating_sub(RESTART)));
        let whole = FIRST.saturating_mul(1 << doublings.min(16)).min(longest);
        self.attempt = self.attempt.saturating_add(1);
        whole / 2 + jitter(whole / 2, random)
    }

    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// A delay from zero up to `most`, chosen by `random`.
pub(crate) fn jitter(most: Duration, random: u64) -> Duration {
    let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(if most == 0 { 0 } else { random % most })
}

/// A small generator of numbers for jitter (SplitMix64, Steele, Lea and Flood 2014). Never for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_but_for_a_restart_and_begin_anew() {
        let (mut backoff, longest) = (Backoff::default(), Duration::from_secs(10));
        let mut random = Random::seeded(7);
        let delays: Vec<_> = (0..40)
            .map(|_| backoff.next(longest, random.next()))
            .collect();
        assert!(delays[0] >= FIRST / 2 && delays[0] <= FIRST);
        assert!(delays[2] >= FIRST * 2 && delays[2] <= FIRST * 4);
        let restart = &delays[..RESTART as usize];
        assert!(restart.iter().all(|delay| *delay < Duration::from_secs(1)));
        assert!(restart.iter().sum::<Duration>() > Duration::from_secs(5));
        let after = delays[RESTART as usize + 1];
        assert!(after >= FIRST * 8 && after <= FIRST * 16, "{after:?}");
        assert!(delays[39] >= longest / 2 && delays[39] <= longest);
        backoff.reset();
        assert!(backoff.next(longest, random.next()) <= FIRST);
    }
}
