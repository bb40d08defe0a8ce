//! Whether the server answers the SYNs that were let through, and what it holds when it no longer does.
//!
//! A backlog that is full shows in nothing but silence: Linux without SYN cookies of its own drops the SYN. So SYNs that stay
//! without an answer, while the server holds connections whose clients do not complete them, are pressure, be the flood ever
//! so slow; and half of what the server held then is enough the next time. A server that is silent and holds nothing is dead,
//! not attacked.
//!
//! # Security
//! A forged SYN can be such that no server answers it (an MD5 signature). So SYNs are counted once a second for each source
//! prefix, and it takes three that are unanswered, a fifth of all, and three clients that do not complete: what such a
//! forger brings about is that the service challenges. What it can teach is that this begins at [`LOWEST`] / 2 half-open
//! connections, for an hour.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use super::Step;
use super::classify::Arrival;
use super::half_open::{HalfOpen, Phase};
use super::policy::{Service, ServiceId, Threshold};
use super::syn_received::Direct;
use crate::table::prefix;
use crate::time::Instant;

/// One service's SYNs of the last two seconds, and what was learned; lock-free.
#[derive(Debug, Default)]
pub(super) struct Answering {
    slots: [AtomicU64; SLOTS as usize],
    /// The half-open connections that the server held when it fell silent; 0 if it never did.
    capacity: AtomicU32,
    learned: AtomicU64,
}

/// The verdict on the SYNs of one second, all of which had the time to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// The server answers, or nothing was asked of it.
    Fine,
    /// It leaves SYNs unanswered and holds what is not completed: it is full.
    Full,
    /// It answers none and holds nothing.
    Silent,
}

/// SYNs of one slot.
#[derive(Clone, Copy)]
struct Slot {
    number: u32,
    passed: u16,
    unanswered: u16,
}

impl Answering {
    /// Counts a SYN that was let through at `now`.
    pub(super) fn note_passed(&self, now: Instant) {
        self.update(now, |slot| (slot.passed.saturating_add(1), slot.unanswered.saturating_add(1)));
    }

    /// The SYN that was let through at `passed` was answered, by whatever.
    pub(super) fn note_answered(&self, passed: Instant) {
        self.update(passed, |slot| (slot.passed, slot.unanswered.saturating_sub(1)));
    }

    /// No answer to it is awaited any more.
    pub(super) fn note_dismissed(&self, passed: Instant) {
        self.update(passed, |slot| (slot.passed.saturating_sub(1), slot.unanswered.saturating_sub(1)));
    }

    fn update(&self, at: Instant, change: impl Fn(Slot) -> (u16, u16)) {
        let number = slot_number(at);
        let Some(slot) = self.slots.get((number % SLOTS) as usize) else { return };
        let update = |packed| {
            let slot = Slot::unpack(packed);
            // An answer that comes when its slot was taken by a later one changes nothing.
            let slot = match number.wrapping_sub(slot.number).cast_signed() {
                0 => slot,
                1.. => Slot { number, passed: 0, unanswered: 0 },
                ..0 => return None,
            };
            let (passed, unanswered) = change(slot);
            Some(Slot { passed, unanswered, ..slot }.pack())
        };
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }

    /// Looks at the SYNs that had [`PATIENCE`] to be answered, while the server holds `held` half-open connections.
    pub(super) fn review(&self, now: Instant, held: usize) -> Finding {
        let newest = slot_number(now);
        let all = self.slots.iter().map(|slot| Slot::unpack(slot.load(Ordering::Relaxed)));
        let judged =
            all.filter(|slot| (PATIENCE..PATIENCE + WINDOW).contains(&newest.wrapping_sub(slot.number)));
        let (passed, unanswered) = judged.fold((0_u32, 0_u32), |(passed, unanswered), slot| {
            (passed.saturating_add(slot.passed.into()), unanswered.saturating_add(slot.unanswered.into()))
        });
        let is_short = unanswered >= FEWEST && unanswered.saturating_mul(NOTED_SHARE) >= passed;
        match is_short {
            true if held >= FEWEST as usize => Finding::Full,
            true if unanswered == passed => Finding::Silent,
            _ => Finding::Fine,
        }
    }

    /// The server fell silent while it held `held` half-open connections.
    pub(super) fn learn(&self, now: Instant, held: usize) {
        if held >= LOWEST as usize {
            self.capacity.store(u32::try_from(held).unwrap_or(u32::MAX), Ordering::Relaxed);
            self.learned.store(now.as_nanos(), Ordering::Relaxed);
        }
    }

    /// Forgets what was learned when it is old, or from beyond a leap of the clock.
    pub(super) fn age(&self, now: Instant) {
        let learned = Instant::from_nanos(self.learned.load(Ordering::Relaxed));
        if self.capacity.load(Ordering::Relaxed) != 0 && (learned > now || now.since(learned) >= LIFE) {
            self.capacity.store(0, Ordering::Relaxed);
        }
    }

    /// Forgets a service that is no more.
    pub(super) fn forget(&self) {
        self.capacity.store(0, Ordering::Relaxed);
        self.slots.iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
    }

    /// The thresholds at which pressure begins and ends: the operator's, or less if the server holds less.
    pub(super) fn thresholds(&self, service: &Service) -> [Threshold; 2] {
        let (begin, end) = (service.activate_at, service.deactivate_at);
        match self.capacity.load(Ordering::Relaxed) {
            0 => [begin, end],
            capacity => [
                Threshold { half_open: begin.half_open.min(capacity / 2), ..begin },
                Threshold { half_open: end.half_open.min(capacity / 4), ..end },
            ],
        }
    }
}

impl Step<'_> {
    /// Whether the client's SYN is the first of its prefix for a while.
    pub(super) fn is_first_asked(&self, arrival: &Arrival<'_>) -> bool {
        !self.shared.asked.contains(asker(arrival), self.now, ASKED)
    }

    /// Counts a SYN that is let through.
    pub(super) fn count_passed(&self, arrival: &Arrival<'_>) {
        self.shared.asked.insert(asker(arrival), self.now, ASKED);
        self.shared.service(arrival.id).pressure.answering.note_passed(self.now);
    }

    /// Forgets a half-open connection that was let through, if there is one that is `unwanted`: no answer is awaited.
    pub(super) fn forget_direct(
        &mut self,
        arrival: &Arrival<'_>,
        unwanted: impl FnOnce(&HalfOpen) -> bool,
    ) -> Option<HalfOpen> {
        let entry = self.shared.half_open.remove_if(&arrival.key, unwanted)?;
        if let Phase::Direct(direct) = &entry.phase
            && direct.is_counted
            && !direct.is_answered()
        {
            self.shared.service(entry.service).pressure.answering.note_dismissed(entry.admitted);
        }
        Some(entry)
    }

    /// Counts the first answer of the server to the SYN of an entry.
    pub(super) fn count_answer(&self, service: ServiceId, passed: Instant, direct: &Direct) {
        if direct.is_counted && !direct.is_answered() {
            self.shared.service(service).pressure.answering.note_answered(passed);
        }
    }
}

fn asker(arrival: &Arrival<'_>) -> (ServiceId, [u8; 8]) {
    (arrival.id, prefix::octets(arrival.key.client()))
}

impl Slot {
    fn pack(self) -> u64 {
        u64::from(self.number) << 32 | u64::from(self.passed) << 16 | u64::from(self.unanswered)
    }

    fn unpack(packed: u64) -> Slot {
        Slot { number: (packed >> 32) as u32, passed: (packed >> 16) as u16, unanswered: packed as u16 }
    }
}

fn slot_number(at: Instant) -> u32 {
    // Numbers from 1 on: 0 is an empty slot. Wraps after 17 years.
    ((at.as_nanos() / SLOT_NANOS) as u32).wrapping_add(1)
}

const SLOTS: u32 = 16;
const SLOT_NANOS: u64 = 125_000_000;

/// In slots: 750 ms, in which every server answers that has room, and less than it takes a client to repeat its SYN (1 s, RFC
/// 6298 §2): that one is already answered with a cookie.
const PATIENCE: u32 = 7;
/// In slots: SYNs of one second are judged.
const WINDOW: u32 = 8;

/// Of a source prefix one SYN in this time is counted: one client that a server does not answer is no sign.
const ASKED: Duration = Duration::from_secs(1);

/// Fewer may be an accident.
const FEWEST: u32 = 3;
/// A fifth of the SYNs without an answer: a network loses less, and a full backlog leaves more.
const NOTED_SHARE: u32 = 5;

/// A server that holds fewer has no backlog to speak of: nothing is learned of it.
const LOWEST: u32 = 16;
/// Life of what was learned of a server's backlog, which its administrator may raise.
const LIFE: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(1_000_000_000_000 + millis * 1_000_000)
    }

    fn service() -> Service {
        Service {
            activate_at: Threshold { half_open: 256, syn_rate: 1_000 },
            deactivate_at: Threshold { half_open: 128, syn_rate: 500 },
            ..Service::default()
        }
    }

    /// Ten SYNs a second, of which the first `answered` of each ten are answered.
    fn second(answering: &Answering, from: u64, answered: u64) {
        for n in 0..10 {
            answering.note_passed(at(from + n * 100));
            if n < answered {
                answering.note_answered(at(from + n * 100));
            }
        }
    }

    #[test]
    fn unanswered_syns_are_noticed_before_clients_repeat_them() {
        let answering = Answering::default();
        second(&answering, 0, 10);
        assert_eq!(answering.review(at(1_800), 97), Finding::Fine);
        second(&answering, 2_000, 0);
        let noticed = (2_000..4_000).find(|millis| answering.review(at(*millis), 97) == Finding::Full);
        assert!(noticed.is_some_and(|millis| (2_950..3_150).contains(&millis)), "{noticed:?}");
        assert_eq!(answering.review(at(5_000), 97), Finding::Fine, "nothing was asked since");
    }

    #[test]
    fn a_fifth_is_enough_and_fewer_than_three_never() {
        for (answered, expected) in [(9, Finding::Fine), (8, Finding::Fine), (7, Finding::Full)] {
            let answering = Answering::default();
            second(&answering, 0, answered);
            assert_eq!(answering.review(at(1_800), 97), expected, "{answered}");
        }
        let answering = Answering::default();
        (0..20).for_each(|_| answering.note_passed(at(500)));
        (0..16).for_each(|_| answering.note_answered(at(500)));
        assert_eq!(answering.review(at(1_800), 97), Finding::Full);
        answering.note_answered(at(500));
        assert_eq!(answering.review(at(1_800), 97), Finding::Fine);
    }

    #[test]
    fn a_server_that_holds_nothing_and_answers_none_is_silent() {
        let answering = Answering::default();
        second(&answering, 0, 0);
        assert_eq!(answering.review(at(1_800), 2), Finding::Silent);
        assert_eq!(answering.review(at(1_800), 3), Finding::Full);
        second(&answering, 2_000, 1);
        assert_eq!(answering.review(at(3_800), 2), Finding::Fine, "it answered one");
    }

    #[test]
    fn what_is_dismissed_was_never_asked() {
        let answering = Answering::default();
        second(&answering, 0, 0);
        (0..10).for_each(|n| answering.note_dismissed(at(n * 100)));
        assert_eq!(answering.review(at(1_800), 97), Finding::Fine);
    }

    #[test]
    fn an_answer_that_comes_late_changes_no_later_slot() {
        let answering = Answering::default();
        second(&answering, 0, 0);
        second(&answering, 2_000, 0);
        (0..10).for_each(|n| answering.note_answered(at(n * 100)));
        assert_eq!(answering.review(at(3_800), 97), Finding::Full);
    }

    #[test]
    fn half_of_what_it_held_is_the_threshold_for_an_hour() {
        let (answering, service) = (Answering::default(), service());
        let half_open = || answering.thresholds(&service).map(|threshold| threshold.half_open);
        assert_eq!(half_open(), [256, 128]);
        for (held, expected) in [(15, [256, 128]), (16, [8, 4]), (97, [48, 24]), (10_000, [256, 128])] {
            answering.forget();
            answering.learn(at(0), held);
            assert_eq!(half_open(), expected, "{held}");
        }
        answering.learn(at(0), 97);
        for millis in [0, 3_599_999] {
            answering.age(at(millis));
            assert_eq!(half_open(), [48, 24]);
        }
        answering.age(at(3_600_000));
        assert_eq!(half_open(), [256, 128]);
        answering.learn(at(7_200_000), 97);
        answering.age(at(0));
        assert_eq!(half_open(), [256, 128], "the clock fell back");
    }
}
