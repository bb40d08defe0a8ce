//! Worlds with what the richer ones have not: ECN, routers with narrow links that say so, clients that reboot or whose tuple a
//! NAT gives to another, servers that refuse attackers, tables that many networks fill, flows whose ends a fast path keeps.

use std::time::Duration;

use super::attack::{Attacker, Then, Treatment};
use super::grid::{Plan, Stack, World};
use super::random::Random;
use super::rich;
use synwall::engine::Side;

/// Makes a world of the grid a wider one: in five of six there is an attacker, and in the others the network is rough.
pub fn widen(world: &mut World, random: &mut Random) {
    world.extra.is_spread = random.below(2) == 0;
    world.extra.workers = random.pick(&[1, 2, 4]);
    // Of each level of loss one in six, with all kinds of reordering.
    if (world.seed + world.seed / 6).is_multiple_of(6) {
        rich::roughen(world, random);
        world.plans.iter_mut().for_each(|plan| plan.stacks = [Stack::Own; 2]);
    } else {
        rich::attack(world, random);
        refuse_or_fill(world, random);
    }
    notify_of_congestion(world, random);
    if random.below(2) == 0 {
        let mtus = if world.v6 { [1_280, 1_400] } else { [576, 1_400] };
        world.extra.narrow = Some((random.pick(&Side::ALL), random.pick(&mtus)));
    }
    if random.below(2) == 0 {
        world.extra.reboots = reboots(&world.plans, random);
    }
    world.extra.is_lent = random.below(2) == 0;
}

/// A server whose packet filter answers a botnet's SYNs, or a botnet of so many networks that none of them reaches its share.
fn refuse_or_fill(world: &mut World, random: &mut Random) {
    let attack = &mut world.extra.attacks[0];
    let Attacker::Botnet { networks, then } = &mut attack.who else { return };
    match random.below(3) {
        0 => {
            // Three networks that are refused before any is served close a port for all, by design.
            *networks = (*networks).min(2);
            world.extra.treatment = random.pick(&[Treatment::Resets, Treatment::Rejects]);
        }
        1 => {
            // As many in ten seconds as the table holds: for so long a silent connection is not ended for another.
            (*networks, *then) = (250, Then::Silence);
            (attack.frames, attack.pause) = (2_400, Duration::from_millis(10));
            (world.extra.has_small_tables, world.extra.backlog) = (true, usize::MAX);
            world.extra.treatment = Treatment::Serves;
            world.plans.iter_mut().for_each(|plan| plan.start *= 3);
        }
        _ => {}
    }
}

/// What the configuration knows of it is true, or that it does not know.
fn notify_of_congestion(world: &mut World, random: &mut Random) {
    let server = random.below(2) == 0;
    for plan in &mut world.plans {
        [plan.settings[0].ecn, plan.settings[1].ecn] = [random.below(2) == 0, server];
    }
    world.extra.server.ecn = server;
    world.told.ecn = server && random.below(2) == 0;
    world.network.marking = random.pick(&[0, 50_000, 300_000]);
}

/// Of one client in four: while it connects, transfers or closes.
fn reboots(plans: &[Plan], random: &mut Random) -> Vec<(Duration, usize)> {
    let mut reboots = Vec::new();
    for (number, plan) in plans.iter().enumerate() {
        if random.below(4) == 0 {
            let after = Duration::from_micros(u64::from(random.octave(100, 10_000_000)));
            reboots.push((plan.start + after, number));
        }
    }
    reboots
}
