//! How hard a service is pressed: whether it counts as under attack, and `adaptive` challenges.
//!
//! Pressure begins at once, on the SYN that passes a threshold of [`Service::activate_at`]; it ends by
//! [`Engine::review`], when neither measure has reached [`Service::deactivate_at`] for [`Service::min_active`]. What would
//! be half-open if it were let through counts as half-open: cookies that were sent within the SYN timeout and have not come
//! back. Without them a flood slower than the rate threshold would switch challenging off and on for ever. A server that
//! holds less than the threshold shows it by silence: see [`super::answering`].

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use super::answering::{Answering, Finding};
use super::classify::{Arrival, Stance};
use super::fast::FastCounts;
use super::policy::{Mode, Service, ServiceId};
use super::{Engine, Step};
use crate::table::budget::Budget;
use crate::time::Instant;

/// One service's pressure; lock-free.
#[derive(Default)]
pub(super) struct Pressure {
    /// When it began; 0 for none.
    began: AtomicU64,
    /// When a measure last reached `deactivate_at`.
    last_high: AtomicU64,
    activation: Budget,
    deactivation: Budget,
    in_flight: InFlight,
    /// Cookies in flight at the last review.
    reviewed_in_flight: AtomicU64,
    pub(super) answering: Answering,
    /// The last review found a server that answers nobody.
    is_silent: AtomicBool,
}

impl Pressure {
    /// Whether the service is under pressure.
    pub(super) fn is_on(&self) -> bool {
        self.began.load(Ordering::Relaxed) != 0
    }

    /// Counts a SYN; whether pressure began with it.
    fn note_syn(&self, now: Instant, service: &Service, half_open: usize) -> bool {
        if !self.is_on() {
            let [activate_at, _] = self.answering.thresholds(service);
            let is_passed = half_open >= activate_at.half_open as usize
                || is_above(&self.activation, now, activate_at.syn_rate);
            return is_passed && self.begin(now);
        }
        // Under a flood one look at a clock a SYN, not one compare-and-swap.
        let is_noted = now.since(Instant::from_nanos(self.last_high.load(Ordering::Relaxed))) < RESOLUTION;
        if !is_noted && is_above(&self.deactivation, now, service.deactivate_at.syn_rate) {
            self.note_high(now);
        }
        false
    }

    fn begin(&self, now: Instant) -> bool {
        self.note_high(now);
        let began = now.as_nanos().max(1);
        self.began.compare_exchange(0, began, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn begin_if_off(&self, now: Instant) -> bool {
        !self.is_on() && self.begin(now)
    }

    fn note_high(&self, now: Instant) {
        self.last_high.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// Counts what the fast path has settled in `time`.
    fn note_settled(&self, now: Instant, service: &Service, settled: FastCounts, time: Duration) {
        if settled.synack_sent != 0 {
            let sent = i32::try_from(settled.synack_sent).unwrap_or(i32::MAX);
            self.in_flight.add(now, service.syn_timeout, sent);
        }
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let allowed = u64::from(service.deactivate_at.syn_rate).saturating_mul(nanos) / 1_000_000_000;
        if self.is_on() && settled.syn_received > allowed.max(FEW) {
            self.note_high(now);
        }
    }

    /// Looks at what does not show on a SYN: what is half-open at the server and what it leaves unanswered, and how long it
    /// has been quiet.
    fn review(&self, now: Instant, service: &Service, half_open: usize) -> Option<Change> {
        let in_flight = self.in_flight.count(now, service.syn_timeout);
        self.reviewed_in_flight.store(in_flight, Ordering::Relaxed);
        let level = in_flight.saturating_add(half_open as u64);
        self.answering.age(now);
        let finding = match self.answering.review(now, half_open) {
            // A threshold that nothing can reach: the operator wants it never.
            Finding::Full if service.activate_at.half_open > service.max_half_open => Finding::Fine,
            finding => finding,
        };
        self.is_silent.store(finding == Finding::Silent, Ordering::Relaxed);
        if finding == Finding::Full && !self.is_on() {
            // Not later: what is held then is what was not freed yet.
            self.answering.learn(now, half_open);
        }
        let [activate_at, deactivate_at] = self.answering.thresholds(service);
        if !self.is_on() {
            let is_passed = level >= u64::from(activate_at.half_open) || finding == Finding::Full;
            return (is_passed && self.begin(now)).then_some(Change::Began);
        }
        let last_high = Instant::from_nanos(self.last_high.load(Ordering::Relaxed));
        // A clock that has leapt back would keep it on for as long as it leapt.
        if level >= u64::from(deactivate_at.half_open) || last_high > now {
            self.note_high(now);
            return None;
        }
        let began = Instant::from_nanos(self.began.load(Ordering::Relaxed));
        // One from beyond a leap of the clock was long ago.
        let is_too_soon = began <= now && now.since(began) < SHORTEST;
        if now.since(last_high) < service.min_active || is_too_soon {
            return None;
        }
        (self.began.swap(0, Ordering::Relaxed) != 0).then_some(Change::Ended)
    }

    /// Whether the server answers none of the SYNs that are let through, though it holds nothing: it is dead, not attacked.
    pub(super) fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    /// Forgets a service that is no more.
    pub(super) fn forget(&self) {
        self.began.store(0, Ordering::Relaxed);
        self.is_silent.store(false, Ordering::Relaxed);
        self.answering.forget();
    }

    /// Notes that a cookie was sent.
    pub(super) fn note_sent(&self, now: Instant, service: &Service) {
        self.in_flight.add(now, service.syn_timeout, 1);
    }

    /// Notes that one came back.
    pub(super) fn note_returned(&self, now: Instant, service: &Service) {
        self.in_flight.add(now, service.syn_timeout, -1);
    }

    /// Cookies that had been sent within the SYN timeout and had not come back, at the last review.
    pub(super) fn cookies_in_flight(&self) -> u64 {
        self.reviewed_in_flight.load(Ordering::Relaxed)
    }
}

/// What a review found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Began,
    Ended,
}

/// Counts over a sliding time, in slots of a sixteenth of it.
#[derive(Default)]
struct InFlight([AtomicU64; SLOTS as usize]);

impl InFlight {
    /// Adds `change` to the present slot.
    fn add(&self, now: Instant, horizon: Duration, change: i32) {
        let number = slot_number(now, horizon);
        let Some(slot) = self.0.get((number % SLOTS) as usize) else { return };
        let update = |packed| {
            let (old, count) = unpack(packed);
            let count = if old == number { count } else { 0 };
            Some(pack(number, count.saturating_add(change)))
        };
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }

    /// The sum over `horizon`. A cookie is taken back where it returns, not where it was sent, so a slot may be below zero.
    fn count(&self, now: Instant, horizon: Duration) -> u64 {
        let newest = slot_number(now, horizon);
        let slots = self.0.iter().map(|slot| unpack(slot.load(Ordering::Relaxed)));
        let counts = slots.filter(|(number, _)| newest.wrapping_sub(*number) < SLOTS);
        counts.map(|(_, count)| i64::from(count)).fold(0, i64::saturating_add).try_into().unwrap_or(0)
    }
}

fn slot_number(now: Instant, horizon: Duration) -> u32 {
    let slot = u64::try_from(horizon.as_nanos()).unwrap_or(u64::MAX).div_ceil(u64::from(SLOTS));
    // Numbers from 1 on: 0 is an empty slot. Wraps after centuries.
    (now.as_nanos().checked_div(slot).unwrap_or(0) as u32).wrapping_add(1)
}

fn pack(number: u32, count: i32) -> u64 {
    u64::from(number) << 32 | u64::from(count.cast_unsigned())
}

fn unpack(packed: u64) -> (u32, i32) {
    ((packed >> 32) as u32, (packed as u32).cast_signed())
}

/// Whether events come at more than `rate` a second, over [`RATE_WINDOW`], or for as long as a few take at that rate.
fn is_above(meter: &Budget, now: Instant, rate: u32) -> bool {
    let window = Duration::from_secs(FEW).checked_div(rate).unwrap_or_default().max(RATE_WINDOW);
    !meter.take_within(now, NonZeroU32::new(rate), window)
}

impl Engine {
    /// Looks at the pressure on each service, if that was not done lately. By one worker for all.
    pub(super) fn review(&mut self, now: Instant) {
        let is_recent = (self.reviewed..self.reviewed.after(REVIEW_INTERVAL)).contains(&now);
        if self.worker != 0 || is_recent {
            return;
        }
        let time = now.since(self.reviewed);
        self.reviewed = now;
        let policy = self.shared.policy.load();
        let fast = self.shared.fast.load();
        let fast = fast.as_deref().map(|fast| &**fast);
        if let Some(fast) = fast {
            fast.set_direct_flows(self.shared.direct_flows() != 0);
            self.counted.resize(policy.services().len(), FastCounts::default());
        }
        for (position, service) in policy.services().iter().enumerate() {
            let id = ServiceId(u16::try_from(position).unwrap_or(u16::MAX));
            let state = self.shared.service(id);
            state.age(now);
            if service.mode == Mode::Off {
                state.pressure.forget();
                continue;
            }
            let mut began = false;
            if let (Some(fast), Some(counted)) = (fast, self.counted.get_mut(position)) {
                let counts = fast.counts(id);
                state.pressure.note_settled(now, service, counts.since(*counted), time);
                *counted = counts;
                // It has felt the flood first, a CPU alone.
                began = fast.is_pressed(id) && state.pressure.begin_if_off(now);
            }
            let change = if began {
                Some(Change::Began)
            } else {
                state.pressure.review(now, service, self.shared.slots_held(id))
            };
            if let Some(fast) = fast.filter(|fast| fast.is_pressed(id) != state.pressure.is_on()) {
                fast.press(id, state.pressure.is_on());
            }
            let Some(stats) = self.shared.stats.first() else { continue };
            let counters = &stats.service(Some(id)).counters;
            match change.filter(|_| service.mode == Mode::Adaptive) {
                Some(Change::Began) => counters.challenge_started.add(1),
                Some(Change::Ended) => counters.challenge_ended.add(1),
                None => {}
            }
        }
    }
}

impl Step<'_> {
    /// Notes a client's SYN, and settles how it is met.
    pub(super) fn feel(&self, arrival: &mut Arrival<'_>) {
        let pressure = &self.shared.service(arrival.id).pressure;
        let half_open = self.shared.slots_held(arrival.id);
        if pressure.note_syn(self.now, arrival.service, half_open) {
            self.count_challenge_start(arrival);
        }
        // The fast path may have begun by itself, a CPU alone, and the next review is yet to come.
        let is_on = || pressure.is_on() || self.fast.is_some_and(|fast| fast.is_pressed(arrival.id));
        if arrival.stance == Stance::Admit && is_on() {
            arrival.stance = Stance::Challenge;
        }
    }

    /// Begins to challenge at once: there is no room for one more that is half-open.
    pub(super) fn press(&self, arrival: &Arrival<'_>) {
        if self.shared.service(arrival.id).pressure.begin(self.now) {
            self.count_challenge_start(arrival);
        }
    }

    fn count_challenge_start(&self, arrival: &Arrival<'_>) {
        if let Some(fast) = self.fast {
            fast.press(arrival.id, true);
        }
        if arrival.service.mode == Mode::Adaptive {
            self.counters(arrival.id).challenge_started.add(1);
        }
    }
}

const SLOTS: u32 = 16;

/// The SYN rate is measured over this: the time from a flood's first SYN until it is known to be one.
const RATE_WINDOW: Duration = Duration::from_millis(100);

/// So many SYNs at a time are a page that a browser opens, whatever the threshold.
const FEW: u64 = 16;

/// How often pressure is looked at beside SYNs.
const REVIEW_INTERVAL: Duration = Duration::from_millis(50);

/// How exactly the end of a flood is timed.
const RESOLUTION: Duration = Duration::from_millis(10);

/// The shortest time under pressure: at a load that sits on the threshold there are at most two changes in any such time.
const SHORTEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::Shared;
    use crate::engine::policy::{Limits, Policy, Threshold};

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(1_000_000_000_000 + millis * 1_000_000)
    }

    fn service() -> Service {
        Service {
            activate_at: Threshold { half_open: 100, syn_rate: 1_000 },
            deactivate_at: Threshold { half_open: 50, syn_rate: 500 },
            min_active: Duration::from_secs(10),
            ..Service::default()
        }
    }

    /// SYNs at `rate` a second from `from` to `to` ms; when pressure began.
    fn syns(pressure: &Pressure, rate: u64, from: u64, to: u64) -> Option<u64> {
        let service = service();
        let mut began = None;
        for number in 0..(to - from) * rate / 1_000 {
            let millis = from + number * 1_000 / rate;
            if pressure.note_syn(at(millis), &service, 0) {
                began = began.or(Some(millis));
            }
        }
        began
    }

    #[test]
    fn a_flood_is_known_within_100_ms_and_less_than_the_threshold_never() {
        let pressure = Pressure::default();
        assert_eq!(syns(&pressure, 990, 0, 60_000), None);
        for rate in [2_000, 10_000, 100_000] {
            let pressure = Pressure::default();
            assert!(syns(&pressure, rate, 0, 1_000).unwrap() <= 100, "{rate}");
        }
    }

    #[test]
    fn a_threshold_of_a_few_syns_a_second_is_reached_too() {
        for rate in 1..=20 {
            let pressure = Pressure::default();
            let service = Service { activate_at: Threshold { half_open: 100, syn_rate: rate }, ..service() };
            // All at one moment: more than a few are above any such rate.
            let began = (0..64).position(|_| pressure.note_syn(at(0), &service, 0));
            assert!(began.is_some_and(|syns| (1..=17).contains(&syns)), "{rate}: {began:?}");
            let mut slower = (0..60).map(|number| at(100_000 + number * 1_000 / u64::from(rate)));
            let pressure = Pressure::default();
            assert!(!slower.any(|now| pressure.note_syn(now, &service, 0)), "{rate}");
        }
    }

    #[test]
    fn half_open_entries_alone_are_pressure() {
        let (pressure, service) = (Pressure::default(), service());
        assert!(!pressure.note_syn(at(0), &service, 99));
        assert!(pressure.note_syn(at(1), &service, 100));
        assert!(!pressure.note_syn(at(2), &service, 101), "it has begun");
    }

    #[test]
    fn pressure_ends_when_both_measures_stayed_low_for_the_time() {
        let (pressure, service) = (Pressure::default(), service());
        syns(&pressure, 10_000, 0, 1_000).unwrap();
        // A rate above the lower threshold keeps it on, and so does what is half-open.
        assert_eq!(syns(&pressure, 600, 1_000, 70_000), None);
        assert_eq!(pressure.review(at(70_000), &service, 0), None);
        assert_eq!(pressure.review(at(71_000), &service, 50), None);
        assert_eq!(pressure.review(at(80_999), &service, 49), None);
        assert_eq!(pressure.review(at(81_000), &service, 49), Some(Change::Ended));
        assert!(!pressure.is_on());
    }

    #[test]
    fn pressure_lasts_a_minute_at_least() {
        let (pressure, service) = (Pressure::default(), service());
        assert!(pressure.note_syn(at(0), &service, 100));
        assert_eq!(pressure.review(at(59_999), &service, 0), None);
        assert_eq!(pressure.review(at(60_000), &service, 0), Some(Change::Ended));
    }

    #[test]
    fn cookies_in_flight_count_until_they_return_or_the_syn_timeout_is_over() {
        let (pressure, service) = (Pressure::default(), service());
        for millis in 0..100 {
            pressure.note_sent(at(millis * 10), &service);
        }
        assert_eq!(pressure.review(at(1_000), &service, 0), Some(Change::Began));
        assert_eq!(pressure.cookies_in_flight(), 100);
        for _ in 0..60 {
            pressure.note_returned(at(5_000), &service);
        }
        for (millis, left) in [(5_000, 40), (22_500, 0), (60_000, 0)] {
            pressure.review(at(millis), &service, 0);
            assert_eq!(pressure.cookies_in_flight(), left);
        }
    }

    #[test]
    fn at_a_load_on_the_threshold_it_changes_twice_a_minute_at_most() {
        let (pressure, service) =
            (Pressure::default(), Service { min_active: Duration::from_secs(1), ..service() });
        let mut changes = Vec::new();
        // Bursts just above and pauses just long enough, for ten minutes.
        for millis in (0..600_000).step_by(50) {
            if millis % 3_000 == 0 && pressure.review(at(millis), &service, 100) == Some(Change::Began) {
                changes.push(millis);
            }
            if pressure.review(at(millis), &service, 0) == Some(Change::Ended) {
                changes.push(millis);
            }
        }
        assert!(changes.len() > 10, "it does change: {changes:?}");
        for window in changes.windows(3) {
            assert!(window[2] - window[0] >= 60_000, "{changes:?}");
        }
    }

    #[test]
    fn the_end_of_a_flood_is_timed_to_10_ms() {
        let (pressure, service) = (Pressure::default(), service());
        assert!(pressure.note_syn(at(0), &service, 100));
        let last_high_after_a_burst = |millis| {
            (0..1_000).for_each(|_| _ = pressure.note_syn(at(millis), &service, 0));
            pressure.last_high.load(Ordering::Relaxed)
        };
        assert_eq!(last_high_after_a_burst(9), at(0).as_nanos());
        assert_eq!(last_high_after_a_burst(10), at(10).as_nanos());
    }

    #[test]
    fn syns_that_the_fast_path_settled_keep_it_on_above_the_lower_rate() {
        // 500 a second; and a few at once never.
        for (syn_received, millis, is_high) in
            [(25, 50, false), (26, 50, true), (16, 10, false), (17, 10, true), (0, 50, false)]
        {
            let (pressure, service) = (Pressure::default(), service());
            let settled = FastCounts { syn_received, synack_sent: 7 };
            let time = Duration::from_millis(millis);
            pressure.note_settled(at(1_000), &service, FastCounts { syn_received: 1_000, ..settled }, time);
            assert_eq!(pressure.last_high.load(Ordering::Relaxed), 0, "it is off");
            assert!(pressure.note_syn(at(1_000), &service, 100));
            pressure.note_settled(at(2_000), &service, settled, time);
            let last_high = if is_high { at(2_000) } else { at(1_000) };
            assert_eq!(pressure.last_high.load(Ordering::Relaxed), last_high.as_nanos(), "{syn_received}");
            pressure.note_settled(at(2_000), &service, FastCounts::default(), time);
            pressure.review(at(2_000), &service, 0);
            assert_eq!(pressure.cookies_in_flight(), 14);
        }
    }

    #[test]
    fn cookies_are_in_flight_for_a_horizon_of_sixteen_slots() {
        let (in_flight, horizon) = (InFlight::default(), Duration::from_secs(16));
        in_flight.add(at(0), horizon, 5);
        assert_eq!(in_flight.count(at(15_999), horizon), 5);
        assert_eq!(in_flight.count(at(16_000), horizon), 0, "its slot is the one that begins");
        in_flight.add(at(16_000), horizon, 2);
        in_flight.add(at(16_500), horizon, 1);
        assert_eq!(in_flight.count(at(16_999), horizon), 3);
        in_flight.add(at(17_000), horizon, -4);
        assert_eq!(in_flight.count(at(17_000), horizon), 0, "never below");
    }

    #[test]
    fn a_server_that_falls_silent_is_full_or_dead() {
        let asked = |service: &Service, held| {
            let pressure = Pressure::default();
            (0..10).for_each(|_| pressure.answering.note_passed(at(500)));
            let change = pressure.review(at(1_800), service, held);
            let [activate_at, _] = pressure.answering.thresholds(service);
            (change, activate_at.half_open, pressure.is_silent())
        };
        let never = |max_half_open| Service {
            activate_at: Threshold { half_open: 1_000, syn_rate: 1_000 },
            max_half_open,
            ..service()
        };
        assert_eq!(asked(&never(1_000), 97), (Some(Change::Began), 48, false));
        assert_eq!(asked(&never(999), 97), (None, 1_000, false), "the operator wants it never");
        assert_eq!(asked(&never(1_000), 2), (None, 1_000, true));

        // Under pressure nothing is learned: what is held then is what was not freed yet.
        let (pressure, service) = (Pressure::default(), never(1_000));
        assert_eq!(pressure.review(at(400), &service, 97), None, "nothing was asked");
        assert!(pressure.begin_if_off(at(400)) && !pressure.begin_if_off(at(400)));
        (0..10).for_each(|_| pressure.answering.note_passed(at(500)));
        assert_eq!(pressure.review(at(1_800), &service, 97), None);
        assert_eq!(pressure.answering.thresholds(&service)[0].half_open, 1_000);
    }

    #[test]
    fn a_service_that_is_no_more_leaves_nothing_behind() {
        let (pressure, service) = (Pressure::default(), service());
        (0..10).for_each(|_| pressure.answering.note_passed(at(500)));
        assert_eq!(pressure.review(at(1_800), &service, 2), None);
        pressure.answering.learn(at(1_800), 97);
        assert!(pressure.note_syn(at(1_800), &service, 100));
        assert!(pressure.is_on() && pressure.is_silent());
        pressure.forget();
        assert!(!pressure.is_on() && !pressure.is_silent());
        assert_eq!(pressure.answering.thresholds(&service)[0].half_open, 100);
    }

    #[test]
    fn pressure_without_a_time_of_quiet_ends_with_the_first_low_review() {
        let (pressure, service) = (Pressure::default(), Service { min_active: Duration::ZERO, ..service() });
        assert!(pressure.note_syn(at(0), &service, 100));
        assert_eq!(pressure.review(at(0), &service, 0), None, "too soon");
        assert_eq!(pressure.review(at(60_000), &service, 50), None);
        assert_eq!(pressure.review(at(60_000), &service, 49), Some(Change::Ended));
    }

    #[test]
    fn one_worker_reviews_all_services_every_50_ms() {
        let policy = Policy::new(vec![], Limits::default(), 1_500).unwrap();
        let shared = Arc::new(Shared::new(policy, 2, [1, 2]));
        for (worker, times) in [
            (0, [(0, 0), (49, 0), (50, 50), (99, 50), (100, 100), (40, 40), (41, 40)]),
            (1, [(0, 0), (49, 0), (50, 0), (99, 0), (100, 0), (40, 0), (41, 0)]),
        ] {
            let mut engine = Engine::new(shared.clone(), worker);
            engine.reviewed = at(0);
            for (millis, reviewed) in times {
                engine.review(at(millis));
                assert_eq!(engine.reviewed, at(reviewed), "worker {worker} at {millis}");
            }
        }
    }

    #[test]
    fn a_clock_that_leaps_back_a_day_does_not_keep_it_on() {
        let (pressure, service) = (Pressure::default(), service());
        let later = at(86_400_000);
        assert!(pressure.note_syn(later, &service, 100));
        assert_eq!(pressure.review(at(0), &service, 0), None);
        assert_eq!(pressure.review(at(10_000), &service, 0), Some(Change::Ended));
    }
}
