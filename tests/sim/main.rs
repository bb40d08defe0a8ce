//! Clients and servers with TCPs of their own, on both sides of the real engine, on a virtual clock and links that lose,
//! reorder, repeat and bend frames. docs/simulation.md says how to run and replay it.

#![allow(unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests are tests")]

mod worlds;

use std::env;

use worlds::grid::{self, CELLS, LOSS};
use worlds::world::{self, Outcome};

/// Worlds in a run of scale 1, whole turns of the grid.
const WORLDS: u64 = CELLS * 8 * 9;
/// In a million: by so much may connections fail more often than on a plain wire.
const TOLERANCE: f64 = 0.001;

/// Sums over worlds.
#[derive(Default)]
struct Total {
    tried: u64,
    opened: u64,
    completed: u64,
    transfers: u64,
    frames: u64,
}

impl Total {
    fn add(&mut self, outcome: &Outcome) {
        self.tried += outcome.tried;
        self.opened += outcome.opened;
        self.completed += outcome.completed;
        self.transfers += outcome.transfers;
        self.frames += outcome.frames;
    }

    fn rate(&self) -> f64 {
        self.completed as f64 / self.tried.max(1) as f64
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[test]
fn connections_survive_the_grid_as_well_as_on_a_plain_wire() {
    if let Some(seed) = number("SIM_SEED") {
        return replay(seed);
    }
    let first = number("SIM_FIRST").unwrap_or(0);
    let worlds = number("SIM_WORLDS").unwrap_or(WORLDS * number("SIM_SCALE").unwrap_or(1));
    let mut totals: Vec<[Total; 2]> = LOSS.iter().map(|_| Default::default()).collect();
    let mut broken = Vec::new();
    for seed in first..first + worlds {
        let plan = grid::world(seed);
        let level = (seed % LOSS.len() as u64) as usize;
        for (with_engine, total) in [true, false].iter().zip(&mut totals[level]) {
            let outcome = world::run(&plan, *with_engine, None);
            total.add(&outcome);
            if *with_engine && !outcome.violations.is_empty() {
                eprintln!("SIM_SEED={seed} {:?} IPv{}", plan.network, if plan.v6 { 6 } else { 4 });
                outcome.violations.iter().take(3).for_each(|violation| eprintln!("    {violation}"));
                broken.push(seed);
            }
        }
    }
    report(&totals);
    assert!(broken.is_empty(), "{} worlds went wrong: SIM_SEED={broken:?}", broken.len());
    compare(&totals);
}

fn report(totals: &[[Total; 2]]) {
    println!("| loss a link | middle | connections | opened | transfers | completed | frames |");
    println!("|---|---|---|---|---|---|---|");
    for (loss, pair) in LOSS.iter().zip(totals) {
        for (name, total) in ["synwall", "wire"].iter().zip(pair) {
            let Total { tried, opened, transfers, frames, .. } = total;
            let (loss, rate) = (loss / 10_000, total.rate() * 100.0);
            println!("| {loss} % | {name} | {tried} | {opened} | {transfers} | {rate:.3} % | {frames} |");
        }
    }
}

/// Over the whole grid the rate must not be worse than the wire's by more than the tolerance; at a level of loss chance
/// is given three standard deviations more.
fn compare(totals: &[[Total; 2]]) {
    let mut all: [Total; 2] = Default::default();
    for pair in totals {
        for (sum, part) in all.iter_mut().zip(pair) {
            sum.tried += part.tried;
            sum.completed += part.completed;
        }
        let [engine, wire] = pair;
        let chance = 3.0 * (2.0 * wire.rate() * (1.0 - wire.rate()) / wire.tried.max(1) as f64).sqrt();
        assert!(engine.rate() >= wire.rate() - TOLERANCE - chance, "{} {}", engine.rate(), wire.rate());
    }
    let [engine, wire] = &all;
    println!("all: {:.4} % with synwall, {:.4} % on the wire", engine.rate() * 100.0, wire.rate() * 100.0);
    assert!(engine.rate() >= wire.rate() - TOLERANCE, "{} {}", engine.rate(), wire.rate());
}

/// Prints a world's packets in packetdrill's notation: of all connections, or of the one that SIM_CONNECTION names.
fn replay(seed: u64) {
    let plan = grid::world(seed);
    let connection = number("SIM_CONNECTION").map(|number| number as usize);
    println!("{:?} IPv{}", plan.network, if plan.v6 { 6 } else { 4 });
    for (number, plan) in plan.plans.iter().enumerate() {
        if connection.is_none_or(|wanted| wanted == number) {
            println!("{number}: {plan:?}");
        }
    }
    let outcome = world::run(&plan, env::var_os("SIM_WIRE").is_none(), Some(connection));
    outcome.failures.iter().for_each(|failure| println!("failed: {failure}"));
    if let Some(snapshot) = &outcome.snapshot {
        println!("{:?}", snapshot.services[0].values.counters);
    }
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
}
