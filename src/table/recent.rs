//! A small set of things that happened recently, forgetting by itself.
//!
//! Direct-mapped: a newer entry may push an older one out, never the other way round, and no entry outlives its time.

use core::hash::{BuildHasher, Hash};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use super::flow_key::TableHasher;
use crate::time::Instant;

/// The set. Wait-free; memory is fixed.
pub struct RecentSet {
    hasher: TableHasher,
    /// When the last life ends, nanoseconds: past it, as nearly always, nothing need be looked up.
    last_end: AtomicU64,
    slots: Box<[AtomicU64]>,
}

impl RecentSet {
    /// An empty set.
    pub fn new(hasher: TableHasher) -> RecentSet {
        RecentSet {
            hasher,
            last_end: AtomicU64::new(0),
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Remembers `item` for `life` from `now` on; at most 12 days.
    pub fn insert(&self, item: impl Hash, now: Instant, life: Duration) {
        let (slot, tag) = self.place(item);
        let end = now.after(life.min(MAX_LIFE));
        self.last_end.fetch_max(end.as_nanos(), Ordering::Relaxed);
        let end = millis(end);
        slot.store(u64::from(tag) << 32 | u64::from(end), Ordering::Relaxed);
    }

    /// Whether `item` was inserted and its life is not over at `now`.
    pub fn contains(&self, item: impl Hash, now: Instant) -> bool {
        if now.as_nanos() >= self.last_end.load(Ordering::Relaxed) {
            return false;
        }
        let (slot, tag) = self.place(item);
        let value = slot.load(Ordering::Relaxed);
        let end = (value & 0xffff_ffff) as u32;
        let left = end.wrapping_sub(millis(now));
        // Milliseconds modulo 2^32; more than half the circle ahead means that the end is past.
        value >> 32 == u64::from(tag) && left != 0 && left < 1 << 31
    }

    fn place(&self, item: impl Hash) -> (&AtomicU64, u32) {
        let hash = self.hasher.hash_one(item);
        let index = (hash as usize) & (SLOTS - 1);
        // The tag is never 0, which is what an empty slot holds.
        let tag = (hash >> 32) as u32 | 1;
        #[expect(clippy::indexing_slicing, reason = "the index is masked to the number of slots")]
        (&self.slots[index], tag)
    }
}

const SLOTS: usize = 4096;
const MAX_LIFE: Duration = Duration::from_secs(1 << 20);

fn millis(at: Instant) -> u32 {
    ((at.as_nanos() / 1_000_000) & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_live_for_their_time_also_across_the_wrap_of_the_clock() {
        let set = RecentSet::new(TableHasher::new([1, 2]));
        let wrap = Instant::from_nanos((1u64 << 32) * 1_000_000);
        for start in [
            Instant::ZERO,
            Instant::from_nanos(wrap.as_nanos() - 500_000_000),
            wrap.after(Duration::from_secs(9)),
        ] {
            set.insert(("a", 1), start, Duration::from_secs(1));
            assert!(set.contains(("a", 1), start));
            assert!(set.contains(("a", 1), start.after(Duration::from_millis(999))));
            assert!(!set.contains(("a", 1), start.after(Duration::from_secs(1))));
            assert!(!set.contains(("a", 1), start.after(Duration::from_secs(3600))));
            assert!(!set.contains(("b", 1), start));
        }
    }

    #[test]
    fn an_empty_set_contains_nothing() {
        let set = RecentSet::new(TableHasher::new([1, 2]));
        assert!((0..10_000u32).all(|item| !set.contains(item, Instant::ZERO)));
    }
}
