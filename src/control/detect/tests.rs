//! Stories in SYNs and handshakes on a virtual clock, as the packet path would count and sample them.

use std::net::IpAddr;

use super::*;
use crate::config::Config;
use crate::control::attacks::Kind;
use crate::engine::Shared;
use crate::engine::policy::{LINGERING, ServiceId};

/// Two services, a clock, and whoever sends.
struct Story {
    detector: Detector,
    snapshot: Snapshot,
    now: Duration,
    dice: u64,
    changes: Vec<Change>,
}

const STEP: Duration = Duration::from_millis(250);

impl Story {
    /// Starts with ten quiet seconds.
    fn new() -> Story {
        let text = "[bridge]\noutside = \"a\"\ninside = \"b\"\n\
                    [[service]]\nname = \"web\"\naddress = \"198.18.255.2\"\nports = [80, 443]\n\
                    [[service]]\nname = \"mail\"\naddress = \"198.18.255.3\"\nports = [25]\n";
        let policy = Config::parse("", text).unwrap().policy(1500).unwrap();
        let snapshot = Shared::new(policy, 1, [1, 2]).snapshot();
        let now = Duration::from_secs(1_790_000_000);
        let mut story =
            Story { detector: Detector::new([3, 4]), snapshot, now, dice: 1, changes: Vec::new() };
        story.quiet(40);
        story
    }

    fn random(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.dice ^ (self.dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn web(&mut self) -> &mut ServiceSnapshot {
        &mut self.snapshot.services[0]
    }

    fn sight(&mut self, what: Sighted, source: IpAddr, source_port: u16, weight_log2: u8) {
        let sighting = Sighting {
            service: ServiceId(0),
            what,
            source,
            source_port,
            port: 80,
            hop_limit: 57,
            weight_log2,
        };
        self.detector.note(&sighting);
    }

    fn syn(&mut self, source: IpAddr, source_port: u16) {
        self.web().values.counters.syn_received += 1;
        let log2 = self.detector.sampling();
        if self.random() & ((1 << log2) - 1) == 0 {
            self.sight(Sighted::Syn, source, source_port, log2);
        }
    }

    fn complete(&mut self, source: IpAddr, source_port: u16) {
        self.web().values.counters.cookie_valid += 1;
        self.sight(Sighted::Completed, source, source_port, 0);
    }

    /// `count` connections of clients in many prefixes, done within the step.
    fn clients(&mut self, count: u32) {
        for _ in 0..count {
            let (source, port) = (self.client(), self.random() as u16);
            self.syn(source, port);
            self.complete(source, port);
        }
    }

    /// One of some sixty thousand.
    fn client(&mut self) -> IpAddr {
        let [a, b, ..] = self.random().to_be_bytes();
        [203, 0, a, b].into()
    }

    /// `count` SYNs from forged addresses.
    fn forged(&mut self, count: u32) {
        for _ in 0..count {
            let [a, b, c, d, e, f, ..] = self.random().to_be_bytes();
            self.syn([a, b, c, d].into(), u16::from_be_bytes([e, f]));
        }
    }

    /// Lets a quarter of a second pass, under pressure or not.
    fn step(&mut self, is_under_pressure: bool) {
        self.now += STEP;
        self.web().is_under_pressure = is_under_pressure;
        let changes = self.detector.review(self.now, &self.snapshot);
        self.changes.extend(changes);
    }

    fn quiet(&mut self, steps: u32) {
        (0..steps).for_each(|_| self.step(false));
    }

    /// `steps` quarters of a second of `what`, under pressure.
    fn pressed(&mut self, steps: u32, mut what: impl FnMut(&mut Story)) {
        for _ in 0..steps {
            what(self);
            self.step(true);
        }
    }

    fn started(&self) -> Attack {
        let started: Vec<&Attack> = self
            .changes
            .iter()
            .filter_map(|change| if let Change::Started(event) = change { Some(event) } else { None })
            .collect();
        assert_eq!(started.len(), 1, "{:?}", self.changes);
        started[0].clone()
    }

    /// Ends the pressure: the event as it was in the end, after it was told of in the right order.
    fn end(&mut self) -> Attack {
        self.step(false);
        let order: String = self
            .changes
            .iter()
            .map(|change| match change {
                Change::Started(_) => 'a',
                Change::Updated(_) => '.',
                Change::Settled(_) => 'b',
                Change::Ended(_) => 'z',
            })
            .filter(|c| *c != '.')
            .collect();
        assert_eq!(order, "abz");
        let Some(Change::Ended(event)) = self.changes.last() else { panic!("{:?}", self.changes.last()) };
        event.clone()
    }

    /// What it was named at the start and in the end, if these are the same.
    fn named(&mut self) -> Kind {
        let (started, ended) = (self.started(), self.end());
        assert_eq!(started.kind, ended.kind, "{started:#?} {ended:#?}");
        ended.kind
    }

    fn traffic(&self) -> &Traffic {
        &self.detector.traffic()[0]
    }
}

#[test]
fn random_forged_sources_are_a_spoofed_flood() {
    let mut story = Story::new();
    story.pressed(40, |story| {
        story.clients(3);
        story.forged(10_000);
    });
    let traffic = story.traffic().clone();
    assert!(traffic.is_attacked && (traffic.syn_rate / 40_012.0 - 1.0).abs() < 0.01, "{traffic:?}");
    assert!(story.detector.sampling() == 3, "40,012 a second, of which an eighth is asked for");
    let started = story.started();
    let ended = story.end();
    assert_eq!((started.kind, ended.kind), (Kind::SpoofedSyn, Kind::SpoofedSyn));
    assert_eq!((ended.totals.syns, ended.totals.completed), (400_120, 120));
    assert!((ended.peak_syn_rate / 40_012.0 - 1.0).abs() < 0.01, "{ended:?}");
    assert!(ended.distinct_sources > 100_000 && ended.distinct_sources <= 400_120, "{ended:?}");
    assert!(ended.new_source_share > 0.99 && ended.completed_share < 0.001, "{ended:?}");
    assert!(ended.top_prefixes.is_empty() && ended.source_ports > 10_000, "{ended:?}");
    assert_eq!((ended.top_ports[0].port, ended.hop_limits), (80, [57, 57]));
    assert_eq!(ended.ended, Some(ended.started + 10.0));
    assert!(!story.traffic().is_attacked);
}

#[test]
fn forged_sources_of_one_short_prefix_are_a_spoofed_flood() {
    let mut story = Story::new();
    story.pressed(24, |story| {
        for _ in 0..1_000 {
            let [a, b, c, d, e, ..] = story.random().to_be_bytes();
            story.syn([198, 18 + (a & 1), b, c].into(), u16::from_be_bytes([d, e]));
        }
    });
    assert_eq!(story.named(), Kind::SpoofedSyn);
}

#[test]
fn five_sources_are_few_whatever_else_goes_on() {
    let mut story = Story::new();
    (0..40).for_each(|_| {
        story.clients(25);
        story.step(false);
    });
    story.pressed(24, |story| {
        story.clients(25);
        (0..1_250u16).for_each(|n| story.syn([198, 18, (n % 5) as u8, 7].into(), n));
    });
    assert_eq!(story.named(), Kind::FewSources);
    let Some(Change::Ended(event)) = story.changes.last() else { panic!() };
    let prefixes: std::collections::BTreeSet<&str> =
        event.top_prefixes.iter().map(|heavy| heavy.prefix.as_str()).collect();
    let five = ["198.18.0.0/24", "198.18.1.0/24", "198.18.2.0/24", "198.18.3.0/24", "198.18.4.0/24"];
    assert!(five.iter().all(|prefix| prefixes.contains(prefix)), "{event:#?}");
    assert!((event.top_prefixes[0].share - 0.196).abs() < 0.01, "{event:#?}");
    assert!(event.new_source_share > 0.95);
}

#[test]
fn a_fixed_tuple_that_is_repeated_is_no_crowd_that_tries_again() {
    let mut story = Story::new();
    (0..40).for_each(|_| {
        story.clients(250);
        story.step(false);
    });
    story.pressed(40, |story| {
        story.clients(250);
        (0..1_000).for_each(|_| story.syn([198, 18, 0, 7].into(), 5));
    });
    assert_eq!(story.named(), Kind::FewSources);
}

#[test]
fn two_hundred_bots_are_few_though_none_stands_out() {
    let mut story = Story::new();
    story.pressed(24, |story| {
        (0..2_000u16).for_each(|n| story.syn([198, 18, (n % 200) as u8, 7].into(), n));
    });
    assert_eq!(story.named(), Kind::FewSources);
}

#[test]
fn one_prefix_is_few_sources() {
    let mut story = Story::new();
    story.pressed(24, |story| {
        story.clients(5);
        for _ in 0..1_000 {
            let [host, high, low, ..] = story.random().to_be_bytes();
            story.syn([198, 18, 9, host].into(), u16::from_be_bytes([high, low]));
        }
    });
    assert_eq!(story.named(), Kind::FewSources);
    let Some(Change::Ended(event)) = story.changes.last() else { panic!() };
    assert_eq!(event.top_prefixes[0].prefix, "198.18.9.0/24");
    assert!(event.top_prefixes[0].share > 0.95 && event.distinct_sources > 230, "{event:#?}");
}

/// The client with this number, of a town with twenty prefixes.
fn townsman(number: u32) -> IpAddr {
    let [_, _, _, host] = number.to_be_bytes();
    [198, 18, (number / 250) as u8, host].into()
}

#[test]
fn five_thousand_clients_who_all_try_twice_are_a_crowd() {
    let mut story = Story::new();
    story.pressed(1, |story| (0..5_000).for_each(|n| story.syn(townsman(n), 1000)));
    // A second later those who got no answer try again.
    story.pressed(4, |story| (0..250).for_each(|n| story.complete(townsman(n), 1000)));
    story.pressed(1, |story| {
        (1_000..5_000).for_each(|n| story.syn(townsman(n), 1000));
        (1_000..5_000).for_each(|n| story.complete(townsman(n), 1000));
    });
    story.pressed(60, |story| story.forged(1));
    assert_eq!(story.end().kind, Kind::Crowd);
}

#[test]
fn five_thousand_clients_at_once_are_a_crowd_from_the_start() {
    let mut story = Story::new();
    story.pressed(1, |story| (0..5_000).for_each(|n| story.syn(townsman(n), 1000)));
    story.pressed(1, |story| (0..5_000).for_each(|n| story.complete(townsman(n), 1000)));
    // Strays on the quiet minute after it are no attack.
    story.pressed(240, |story| story.forged(1));
    assert!(
        !story
            .changes
            .iter()
            .any(|change| matches!(change, Change::Updated(event) if event.kind.is_attack()))
    );
    assert!(!story.traffic().is_attacked);
    assert_eq!(story.named(), Kind::Crowd);
}

#[test]
fn a_crowd_that_grows_and_repeats_every_third_syn_is_a_crowd() {
    let mut story = Story::new();
    let mut waiting: Vec<(IpAddr, u16)> = Vec::new();
    let mut again: std::collections::VecDeque<Vec<(IpAddr, u16)>> = (0..4).map(|_| Vec::new()).collect();
    for step in 0..80u32 {
        waiting.drain(..).for_each(|(source, port)| story.complete(source, port));
        for (source, port) in again.pop_front().unwrap() {
            story.syn(source, port);
            waiting.push((source, port));
        }
        let mut lost = Vec::new();
        for n in 0..step * 25 {
            let (source, port) = (story.client(), story.random() as u16);
            story.syn(source, port);
            if n % 3 == 0 { lost.push((source, port)) } else { waiting.push((source, port)) }
        }
        again.push_back(lost);
        story.step(step > 10);
    }
    assert_eq!(story.named(), Kind::Crowd);
}

#[test]
fn handshakes_from_one_prefix_are_an_attack_by_connections() {
    let mut story = Story::new();
    story.pressed(40, |story| {
        story.clients(10);
        for _ in 0..500 {
            let [host, high, low, ..] = story.random().to_be_bytes();
            let (source, port) = ([198, 18, 9, host].into(), u16::from_be_bytes([high, low]));
            story.syn(source, port);
            story.complete(source, port);
        }
    });
    // The minute after it, with nobody but real clients.
    story.pressed(2_400, |story| story.clients(10));
    assert_eq!(story.named(), Kind::Connections);
}

#[test]
fn a_crowd_does_not_hide_a_flood() {
    let mut story = Story::new();
    story.pressed(40, |story| {
        story.clients(250);
        story.forged(1_250);
    });
    assert_eq!(story.named(), Kind::SpoofedSyn);
}

#[test]
fn many_clients_from_before_do_not_hide_the_first_second_of_a_flood() {
    let mut story = Story::new();
    (0..80).for_each(|_| {
        story.clients(125);
        story.step(false);
    });
    story.pressed(20, |story| {
        story.clients(125);
        story.forged(500);
    });
    assert_eq!(story.named(), Kind::SpoofedSyn);
}

#[test]
fn a_flood_after_a_long_crowd_is_an_attack_and_so_it_stays() {
    let mut story = Story::new();
    story.pressed(400, |story| story.clients(500));
    assert_eq!(story.started().kind, Kind::Crowd);
    story.pressed(60, |story| {
        story.clients(100);
        story.forged(1_000);
    });
    assert!(story.traffic().is_attacked);
    story.pressed(400, |story| story.clients(100));
    assert_eq!(story.end().kind, Kind::SpoofedSyn);
}

#[test]
fn a_slow_flood_is_named_in_spite_of_a_long_calm_after_it() {
    let mut story = Story::new();
    story.pressed(80, |story| {
        story.clients(2);
        story.forged(50);
    });
    story.pressed(1_200, |story| story.clients(50));
    assert_eq!(story.named(), Kind::SpoofedSyn);
}

#[test]
fn sources_in_ipv6_are_judged_by_their_64() {
    let address = |high: u64, low: u64| -> IpAddr {
        std::net::Ipv6Addr::from_bits(0x2001_0db8u128 << 96 | u128::from(high as u32) << 64 | u128::from(low))
            .into()
    };
    let mut spread = Story::new();
    spread.pressed(24, |story| {
        for n in 0..1_000 {
            let (high, low) = (story.random(), story.random());
            story.syn(address(high, low), n);
        }
    });
    assert_eq!(spread.named(), Kind::SpoofedSyn);
    let mut one = Story::new();
    one.pressed(24, |story| {
        for n in 0..1_000 {
            let low = story.random();
            story.syn(address(7, low), n);
        }
    });
    assert_eq!(one.named(), Kind::FewSources);
    let Some(Change::Ended(event)) = one.changes.last() else { panic!() };
    assert_eq!(event.top_prefixes[0].prefix, "2001:db8:0:7::/64");
    assert!(event.distinct_sources > 20_000, "{event:#?}");
}

#[test]
fn an_event_is_named_within_a_second_and_a_quarter_and_settled_after_five() {
    let mut story = Story::new();
    let begin = story.now + STEP;
    let mut moments = Vec::new();
    for _ in 0..40 {
        story.forged(500);
        story.changes.clear();
        story.step(true);
        let now = story.now - begin;
        for change in &story.changes {
            match change {
                Change::Started(event) => {
                    assert_eq!((event.ended, event.totals.syns), (None, 2_500));
                    moments.push(("started", now));
                }
                Change::Settled(_) => moments.push(("settled", now)),
                Change::Updated(_) => assert!(now > Duration::from_secs(1)),
                Change::Ended(_) => panic!("it lasts"),
            }
        }
    }
    assert_eq!(moments, [("started", Duration::from_secs(1)), ("settled", Duration::from_secs(5))]);
}

#[test]
fn events_have_ids_of_their_own_and_short_ones_are_told_of_at_once() {
    let mut story = Story::new();
    let mut ids = Vec::new();
    for _ in 0..3 {
        story.changes.clear();
        story.forged(50);
        story.web().half_open = 77;
        story.step(true);
        assert_eq!(story.changes, [], "too little is known");
        story.web().half_open = 0;
        let event = story.end();
        assert_eq!((event.peak_half_open, event.totals.syns, event.kind), (77, 50, Kind::SpoofedSyn));
        let (second, number) = event.id.split_once('-').unwrap();
        assert_eq!(second.parse::<f64>().unwrap(), event.started.floor());
        ids.push(number.to_owned());
    }
    assert_eq!(ids, ["1", "2", "3"]);
}

#[test]
fn totals_are_what_was_counted_since_the_review_before() {
    let mut story = Story::new();
    story.clients(1_000);
    story.step(false);
    story.pressed(8, |story| {
        story.forged(100);
        let values = &mut story.web().values;
        values.counters.synack_sent += 90;
        values.counters.direct_completed += 3;
        values.counters.half_open_revived += 2;
        values.dropped[0] += 4;
        values.dropped[2] += 3;
    });
    let totals = story.end().totals;
    assert_eq!((totals.syns, totals.cookies_sent, totals.completed, totals.dropped), (800, 720, 40, 56));
}

#[test]
fn an_event_ends_with_its_service() {
    for is_replaced in [true, false] {
        let mut story = Story::new();
        story.pressed(8, |story| story.forged(500));
        if is_replaced {
            story.web().name = "other".to_owned();
        } else {
            story.snapshot.services.clear();
        }
        story.now += STEP;
        let changes = story.detector.review(story.now, &story.snapshot);
        let Some(Change::Ended(event)) = changes.get(1) else { panic!("{changes:?}") };
        assert!(matches!(changes[0], Change::Settled(_)));
        assert_eq!(event.service, "web");
        if is_replaced {
            assert_eq!(story.traffic().service, "other");
            // It is under pressure, too, which is an event of its own.
            story.changes = story.detector.review(story.now + STEP, &story.snapshot);
            assert_eq!(story.changes, []);
        }
    }
}

#[test]
fn every_service_has_traffic_quiet_ones_too() {
    let mut story = Story::new();
    assert_eq!(story.traffic(), &Traffic { service: "web".to_owned(), ..Traffic::default() });
    story.clients(40);
    story.quiet(4);
    let names: Vec<&str> = story.detector.traffic().iter().map(|traffic| traffic.service.as_str()).collect();
    assert_eq!(names, ["web", "mail"]);
    assert_eq!(story.detector.traffic()[1], Traffic { service: "mail".to_owned(), ..Traffic::default() });
    let web = story.traffic();
    assert!(
        !web.is_attacked && web.completed_share == 1.0 && (39..=41).contains(&web.distinct_sources),
        "{web:?}"
    );
    assert!(web.syn_rate > 10.0 && web.completed_rate > 10.0, "{web:?}");
    assert_eq!(story.detector.watches.iter().flatten().count(), 2);
    story.quiet(60);
    let web = story.traffic();
    assert_eq!((web.syn_rate, web.distinct_sources, web.completed_share), (0.0, 0, 0.0));
}

#[test]
fn a_prefix_that_completed_a_handshake_is_known_for_a_day() {
    let mut story = Story::new();
    let [known, other]: [IpAddr; 2] = [[198, 18, 3, 1].into(), [198, 18, 4, 1].into()];
    story.syn(known, 1);
    story.complete(known, 1);
    story.quiet(60);
    story.syn([198, 18, 3, 200].into(), 2);
    story.syn(other, 3);
    story.quiet(4);
    assert_eq!(story.traffic().new_source_share, 0.5);
    story.now += Duration::from_secs(86_400);
    story.quiet(1);
    story.syn(known, 4);
    story.quiet(4);
    assert_eq!(story.traffic().new_source_share, 1.0);
}

#[test]
fn sampling_follows_the_rate_of_all_services() {
    let mut story = Story::new();
    assert_eq!(story.detector.sampling(), 0);
    for (rate, log2) in [(9_999u64, 0), (10_000, 0), (10_004, 1), (20_000, 1), (1_000_000, 7), (0, 0)] {
        story.snapshot.services[0].values.counters.syn_received += rate / 8;
        story.snapshot.services[1].values.counters.syn_received += rate / 4 - rate / 8;
        story.step(false);
        assert_eq!(story.detector.sampling(), log2, "{rate}");
    }
}

#[test]
fn sightings_of_no_service_are_nobody_s() {
    let mut story = Story::new();
    let sighting = Sighting {
        service: LINGERING,
        what: Sighted::Syn,
        source: [198, 18, 0, 1].into(),
        source_port: 1,
        port: 80,
        hop_limit: 64,
        weight_log2: 0,
    };
    story.detector.note(&sighting);
    story.quiet(4);
    assert!(story.detector.traffic().iter().all(|traffic| traffic.distinct_sources == 0));
}

#[test]
fn a_clock_that_is_set_ends_no_event() {
    for leap in [-3_600i64, 3_600] {
        let mut story = Story::new();
        story.pressed(8, |story| story.forged(500));
        story.now = Duration::from_secs(story.now.as_secs().saturating_add_signed(leap));
        story.pressed(24, |story| story.forged(500));
        assert_eq!(story.named(), Kind::SpoofedSyn);
        let Some(Change::Ended(event)) = story.changes.last() else { panic!() };
        assert_eq!(event.totals.syns, 16_000);
        assert!(event.peak_syn_rate < 2_600.0, "{event:?}");
    }
}
