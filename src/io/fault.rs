//! Misfortune on purpose: loss, duplication, reordering and flipped bits on any pair of ports.
//!
//! Deterministic: the same seed, rates and frames give the same misfortune, whatever the time.

use std::time::Duration;

use super::{BySide, FrameIo, Received};
use crate::engine::Side;
use crate::wire::buffer::{FrameBuf, FrameRef};

/// How many frames in a million meet with each misfortune; each is drawn by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Frames that vanish.
    pub loss: u32,
    /// Frames that come twice, one copy right after the other.
    pub duplication: u32,
    /// Frames that come after the one that follows them.
    pub reorder: u32,
    /// Frames in which one bit is flipped.
    pub corruption: u32,
}

/// A pair of ports whose frames meet with misfortune, on arrival and when they are sent.
pub struct Fault<Io> {
    inner: Io,
    received: Rates,
    sent: Rates,
    random: Random,
    arriving: BySide<Link>,
    leaving: BySide<Link>,
}

impl<Io: FrameIo> Fault<Io> {
    /// Ports like `inner` on which arriving frames fare as `received` says and departing ones as `sent` says.
    pub fn new(inner: Io, seed: u64, received: Rates, sent: Rates) -> Fault<Io> {
        let random = Random(seed);
        Fault { inner, received, sent, random, arriving: BySide::default(), leaving: BySide::default() }
    }

    /// The ports without misfortune.
    pub fn inner_mut(&mut self) -> &mut Io {
        &mut self.inner
    }
}

impl<Io: FrameIo> FrameIo for Fault<Io> {
    fn receive(&mut self, side: Side, frame: &mut FrameBuf) -> Received {
        let link = self.arriving.at_mut(side);
        if link.take(frame) {
            return Received::Frame;
        }
        match self.inner.receive(side, frame) {
            Received::Frame => link.pass(&self.received, &mut self.random, frame.as_frame()),
            // A frame that waits for the next one to overtake it must not wait for ever.
            Received::Empty => link.release(),
            other => return other,
        }
        match (link.take(frame), link.lost_or_held) {
            (true, _) => Received::Frame,
            (false, true) => Received::Discarded,
            (false, false) => Received::Empty,
        }
    }

    fn send(&mut self, side: Side, frame: FrameRef<'_>) {
        let link = self.leaving.at_mut(side);
        link.pass(&self.sent, &mut self.random, frame);
        flush(link, side, &mut self.inner);
    }

    fn flush(&mut self) {
        self.inner.flush();
    }

    fn wait(&mut self, timeout: Duration) {
        for side in Side::ALL {
            let link = self.leaving.at_mut(side);
            link.release();
            flush(link, side, &mut self.inner);
        }
        let waiting = Side::ALL.iter().any(|side| self.arriving.at(*side).is_waiting());
        self.inner.wait(if waiting { Duration::ZERO } else { timeout });
    }
}

/// What is under way on one side in one direction.
#[derive(Default)]
struct Link {
    /// Frames that come next, in order.
    ready: std::collections::VecDeque<Vec<u8>>,
    /// A frame that the next one overtakes.
    held: Option<Vec<u8>>,
    /// Whether the frame that passed last did not come out at once.
    lost_or_held: bool,
}

impl Link {
    fn pass(&mut self, rates: &Rates, random: &mut Random, frame: FrameRef<'_>) {
        // Always the same number of draws, so that one rate does not change whom another one meets.
        let [lost, twice, late, flipped] =
            [rates.loss, rates.duplication, rates.reorder, rates.corruption].map(|rate| random.happens(rate));
        let bit = random.next();
        self.lost_or_held = true;
        if lost {
            return;
        }
        let mut raw = frame.raw().to_vec();
        if flipped {
            flip(&mut raw, frame.bytes().len(), bit);
        }
        if late && self.held.is_none() {
            self.held = Some(raw);
            return;
        }
        self.lost_or_held = false;
        if twice {
            self.ready.push_back(raw.clone());
        }
        self.ready.push_back(raw);
        self.ready.extend(self.held.take());
    }

    fn release(&mut self) {
        self.lost_or_held = false;
        self.ready.extend(self.held.take());
    }

    fn is_waiting(&self) -> bool {
        self.held.is_some() || !self.ready.is_empty()
    }

    fn take(&mut self, frame: &mut FrameBuf) -> bool {
        self.ready.pop_front().is_some_and(|raw| frame.set_raw(&raw))
    }
}

fn flush(link: &mut Link, side: Side, io: &mut impl FrameIo) {
    for raw in link.ready.drain(..) {
        if let Some(frame) = FrameRef::new(&raw) {
            io.send(side, frame);
        }
    }
}

/// Flips bit number `bit`, modulo what there is, of the last `len` octets: the frame behind its offload header.
fn flip(raw: &mut [u8], len: usize, bit: u64) {
    let Some(octets) = u64::try_from(len).ok().filter(|octets| *octets > 0) else { return };
    let position = usize::try_from((bit >> 3) % octets).unwrap_or(0);
    if let Some(octet) = raw.iter_mut().rev().nth(position) {
        *octet ^= 1 << (bit & 7);
    }
}

/// splitmix64 (Steele, Lea, Flood 2014): small, and good enough to decide who suffers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn happens(&mut self, per_million: u32) -> bool {
        self.next() % 1_000_000 < per_million.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::memory::Memory;

    #[test]
    fn without_misfortune_everything_passes_both_ways() {
        let numbers: Vec<u8> = (0..=255).collect();
        assert_eq!(arrivals(1, Rates::default(), 256), numbers);
        assert_eq!(departures(1, Rates::default(), 256), numbers);
    }

    #[test]
    fn certain_loss_lets_nothing_pass() {
        let rates = Rates { loss: 1_000_000, ..Rates::default() };
        assert!(arrivals(1, rates, 256).is_empty());
        assert!(departures(1, rates, 256).is_empty());
    }

    #[test]
    fn same_seed_same_misfortune_and_another_seed_another() {
        let rates = Rates { loss: 100_000, duplication: 100_000, reorder: 100_000, corruption: 100_000 };
        assert_eq!(arrivals(7, rates, 256), arrivals(7, rates, 256));
        assert_ne!(arrivals(7, rates, 256), arrivals(8, rates, 256));
        assert_eq!(departures(7, rates, 256), departures(7, rates, 256));
    }

    #[test]
    fn certain_duplication_doubles_each_frame() {
        let rates = Rates { duplication: 1_000_000, ..Rates::default() };
        assert_eq!(arrivals(1, rates, 3), [0, 0, 1, 1, 2, 2]);
        assert_eq!(departures(1, rates, 3), [0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn certain_reorder_swaps_pairs_and_keeps_the_last() {
        let rates = Rates { reorder: 1_000_000, ..Rates::default() };
        assert_eq!(arrivals(1, rates, 5), [1, 0, 3, 2, 4]);
        assert_eq!(departures(1, rates, 5), [1, 0, 3, 2, 4]);
    }

    #[test]
    fn corruption_flips_one_bit_of_the_frame_and_none_of_the_offload_header() {
        let rates = Rates { corruption: 1_000_000, ..Rates::default() };
        let mut io = Fault::new(Memory::new(), 3, rates, Rates::default());
        let mut frame = FrameBuf::new();
        for _ in 0..500 {
            io.inner_mut().push(Side::Client, &[0; 3]);
            assert_eq!(io.receive(Side::Client, &mut frame), Received::Frame);
            let bits: u32 = frame.bytes().iter().map(|octet| octet.count_ones()).sum();
            assert_eq!((bits, frame.offload()), (1, crate::wire::buffer::Offload::default()));
        }
        io.inner_mut().push(Side::Client, &[]);
        assert_eq!(io.receive(Side::Client, &mut frame), Received::Frame, "nothing to flip");
    }

    #[test]
    fn rates_are_kept_over_many_frames() {
        let rates = Rates { loss: 100_000, ..Rates::default() };
        let lost = 10_000 - arrivals(42, rates, 10_000).len();
        assert!((900..1100).contains(&lost), "{lost} of 10,000 lost at one in ten");
        let rates = Rates { duplication: 10_000, ..Rates::default() };
        let twice = arrivals(42, rates, 10_000).len() - 10_000;
        assert!((70..130).contains(&twice), "{twice} of 10,000 doubled at one in a hundred");
    }

    /// What arrives on the server's side of `count` numbered frames.
    fn arrivals(seed: u64, rates: Rates, count: usize) -> Vec<u8> {
        let mut io = Fault::new(Memory::new(), seed, rates, Rates::default());
        for number in 0..count {
            io.inner_mut().push(Side::Server, &[number as u8]);
        }
        let mut frame = FrameBuf::new();
        let mut seen = Vec::new();
        loop {
            match io.receive(Side::Server, &mut frame) {
                Received::Frame => seen.push(frame.bytes()[0]),
                Received::Discarded => {}
                Received::Empty | Received::Down => return seen,
            }
        }
    }

    /// What of `count` numbered frames is sent on the server's side.
    fn departures(seed: u64, rates: Rates, count: usize) -> Vec<u8> {
        let mut io = Fault::new(Memory::new(), seed, Rates::default(), rates);
        let mut frame = FrameBuf::new();
        for number in 0..count {
            frame.set_bytes(&[number as u8]);
            io.send(Side::Server, frame.as_frame());
        }
        io.wait(Duration::ZERO);
        std::iter::from_fn(|| io.inner_mut().pop(Side::Server)).map(|bytes| bytes[0]).collect()
    }
}
