//! The engine with its connections, and what must hold after every step.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use synwall::cookie::{KeyRing, MasterKey};
use synwall::engine::policy::filter::Filter;
use synwall::engine::policy::{
    Budgets, Limits, Mode, Policy, PortSet, Prefix, ServerOptions, Service, Threshold,
};
use synwall::engine::{Engine, Keys, Outbox, Shared, Side, Verdict};
use synwall::time::{Instant, WallClock};
use synwall::wire::buffer::{FrameBuf, Offload};
use synwall::wire::frame::{self, Layout, Parsed, Version};
use synwall::wire::pretty::Pretty;
use synwall::wire::tcp::{Flags, Segment};

use super::ends::{self, End, Outgoing, Peer, pattern};
use super::{Kind, Step, icmp};

pub struct World {
    now: Instant,
    /// The latest time so far: the clock may leap back.
    latest: Instant,
    epoch: u64,
    unix: Duration,
    shared: Arc<Shared>,
    engine: Engine,
    buffer: FrameBuf,
    out: Outbox,
    peers: [Peer; PEERS],
    caps: Caps,
    received: [u64; 2],
    originated: [u64; 2],
    /// What came out last on each side.
    seen: [Vec<u8>; 2],
    /// Something was sent that no end keeps track of: what is replayed may be anything.
    is_tainted: bool,
}

/// The largest caps so far: a smaller cap admits nothing new and evicts nothing old.
#[derive(Default)]
struct Caps {
    flows: u64,
    half_open: u64,
    early_data: u64,
}

impl World {
    pub fn new(start: u8) -> World {
        let shared = Arc::new(Shared::new(policy(0, 0), 1, [1, 2]));
        let now = Instant::from_nanos(STARTS[usize::from(start) % STARTS.len()]);
        let mut world = World {
            now,
            latest: now,
            epoch: 1000,
            unix: Duration::from_secs(5_000),
            engine: Engine::new(shared.clone(), 0),
            shared,
            buffer: FrameBuf::new(),
            out: Outbox::new(),
            peers: std::array::from_fn(peer),
            caps: Caps::default(),
            received: [0; 2],
            originated: [0; 2],
            seen: Default::default(),
            is_tainted: false,
        };
        world.obey(policy(0, 0));
        world.install_key();
        world
    }

    pub fn step(&mut self, kind: Kind, step: &Step, raw: &[u8]) {
        let peer = usize::from(step.peer) % PEERS;
        match kind {
            Kind::Client => self.send(peer, Side::Client, step, false),
            Kind::Server => self.send(peer, Side::Server, step, false),
            Kind::ClientDamaged => self.send(peer, Side::Client, step, true),
            Kind::ServerDamaged => self.send(peer, Side::Server, step, true),
            Kind::Open => self.open(peer, Side::Client, step),
            Kind::ServerOpens => self.open(peer, Side::Server, step),
            Kind::Answer => {
                let answer = self.peers[peer].answer(step);
                self.transmit(peer, Side::Server, step, &answer, false);
            }
            Kind::Wait => self.wait(Duration::from_millis(1 << (step.amount % 24))),
            Kind::Key => self.rotate(step),
            Kind::Policy => self.obey(policy(step.amount, step.flags)),
            Kind::Raw => {
                self.is_tainted = true;
                let side = Side::ALL[peer % 2];
                self.inject(side, raw, offload(step, raw));
            }
            Kind::Leap => self.leap(step),
            Kind::Icmp => self.report(Side::ALL[peer % 2], step),
        }
        self.check();
    }

    /// Lets everything end, and finds nothing left.
    pub fn finish(mut self) {
        for _ in 0..ENOUGH_LEAPS {
            self.latest = self.latest.after(Duration::from_secs(30 * 86_400));
            self.now = self.latest;
            self.serve_timers();
        }
        self.check();
        let snapshot = self.shared.snapshot();
        assert!(snapshot.flows.iter().all(|(_, count)| *count == 0), "{:?}", snapshot.flows);
        assert_eq!((snapshot.early_data_octets, self.engine.next_timer()), (0, None));
    }

    fn open(&mut self, peer: usize, side: Side, step: &Step) {
        let opening = self.peers[peer].opening(side, step);
        self.transmit(peer, side, step, &opening, false);
    }

    fn send(&mut self, peer: usize, side: Side, step: &Step, is_damaged: bool) {
        let segment = self.peers[peer].segment(side, step);
        let verdict = self.transmit(peer, side, step, &segment, is_damaged);
        // What was dropped is lost: the next segment begins where this one did.
        if step.seq == 0 && !is_damaged && !matches!(verdict, Verdict::Drop(_)) {
            let controls = u32::from(segment.flags & 1) + u32::from(segment.flags >> 1 & 1);
            self.peers[peer].end(side).next =
                segment.seq.wrapping_add(segment.payload.len() as u32 + controls);
        }
    }

    fn transmit(
        &mut self,
        peer: usize,
        side: Side,
        step: &Step,
        segment: &Outgoing,
        is_damaged: bool,
    ) -> Verdict {
        let mut bytes = self.peers[peer].frame(side, segment, step.options & ends::TAGGED != 0);
        if is_damaged {
            self.is_tainted = true;
            let at = usize::from(step.seq) % bytes.len();
            bytes[at] ^= step.ack;
        }
        let verdict = self.inject(side, &bytes, offload(step, &bytes));
        if side == Side::Client && segment.flags & (Flags::SYN.0 | Flags::ACK.0) == Flags::SYN.0 {
            // An entry whose time is over may have made room for it: then its server is told, too.
            let to_client = self.out.frames().filter(|(side, _)| *side == Side::Client);
            let answers: usize = to_client.map(|(_, frame)| frame.bytes().len()).sum();
            assert!(answers <= bytes.len().max(SHORTEST_ANSWER), "an answer is never longer than the SYN");
        }
        verdict
    }

    fn inject(&mut self, side: Side, bytes: &[u8], offload: Offload) -> Verdict {
        self.received[side.index()] += 1;
        self.out.clear();
        assert!(self.buffer.set_bytes(bytes));
        self.buffer.set_offload(offload);
        let verdict = self.engine.handle_frame(self.now, side, &mut self.buffer, &mut self.out);
        if verdict == Verdict::Forward {
            self.forwarded(side.peer(), bytes, offload);
        }
        self.deliver_originated();
        verdict
    }

    /// A router behind `side` reports an error about what it was sent last, quoted as it was and cut somewhere.
    fn report(&mut self, side: Side, step: &Step) {
        if let Some(error) = icmp::error(&self.seen[side.index()], step) {
            self.inject(side, &error, Offload::default());
        }
    }

    /// A frame that crosses keeps its length, its payload and the validity of its checksums.
    fn forwarded(&mut self, side: Side, before: &[u8], offload: Offload) {
        let after = self.buffer.bytes();
        assert_eq!((after.len(), self.buffer.offload()), (before.len(), offload));
        let layout = match frame::parse(before) {
            Parsed::Tcp(layout) => layout,
            Parsed::IcmpError(error) => {
                assert_eq!(frame::parse(after), Parsed::IcmpError(error));
                assert!(error.has_valid_checksum(after) || !error.has_valid_checksum(before));
                return;
            }
            Parsed::Unreadable(..) | Parsed::Other => {
                assert_eq!(after, before, "what is no segment crosses unchanged");
                return;
            }
        };
        assert_eq!(frame::parse(after), Parsed::Tcp(layout));
        assert_eq!(after[layout.payload..], before[layout.payload..]);
        assert_eq!(headers(after, layout), headers(before, layout));
        assert!(layout.has_valid_ip_checksum(after) || !layout.has_valid_ip_checksum(before));
        if !offload.is_partial() && layout.has_valid_tcp_checksum(before) {
            assert!(layout.has_valid_tcp_checksum(after), "{} became {}", Pretty(before), Pretty(after));
        }
        self.seen[side.index()] = after.to_vec();
        deliver(&mut self.peers, side, after, layout);
    }

    fn deliver_originated(&mut self) {
        let mtu = usize::from(self.shared.policy().mtu);
        let mut count = 0;
        for (side, frame) in self.out.frames() {
            let bytes = frame.bytes();
            assert_eq!(frame.offload(), Offload::default());
            self.originated[side.index()] += 1;
            count += 1;
            let layout = match frame::parse(bytes) {
                Parsed::Tcp(layout) => layout,
                Parsed::IcmpError(error) => {
                    assert!(error.has_valid_checksum(bytes));
                    continue;
                }
                // An error about something that is not TCP.
                Parsed::Other => continue,
                Parsed::Unreadable(..) => panic!("{}", Pretty(bytes)),
            };
            assert!(
                layout.has_valid_tcp_checksum(bytes) && layout.has_valid_ip_checksum(bytes),
                "{}",
                Pretty(bytes)
            );
            assert!(
                layout.end == bytes.len() && layout.end - layout.network.offset <= mtu,
                "{}",
                Pretty(bytes)
            );
            let segment = Segment::new(bytes, layout);
            let is_sound = |(n, octet): (u32, &u8)| *octet == pattern(segment.seq().add(n).0);
            assert!(self.is_tainted || (0..).zip(segment.payload()).all(is_sound), "replayed as it was sent");
            self.seen[side.index()] = bytes.to_vec();
            deliver(&mut self.peers, side, bytes, layout);
        }
        assert!(count <= MOST_ORIGINATED, "{count} frames in answer to one");
    }

    fn wait(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        for _ in 0..1000 {
            match self.engine.next_timer() {
                Some(due) if due <= end => self.now = self.now.max(due),
                _ => break,
            }
            self.serve_timers();
        }
        self.now = end;
        self.latest = self.latest.max(end);
        self.serve_timers();
    }

    fn leap(&mut self, step: &Step) {
        let leap = Duration::from_millis(1 << (step.amount % 32));
        self.now = match step.flags % 2 {
            0 => self.now.after(leap),
            _ => Instant::from_nanos(self.now.as_nanos().saturating_sub(leap.as_nanos() as u64)),
        };
        self.latest = self.latest.max(self.now);
        self.serve_timers();
    }

    fn serve_timers(&mut self) {
        for _ in 0..1000 {
            self.out.clear();
            let has_more = self.engine.handle_timers(self.now, &mut self.out);
            self.deliver_originated();
            if !has_more {
                return;
            }
        }
        panic!("timers without end");
    }

    fn rotate(&mut self, step: &Step) {
        self.epoch = self.epoch.wrapping_add([1, 1, 2, 3][usize::from(step.flags % 4)]);
        self.unix = match step.seq % 4 {
            0 | 1 => self.unix,
            2 => self.unix.saturating_add(Duration::from_secs(86_400)),
            _ => self.unix.saturating_sub(Duration::from_secs(86_400)),
        };
        self.install_key();
    }

    fn install_key(&self) {
        let ring = KeyRing::at(&MasterKey::from_bytes([7; 32]), self.epoch);
        self.shared.set_keys(Keys { ring, clock: WallClock { at: self.now, unix: self.unix } });
    }

    fn obey(&mut self, policy: Policy) {
        let limits = &policy.limits;
        self.caps = Caps {
            flows: self.caps.flows.max(limits.max_flows.into()),
            half_open: self.caps.half_open.max(limits.max_half_open.into()),
            early_data: self.caps.early_data.max(limits.early_data_total),
        };
        self.shared.set_policy(policy);
    }

    /// Every frame had one fate, every reason is counted, and no table is over its cap.
    fn check(&self) {
        let snapshot = self.shared.snapshot();
        for (index, port) in snapshot.ports.iter().enumerate() {
            assert_eq!(port.received, self.received[index]);
            assert_eq!(port.received, port.forwarded + port.consumed + port.dropped);
            assert_eq!(port.originated, self.originated[index]);
        }
        let rows = snapshot.services.iter().map(|service| &service.values).chain([&snapshot.unserved]);
        let dropped: u64 = rows.flat_map(|values| values.dropped).sum();
        assert_eq!(dropped, snapshot.ports.iter().map(|port| port.dropped).sum::<u64>());
        let half_open: u64 = snapshot.services.iter().map(|service| service.half_open).sum();
        let (_, in_table) = snapshot.flows[0];
        assert_eq!(half_open, in_table, "half-open entries by service and in all");
        // What is only watched has a table of its own, half as large.
        assert!(half_open <= self.caps.half_open + self.caps.half_open.div_ceil(2));
        assert!(snapshot.flows[1..].iter().map(|(_, count)| count).sum::<u64>() <= self.caps.flows);
        assert!(snapshot.early_data_octets <= self.caps.early_data);
    }
}

/// The headers before TCP, without the mark of ECN, which a server that does not take part must not see.
fn headers(frame: &[u8], layout: Layout) -> Vec<u8> {
    let mut headers = frame[..layout.tcp].to_vec();
    layout.network.clear_ecn(&mut headers);
    if layout.network.version == Version::V4 {
        headers[layout.network.offset + 10..layout.network.offset + 12].fill(0);
    }
    headers
}

/// Gives a frame that came out to the end that it is for.
fn deliver(peers: &mut [Peer; PEERS], side: Side, bytes: &[u8], layout: Layout) {
    let segment = Segment::new(bytes, layout);
    let (client_port, server_port) = match side {
        Side::Client => (segment.destination_port(), segment.source_port()),
        Side::Server => (segment.source_port(), segment.destination_port()),
    };
    if let Some(peer) = peers.iter_mut().find(|peer| peer.ports == (client_port, server_port)) {
        peer.deliver(side, &segment);
    }
}

fn offload(step: &Step, bytes: &[u8]) -> Offload {
    let flag = |bit, flag| if step.options & bit != 0 { flag } else { 0 };
    Offload {
        flags: flag(ends::PARTIAL_CHECKSUM, Offload::NEEDS_CSUM)
            | flag(ends::CLAIMED_GOOD, Offload::DATA_VALID),
        gso_type: u8::from(bytes.len() > 1514),
        ..Offload::default()
    }
}

/// Connection number `index` before anything was sent.
pub fn peer(index: usize) -> Peer {
    let addresses = match index {
        0..4 | 6.. => (CLIENTS[0], "198.18.255.2"),
        4..6 => (CLIENTS[1], "2001:db8:255::2"),
    };
    let server_port = [80, 80, 80, 80, 80, 80, 81, 82][index];
    let end = End { clock: 0xffff_fff0, ..End::default() };
    Peer {
        client: end,
        server: end,
        addresses: (addresses.0.parse().expect("an address"), addresses.1.parse().expect("an address")),
        ports: (40_000 + index as u16, server_port),
    }
}

/// The policy in which each bit is something that is unusual.
fn policy(low: u8, high: u8) -> Policy {
    let bits = u16::from_be_bytes([high, low]);
    let has = |bit: u8| bits & 1 << bit != 0;
    let limits = Limits {
        max_flows: if has(0) { 3 } else { 8 },
        max_half_open: if has(1) { 2 } else { 6 },
        early_data_total: if has(2) { 4096 } else { 64 << 10 },
        max_flows_per_source: if has(8) { 1 } else { 8 },
        max_half_open_per_source: if has(8) { 1 } else { 6 },
        reset_expired: has(9),
        ..if has(3) { short() } else { Limits::default() }
    };
    let modes = match has(4) {
        false => [Mode::Always, Mode::Adaptive, Mode::Monitor],
        true => [Mode::Monitor, Mode::Off, Mode::Adaptive],
    };
    let servers = ["198.18.255.2", "2001:db8:255::2", "198.18.255.2"];
    let mut services: Vec<Service> = (0..3)
        .map(|index| {
            let mut ports = PortSet::empty();
            let port = if index == 2 { 81 } else { 80 };
            ports.insert_range(port, port);
            Service {
                name: format!("service-{index}"),
                prefix: Prefix::host(servers[index].parse().expect("an address")),
                ports,
                mode: modes[index],
                early_data: if has(5) { 536 } else { 14_600 },
                require_timestamps: has(6),
                server: match has(6) {
                    false => ServerOptions { ecn: has(14), ..ServerOptions::default() },
                    true => {
                        ServerOptions { mss: Some(1220), wscale: None, sack: false, ..Default::default() }
                    }
                },
                max_flows: limits.max_flows.min(8),
                max_half_open: limits.max_half_open.min(4),
                reset_unknown: has(10),
                server_speaks_first: has(11),
                refuse_silent: has(12),
                second_syn: !has(15),
                budgets: if has(13) { scarce() } else { Budgets::default() },
                activate_at: Threshold { half_open: 3, syn_rate: 20 },
                deactivate_at: Threshold { half_open: 1, syn_rate: 2 },
                min_active: Duration::from_secs(1),
                syn_timeout: Duration::from_secs(2),
            }
        })
        .collect();
    // Names that change places: the state of each position begins anew.
    if has(7) {
        services[0].name = "renamed".into();
    }
    let clients = [Prefix::host(CLIENTS[0].parse().expect("an address"))];
    let filter = match (has(15), has(7)) {
        (false, _) => Filter::none(),
        (true, true) => Filter::new(&clients, &[]).expect("one rule"),
        (true, false) => Filter::new(&[], &clients).expect("one rule"),
    };
    let policy =
        Policy::new(services, limits, 1500).expect("services that do not overlap").with_filter(filter);
    if has(7) { policy.with_link_mtus(1500, 1280) } else { policy }
}

/// Budgets that a story spends.
fn scarce() -> Budgets {
    let rate = NonZeroU32::new;
    Budgets {
        synack: rate(4),
        syn_per_source: rate(2),
        connections_per_source: rate(2),
        backend_syn: rate(2),
        reset: rate(1),
    }
}

fn short() -> Limits {
    Limits {
        established: Duration::from_secs(5),
        half_closed: Duration::from_secs(4),
        closing: Duration::from_secs(3),
        time_wait: Duration::from_secs(2),
        reset: Duration::from_millis(500),
        ..Limits::default()
    }
}

const PEERS: usize = 8;
const CLIENTS: [&str; 2] = ["198.18.0.1", "2001:db8::1"];
/// The largest early data in segments of the smallest MSS, and what comes with them.
const MOST_ORIGINATED: usize = 14_600 / (48 - 12) + 3;
/// RST without options, in a tagged frame over IPv6.
const SHORTEST_ANSWER: usize = 18 + 40 + 20;
/// More timeouts than any entry goes through.
const ENOUGH_LEAPS: usize = 16;
/// An ordinary time, the beginning, just before 2^32 ms, just before 2^63 ns.
const STARTS: [u64; 4] = [7_000_000_000, 0, (1 << 32) * 1_000_000 - 1_500_000_000, (1 << 63) - 1_500_000_000];
