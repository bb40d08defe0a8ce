//! Clients and servers with TCPs of their own, on both sides of the real engine, on a virtual clock and links that lose,
//! reorder, repeat and bend frames. docs/simulation.md says how to run and replay it.

#![allow(unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests are tests")]

mod match_up;
mod pinned;
mod tally;
mod worlds;

use std::env;
use std::process::Command;

use match_up::Match;
use tally::Tally;
use worlds::grid::{self, CELLS, RICH, WIDE};
use worlds::world;

/// Worlds of the grid in a run of scale 1: one turn in each mode with each size of transfer.
const WORLDS: u64 = CELLS * 24;
/// Richer worlds in a run of scale 1, two of three with an attacker.
const RICH_WORLDS: u64 = CELLS * 9;
/// Wider worlds in a run of scale 1, five of six with an attacker.
const WIDE_WORLDS: u64 = CELLS * 12;
/// Worlds of a run's fresh ranges, of each kind.
const FRESH: u64 = CELLS * 3;

/// Worlds in which something went wrong once.
const REGRESSIONS: [u64; 31] = [
    // The RST that frees a slot at the server arrives behind the SYN that takes it again.
    642,
    1238,
    // A SYN is let through and its duplicate answered with a cookie: the cookie's ACK finds the direct connection.
    6_657,
    12_951,
    14_650,
    26_114,
    27_822,
    29_534,
    35_404,
    47_067,
    47_245,
    51_794,
    55_286,
    // An old duplicate SYN makes a server that is done begin once more.
    7_123,
    // A server's late answer is reset, and comes again, in two copies, behind the two SYNs of a cookie.
    4_294_967_322,
    // An impostor's SYN comes between the client's next SYN and its ACK.
    4_294_970_497,
    // The server's clock was not saved, and what came first after the restart was late.
    8_661_073_063,
    // The server answers the client's first SYN, which offered more than the cookie promised: timestamps, ECN.
    8_589_934_867,
    8_589_935_212,
    // The RST to that is lost, and the server repeats its answer.
    8_589_936_323,
    // A client reboots while its ACK is under way, and the next is connected when that comes.
    8_657_044_773,
    8_661_318_370,
    // What is too big is sent again, since the ACK that the engine has seen was lost behind it.
    8_657_043_830,
    // An ACK of the SYN overtakes the SYN-ACK, behind a reboot; and again behind a timeout.
    8_589_935_011,
    4_446_145_599,
    // A RST of the server's is late, behind the next SYN on the tuple.
    8_589_938_505,
    8_589_940_015,
    // An ACK of a connection that was over before a restart comes behind it.
    8_589_943_111,
    // A SYN that is let through overtakes the RST for the server's late answer to it.
    11_825,
    // A botnet whose connections are short leaves timers behind.
    8_589_934_753,
    // A RST to the server that takes longer than half a second.
    8_589_935_299,
];

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// The fixed range goes as it went: see `pinned`.
#[test]
fn connections_survive_the_grid_as_well_as_on_a_plain_wire() {
    if let Some(seed) = number("SIM_SEED") {
        return replay(seed);
    }
    if let Some(first) = number("SIM_FIRST") {
        play(first..first + number("SIM_WORLDS").unwrap_or(WORLDS));
        return;
    }
    let scale = number("SIM_SCALE").unwrap_or(1);
    let tally = play(0..WORLDS * scale);
    if scale == 1 {
        pinned::assert_unchanged(&tally);
    }
}

/// Bursts, long delays, reloads, restarts, attackers: see `worlds::rich`.
#[test]
fn connections_survive_richer_worlds() {
    if number("SIM_SEED").or(number("SIM_FIRST")).is_none() {
        play(RICH..RICH + RICH_WORLDS * number("SIM_SCALE").unwrap_or(1));
    }
}

/// ECN, path MTUs, reboots, refusals, flows that are lent: see `worlds::wide`.
#[test]
fn connections_survive_wider_worlds() {
    if number("SIM_SEED").or(number("SIM_FIRST")).is_none() {
        play(WIDE..WIDE + WIDE_WORLDS * number("SIM_SCALE").unwrap_or(1));
    }
}

/// In a third of the worlds that a run plays, fixed and fresh, there is an attacker.
#[test]
fn a_third_of_the_worlds_has_an_attacker() {
    let starts = [0, RICH, WIDE];
    for counts in [[WORLDS, RICH_WORLDS, WIDE_WORLDS], [FRESH; 3]] {
        let seeds = starts.into_iter().zip(counts).flat_map(|(start, count)| start..start + count);
        let has_attacker: Vec<bool> = seeds.map(|seed| !grid::world(seed).extra.attacks.is_empty()).collect();
        let attacked = has_attacker.iter().filter(|has| **has).count();
        println!("{attacked} of {} worlds have an attacker", has_attacker.len());
        assert!(3 * attacked >= has_attacker.len(), "{attacked} of {}", has_attacker.len());
    }
}

/// Worlds in which nobody has been yet: other ones for each tree that is committed, and for each number in SIM_FRESH. A commit that
/// passes once passes again.
#[test]
fn connections_survive_fresh_worlds() {
    if number("SIM_SEED").or(number("SIM_FIRST")).is_some() {
        return;
    }
    let turn = number("SIM_FRESH").unwrap_or_else(committed) % (1 << 20);
    println!("fresh: SIM_FRESH={turn}");
    for first in [1 << 20, RICH + (1 << 24), WIDE + (1 << 24)].map(|start: u64| start + turn * FRESH) {
        println!("SIM_FIRST={first} SIM_WORLDS={FRESH}");
        play(first..first + FRESH);
    }
}

/// The first bits of the name of the tree that is checked out; 0 where the sources are no checkout of git's.
fn committed() -> u64 {
    let arguments = ["-c", "safe.directory=*", "rev-parse", "--short=12", "HEAD^{tree}"];
    let output = Command::new("git").args(arguments).output().map(|output| output.stdout).unwrap_or_default();
    u64::from_str_radix(String::from_utf8_lossy(&output).trim(), 16).unwrap_or(0)
}

#[test]
fn connections_survive_where_they_once_did_not() {
    if number("SIM_SEED").or(number("SIM_FIRST")).is_none() {
        play(REGRESSIONS);
    }
}

/// Plays worlds, none of which may go wrong.
fn play(seeds: impl IntoIterator<Item = u64>) -> Tally {
    let (tally, broken) = look_at(seeds);
    assert!(broken.is_empty(), "{} worlds went wrong: SIM_SEED={broken:?}", broken.len());
    tally
}

/// Plays worlds with synwall and on a plain wire, compares them one by one, and says which went wrong.
fn look_at(seeds: impl IntoIterator<Item = u64>) -> (Tally, Vec<u64>) {
    let mut tally = Tally::default();
    let mut broken = Vec::new();
    for seed in seeds {
        let found = Match::of(seed, &mut tally);
        if !found.faults.is_empty() {
            eprintln!("SIM_SEED={seed} {}", found.plan);
            found.faults.iter().take(3).for_each(|fault| eprintln!("    {fault}"));
            broken.push(seed);
        }
    }
    println!("{tally}");
    (tally, broken)
}

/// Prints a world's packets in packetdrill's notation: of all connections, or of the one that SIM_CONNECTION names.
fn replay(seed: u64) {
    let plan = grid::world(seed);
    let connection = number("SIM_CONNECTION").map(|number| number as usize);
    println!("{}", plan.in_words());
    for (number, plan) in plan.plans.iter().enumerate() {
        if connection.is_none_or(|wanted| wanted == number) {
            println!("{number}: {plan:?}");
        }
    }
    let outcome = world::run(&plan, env::var_os("SIM_WIRE").is_none(), Some(connection));
    outcome.failures.iter().for_each(|failure| println!("failed: {failure:?}"));
    if let Some(snapshot) = &outcome.snapshot {
        println!("{:?}", snapshot.services[0].values);
    }
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    assert!(
        outcome.failures.iter().all(|failure| failure.cause.is_some()),
        "a connection failed without cause"
    );
}
