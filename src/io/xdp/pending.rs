//! Connections that the engine is opening: what the program passes up of them.

use std::ops::Deref;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

use aya::maps::{HashMap, MapData};

use super::abi::{STAMP_BLOCKS, STAMP_SHIFT, STAMPS_PER_BLOCK, StampBlock};
use super::locked;
use super::sys::Mapped;
use super::table::Key;

/// The maps `pending` and `stamps`.
pub(super) struct Pending {
    marks: Mutex<HashMap<MapData, Key, u32>>,
    stamps: Mapped<StampBlock>,
}

impl Pending {
    pub(super) fn new(marks: HashMap<MapData, Key, u32>, stamps: Mapped<StampBlock>) -> Pending {
        Pending { marks: Mutex::new(marks), stamps }
    }

    /// Marks the connection with `key`, whose hash is `hash`.
    pub(super) fn mark(&self, hash: u64, key: Key, now: u32) {
        // The kernel refuses only what it has no memory for: the next segment of the connection tries again.
        let _ = locked(&self.marks).insert(key, now, 0);
        stamp(&self.stamps, hash, now);
    }
}

/// Notes that it is worth looking for a mark, where `pending.h` looks.
fn stamp(stamps: &impl Deref<Target = [StampBlock]>, hash: u64, now: u32) {
    let place = usize::try_from(hash % PLACES).unwrap_or(0);
    let (block, lane) = (place.div_euclid(STAMPS_PER_BLOCK), place.rem_euclid(STAMPS_PER_BLOCK));
    if let Some(stamp) = stamps.get(block).and_then(|block| block.stamps.get(lane)) {
        stamp.store((now >> STAMP_SHIFT) as u16, Relaxed);
    }
}

const PLACES: u64 = (STAMP_BLOCKS * STAMPS_PER_BLOCK) as u64;
