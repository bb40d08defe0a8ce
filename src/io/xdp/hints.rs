//! What may be known of a connection, by its hash: so small that a processor keeps it at hand, and says of nearly all that a
//! flood is made of that neither the flow table nor the marks need be asked. `src/bpf/hash.h` is the reader.

use std::ops::Deref;
use std::sync::atomic::Ordering::{Relaxed, Release};

use super::abi::{HINT_BLOCKS, HINT_STAMPS, HintBlock, STAMP_SHIFT};

/// The map `hints`, or the heap for the tests.
pub(super) struct Hints<Blocks>(Blocks);

/// How many flows there are for each bit of the hints.
pub(super) struct Tally(Vec<u16>);

/// Where a hash is looked for.
#[derive(Clone, Copy)]
struct Place {
    block: usize,
    bit: usize,
    stamp: usize,
}

impl<Blocks: Deref<Target = [HintBlock]>> Hints<Blocks> {
    pub(super) fn new(blocks: Blocks) -> Hints<Blocks> {
        Hints(blocks)
    }

    /// A connection with this hash is marked as pending.
    pub(super) fn stamp(&self, hash: u64, now: u32) {
        let place = Place::of(hash);
        if let Some(stamp) = self.0.get(place.block).and_then(|block| block.stamps.get(place.stamp)) {
            stamp.store((now >> STAMP_SHIFT) as u16, Relaxed);
        }
    }

    /// A flow with this hash is about to be admitted.
    pub(super) fn enter(&self, tally: &mut Tally, hash: u64) {
        let place = Place::of(hash);
        let Some(count) = tally.0.get_mut(place.number()) else { return };
        *count = count.saturating_add(1);
        if let Some(block) = self.0.get(place.block) {
            block.flows.fetch_or(place.mask(), Release);
        }
    }

    /// A flow with this hash is gone.
    pub(super) fn leave(&self, tally: &mut Tally, hash: u64) {
        let place = Place::of(hash);
        let Some(count) = tally.0.get_mut(place.number()) else { return };
        // Who counted so far does not know any more: the bit stays.
        if *count == u16::MAX {
            return;
        }
        *count = count.saturating_sub(1);
        if let Some(block) = self.0.get(place.block).filter(|_| *count == 0) {
            block.flows.fetch_and(!place.mask(), Release);
        }
    }

    /// Clears what a process left that was killed while a flow went.
    pub(super) fn mend(&self, tally: &Tally) {
        for (block, counts) in self.0.iter().zip(tally.0.chunks(BITS)) {
            let bits = counts.iter().enumerate().filter(|(_, count)| **count > 0);
            block.flows.fetch_and(bits.fold(0, |word, (bit, _)| word | 1_u64.wrapping_shl(bit as u32)), Release);
        }
    }
}

impl Tally {
    pub(super) fn new() -> Tally {
        Tally(vec![0; HINT_BLOCKS.saturating_mul(BITS)])
    }
}

impl Place {
    fn of(hash: u64) -> Place {
        // As many bits of the hash as there are places.
        let bits = |shift: u32, count: u64| (hash >> shift).wrapping_rem(count) as usize;
        let stamp = bits(18, 256).wrapping_mul(HINT_STAMPS) >> 8;
        Place { block: bits(0, HINT_BLOCKS as u64), bit: bits(12, BITS as u64), stamp }
    }

    fn number(self) -> usize {
        self.block.wrapping_mul(BITS).wrapping_add(self.bit)
    }

    fn mask(self) -> u64 {
        1_u64.wrapping_shl(self.bit as u32)
    }
}

/// Of a word.
const BITS: usize = 64;

#[cfg(test)]
pub(super) fn empty_hints() -> Hints<Vec<HintBlock>> {
    use std::sync::atomic::{AtomicU16, AtomicU64};
    let block = |_| HintBlock { flows: AtomicU64::new(0), stamps: [const { AtomicU16::new(0) }; HINT_STAMPS] };
    Hints((0..HINT_BLOCKS).map(block).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    
    /// The words that are not 0, by their place.
    fn words(hints: &Hints<Vec<HintBlock>>) -> Vec<(usize, u64)> {
        let words = hints.0.iter().map(|block| block.flows.load(Relaxed)).enumerate();
        words.filter(|(_, word)| *word != 0).collect()
    }

    #[test]
    fn a_bit_stays_for_as_long_as_a_flow_has_it() {
        let (hints, mut tally) = (empty_hints(), Tally::new());
        let (one, same, other) = (5 | 3 << 12, 5 | 3 << 12 | 1 << 40, 5 | 63 << 12);
        [one, same, other].into_iter().for_each(|hash| hints.enter(&mut tally, hash));
        assert_eq!(words(&hints), [(5, 1 << 3 | 1 << 63)]);
        hints.leave(&mut tally, one);
        assert_eq!(words(&hints), [(5, 1 << 3 | 1 << 63)]);
        hints.leave(&mut tally, same);
        assert_eq!(words(&hints), [(5, 1 << 63)]);
        hints.leave(&mut tally, other);
        assert_eq!(words(&hints), []);
    }

    #[test]
    fn what_was_left_is_cleared_and_what_is_there_stays() {
        let (hints, mut tally) = (empty_hints(), Tally::new());
        hints.enter(&mut Tally::new(), 7);
        hints.enter(&mut tally, 8 | 2 << 12);
        hints.mend(&tally);
        assert_eq!(words(&hints), [(8, 1 << 2)]);
    }

    #[test]
    fn a_stamp_is_of_the_second_and_the_last_one_has_a_place() {
        let hints = empty_hints();
        hints.stamp(9 | 0xff << 18, 70_000 << STAMP_SHIFT);
        assert_eq!(hints.0[9].stamps[HINT_STAMPS - 1].load(Relaxed), (70_000_u32 & 0x3f_ffff) as u16);
    }
}
