//! Worlds with what those of the grid have not: bursts, links that differ, long delays, little bandwidth, several workers,
//! reloads, restarts, networks of clients, and attackers.

use std::time::Duration;

use super::attack::{Attack, Attacker, Knowledge, Then, Treatment};
use super::grid::{Plan, Stack, World};
use super::random::Random;
use synwall::engine::Side;

/// Makes a world of the grid a richer one: in two of three there is an attacker.
pub fn enrich(world: &mut World, random: &mut Random) {
    world.extra.is_spread = random.below(2) == 0;
    world.extra.workers = random.pick(&[1, 2, 4]);
    if world.seed.is_multiple_of(3) {
        roughen(world, random);
    } else {
        attack(world, random);
    }
}

pub(super) fn roughen(world: &mut World, random: &mut Random) {
    let network = &mut world.network;
    network.burst = random.pick(&[Duration::ZERO, Duration::from_millis(20), Duration::from_millis(200)]);
    if !network.burst.is_zero() {
        network.loss = network.loss.min(50_000);
    }
    network.delay = random.pick(&[network.delay, Duration::from_millis(120), Duration::from_millis(250)]);
    if random.below(2) == 0 {
        network.shares = [(); 2].map(|()| [(); 2].map(|()| random.pick(&[0, 20, 100, 100, 150])));
    }
    network.bandwidth = random.pick(&[None, None, Some(125_000), Some(1_250_000)]);
    // A server's timestamps of which the configuration does not know.
    world.told.timestamps &= random.below(3) != 0;
    let mut moments = |most: u64| -> Vec<Duration> {
        (0..random.below(most)).map(|_| random.duration(Duration::from_secs(12))).collect()
    };
    world.extra.reloads = moments(3);
    // A handshake that was let through does not outlive a restart (docs/simulation.md).
    if !world.is_adaptive && world.extra.reloads.is_empty() {
        world.extra.restarts = moments(3);
    }
}

/// On links that lose nothing, so that whatever happens to an innocent is the attacker's doing.
pub(super) fn attack(world: &mut World, random: &mut Random) {
    let network = &mut world.network;
    (network.loss, network.corruption) = (0, 0);
    let is_calm = random.below(2) == 0;
    if is_calm {
        (network.reorder, network.duplication) = (0, 0);
    }
    world.extra.backlog = random.pick(&[usize::MAX, 1_024, 128]);
    world.extra.has_small_tables = random.below(2) == 0;
    let who = attacker(random);
    world.extra.treatment = match who {
        Attacker::Botnet { .. } => random.pick(&[Treatment::Serves, Treatment::Ignores]),
        _ => Treatment::Serves,
    };
    let pause = Duration::from_micros(u64::from(random.octave(500, 20_000)));
    let lasts = Duration::from_secs(8);
    let frames = (lasts.as_micros() / pause.as_micros()) as u32;
    world.extra.attacks = vec![Attack { who, start: random.duration(Duration::from_secs(2)), frames, pause }];
    // An impostor may begin a connection before its victim does.
    world.extra.is_prompt = is_calm && !matches!(who, Attacker::Impostor { .. });
    world.plans.iter_mut().for_each(|plan| make_plain(plan, world.extra.is_prompt));
}

fn attacker(random: &mut Random) -> Attacker {
    let knows = random.pick(&[Knowledge::Tuple, Knowledge::Window]);
    match random.below(8) {
        0 => Attacker::Flood { has_options: random.below(2) == 0 },
        1 => Attacker::Forger,
        2 | 3 => Attacker::Impostor { of: random.pick(&Side::ALL), knows },
        4 => Attacker::Router { knows },
        _ => Attacker::Botnet {
            networks: random.pick(&[1, 2, 4]),
            then: random.pick(&[Then::Silence, Then::Reset, Then::Finish, Then::Dribble, Then::Again]),
        },
    }
}

/// One connection of the simulation's own TCP, which has no faults and defends itself as RFC 5961 says.
fn make_plain(plan: &mut Plan, is_prompt: bool) {
    plan.stacks = [Stack::Own; 2];
    if is_prompt {
        plan.generations = 1;
    }
}
