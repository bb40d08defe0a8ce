//! The committed packet vectors against the engine; and against the formulas, by a script that knows nothing of the engine.

// A test may stop when its assumptions fail.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
#![allow(unreachable_pub, dead_code, reason = "what is shared knows more than is needed here")]

mod packets;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use packets::bench::Bench;
use packets::frames;
use packets::vector::{File, FlowSpec, THEMES, Vector, verdict_name};
use synwall::engine::{DropReason, Verdict};
use synwall::time::Instant;

fn bench(file: &File, policy: &str) -> Bench {
    let spec = &file.policy[policy];
    Bench::new(spec.policy(), spec.has_keys.then_some(&file.keys), Instant::from_nanos(7_000_000_000))
}

/// The engine with the flow, which is as the file says.
fn with_flow(file: &File, name: &str, flow: &FlowSpec) -> Bench {
    let mut bench = bench(file, &flow.policy);
    flow.before.iter().for_each(|sent| _ = bench.inject(sent.side.0, &sent.octets()));
    let (saved, ends) = bench.flow(flow.client, flow.server).expect("the frames open a flow");
    let is_as_said = saved.service == flow.service
        && saved.is_direct == flow.is_direct
        && (saved.strips_sack || saved.strips_ecn) == flow.is_up
        && (saved.client_iss, saved.delta, saved.ts_delta) == (flow.client_iss, flow.delta, flow.ts_delta)
        && (saved.server_window, saved.client_window) == (flow.server_window, flow.client_window)
        && ends == flow.ends;
    assert!(is_as_said, "flow {name}: {saved:?} {ends:?}");
    bench
}

fn run(file: &File, vector: &Vector) {
    let flow = vector.flow.as_ref().map(|name| (name, &file.flow[name]));
    let mut bench = match flow {
        Some((name, flow)) => with_flow(file, name, flow),
        None => bench(file, &vector.policy),
    };
    vector.before.iter().for_each(|sent| _ = bench.inject(sent.side.0, &sent.octets()));
    let outcome = bench.inject(vector.side.0, &frames::octets(&vector.frame));
    assert_eq!(verdict_name(outcome.verdict), vector.verdict, "{}", vector.name);
    assert_eq!(outcome.sent(), vector.out, "{}", vector.name);
    assert_eq!(outcome.moved, vector.counters, "{}", vector.name);
    if let (Some(after), Some((_, flow))) = (&vector.after, flow) {
        let (_, ends) = bench.flow(flow.client, flow.server).expect("the flow is still there");
        assert_eq!(ends, *after, "{}", vector.name);
    }
    assert_eq!(
        vector.after.is_some(),
        flow.is_some() && outcome.verdict == Verdict::Forward,
        "{}",
        vector.name
    );
}

#[test]
fn the_engine_reproduces_every_vector() {
    for theme in THEMES {
        let file = File::read(theme);
        let master = frames::octets(&file.keys.master);
        assert_eq!(file.keys.key, packets::vector::epoch_key(&master, file.keys.epoch), "{theme}");
        let names: BTreeSet<&str> = file.vector.iter().map(|vector| vector.name.as_str()).collect();
        assert_eq!(names.len(), file.vector.len(), "{theme}: names are given once");
        file.vector.iter().for_each(|vector| run(&file, vector));
    }
}

/// What an attacker can send in millions must be settled in the kernel: nothing of that may go up.
#[test]
fn vectors_cover_what_comes_in_millions() {
    let all: Vec<Vector> = THEMES.iter().flat_map(|theme| File::read(theme).vector).collect();
    let settled = |name: &str| all.iter().filter(|v| v.verdict == name && !v.may_go_up).count();
    let reasons = [
        DropReason::Malformed,
        DropReason::BadChecksum,
        DropReason::BadFlags,
        DropReason::BogusAddress,
        DropReason::BogusPort,
        DropReason::CookieInvalid,
        DropReason::TimestampsRequired,
        DropReason::NoKey,
        DropReason::NoFlow,
        DropReason::OutOfWindow,
        DropReason::Denied,
    ];
    for reason in reasons {
        let name = verdict_name(Verdict::Drop(reason));
        assert!(settled(&name) >= 2, "{name}");
    }
    assert!(settled("consume") >= 100 && settled("forward") >= 100);
    let up = all.iter().filter(|vector| vector.may_go_up).count();
    assert!(up * 4 < all.len(), "{up} of {} may go up", all.len());
}

#[test]
fn the_script_agrees_without_any_of_the_engine() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/check_packet_vectors.py");
    let output = Command::new("python3").arg(script).output().expect("python3 is installed: make deps");
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{wrong}");
}
