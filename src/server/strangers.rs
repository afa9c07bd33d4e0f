//! Connections that have shown no API key yet.
//!
//! Guarantees: those of one address leave places for those of others; one that has shown a key is counted no more.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::throttle::network;

/// How many there are of each address. It has no more members than there are connections.
pub(super) struct Strangers {
    most: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

impl Strangers {
    /// At most so many of one address.
    pub(super) fn new(most: usize) -> Arc<Self> {
        let counts = Mutex::default();
        Arc::new(Self { most, counts })
    }

    /// Counts a connection; `None` if there are as many of its address as there may be.
    pub(super) fn meet(self: &Arc<Self>, address: IpAddr) -> Option<Stranger> {
        let network = network(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Stranger(Arc::new(Counted {
            all: self.clone(),
            network,
            counted: AtomicBool::new(true),
        })))
    }

    fn forget(&self, network: IpAddr) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&network);
            }
        }
    }
}

/// A connection, counted until it shows a key or ends.
#[derive(Clone)]
pub(super) struct Stranger(Arc<Counted>);

struct Counted {
    all: Arc<Strangers>,
    network: IpAddr,
    counted: AtomicBool,
}

impl Stranger {
    /// Says that it has shown a key.
    pub(super) fn introduce(&self) {
        self.0.forget();
    }
}

impl Counted {
    fn forget(&self) {
        if self.counted.swap(false, Ordering::Relaxed) {
            self.all.forget(self.network);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_at_most_until_they_show_a_key_or_end() {
        let strangers = Strangers::new(2);
        let [one, other]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        let first = strangers.meet(one).unwrap();
        let second = strangers.meet(one).unwrap();
        assert!(strangers.meet(one).is_none() && strangers.meet(other).is_some());
        first.introduce();
        first.introduce();
        let third = strangers.meet(one).unwrap();
        assert!(strangers.meet(one).is_none());
        drop((first, third.clone(), second));
        let fourth = strangers.meet(one);
        assert!(fourth.is_some() && strangers.meet(one).is_none());
        drop((third, fourth));
        assert!(strangers.counts.lock().unwrap().is_empty());
    }
}
