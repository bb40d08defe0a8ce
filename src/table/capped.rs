//! A concurrent map with a cap in all, one per owner, one per group, and one per source prefix.
//!
//! Both tables of the engine are of this kind, their owners are services: half-open entries, grouped by service, too, and
//! flows, grouped by state. The counts are atomics beside the map, so that a cap is decided and a gauge read without
//! walking anything.

use core::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::flow_key::{FlowKey, TableHasher};
use super::prefix::{LEVELS, widened};
use super::shares::Shares;

/// A value that belongs to a group; the group may change while it is in the map, all else may not.
pub trait Grouped {
    /// Its group, below the number of groups that the map was made for.
    fn group(&self) -> usize;

    /// Its owner, below the number of owners that the map was made for.
    fn owner(&self) -> usize;

    /// What it and its source's share is counted as, 0 or 1: a prefix has a share of each.
    fn share(&self) -> u16;
}

/// Why an entry was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is an entry under this key.
    Exists,
    /// The map or the group is full.
    Full,
    /// The client's prefix holds its share.
    ShareFull,
}

/// How many entries there may be.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// In all.
    pub all: usize,
    /// Of those that are counted for the same shares: see [`Grouped::share`].
    pub kind: usize,
    /// Of the owner.
    pub owner: usize,
    /// In the group.
    pub group: usize,
    /// Of one source prefix (IPv4 /24, IPv6 /64); of wider ones as [`widened`] has it.
    pub share: usize,
}

/// The map. Methods hold at most one shard's lock, and none when they return.
pub struct CappedMap<V> {
    map: DashMap<FlowKey, V, TableHasher>,
    len: AtomicUsize,
    kinds: [AtomicUsize; 2],
    groups: Box<[AtomicUsize]>,
    owners: Box<[AtomicUsize]>,
    shares: Shares,
}

impl<V: Grouped> CappedMap<V> {
    /// An empty map of `groups` groups and `owners` owners.
    pub fn new(hasher: TableHasher, groups: usize, owners: usize) -> CappedMap<V> {
        let zeros = |number| (0..number).map(|_| AtomicUsize::new(0)).collect();
        // Many shards: two workers rarely meet in one, and growing one moves little at a time.
        const SHARDS: usize = 256;
        CappedMap {
            shares: Shares::new(hasher.clone()),
            map: DashMap::with_capacity_and_hasher_and_shard_amount(0, hasher, SHARDS),
            len: AtomicUsize::new(0),
            kinds: Default::default(),
            groups: zeros(groups),
            owners: zeros(owners),
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

    /// Entries that are counted as `share`.
    pub fn kind_len(&self, share: u16) -> usize {
        self.kind(share).map_or(0, |count| count.load(Ordering::Acquire))
    }

    fn kind(&self, share: u16) -> Option<&AtomicUsize> {
        self.kinds.get(usize::from(share))
    }

    /// Entries in `group`.
    pub fn group_len(&self, group: usize) -> usize {
        self.groups.get(group).map_or(0, |count| count.load(Ordering::Acquire))
    }

    /// Entries of `owner`.
    pub fn owner_len(&self, owner: usize) -> usize {
        self.owners.get(owner).map_or(0, |count| count.load(Ordering::Acquire))
    }

    /// Entries of the prefixes of `key`'s client that are counted as `share`, at the most.
    pub fn held_by_source(&self, key: &FlowKey, share: u16) -> [usize; LEVELS] {
        self.shares.held(key.client(), share)
    }

    /// Admits `value` under `key` if fewer entries than `caps` allow are there: in all, in its group, and of the client's
    /// prefix.
    ///
    /// # Errors
    /// [`Refused`], and nothing is changed.
    pub fn admit(&self, key: FlowKey, value: V, caps: Caps) -> Result<(), Refused> {
        let counted = Counted::of(&value);
        self.take_places(&key, counted, caps)?;
        match self.map.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(value);
                Ok(())
            }
            Entry::Occupied(_) => {
                self.give_places(&key, counted);
                Err(Refused::Exists)
            }
        }
    }

    /// Places are taken before the look-up, so that two workers cannot share the last one.
    fn take_places(&self, key: &FlowKey, counted: Counted, caps: Caps) -> Result<(), Refused> {
        let group = self.groups.get(counted.group).ok_or(Refused::Full)?;
        let owner = self.owners.get(counted.owner).ok_or(Refused::Full)?;
        let kind = self.kind(counted.share).ok_or(Refused::Full)?;
        let places = [(&self.len, caps.all), (kind, caps.kind), (owner, caps.owner), (group, caps.group)];
        for (taken, (count, cap)) in places.into_iter().enumerate() {
            if !take(count, cap) {
                places.into_iter().take(taken).for_each(|(count, _)| give(count));
                return Err(Refused::Full);
            }
        }
        if !self.shares.take(key.client(), counted.share, widened(caps.share)) {
            places.into_iter().for_each(|(count, _)| give(count));
            return Err(Refused::ShareFull);
        }
        Ok(())
    }

    fn give_places(&self, key: &FlowKey, counted: Counted) {
        let [group, owner] = [self.groups.get(counted.group), self.owners.get(counted.owner)];
        group.into_iter().chain(owner).chain(self.kind(counted.share)).for_each(give);
        give(&self.len);
        self.shares.give(key.client(), counted.share);
    }

    /// Calls `f` with every entry, a shard at a time: an entry that comes or goes meanwhile may be missed. `f` must not touch
    /// this map. Takes time in proportion to the entries, so never on the packet path; whoever needs an entry of the shard
    /// under way waits until that shard, one of 256, is done.
    pub fn for_each(&self, mut f: impl FnMut(&FlowKey, &V)) {
        self.for_each_while(|key, value| {
            f(key, value);
            true
        });
    }

    /// The same until `f` says no.
    pub fn for_each_while(&self, mut f: impl FnMut(&FlowKey, &V) -> bool) {
        // Whether one is the last: the iterator gives up its shard's lock either way.
        let _ = self.map.iter().any(|entry| !f(entry.key(), entry.value()));
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

    /// Whether there is an entry under `key`.
    pub fn contains(&self, key: &FlowKey) -> bool {
        !self.is_empty() && self.map.contains_key(key)
    }

    /// Removes the entry under `key` if `condition` holds for it.
    pub fn remove_if(&self, key: &FlowKey, condition: impl FnOnce(&V) -> bool) -> Option<V> {
        if self.is_empty() {
            return None;
        }
        let (_, value) = self.map.remove_if(key, |_, value| condition(value))?;
        self.give_places(key, Counted::of(&value));
        Some(value)
    }

    fn regroup(&self, before: usize, after: usize) {
        if let (Some(before), Some(after)) = (self.groups.get(before), self.groups.get(after)) {
            give(before);
            after.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// As what an entry is counted.
#[derive(Clone, Copy)]
struct Counted {
    group: usize,
    owner: usize,
    share: u16,
}

impl Counted {
    fn of(value: &impl Grouped) -> Counted {
        Counted { group: value.group(), owner: value.owner(), share: value.share() }
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

    /// In this group, of owner 0 and counted as 0.
    struct Value(usize);

    impl Grouped for Value {
        fn group(&self) -> usize {
            self.0
        }

        fn owner(&self) -> usize {
            0
        }

        fn share(&self) -> u16 {
            0
        }
    }

    /// Of this owner, counted as what stands behind it.
    struct Owned(usize, u16);

    impl Grouped for Owned {
        fn group(&self) -> usize {
            0
        }

        fn owner(&self) -> usize {
            self.0
        }

        fn share(&self) -> u16 {
            self.1
        }
    }

    fn key(port: u16) -> FlowKey {
        FlowKey::new(IpAddr::from([198, 18, 0, 1]), port, IpAddr::from([198, 18, 255, 2]), 80)
    }

    fn caps(all: usize, group: usize) -> Caps {
        Caps { all, kind: usize::MAX, owner: usize::MAX, group, share: usize::MAX }
    }

    fn map() -> CappedMap<Value> {
        CappedMap::new(TableHasher::new([1, 2]), 3, 1)
    }

    #[test]
    fn caps_hold_in_all_and_per_group_and_refusal_changes_nothing() {
        let map = map();
        assert_eq!(map.admit(key(1), Value(0), caps(3, 2)), Ok(()));
        assert_eq!(map.admit(key(2), Value(0), caps(3, 2)), Ok(()));
        assert_eq!(map.admit(key(3), Value(0), caps(3, 2)), Err(Refused::Full));
        assert_eq!(map.admit(key(1), Value(1), caps(3, 2)), Err(Refused::Exists));
        assert_eq!(map.admit(key(3), Value(1), caps(3, 2)), Ok(()));
        assert_eq!(map.admit(key(4), Value(1), caps(3, 2)), Err(Refused::Full));
        assert_eq!(
            map.admit(key(4), Value(3), caps(9, 9)),
            Err(Refused::Full),
            "a group that does not exist"
        );
        assert_eq!((map.len(), map.group_len(0), map.group_len(1), map.group_len(2)), (3, 2, 1, 0));
    }

    #[test]
    fn a_source_prefix_holds_its_share_and_no_more() {
        let map = map();
        let from = |third: u8, port| {
            FlowKey::new(IpAddr::from([198, 18, third, 1]), port, IpAddr::from([198, 18, 255, 2]), 80)
        };
        let share = Caps { share: 2, ..caps(9, 9) };
        assert_eq!(map.admit(from(1, 1), Value(0), share), Ok(()));
        assert_eq!(map.admit(from(1, 2), Value(1), share), Ok(()));
        assert_eq!(map.admit(from(1, 2), Value(1), Caps { share: 3, ..share }), Err(Refused::Exists));
        assert_eq!(map.admit(from(1, 3), Value(0), share), Err(Refused::ShareFull));
        assert_eq!(map.admit(from(2, 3), Value(0), share), Ok(()));
        assert_eq!((map.len(), map.group_len(0), map.group_len(1)), (3, 2, 1));
        assert!(map.remove_if(&from(1, 1), |_| true).is_some());
        assert_eq!(map.admit(from(1, 3), Value(0), share), Ok(()));
    }

    #[test]
    fn an_owner_at_its_cap_leaves_the_rest_to_the_others_and_a_refusal_changes_nothing() {
        let map = CappedMap::new(TableHasher::new([1, 2]), 1, 2);
        let own = Caps { owner: 2, ..caps(3, 3) };
        assert_eq!(map.admit(key(1), Owned(0, 0), own), Ok(()));
        assert_eq!(map.admit(key(2), Owned(0, 0), own), Ok(()));
        for _ in 0..9 {
            assert_eq!(map.admit(key(3), Owned(0, 0), own), Err(Refused::Full));
            assert_eq!(
                map.admit(key(3), Owned(2, 0), own),
                Err(Refused::Full),
                "an owner that does not exist"
            );
        }
        assert_eq!(map.admit(key(4), Owned(1, 0), own), Ok(()));
        assert_eq!((map.len(), map.owner_len(0), map.owner_len(1)), (3, 2, 1));
        assert!(map.remove_if(&key(1), |_| true).is_some());
        assert_eq!((map.len(), map.owner_len(0), map.group_len(0)), (2, 1, 2));
        assert_eq!(map.held_by_source(&key(9), 0), [2, 2, 2]);
    }

    #[test]
    fn a_source_has_a_share_of_each_kind() {
        let map = CappedMap::new(TableHasher::new([1, 2]), 1, 1);
        let one = Caps { share: 1, ..caps(9, 9) };
        assert_eq!(map.admit(key(1), Owned(0, 0), one), Ok(()));
        assert_eq!(map.admit(key(2), Owned(0, 0), one), Err(Refused::ShareFull));
        assert_eq!(map.admit(key(2), Owned(0, 1), one), Ok(()));
        assert_eq!((map.len(), map.kind_len(0), map.kind_len(1)), (2, 1, 1));
        let alone = Caps { kind: 1, ..caps(9, 9) };
        assert_eq!(map.admit(key(3), Owned(0, 1), alone), Err(Refused::Full), "one of its kind");
        assert_eq!(map.admit(key(3), Owned(0, 2), one), Err(Refused::Full), "a kind that does not exist");
        assert!(map.remove_if(&key(2), |_| true).is_some());
        assert_eq!((map.held_by_source(&key(1), 0)[0], map.held_by_source(&key(1), 1)[0]), (1, 0));
    }

    #[test]
    fn counts_follow_a_change_of_group_and_a_removal() {
        let map = map();
        map.admit(key(1), Value(0), caps(9, 9)).unwrap();
        assert_eq!(map.with(&key(1), |value| std::mem::replace(&mut value.0, 2)), Some(0));
        assert_eq!((map.group_len(0), map.group_len(2)), (0, 1));
        assert!(map.with(&key(2), |_| ()).is_none());
        assert!(map.contains(&key(1)) && !map.contains(&key(2)));
        assert!(map.remove_if(&key(1), |value| value.0 == 0).is_none());
        assert!(map.remove_if(&key(1), |value| value.0 == 2).is_some());
        assert!(map.is_empty() && map.group_len(2) == 0 && !map.contains(&key(1)));
    }

    #[test]
    fn two_threads_never_pass_the_cap() {
        let map = map();
        std::thread::scope(|scope| {
            for start in [0, 10_000] {
                let map = &map;
                scope.spawn(move || {
                    for port in start..start + 5_000 {
                        let _ = map.admit(key(port), Value(0), caps(100, 100));
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
