//! How large the program is and what its packets cost: growth is to be noticed.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use synwall::engine::Side;

use crate::flows;
use crate::kinds::FEW_TARGETS;
use crate::maker::Maker;
use crate::packets::frames::*;
use crate::program::{Action, PORTS, Program, info_of};
use crate::world::{FEW, World};

/// What a program may be at most: as it was when this was written, and a tenth.
struct Bounds {
    /// Instructions, as loaded.
    loaded: u32,
    /// Instructions that the verifier looked at; the kernel's own limit is a million.
    verified: u32,
    /// Octets of stack, all frames of the deepest call together; the kernel's own limit is 512.
    stack: u32,
}

const BOUNDS: [Bounds; 2] = [
    Bounds { loaded: 13_850, verified: 178_500, stack: 360 },
    Bounds { loaded: 3_820, verified: 18_500, stack: 272 },
];

#[test]
fn the_program_has_not_grown() {
    let _program = Program::load();
    let said = verifier();
    for ((port, name), bounds) in PORTS.iter().zip(["synwall_outside", "synwall_inside"]).zip(BOUNDS) {
        let loaded = info_of(port).size_translated().expect("the kernel tells its size") / 8;
        let of_program = said.split_once(&format!("{name}: ")).expect("the verifier tells of it").1;
        let verified = number_behind(of_program, "processed ");
        let stack: u32 =
            words_behind(of_program, "stack depth ").split('+').map(|n| n.parse::<u32>().unwrap()).sum();
        println!("{name}: {loaded} instructions, {verified} verified, {stack} octets of stack");
        assert!(
            loaded <= bounds.loaded && verified <= bounds.verified && stack <= bounds.stack,
            "{name} has grown"
        );
        assert!(loaded * 5 > bounds.loaded * 4, "{name} has shrunk: so should its bounds");
    }
}

/// What the kernel's verifier says of the object that this build embeds.
fn verifier() -> String {
    let tool = Path::new(env!("CARGO_TARGET_TMPDIR")).join("verifier");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/xdp/verifier.c");
    let built =
        Command::new("cc").arg(source).arg("-o").arg(&tool).arg("-lbpf").output().expect("there is cc");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let output = Command::new(tool).arg(concat!(env!("OUT_DIR"), "/synwall.bpf.o")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn words_behind<'a>(text: &'a str, name: &str) -> &'a str {
    text.split_once(name).and_then(|(_, rest)| rest.split_whitespace().next()).expect("the verifier says it")
}

fn number_behind(text: &str, name: &str) -> u32 {
    words_behind(text, name).parse().unwrap()
}

/// A packet of each kind, and what becomes of it.
fn packets(world: &mut World) -> Vec<(&'static str, Side, Vec<u8>, Action)> {
    let mut maker = Maker::new(3, &FEW_TARGETS[..1]);
    let live = std::iter::repeat_with(|| flows::open_plain(&mut maker, world))
        .find(|live| live.told.1 != 0)
        .unwrap();
    let place = live.place(world).unwrap();
    let (client, server) = (live.client, live.server);
    let v6: (std::net::SocketAddr, std::net::SocketAddr) =
        ("[2001:db8::9]:4000".parse().unwrap(), "[2001:db8:255::2]:80".parse().unwrap());
    let linux = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 3, 0xe8, 0, 0, 0, 0, 1, 3, 3, 7];
    let other = || Seg::of((client.ip(), 9).into(), server);
    let echo = place.ends.clock[0].wrapping_sub(place.ts_delta);
    let ack = live
        .seg()
        .seq(place.ends.client[0])
        .ack(place.ends.client[1].wrapping_sub(place.delta))
        .timestamps(1003, echo);
    let edge = place.ends.client[1].wrapping_sub(place.delta);
    let data = live
        .seg()
        .seq(place.ends.server[0])
        .ack(place.ends.server[1])
        .timestamps(place.ends.clock[0], 1)
        .data(&[7; 400]);
    let foreign = Seg::of(client, "203.0.113.1:80".parse().unwrap()).ack(1);
    let from = Side::Client;
    vec![
        ("SYN, no options", from, other().flags(SYN).frame(from), Action::Transmit),
        ("SYN, MSS", from, other().flags(SYN).mss(1460).frame(from), Action::Transmit),
        ("SYN, Linux", from, other().flags(SYN).raw(&linux).frame(from), Action::Transmit),
        ("SYN, Linux, IPv6", from, Seg::of(v6.0, v6.1).flags(SYN).raw(&linux).frame(from), Action::Transmit),
        ("ACK, forged", from, other().ack(77).frame(from), Action::Drop),
        ("ACK, forged, timestamps", from, other().ack(77).timestamps(1, 2).frame(from), Action::Drop),
        ("RST of no flow", from, other().flags(RST).frame(from), Action::Drop),
        ("flow, ACK", from, ack.clone().frame(from), Action::Redirect),
        (
            "flow, ACK with 3 blocks",
            from,
            ack.sack(2, &[edge, edge, edge, edge, edge, edge]).frame(from),
            Action::Redirect,
        ),
        ("flow, 400 octets from server", Side::Server, data.frame(Side::Server), Action::Redirect),
        ("nobody's TCP", from, foreign.frame(from), Action::Redirect),
        (
            "nobody's UDP",
            from,
            [
                &[2; 12],
                &[8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0][..],
                &[198, 18, 0, 1, 198, 18, 255, 2],
                &[0; 8],
            ]
            .concat(),
            Action::Redirect,
        ),
    ]
}

/// Prints the table of docs/performance.md: `make xdp-profile`.
#[test]
fn profile() {
    let mut world = World::new(FEW, &[]);
    println!("{:32} {:>8}", "packet", "ns");
    for (name, side, frame, action) in packets(&mut world) {
        world.program.beat(&world.system.shared, crate::world::now());
        // One by one, for a frame that is run again is what the run before made of it.
        let mut times: Vec<Duration> = (0..RUNS)
            .map(|_| {
                let run = world.program.run(side, &frame);
                assert_eq!(run.action, action, "{name}");
                run.duration
            })
            .collect();
        times.sort_unstable();
        // The kernel's clock may tell no less than ten nanoseconds: the mean of the middle half does.
        let middle: Duration = times[RUNS / 4..RUNS * 3 / 4].iter().sum();
        println!("{name:32} {:8}", middle.as_nanos() / (RUNS as u128 / 2));
    }
}

const RUNS: usize = 10_000;
