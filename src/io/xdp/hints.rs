//! What may be known of a connection, by its hash: so small that a processor keeps it at hand, and says of nearly all that a
//! flood is made of that neither the flow table nor the marks need be asked. `src/bpf/hash.h` is the reader.

use std::ops::Deref;
use std::sync::atomic::Ordering::{Relaxed, Release};

use super::abi::{HINTS, Hint, STAMP_SHIFT};

/// The map `hints`, or the heap for the tests.
pub(super) struct Hints<Words>(Words);

/// How many flows there are for each bit of the hints.
pub(super) struct Tally(Vec<u16>);

/// Where a hash is looked for.
#[derive(Clone, Copy)]
struct Place {
    hint: usize,
    bit: usize,
    stamp: usize,
}

impl<Words: Deref<Target = [Hint]>> Hints<Words> {
    pub(super) fn new(words: Words) -> Hints<Words> {
        Hints(words)
    }

    /// A connection with this hash is marked as pending.
    pub(super) fn stamp(&self, hash: u64, now: u32) {
        let place = Place::of(hash);
        if let Some(stamp) = self.0.get(place.hint).and_then(|hint| hint.stamps.get(place.stamp)) {
            stamp.store((now >> STAMP_SHIFT) as u16, Relaxed);
        }
    }

    /// A flow with this hash is about to be admitted.
    pub(super) fn enter(&self, tally: &mut Tally, hash: u64) {
        let place = Place::of(hash);
        let Some(count) = tally.0.get_mut(place.number()) else { return };
        *count = count.saturating_add(1);
        if let Some(hint) = self.0.get(place.hint) {
            hint.flows.fetch_or(place.mask(), Release);
        }
    }

    /// A flow with this hash is gone.
    pub(super) fn leave(&self, tally: &mut Tally, hash: u64) {
        let place = Place::of(hash);
        let Some(count) = tally.0.get_mut(place.number()) else { return };
        // So many that the count was lost: the bit stays.
        if *count == u16::MAX {
            return;
        }
        *count = count.saturating_sub(1);
        if let Some(hint) = self.0.get(place.hint).filter(|_| *count == 0) {
            hint.flows.fetch_and(!place.mask(), Release);
        }
    }

    /// Clears what a process left that was killed while a flow went.
    pub(super) fn mend(&self, tally: &Tally) {
        for (hint, counts) in self.0.iter().zip(tally.0.chunks(BITS)) {
            let bits = counts.iter().enumerate().filter(|(_, count)| **count > 0);
            hint.flows
                .fetch_and(bits.fold(0, |word, (bit, _)| word | 1_u32.wrapping_shl(bit as u32)), Release);
        }
    }
}

impl Tally {
    pub(super) fn new() -> Tally {
        Tally(vec![0; HINTS.saturating_mul(BITS)])
    }
}

impl Place {
    fn of(hash: u64) -> Place {
        // As many bits of the hash as there are places.
        let bits = |shift: u32, count: u64| (hash >> shift).wrapping_rem(count) as usize;
        Place { hint: bits(0, HINTS as u64), bit: bits(15, BITS as u64), stamp: bits(20, 2) }
    }

    fn number(self) -> usize {
        self.hint.wrapping_mul(BITS).wrapping_add(self.bit)
    }

    fn mask(self) -> u32 {
        1_u32.wrapping_shl(self.bit as u32)
    }
}

/// Of a word.
const BITS: usize = 32;

#[cfg(test)]
pub(super) fn empty_hints() -> Hints<Vec<Hint>> {
    Hints((0..HINTS).map(|_| Hint::default()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words that are not 0, by their place.
    fn words(hints: &Hints<Vec<Hint>>) -> Vec<(usize, u32)> {
        let words = hints.0.iter().map(|hint| hint.flows.load(Relaxed)).enumerate();
        words.filter(|(_, word)| *word != 0).collect()
    }

    #[test]
    fn a_bit_stays_for_as_long_as_a_flow_has_it() {
        let (hints, mut tally) = (empty_hints(), Tally::new());
        let (one, same, other) = (5 | 3 << 15, 5 | 3 << 15 | 1 << 40, 5 | 31 << 15);
        [one, same, other].into_iter().for_each(|hash| hints.enter(&mut tally, hash));
        assert_eq!(words(&hints), [(5, 1 << 3 | 1 << 31)]);
        hints.leave(&mut tally, one);
        assert_eq!(words(&hints), [(5, 1 << 3 | 1 << 31)]);
        hints.leave(&mut tally, same);
        assert_eq!(words(&hints), [(5, 1 << 31)]);
        hints.leave(&mut tally, other);
        assert_eq!(words(&hints), []);
    }

    #[test]
    fn what_was_left_is_cleared_and_what_is_there_stays() {
        let (hints, mut tally) = (empty_hints(), Tally::new());
        hints.enter(&mut Tally::new(), 7);
        hints.enter(&mut tally, 8 | 2 << 15);
        hints.mend(&tally);
        assert_eq!(words(&hints), [(8, 1 << 2)]);
    }

    #[test]
    fn a_stamp_is_of_the_second_and_goes_around() {
        let hints = empty_hints();
        hints.stamp(9 | 1 << 20, 70_000 << STAMP_SHIFT);
        let [other, stamp] = hints.0[9].stamps.each_ref().map(|stamp| stamp.load(Relaxed));
        assert_eq!((other, stamp), (0, 70_000_u32 as u16));
    }
}
