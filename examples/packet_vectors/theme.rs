//! A file of vectors in the making.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

use serde::Deserialize;

use synwall::engine::{Side, Verdict};
use synwall::time::Instant;
use synwall::wire::pretty::Pretty;
use synwall::wire::tcp::Segment;

use crate::packets::bench::{Bench, Outcome};
use crate::packets::frames::*;
use crate::packets::vector::{Ends, PolicySpec, Secrets, Sent, side_name, verdict_name};

pub struct Theme {
    pub name: &'static str,
    pub text: String,
    pub count: usize,
    policies: BTreeMap<String, PolicySpec>,
    flows: BTreeMap<String, Flow>,
}

/// A flow that vectors begin from.
#[derive(Clone)]
pub struct Flow {
    pub name: &'static str,
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub policy: &'static str,
    pub before: Vec<(Side, Vec<u8>)>,
    /// What the client was told: ISS and TSval.
    pub told: (u32, u32),
}

/// A vector to be made.
#[derive(Clone, Default)]
pub struct Case<'a> {
    pub name: String,
    pub why: &'a str,
    pub policy: &'a str,
    pub flow: Option<&'a str>,
    pub before: Vec<(Side, Vec<u8>)>,
    pub may_go_up: bool,
}

#[derive(Deserialize)]
struct Policies {
    policy: BTreeMap<String, PolicySpec>,
}

impl Theme {
    /// A file that says `about` and has `policies`, as they are to stand in it.
    pub fn new(name: &'static str, about: &str, policies: &str) -> Theme {
        let secrets = Secrets::usual();
        let mut text = String::new();
        about.lines().for_each(|line| writeln!(text, "# {line}").unwrap());
        text.push_str(FORMAT);
        write!(text, "\n[keys]\nmaster = \"{}\"\n", secrets.master).unwrap();
        write!(text, "epoch = {}\nkey = \"{}\"\n", secrets.epoch, secrets.key).unwrap();
        writeln!(text, "unix_millis = {}", secrets.unix_millis).unwrap();
        write!(text, "\n{policies}").unwrap();
        let policies = toml::from_str::<Policies>(policies).unwrap().policy;
        Theme { name, text, count: 0, policies, flows: BTreeMap::new() }
    }

    pub fn bench(&self, policy: &str) -> Bench {
        let spec = &self.policies[policy];
        let secrets = spec.has_keys.then(Secrets::usual);
        Bench::new(spec.policy(), secrets.as_ref(), Instant::from_nanos(7_000_000_000))
    }

    /// Writes a flow down.
    pub fn flow(&mut self, flow: Flow) {
        let mut bench = self.bench(flow.policy);
        flow.before.iter().for_each(|(side, frame)| _ = bench.inject(*side, frame));
        let (saved, ends) = bench.flow(flow.client, flow.server).expect("the frames open a flow");
        let text = &mut self.text;
        write!(text, "\n[flow.{}]\nclient = \"{}\"\n", flow.name, flow.client).unwrap();
        write!(text, "server = \"{}\"\nservice = {}\n", flow.server, saved.service).unwrap();
        if saved.is_direct {
            text.push_str("is_direct = true\n");
        }
        for (strips, name) in [(saved.strips_sack, "strips_sack"), (saved.strips_ecn, "strips_ecn")] {
            if strips {
                write!(text, "is_up = true\n{name} = true\n").unwrap();
            }
        }
        write!(text, "client_iss = {}\ndelta = {}\n", saved.client_iss, saved.delta).unwrap();
        write!(text, "ts_delta = {}\nserver_window = {:?}\n", saved.ts_delta, saved.server_window).unwrap();
        write!(text, "client_window = {:?}\nends = {}\n", saved.client_window, ends_text(&ends)).unwrap();
        writeln!(text, "policy = \"{}\"", flow.policy).unwrap();
        put_frames(text, "before", &flow.before);
        self.flows.insert(flow.name.to_owned(), flow);
    }

    /// Runs a frame on the engine and writes down what came of it.
    pub fn vector(&mut self, case: &Case<'_>, side: Side, frame: &[u8]) -> Outcome {
        let flow = case.flow.map(|name| self.flows[name].clone());
        let policy = flow.as_ref().map_or(case.policy, |flow| flow.policy);
        let mut bench = self.bench(policy);
        let before = flow.as_ref().map_or(&case.before, |flow| &flow.before);
        before.iter().for_each(|(side, frame)| _ = bench.inject(*side, frame));
        let outcome = bench.inject(side, frame);
        let after = flow.as_ref().and_then(|flow| bench.flow(flow.client, flow.server)).map(|found| found.1);
        self.count += 1;
        let text = &mut self.text;
        writeln!(text).unwrap();
        case.why.lines().filter(|line| !line.is_empty()).for_each(|line| writeln!(text, "# {line}").unwrap());
        writeln!(text, "#   {} <  {}", side_name(side), Pretty(frame)).unwrap();
        outcome.out.iter().for_each(|(side, frame)| {
            writeln!(text, "#   {}  > {}", side_name(*side), Pretty(frame)).unwrap();
        });
        write!(text, "[[vector]]\nname = \"{}\"\npolicy = \"{policy}\"\n", case.name).unwrap();
        if let Some(name) = case.flow {
            writeln!(text, "flow = \"{name}\"").unwrap();
        }
        put_frames(text, "before", &case.before);
        write!(text, "side = \"{}\"\nframe = \"{}\"\n", side_name(side), hex(frame)).unwrap();
        writeln!(text, "verdict = \"{}\"", verdict_name(outcome.verdict)).unwrap();
        put_frames(text, "out", &outcome.out);
        put_counters(text, &outcome);
        if case.may_go_up {
            text.push_str("may_go_up = true\n");
        }
        if let Some(after) = after.filter(|_| outcome.verdict == Verdict::Forward) {
            writeln!(text, "after = {}", ends_text(&after)).unwrap();
        }
        outcome
    }
}

fn put_frames(text: &mut String, name: &str, frames: &[(Side, Vec<u8>)]) {
    if frames.is_empty() {
        return;
    }
    writeln!(text, "{name} = [").unwrap();
    for (side, frame) in frames {
        writeln!(
            text,
            "  {{ side = \"{}\", frame = \"{}\" }},",
            side_name(*side),
            Sent::new(*side, frame).frame
        )
        .unwrap();
    }
    text.push_str("]\n");
}

fn put_counters(text: &mut String, outcome: &Outcome) {
    if outcome.moved.is_empty() {
        return;
    }
    let entries: Vec<String> =
        outcome.moved.iter().map(|(name, change)| format!("\"{name}\" = {change}")).collect();
    writeln!(text, "counters = {{ {} }}", entries.join(", ")).unwrap();
}

fn ends_text(ends: &Ends) -> String {
    format!("{{ client = {:?}, server = {:?}, clock = {:?} }}", ends.client, ends.server, ends.clock)
}

/// What a SYN-ACK tells: ISS and TSval.
pub fn told(frame: &[u8]) -> (u32, u32) {
    let synwall::wire::frame::Parsed::Tcp(layout) = synwall::wire::frame::parse(frame) else {
        panic!("no SYN-ACK")
    };
    let segment = Segment::new(frame, layout);
    (segment.seq().0, segment.options().timestamps().map_or(0, |found| found.0))
}

pub fn v4(port: u16) -> (SocketAddr, SocketAddr) {
    (SocketAddr::new([198, 18, 0, 1].into(), port), "198.18.255.2:80".parse().unwrap())
}

pub fn v6(port: u16) -> (SocketAddr, SocketAddr) {
    (format!("[2001:db8::1]:{port}").parse().unwrap(), "[2001:db8:255::2]:80".parse().unwrap())
}

/// The options of a Linux SYN.
pub const LINUX: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 3, 0xe8, 0, 0, 0, 0, 1, 3, 3, 7];

/// Near the wrap, so that what follows crosses it.
pub const CLIENT_ISS: u32 = 0xffff_fff0;
pub const SERVER_ISS: u32 = 0xffff_ff00;

pub fn syn(ends: (SocketAddr, SocketAddr)) -> Seg {
    Seg::of(ends.0, ends.1).flags(SYN).seq(CLIENT_ISS).window(64_240)
}

const FORMAT: &str = "\
#
# Generated by `cargo run --no-default-features --example packet_vectors` from the engine; checked by tests/packet_vectors.rs,
# by tests/vectors/check_packet_vectors.py without any Rust, and by tests/xdp on the program.
#
# [keys]: what all vectors share: the cookie keys' master, the key epoch, the SipHash key that the two make (see cookie.toml),
#   the Unix time.
# [policy.NAME]: services as in the configuration; `wscale = -1` is a server that does not scale.
# [flow.NAME]: a connection, named from the client's side, as it is before the frame of a vector. Sequence numbers are the
#   server's. delta, ts_delta: what the server's numbers and TSvals are ahead of the cookie's. server_window: the scale of
#   the server's window and the one that the client applies; client_window: the same the other way. ends: SND.NXT, RCV.NXT,
#   the right edge of the window and the largest window of each; clock: the server's latest TSval and how far back TSvals
#   count. before: the frames that bring the engine there. is_up: the engine handles each of its segments.
#   strips_sack: the client's SACK blocks become NOPs; strips_ecn: its packets become not ECN-capable.
# [[vector]]: `frame` comes in at the port towards `side`. verdict: forward (it leaves at the other port as the first of
#   `out` says), consume (it has done its work) or drop, with the reason; out: the frames that leave, and at which port;
#   counters: those of services that moved; after: where the flow's ends are then; before: frames that came earlier.
#   may_go_up: the XDP program may leave the frame to the engine. The lines above tell the frames in tcpdump's words.
";
