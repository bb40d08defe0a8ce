//! The packet vectors on the program.

use std::collections::BTreeMap;
use std::time::Duration;

use synwall::engine::fast::{FastEnd, FastEnds, FastFlow, FastPath};
use synwall::engine::policy::ServiceId;
use synwall::engine::{Side, Verdict};

use crate::packets::bench::{Bench, key};
use crate::packets::frames;
use crate::packets::vector::{EndSpec, Ends, File, FlowSpec, PolicySpec, THEMES, Vector, verdict_name};
use crate::program::{Action, Program};
use crate::world::now;

/// The program under one of a file's policies.
struct Setting<'a> {
    file: &'a File,
    program: Program,
    /// Reads the program's counters as the appliance does.
    bench: Bench,
}

impl Setting<'_> {
    fn new<'a>(file: &'a File, policy: &PolicySpec) -> Setting<'a> {
        let program = Program::load();
        let mut bench = Bench::new(policy.policy(), policy.has_keys.then_some(&file.keys), now());
        program.configure(&bench.shared, bench.now);
        bench.lend(program.path.clone());
        Setting { file, program, bench }
    }

    /// Tells the program of a flow. Slots of flows that are gone rest for a while, and every vector has the same key.
    fn admit(&self, flow: &FlowSpec) {
        let end = now().after(Duration::from_secs(5));
        while !self.program.path.admit(&key(flow.client, flow.server), &fast_flow(flow)) {
            assert!(now() < end, "there is room in an empty table");
            std::thread::yield_now();
        }
    }

    /// Runs a vector; whether it went up.
    fn run(&mut self, vector: &Vector) -> bool {
        let name = &vector.name;
        let flow = vector.flow.as_ref().map(|name| &self.file.flow[name]);
        if let Some(flow) = flow {
            self.admit(flow);
        }
        self.program.beat(&self.bench.shared, self.bench.now);
        vector.before.iter().for_each(|sent| _ = self.program.run(sent.side.0, &sent.octets()));
        self.bench.moved();
        let run = self.program.run(vector.side.0, &frames::octets(&vector.frame));
        let moved = self.bench.moved();
        if let Some(flow) = flow {
            let ends = self.program.path.ends(&key(flow.client, flow.server)).expect("it is there");
            if let (Some(after), true) = (&vector.after, run.action != Action::Up) {
                assert_eq!(ends_of(&ends), *after, "{name}");
            }
            self.program.path.remove(&key(flow.client, flow.server));
        }
        if run.action == Action::Up {
            assert!(vector.may_go_up, "{name} goes up");
            assert_eq!(run.frame, frames::octets(&vector.frame), "{name} goes up as it came");
            assert_eq!(moved, BTreeMap::new(), "{name} goes up");
            return true;
        }
        assert_eq!(verdict(run.action, &moved), vector.verdict, "{name}: {moved:?}");
        let expected: Vec<(Side, Vec<u8>)> =
            vector.out.iter().map(|sent| (sent.side.0, sent.octets())).collect();
        let sent = match run.action {
            Action::Redirect => vec![(vector.side.0.peer(), run.frame)],
            Action::Transmit => vec![(vector.side.0, run.frame)],
            Action::Up | Action::Drop => vec![],
        };
        assert_eq!(sent, expected, "{name}");
        assert_eq!(moved, vector.counters, "{name}");
        false
    }
}

/// The verdict that an action is; a drop's reason is what was counted.
fn verdict(action: Action, moved: &BTreeMap<String, i64>) -> String {
    match action {
        Action::Redirect => verdict_name(Verdict::Forward),
        Action::Transmit => verdict_name(Verdict::Consume),
        Action::Drop => {
            let reason = moved.keys().find_map(|name| name.split_once("drop.")).map_or("", |found| found.1);
            format!("drop {reason}")
        }
        Action::Up => "up".into(),
    }
}

pub fn fast_flow(flow: &FlowSpec) -> FastFlow {
    let end = |[next, acked, edge, max_window]: EndSpec| FastEnd { next, acked, edge, max_window };
    FastFlow {
        service: ServiceId(flow.service),
        is_up: flow.is_up,
        is_direct: flow.is_direct,
        challenged: None,
        client_iss: flow.client_iss,
        delta: flow.delta,
        ts_delta: flow.ts_delta,
        server_window: flow.server_window,
        client_window: flow.client_window,
        ends: FastEnds {
            client: end(flow.ends.client),
            server: end(flow.ends.server),
            clock_latest: flow.ends.clock[0],
            clock_reach: flow.ends.clock[1],
            idle: Duration::ZERO,
            marks: 0,
        },
    }
}

fn ends_of(ends: &FastEnds) -> Ends {
    let end = |end: FastEnd| [end.next, end.acked, end.edge, end.max_window];
    let clock = [ends.clock_latest, ends.clock_reach];
    Ends { client: end(ends.client), server: end(ends.server), clock }
}

fn run_theme(theme: &str) {
    let file = File::read(theme);
    let (mut up, mut all) = (0, 0);
    for (name, policy) in &file.policy {
        let mut setting = Setting::new(&file, policy);
        let of_policy = || file.vector.iter().filter(|vector| vector.policy == *name);
        // What goes up may leave a mark behind.
        for vector in of_policy().filter(|vector| !vector.may_go_up) {
            assert!(!setting.run(vector));
            all += 1;
        }
        for vector in of_policy().filter(|vector| vector.may_go_up) {
            up += usize::from(setting.run(vector));
            all += 1;
        }
    }
    println!("{theme}: {all} vectors, {up} of them left to the engine");
}

#[test]
fn the_program_makes_the_same_syn_acks() {
    run_theme(THEMES[0]);
}

#[test]
fn the_program_checks_cookies_alike() {
    run_theme(THEMES[1]);
}

#[test]
fn the_program_translates_alike() {
    run_theme(THEMES[2]);
}

#[test]
fn the_program_drops_for_the_same_reasons() {
    run_theme(THEMES[3]);
}

#[test]
fn the_program_lets_the_same_frames_cross() {
    run_theme(THEMES[4]);
}
