//! What stands in the middle: the engine on a virtual clock with keys that rotate, or nothing at all.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use synwall::cookie::{KeyRing, MasterKey};
use synwall::engine::export::Past;
use synwall::engine::fast::Promises;
use synwall::engine::policy::{Limits, Mode, Policy, PortSet, Prefix, Service, Threshold};
use synwall::engine::{Engine, Keys, Outbox, Shared, Side, Snapshot, Verdict};
use synwall::time::{Instant, WallClock};
use synwall::wire::buffer::FrameBuf;
use synwall::wire::frame::{Parsed, parse};
use synwall::wire::pretty::Pretty;

use super::grid::World;
use super::keeper::Keeper;
use super::network::Frame;
use super::packet::{LINK, valid};
use super::random::Random;

/// The engine, and what a worker has around it.
pub struct Middle {
    engines: Vec<Engine>,
    shared: Arc<Shared>,
    buffer: FrameBuf,
    out: Outbox,
    epoch: u64,
    next_epoch: Instant,
    next_timer: Option<Instant>,
    random: Random,
    runs: u64,
    /// The fast path that flows are lent to.
    keeper: Option<Arc<Keeper>>,
}

/// What came out of the middle, towards which side.
pub type Departure = (Side, Frame);

impl Middle {
    /// One service behind keys that rotate every 32 s.
    pub fn new(now: Instant, server: IpAddr, world: &World) -> Middle {
        let mut ports = PortSet::empty();
        ports.insert_range(80, 80);
        let service = Service {
            name: "web".into(),
            mode: if world.is_adaptive { Mode::Adaptive } else { Mode::Always },
            activate_at: Threshold { half_open: 2, syn_rate: 20 },
            deactivate_at: Threshold { half_open: 1, syn_rate: 1 },
            min_active: Duration::from_secs(1),
            syn_timeout: Duration::from_secs(1),
            prefix: Prefix::host(server),
            ports,
            max_half_open: if world.extra.has_small_tables { 512 } else { Service::default().max_half_open },
            server: world.told,
            server_speaks_first: world.repeats_syn_acks,
            ..Service::default()
        };
        let limits = if world.extra.has_small_tables { small() } else { Limits::default() };
        let policy = Policy::new(vec![service], limits, MTU as u16).expect("one service");
        let (shared, engines) = run(policy, world.extra.workers, 0);
        let mut middle = Middle {
            engines,
            shared,
            random: Random::new(world.seed ^ 0x3333),
            runs: 0,
            buffer: FrameBuf::new(),
            out: Outbox::new(),
            epoch: 1_000,
            next_epoch: now.after(world.first_epoch),
            next_timer: None,
            keeper: None,
        };
        middle.install_keys(now);
        if world.extra.is_lent {
            middle.lend(now);
        }
        middle
    }

    /// Lends the flows, those that are there and those to come.
    fn lend(&mut self, now: Instant) {
        let keeper = Arc::new(Keeper::default());
        keeper.tell_time(now);
        assert!(self.shared.set_fast_path(now, keeper.clone()).is_ok(), "there is room for all");
        self.keeper = Some(keeper);
    }

    fn install_keys(&self, now: Instant) {
        let ring = KeyRing::at(&MasterKey::from_bytes([7; 32]), self.epoch);
        let unix = Duration::from_secs(1_760_000_000) + now.since(Instant::ZERO);
        self.shared.set_keys(Keys { ring, clock: WallClock { at: now, unix } });
    }

    fn rotate(&mut self, now: Instant) {
        if let Some(keeper) = &self.keeper {
            keeper.tell_time(now);
        }
        while self.next_epoch <= now {
            self.epoch += 1;
            self.install_keys(self.next_epoch);
            self.next_epoch = self.next_epoch.after(EPOCH);
        }
    }

    /// Handles a frame; what came out, and what is wrong with it.
    pub fn handle(&mut self, now: Instant, side: Side, frame: &Frame) -> (Vec<Departure>, Option<String>) {
        self.rotate(now);
        self.out.clear();
        assert!(self.buffer.set_bytes(&frame.octets));
        let worker = self.random.below(self.engines.len() as u64) as usize;
        let verdict = self.engines[worker].handle_frame(now, side, &mut self.buffer, &mut self.out);
        self.look_at_timers();
        let mut wrong = None;
        let mut departures = Vec::new();
        if verdict == Verdict::Forward {
            let octets = self.buffer.bytes().to_vec();
            let is_segment = matches!(parse(&octets), Parsed::Tcp(_));
            if is_segment && valid(&octets).is_some() == frame.is_corrupt {
                wrong = Some(format!(
                    "{} came out of {} with a checksum that is {}",
                    Pretty(&octets),
                    Pretty(&frame.octets),
                    if frame.is_corrupt { "right" } else { "wrong" },
                ));
            } else if octets.len() != frame.octets.len() {
                wrong = Some("a forwarded frame changed its length".into());
            }
            let is_as_sent = frame.is_as_sent && octets[LINK..] == frame.octets[LINK..];
            departures.push((side.peer(), Frame { octets, is_corrupt: frame.is_corrupt, is_as_sent }));
        }
        if frame.is_corrupt && !self.out.is_empty() {
            wrong = Some(format!("{} is corrupt and was answered", Pretty(&frame.octets)));
        }
        wrong = self.originated(&mut departures).or(wrong);
        (departures, wrong)
    }

    /// Serves timers.
    pub fn handle_timers(&mut self, now: Instant) -> (Vec<Departure>, Option<String>) {
        self.rotate(now);
        self.out.clear();
        for engine in &mut self.engines {
            while engine.handle_timers(now, &mut self.out) {}
        }
        self.look_at_timers();
        let mut departures = Vec::new();
        let wrong = self.originated(&mut departures);
        (departures, wrong)
    }

    fn look_at_timers(&mut self) {
        self.next_timer = self.engines.iter().filter_map(Engine::next_timer).min();
    }

    /// Another mode: always, or adaptive.
    pub fn reload(&mut self) {
        let policy = self.shared.policy();
        let mut service = policy.services()[0].clone();
        service.mode = if service.mode == Mode::Always { Mode::Adaptive } else { Mode::Always };
        self.shared.set_policy(Policy::new(vec![service], policy.limits, MTU as u16).expect("one service"));
    }

    /// A stop, and a start with what the run before has saved; the operator sees to it that no time passes.
    pub fn restart(&mut self, now: Instant) {
        let mut flows = Vec::new();
        self.shared.export_flows(now, |flow| flows.push(flow));
        let services = self.shared.export_services();
        self.runs += 1;
        let policy = Policy::clone(&self.shared.policy());
        (self.shared, self.engines) = run(policy, self.engines.len(), self.runs);
        self.install_keys(now);
        let past = Past { age: Duration::ZERO, is_exact: true, is_kept: false };
        self.engines[0].import(now, past, &services, flows);
        if self.keeper.is_some() {
            self.lend(now);
        }
        self.look_at_timers();
    }

    /// What SYN-ACKs say in the server's name.
    pub fn promises(&self, now: Instant) -> Promises {
        self.shared.promises(now)[0]
    }

    fn originated(&self, departures: &mut Vec<Departure>) -> Option<String> {
        let mut wrong = None;
        for (side, frame) in self.out.frames() {
            let octets = frame.bytes().to_vec();
            if valid(&octets).is_none() {
                wrong = Some(format!("{} was originated with a wrong checksum", Pretty(&octets)));
            }
            if octets.len() > LINK + MTU {
                wrong = Some(format!("{} was originated and exceeds the MTU", Pretty(&octets)));
            }
            departures.push((side, Frame { octets, is_corrupt: false, is_as_sent: false }));
        }
        wrong
    }

    pub fn next_timer(&self) -> Option<Instant> {
        self.next_timer
    }

    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// What the tables hold, if they hold anything.
    pub fn leftovers(&self) -> Option<String> {
        let snapshot = self.snapshot();
        let flows: u64 = snapshot.flows.iter().map(|(_, count)| count).sum();
        let half_open: u64 = snapshot.services.iter().map(|service| service.half_open).sum();
        for port in &snapshot.ports {
            if port.received != port.forwarded + port.consumed + port.dropped {
                return Some(format!("a frame without a fate, or with two: {port:?}"));
            }
        }
        if let Some(lent) = self.keeper.as_ref().map(|keeper| keeper.len()).filter(|lent| *lent != 0) {
            return Some(format!("{lent} flows are lent still"));
        }
        (flows + half_open + snapshot.early_data_octets != 0).then(|| {
            format!(
                "left behind: {:?}, {half_open} half-open, {} octets of early data",
                snapshot.flows, snapshot.early_data_octets
            )
        })
    }
}

/// The engines of a run.
fn run(policy: Policy, workers: usize, number: u64) -> (Arc<Shared>, Vec<Engine>) {
    let shared = Arc::new(Shared::new(policy, workers, [1 + number, 2]));
    let engines = (0..workers).map(|worker| Engine::new(shared.clone(), worker)).collect();
    (shared, engines)
}

/// Tables that are soon full, in which one network has an eighth.
fn small() -> Limits {
    Limits {
        max_flows: 1_024,
        max_flows_per_source: 128,
        max_half_open: 512,
        max_half_open_per_source: 64,
        ..Limits::default()
    }
}

const EPOCH: Duration = Duration::from_secs(32);
const MTU: usize = 1500;
