//! How many entries each source prefix holds, so that none takes more than its share of a table.

use core::net::IpAddr;
use core::sync::atomic::{AtomicU32, Ordering};

use super::flow_key::TableHasher;
use super::prefix::{self, LEVELS};

/// Counts by source prefix, on each level of [`prefix`].
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

    /// Takes a place of `what` for the prefixes of `address` if each holds fewer than its cap; whether it did.
    pub fn take(&self, address: IpAddr, what: u16, caps: [usize; LEVELS]) -> bool {
        let mut has_room = true;
        for (level, cap) in caps.into_iter().enumerate() {
            let cells = self.cells_of(address, level, what);
            let held = cells.map(|cell| cell.fetch_add(1, Ordering::AcqRel)).min();
            has_room &= held.is_some_and(|held| (held as usize) < cap);
        }
        if !has_room {
            self.give(address, what);
        }
        has_room
    }

    /// Gives back a place that was taken.
    pub fn give(&self, address: IpAddr, what: u16) {
        for level in 0..LEVELS {
            self.cells_of(address, level, what).for_each(|cell| _ = cell.fetch_sub(1, Ordering::AcqRel));
        }
    }

    /// How many places of `what` each of the prefixes of `address` holds, at the most.
    pub fn held(&self, address: IpAddr, what: u16) -> [usize; LEVELS] {
        core::array::from_fn(|level| {
            let cells = self.cells_of(address, level, what);
            cells.map(|cell| cell.load(Ordering::Relaxed) as usize).min().unwrap_or(0)
        })
    }

    fn cells_of(&self, address: IpAddr, level: usize, what: u16) -> impl Iterator<Item = &AtomicU32> {
        prefix::places_at(&self.hasher, address, level, what, ROW_LEN)
            .into_iter()
            .filter_map(|place| self.cells.get(place))
    }
}

const ROW_LEN: usize = 1 << 15;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(third: u8, last: u8) -> IpAddr {
        IpAddr::from([198, 18, third, last])
    }

    fn shares() -> Shares {
        Shares::new(TableHasher::new([1, 2]))
    }

    const ALONE: [usize; LEVELS] = [100, usize::MAX, usize::MAX];

    #[test]
    fn a_prefix_takes_its_share_and_leaves_the_others_theirs() {
        let shares = shares();
        assert_eq!((0..=255).filter(|last| shares.take(address(1, *last), 0, ALONE)).count(), 100);
        assert!((2..=255).all(|third| shares.take(address(third, 1), 0, ALONE)));
        assert!(shares.take(address(1, 1), 1, ALONE), "what else it holds");
        assert_eq!(shares.held(address(1, 200), 0), [100, 100 + 14, 100 + 254]);
        shares.give(address(1, 7), 0);
        assert!(shares.take(address(1, 8), 0, ALONE));
        assert!(!shares.take(address(1, 9), 0, ALONE));
    }

    #[test]
    fn a_holder_of_many_prefixes_gets_four_times_what_one_gets() {
        for (addresses, outside) in [
            ((0..=255u8).map(|third| address(third, 1)).collect::<Vec<_>>(), "198.19.0.1"),
            (
                (0..=65_535u16).map(|n| IpAddr::from([0x2001, 0xdb8, 7, n, 0, 0, 0, 1])).collect(),
                "2001:db8:8::1",
            ),
        ] {
            let shares = shares();
            let caps = prefix::widened(100);
            let round = || addresses.iter().filter(|from| shares.take(**from, 0, caps)).count();
            assert_eq!((0..10).map(|_| round()).sum::<usize>(), 400);
            assert!(shares.take(outside.parse().unwrap(), 0, caps));
        }
    }

    #[test]
    fn what_is_given_back_leaves_nothing_behind() {
        let shares = shares();
        let caps = [1, 16, 256];
        for third in 0..=255 {
            assert!(shares.take(address(third, 1), 0, caps) && !shares.take(address(third, 2), 0, caps));
        }
        (0..=255).for_each(|third| shares.give(address(third, 3), 0));
        assert!(shares.cells.iter().all(|cell| cell.load(Ordering::Relaxed) == 0));
    }
}
