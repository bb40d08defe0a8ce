use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::io::xdp::hints::empty_hints;

type Heap = Table<Vec<AtomicU64>, Vec<Slot>, Vec<Hint>>;

fn heap(flows: u32) -> Heap {
    let buckets = buckets(flows) as usize;
    let tags = (0..buckets).map(|_| AtomicU64::new(0)).collect();
    let slots = (0..buckets * SLOTS_PER_BUCKET).map(|_| Slot::default()).collect();
    let keys = std::array::from_fn(|n| (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    Table::new(0, tags, slots, empty_hints(), keys)
}

fn key(number: u32) -> Key {
    [0, 0, 0xffff_0000, number, 0, 0, 0xffff_0000, 7, number.rotate_left(16)]
}

fn admit(table: &Heap, now: u32, number: u32) -> bool {
    table.admit(now, &key(number), |slot| slot.delta.store(number, Relaxed))
}

fn delta(table: &Heap, number: u32) -> Option<u32> {
    table.with(&key(number), |slot| slot.delta.load(Relaxed))
}

#[test]
fn a_hundred_thousand_flows_find_room_where_as_many_are_allowed_and_all_are_found() {
    let table = heap(100_000);
    assert!((0..100_000).all(|number| admit(&table, 1_000, number)), "at {}", table.len());
    assert_eq!(table.len(), 100_000);
    assert!((0..100_000).all(|number| delta(&table, number) == Some(number)));
    assert_eq!(delta(&table, 100_000), None);
    assert!((0..100_000).step_by(2).all(|number| table.remove(2_000, &key(number))));
    assert!((100_000..150_000).all(|number| admit(&table, 3_000, number)));
    assert!(
        (0..150_000).all(|number| delta(&table, number).is_some() == (number % 2 == 1 || number >= 100_000))
    );
    assert_eq!(table.len(), 100_000);
}

#[test]
fn flows_of_which_segments_come_all_the_time_still_move() {
    let table = heap(10_000);
    let admit = |number: u32| {
        table.admit(5_000, &key(number), |slot| {
            slot.last_seen.store(5_000, Relaxed);
        })
    };
    assert!((0..10_000).all(admit));
}

#[test]
fn a_full_table_refuses_and_keeps_what_it_has() {
    let table = heap(4);
    let admitted: Vec<u32> = (0..100).filter(|number| admit(&table, 1_000, *number)).collect();
    assert_eq!(admitted.len(), table.slots.len());
    assert!(admitted.iter().all(|number| delta(&table, *number) == Some(*number)));
}

#[test]
fn a_slot_that_was_left_rests() {
    let table = heap(1);
    let all = table.slots.len() as u32;
    assert!((0..all).all(|number| admit(&table, 1_000, number)));
    assert!(table.remove(1_000, &key(0)));
    assert!(!admit(&table, 1_000 + REST - 1, 50));
    assert!(admit(&table, 1_000 + REST, 50));
}

#[test]
fn a_clock_that_was_read_before_the_lock_frees_no_slot_early() {
    let table = heap(1);
    let all = table.slots.len() as u32;
    assert!((0..all).all(|number| admit(&table, 1_000, number)));
    assert!(table.remove(1_000, &key(0)));
    assert!(!admit(&table, 999, 50), "one millisecond before");
    assert!(!admit(&table, 1_000_u32.wrapping_sub(59_999), 50), "nearly a minute before");
    assert!(admit(&table, 1_000 + REST, 50));
}

#[test]
fn the_next_connection_of_a_tuple_takes_the_slot_that_the_one_before_has_left() {
    let table = heap(1);
    let all = table.slots.len() as u32;
    // Another flow lives in each of the other slots.
    assert!((0..all).all(|number| admit(&table, 1_000, number)));
    let versions = || table.slots.iter().map(|slot| slot.version.load(Relaxed)).max();
    for _ in 0..50 {
        let before = versions();
        assert!(table.remove(1_000, &key(0)));
        assert!(!admit(&table, 1_000, 50), "another tuple's waits");
        assert!(admit(&table, 1_000, 0));
        assert!(versions() > before, "a reader of the one before sees that it is another");
        assert_eq!((table.len(), delta(&table, 0)), (all as usize, Some(0)));
    }
}

#[test]
fn versions_are_odd_while_a_slot_is_empty_and_never_the_same_again() {
    let table = heap(1);
    assert!(admit(&table, 100, 1));
    let version = || table.with(&key(1), |slot| slot.version.load(Relaxed));
    let first = version().unwrap();
    assert_eq!(first % 2, 0);
    assert!(admit(&table, 100, 1), "described anew");
    let second = version().unwrap();
    assert!(second > first && second % 2 == 0);
    table.remove(100, &key(1));
    assert!(table.slots.iter().any(|slot| slot.version.load(Relaxed) == second + 1));
    assert_eq!((table.len(), table.remove(100, &key(1))), (0, false));
}

#[test]
fn a_moved_flow_keeps_all_that_is_known_of_it() {
    let (from, to) = (Slot::default(), Slot::default());
    for (number, word) in (1..).zip(words(&from)) {
        word.store(number, Relaxed);
    }
    from.scales.store(1, Relaxed);
    from.service.store(2, Relaxed);
    from.flags.store(3, Relaxed);
    from.storm.store(4, Relaxed);
    from.marks.store(5, Relaxed);
    from.last_server.store(6, Relaxed);
    copy(&from, &to);
    let values = |slot: &Slot| -> Vec<u32> { words(slot).iter().map(|word| word.load(Relaxed)).collect() };
    assert_eq!(values(&from), values(&to));
    assert_eq!((to.scales.load(Relaxed), to.service.load(Relaxed)), (1, 2));
    assert_eq!(to.last_server.load(Relaxed), 6);
    assert_eq!((to.flags.load(Relaxed), to.storm.load(Relaxed), to.marks.load(Relaxed)), (3, 4, 5));
}

/// All words of a slot but its version.
fn words(slot: &Slot) -> Vec<&std::sync::atomic::AtomicU32> {
    let ends = slot.ends.iter().flat_map(|end| [&end.next, &end.acked, &end.edge, &end.max_window]);
    let rest = [
        &slot.delta,
        &slot.ts_delta,
        &slot.clock_latest,
        &slot.clock_reach,
        &slot.last_seen,
        &slot.client_iss,
    ];
    slot.key.iter().chain(ends).chain(rest).collect()
}

#[test]
fn what_is_adopted_is_whole_and_there_once() {
    let Table { tags, slots, hints, keys, .. } = {
        let table = heap(100);
        (0..60).for_each(|number| assert!(admit(&table, 100, number)));
        table
    };
    // Killed while it described one flow anew, and while it moved another.
    let torn = slots.iter().find(|slot| key_of(slot) == key(7)).unwrap();
    torn.version.fetch_or(1, Relaxed);
    let table = Table {
        tags,
        slots,
        hints,
        keys,
        population: Mutex::new(Population { count: 60, tally: Tally::new() }),
    };
    let moved = (8..60).find_map(|number| {
        let places = table.places(&key(number));
        let at = table.find(&key(number), &places).filter(|at| at.bucket == places.buckets[0])?;
        Some((places, at, table.free_lane(200, places.buckets[1])?))
    });
    let (places, at, free) = moved.unwrap();
    copy(table.slot(at).unwrap(), table.slot(free).unwrap());
    table.slot(free).unwrap().version.store(4, Relaxed);
    table.set_tag(free, places.tag);
    assert_eq!(table.flows(|_| ()).len(), 61);
    let Table { tags, slots, hints, keys, .. } = table;
    let adopted = Table::new(200, tags, slots, hints, keys);
    assert_eq!(adopted.len(), 59);
    let mut flows = adopted.flows(|slot| slot.delta.load(Relaxed));
    flows.sort_unstable();
    assert_eq!(flows, (0..60).filter(|number| *number != 7).collect::<Vec<u32>>());
}

#[test]
fn hash_is_that_of_the_contract() {
    // Worked out by hand: all secrets 1 but the last, 3.
    let mut keys = [1; HASH_KEYS];
    keys[10] = 3;
    let sum: u64 = 2 * 3 + 4 * 5 + 6 * 7 + 8 * 9 + 10;
    let mixed = (sum ^ (sum >> 32)).wrapping_mul(3);
    assert_eq!(hash(&keys, &[1, 2, 3, 4, 5, 6, 7, 8, 9]), mixed ^ (mixed >> 29));
}

proptest! {
    /// Whatever is admitted and removed: the table has what a map has.
    #[test]
    fn table_is_a_map(steps in prop::collection::vec((any::<bool>(), 0_u32..60), 0..400)) {
        let table = heap(64);
        let mut model = HashMap::new();
        for (now, (is_admitted, number)) in (0_u32..).map(|n| 1_000 + n * REST).zip(steps) {
            if is_admitted {
                prop_assert!(admit(&table, now, number));
                model.insert(number, number);
            } else {
                prop_assert_eq!(table.remove(now, &key(number)), model.remove(&number).is_some());
            }
            prop_assert_eq!(table.len(), model.len());
        }
        for number in 0..60 {
            prop_assert_eq!(delta(&table, number), model.get(&number).copied());
        }
    }
}
