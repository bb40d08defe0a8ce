//! The last ten seconds of one service: readings of its counters, and the evidence in its sightings.

use std::collections::VecDeque;
use std::time::Duration;

use crate::control::attacks::Totals;
use crate::engine::ServiceSnapshot;
use crate::table::flow_key::TableHasher;

use super::evidence::Evidence;

/// A service's counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Reading {
    /// Since 1970.
    pub(super) at: Duration,
    /// Since the start of synwall.
    pub(super) totals: Totals,
}

impl Reading {
    /// What the counters of `service` say now. A client that is refused after its handshake, since its prefix has too many
    /// connections, has completed it all the same.
    pub(super) fn of(service: &ServiceSnapshot, at: Duration) -> Reading {
        let counters = &service.values.counters;
        let totals = Totals {
            syns: counters.syn_received,
            cookies_sent: counters.synack_sent,
            completed: counters
                .cookie_valid
                .saturating_add(counters.direct_completed)
                .saturating_add(counters.half_open_revived),
            dropped: service.values.dropped.iter().fold(0, |sum, count| sum.saturating_add(*count)),
        };
        Reading { at, totals }
    }

    /// What was counted since `earlier`.
    pub(super) fn since(&self, earlier: &Reading) -> Totals {
        let (now, then) = (&self.totals, &earlier.totals);
        Totals {
            syns: now.syns.saturating_sub(then.syns),
            cookies_sent: now.cookies_sent.saturating_sub(then.cookies_sent),
            completed: now.completed.saturating_sub(then.completed),
            dropped: now.dropped.saturating_sub(then.dropped),
        }
    }

    /// Seconds since `earlier`.
    pub(super) fn seconds_since(&self, earlier: &Reading) -> f64 {
        self.at.saturating_sub(earlier.at).as_secs_f64()
    }

    /// `count` things since `earlier`, by the second.
    pub(super) fn rate(&self, earlier: &Reading, count: u64) -> f64 {
        let seconds = self.seconds_since(earlier);
        if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
    }
}

/// The window.
pub(super) struct Window {
    readings: VecDeque<Reading>,
    /// Of [`PANE`] each, the newest last; the evidence of the whole slides by one of them.
    panes: VecDeque<Evidence>,
    /// The number of the newest pane, counted from 1970.
    newest: u64,
    hasher: TableHasher,
}

impl Window {
    /// An empty one.
    pub(super) fn new(hasher: TableHasher) -> Window {
        Window { readings: VecDeque::new(), panes: VecDeque::new(), newest: 0, hasher }
    }

    /// Where sightings of the present go.
    pub(super) fn pane(&mut self) -> &mut Evidence {
        if self.panes.is_empty() {
            self.panes.push_back(Evidence::new(&self.hasher));
        }
        let newest = self.panes.len().saturating_sub(1);
        #[expect(clippy::indexing_slicing, reason = "there is at least one")]
        &mut self.panes[newest]
    }

    /// Goes on to the time of `reading`. A clock that leaps, either way, begins a new window.
    pub(super) fn advance(&mut self, reading: Reading) {
        let last = self.readings.back().copied().unwrap_or(reading);
        if reading.at < last.at || reading.at > last.at + LENGTH {
            *self = Window::new(self.hasher.clone());
        }
        let number = reading.at.as_secs() / PANE.as_secs();
        if !self.panes.is_empty() {
            for _ in 0..number.saturating_sub(self.newest).min(PANES as u64) {
                self.panes.push_back(Evidence::new(&self.hasher));
            }
        }
        while self.panes.len() > PANES {
            self.panes.pop_front();
        }
        if self.panes.iter().all(Evidence::is_empty) {
            self.panes = VecDeque::new();
        }
        self.newest = number;
        self.readings.push_back(reading);
        while self.readings.len() > MOST_READINGS
            || self.readings.get(1).is_some_and(|second| second.at + LENGTH <= reading.at)
        {
            self.readings.pop_front();
        }
    }

    /// All evidence in the window.
    pub(super) fn evidence(&self) -> Evidence {
        let mut all = Evidence::new(&self.hasher);
        self.panes.iter().filter(|pane| !pane.is_empty()).for_each(|pane| all.merge(pane));
        all
    }

    /// The evidence of the last two seconds at most.
    pub(super) fn latest_evidence(&self) -> Evidence {
        self.panes.back().cloned().unwrap_or_else(|| Evidence::new(&self.hasher))
    }

    /// The newest reading.
    pub(super) fn now(&self) -> Reading {
        self.readings.back().copied().unwrap_or_default()
    }

    /// The newest reading that is at least `age` old, or else the oldest.
    pub(super) fn before(&self, age: Duration) -> Reading {
        let latest = self.now().at.saturating_sub(age);
        let old = self.readings.iter().rev().find(|reading| reading.at <= latest);
        old.or(self.readings.front()).copied().unwrap_or_default()
    }

    /// The oldest reading.
    pub(super) fn oldest(&self) -> Reading {
        self.readings.front().copied().unwrap_or_default()
    }
}

/// For so long the window looks back.
pub(super) const LENGTH: Duration = Duration::from_secs(10);
/// The step by which its evidence slides.
const PANE: Duration = Duration::from_secs(2);
const PANES: usize = 5;
/// Four a second for ten seconds, and some to spare: bounds the memory should it be asked more often.
const MOST_READINGS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::policy::ServiceId;
    use crate::engine::sightings::{Sighted, Sighting};

    fn at(millis: u64, syns: u64) -> Reading {
        let totals = Totals { syns, ..Totals::default() };
        Reading { at: Duration::from_millis(1_790_000_000_000 + millis), totals }
    }

    fn syn() -> Sighting {
        Sighting {
            service: ServiceId(0),
            what: Sighted::Syn,
            source: [198, 18, 0, 1].into(),
            source_port: 1,
            port: 80,
            hop_limit: 64,
            weight_log2: 0,
        }
    }

    fn window() -> Window {
        Window::new(TableHasher::new([1, 2]))
    }

    #[test]
    fn it_slides_over_ten_seconds() {
        let mut window = window();
        for step in 0..200 {
            window.advance(at(step * 250, step * 10));
            window.pane().note_syn(&syn(), true);
        }
        let (now, oldest) = (window.now(), window.oldest());
        assert_eq!(now, at(199 * 250, 1_990));
        assert_eq!(oldest, at(159 * 250, 1_590));
        assert_eq!(now.rate(&oldest, now.since(&oldest).syns), 40.0);
        assert_eq!(window.before(Duration::from_secs(1)), at(195 * 250, 1_950));
        assert_eq!(window.before(Duration::from_secs(3_600)), oldest);
        // Between four and five panes of eight sightings.
        assert!((32..=40).contains(&window.evidence().samples()), "{}", window.evidence().samples());
    }

    #[test]
    fn what_was_seen_ten_seconds_ago_is_forgotten_without_new_sightings() {
        let mut window = window();
        window.advance(at(0, 0));
        (0..5).for_each(|_| window.pane().note_syn(&syn(), true));
        for step in 1..=32 {
            window.advance(at(step * 250, 5));
            assert_eq!(window.evidence().samples(), 5);
        }
        (33..=40).for_each(|step| window.advance(at(step * 250, 5)));
        assert_eq!(window.evidence().samples(), 0);
        assert_eq!(window.panes.capacity(), 0, "a quiet service takes no memory");
    }

    #[test]
    fn a_clock_that_leaps_begins_anew() {
        for leap in [at(5_000, 70), at(100_000, 70)] {
            let mut window = window();
            window.advance(at(20_000, 30));
            window.pane().note_syn(&syn(), true);
            window.advance(at(20_250, 60));
            window.advance(leap);
            assert_eq!((window.now(), window.oldest()), (leap, leap));
            assert_eq!(window.evidence().samples(), 0);
            assert_eq!(window.now().rate(&window.oldest(), 5), 0.0, "no time, no rate");
        }
    }

    #[test]
    fn readings_are_bounded_however_often_it_is_asked() {
        let mut window = window();
        (0..10_000).for_each(|step| window.advance(at(step, step)));
        assert_eq!(window.readings.len(), MOST_READINGS);
    }
}
