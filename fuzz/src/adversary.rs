//! Attackers of any kind against a few innocents: what must hold in `tests/adversary` holds whatever they do.
//!
//! The octets choose the innocents, the mode, the size of the tables and up to three attackers with all that they know and do.

#[path = "../../tests/sim/worlds/mod.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, clippy::all, reason = "it is the simulation's")]
mod worlds;

use std::time::Duration;

use arbitrary::{Arbitrary, Result, Unstructured};
use synwall::engine::Side;

use worlds::attack::{Attack, Attacker, Knowledge, Then, Treatment};
use worlds::grid::{self, Stack, World};
use worlds::world;

/// Plays the world that `octets` stand for.
pub fn run(octets: &[u8]) {
    let Ok(plan) = plan(&mut Unstructured::new(octets)) else { return };
    let outcome = world::run(&plan, true, None);
    assert!(outcome.violations.is_empty(), "{:#?} in {:?}", outcome.violations, plan.extra);
    assert!(outcome.failures.is_empty(), "{:#?} in {:?}", outcome.failures, plan.extra);
}

fn plan(input: &mut Unstructured<'_>) -> Result<World> {
    // The worlds of the grid without loss and disorder: every 36th.
    let mut plan = grid::world(u64::from(u16::arbitrary(input)?) * 36);
    (plan.network.corruption, plan.network.delay) = (0, Duration::from_millis(5));
    plan.plans.truncate(CLIENTS);
    plan.plans.iter_mut().for_each(|plan| (plan.stacks, plan.generations) = ([Stack::Own; 2], 1));
    plan.is_adaptive = false;
    plan.extra.is_spread = bool::arbitrary(input)?;
    plan.extra.has_small_tables = bool::arbitrary(input)?;
    plan.extra.workers = input.int_in_range(1..=4)?;
    plan.extra.treatment = *input.choose(&[Treatment::Serves, Treatment::Ignores])?;
    for _ in 0..input.int_in_range(1..=3)? {
        plan.extra.attacks.push(attack(input)?);
    }
    let is_impostor = |attack: &Attack| matches!(attack.who, Attacker::Impostor { .. });
    // An impostor may begin a connection before its victim does, which then needs a second SYN.
    plan.extra.is_prompt = !plan.extra.attacks.iter().any(is_impostor);
    Ok(plan)
}

fn attack(input: &mut Unstructured<'_>) -> Result<Attack> {
    let knows = *input.choose(&[Knowledge::Tuple, Knowledge::Window])?;
    let who = match input.int_in_range(0..=4)? {
        0 => Attacker::Flood { has_options: bool::arbitrary(input)? },
        1 => Attacker::Forger,
        2 => Attacker::Impostor { of: *input.choose(&Side::ALL)?, knows },
        3 => Attacker::Router { knows },
        _ => Attacker::Botnet {
            networks: input.int_in_range(1..=4)?,
            then: *input.choose(&[Then::Silence, Then::Reset, Then::Finish, Then::Dribble, Then::Again])?,
        },
    };
    Ok(Attack {
        who,
        start: Duration::from_millis(u64::from(u8::arbitrary(input)?) * 16),
        frames: input.int_in_range(1..=600)?,
        pause: Duration::from_micros(input.int_in_range(200..=20_000)?),
    })
}

const CLIENTS: usize = 6;
