//! Two synwalls with the same policy and the same past: an engine alone, and the program with an engine behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use synwall::engine::fast::FastPath;
use synwall::engine::policy::filter::{Filter, Rule};
use synwall::engine::policy::{Budgets, Limits, Policy, ServiceId, Threshold};
use synwall::engine::{Side, Verdict};
use synwall::time::Instant;
use synwall::wire::pretty::Pretty;

use crate::packets::bench::{Bench, Outcome};
use crate::packets::frames::{SYN, Seg, hex};
use crate::packets::vector::{Secrets, ServiceSpec, prefix, side_name};
use crate::program::{Action, Program};

pub struct World {
    /// The engine alone: what is right.
    pub reference: Bench,
    /// The engine behind the program.
    pub system: Bench,
    pub program: Program,
}

/// What became of a frame, the same in both.
pub struct Passed {
    pub is_up: bool,
    pub outcome: Outcome,
}

/// The program's clock.
pub fn now() -> Instant {
    let now: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into();
    Instant::ZERO.after(now)
}

impl World {
    pub fn new(services: &str, rules: &[(&str, Rule)]) -> World {
        let policy = policy(services, rules);
        let secrets = Secrets::usual();
        let reference = Bench::new(policy.clone(), Some(&secrets), now());
        let mut system = Bench::new(policy, Some(&secrets), reference.now);
        // The same Unix time at any instant.
        system.shared.set_keys(secrets.keys(reference.now));
        let program = Program::load();
        program.configure(&system.shared, system.now);
        system.lend(program.path.clone());
        let mut world = World { reference, system, program };
        world.press();
        world.program.path.set_direct_flows(true);
        world
    }

    /// Puts the service that is to be under pressure there; the engine tells the program.
    fn press(&mut self) {
        let policy: Arc<Policy> = self.reference.shared.policy();
        for service in policy.services().iter().filter(|service| service.name == "pressed") {
            let server = (service.prefix.network(), 80).into();
            for port in 1..40 {
                let client = ([198, 18, 9, 9], port).into();
                let frame = Seg::of(client, server).flags(SYN).frame(Side::Client);
                self.reference.inject(Side::Client, &frame);
                self.system.inject(Side::Client, &frame);
            }
            let at = policy.services().iter().position(|other| other.name == service.name).unwrap();
            assert!(self.program.path.is_pressed(ServiceId(at as u16)), "the program was told");
        }
        self.reference.moved();
        self.system.moved();
    }

    /// Sends a frame through both; what is different, if anything.
    pub fn send(&mut self, side: Side, frame: &[u8]) -> Result<Passed, String> {
        let now = now();
        (self.reference.now, self.system.now) = (now, now);
        self.program.beat(&self.system.shared, now);
        let expected = self.reference.inject(side, frame);
        let run = self.program.run(side, frame);
        let is_up = run.action == Action::Up;
        let outcome = match run.action {
            Action::Up if run.frame != frame => return Err("it goes up changed".into()),
            Action::Up => self.system.inject(side, frame),
            Action::Redirect => self.settled(Verdict::Forward, vec![(side.peer(), run.frame)]),
            Action::Transmit => self.settled(Verdict::Consume, vec![(side, run.frame)]),
            Action::Drop => self.settled(expected.verdict, vec![]),
        };
        if outcome != expected {
            return Err(format!(
                "action {:?}\n  engine  {}\n  program {}",
                run.action,
                show(&expected),
                show(&outcome)
            ));
        }
        self.compare().map_err(|what| format!("after {:?}: {what}", run.action))?;
        Ok(Passed { is_up, outcome })
    }

    /// What the program settled. The counters tell why it dropped.
    fn settled(&mut self, verdict: Verdict, out: Vec<(Side, Vec<u8>)>) -> Outcome {
        Outcome { verdict, out, moved: self.system.moved() }
    }

    /// Compares what is kept: flows with their ends, half-open connections, counters of the ports.
    fn compare(&self) -> Result<(), String> {
        let flows = |bench: &Bench| {
            let mut all = BTreeMap::new();
            bench.shared.export_flows(bench.now, |mut flow| {
                flow.idle = Duration::ZERO;
                all.insert(format!("{:?}", flow.key), flow);
            });
            all
        };
        let (expected, found) = (flows(&self.reference), flows(&self.system));
        for (key, flow) in &expected {
            match found.get(key) {
                Some(other) if other == flow => {}
                other => return Err(format!("flow\n  engine  {flow:?}\n  program {other:?}")),
            }
        }
        let (reference, system) = (self.reference.shared.snapshot(), self.system.shared.snapshot());
        if found.len() != expected.len() || reference.flows != system.flows {
            return Err(format!("flows: {:?} and {:?}", reference.flows, system.flows));
        }
        if reference.ports != system.ports {
            return Err(format!("ports\n  engine  {:?}\n  program {:?}", reference.ports, system.ports));
        }
        let half_open = |snapshot: &synwall::engine::Snapshot| -> Vec<u64> {
            snapshot.services.iter().map(|service| service.half_open).collect()
        };
        let (expected, found) = (half_open(&reference), half_open(&system));
        if expected == found { Ok(()) } else { Err(format!("half-open: {expected:?} and {found:?}")) }
    }
}

fn show(outcome: &Outcome) -> String {
    let mut text = format!("{:?} {:?}", outcome.verdict, outcome.moved);
    for (side, frame) in &outcome.out {
        text += &format!("\n          {} > {}\n            {}", side_name(*side), Pretty(frame), hex(frame));
    }
    text
}

/// Services without budgets, which two clocks would see differently; and quiet, but for the one that is pressed.
fn policy(services: &str, rules: &[(&str, Rule)]) -> Policy {
    #[derive(serde::Deserialize)]
    struct List {
        services: Vec<ServiceSpec>,
    }
    let quiet = Threshold { half_open: 1_000_000, syn_rate: 100_000_000 };
    let no_limit = Budgets {
        synack: None,
        syn_per_source: None,
        connections_per_source: None,
        backend_syn: None,
        reset: None,
    };
    let list: List = toml::from_str(services).unwrap();
    let services = list.services.iter().map(|spec| {
        let mut service = spec.service();
        let syn_rate = if service.name == "pressed" { 100 } else { quiet.syn_rate };
        service.activate_at = Threshold { syn_rate, ..quiet };
        service.budgets = no_limit;
        service
    });
    let of = |rule| rules.iter().filter(move |(_, other)| *other == rule).map(|(text, _)| prefix(text));
    let (deny, allow): (Vec<_>, Vec<_>) = (of(Rule::Deny).collect(), of(Rule::Allow).collect());
    let limits = Limits { max_half_open_per_source: 65_536, max_flows: 10_000, ..Limits::default() };
    let filter = Filter::new(&deny, &allow).unwrap();
    Policy::new(services.collect(), limits, 1500).unwrap().with_filter(filter)
}

/// More areas than are looked through one by one, and every mode.
pub const MANY: &str = r#"services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always" },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80], [443, 443]], mode = "always", mss = 1400 },
  { name = "ecn", prefix = "198.18.255.3", ports = [[1, 1000]], mode = "always", ecn = true, wscale = 3, mss = 9000 },
  { name = "strict", prefix = "198.18.255.4", ports = [[443, 443]], mode = "always", require_timestamps = true },
  { name = "plain", prefix = "198.18.255.5", ports = [[25, 25]], mode = "always", wscale = -1, sack = false, timestamps = false, early_data = 536 },
  { name = "net", prefix = "198.18.240.0/24", ports = [[0, 79], [82, 65535]], mode = "always", sack = false },
  { name = "host_in_net", prefix = "198.18.240.7", ports = [[80, 81]], mode = "always", early_data = 65535, wscale = 14 },
  { name = "net6", prefix = "2001:db8:240::/48", ports = [[1024, 65535]], mode = "always", timestamps = false },
  { name = "pressed", prefix = "198.18.255.10", ports = [[80, 80]], mode = "adaptive", wscale = 0 },
  { name = "adaptive", prefix = "198.18.255.7", ports = [[80, 80]], mode = "adaptive" },
  { name = "monitor", prefix = "198.18.255.8", ports = [[80, 80]], mode = "monitor" },
  { name = "off", prefix = "198.18.255.9", ports = [[80, 80]], mode = "off" },
  { name = "resetting", prefix = "198.18.255.11", ports = [[80, 80]], mode = "always", reset_unknown = true },
]"#;

/// So few that they are looked through.
pub const FEW: &str = r#"services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always" },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80], [443, 443]], mode = "always" },
  { name = "pressed", prefix = "198.18.255.10", ports = [[80, 80]], mode = "adaptive" },
  { name = "adaptive", prefix = "198.18.255.7", ports = [[80, 80]], mode = "adaptive" },
]"#;

pub const RULES: [(&str, Rule); 4] = [
    ("198.18.66.0/24", Rule::Deny),
    ("198.18.66.128/25", Rule::Allow),
    ("198.18.77.0/24", Rule::Allow),
    ("2001:db8:66::/48", Rule::Deny),
];
