//! Attackers against innocents, on a virtual clock: the worlds of `tests/sim` on links that lose nothing, so that whatever
//! happens to an innocent is the attacker's doing. The language of attackers is `worlds/attack.rs`.
//!
//! In each story every innocent connects at its first SYN, all of its octets come, it is offered what it would be offered in
//! peace, no SYN of one who has not shown its address reaches a server that is challenged for, and in the end no table holds
//! anything.

#![allow(unreachable_pub, missing_docs, dead_code)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests are tests")]

mod besieged;
#[path = "../sim/worlds/mod.rs"]
mod worlds;

use std::time::Duration;

use besieged::{Mode, assert_unharmed, besieged};
use synwall::engine::Side;
use worlds::attack::{Attack, Attacker, Knowledge, Then, Treatment};
use worlds::grid::World;

/// Frames that an attacker sends at that rate for eight seconds.
fn attack(who: Attacker, rate: u32) -> Attack {
    Attack {
        who,
        start: Duration::from_millis(500),
        frames: rate * 8,
        pause: Duration::from_nanos(1_000_000_000 / u64::from(rate)),
    }
}

#[test]
fn a_flood_of_forged_syns_harms_no_client() {
    for (mode, has_options) in [(Mode::Always, true), (Mode::Always, false)] {
        let attack = attack(Attacker::Flood { has_options }, 1_000);
        assert_unharmed(&besieged(mode, vec![attack], |_| {}));
    }
}

/// Its own network's SYNs are forged by the thousand.
#[test]
fn a_flood_in_the_name_of_its_own_network_harms_no_client() {
    let attack = attack(Attacker::Forger, 1_000);
    assert_unharmed(&besieged(Mode::Always, vec![attack], |world| world.extra.is_spread = false));
}

#[test]
fn an_impostor_who_knows_the_tuple_ends_no_translated_connection() {
    for of in Side::ALL {
        let attack = attack(Attacker::Impostor { of, knows: Knowledge::Tuple }, 500);
        assert_unharmed(&besieged(Mode::Always, vec![attack], |world| world.extra.is_prompt = false));
    }
}

/// RFC 5961: a RST in the window that is not RCV.NXT, a segment without ACK, one that acknowledges what was never sent.
#[test]
fn an_impostor_who_knows_the_window_ends_no_translated_connection() {
    let attack = attack(Attacker::Impostor { of: Side::Client, knows: Knowledge::Window }, 500);
    assert_unharmed(&besieged(Mode::Always, vec![attack], |_| {}));
}

#[test]
fn a_router_that_lies_ends_no_connection() {
    for knows in [Knowledge::Tuple, Knowledge::Window] {
        for mode in [Mode::Always, Mode::Adaptive] {
            assert_unharmed(&besieged(mode, vec![attack(Attacker::Router { knows }, 200)], |_| {}));
        }
    }
}

/// Whatever a botnet of four networks does with its connections, it has half of small tables at the most.
#[test]
fn a_botnet_that_completes_handshakes_fills_no_table() {
    for then in [Then::Silence, Then::Reset, Then::Finish, Then::Dribble, Then::Again] {
        let attack = attack(Attacker::Botnet { networks: 4, then }, 200);
        assert_unharmed(&besieged(Mode::Always, vec![attack], |world| world.extra.has_small_tables = true));
    }
}

/// The server's packet filter drops the botnet's SYNs: what waits for an answer must not close the service.
#[test]
fn a_server_that_ignores_a_botnet_serves_the_others() {
    let attack = attack(Attacker::Botnet { networks: 4, then: Then::Silence }, 200);
    assert_unharmed(&besieged(Mode::Always, vec![attack], |world| {
        world.extra.treatment = Treatment::Ignores;
        world.extra.has_small_tables = true;
    }));
}

/// The server's packet filter refuses the botnet, as fail2ban has it: that is the botnet's affair.
#[test]
fn a_server_that_refuses_a_botnet_of_two_networks_serves_the_others() {
    for treatment in [Treatment::Resets, Treatment::Rejects] {
        let attack = attack(Attacker::Botnet { networks: 2, then: Then::Silence }, 20);
        let refusing = |world: &mut World| world.extra.treatment = treatment;
        assert_unharmed(&besieged(Mode::Always, vec![attack], refusing)[..1]);
    }
}

/// Several at once, as they come.
#[test]
fn a_flood_a_botnet_and_a_router_at_once_harm_no_client() {
    let attacks = vec![
        attack(Attacker::Flood { has_options: true }, 500),
        attack(Attacker::Botnet { networks: 2, then: Then::Reset }, 100),
        attack(Attacker::Router { knows: Knowledge::Tuple }, 100),
    ];
    assert_unharmed(&besieged(Mode::Always, attacks, |_| {}));
}
