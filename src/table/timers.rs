//! A timer wheel: when to look at an entry again.
//!
//! One level of slots; what lies beyond the wheel's horizon is brought up early and armed again by its owner, who
//! compares the entry's own deadline. Arming and serving are O(1); memory is one node per armed timer, reused.

use core::time::Duration;

use super::flow_key::FlowKey;
use crate::time::Instant;

/// A timer that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due<K> {
    /// The entry's key.
    pub key: FlowKey,
    /// What kind of entry.
    pub kind: K,
    /// When it was armed to fire: an owner that has armed the same entry for another time since ignores this one.
    pub armed_for: Instant,
}

/// The wheel.
pub struct Timers<K> {
    slots: Box<[u32]>,
    nodes: Vec<Node<K>>,
    free: u32,
    /// The slot that is served next, counted from the origin of time.
    cursor: u64,
    armed: usize,
}

struct Node<K> {
    due: Due<K>,
    next: u32,
}

impl<K: Copy> Timers<K> {
    /// A wheel whose time starts at `now`.
    pub fn new(now: Instant) -> Timers<K> {
        Timers {
            slots: vec![NIL; SLOTS].into_boxed_slice(),
            nodes: Vec::new(),
            free: NIL,
            cursor: slot(now),
            armed: 0,
        }
    }

    /// Timers that are armed.
    pub fn len(&self) -> usize {
        self.armed
    }

    /// Whether none is armed.
    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// Arms a timer for `at`, or for the horizon if that is nearer, and returns which: the entry keeps it to recognise
    /// its timer. It fires at the first whole tick not before that time.
    pub fn arm(&mut self, key: FlowKey, kind: K, now: Instant, at: Instant) -> Instant {
        // A clock that fell back must not leave new timers waiting until it is where it was.
        self.cursor = if self.armed == 0 { slot(now) } else { self.cursor.min(slot(now)) };
        let armed_for = at.min(now.after(HORIZON));
        let due = Due { key, kind, armed_for };
        let index = match self.nodes.get_mut(self.free as usize) {
            Some(node) => {
                let index = self.free;
                self.free = node.next;
                *node = Node { due, next: NIL };
                index
            }
            None => {
                let index = u32::try_from(self.nodes.len()).unwrap_or(NIL);
                self.nodes.push(Node { due, next: NIL });
                index
            }
        };
        // Never behind the cursor (it would wait for a whole turn), never a whole turn ahead of it.
        let tick = slot_after(armed_for).clamp(self.cursor, self.cursor.saturating_add(SLOTS as u64 - 1));
        if let (Some(head), Some(node)) = (self.slots.get_mut(ring(tick)), self.nodes.get_mut(index as usize))
        {
            node.next = *head;
            *head = index;
            self.armed = self.armed.saturating_add(1);
        }
        armed_for
    }

    /// Takes a timer that is due at `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<Due<K>> {
        let present = slot(now);
        if self.armed == 0 {
            self.cursor = present;
            return None;
        }
        // After a leap of the clock one turn visits every slot, whichever way it went.
        self.cursor = self.cursor.clamp(present.saturating_sub(SLOTS as u64 - 1), present);
        while self.cursor <= present {
            let head = self.slots.get_mut(ring(self.cursor))?;
            if let Some(node) = self.nodes.get_mut(*head as usize) {
                let index = *head;
                *head = node.next;
                node.next = self.free;
                self.free = index;
                self.armed = self.armed.saturating_sub(1);
                return Some(node.due);
            }
            if self.cursor == present {
                return None;
            }
            self.cursor = self.cursor.saturating_add(1);
        }
        None
    }

    /// When [`Timers::pop_due`] will next have something.
    pub fn next_due(&self) -> Option<Instant> {
        if self.armed == 0 {
            return None;
        }
        let ahead = (0..SLOTS as u64).find(|ahead| {
            self.slots.get(ring(self.cursor.saturating_add(*ahead))).is_some_and(|head| *head != NIL)
        })?;
        Some(Instant::from_nanos(self.cursor.saturating_add(ahead).saturating_mul(TICK_NANOS)))
    }
}

const NIL: u32 = u32::MAX;
/// Slots of one turn; with the tick, a horizon of 16 s, which bounds how long a timer that was superseded lingers.
const SLOTS: usize = 2048;
const TICK_NANOS: u64 = 8_000_000;
const HORIZON: Duration = Duration::from_secs(16);

fn slot(at: Instant) -> u64 {
    at.as_nanos() / TICK_NANOS
}

fn slot_after(at: Instant) -> u64 {
    at.as_nanos().div_ceil(TICK_NANOS)
}

fn ring(tick: u64) -> usize {
    (tick % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    fn key(port: u16) -> FlowKey {
        FlowKey::new(IpAddr::from([198, 18, 0, 1]), port, IpAddr::from([198, 18, 255, 2]), 80)
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn fires_not_before_its_time_and_within_a_tick() {
        let mut timers = Timers::new(at(1_000));
        assert_eq!(timers.arm(key(1), 'a', at(1_000), at(2_001)), at(2_001));
        assert_eq!(timers.next_due(), Some(at(2_008)));
        assert_eq!(timers.pop_due(at(2_007)), None);
        assert_eq!(timers.pop_due(at(2_008)), Some(Due { key: key(1), kind: 'a', armed_for: at(2_001) }));
        assert_eq!((timers.pop_due(at(9_000)), timers.next_due(), timers.len()), (None, None, 0));
    }

    #[test]
    fn far_timers_come_up_at_the_horizon_and_past_ones_at_once() {
        let mut timers = Timers::new(at(0));
        assert_eq!(timers.arm(key(1), (), at(0), at(7_440_000)), at(16_000));
        assert_eq!(timers.pop_due(at(15_999)), None);
        assert_eq!(timers.pop_due(at(16_000)).map(|due| due.armed_for), Some(at(16_000)));
        assert_eq!(timers.arm(key(1), (), at(16_000), at(3)), at(3));
        assert_eq!(timers.pop_due(at(16_000)).map(|due| due.armed_for), Some(at(3)));
    }

    #[test]
    fn a_leap_of_the_clock_finds_every_timer_once() {
        let mut timers = Timers::new(at(0));
        for port in 0..1_000 {
            timers.arm(key(port), (), at(0), at(u64::from(port) * 16));
        }
        let day = at(86_400_000);
        let mut seen: Vec<u16> =
            std::iter::from_fn(|| timers.pop_due(day)).map(|due| due.key.client_port()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..1_000).collect::<Vec<_>>());
        assert_eq!(timers.pop_due(at(0)), None, "a clock that steps back finds nothing and breaks nothing");
        timers.arm(key(7), (), day, day);
        assert_eq!(timers.pop_due(day).map(|due| due.key), Some(key(7)));
    }

    #[test]
    fn a_clock_that_fell_back_serves_new_timers_in_time_and_old_ones_within_a_turn() {
        let mut timers = Timers::new(at(86_400_000));
        timers.arm(key(1), (), at(86_400_000), at(86_401_000));
        timers.arm(key(2), (), at(5_000), at(6_000));
        assert_eq!(timers.pop_due(at(5_999)).map(|due| due.key).filter(|found| *found == key(2)), None);
        let mut due = Vec::new();
        for millis in (6_000..6_000 + 16_384).step_by(8) {
            due.extend(std::iter::from_fn(|| timers.pop_due(at(millis))).map(|due| (due.key, millis)));
        }
        assert!(due.contains(&(key(2), 6_000)), "{due:?}");
        assert_eq!((due.iter().filter(|(found, _)| *found == key(1)).count(), timers.len()), (1, 0));
    }

    /// A wheel that was not served for a while is behind: what is armed meanwhile must not come up a turn early.
    #[test]
    fn a_timer_that_is_armed_far_ahead_of_the_cursor_waits() {
        let mut timers = Timers::new(at(0));
        assert!(timers.is_empty());
        timers.arm(key(1), (), at(0), at(5_000));
        timers.arm(key(2), (), at(10_000), at(26_000));
        assert!(!timers.is_empty());
        assert_eq!(timers.pop_due(at(10_000)).map(|due| due.key), Some(key(1)));
        assert_eq!(timers.pop_due(at(10_000)), None);
        assert_eq!(timers.pop_due(at(26_000)).map(|due| due.key), Some(key(2)));
    }

    #[test]
    fn nodes_are_reused() {
        let mut timers = Timers::new(at(0));
        for round in 0..10_000u64 {
            timers.arm(key(1), (), at(round * 10), at(round * 10 + 5));
            timers.arm(key(2), (), at(round * 10), at(round * 10 + 8));
            while timers.pop_due(at(round * 10 + 16)).is_some() {}
        }
        assert_eq!((timers.nodes.len(), timers.len()), (2, 0));
    }
}
