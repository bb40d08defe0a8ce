//! One world with synwall beside the same world on a plain wire.
//!
//! A connection may fail where the network lost its frames until an end gave up, or by a fault of its own TCP, and for no
//! other reason. Chance decides how often the network does, so a world in which synwall fails more often than the wire is
//! played again with other dice until one of the two is ahead.

use super::tally::Tally;
use super::worlds::connection::Cause;
use super::worlds::grid;
use super::worlds::world::{self, Outcome};

/// A world that was played twice.
pub struct Match {
    /// The world in words.
    pub plan: String,
    /// Whatever must not be.
    pub faults: Vec<String>,
}

impl Match {
    /// Plays the world of that number, and adds what came of it to the tally.
    pub fn of(seed: u64, tally: &mut Tally) -> Match {
        let plan = grid::world(seed);
        let outcomes = [true, false].map(|with_engine| world::run(&plan, with_engine, None));
        tally.add(&plan, &outcomes);
        let mut faults = Vec::new();
        for (name, outcome) in ["synwall", "a wire"].iter().zip(&outcomes) {
            faults.extend(outcome.violations.iter().map(|violation| format!("with {name}: {violation}")));
            let unexplained = outcome.failures.iter().filter(|failure| failure.cause.is_none());
            faults.extend(unexplained.map(|failure| format!("with {name}, failed: {}", failure.story)));
        }
        let loses_little = plan.network.loss.max(outcomes[1].loss) < MUCH;
        let [engine, wire] = outcomes.map(|outcome| lost(&outcome));
        if engine > wire && loses_little && is_worse(&plan, engine, wire) {
            faults.push("more connections are lost with synwall than on the wire".into());
        }
        Match { plan: plan.in_words(), faults }
    }
}

/// Connections that the network's losses ended.
fn lost(outcome: &Outcome) -> u32 {
    outcome.failures.iter().filter(|failure| failure.cause == Some(Cause::Loss)).count() as u32
}

/// Whether a world ends more connections with synwall than without, with whatever dice.
fn is_worse(plan: &grid::World, engine: u32, wire: u32) -> bool {
    let mut sums = [engine, wire];
    for dice in 1..=MOST_DICE {
        let other = grid::World { dice, ..plan.clone() };
        for (sum, with_engine) in sums.iter_mut().zip([true, false]) {
            *sum += lost(&world::run(&other, with_engine, None));
        }
        if sums[0] <= sums[1] {
            return false;
        }
    }
    true
}

/// Loss on a link, of a million frames, from which on synwall may lose more than the wire in a single world: there chance decides.
/// What counts is what the links have lost: in bursts, 5 % of the dice are up to 18 % of the frames.
const MUCH: u64 = 100_000;
const MOST_DICE: u64 = 64;
