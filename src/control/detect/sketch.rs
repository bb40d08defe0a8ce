//! Counting much in little memory: how many different things there were, and which came most often.
//!
//! Both sketches have a fixed size whatever arrives and can be merged. Different things are counted by HyperLogLog, from
//! `hyperloglockless`: small, without `unsafe`, and with the hash function of the caller's choice, so that nobody can choose
//! addresses that count wrong. The heavy hitters are Space-Saving (Metwally, Agrawal, El Abbadi 2005), which is short enough
//! to stand here; crates that have it bring a hundred times as much.

use std::hash::Hash;

use hyperloglockless::HyperLogLog;

use crate::table::flow_key::TableHasher;

/// How many different items there were, within a few per cent.
#[derive(Clone)]
pub(super) struct Distinct(HyperLogLog<TableHasher>);

impl Distinct {
    /// Nothing yet; in 2^`precision` octets with a standard error of 1.04 / 2^(`precision` / 2). A precision that is used is
    /// tried in the tests below: at 11 hyperloglockless 0.5 counts nothing.
    pub(super) fn new(hasher: TableHasher, precision: u8) -> Distinct {
        Distinct(HyperLogLog::with_hasher(precision, hasher))
    }

    /// Takes note of one.
    pub(super) fn note(&mut self, item: &impl Hash) {
        self.0.insert(item);
    }

    /// Takes over what `other`, of the same precision and hasher, has seen.
    pub(super) fn merge(&mut self, other: &Distinct) {
        // All sketches of a kind are made with one precision.
        let _ = self.0.union(&other.0);
    }

    /// How many there were.
    pub(super) fn count(&self) -> f64 {
        self.0.raw_count().round()
    }
}

/// How many different items there are among `total`, of which `sample` were taken at random and showed `seen` different
/// ones; all items being about equally frequent.
///
/// An item that occurs `total / all` times shows up with a chance of `1 - (1 - sample / total)^(total / all)`. `all` follows
/// from that, since more different items always show more.
pub(super) fn extrapolate(seen: f64, sample: f64, total: f64) -> f64 {
    if sample < 1.0 || sample >= total {
        return seen;
    }
    let missed = 1.0 - sample / total;
    let shown = |all: f64| all * (1.0 - missed.powf(total / all));
    let (mut low, mut high) = (seen.min(sample).max(1.0), total);
    for _ in 0..BISECTIONS {
        let middle = (low * high).sqrt();
        if shown(middle) < seen { low = middle } else { high = middle }
    }
    high.round()
}

/// The items that came most often.
///
/// Whatever makes more than one part in `capacity` is among them. How often an item came is known as a lower and an upper
/// bound: what was there before it got its place may have been its own, or that of those it pushed out.
#[derive(Clone)]
pub(super) struct Heavy<K> {
    capacity: usize,
    entries: Vec<Entry<K>>,
    total: u64,
}

#[derive(Clone)]
struct Entry<K> {
    key: K,
    /// At most so often.
    count: u64,
    /// By at most so much less.
    error: u64,
}

impl<K> Entry<K> {
    /// At least so often.
    fn sure(&self) -> u64 {
        self.count.saturating_sub(self.error)
    }
}

impl<K: Copy + Eq> Heavy<K> {
    /// Nothing yet; remembers at most `capacity` items.
    pub(super) fn new(capacity: usize) -> Heavy<K> {
        Heavy { capacity, entries: Vec::with_capacity(capacity), total: 0 }
    }

    /// Takes note of `weight` times `key`.
    pub(super) fn note(&mut self, key: K, weight: u64) {
        self.total = self.total.saturating_add(weight);
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == key) {
            entry.count = entry.count.saturating_add(weight);
        } else if self.entries.len() < self.capacity {
            self.entries.push(Entry { key, count: weight, error: 0 });
        } else if let Some(least) = self.entries.iter_mut().min_by_key(|entry| entry.count) {
            *least = Entry { key, count: least.count.saturating_add(weight), error: least.count };
        }
    }

    /// Takes over what `other` has seen.
    pub(super) fn merge(&mut self, other: &Heavy<K>) {
        let (ours, theirs) = (self.unseen(), other.unseen());
        for entry in &mut self.entries {
            let (count, error) = match other.entries.iter().find(|found| found.key == entry.key) {
                Some(found) => (found.count, found.error),
                None => (theirs, theirs),
            };
            entry.count = entry.count.saturating_add(count);
            entry.error = entry.error.saturating_add(error);
        }
        for entry in &other.entries {
            if !self.entries.iter().any(|found| found.key == entry.key) {
                let (count, error) = (entry.count.saturating_add(ours), entry.error.saturating_add(ours));
                self.entries.push(Entry { key: entry.key, count, error });
            }
        }
        self.entries.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.count));
        self.entries.truncate(self.capacity);
        self.total = self.total.saturating_add(other.total);
    }

    /// The heaviest items with their shares of all, at least [`LEAST_SHARE`]; at most `most`. Only what an item surely had
    /// counts, so that among very many equally frequent ones none is named.
    pub(super) fn top(&self, most: usize) -> Vec<(K, f64)> {
        let share = |entry: &Entry<K>| (entry.key, entry.sure() as f64 / self.total.max(1) as f64);
        let mut top: Vec<(K, f64)> =
            self.entries.iter().map(share).filter(|(_, share)| *share >= LEAST_SHARE).collect();
        top.sort_by(|a, b| b.1.total_cmp(&a.1));
        top.truncate(most);
        top
    }

    /// How often at most an item came that is not among the entries.
    fn unseen(&self) -> u64 {
        if self.entries.len() < self.capacity {
            return 0;
        }
        self.entries.iter().map(|entry| entry.count).min().unwrap_or(0)
    }
}

/// Halvings, in logarithm, of a range that spans at most 2^64: the last is far below one item.
const BISECTIONS: u32 = 48;

/// What has less is not worth a name.
pub(super) const LEAST_SHARE: f64 = 0.001;

#[cfg(test)]
mod tests {
    use super::*;

    fn hasher() -> TableHasher {
        TableHasher::new([1, 2])
    }

    /// A sequence without a pattern, the same in every run.
    fn random(seed: u64) -> impl Iterator<Item = u64> {
        let mut state = seed;
        std::iter::repeat_with(move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        })
    }

    #[test]
    fn different_items_are_counted_within_four_standard_errors() {
        for precision in [9, 12] {
            let tolerance = 4.0 * 1.04 / f64::from(1u32 << precision).sqrt();
            for count in [0u32, 1, 5, 100, 3_000, 40_000, 500_000] {
                let mut distinct = Distinct::new(hasher(), precision);
                // Repetitions do not count.
                (0..count).chain(0..count / 2).for_each(|item| distinct.note(&item));
                let off = (distinct.count() - f64::from(count)).abs();
                assert!(
                    off <= (tolerance * f64::from(count)).max(1.0),
                    "{count} at {precision}: off by {off}"
                );
            }
        }
    }

    #[test]
    fn merged_sketches_count_the_union() {
        let (mut a, mut b) = (Distinct::new(hasher(), 12), Distinct::new(hasher(), 12));
        (0..20_000u32).for_each(|item| a.note(&item));
        (10_000..30_000u32).for_each(|item| b.note(&item));
        a.merge(&b);
        assert!((a.count() - 30_000.0).abs() < 30_000.0 * 0.065, "{}", a.count());
    }

    #[test]
    fn a_sample_tells_how_many_there_are_in_all() {
        for (all, total, log2) in
            [(50u64, 1_000_000, 6), (1_000_000, 1_000_000, 6), (100_000, 6_400_000, 6), (40_000, 80_000, 1)]
        {
            let sample: Vec<u64> = random(7)
                .zip(random(8))
                .take(total)
                .filter(|(_, dice)| dice >> (64 - log2) == 0)
                .map(|(item, _)| item % all)
                .collect();
            let seen = sample.iter().collect::<std::collections::HashSet<_>>().len();
            let estimate = extrapolate(seen as f64, sample.len() as f64, total as f64);
            // Items drawn at random miss some even without sampling.
            let drawn = all as f64 * (1.0 - (-(total as f64) / all as f64).exp());
            assert!((estimate / drawn - 1.0).abs() < 0.4, "{estimate} of {drawn}");
        }
        assert_eq!(extrapolate(5.0, 10.0, 10.0), 5.0, "nothing was left out");
        assert_eq!(extrapolate(0.0, 0.0, 1_000.0), 0.0, "nothing was seen");
    }

    #[test]
    fn what_makes_more_than_its_part_is_found_and_never_overrated() {
        let mut heavy = Heavy::new(64);
        // Five items of 5 % each among items that come once.
        let items: Vec<u64> =
            random(1).take(100_000).map(|n| if n % 4 == 0 { n / 4 % 5 } else { n }).collect();
        items.iter().for_each(|item| heavy.note(*item, 1));
        let top = heavy.top(10);
        let names: std::collections::BTreeSet<u64> = top.iter().map(|(item, _)| *item).collect();
        assert_eq!(names, (0..5).collect(), "{top:?}");
        for (item, share) in top {
            let real = items.iter().filter(|found| **found == item).count() as f64 / 100_000.0;
            assert!(share <= real && share > real - 1.0 / 64.0, "{item}: {share} of {real}");
        }
    }

    #[test]
    fn among_very_many_none_is_named() {
        let mut heavy = Heavy::new(64);
        random(2).take(50_000).for_each(|item| heavy.note(item, 16));
        assert_eq!(heavy.top(10), []);
    }

    #[test]
    fn merged_heavy_hitters_keep_their_bounds() {
        let (mut a, mut b) = (Heavy::new(32), Heavy::new(32));
        let halves: [Vec<u64>; 2] =
            [3, 4].map(|seed| random(seed).take(20_000).map(|n| if n % 3 == 0 { 7 } else { n }).collect());
        halves[0].iter().for_each(|item| a.note(*item, 2));
        halves[1].iter().for_each(|item| b.note(*item, 2));
        a.merge(&b);
        assert!(a.entries.len() <= 32);
        let real = halves.iter().flatten().filter(|item| **item == 7).count() as f64 / 40_000.0;
        let top = a.top(10);
        assert_eq!(top.len(), 1, "{top:?}");
        assert!(top[0].0 == 7 && top[0].1 <= real && top[0].1 > real - 2.0 / 32.0, "{top:?} of {real}");
    }

    #[test]
    fn few_items_are_counted_exactly() {
        let mut heavy = Heavy::new(4);
        for (item, weight) in [(1u16, 6), (2, 3), (1, 1)] {
            heavy.note(item, weight);
        }
        assert_eq!(heavy.top(5), [(1, 0.7), (2, 0.3)]);
        assert_eq!(heavy.top(1), [(1, 0.7)]);
    }
}
