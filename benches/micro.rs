//! What one packet costs in each part of the core: `cargo bench --bench micro`. Minting and checking a cookie; the tables,
//! small and large; a frame through the whole engine, translation included.

#![allow(missing_docs, reason = "criterion's macro declares a public function")]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use synwall::cookie::{KeyRing, MasterKey, Offer, Tuple, check, mint};
use synwall::engine::policy::{Budgets, Limits, Mode, Policy, PortSet, Prefix, Service};
use synwall::engine::{Engine, Keys, Outbox, Shared, Side, Verdict};
use synwall::table::budget::PrefixBudgets;
use synwall::table::capped::{CappedMap, Caps, Grouped, Refused};
use synwall::table::flow_key::{FlowKey, TableHasher};
use synwall::table::timers::Timers;
use synwall::time::{Instant, WallClock};
use synwall::wire::buffer::FrameBuf;
use synwall::wire::build::SegmentSpec;
use synwall::wire::ethernet::LinkHeader;
use synwall::wire::frame::{self, Parsed};
use synwall::wire::seq::SeqNumber;
use synwall::wire::tcp::{Flags, Segment};
use synwall::wire::tcp_options::SynOptions;

/// Minting and checking, per family; a forged cookie must not cost more than a genuine one.
fn cookie(c: &mut Criterion) {
    let mut group = c.benchmark_group("cookie");
    let ring = KeyRing::at(&MasterKey::from_bytes([0x5c; 32]), 55_000_000);
    let offer = Offer { mss: 1460, wscale: Some(7), sack: true, timestamps: true, ecn: false };
    let (iss, now) = (SeqNumber(4_294_957_295), Duration::from_secs(1_760_000_000));
    for (family, tuple) in
        [("ipv4", tuple([192, 0, 2, 1], [198, 51, 100, 2])), ("ipv6", tuple([0x20; 16], [0xfd; 16]))]
    {
        let minted = mint(&ring, &tuple, iss, &offer, now);
        let isn = minted.isn;
        group.bench_function(format!("mint/{family}"), |b| {
            b.iter(|| mint(&ring, black_box(&tuple), black_box(iss), black_box(&offer), now));
        });
        group.bench_function(format!("check-genuine/{family}"), |b| {
            b.iter(|| check(&ring, black_box(&tuple), black_box(iss), black_box(isn), Some(minted.tsval)));
        });
        group.bench_function(format!("check-forged/{family}"), |b| {
            b.iter(|| {
                check(&ring, black_box(&tuple), black_box(iss), black_box(isn.add(1)), Some(minted.tsval))
            });
        });
    }
    group.finish();
}

fn tuple<A: Into<std::net::IpAddr>>(source: A, destination: A) -> Tuple {
    Tuple {
        source: source.into(),
        destination: destination.into(),
        source_port: 40_000,
        destination_port: 443,
    }
}

/// The tables with a thousand entries and with a million: what grows must not cost more but for the memory's caches.
fn table(c: &mut Criterion) {
    let mut group = c.benchmark_group("table");
    for (name, len) in [("thousand", 1_000), ("million", 1_000_000)] {
        map(&mut group, name, len);
        let (now, mut timers) = (Instant::ZERO, Timers::new(Instant::ZERO));
        for number in 0..len {
            timers.arm(key(number), (), now, now.after(Duration::from_secs(60)));
        }
        group.bench_function(format!("timer-armed-and-due/{name}"), |b| {
            b.iter(|| {
                timers.arm(key(len), (), now, now);
                timers.pop_due(now).expect("it is due")
            });
        });
    }
    let (budgets, mut number) = (PrefixBudgets::new(TableHasher::new([1, 2])), 0);
    group.bench_function("prefix-budget", |b| {
        b.iter(|| {
            number = (number + 1) % (1 << 24);
            budgets.take(key(number).client(), 1, Instant::from_nanos(1), NonZeroU32::new(10_000))
        });
    });
    group.finish();
}

fn map(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, len: u32) {
    let map = CappedMap::new(TableHasher::new([1, 2]), 1, 1);
    let caps = |all| Caps { all, kind: all, owner: all, group: all, share: all };
    let room = caps(1 << 21);
    for number in 0..len {
        map.admit(key(number), Entry([0; 16]), room).expect("room");
    }
    // Scattered, so that each look-up meets another entry.
    let mut state = 0_u32;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(state) * u64::from(len)) >> 32) as u32
    };
    group.bench_function(format!("found/{name}"), |b| {
        b.iter(|| map.with(&key(next()), |entry| entry.0[0] += 1).expect("an entry"));
    });
    group.bench_function(format!("not-found/{name}"), |b| {
        b.iter(|| assert!(!map.contains(&key(len + next()))));
    });
    group.bench_function(format!("admitted-and-removed/{name}"), |b| {
        b.iter(|| {
            let key = key(len + next());
            map.admit(key, Entry([0; 16]), room).expect("room");
            map.remove_if(&key, |_| true)
        });
    });
    group.bench_function(format!("refused-when-full/{name}"), |b| {
        let full = caps(len as usize);
        b.iter(|| assert_eq!(map.admit(key(len + next()), Entry([0; 16]), full), Err(Refused::Full)));
    });
}

/// As large as a flow.
struct Entry([u64; 16]);

impl Grouped for Entry {
    fn group(&self) -> usize {
        0
    }

    fn owner(&self) -> usize {
        0
    }

    fn share(&self) -> u16 {
        0
    }
}

fn key(number: u32) -> FlowKey {
    let client = Ipv4Addr::from(0x0a00_0000 + number);
    FlowKey::new(client.into(), 40_000, [198, 18, 255, 2].into(), 443)
}

/// The engine on one frame: a SYN answered, a forged ACK refused, a segment translated, a frame that is not ours.
fn engine(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    let mut bench = Bench::new();
    let iss = SeqNumber(4_294_957_295);
    let syn = SegmentSpec {
        seq: iss,
        flags: Flags::SYN,
        options: SynOptions { mss: Some(1460), wscale: Some(7), sack: true, timestamps: Some((1, 0)) },
        ..spec(Side::Client)
    };
    let (_, syn_ack) = bench.handle(Side::Client, &write(&syn)).pop().expect("a SYN-ACK");
    let (cookie_iss, cookie_ts) = told(&syn_ack);
    let timestamps = |echo| SynOptions { timestamps: Some((2, echo)), ..SynOptions::default() };
    let ack = SegmentSpec {
        seq: iss.add(1),
        ack: Some(cookie_iss.add(1)),
        options: timestamps(cookie_ts),
        ..spec(Side::Client)
    };
    bench.handle(Side::Client, &write(&ack));
    let answer = SegmentSpec { seq: SeqNumber(77), ack: Some(iss.add(1)), ..syn };
    // Its answer to the SYN, and to the second.
    bench.handle(Side::Server, &write(&swap(answer)));
    bench.handle(Side::Server, &write(&swap(answer)));
    let data = SegmentSpec {
        seq: SeqNumber(78),
        ack: Some(iss.add(1)),
        options: timestamps(2),
        payload: &[7; 1400],
        ..spec(Side::Server)
    };
    let forged = SegmentSpec { source_port: 40_001, ..ack };
    let foreign = SegmentSpec { destination_port: 81, ..syn };
    for (name, side, frame) in [
        ("syn-answered", Side::Client, write(&syn)),
        ("forged-ack-refused", Side::Client, write(&forged)),
        ("segment-translated-to-server", Side::Client, write(&ack)),
        ("segment-translated-to-client", Side::Server, write(&data)),
        ("foreign-forwarded", Side::Client, write(&foreign)),
    ] {
        group.bench_function(name, |b| b.iter(|| bench.run(side, black_box(&frame))));
    }
    group.finish();
}

/// An engine with one service.
struct Bench {
    engine: Engine,
    frame: FrameBuf,
    out: Outbox,
}

impl Bench {
    fn new() -> Bench {
        let mut ports = PortSet::empty();
        ports.insert_range(80, 80);
        let service = Service {
            name: "web".into(),
            prefix: Prefix::host([198, 18, 255, 2].into()),
            ports,
            mode: Mode::Always,
            max_half_open: 1_000,
            // The clock of a benchmark stands still.
            budgets: Budgets {
                synack: None,
                syn_per_source: None,
                connections_per_source: None,
                backend_syn: None,
                reset: None,
            },
            ..Service::default()
        };
        let policy = Policy::new(vec![service], Limits::default(), 1500).expect("one service");
        let shared = Arc::new(Shared::new(policy, 1, [1, 2]));
        let clock = WallClock { at: Instant::ZERO, unix: Duration::from_secs(1_760_000_000) };
        shared.set_keys(Keys { ring: KeyRing::at(&MasterKey::from_bytes([7; 32]), 55_000_000), clock });
        Bench { engine: Engine::new(shared, 0), frame: FrameBuf::new(), out: Outbox::new() }
    }

    fn run(&mut self, side: Side, frame: &[u8]) -> Verdict {
        self.out.clear();
        self.frame.set_bytes(frame);
        self.engine.handle_frame(Instant::from_nanos(1), side, &mut self.frame, &mut self.out)
    }

    fn handle(&mut self, side: Side, frame: &[u8]) -> Vec<(Side, Vec<u8>)> {
        self.run(side, frame);
        self.out.frames().map(|(side, frame)| (side, frame.bytes().to_vec())).collect()
    }
}

fn spec<'a>(side: Side) -> SegmentSpec<'a> {
    let client = SegmentSpec {
        link: LinkHeader::of(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0], 14),
        source: [198, 18, 0, 1].into(),
        destination: [198, 18, 255, 2].into(),
        hop_limit: 64,
        flow_label: 0,
        source_port: 40_000,
        destination_port: 80,
        seq: SeqNumber(0),
        ack: None,
        flags: Flags::default(),
        window: 502,
        urgent: None,
        options: SynOptions::default(),
        payload: &[],
    };
    if side == Side::Client { client } else { swap(client) }
}

fn swap(spec: SegmentSpec<'_>) -> SegmentSpec<'_> {
    SegmentSpec {
        link: spec.link.reversed(),
        source: spec.destination,
        destination: spec.source,
        source_port: spec.destination_port,
        destination_port: spec.source_port,
        ..spec
    }
}

fn write(spec: &SegmentSpec<'_>) -> Vec<u8> {
    let mut buffer = vec![0; spec.room()];
    let len = spec.write(&mut buffer);
    buffer.truncate(len);
    buffer
}

fn told(frame: &[u8]) -> (SeqNumber, u32) {
    let Parsed::Tcp(layout) = frame::parse(frame) else { return Default::default() };
    let segment = Segment::new(frame, layout);
    (segment.seq(), segment.options().timestamps().map_or(0, |(value, _)| value))
}

criterion_group!(benches, cookie, table, engine);
criterion_main!(benches);
