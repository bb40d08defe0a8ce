//! Entries that may go when room is needed, the ripest first.
//!
//! Rings of keys, one a class, of a fixed size: a newer key pushes the oldest out. A key is a hint, no promise: who takes
//! one looks whether its entry still is what it was when it was offered. Offering and taking are O(1), and nothing is
//! searched for a victim.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::flow_key::FlowKey;

/// The rings, by class: 0 goes first.
pub struct Ripe {
    rings: [Mutex<VecDeque<FlowKey>>; CLASSES],
    len: usize,
}

impl Ripe {
    /// Rings of `len` keys each.
    pub fn new(len: usize) -> Ripe {
        // One more than is kept: what is pushed before the oldest goes must not make them grow.
        let ring = || Mutex::new(VecDeque::with_capacity(len.saturating_add(1)));
        Ripe { rings: core::array::from_fn(|_| ring()), len }
    }

    /// Offers the entry under `key` as one of `class`.
    pub fn offer(&self, class: usize, key: FlowKey) {
        if let Some(ring) = self.rings.get(class) {
            let mut ring = locked(ring);
            ring.push_back(key);
            if ring.len() > self.len {
                ring.pop_front();
            }
        }
    }

    /// Takes the key that was offered first of those of the lowest class.
    pub fn take(&self) -> Option<FlowKey> {
        self.rings.iter().find_map(|ring| locked(ring).pop_front())
    }
}

impl Default for Ripe {
    /// Small rings: of one owner among many.
    fn default() -> Ripe {
        Ripe::new(FEW)
    }
}

const FEW: usize = 64;

/// Classes that can be told apart.
pub const CLASSES: usize = 3;

fn locked(ring: &Mutex<VecDeque<FlowKey>>) -> MutexGuard<'_, VecDeque<FlowKey>> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    fn key(port: u16) -> FlowKey {
        FlowKey::new(IpAddr::from([198, 18, 0, 1]), port, IpAddr::from([198, 18, 255, 2]), 80)
    }

    #[test]
    fn the_lowest_class_goes_first_and_in_it_the_first() {
        let ripe = Ripe::new(4);
        for (class, port) in [(2, 1), (1, 2), (0, 3), (1, 4), (0, 5), (CLASSES, 6)] {
            ripe.offer(class, key(port));
        }
        let taken: Vec<u16> = std::iter::from_fn(|| ripe.take()).map(|key| key.client_port()).collect();
        assert_eq!(taken, [3, 5, 2, 4, 1]);
    }

    #[test]
    fn the_newest_are_kept_in_the_memory_of_the_first() {
        let ripe = Ripe::new(4);
        let capacity = locked(&ripe.rings[1]).capacity();
        (0..1_000).for_each(|port| ripe.offer(1, key(port)));
        assert_eq!(locked(&ripe.rings[1]).capacity(), capacity);
        let taken: Vec<u16> = std::iter::from_fn(|| ripe.take()).map(|key| key.client_port()).collect();
        assert_eq!(taken, [996, 997, 998, 999]);
    }
}
