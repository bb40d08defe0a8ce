//! Room for what clients send before their server has answered, bounded in all.
//!
//! Buffers come in sizes of powers of two and are reused, so that a steady load does not allocate.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The pool that all half-open entries share.
pub struct EarlyDataPool {
    used: AtomicU64,
    idle: [Mutex<Vec<Box<[u8]>>>; CLASSES],
}

impl EarlyDataPool {
    /// An empty pool.
    pub fn new() -> EarlyDataPool {
        EarlyDataPool { used: AtomicU64::new(0), idle: Default::default() }
    }

    /// Octets that entries hold at the moment.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, class: usize, cap: u64) -> Option<Box<[u8]>> {
        let size = class_size(class);
        let used = self.used.fetch_add(size as u64, Ordering::Relaxed);
        if used.saturating_add(size as u64) > cap {
            self.used.fetch_sub(size as u64, Ordering::Relaxed);
            return None;
        }
        let idle = self.idle.get(class)?.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Some(idle.unwrap_or_else(|| vec![0; size].into_boxed_slice()))
    }

    fn give(&self, class: usize, buffer: Box<[u8]>) {
        self.used.fetch_sub(buffer.len() as u64, Ordering::Relaxed);
        if let Some(idle) = self.idle.get(class) {
            let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
            // Keep what a burst of handshakes reuses, give the rest of a flood's peak back to the system.
            if idle.len() < MAX_IDLE {
                idle.push(buffer);
            }
        }
    }
}

impl Default for EarlyDataPool {
    fn default() -> EarlyDataPool {
        EarlyDataPool::new()
    }
}

/// One client's octets, in order. Gives its room back when dropped.
pub struct EarlyData {
    pool: Arc<EarlyDataPool>,
    buffer: Option<(usize, Box<[u8]>)>,
    len: usize,
}

impl EarlyData {
    /// None yet, without taking room.
    pub fn new(pool: Arc<EarlyDataPool>) -> EarlyData {
        EarlyData { pool, buffer: None, len: 0 }
    }

    /// What is kept.
    pub fn octets(&self) -> &[u8] {
        self.buffer.as_ref().and_then(|(_, buffer)| buffer.get(..self.len)).unwrap_or(&[])
    }

    /// Appends `octets` if at most `bound` are then kept here and at most `cap` in the pool; else keeps none of them.
    pub fn append(&mut self, octets: &[u8], bound: usize, cap: u64) -> bool {
        let end = self.len.saturating_add(octets.len());
        if end > bound || !self.reserve(end, cap) {
            return false;
        }
        let Some(room) = self.buffer.as_mut().and_then(|(_, buffer)| buffer.get_mut(self.len..end)) else {
            return octets.is_empty();
        };
        room.copy_from_slice(octets);
        self.len = end;
        true
    }

    fn reserve(&mut self, len: usize, cap: u64) -> bool {
        if len == 0 || self.buffer.as_ref().is_some_and(|(_, buffer)| buffer.len() >= len) {
            return true;
        }
        let Some(class) = (0..CLASSES).find(|class| class_size(*class) >= len) else { return false };
        let Some(mut larger) = self.pool.take(class, cap) else { return false };
        if let Some(room) = larger.get_mut(..self.len) {
            room.copy_from_slice(self.octets());
        }
        self.release();
        self.buffer = Some((class, larger));
        true
    }

    fn release(&mut self) {
        if let Some((class, buffer)) = self.buffer.take() {
            self.pool.give(class, buffer);
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

    #[test]
    fn data_grows_in_order_and_room_comes_back() {
        let pool = Arc::new(EarlyDataPool::new());
        let mut data = EarlyData::new(pool.clone());
        assert!(data.append(&[], 0, 0) && data.octets().is_empty());
        assert_eq!(pool.used(), 0);
        assert!(data.append(&[1; 2000], 65_535, 1 << 20));
        assert!(data.append(&[2; 100], 65_535, 1 << 20));
        assert_eq!((data.octets().len(), data.octets()[1999], data.octets()[2000]), (2100, 1, 2));
        assert_eq!(pool.used(), 4096);
        assert!(data.append(&vec![3; 65_535 - 2100], 65_535, 1 << 20));
        assert_eq!((data.octets()[2099], data.octets()[2100], pool.used()), (2, 3, 65_536));
        drop(data);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn buffers_are_kept_for_a_burst_and_no_more() {
        let pool = Arc::new(EarlyDataPool::new());
        let idle = || pool.idle[0].lock().unwrap().len();
        for (entries, kept) in [(1, 1), (MAX_IDLE, MAX_IDLE), (MAX_IDLE + 2, MAX_IDLE)] {
            let mut all: Vec<EarlyData> = (0..entries).map(|_| EarlyData::new(pool.clone())).collect();
            assert!(all.iter_mut().all(|data| data.append(&[1], 9, 1 << 30)));
            drop(all);
            assert_eq!((idle(), pool.used()), (kept, 0));
        }
    }

    #[test]
    fn bounds_refuse_whole_appends() {
        let pool = Arc::new(EarlyDataPool::new());
        let mut data = EarlyData::new(pool.clone());
        assert!(data.append(&[1; 10], 10, 2048));
        assert!(!data.append(&[1; 1], 10, 2048), "the entry's bound");
        let mut other = EarlyData::new(pool.clone());
        assert!(!other.append(&[1; 1], 10, 2048), "the pool's cap");
        assert_eq!((data.octets().len(), other.octets().len(), pool.used()), (10, 0, 2048));
    }
}
