//! Ten thousand random frames, through an engine alone and through the program with an engine behind it.

use synwall::wire::pretty::Pretty;

use crate::flows;
use crate::kinds::{FEW_TARGETS, KINDS, MANY_TARGETS};
use crate::maker::Maker;
use crate::packets::frames::hex;
use crate::packets::vector::side_name;
use crate::world::{FEW, MANY, RULES, World};

/// `XDP_SEED` repeats a failure, `XDP_FRAMES` makes a longer run.
fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().expect("a number"))
}

/// Keeps something to aim at.
fn refresh(maker: &mut Maker, world: &mut World) {
    let is_alive = |live: &flows::Live, world: &World| live.place(world).is_some();
    maker.flows.retain(|live| is_alive(live, world));
    if maker.flows.len() >= FLOWS {
        let at = maker.random.below(maker.flows.len());
        maker.flows.remove(at);
    }
    let opened =
        if maker.random.one_in(4) { flows::open_direct(maker, world) } else { flows::open(maker, world) };
    if let Some(live) = opened {
        let list = if live.is_edited(world) { &mut maker.edited } else { &mut maker.flows };
        list.push(live);
    }
    let excess = maker.edited.len().saturating_sub(FLOWS);
    maker.edited.drain(..excess);
    let cookies: Vec<flows::Live> = (0..3).filter_map(|_| flows::challenged(maker, world)).collect();
    maker.cookies.extend(cookies);
    let excess = maker.pending.len().saturating_sub(FLOWS);
    maker.pending.drain(..excess);
}

fn run(world: &mut World, mut maker: Maker, seed: u64) {
    let mut counts = vec![(0usize, 0usize); KINDS.len()];
    for _ in 0..8 {
        refresh(&mut maker, world);
    }
    for round in 0..from_environment("XDP_FRAMES", 10_000) {
        if round % 50 == 0 {
            refresh(&mut maker, world);
        }
        let (kind, side, frame) = maker.frame(world);
        let passed = world.send(side, &frame).unwrap_or_else(|what| {
            let (name, from) = (KINDS[kind].name, side_name(side));
            panic!(
                "seed {seed}, frame {round}, {name}: {what}\n  {from} < {}\n    {}",
                Pretty(&frame),
                hex(&frame)
            )
        });
        counts[kind].0 += 1;
        counts[kind].1 += usize::from(passed.is_up);
    }
    println!("seed {seed}");
    for (kind, (all, up)) in KINDS.iter().zip(&counts) {
        println!("{:26} {all:6} frames, {up:6} left to the engine", kind.name);
    }
    for (kind, (all, up)) in KINDS.iter().zip(&counts) {
        assert!(*all > 0, "no {}", kind.name);
        // One may have a checksum that looks as if it were left to the device.
        assert!(up * 100 <= all * kind.most_up + 100, "{}: {up} of {all} left to the engine", kind.name);
    }
}

#[test]
fn random_frames_fare_alike_among_many_services() {
    let seed = from_environment("XDP_SEED", 1);
    run(&mut World::new(MANY, &RULES), Maker::new(seed, &MANY_TARGETS), seed);
}

#[test]
fn random_frames_fare_alike_among_few_services() {
    let seed = from_environment("XDP_SEED", 2);
    run(&mut World::new(FEW, &RULES), Maker::new(seed, &FEW_TARGETS), seed);
}

/// Connections that random frames aim at.
const FLOWS: usize = 24;
