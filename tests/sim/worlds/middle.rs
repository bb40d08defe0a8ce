//! What stands in the middle: the engine on a virtual clock with keys that rotate, or nothing at all.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use synwall::cookie::{KeyRing, MasterKey};
use synwall::engine::policy::{Limits, Mode, Policy, PortSet, Prefix, Service, Threshold};
use synwall::engine::{Engine, Keys, Outbox, Shared, Side, Snapshot, Verdict};
use synwall::time::{Instant, WallClock};
use synwall::wire::buffer::FrameBuf;
use synwall::wire::pretty::Pretty;

use super::grid::World;
use super::network::Frame;
use super::packet::{LINK, valid};

/// The engine, and what a worker has around it.
pub struct Middle {
    engine: Engine,
    shared: Arc<Shared>,
    buffer: FrameBuf,
    out: Outbox,
    epoch: u64,
    next_epoch: Instant,
    next_timer: Option<Instant>,
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
            server: world.told,
            server_speaks_first: world.repeats_syn_acks,
            ..Service::default()
        };
        let policy = Policy::new(vec![service], Limits::default(), MTU as u16).expect("one service");
        let shared = Arc::new(Shared::new(policy, 1, [1, 2]));
        let middle = Middle {
            engine: Engine::new(shared.clone(), 0),
            shared,
            buffer: FrameBuf::new(),
            out: Outbox::new(),
            epoch: 1_000,
            next_epoch: now.after(world.first_epoch),
            next_timer: None,
        };
        middle.install_keys(now);
        middle
    }

    fn install_keys(&self, now: Instant) {
        let ring = KeyRing::at(&MasterKey::from_bytes([7; 32]), self.epoch);
        let unix = Duration::from_secs(1_760_000_000) + now.since(Instant::ZERO);
        self.shared.set_keys(Keys { ring, clock: WallClock { at: now, unix } });
    }

    fn rotate(&mut self, now: Instant) {
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
        let verdict = self.engine.handle_frame(now, side, &mut self.buffer, &mut self.out);
        self.next_timer = self.engine.next_timer();
        let mut wrong = None;
        let mut departures = Vec::new();
        if verdict == Verdict::Forward {
            let octets = self.buffer.bytes().to_vec();
            if valid(&octets).is_some() == frame.is_corrupt {
                wrong = Some(format!(
                    "{} came out of {} with a checksum that is {}",
                    Pretty(&octets),
                    Pretty(&frame.octets),
                    if frame.is_corrupt { "right" } else { "wrong" },
                ));
            } else if octets.len() != frame.octets.len() {
                wrong = Some("a forwarded frame changed its length".into());
            }
            departures.push((side.peer(), Frame { octets, is_corrupt: frame.is_corrupt }));
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
        while self.engine.handle_timers(now, &mut self.out) {}
        self.next_timer = self.engine.next_timer();
        let mut departures = Vec::new();
        let wrong = self.originated(&mut departures);
        (departures, wrong)
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
            departures.push((side, Frame { octets, is_corrupt: false }));
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
        (flows + half_open + snapshot.early_data_octets != 0).then(|| {
            format!(
                "left behind: {:?}, {half_open} half-open, {} octets of early data",
                snapshot.flows, snapshot.early_data_octets
            )
        })
    }
}

const EPOCH: Duration = Duration::from_secs(32);
const MTU: usize = 1500;
