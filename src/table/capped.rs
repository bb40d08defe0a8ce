//! A concurrent map with a cap in all and one per group.
//!
//! Both tables of the engine are of this kind: half-open entries, grouped by service, and flows, grouped by state. The
//! groups' counts are atomics beside the map, so that a cap is decided and a gauge read without walking anything.

use core::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::flow_key::{FlowKey, TableHasher};

/// A value that belongs to a group; the group may change while it is in the map.
pub trait Grouped {
    /// Its group, below the number of groups that the map was made for.
    fn group(&self) -> usize;
}

/// Why an entry was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is an entry under this key.
    Exists,
    /// The map or the group is full.
    Full,
}

/// The map. Methods hold at most one shard's lock, and none when they return.
pub struct CappedMap<V> {
    map: DashMap<FlowKey, V, TableHasher>,
    len: AtomicUsize,
    groups: Box<[AtomicUsize]>,
}

impl<V: Grouped> CappedMap<V> {
    /// An empty map of `groups` groups.
    pub fn new(hasher: TableHasher, groups: usize) -> CappedMap<V> {
        // Many shards: two workers rarely meet in one, and growing one moves little at a time.
        const SHARDS: usize = 256;
        CappedMap {
            map: DashMap::with_capacity_and_hasher_and_shard_amount(0, hasher, SHARDS),
            len: AtomicUsize::new(0),
            groups: (0..groups).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    /// Entries in all.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries in `group`.
    pub fn group_len(&self, group: usize) -> usize {
        self.groups.get(group).map_or(0, |count| count.load(Ordering::Acquire))
    }

    /// Admits `value` under `key` if the map holds fewer than `cap` entries and its group fewer than `group_cap`.
    ///
    /// # Errors
    /// [`Refused`], and nothing is changed.
    pub fn admit(&self, key: FlowKey, value: V, cap: usize, group_cap: usize) -> Result<(), Refused> {
        let group = self.groups.get(value.group()).ok_or(Refused::Full)?;
        // Places are taken before the look-up, so that two workers cannot share the last one.
        if !take(&self.len, cap) {
            return Err(Refused::Full);
        }
        if !take(group, group_cap) {
            give(&self.len);
            return Err(Refused::Full);
        }
        match self.map.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(value);
                Ok(())
            }
            Entry::Occupied(_) => {
                give(group);
                give(&self.len);
                Err(Refused::Exists)
            }
        }
    }

    /// Calls `f` with the entry under `key`; `None` if there is none. `f` must not touch this map.
    pub fn with<R>(&self, key: &FlowKey, f: impl FnOnce(&mut V) -> R) -> Option<R> {
        if self.is_empty() {
            return None;
        }
        let mut entry = self.map.get_mut(key)?;
        let before = entry.group();
        let result = f(&mut entry);
        let after = entry.group();
        if before != after {
            self.regroup(before, after);
        }
        Some(result)
    }

    /// Removes the entry under `key` if `condition` holds for it.
    pub fn remove_if(&self, key: &FlowKey, condition: impl FnOnce(&V) -> bool) -> Option<V> {
        if self.is_empty() {
            return None;
        }
        let (_, value) = self.map.remove_if(key, |_, value| condition(value))?;
        if let Some(group) = self.groups.get(value.group()) {
            give(group);
        }
        give(&self.len);
        Some(value)
    }

    fn regroup(&self, before: usize, after: usize) {
        if let (Some(before), Some(after)) = (self.groups.get(before), self.groups.get(after)) {
            give(before);
            after.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Takes a place below `cap`; whether there was one.
fn take(count: &AtomicUsize, cap: usize) -> bool {
    let taken = count.fetch_add(1, Ordering::AcqRel);
    if taken >= cap {
        give(count);
    }
    taken < cap
}

fn give(count: &AtomicUsize) {
    count.fetch_sub(1, Ordering::AcqRel);
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    struct Value(usize);

    impl Grouped for Value {
        fn group(&self) -> usize {
            self.0
        }
    }

    fn key(port: u16) -> FlowKey {
        FlowKey::new(IpAddr::from([198, 18, 0, 1]), port, IpAddr::from([198, 18, 255, 2]), 80)
    }

    fn map() -> CappedMap<Value> {
        CappedMap::new(TableHasher::new([1, 2]), 3)
    }

    #[test]
    fn caps_hold_in_all_and_per_group_and_refusal_changes_nothing() {
        let map = map();
        assert_eq!(map.admit(key(1), Value(0), 3, 2), Ok(()));
        assert_eq!(map.admit(key(2), Value(0), 3, 2), Ok(()));
        assert_eq!(map.admit(key(3), Value(0), 3, 2), Err(Refused::Full));
        assert_eq!(map.admit(key(1), Value(1), 3, 2), Err(Refused::Exists));
        assert_eq!(map.admit(key(3), Value(1), 3, 2), Ok(()));
        assert_eq!(map.admit(key(4), Value(1), 3, 2), Err(Refused::Full));
        assert_eq!(map.admit(key(4), Value(3), 9, 9), Err(Refused::Full), "a group that does not exist");
        assert_eq!((map.len(), map.group_len(0), map.group_len(1), map.group_len(2)), (3, 2, 1, 0));
    }

    #[test]
    fn counts_follow_a_change_of_group_and_a_removal() {
        let map = map();
        map.admit(key(1), Value(0), 9, 9).unwrap();
        assert_eq!(map.with(&key(1), |value| std::mem::replace(&mut value.0, 2)), Some(0));
        assert_eq!((map.group_len(0), map.group_len(2)), (0, 1));
        assert!(map.with(&key(2), |_| ()).is_none());
        assert!(map.remove_if(&key(1), |value| value.0 == 0).is_none());
        assert!(map.remove_if(&key(1), |value| value.0 == 2).is_some());
        assert!(map.is_empty() && map.group_len(2) == 0);
    }

    #[test]
    fn two_threads_never_pass_the_cap() {
        let map = map();
        std::thread::scope(|scope| {
            for start in [0, 10_000] {
                let map = &map;
                scope.spawn(move || {
                    for port in start..start + 5_000 {
                        let _ = map.admit(key(port), Value(0), 100, 100);
                        if port % 3 == 0 {
                            map.remove_if(&key(port), |_| true);
                        }
                    }
                });
            }
        });
        // Only now: the map's own count is no snapshot while others write.
        assert!((1..=100).contains(&map.map.len()), "{}", map.map.len());
        assert_eq!((map.len(), map.group_len(0)), (map.map.len(), map.map.len()));
    }
}
