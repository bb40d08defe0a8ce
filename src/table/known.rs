//! Addresses of clients that completed a handshake lately: what is promised to them forged packets cannot spend.
//!
//! Direct-mapped and keyed: memory is fixed, a look is O(1), and a newer address pushes an older one out. All addresses of one
//! party ([`prefix::site`]: IPv4 /24, IPv6 /48) share one block of [`BLOCK`] cells, IPv4 a cell each. So a party with any number
//! of real addresses pushes out what shares its block, one in [`BLOCKS`] of all others, and no more.

use core::hash::BuildHasher;
use core::net::IpAddr;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use super::flow_key::TableHasher;
use super::prefix;
use crate::time::Instant;

/// The addresses; lock-free, 4 MiB.
pub struct Known {
    hasher: TableHasher,
    cells: Box<[AtomicU32]>,
}

impl Known {
    /// None.
    pub fn new(hasher: TableHasher) -> Known {
        Known { hasher, cells: (0..BLOCKS * BLOCK).map(|_| AtomicU32::new(0)).collect() }
    }

    /// Notes that `client` was there at `at`, not after `now`; whether less was known.
    pub fn note(&self, client: IpAddr, at: Instant, now: Instant) -> bool {
        let (cell, tag) = self.place(client);
        let before = Cell::unpack(cell.load(Ordering::Relaxed));
        let after = Cell::of(tag, at);
        let is_known = before.tag == tag && before.age(now) <= after.age(now);
        let is_news = !is_known && after.age(now) < units(LIFE);
        if is_news {
            cell.store(after.pack(), Ordering::Relaxed);
        }
        is_news
    }

    /// Whether `client` was there within [`LIFE`] before `now`, unless another address pushed it out. Any other address is
    /// taken for a known one with a chance of 2^-15.
    pub fn contains(&self, client: IpAddr, now: Instant) -> bool {
        let (cell, tag) = self.place(client);
        let cell = Cell::unpack(cell.load(Ordering::Relaxed));
        cell.tag == tag && cell.age(now) < units(LIFE)
    }

    fn place(&self, client: IpAddr) -> (&AtomicU32, u16) {
        let site = self.hasher.hash_one((prefix::site(client), SITE));
        let (place, tag) = place(client, site, self.hasher.hash_one(client));
        #[expect(clippy::indexing_slicing, reason = "below BLOCKS * BLOCK")]
        (&self.cells[place], tag)
    }
}

/// The cell of `client` and its tag there, by the hash of its site and the hash of its own. `src/bpf/budget.h` has the same.
pub fn place(client: IpAddr, site: u64, own: u64) -> (usize, u16) {
    let in_block = match client {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(_) => own as u8,
    };
    let block = (site as usize & (BLOCKS - 1)) * BLOCK;
    (block + usize::from(in_block ^ (site >> 56) as u8), (own >> 48) as u16 | 1)
}

/// The contents of a cell of an address with this tag that was there at `at`.
pub fn pack(tag: u16, at: Instant) -> u32 {
    Cell::of(tag, at).pack()
}

/// One address: its tag, never 0, and when it was last there, in [`units`].
#[derive(Clone, Copy)]
struct Cell {
    tag: u16,
    at: u16,
}

impl Cell {
    fn of(tag: u16, at: Instant) -> Cell {
        Cell { tag, at: (at.as_nanos() >> UNIT_LOG2) as u16 }
    }

    /// One from beyond a leap of the clock is old. Ages wrap after three days: an address that was there just then is taken for
    /// one of today.
    fn age(self, now: Instant) -> u16 {
        ((now.as_nanos() >> UNIT_LOG2) as u16).wrapping_sub(self.at)
    }

    fn pack(self) -> u32 {
        u32::from(self.tag) << 16 | u32::from(self.at)
    }

    fn unpack(packed: u32) -> Cell {
        Cell { tag: (packed >> 16) as u16, at: packed as u16 }
    }
}

/// Units of 2^32 ns, 4.3 s.
const fn units(time: Duration) -> u16 {
    (time.as_nanos() >> UNIT_LOG2) as u16
}

/// For how long an address is known: a client that is in use comes again within the hour.
pub const LIFE: Duration = Duration::from_secs(3_600);

/// Parties that are known apart, and addresses of each.
pub const BLOCKS: usize = 1 << 12;
/// As many as a /24 has.
pub const BLOCK: usize = 1 << 8;

/// Age is counted in units of 2^this nanoseconds.
pub const UNIT_LOG2: u32 = 32;

/// Tells a site from an address.
const SITE: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn v4(net: u16, last: u8) -> IpAddr {
        IpAddr::from([198, 18 + (net >> 8) as u8, net as u8, last])
    }

    fn v6(site: u16, rest: u32) -> IpAddr {
        IpAddr::from([0x2001, 0xdb8, site, (rest >> 16) as u16, 0, 0, 0, rest as u16])
    }

    #[test]
    fn all_addresses_of_a_network_are_known_at_once_for_an_hour() {
        let known = Known::new(TableHasher::new([1, 2]));
        assert!((0..=255).all(|last| known.note(v4(7, last), at(5_000), at(5_000))));
        assert!((0..=255).all(|last| known.contains(v4(7, last), at(5_000 + 3_590))));
        assert!((0..=255).all(|last| !known.contains(v4(7, last), at(5_000 + 3_605))));
        assert!((0..=255).all(|last| !known.contains(v4(8, last), at(5_000))));
        assert!(!known.note(v4(7, 1), at(5_000), at(5_001)), "nothing new");
        assert!(known.note(v4(7, 1), at(5_060), at(5_060)));
        assert!(!known.note(v4(7, 1), at(5_000), at(5_060)), "what is older changes nothing");
        assert!(known.contains(v4(7, 1), at(5_060 + 3_590)));
    }

    #[test]
    fn an_address_of_ipv6_is_known_alone() {
        let known = Known::new(TableHasher::new([1, 2]));
        known.note(v6(1, 5), at(5_000), at(5_000));
        assert!(known.contains(v6(1, 5), at(5_000)) && !known.contains(v6(1, 6), at(5_000)));
    }

    /// A /48 that completes a handshake from each of a million addresses.
    #[test]
    fn a_party_with_a_million_addresses_pushes_out_its_own_block_alone() {
        let known = Known::new(TableHasher::new([1, 2]));
        for net in 0..500 {
            known.note(v4(net, 9), at(5_000), at(5_000));
            known.note(v6(net, 9), at(5_000), at(5_000));
        }
        let count = || {
            let v4s = (0..500).filter(|net| known.contains(v4(*net, 9), at(5_001))).count();
            v4s + (0..500).filter(|net| known.contains(v6(*net, 9), at(5_001))).count()
        };
        let before = count();
        (0..1_000_000).for_each(|rest| _ = known.note(v6(7_000, rest), at(5_001), at(5_001)));
        assert!(before >= 990 && before - count() <= 5, "{before}, {}", count());
    }

    #[test]
    fn a_clock_that_leaps_back_knows_less() {
        let known = Known::new(TableHasher::new([1, 2]));
        known.note(v4(1, 1), at(86_400), at(86_400));
        assert!(!known.contains(v4(1, 1), at(100)));
        assert!(known.note(v4(1, 1), at(100), at(100)) && known.contains(v4(1, 1), at(101)));
    }

    /// Counted in units: one that is as old as an hour has them to the last.
    #[test]
    fn an_address_is_known_to_the_last_unit_of_the_hour() {
        let at = |unit: u64| Instant::from_nanos(unit << UNIT_LOG2);
        let life = u64::from(units(LIFE));
        let known = Known::new(TableHasher::new([1, 2]));
        assert!(!known.note(v4(1, 1), at(9), at(9 + life)) && !known.contains(v4(1, 1), at(9)));
        assert!(known.note(v4(1, 1), at(9), at(9 + life - 1)));
        assert!(known.contains(v4(1, 1), at(9 + life - 1)) && !known.contains(v4(1, 1), at(9 + life)));
    }

    /// A tag of 0 is that of an empty cell.
    #[test]
    fn a_tag_is_the_top_of_the_address_s_hash_and_never_0() {
        let tag = |own: u64| place(v4(1, 1), 0, own).1;
        assert_eq!([0, 1 << 48, 2 << 48, 0xabcd << 48 | 0x1234].map(tag), [1, 1, 3, 0xabcd]);
        assert_eq!(pack(0xabcd, Instant::from_nanos(0x1_2345_6789_abcd)), 0xabcd_2345);
    }
}
