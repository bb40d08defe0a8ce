//! The laboratory: a client, a server, and the engine between them on a virtual clock.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use synwall::cookie::{KeyRing, MasterKey};
use synwall::engine::export::{FlowKey, Past, Restored};
use synwall::engine::fast::{FastFlow, FastPath};
use synwall::engine::policy::filter::Filter;
use synwall::engine::policy::{Limits, Mode, Policy, PortSet, Prefix, Service};
use synwall::engine::{DropReason, Engine, Keys, Outbox, Shared, Side, Snapshot, Verdict};
use synwall::time::{Instant, WallClock};
use synwall::wire::buffer::{FrameBuf, Offload};
use synwall::wire::checksum;
use synwall::wire::frame::{self, Layout, Parsed};
use synwall::wire::pretty::Pretty;
use synwall::wire::seq::SeqNumber;
use synwall::wire::tcp::Segment;

/// Near the wrap, so that every story crosses it.
pub const CLIENT_ISS: u32 = 0xffff_fff0;
pub const SERVER_ISS: u32 = 0xffff_ff00;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const URG: u8 = 32;
pub const ECE: u8 = 64;
pub const CWR: u8 = 128;

/// A segment to be sent by one of the ends.
#[derive(Clone, Debug)]
pub struct Seg {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    /// The urgent pointer; with [`Seg::urgent`] the flag, too.
    pub urgent: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    pub client_port: u16,
    /// The last two octets of the client's address; over IPv6 its subnet.
    pub client: [u8; 2],
    /// The octet before them; over IPv6 whose subnets those are.
    pub net: u8,
}

pub fn seg(flags: u8, seq: u32) -> Seg {
    Seg {
        flags,
        seq,
        ack: 0,
        window: 502,
        urgent: 0,
        options: Vec::new(),
        payload: Vec::new(),
        client_port: 40_000,
        client: [0, 1],
        net: 18,
    }
}

impl Seg {
    pub fn ack(mut self, ack: u32) -> Seg {
        self.flags |= ACK;
        self.ack = ack;
        self
    }

    pub fn window(mut self, window: u16) -> Seg {
        self.window = window;
        self
    }

    pub fn urgent(mut self, pointer: u16) -> Seg {
        self.flags |= URG;
        self.urgent = pointer;
        self
    }

    pub fn data(mut self, payload: &[u8]) -> Seg {
        self.payload = payload.to_vec();
        self
    }

    pub fn port(mut self, port: u16) -> Seg {
        self.client_port = port;
        self
    }

    pub fn raw(mut self, options: &[u8]) -> Seg {
        self.options.extend_from_slice(options);
        while !self.options.len().is_multiple_of(4) {
            self.options.push(1);
        }
        self
    }

    pub fn mss(self, mss: u16) -> Seg {
        let [high, low] = mss.to_be_bytes();
        self.raw(&[2, 4, high, low])
    }

    /// The same from, or to, the client 198.18.`client`.
    pub fn of_client(mut self, client: [u8; 2]) -> Seg {
        self.client = client;
        self
    }

    /// The same from, or to, a client of 198.`net`.
    pub fn of_net(mut self, net: u8) -> Seg {
        self.net = net;
        self
    }

    pub fn wscale(self, scale: u8) -> Seg {
        self.raw(&[1, 3, 3, scale])
    }

    pub fn sack_ok(self) -> Seg {
        self.raw(&[1, 1, 4, 2])
    }

    pub fn ts(self, value: u32, echo: u32) -> Seg {
        let mut option = vec![1, 1, 8, 10];
        option.extend(value.to_be_bytes());
        option.extend(echo.to_be_bytes());
        self.raw(&option)
    }

    pub fn sack(self, edges: &[u32]) -> Seg {
        let mut option = vec![5, 2 + 4 * edges.len() as u8];
        edges.iter().for_each(|edge| option.extend(edge.to_be_bytes()));
        self.raw(&option)
    }
}

/// The SYN of a current Linux.
pub fn linux_syn() -> Seg {
    seg(SYN, CLIENT_ISS)
        .window(64_240)
        .raw(&[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 3, 0xe8, 0, 0, 0, 0, 1, 3, 3, 7])
}

/// What a client was told in a SYN-ACK.
#[derive(Clone, Copy, Debug)]
pub struct Cookie {
    pub iss: u32,
    pub tsval: u32,
}

pub struct Lab {
    pub now: Instant,
    pub shared: Arc<Shared>,
    pub v6: bool,
    /// VLAN tags of every frame that is sent.
    pub tags: Vec<u8>,
    /// How the frames' checksums are marked.
    pub offload: Offload,
    /// Calls the engine: what is measured is measured here.
    pub around: fn(&mut dyn FnMut()),
    engine: Engine,
    buffer: FrameBuf,
    out: Outbox,
    epoch: u64,
    sent: Vec<(Side, Vec<u8>)>,
    before: BTreeMap<String, i64>,
}

pub fn service(mode: Mode) -> Service {
    let mut ports = PortSet::empty();
    ports.insert_range(80, 80);
    Service {
        name: "web".into(),
        prefix: Prefix::host("198.18.255.2".parse().unwrap()),
        ports,
        mode,
        max_half_open: 1_000,
        // Stories with the second SYN are in `second_syn`; the others are told without.
        second_syn: false,
        ..Service::default()
    }
}

impl Lab {
    pub fn new() -> Lab {
        Lab::with(|_, _| {})
    }

    pub fn v6() -> Lab {
        let mut lab =
            Lab::with(|service, _| service.prefix = Prefix::host("2001:db8:255::2".parse().unwrap()));
        lab.v6 = true;
        lab
    }

    pub fn with(change: impl FnOnce(&mut Service, &mut Limits)) -> Lab {
        let (mut service, mut limits) = (service(Mode::Always), Limits::default());
        change(&mut service, &mut limits);
        let policy = Policy::new(vec![service], limits, 1500).unwrap();
        let shared = Arc::new(Shared::new(policy, 2, [1, 2]));
        let mut lab = Lab {
            now: Instant::from_nanos(7_000_000_000),
            engine: Engine::new(shared.clone(), 0),
            around: |call| call(),
            buffer: FrameBuf::new(),
            out: Outbox::new(),
            shared,
            v6: false,
            tags: Vec::new(),
            offload: Offload::default(),
            epoch: 1000,
            sent: Vec::new(),
            before: BTreeMap::new(),
        };
        lab.install_keys();
        lab.before = lab.counters();
        lab
    }

    /// Another run of synwall with the same policy, its clock at `now`: other tables, another hash key; without keys.
    pub fn next_run(&self, now: Instant) -> Lab {
        let shared = Arc::new(Shared::new(Policy::clone(&self.shared.policy()), 1, [3, 4]));
        let mut lab = Lab {
            now,
            engine: Engine::new(shared.clone(), 0),
            buffer: FrameBuf::new(),
            out: Outbox::new(),
            shared,
            tags: self.tags.clone(),
            sent: Vec::new(),
            before: BTreeMap::new(),
            ..*self
        };
        lab.install_keys();
        lab.before = lab.counters();
        lab
    }

    /// Takes over what `other` would save now.
    pub fn import(&mut self, other: &Lab, past: Past) -> Restored {
        let mut flows = Vec::new();
        other.shared.export_flows(other.now, |flow| flows.push(flow));
        self.engine.import(self.now, past, &other.shared.export_services(), flows)
    }

    /// Takes over what a fast path has kept.
    pub fn adopt(
        &mut self,
        fast: &dyn FastPath,
        kept: impl IntoIterator<Item = (FlowKey, FastFlow)>,
    ) -> Restored {
        self.engine.adopt(self.now, fast, kept)
    }

    /// Replaces the only service's policy.
    pub fn set_policy(&mut self, change: impl FnOnce(&mut Service, &mut Limits)) {
        let policy = self.shared.policy();
        let (mut service, mut limits) = (policy.services()[0].clone(), policy.limits);
        change(&mut service, &mut limits);
        self.shared.set_policy(Policy::new(vec![service], limits, policy.mtu).unwrap());
    }

    /// Replaces the filter.
    pub fn set_filter(&mut self, deny: &[&str], allow: &[&str]) {
        let prefixes = |texts: &[&str]| -> Vec<Prefix> {
            let parse = |text: &&str| match text.split_once('/') {
                Some((address, len)) => Prefix::new(address.parse().unwrap(), len.parse().unwrap()).unwrap(),
                None => Prefix::host(text.parse().unwrap()),
            };
            texts.iter().map(parse).collect()
        };
        let filter = Filter::new(&prefixes(deny), &prefixes(allow)).unwrap();
        self.shared.set_policy(Policy::clone(&self.shared.policy()).with_filter(filter));
    }

    /// Sets the MTUs of the links to the client and to the server.
    pub fn set_mtus(&mut self, client: u16, server: u16) {
        self.shared.set_policy(Policy::clone(&self.shared.policy()).with_link_mtus(client, server));
    }

    fn install_keys(&mut self) {
        let ring = KeyRing::at(&MasterKey::from_bytes([7; 32]), self.epoch);
        self.shared
            .set_keys(Keys { ring, clock: WallClock { at: self.now, unix: Duration::from_secs(5_000) } });
    }

    /// The next key epoch begins.
    pub fn rotate(&mut self) {
        self.epoch += 1;
        self.install_keys();
    }

    /// Lets time pass; timers are served when they are due.
    pub fn advance(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        while let Some(due) = self.engine.next_timer().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.serve_timers();
        }
        self.now = end;
        self.serve_timers();
    }

    /// Serves all timers that are due.
    pub fn serve_timers(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        (self.around)(&mut || while self.engine.handle_timers(self.now, &mut out) {});
        self.collect(&out);
        self.out = out;
    }

    /// When the next timer is due.
    pub fn next_timer(&self) -> Option<Instant> {
        self.engine.next_timer()
    }

    /// Timers that are armed.
    pub fn armed_timers(&self) -> usize {
        self.engine.armed_timers()
    }

    /// The client sends a segment.
    pub fn client(&mut self, seg: Seg) -> Verdict {
        let frame = self.frame(Side::Client, &seg);
        self.inject(Side::Client, &frame)
    }

    /// The server sends a segment.
    pub fn server(&mut self, seg: Seg) -> Verdict {
        let frame = self.frame(Side::Server, &seg);
        self.inject(Side::Server, &frame)
    }

    /// A frame arrives.
    pub fn inject(&mut self, side: Side, frame: &[u8]) -> Verdict {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let verdict = self.run(side, frame, &mut out);
        self.collect(&out);
        self.out = out;
        verdict
    }

    /// A frame arrives whose checksum may be wrong though it is marked good: what comes of it is not looked at.
    pub fn inject_unchecked(&mut self, side: Side, frame: &[u8]) -> Verdict {
        self.run(side, frame, &mut Outbox::new())
    }

    fn run(&mut self, side: Side, frame: &[u8], out: &mut Outbox) -> Verdict {
        assert!(self.buffer.set_bytes(frame));
        self.buffer.set_offload(self.offload);
        let mut verdict = Verdict::Consume;
        (self.around)(&mut || verdict = self.engine.handle_frame(self.now, side, &mut self.buffer, out));
        if verdict == Verdict::Forward {
            assert_eq!(self.buffer.offload(), self.offload, "the offload header crosses as it is");
            self.sent.push((side.peer(), self.buffer.bytes().to_vec()));
        }
        verdict
    }

    fn collect(&mut self, out: &Outbox) {
        for (side, frame) in out.frames() {
            assert_eq!(frame.offload(), Offload::default(), "what is originated is complete");
            let is_sound = match frame::parse(frame.bytes()) {
                Parsed::IcmpError(error) => error.has_valid_checksum(frame.bytes()),
                // An error about no segment, without tags.
                Parsed::Other if self.v6 => {
                    let bytes = frame.bytes();
                    let address =
                        |at: usize| IpAddr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap());
                    let pseudo = checksum::pseudo_header_of(58, address(22), address(38), bytes.len() - 54);
                    checksum::add(checksum::sum(&bytes[54..]), pseudo) == 0xffff
                }
                Parsed::Other => checksum::sum(&frame.bytes()[34..]) == 0xffff,
                _ => parse(frame.bytes()).has_valid_tcp_checksum(frame.bytes()),
            };
            assert!(is_sound, "{}", Pretty(frame.bytes()));
            self.sent.push((side, frame.bytes().to_vec()));
        }
    }

    /// Asserts that exactly these frames came out since the last look, in this order.
    #[track_caller]
    pub fn expect(&mut self, expected: &[String]) -> Vec<Vec<u8>> {
        let sent = self.take();
        let printed: Vec<String> = sent
            .iter()
            .map(|(side, bytes)| {
                let name = match side {
                    Side::Client => "client >",
                    Side::Server => "server >",
                };
                format!("{name} {}", Pretty(bytes))
            })
            .collect();
        assert_eq!(printed, expected);
        self.check(&sent);
        sent.into_iter().map(|(_, bytes)| bytes).collect()
    }

    /// Takes what came out, its checksums and length verified.
    pub fn outcome(&mut self) -> Vec<(Side, Vec<u8>)> {
        let sent = self.take();
        self.check(&sent);
        sent
    }

    fn check(&self, sent: &[(Side, Vec<u8>)]) {
        for (_, bytes) in sent.iter().filter(|_| !self.offload.is_partial()) {
            let layout = parse(bytes);
            assert!(layout.has_valid_tcp_checksum(bytes), "checksum of {}", Pretty(bytes));
            assert!(layout.has_valid_ip_checksum(bytes));
            assert!(layout.end - layout.network.offset <= 1500, "MTU: {}", Pretty(bytes));
        }
    }

    /// Takes what came out, with the side it goes to.
    pub fn take(&mut self) -> Vec<(Side, Vec<u8>)> {
        std::mem::take(&mut self.sent)
    }

    /// Puts back what was taken, to be looked at again.
    pub fn put_back(&mut self, frame: (Side, Vec<u8>)) {
        self.sent.push(frame);
    }

    /// Asserts that nothing came out.
    #[track_caller]
    pub fn expect_nothing(&mut self) {
        self.expect(&[]);
    }

    /// Asserts that exactly these counters and gauges moved, by so much, since the last look.
    #[track_caller]
    pub fn expect_counters(&mut self, expected: &[(&str, i64)]) {
        let moved = self.moved();
        let expected: BTreeMap<String, i64> =
            expected.iter().map(|(name, value)| ((*name).into(), *value)).collect();
        assert_eq!(moved, expected);
    }

    /// The counters and gauges that moved, and by how much, since the last look.
    pub fn moved(&mut self) -> BTreeMap<String, i64> {
        let now = self.counters();
        let moved = now
            .iter()
            .map(|(name, value)| (name.clone(), value - self.before.get(name).unwrap_or(&0)))
            .filter(|(_, change)| *change != 0)
            .collect();
        self.before = now;
        moved
    }

    /// Looks away: what came out and what moved so far is not this story's concern.
    pub fn skip(&mut self) {
        self.sent.clear();
        self.before = self.counters();
    }

    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    fn counters(&self) -> BTreeMap<String, i64> {
        let snapshot = self.shared.snapshot();
        let mut all = BTreeMap::new();
        let mut put = |name: String, value: u64| all.insert(name, value as i64);
        for (side, port) in Side::ALL.iter().zip(&snapshot.ports) {
            assert_eq!(
                port.received,
                port.forwarded + port.consumed + port.dropped,
                "every frame has one fate"
            );
            for (name, value) in port.entries() {
                // Frames are asserted one by one; their number adds nothing to a story.
                if name == "originated" {
                    put(format!("{}.{name}", side.port()), value);
                }
            }
        }
        let web = &snapshot.services[0];
        web.values.counters.entries().into_iter().for_each(|(name, value)| _ = put(name.into(), value));
        for reason in DropReason::ALL {
            put(format!("drop.{}", reason.label()), web.values.dropped[reason.index()]);
            put(format!("drop.none.{}", reason.label()), snapshot.unserved.dropped[reason.index()]);
        }
        put("handshakes".into(), web.values.handshake.buckets.iter().sum());
        put("half_open".into(), web.half_open);
        put("backend_up".into(), u64::from(web.backend_up));
        put("early_data_octets".into(), snapshot.early_data_octets);
        snapshot.flows.iter().for_each(|(state, count)| _ = put(format!("flows.{state}"), *count));
        all
    }

    pub fn frame(&self, side: Side, seg: &Seg) -> Vec<u8> {
        let (client, server): (IpAddr, IpAddr) = match self.v6 {
            false => {
                let [third, fourth] = seg.client;
                (IpAddr::from([198, seg.net, third, fourth]), "198.18.255.2".parse().unwrap())
            }
            true => {
                // Without a subnet of its own: 2001:db8::1.
                let subnet = u16::from_be_bytes(seg.client).wrapping_sub(1);
                let site = u16::from(seg.net - 18);
                let client = [0x2001, 0xdb8, site, subnet, 0, 0, 0, 1];
                (IpAddr::from(client), "2001:db8:255::2".parse().unwrap())
            }
        };
        let (macs, addresses, ports) = match side {
            Side::Client => ([2, 1], (client, server), (seg.client_port, 80)),
            Side::Server => ([1, 2], (server, client), (80, seg.client_port)),
        };
        build(macs, &self.tags, addresses, ports, seg)
    }

    // Story openings.

    /// A Linux client's SYN is answered; returns what the SYN-ACK said.
    pub fn syn(&mut self) -> Cookie {
        self.syn_with(linux_syn())
    }

    pub fn syn_with(&mut self, syn: Seg) -> Cookie {
        assert_eq!(self.client(syn), Verdict::Consume);
        self.told()
    }

    /// What the SYN-ACK said that came out last.
    pub fn told(&self) -> Cookie {
        let (side, bytes) = self.sent.last().expect("a SYN-ACK");
        assert_eq!(*side, Side::Client);
        let segment = Segment::new(bytes, parse(bytes));
        Cookie { iss: segment.seq().0, tsval: segment.options().timestamps().map_or(0, |ts| ts.0) }
    }

    /// What the last SYN-ACK among the frames that came out said.
    pub fn told_client(&self) -> Cookie {
        let to_client = self.sent.iter().rev().find(|(side, _)| *side == Side::Client).expect("a SYN-ACK");
        let segment = Segment::new(&to_client.1, parse(&to_client.1));
        Cookie { iss: segment.seq().0, tsval: segment.options().timestamps().map_or(0, |ts| ts.0) }
    }

    /// A Linux client has returned its cookie, and the server has been sent a SYN.
    pub fn syn_sent(&mut self) -> Cookie {
        let cookie = self.syn();
        assert_eq!(self.client(self.client_ack(cookie)), Verdict::Consume);
        self.skip();
        cookie
    }

    /// Clients of three networks ask, and the server answers each of them like this: what they were not granted is then known.
    pub fn teach(&mut self, answer: &Seg) {
        for third in 101..=103 {
            let of = |seg: Seg| seg.of_client([third, 1]).port(9);
            let cookie = self.syn_with(of(linux_syn()));
            let mut ack = self.client_ack(cookie);
            if cookie.tsval == 0 {
                ack.options.clear();
            }
            assert_eq!(self.client(of(ack)), Verdict::Consume);
            assert_eq!(self.server(of(answer.clone())), Verdict::Consume);
        }
        self.skip();
    }

    /// The third segment of the client's handshake.
    pub fn client_ack(&self, cookie: Cookie) -> Seg {
        seg(ACK, CLIENT_ISS.wrapping_add(1)).ack(cookie.iss.wrapping_add(1)).ts(1001, cookie.tsval)
    }

    /// The SYN-ACK of a current Linux server, its clock at 9000.
    pub fn server_syn_ack(&self) -> Seg {
        let options = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0x23, 0x28, 0, 0, 3, 0xe9, 1, 3, 3, 7];
        seg(SYN, SERVER_ISS).ack(CLIENT_ISS.wrapping_add(1)).window(65_160).raw(&options)
    }

    /// The connection is open on both sides.
    pub fn established(&mut self) -> Cookie {
        let cookie = self.syn_sent();
        assert_eq!(self.server(self.server_syn_ack()), Verdict::Consume);
        self.skip();
        cookie
    }
}

fn build(macs: [u8; 2], tags: &[u8], addresses: (IpAddr, IpAddr), ports: (u16, u16), seg: &Seg) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(ports.0.to_be_bytes());
    tcp.extend(ports.1.to_be_bytes());
    tcp.extend(seg.seq.to_be_bytes());
    tcp.extend(seg.ack.to_be_bytes());
    tcp.extend([(((20 + seg.options.len()) / 4) << 4) as u8, seg.flags]);
    tcp.extend(seg.window.to_be_bytes());
    tcp.extend([0; 2]);
    tcp.extend(seg.urgent.to_be_bytes());
    tcp.extend(&seg.options);
    tcp.extend(&seg.payload);
    let sum =
        checksum::add(checksum::sum(&tcp), checksum::pseudo_header(addresses.0, addresses.1, tcp.len()));
    tcp[16..18].copy_from_slice(&(!sum).to_be_bytes());
    let mut frame = vec![2, 0, 0, 0, 0, macs[0], 2, 0, 0, 0, 0, macs[1]];
    frame.extend(tags);
    match addresses {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([8, 0]);
            let at = frame.len();
            frame.extend([0x45, 0]);
            frame.extend((20 + tcp.len() as u16).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 61, 6, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
            let sum = !checksum::sum(&frame[at..]);
            frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((tcp.len() as u16).to_be_bytes());
            frame.extend([6, 61]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => unreachable!(),
    }
    frame.extend(tcp);
    frame
}

/// Where the segment of a frame that must hold one is.
pub fn parse(bytes: &[u8]) -> Layout {
    match frame::parse(bytes) {
        Parsed::Tcp(layout) => layout,
        other => panic!("no segment: {other:?}"),
    }
}

/// A number of the server's as a client that was given `cookie` knows it.
pub fn as_client(cookie: Cookie, seq: u32) -> u32 {
    SeqNumber(seq).sub(SERVER_ISS.wrapping_sub(cookie.iss)).0
}

/// `n` after the client's ISS.
pub fn c(n: u32) -> u32 {
    CLIENT_ISS.wrapping_add(n)
}

/// `n` after the server's ISS.
pub fn s(n: u32) -> u32 {
    SERVER_ISS.wrapping_add(n)
}
