//! How many entries each source prefix holds, so that none takes more than its share of a table.

use core::net::IpAddr;
use core::sync::atomic::{AtomicU32, Ordering};

use super::flow_key::TableHasher;
use super::prefix;

/// Counts by source prefix (IPv4 /24, IPv6 /64).
///
/// A sketch of two rows: a prefix's count is the lesser of its two cells, never less than what it holds. Memory is the
/// same for any number of prefixes, and taking and giving back are O(1).
pub struct Shares {
    hasher: TableHasher,
    cells: Box<[AtomicU32]>,
}

impl Shares {
    /// Nobody holds anything.
    pub fn new(hasher: TableHasher) -> Shares {
        Shares { hasher, cells: (0..ROW_LEN * 2).map(|_| AtomicU32::new(0)).collect() }
    }

    /// Takes a place for the prefix of `address` if it holds fewer than `cap`; whether it did.
    pub fn take(&self, address: IpAddr, cap: usize) -> bool {
        let held = self.cells_of(address).map(|cell| cell.fetch_add(1, Ordering::AcqRel)).min();
        let has_room = held.is_some_and(|held| (held as usize) < cap);
        if !has_room {
            self.give(address);
        }
        has_room
    }

    /// Gives back a place that was taken.
    pub fn give(&self, address: IpAddr) {
        self.cells_of(address).for_each(|cell| _ = cell.fetch_sub(1, Ordering::AcqRel));
    }

    fn cells_of(&self, address: IpAddr) -> impl Iterator<Item = &AtomicU32> {
        prefix::places(&self.hasher, address, 0, ROW_LEN)
            .into_iter()
            .filter_map(|place| self.cells.get(place))
    }
}

const ROW_LEN: usize = 1 << 14;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(third: u8, last: u8) -> IpAddr {
        IpAddr::from([198, 18, third, last])
    }

    #[test]
    fn a_prefix_takes_its_share_and_leaves_the_others_theirs() {
        let shares = Shares::new(TableHasher::new([1, 2]));
        assert_eq!((0..=255).filter(|last| shares.take(address(1, *last), 100)).count(), 100);
        assert!((2..=255).all(|third| shares.take(address(third, 1), 100)));
        shares.give(address(1, 7));
        assert!(shares.take(address(1, 8), 100));
        assert!(!shares.take(address(1, 9), 100));
    }

    #[test]
    fn what_is_given_back_leaves_nothing_behind() {
        let shares = Shares::new(TableHasher::new([1, 2]));
        for third in 0..=255 {
            assert!(shares.take(address(third, 1), 1) && !shares.take(address(third, 2), 1));
        }
        (0..=255).for_each(|third| shares.give(address(third, 3)));
        assert!(shares.cells.iter().all(|cell| cell.load(Ordering::Relaxed) == 0));
    }
}
