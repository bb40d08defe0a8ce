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
    /// An empty set of at most 2^`log2_slots` items.
    pub fn new(hasher: TableHasher, log2_slots: u32) -> RecentSet {
        let slots = 1usize << log2_slots.min(MAX_LOG2_SLOTS);
        RecentSet {
            hasher,
            last_end: AtomicU64::new(0),
            slots: (0..slots).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Remembers `item` for `life` from `now` on.
    pub fn insert(&self, item: impl Hash, now: Instant, life: Duration) {
        let (slot, tag) = self.place(item);
        let end = now.after(life);
        self.last_end.fetch_max(end.as_nanos(), Ordering::Relaxed);
        slot.store(tag << END_BITS | millis(end), Ordering::Relaxed);
    }

    /// Whether `item` was inserted and its life is not over at `now`; `life` is what items are inserted for. What would
    /// live longer is from beyond a leap of the clock.
    pub fn contains(&self, item: impl Hash, now: Instant, life: Duration) -> bool {
        self.age(item, now, life).is_some()
    }

    /// How long ago `item` was inserted, if its life is not over at `now`; to a millisecond.
    pub fn age(&self, item: impl Hash, now: Instant, life: Duration) -> Option<Duration> {
        if now.as_nanos() >= self.last_end.load(Ordering::Relaxed) {
            return None;
        }
        let (slot, tag) = self.place(item);
        let value = slot.load(Ordering::Relaxed);
        let (end, last) = (value & END_MASK, millis(now.after(life)));
        let is_alive = value >> END_BITS == tag && millis(now) < end && end <= last;
        is_alive.then(|| Duration::from_millis(last.saturating_sub(end)))
    }

    fn place(&self, item: impl Hash) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(item);
        let index = (hash as usize) & self.slots.len().saturating_sub(1);
        // The tag is never 0, which is what an empty slot holds.
        let tag = hash >> END_BITS | 1;
        #[expect(clippy::indexing_slicing, reason = "the index is masked to the number of slots")]
        (&self.slots[index], tag)
    }
}

const MAX_LOG2_SLOTS: u32 = 24;
/// Milliseconds of an item's end: 34 years before they wrap. The rest of 64 bits tells items of one slot apart.
const END_BITS: u32 = 40;
const END_MASK: u64 = (1 << END_BITS) - 1;

fn millis(at: Instant) -> u64 {
    (at.as_nanos() / 1_000_000) & END_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(1);

    /// Row 80.
    #[test]
    fn items_live_for_their_time_also_across_the_wrap_of_the_clock() {
        let set = RecentSet::new(TableHasher::new([1, 2]), 12);
        let wrap = Instant::from_nanos((1u64 << 32) * 1_000_000);
        for start in [
            Instant::ZERO,
            Instant::from_nanos(wrap.as_nanos() - 500_000_000),
            wrap.after(Duration::from_secs(9)),
        ] {
            set.insert(("a", 1), start, LIFE);
            assert!(set.contains(("a", 1), start, LIFE));
            assert!(set.contains(("a", 1), start.after(Duration::from_millis(999)), LIFE));
            assert!(!set.contains(("a", 1), start.after(Duration::from_secs(1)), LIFE));
            assert!(!set.contains(("a", 1), start.after(Duration::from_secs(3600)), LIFE));
            assert!(!set.contains(("b", 1), start, LIFE));
        }
    }

    #[test]
    fn what_is_over_stays_over_for_months_while_others_come_and_go() {
        let set = RecentSet::new(TableHasher::new([1, 2]), 12);
        let start = Instant::from_nanos(7);
        set.insert("old", start, LIFE);
        for day in 1..200u64 {
            let now = start.after(Duration::from_secs(day * 86_400));
            set.insert("new", now, LIFE);
            assert!(set.contains("new", now, LIFE) && !set.contains("old", now, LIFE), "day {day}");
        }
    }

    #[test]
    fn a_clock_that_falls_back_a_day_prolongs_no_life() {
        let set = RecentSet::new(TableHasher::new([1, 2]), 12);
        let day = Instant::from_nanos(86_400_000_000_000);
        set.insert("a", day, LIFE);
        assert!(set.contains("a", day, LIFE));
        assert!(!set.contains("a", Instant::from_nanos(5), LIFE));
    }

    #[test]
    fn a_life_ends_at_its_time_though_others_last_longer() {
        let set = RecentSet::new(TableHasher::new([1, 2]), 12);
        let start = Instant::from_nanos(7_000_000_000);
        set.insert("a", start, LIFE);
        set.insert("b", start.after(LIFE), LIFE);
        assert!(set.contains("a", start.after(Duration::from_millis(999)), LIFE));
        assert!(!set.contains("a", start.after(LIFE), LIFE));
    }

    #[test]
    fn an_empty_set_contains_nothing() {
        let set = RecentSet::new(TableHasher::new([1, 2]), 12);
        assert!((0..10_000u32).all(|item| !set.contains(item, Instant::ZERO, LIFE)));
    }
}
