//! Room for what clients send before their server has answered, bounded in all and for each owner.
//!
//! Buffers come in sizes of powers of two and are reused, so that a steady load does not allocate.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The pool that all half-open entries share.
pub struct EarlyDataPool {
    used: AtomicU64,
    owners: Box<[AtomicU64]>,
    idle: [Mutex<Vec<Box<[u8]>>>; CLASSES],
}

impl EarlyDataPool {
    /// An empty pool of so many owners.
    pub fn new(owners: usize) -> EarlyDataPool {
        let owners = (0..owners).map(|_| AtomicU64::new(0)).collect();
        EarlyDataPool { used: AtomicU64::new(0), owners, idle: Default::default() }
    }

    /// Octets that entries hold at the moment.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Octets that entries of `owner` hold at the moment.
    pub fn used_by(&self, owner: usize) -> u64 {
        self.owners.get(owner).map_or(0, |used| used.load(Ordering::Relaxed))
    }

    fn take(&self, owner: usize, class: usize, room: Room) -> Option<Box<[u8]>> {
        let size = class_size(class);
        let own = self.owners.get(owner)?;
        if !charge(&self.used, size as u64, room.all) {
            return None;
        }
        if !charge(own, size as u64, room.owner) {
            self.used.fetch_sub(size as u64, Ordering::Relaxed);
            return None;
        }
        let idle = self.idle.get(class)?.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Some(idle.unwrap_or_else(|| vec![0; size].into_boxed_slice()))
    }

    fn give(&self, owner: usize, class: usize, buffer: Box<[u8]>) {
        self.used.fetch_sub(buffer.len() as u64, Ordering::Relaxed);
        if let Some(own) = self.owners.get(owner) {
            own.fetch_sub(buffer.len() as u64, Ordering::Relaxed);
        }
        if let Some(idle) = self.idle.get(class) {
            let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
            // Keep what a burst of handshakes reuses, give the rest of a flood's peak back to the system.
            if idle.len() < MAX_IDLE {
                idle.push(buffer);
            }
        }
    }
}

/// Adds `size` to what is `used` if that stays within `cap`; whether it did.
fn charge(used: &AtomicU64, size: u64, cap: u64) -> bool {
    let has_room = used.fetch_add(size, Ordering::Relaxed).saturating_add(size) <= cap;
    if !has_room {
        used.fetch_sub(size, Ordering::Relaxed);
    }
    has_room
}

/// How many octets may be kept.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Of one client.
    pub bound: usize,
    /// Of all clients of one owner.
    pub owner: u64,
    /// In all.
    pub all: u64,
}

impl Room {
    /// The same where it is filling up: from a half on, of the pool or of the owner's part of it, a client's smallest requests
    /// are kept and no more, or few large ones would take what is left for many. What is not kept is not acknowledged.
    pub fn as_filled(self, pool: &EarlyDataPool, owner: usize) -> Room {
        let is_filling = pool.used() > self.all / 2 || pool.used_by(owner) > self.owner / 2;
        Room { bound: if is_filling { self.bound.min(SMALLEST) } else { self.bound }, ..self }
    }
}

/// One client's octets, in order. Gives its room back when dropped.
pub struct EarlyData {
    pool: Arc<EarlyDataPool>,
    owner: usize,
    buffer: Option<(usize, Box<[u8]>)>,
    len: usize,
}

impl EarlyData {
    /// None yet, without taking room.
    pub fn new(pool: Arc<EarlyDataPool>, owner: usize) -> EarlyData {
        EarlyData { pool, owner, buffer: None, len: 0 }
    }

    /// What is kept.
    pub fn octets(&self) -> &[u8] {
        self.buffer.as_ref().and_then(|(_, buffer)| buffer.get(..self.len)).unwrap_or(&[])
    }

    /// Forgets what is kept behind the first `len` octets.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Appends `octets` if there is room for all of them; else keeps none.
    pub fn append(&mut self, octets: &[u8], room: Room) -> bool {
        let end = self.len.saturating_add(octets.len());
        let room = room.as_filled(&self.pool, self.owner);
        if end > room.bound || !self.reserve(end, room) {
            return false;
        }
        let Some(room) = self.buffer.as_mut().and_then(|(_, buffer)| buffer.get_mut(self.len..end)) else {
            return octets.is_empty();
        };
        room.copy_from_slice(octets);
        self.len = end;
        true
    }

    fn reserve(&mut self, len: usize, room: Room) -> bool {
        if len == 0 || self.buffer.as_ref().is_some_and(|(_, buffer)| buffer.len() >= len) {
            return true;
        }
        let Some(class) = (0..CLASSES).find(|class| class_size(*class) >= len) else { return false };
        let Some(mut larger) = self.pool.take(self.owner, class, room) else { return false };
        if let Some(room) = larger.get_mut(..self.len) {
            room.copy_from_slice(self.octets());
        }
        self.release();
        self.buffer = Some((class, larger));
        true
    }

    fn release(&mut self) {
        if let Some((class, buffer)) = self.buffer.take() {
            self.pool.give(self.owner, class, buffer);
        }
    }
}

impl Drop for EarlyData {
    fn drop(&mut self) {
        self.release();
    }
}

/// Sizes 2 KiB (most requests) to 64 KiB (the largest window without scaling).
const CLASSES: usize = 6;
const SMALLEST: usize = 2048;
const MAX_IDLE: usize = 256;

fn class_size(class: usize) -> usize {
    SMALLEST << class
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(bound: usize, all: u64) -> Room {
        Room { bound, owner: u64::MAX, all }
    }

    #[test]
    fn data_grows_in_order_and_room_comes_back() {
        let pool = Arc::new(EarlyDataPool::new(1));
        let mut data = EarlyData::new(pool.clone(), 0);
        let roomy = room(65_535, 1 << 20);
        assert!(data.append(&[], room(0, 0)) && data.octets().is_empty());
        assert_eq!(pool.used(), 0);
        assert!(data.append(&[1; 2000], roomy));
        assert!(data.append(&[2; 100], roomy));
        assert_eq!((data.octets().len(), data.octets()[1999], data.octets()[2000]), (2100, 1, 2));
        assert_eq!((pool.used(), pool.used_by(0)), (4096, 4096));
        assert!(data.append(&vec![3; 65_535 - 2100], roomy));
        assert_eq!((data.octets()[2099], data.octets()[2100], pool.used()), (2, 3, 65_536));
        drop(data);
        assert_eq!((pool.used(), pool.used_by(0)), (0, 0));
    }

    #[test]
    fn buffers_are_kept_for_a_burst_and_no_more() {
        let pool = Arc::new(EarlyDataPool::new(1));
        let idle = || pool.idle[0].lock().unwrap().len();
        for (entries, kept) in [(1, 1), (MAX_IDLE, MAX_IDLE), (MAX_IDLE + 2, MAX_IDLE)] {
            let mut all: Vec<EarlyData> = (0..entries).map(|_| EarlyData::new(pool.clone(), 0)).collect();
            assert!(all.iter_mut().all(|data| data.append(&[1], room(9, 1 << 30))));
            drop(all);
            assert_eq!((idle(), pool.used()), (kept, 0));
        }
    }

    #[test]
    fn bounds_refuse_whole_appends() {
        let pool = Arc::new(EarlyDataPool::new(1));
        let mut data = EarlyData::new(pool.clone(), 0);
        assert!(data.append(&[1; 10], room(10, 2048)));
        assert!(!data.append(&[1; 1], room(10, 2048)), "the entry's bound");
        let mut other = EarlyData::new(pool.clone(), 0);
        assert!(!other.append(&[1; 1], room(10, 2048)), "the pool's cap");
        assert_eq!((data.octets().len(), other.octets().len(), pool.used()), (10, 0, 2048));
    }

    #[test]
    fn an_owner_that_has_its_part_leaves_the_rest_to_the_others() {
        let pool = Arc::new(EarlyDataPool::new(2));
        let room = Room { bound: 65_535, owner: 3 * 2048, all: 4 * 2048 };
        let mut kept = Vec::new();
        let mut keep = |owner| {
            let mut data = EarlyData::new(pool.clone(), owner);
            let is_kept = data.append(&[1; 100], room);
            kept.push(data);
            is_kept
        };
        assert_eq!(
            [keep(0), keep(0), keep(0), keep(0), keep(1), keep(1), keep(2)],
            [true, true, true, false, true, false, false]
        );
        assert_eq!((pool.used(), pool.used_by(0), pool.used_by(1)), (8192, 6144, 2048));
    }

    #[test]
    fn from_a_half_on_a_client_keeps_its_smallest_requests() {
        for room in [Room { bound: 65_535, owner: 64 << 10, all: 1 << 30 }, room(65_535, 64 << 10)] {
            let pool = Arc::new(EarlyDataPool::new(1));
            let mut first = EarlyData::new(pool.clone(), 0);
            assert!(first.append(&vec![1; 20_000], room), "32 KiB are a half");
            assert!(EarlyData::new(pool.clone(), 0).append(&[1; 2049], room), "no more than a half");
            let mut small = EarlyData::new(pool.clone(), 0);
            assert!(small.append(&[1; 100], room));
            let mut large = EarlyData::new(pool.clone(), 0);
            assert!(!large.append(&[1; 2049], room) && large.append(&[1; 2048], room));
            assert!(!first.append(&[1; 1], room), "nor does the first keep more");
        }
    }
}
