//! Claims that are believed once several sources have made them: what one client can bring about proves nothing to others.
//!
//! Direct-mapped and keyed: memory is fixed, a claim is O(1), and one that shares a cell with another pushes it out. A claim
//! that is lost this way needs its witnesses again; nothing is believed sooner for it.

use core::hash::{BuildHasher, Hash};
use core::net::IpAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use super::flow_key::TableHasher;
use super::prefix;
use crate::time::Instant;

/// Recent claims with the sources that made them; lock-free.
pub struct Witnesses {
    hasher: TableHasher,
    cells: Box<[AtomicU64]>,
}

/// A claim: its tag, who made it, and when the first of them did, in seconds.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Claim {
    tag: u16,
    who: [u16; 2],
    since: u32,
}

impl Witnesses {
    /// No claims; at most 2^`log2_cells` at a time.
    pub fn new(hasher: TableHasher, log2_cells: u32) -> Witnesses {
        let cells = 1usize << log2_cells.min(MAX_LOG2_CELLS);
        Witnesses { hasher, cells: (0..cells).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Notes that `who` claims `what`; whether [`ENOUGH`] sources (IPv4 /24, IPv6 /48) have, all within `life`. From then on
    /// each further claim is believed, until there was none for `life`.
    ///
    /// Two workers at once may lose a witness: then it takes one more.
    pub fn claim(&self, what: impl Hash, who: IpAddr, now: Instant, life: Duration) -> bool {
        let (cell, tag) = self.place(what);
        let (who, seconds) = (self.name(who), seconds(now));
        let before = Claim::unpack(cell.load(Ordering::Relaxed));
        // What is of another claim, over, or from beyond a leap of the clock counts no more.
        let age = seconds.wrapping_sub(before.since) & TIME_MASK;
        let is_fresh = before.tag == tag && before.who != [0; 2] && u64::from(age) <= life.as_secs();
        let (after, is_believed) = match before.who {
            _ if !is_fresh => (Claim { tag, who: [who, 0], since: seconds }, false),
            [first, second] if who == first || who == second => (before, false),
            [first, 0] => (Claim { who: [first, who], ..before }, false),
            [_, _] => (Claim { since: seconds, ..before }, true),
        };
        if after != before {
            cell.store(after.pack(), Ordering::Relaxed);
        }
        is_believed
    }

    /// Forgets who claimed `what`: it was shown to be otherwise.
    pub fn refute(&self, what: impl Hash) {
        let (cell, tag) = self.place(what);
        if Claim::unpack(cell.load(Ordering::Relaxed)).tag == tag {
            cell.store(0, Ordering::Relaxed);
        }
    }

    fn place(&self, what: impl Hash) -> (&AtomicU64, u16) {
        let hash = self.hasher.hash_one(what);
        let index = (hash as usize) & self.cells.len().saturating_sub(1);
        #[expect(clippy::indexing_slicing, reason = "the index is masked to the number of cells")]
        (&self.cells[index], (hash >> 48) as u16)
    }

    /// A source's name, never 0. Two sources share one with a chance of 2^-12: then it takes one more.
    fn name(&self, who: IpAddr) -> u16 {
        (self.hasher.hash_one(prefix::site(who)) as u16 & NAME_MASK).max(1)
    }
}

impl Claim {
    fn pack(self) -> u64 {
        let [first, second] = self.who.map(u64::from);
        u64::from(self.tag) << 48 | first << 36 | second << 24 | u64::from(self.since & TIME_MASK)
    }

    fn unpack(packed: u64) -> Claim {
        let name = |shift: u32| (packed >> shift) as u16 & NAME_MASK;
        Claim { tag: (packed >> 48) as u16, who: [name(36), name(24)], since: packed as u32 & TIME_MASK }
    }
}

/// So many sources are no accident, and no single client.
pub const ENOUGH: usize = 3;

const MAX_LOG2_CELLS: u32 = 20;
const NAME_MASK: u16 = 0xfff;
/// Seconds wrap after half a year: a claim of exactly that age may be taken for a new one.
const TIME_MASK: u32 = (1 << 24) - 1;

fn seconds(at: Instant) -> u32 {
    (at.as_nanos() / 1_000_000_000) as u32 & TIME_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn v4(third: u8, last: u8) -> IpAddr {
        IpAddr::from([198, 18, third, last])
    }

    fn witnesses() -> Witnesses {
        Witnesses::new(TableHasher::new([1, 2]), 12)
    }

    #[test]
    fn three_prefixes_are_believed_and_any_number_of_addresses_of_two_are_not() {
        let all = witnesses();
        assert!((0..=255).all(|last| !all.claim("down", v4(1, last), at(100), LIFE)));
        assert!((0..=255).all(|last| !all.claim("down", v4(2, last), at(100), LIFE)));
        assert!(!all.claim("up", v4(3, 1), at(100), LIFE), "another claim");
        assert!(all.claim("down", v4(3, 1), at(100), LIFE));
        assert!(all.claim("down", v4(4, 1), at(110), LIFE));
        assert!(all.claim("down", v4(4, 1), at(120), LIFE), "from then on each is believed");
        assert!(!all.claim("down", v4(4, 1), at(131), LIFE), "no one claimed it for a while");
        all.refute("up");
        assert!(!all.claim("up", v4(4, 1), at(131), LIFE) && !all.claim("up", v4(5, 1), at(131), LIFE));
    }

    #[test]
    fn a_site_of_ipv6_is_one_source() {
        let all = witnesses();
        let site = |site: u16, net: u16| IpAddr::from([0x2001, 0xdb8, site, net, 0, 0, 0, 1]);
        assert!((0..=255).all(|net| !all.claim(1, site(1, net), at(5), LIFE)));
        assert!(!all.claim(1, site(2, 0), at(5), LIFE));
        assert!(all.claim(1, site(3, 0), at(5), LIFE));
    }

    #[test]
    fn claims_that_are_far_apart_are_not_added_up() {
        for (last, is_believed) in [(10, true), (11, false)] {
            let all = witnesses();
            all.claim(7, v4(1, 1), at(0), LIFE);
            all.claim(7, v4(2, 1), at(5), LIFE);
            assert_eq!(all.claim(7, v4(3, 1), at(last), LIFE), is_believed);
        }
    }

    #[test]
    fn a_clock_that_leaps_back_begins_anew() {
        let all = witnesses();
        all.claim(7, v4(1, 1), at(86_400), LIFE);
        all.claim(7, v4(2, 1), at(86_400), LIFE);
        assert!(!all.claim(7, v4(3, 1), at(100), LIFE));
        assert!(!all.claim(7, v4(4, 1), at(100), LIFE));
        assert!(all.claim(7, v4(5, 1), at(100), LIFE));
    }

    #[test]
    fn claims_that_share_a_cell_push_each_other_out_and_are_not_added_up() {
        let all = witnesses();
        let cell = |what: u32| core::ptr::from_ref(all.place(what).0);
        let other = (1..).find(|what| cell(*what) == cell(0)).unwrap();
        assert!(!all.claim(0, v4(1, 1), at(5), LIFE) && !all.claim(0, v4(2, 1), at(5), LIFE));
        all.refute(other);
        assert!(all.claim(0, v4(3, 1), at(5), LIFE), "another was refuted");
        assert!((3..5).all(|third| !all.claim(other, v4(third, 1), at(5), LIFE)));
        assert!(all.claim(other, v4(5, 1), at(5), LIFE));
        all.refute(other);
        assert!((6..8).all(|third| !all.claim(other, v4(third, 1), at(5), LIFE)));
    }

    #[test]
    fn a_claim_survives_packing() {
        for claim in [
            Claim { tag: 0xffff, who: [0xfff, 0], since: 0 },
            Claim { tag: 1, who: [1, 0xabc], since: TIME_MASK },
        ] {
            assert!(Claim::unpack(claim.pack()) == claim);
        }
    }
}
