//! The last quarter of an hour, second by second, for the live page.
//!
//! Owns a ring of samples for each of the first [`FULL_SERVICES`] services and one for all together; of further services
//! it keeps what the present rates need. So memory is bounded: about 4 MiB with all rings full, some 300 KiB for two
//! services. A plain value: it is told the time and reads nothing by itself.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use super::attacks::Traffic;
use crate::engine::policy::Mode;
use crate::engine::{DropReason, ServiceSnapshot, Snapshot};
use crate::time::Instant;

/// How many samples a ring takes: 15 minutes of seconds.
pub const SAMPLES: usize = 900;

/// How many services, in the policy's order, have a ring. The others count in the ring of all.
pub const FULL_SERVICES: usize = 32;

/// What was seen second by second.
#[derive(Default)]
pub struct History {
    all: Track,
    services: Vec<Track>,
    last: Option<Instant>,
}

/// One service now.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Present {
    /// Its name.
    pub name: String,
    /// Its mode.
    pub mode: &'static str,
    /// Whether SYNs are answered with cookies.
    pub is_challenging: bool,
    /// Whether pressure has passed the thresholds.
    pub is_under_pressure: bool,
    /// Whether the detector takes what comes for an attack.
    pub is_attacked: bool,
    /// Whether its server answers.
    pub backend_up: bool,
    /// Whether [`History::series`] knows it.
    pub has_series: bool,
    /// Half-open entries.
    pub half_open: u64,
    /// The most that it may hold.
    pub max_half_open: u64,
    /// Cookies that have not come back.
    pub cookies_in_flight: u64,
    /// SYNs a second, over the last [`RECENT`] samples, as all rates here.
    pub syn_rate: f64,
    /// Clients a second that proved their address: valid cookies and handshakes completed with the server itself.
    pub validated_rate: f64,
    /// Connections a second that reached the server.
    pub connected_rate: f64,
    /// Frames dropped a second.
    pub dropped_rate: f64,
}

/// Samples in columns, the oldest first; every column has the length of `t`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Series {
    /// Seconds since 1970, ascending.
    pub t: Vec<f64>,
    /// SYNs a second.
    pub syns: Vec<f64>,
    /// SYN-ACKs with a cookie a second.
    pub cookies: Vec<f64>,
    /// Clients a second that proved their address.
    pub validated: Vec<f64>,
    /// Half-open entries.
    pub half_open: Vec<u32>,
    /// Cookies that have not come back.
    pub cookies_in_flight: Vec<u32>,
    /// 1 while SYNs were answered with cookies, else 0.
    pub challenging: Vec<u8>,
    /// 1 while the detector took what came for an attack, else 0.
    pub attacked: Vec<u8>,
    /// Frames dropped a second, by reason; only reasons that occur among these samples.
    pub drops: Vec<(&'static str, Vec<f64>)>,
}

impl History {
    /// Takes up what was counted until `now`, which is `unix` since 1970. Samples that the wall clock, set back, has yet to
    /// reach are forgotten, so that time only ascends.
    pub fn push(&mut self, unix: Duration, now: Instant, snapshot: &Snapshot, traffic: &[Traffic]) {
        let moment = Moment { unix: unix.as_secs_f64(), seconds: self.seconds_until(now) };
        let mut all = Reading { is_up: true, ..Reading::default() };
        all.counts.add(&Counts::of_unserved(snapshot));
        if !self
            .services
            .iter()
            .map(|track| &track.name)
            .eq(snapshot.services.iter().map(|service| &service.name))
        {
            // A sum over other services is no measure for the next one.
            self.all.last = None;
        }
        self.services.resize_with(snapshot.services.len(), Track::default);
        for (position, (track, service)) in self.services.iter_mut().zip(&snapshot.services).enumerate() {
            let is_attacked =
                traffic.iter().any(|traffic| traffic.service == service.name && traffic.is_attacked);
            let reading = Reading::of(service, is_attacked);
            all.add(&reading);
            let room = if position < FULL_SERVICES { SAMPLES } else { RECENT };
            track.push(&service.name, room, moment, reading);
        }
        self.all.push("", SAMPLES, moment, all);
        self.last = Some(now);
    }

    /// Each service of the policy, in its order.
    pub fn services(&self) -> Vec<Present> {
        self.services.iter().map(Track::present).collect()
    }

    /// All services together, with what belongs to none.
    pub fn all(&self) -> Present {
        self.all.present()
    }

    /// The samples of `service`, or of all together if its name is empty, that are younger than `after` (seconds since
    /// 1970). `None` if there is no such service or no ring for it.
    pub fn series(&self, service: &str, after: f64) -> Option<Series> {
        let mut tracks = self.services.iter().take(FULL_SERVICES);
        let track =
            if service.is_empty() { &self.all } else { tracks.find(|track| track.name == service)? };
        Some(track.series(after))
    }

    /// Seconds since the last sample; the counters say nothing about a rate before there is one.
    fn seconds_until(&self, now: Instant) -> Option<f64> {
        self.last.map(|last| now.since(last).as_secs_f64()).filter(|seconds| *seconds > 0.0)
    }
}

/// When a reading was made.
#[derive(Clone, Copy)]
struct Moment {
    unix: f64,
    seconds: Option<f64>,
}

/// The samples of one service.
#[derive(Default)]
struct Track {
    name: String,
    samples: VecDeque<Sample>,
    last: Option<Reading>,
    room: usize,
}

impl Track {
    fn push(&mut self, name: &str, room: usize, moment: Moment, reading: Reading) {
        if self.name != name || self.room != room {
            *self = Track { name: name.to_owned(), room, ..Track::default() };
        }
        while self.samples.back().is_some_and(|newest| newest.unix >= moment.unix) {
            self.samples.pop_back();
        }
        if let (Some(before), Some(seconds)) = (&self.last, moment.seconds) {
            if self.samples.len() >= room {
                self.samples.pop_front();
            }
            self.samples.push_back(Sample::new(moment.unix, seconds, before, &reading));
        }
        self.last = Some(reading);
    }

    fn present(&self) -> Present {
        let last = self.last.clone().unwrap_or_default();
        let seconds: f64 = self.recent().map(|sample| f64::from(sample.seconds)).sum();
        let rate = |count: fn(&Sample) -> u32| {
            let sum: f64 = self.recent().map(|sample| f64::from(count(sample))).sum();
            if seconds > 0.0 { tenths(sum / seconds) } else { 0.0 }
        };
        Present {
            name: self.name.clone(),
            mode: last.mode.map_or("", Mode::label),
            is_challenging: last.is_challenging,
            is_under_pressure: last.is_under_pressure,
            is_attacked: last.is_attacked,
            backend_up: last.is_up,
            has_series: self.room == SAMPLES,
            half_open: last.half_open,
            max_half_open: last.max_half_open,
            cookies_in_flight: last.cookies_in_flight,
            syn_rate: rate(|sample| sample.syns),
            validated_rate: rate(|sample| sample.validated),
            connected_rate: rate(|sample| sample.connected),
            dropped_rate: rate(|sample| {
                sample.dropped.iter().fold(0, |sum, count| sum.saturating_add(*count))
            }),
        }
    }

    fn recent(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().rev().take(RECENT)
    }

    fn series(&self, after: f64) -> Series {
        let begin = self.samples.partition_point(|sample| sample.unix <= after);
        let samples = || self.samples.iter().skip(begin);
        let rates = |count: fn(&Sample) -> u32| samples().map(|sample| sample.rate(count(sample))).collect();
        let drops = DropReason::ALL.iter().filter_map(|reason| {
            let count = |sample: &Sample| sample.dropped.get(reason.index()).copied().unwrap_or(0);
            let occurs = samples().any(|sample| count(sample) > 0);
            occurs.then(|| (reason.label(), samples().map(|sample| sample.rate(count(sample))).collect()))
        });
        Series {
            t: samples().map(|sample| sample.unix).collect(),
            syns: rates(|sample| sample.syns),
            cookies: rates(|sample| sample.cookies),
            validated: rates(|sample| sample.validated),
            half_open: samples().map(|sample| sample.half_open).collect(),
            cookies_in_flight: samples().map(|sample| sample.cookies_in_flight).collect(),
            challenging: samples().map(|sample| u8::from(sample.is_challenging)).collect(),
            attacked: samples().map(|sample| u8::from(sample.is_attacked)).collect(),
            drops: drops.collect(),
        }
    }
}

/// What one snapshot says of a service.
#[derive(Clone, Default)]
struct Reading {
    counts: Counts,
    mode: Option<Mode>,
    is_challenging: bool,
    is_under_pressure: bool,
    is_attacked: bool,
    is_up: bool,
    half_open: u64,
    max_half_open: u64,
    cookies_in_flight: u64,
}

impl Reading {
    fn of(service: &ServiceSnapshot, is_attacked: bool) -> Reading {
        Reading {
            counts: Counts::of(service),
            mode: Some(service.mode),
            is_challenging: service.is_challenging,
            is_under_pressure: service.is_under_pressure,
            is_attacked,
            is_up: service.backend_up,
            half_open: service.half_open,
            max_half_open: service.max_half_open,
            cookies_in_flight: service.cookies_in_flight,
        }
    }

    fn add(&mut self, other: &Reading) {
        self.counts.add(&other.counts);
        self.is_challenging |= other.is_challenging;
        self.is_under_pressure |= other.is_under_pressure;
        self.is_attacked |= other.is_attacked;
        self.is_up &= other.is_up;
        self.half_open = self.half_open.saturating_add(other.half_open);
        self.max_half_open = self.max_half_open.saturating_add(other.max_half_open);
        self.cookies_in_flight = self.cookies_in_flight.saturating_add(other.cookies_in_flight);
    }
}

/// Counters since the start.
#[derive(Clone, Default)]
struct Counts {
    syns: u64,
    cookies: u64,
    validated: u64,
    connected: u64,
    challenge_started: u64,
    dropped: [u64; DropReason::ALL.len()],
}

impl Counts {
    fn of(service: &ServiceSnapshot) -> Counts {
        let counters = &service.values.counters;
        Counts {
            syns: counters.syn_received,
            cookies: counters.synack_sent,
            validated: counters.cookie_valid.wrapping_add(counters.direct_completed),
            connected: counters.backend_established.wrapping_add(counters.direct_completed),
            challenge_started: counters.challenge_started,
            dropped: service.values.dropped,
        }
    }

    fn of_unserved(snapshot: &Snapshot) -> Counts {
        Counts { dropped: snapshot.unserved.dropped, ..Counts::default() }
    }

    fn add(&mut self, other: &Counts) {
        self.syns = self.syns.wrapping_add(other.syns);
        self.cookies = self.cookies.wrapping_add(other.cookies);
        self.validated = self.validated.wrapping_add(other.validated);
        self.connected = self.connected.wrapping_add(other.connected);
        self.challenge_started = self.challenge_started.wrapping_add(other.challenge_started);
        for (sum, count) in self.dropped.iter_mut().zip(&other.dropped) {
            *sum = sum.wrapping_add(*count);
        }
    }
}

/// What happened between two readings.
struct Sample {
    unix: f64,
    seconds: f32,
    syns: u32,
    cookies: u32,
    validated: u32,
    connected: u32,
    half_open: u32,
    cookies_in_flight: u32,
    is_challenging: bool,
    is_attacked: bool,
    dropped: [u32; DropReason::ALL.len()],
}

impl Sample {
    fn new(unix: f64, seconds: f64, before: &Reading, now: &Reading) -> Sample {
        let mut dropped = [0; DropReason::ALL.len()];
        for (count, (before, now)) in
            dropped.iter_mut().zip(before.counts.dropped.iter().zip(&now.counts.dropped))
        {
            *count = grown(*before, *now);
        }
        let grown = |count: fn(&Counts) -> u64| grown(count(&before.counts), count(&now.counts));
        #[expect(clippy::cast_possible_truncation, reason = "a second or so, to seven digits")]
        let seconds = seconds as f32;
        Sample {
            unix,
            seconds,
            syns: grown(|counts| counts.syns),
            cookies: grown(|counts| counts.cookies),
            validated: grown(|counts| counts.validated),
            connected: grown(|counts| counts.connected),
            half_open: clamp(now.half_open),
            cookies_in_flight: clamp(now.cookies_in_flight),
            // A challenge may come and go between two readings.
            is_challenging: now.is_challenging || grown(|counts| counts.challenge_started) > 0,
            is_attacked: now.is_attacked,
            dropped,
        }
    }

    fn rate(&self, count: u32) -> f64 {
        tenths(f64::from(count) / f64::from(self.seconds))
    }
}

/// How far a counter came.
fn grown(before: u64, now: u64) -> u32 {
    clamp(now.saturating_sub(before))
}

fn clamp(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// To one decimal, which is more than anybody sees, and short in JSON.
fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Samples that present rates are taken over: clients that come ten times a second do not come evenly.
pub const RECENT: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Shared;

    /// A history of a policy with this many services, fed by hand.
    struct Feed {
        history: History,
        snapshot: Snapshot,
        traffic: Vec<Traffic>,
        second: u64,
    }

    impl Feed {
        fn new(services: u16) -> Feed {
            let mut text = "[bridge]\noutside = \"a\"\ninside = \"b\"\n".to_owned();
            for port in 1..=services {
                text +=
                    &format!("[[service]]\nname = \"s{port}\"\naddress = \"198.18.0.1\"\nports = [{port}]\n");
            }
            let policy = crate::config::Config::parse("", &text).unwrap().policy(1500).unwrap();
            let snapshot = Shared::new(policy, 1, [1, 2]).snapshot();
            Feed { history: History::default(), snapshot, traffic: Vec::new(), second: 0 }
        }

        /// A second later.
        fn tick(&mut self) {
            self.second += 1;
            self.push(Duration::from_secs(1000 + self.second));
        }

        fn push(&mut self, unix: Duration) {
            let now = Instant::ZERO.after(Duration::from_secs(self.second));
            self.history.push(unix, now, &self.snapshot, &self.traffic);
        }

        fn count(&mut self, service: usize) -> &mut crate::engine::stats::ServiceRowValues {
            &mut self.snapshot.services[service].values
        }
    }

    #[test]
    fn rates_are_what_was_counted_between_two_readings() {
        let mut feed = Feed::new(2);
        feed.count(0).counters.syn_received = 5000;
        feed.tick();
        assert_eq!(feed.history.series("", 0.0).unwrap().t, [0.0; 0], "one reading is no rate");
        feed.count(0).counters.syn_received += 1000;
        feed.count(0).counters.synack_sent += 900;
        feed.count(0).counters.cookie_valid += 10;
        feed.count(0).counters.direct_completed += 2;
        feed.count(0).counters.backend_established += 9;
        feed.count(1).counters.syn_received += 1;
        feed.snapshot.services[0].half_open = 7;
        feed.snapshot.services[0].cookies_in_flight = 890;
        feed.second += 1; // Late by a second.
        feed.tick();

        let first = feed.history.series("s1", 0.0).unwrap();
        assert_eq!((first.t, first.syns, first.cookies), (vec![1003.0], vec![500.0], vec![450.0]));
        assert_eq!(
            (first.validated, first.half_open, first.cookies_in_flight),
            (vec![6.0], vec![7], vec![890])
        );
        assert_eq!(feed.history.series("s2", 0.0).unwrap().syns, [0.5]);
        assert_eq!(feed.history.series("", 0.0).unwrap().syns, [500.5]);
        assert_eq!(feed.history.series("s3", 0.0), None);
        let present = &feed.history.services()[0];
        assert_eq!((present.syn_rate, present.validated_rate, present.connected_rate), (500.0, 6.0, 5.5));
        assert_eq!((feed.history.all().syn_rate, feed.history.all().half_open), (500.5, 7));
    }

    #[test]
    fn only_reasons_that_occurred_are_columns_and_what_belongs_to_no_service_counts_in_all() {
        let mut feed = Feed::new(1);
        feed.count(0).dropped[DropReason::NoFlow.index()] = 70;
        feed.tick();
        feed.count(0).dropped[DropReason::CookieInvalid.index()] += 3;
        feed.snapshot.unserved.dropped[DropReason::Malformed.index()] += 2;
        feed.tick();
        feed.tick();
        assert_eq!(feed.history.series("s1", 0.0).unwrap().drops, [("cookie_invalid", vec![3.0, 0.0])]);
        let all = feed.history.series("", 0.0).unwrap().drops;
        assert_eq!(all, [("malformed", vec![2.0, 0.0]), ("cookie_invalid", vec![3.0, 0.0])]);
        assert_eq!(feed.history.series("", 1002.0).unwrap().drops, [], "the last second had none");
    }

    #[test]
    fn after_gives_what_is_new_and_the_ring_forgets_the_oldest() {
        let mut feed = Feed::new(1);
        for _ in 0..SAMPLES + 11 {
            feed.tick();
        }
        let series = feed.history.series("s1", 0.0).unwrap();
        assert_eq!((series.t.len(), series.t[0], series.t[SAMPLES - 1]), (SAMPLES, 1012.0, 1911.0));
        assert_eq!(series.challenging.len(), SAMPLES);
        assert_eq!(feed.history.series("s1", 1909.0).unwrap().t, [1910.0, 1911.0]);
        assert_eq!(feed.history.series("s1", 1911.0).unwrap(), Series::default());
        assert_eq!(feed.history.series("s1", f64::NAN).unwrap().t.len(), SAMPLES);
    }

    #[test]
    fn a_clock_that_is_set_back_takes_its_samples_with_it() {
        let mut feed = Feed::new(1);
        (0..10).for_each(|_| feed.tick());
        feed.second += 1;
        feed.push(Duration::from_secs(1005));
        assert_eq!(feed.history.series("", 0.0).unwrap().t, [1002.0, 1003.0, 1004.0, 1005.0]);
    }

    #[test]
    fn challenges_and_attacks_are_seen_even_short_ones() {
        let mut feed = Feed::new(1);
        feed.snapshot.services[0].is_challenging = false;
        feed.tick();
        feed.count(0).counters.challenge_started += 1;
        feed.tick();
        feed.traffic = vec![Traffic { service: "s1".to_owned(), is_attacked: true, ..Traffic::default() }];
        feed.tick();
        let series = feed.history.series("s1", 0.0).unwrap();
        assert_eq!((series.challenging, series.attacked), (vec![1, 0], vec![0, 1]));
        assert!(feed.history.services()[0].is_attacked && feed.history.all().is_attacked);
    }

    #[test]
    fn services_beyond_the_rings_have_rates_and_count_in_all() {
        let mut feed = Feed::new(34);
        feed.tick();
        (0..10).for_each(|_| {
            feed.count(33).counters.syn_received += 20;
            feed.tick();
        });
        let services = feed.history.services();
        assert_eq!((services.len(), services[33].syn_rate, services[33].has_series), (34, 20.0, false));
        assert!(services[31].has_series);
        assert_eq!(feed.history.series("s34", 0.0), None);
        assert_eq!(feed.history.series("", 1010.0).unwrap().syns, [20.0]);
        assert_eq!(feed.history.services[33].samples.len(), RECENT);
    }

    #[test]
    fn a_position_that_another_service_takes_over_begins_anew() {
        let mut feed = Feed::new(2);
        (0..3).for_each(|_| feed.tick());
        feed.snapshot.services.remove(0);
        feed.tick();
        assert_eq!(feed.history.series("s2", 0.0), Some(Series::default()));
        assert_eq!(feed.history.series("s1", 0.0), None);
        feed.tick();
        assert_eq!(feed.history.series("s2", 0.0).unwrap().t, [1005.0]);
        assert_eq!(feed.history.series("", 0.0).unwrap().t, [1002.0, 1003.0, 1005.0]);
    }
}
