//! A world of innocents on calm links, with attackers, and what must hold in it.

use std::time::Duration;

use super::worlds::attack::Attack;
use super::worlds::grid::{self, Plan, Stack, World};
use super::worlds::world::{self, Outcome};

/// How the service is defended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Always,
    Adaptive,
}

/// What came of a world with its attackers, and in peace.
pub struct Siege {
    pub attacked: Outcome,
    pub peaceful: Outcome,
}

/// Plays such a world, over IPv4 and IPv6.
pub fn besieged(mode: Mode, attacks: Vec<Attack>, change: impl Fn(&mut World)) -> Vec<Siege> {
    let play = |v6| {
        let mut world = calm(mode, v6);
        world.extra.attacks.clone_from(&attacks);
        change(&mut world);
        let peaceful =
            World { extra: grid::Extra { attacks: Vec::new(), ..world.extra.clone() }, ..world.clone() };
        Siege { attacked: world::run(&world, true, None), peaceful: world::run(&peaceful, true, None) }
    };
    [false, true].map(play).into()
}

/// Innocents of 32 networks, each with one connection, on links that lose nothing.
fn calm(mode: Mode, v6: bool) -> World {
    let mut world = grid::world(if v6 { CALM_V6 } else { CALM_V4 });
    assert_eq!((world.v6, world.network.loss, world.network.reorder), (v6, 0, 0));
    (world.network.corruption, world.network.delay) = (0, Duration::from_millis(5));
    world.is_adaptive = mode == Mode::Adaptive;
    world.plans.iter_mut().for_each(plain);
    (world.extra.is_spread, world.extra.is_prompt) = (true, true);
    world
}

fn plain(plan: &mut Plan) {
    (plan.stacks, plan.generations) = ([Stack::Own; 2], 1);
}

pub fn assert_unharmed(sieges: &[Siege]) {
    for Siege { attacked, peaceful } in sieges {
        assert!(attacked.violations.is_empty(), "{:#?}", attacked.violations);
        assert!(attacked.failures.is_empty(), "{:#?}", attacked.failures);
        assert_eq!((attacked.tried, attacked.completed), (peaceful.tried, peaceful.completed));
        let (now, then) = (attacked.promises.unwrap(), peaceful.promises.unwrap());
        assert_eq!((now.server, now.wscale), (then.server, then.wscale), "offered as in peace");
    }
}

const CALM_V4: u64 = 0;
const CALM_V6: u64 = 36;
