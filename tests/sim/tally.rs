//! Sums over worlds, for each level of loss, with synwall and on the wire.

use std::fmt;

use super::worlds::connection::Cause;
use super::worlds::grid::{self, LOSS};
use super::worlds::world::Outcome;

/// What came of worlds at one level of loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub tried: u64,
    pub opened: u64,
    pub completed: u64,
    pub transfers: u64,
    /// Ended by the network's losses.
    pub lost: u64,
    /// Ended by a fault of an end's TCP.
    pub faulty: u64,
}

/// With synwall and on the wire, for each level of loss.
#[derive(Debug, Default)]
pub struct Tally {
    pub levels: [[Counts; 2]; LOSS.len()],
    frames: u64,
    worlds: u64,
    /// Worlds with an attacker.
    attacked: u64,
    /// Connections that their client forgot, frames too big for an honest router, frames that were marked.
    seldom: [u64; 3],
}

impl Tally {
    pub fn add(&mut self, plan: &grid::World, outcomes: &[Outcome; 2]) {
        self.worlds += 1;
        self.attacked += u64::from(!plan.extra.attacks.is_empty());
        let [engine, _] = outcomes;
        for (sum, count) in self.seldom.iter_mut().zip([engine.forgotten, engine.too_big, engine.marked]) {
            *sum += count;
        }
        let level = LOSS.iter().position(|loss| *loss == plan.network.loss).expect("a level of the grid");
        for (counts, outcome) in self.levels[level].iter_mut().zip(outcomes) {
            let failed =
                |cause| outcome.failures.iter().filter(|failure| failure.cause == Some(cause)).count() as u64;
            counts.tried += outcome.tried;
            counts.opened += outcome.opened;
            counts.completed += outcome.completed;
            counts.transfers += outcome.transfers;
            counts.lost += failed(Cause::Loss) + failed(Cause::LateReset);
            counts.faulty += failed(Cause::Host);
            self.frames += outcome.frames;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} worlds, {} of them attacked, {} frames", self.worlds, self.attacked, self.frames)?;
        let [forgotten, too_big, marked] = self.seldom;
        writeln!(f, "{forgotten} connections forgotten, {too_big} frames too big, {marked} marked")?;
        writeln!(
            f,
            "| loss a link | middle | connections | opened | completed | transfers | lost | own fault |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for (loss, pair) in LOSS.iter().zip(&self.levels) {
            for (name, counts) in ["synwall", "wire"].iter().zip(pair) {
                let Counts { tried, opened, completed, transfers, lost, faulty } = counts;
                let loss = loss / 10_000;
                writeln!(
                    f,
                    "| {loss} % | {name} | {tried} | {opened} | {completed} | {transfers} | {lost} | {faulty} |"
                )?;
            }
        }
        Ok(())
    }
}
