//! The table of flows that the program in the kernel looks them up in: admits, moves and removes.
//!
//! A set-associative cuckoo table: a flow is in one of two buckets of four slots, and where both are full, others move to
//! their other bucket. `src/bpf/hash.h` is the reader. This side alone changes which flow is where, under one lock; the
//! program changes what it notes of a flow. A slot's version is odd while it is empty or being written, and another after:
//! who read from a slot looks at it again before acting. What the program writes it writes at once after that look, so a
//! slot that was left rests before it is used again.
//!
//! Generic over memory: maps of the kernel, or the heap for the tests.

use std::ops::Deref;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use super::abi::{HASH_KEYS, Hint, KEY_WORDS, SLOTS_PER_BUCKET, Slot};
use super::hints::{Hints, Tally};
use super::locked;
use super::walk::{self, Step};

/// A flow's key as the program compares it.
pub(super) type Key = [u32; KEY_WORDS];

/// The table.
pub(super) struct Table<Tags, Slots, Words> {
    tags: Tags,
    slots: Slots,
    hints: Hints<Words>,
    keys: [u64; HASH_KEYS],
    population: Mutex<Population>,
}

/// How many flows there are, and for each hint.
struct Population {
    count: usize,
    tally: Tally,
}

/// Where a flow may be, and how its slot is marked there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) buckets: [usize; 2],
    tag: u16,
}

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) bucket: usize,
    pub(super) lane: usize,
}

impl<Tags, Slots, Words> Table<Tags, Slots, Words>
where
    Tags: Deref<Target = [AtomicU64]>,
    Slots: Deref<Target = [Slot]>,
    Words: Deref<Target = [Hint]>,
{
    /// The table in this memory, four slots for each tag word, with the flows that are there.
    pub(super) fn new(
        now: u32,
        tags: Tags,
        slots: Slots,
        hints: Hints<Words>,
        keys: [u64; HASH_KEYS],
    ) -> Table<Tags, Slots, Words> {
        let nobody = Population { count: 0, tally: Tally::new() };
        let table = Table { tags, slots, hints, keys, population: Mutex::new(nobody) };
        table.mend(now);
        table
    }

    /// Removes what a process left that was killed while it wrote or moved a flow, and counts the others.
    fn mend(&self, now: u32) {
        let mut population = locked(&self.population);
        for bucket in 0..self.tags.len() {
            for place in lanes(bucket).filter(|place| self.tag(*place) != 0) {
                let whole = self.slot(place).filter(|slot| slot.version.load(Relaxed) % 2 == 0).map(key_of);
                match whole.filter(|key| self.find(key, &self.places(key)) == Some(place)) {
                    Some(key) => self.enter(&mut population, &key),
                    None => self.clear(now, place),
                }
            }
        }
        self.hints.mend(&population.tally);
    }

    fn enter(&self, population: &mut Population, key: &Key) {
        population.count = population.count.saturating_add(1);
        self.hints.enter(&mut population.tally, self.hash(key));
    }

    /// How many flows there are.
    pub(super) fn len(&self) -> usize {
        locked(&self.population).count
    }

    /// Takes up a flow: `write` describes it in its slot. `false` if there is no room. A flow that is there is described anew.
    pub(super) fn admit(&self, now: u32, key: &Key, write: impl FnOnce(&Slot)) -> bool {
        let mut population = locked(&self.population);
        let places = self.places(key);
        let found = self.find(key, &places);
        let Some(place) = found.or_else(|| self.make_room(now, key, &places)) else { return false };
        let Some(slot) = self.slot(place) else { return false };
        begin(slot);
        for (to, from) in slot.key.iter().zip(key) {
            to.store(*from, Relaxed);
        }
        write(slot);
        end(slot);
        if found.is_none() {
            self.enter(&mut population, key);
        }
        self.set_tag(place, places.tag);
        true
    }

    /// What `read` makes of the slot of the flow with `key`, which stays where it is meanwhile.
    pub(super) fn with<T>(&self, key: &Key, read: impl FnOnce(&Slot) -> T) -> Option<T> {
        let _population = locked(&self.population);
        self.slot(self.find(key, &self.places(key))?).map(read)
    }

    /// Forgets the flow with `key`; whether it was there.
    pub(super) fn remove(&self, now: u32, key: &Key) -> bool {
        let mut population = locked(&self.population);
        let Some(place) = self.find(key, &self.places(key)) else { return false };
        self.clear(now, place);
        population.count = population.count.saturating_sub(1);
        self.hints.leave(&mut population.tally, self.hash(key));
        true
    }

    /// What `read` makes of each flow.
    pub(super) fn flows<T>(&self, read: impl Fn(&Slot) -> T) -> Vec<T> {
        let population = locked(&self.population);
        let mut flows = Vec::with_capacity(population.count);
        for bucket in 0..self.tags.len() {
            let taken = lanes(bucket).filter(|place| self.tag(*place) != 0);
            flows.extend(taken.filter_map(|place| self.slot(place)).map(&read));
        }
        flows
    }

    /// The hash of a connection, whether it is a flow or not.
    fn hash(&self, key: &Key) -> u64 {
        hash(&self.keys, key)
    }

    /// A connection is marked as pending: it is worth looking for the mark.
    pub(super) fn hint_pending(&self, now: u32, key: &Key) {
        self.hints.stamp(self.hash(key), now);
    }

    /// Where a flow with `key` may be: as `hash.h` has it.
    pub(super) fn places(&self, key: &Key) -> Places {
        let hash = self.hash(key);
        let buckets = self.tags.len() as u64;
        let place = |half: u64| half.wrapping_mul(buckets) >> 32;
        let [one, two] =
            [place(hash >> 32), place(hash & 0xffff_ffff)].map(|bucket| usize::try_from(bucket).unwrap_or(0));
        let [low, high, ..] = (hash >> 13).to_le_bytes();
        Places { buckets: [one, two], tag: u16::from_le_bytes([low, high]).max(1) }
    }

    fn find(&self, key: &Key, places: &Places) -> Option<Place> {
        let is_its = |place: &Place| {
            self.tag(*place) == places.tag && self.slot(*place).map(key_of).as_ref() == Some(key)
        };
        places.buckets.into_iter().flat_map(lanes).find(is_its)
    }

    /// A slot that may be written, after others have moved if need be.
    fn make_room(&self, now: u32, key: &Key, places: &Places) -> Option<Place> {
        if let Some(own) = self.own_free_slot(key, places) {
            return Some(own);
        }
        let free = |bucket| self.free_lane(now, bucket);
        if let Some(place) = places.buckets.into_iter().find_map(free) {
            return Some(place);
        }
        // Those that no segment came for lately are moved first: the program holds none of them.
        let path = [true, false].into_iter().find_map(|only_idle| {
            walk::find(places.buckets, free, |place| {
                let slot = self.slot(place).filter(|_| self.tag(place) != 0)?;
                if only_idle && !has_rested(now, slot) {
                    return None;
                }
                let [one, two] = self.places(&key_of(slot)).buckets;
                Some(if place.bucket == one { two } else { one })
            })
        })?;
        path.iter().for_each(|step| self.relocate(now, step));
        path.last().map(|step| step.from)
    }

    /// Moves a flow: it is in both places for a moment, and never in none.
    fn relocate(&self, now: u32, step: &Step) {
        let (Some(from), Some(to)) = (self.slot(step.from), self.slot(step.to)) else { return };
        begin(to);
        copy(from, to);
        end(to);
        self.set_tag(step.to, self.tag(step.from));
        self.clear(now, step.from);
    }

    fn clear(&self, now: u32, place: Place) {
        self.set_tag(place, 0);
        if let Some(slot) = self.slot(place) {
            begin(slot);
            // Of an empty slot: since when.
            slot.last_seen.store(now, Relaxed);
        }
    }

    /// The slot that an earlier connection of the same tuple has left. It need not rest: what the program may still write to
    /// it is of this tuple, and was read before the engine saw the segment that ended that connection, a handshake ago. Else
    /// a client that opens its connections from one port would find all eight slots of its key at rest.
    fn own_free_slot(&self, key: &Key, places: &Places) -> Option<Place> {
        let is_its =
            |place: &Place| self.tag(*place) == 0 && self.slot(*place).map(key_of).as_ref() == Some(key);
        places.buckets.into_iter().flat_map(lanes).find(is_its)
    }

    fn free_lane(&self, now: u32, bucket: usize) -> Option<Place> {
        let is_free = |place: &Place| {
            self.tag(*place) == 0 && self.slot(*place).is_some_and(|slot| has_rested(now, slot))
        };
        lanes(bucket).find(is_free)
    }

    fn slot(&self, place: Place) -> Option<&Slot> {
        self.slots.get(place.bucket.checked_mul(SLOTS_PER_BUCKET)?.checked_add(place.lane)?)
    }

    fn tag(&self, place: Place) -> u16 {
        self.tags.get(place.bucket).map_or(0, |word| tag_in(word.load(Relaxed), place.lane))
    }

    /// Only this side writes tags, under the lock.
    fn set_tag(&self, place: Place, tag: u16) {
        let Some(word) = self.tags.get(place.bucket) else { return };
        let shift = place.lane.wrapping_mul(16) as u32;
        let others = word.load(Relaxed) & !0xffff_u64.wrapping_shl(shift);
        word.store(others | u64::from(tag).wrapping_shl(shift), Release);
    }
}

fn lanes(bucket: usize) -> impl Iterator<Item = Place> {
    (0..SLOTS_PER_BUCKET).map(move |lane| Place { bucket, lane })
}

/// The key in a slot.
pub(super) fn key_of(slot: &Slot) -> Key {
    slot.key.each_ref().map(|word| word.load(Relaxed))
}

/// Buckets for `flows` flows: so many that moving others makes room for every one of them.
pub(super) fn buckets(flows: u32) -> u32 {
    let slots = u64::from(flows).saturating_mul(6).div_ceil(5);
    u32::try_from(slots.div_ceil(SLOTS_PER_BUCKET as u64)).unwrap_or(u32::MAX).max(1)
}

/// Octets that a flow takes, at the most flows: DESIGN allows 128.
const OCTETS_PER_FLOW: usize = (size_of::<Slot>() + size_of::<u16>()) * 6 / 5;
const _: () = assert!(OCTETS_PER_FLOW <= 128);

/// The multilinear hash of the words (Lemire and Kaser 2014), and mixing for its lower bits, as `hash.h` has it. A zero follows
/// an odd number of words.
pub(super) fn hash(keys: &[u64; HASH_KEYS], words: &[u32]) -> u64 {
    let [secrets @ .., last] = keys;
    let mut words = words.iter().map(|word| u64::from(*word)).chain([0]);
    let mut secrets = secrets.iter().copied();
    let mut sum = 0_u64;
    while let (Some(a), Some(b)) = (words.next(), words.next()) {
        let (k, l) = (secrets.next().unwrap_or(0), secrets.next().unwrap_or(0));
        sum = sum.wrapping_add(a.wrapping_add(k).wrapping_mul(b.wrapping_add(l)));
    }
    sum ^= sum >> 32;
    sum = sum.wrapping_mul(*last | 1);
    sum ^ (sum >> 29)
}

fn tag_in(word: u64, lane: usize) -> u16 {
    let [low, high, ..] = word.wrapping_shr(lane.wrapping_mul(16) as u32).to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// Makes the version odd, before anything else of the slot changes.
fn begin(slot: &Slot) {
    slot.version.store(slot.version.load(Relaxed) | 1, Relaxed);
    fence(Release);
}

/// Makes the version even, and another than before, after everything else.
fn end(slot: &Slot) {
    slot.version.store((slot.version.load(Acquire) | 1).wrapping_add(1), Release);
}

fn copy(from: &Slot, to: &Slot) {
    let word = |to: &std::sync::atomic::AtomicU32, from: &std::sync::atomic::AtomicU32| {
        to.store(from.load(Relaxed), Relaxed)
    };
    to.key.iter().zip(&from.key).for_each(|(to, from)| word(to, from));
    word(&to.delta, &from.delta);
    word(&to.ts_delta, &from.ts_delta);
    for (to, from) in to.ends.iter().zip(&from.ends) {
        word(&to.next, &from.next);
        word(&to.acked, &from.acked);
        word(&to.edge, &from.edge);
        word(&to.max_window, &from.max_window);
    }
    word(&to.clock_latest, &from.clock_latest);
    word(&to.clock_reach, &from.clock_reach);
    word(&to.last_seen, &from.last_seen);
    word(&to.client_iss, &from.client_iss);
    to.scales.store(from.scales.load(Relaxed), Relaxed);
    to.service.store(from.service.load(Relaxed), Relaxed);
    to.flags.store(from.flags.load(Relaxed), Relaxed);
    to.storm.store(from.storm.load(Relaxed), Relaxed);
    to.marks.store(from.marks.load(Relaxed), Relaxed);
    to.last_server.store(from.last_server.load(Relaxed), Relaxed);
}

/// Whether neither a segment nor a change touched the slot for longer than the program takes for a frame.
fn has_rested(now: u32, slot: &Slot) -> bool {
    idle(now, slot.last_seen.load(Relaxed)) >= REST
}

/// Milliseconds from `last_seen` to `now`, on a clock that goes around in 49.7 days. What lies less than a minute in the
/// future came now: the program's clock is a tick behind, and `now` was read before the lock was taken.
pub(super) fn idle(now: u32, last_seen: u32) -> u32 {
    let idle = now.wrapping_sub(last_seen);
    if idle > LONGEST_IDLE { 0 } else { idle }
}

/// Milliseconds. The longest `established_timeout`, 30 days, is shorter.
pub(super) const LONGEST_IDLE: u32 = u32::MAX - 60_000;

/// Milliseconds; longer than a processor is taken away from a frame that it has begun with.
const REST: u32 = 20;

#[cfg(test)]
mod tests;
