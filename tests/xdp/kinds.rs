<<<<<<< HEAD
//! Random frames, kind by kind.

use std::net::SocketAddr;

use synwall::engine::Side;

use crate::flows::{Live, Place};
use crate::odd;
use crate::packets::frames::*;
use crate::random::Random;
=======
//! The kinds of random frames.

use synwall::engine::Side;

use crate::maker::Maker;
use crate::odd;
>>>>>>> main
use crate::world::World;

/// A kind of frame.
pub struct Kind {
    pub name: &'static str,
    /// How often it comes.
    pub weight: usize,
    /// How many percent of it the program may leave to the engine.
    pub most_up: usize,
<<<<<<< HEAD
    pub make: fn(&mut Maker, &World) -> Option<(Side, Vec<u8>)>,
}

/// What makes frames.
pub struct Maker {
    pub random: Random,
    /// Challenging services.
    targets: &'static [&'static str],
    next_port: u16,
    pub flows: Vec<Live>,
    /// Those that one end has ended.
    pub ending: Vec<Live>,
    /// Answered, and not yet returned.
    pub cookies: Vec<Live>,
    /// Returned, and not yet open.
    pub pending: Vec<Live>,
}
=======
    pub make: Make,
}

/// Makes a frame, if there is what it would aim at.
type Make = fn(&mut Maker, &World) -> Option<(Side, Vec<u8>)>;
>>>>>>> main

pub const KINDS: &[Kind] = &[
    Kind { name: "SYN", weight: 16, most_up: 0, make: |m, _| Some(m.syn()) },
    Kind { name: "SYN, nonsense", weight: 8, most_up: 0, make: |m, _| Some(m.bad_syn()) },
    Kind { name: "SYN, let through", weight: 2, most_up: 100, make: |m, _| Some(m.quiet_syn()) },
    Kind { name: "cookie, good", weight: 5, most_up: 100, make: |m, _| m.good_cookie() },
    Kind { name: "cookie, forged", weight: 10, most_up: 0, make: |m, _| m.forged_cookie() },
<<<<<<< HEAD
    Kind { name: "flow, from client", weight: 12, most_up: 0, make: |m, w| m.flow(w, Side::Client) },
    Kind { name: "flow, from server", weight: 12, most_up: 0, make: |m, w| m.flow(w, Side::Server) },
    Kind { name: "flow, outside the window", weight: 4, most_up: 0, make: Maker::outside },
=======
    Kind { name: "flow, from client", weight: 12, most_up: 2, make: |m, w| m.flow(w, Side::Client) },
    Kind { name: "flow, from server", weight: 12, most_up: 2, make: |m, w| m.flow(w, Side::Server) },
    Kind { name: "flow, outside the window", weight: 4, most_up: 2, make: Maker::outside },
>>>>>>> main
    Kind { name: "flow, rare options", weight: 4, most_up: 100, make: Maker::rare },
    Kind { name: "flow, its end", weight: 1, most_up: 100, make: Maker::end },
    Kind { name: "flow, ending", weight: 3, most_up: 100, make: Maker::ending },
    Kind { name: "pending", weight: 3, most_up: 100, make: |m, _| m.of_pending() },
    Kind { name: "stray, from client", weight: 6, most_up: 0, make: |m, _| Some(m.stray()) },
    Kind { name: "stray, from server", weight: 2, most_up: 100, make: |m, _| Some(m.stray_of_server()) },
    Kind { name: "denied", weight: 4, most_up: 0, make: |m, _| Some(m.denied()) },
    Kind { name: "not challenged", weight: 5, most_up: 0, make: |m, _| Some(m.not_challenged()) },
    Kind { name: "foreign", weight: 8, most_up: 0, make: |m, _| Some(odd::foreign(m)) },
    Kind { name: "odd headers", weight: 6, most_up: 100, make: |m, w| odd::headers(m, w) },
    Kind { name: "malformed", weight: 3, most_up: 0, make: |m, _| Some(odd::malformed(m)) },
    Kind { name: "garbage", weight: 4, most_up: 5, make: |m, _| Some(odd::garbage(m)) },
    Kind { name: "mutated", weight: 10, most_up: 25, make: odd::mutated },
];

pub const MANY_TARGETS: [&str; 12] = [
    "198.18.255.2:80",
    "[2001:db8:255::2]:80",
    "[2001:db8:255::2]:443",
    "198.18.255.3:1000",
    "198.18.255.4:443",
    "198.18.255.5:25",
    "198.18.240.1:9",
    "198.18.240.7:80",
    "198.18.240.7:82",
    "[2001:db8:240:1::7]:2000",
    "198.18.255.10:80",
    "198.18.240.255:65535",
];
pub const FEW_TARGETS: [&str; 4] =
    ["198.18.255.2:80", "[2001:db8:255::2]:80", "[2001:db8:255::2]:443", "198.18.255.10:80"];
<<<<<<< HEAD

impl Maker {
    pub fn new(seed: u64, targets: &'static [&'static str]) -> Maker {
        let [flows, ending, cookies, pending] = [const { Vec::new() }; 4];
        Maker { random: Random(seed), targets, next_port: 1024, flows, ending, cookies, pending }
    }

    /// A frame of any kind, by weight, and the number of its kind. Where there is nothing to aim at another kind comes.
    pub fn frame(&mut self, world: &World) -> (usize, Side, Vec<u8>) {
        let total: usize = KINDS.iter().map(|kind| kind.weight).sum();
        loop {
            let mut at = self.random.below(total);
            let kind = KINDS.iter().position(|kind| {
                let is_it = at < kind.weight;
                at = at.saturating_sub(kind.weight);
                is_it
            });
            let kind = kind.unwrap();
            if let Some((side, frame)) = (KINDS[kind].make)(self, world) {
                return (kind, side, frame);
            }
        }
    }

    /// A number, more often than not near the wrap.
    pub fn number(&mut self) -> u32 {
        match self.random.below(3) {
            0 => self.random.word(),
            1 => 0u32.wrapping_sub(self.random.below(3_000) as u32),
            _ => self.random.pick(&[0, 1, u32::MAX, 0x7fff_ffff, 0x8000_0000]),
        }
    }

    /// A client that has not been there.
    pub fn client(&mut self, is_v6: bool) -> SocketAddr {
        self.next_port = self.next_port.checked_add(1).unwrap_or(1024);
        let (a, b) = (self.random.octet() & 7, self.random.octet());
        match is_v6 {
            false => ([198, 18, a, b], self.next_port).into(),
            true => ([0x2001, 0xdb8, u16::from(a), 0, 0, 0, 1, u16::from(b)], self.next_port).into(),
        }
    }

    pub fn challenged_ends(&mut self) -> (SocketAddr, SocketAddr) {
        let server: SocketAddr = self.random.pick(self.targets).parse().unwrap();
        (self.client(server.is_ipv6()), server)
    }

    pub fn tags(&mut self) -> Vec<u8> {
        match self.random.below(6) {
            0 => VLAN.to_vec(),
            1 => QINQ.to_vec(),
            _ => vec![],
        }
    }

    /// The options of a SYN, in any order, with timestamps more often than not.
    pub fn syn_options(&mut self) -> Vec<u8> {
        let mut list: Vec<Vec<u8>> = Vec::new();
        let mss = self.random.pick(&[64u16, 536, 1220, 1300, 1440, 1460, 8960, 65_535]).to_be_bytes();
        if !self.random.one_in(4) {
            list.push(vec![2, 4, mss[0], mss[1]]);
        }
        if !self.random.one_in(3) {
            list.push(vec![4, 2]);
        }
        if !self.random.one_in(3) {
            let value = self.random.word().to_be_bytes();
            list.push([&[8, 10], &value[..], &[0; 4]].concat());
        }
        if !self.random.one_in(3) {
            list.push(vec![3, 3, self.random.below(17) as u8]);
        }
        while self.random.one_in(4) {
            let odd: &[&[u8]] = &[
                &[1],
                &[1, 1],
                &[34, 2],
                &[254, 4, 1, 2],
                &[19, 4, 0, 0],
                &[5, 10, 1, 2, 3, 4, 5, 6, 7, 8],
                &[0],
                &[3, 0],
                &[8, 11],
            ];
            list.push(self.random.pick(odd).to_vec());
        }
        for at in (1..list.len()).rev() {
            let other = self.random.below(at + 1);
            list.swap(at, other);
        }
        let mut octets = list.concat();
        octets.truncate(40);
        octets
    }

    fn syn(&mut self) -> (Side, Vec<u8>) {
        let (client, server) = self.challenged_ends();
        let (seq, tags, options) = (self.number(), self.tags(), self.syn_options());
        let flags = if self.random.one_in(3) { self.random.octet() & (PSH | URG | ECE | CWR) } else { 0 };
        let mut seg = Seg::of(client, server).flags(SYN | flags).seq(seq).tags(&tags).raw(&options);
        seg.ack = if self.random.one_in(4) { self.random.word() } else { 0 };
        if self.random.one_in(6) {
            let len = self.random.below(1380);
            seg.payload = self.random.octets(len);
        }
        let mut frame = seg.frame(Side::Client);
        if frame.len() < 60 && self.random.one_in(2) {
            frame.resize(60, 0x55);
        }
        (Side::Client, frame)
    }

    fn bad_syn(&mut self) -> (Side, Vec<u8>) {
        let (client, server) = self.challenged_ends();
        let mut seg = Seg::of(client, server).flags(SYN).seq(self.number()).tags(&self.tags()).mss(1460);
        match self.random.below(7) {
            0 => seg.flags = self.random.pick(&[SYN | FIN, SYN | RST, SYN | FIN | RST | PSH]),
            1 => seg.client.set_port(0),
            2 => seg.client.set_ip(server.ip()),
            3 if server.is_ipv4() => {
                seg.client.set_ip([self.random.pick(&[0, 127, 224, 239, 240, 255]), 1, 2, 3].into())
            }
            3 => seg
                .client
                .set_ip(self.random.pick(&["::", "::1", "ff0e::5", "::ffff:198.18.0.1"]).parse().unwrap()),
            4 => seg.options = vec![2, 4, 0, self.random.below(64) as u8],
            5 if server.is_ipv4() => seg.client.set_ip([198, 18, 255, 2].into()),
            _ => {
                let mut frame = seg.frame(Side::Client);
                let at = network(&frame) + if server.is_ipv4() { 20 } else { 40 } + 14 + self.random.below(4);
                frame[at] ^= 1 << self.random.below(8);
                return (Side::Client, frame);
            }
        }
        (Side::Client, seg.frame(Side::Client))
    }

    fn quiet_syn(&mut self) -> (Side, Vec<u8>) {
        let server = self.random.pick(&["198.18.255.7:80", "198.18.255.8:80"]);
        let seg = Seg::of(self.client(false), server.parse().unwrap()).flags(SYN).seq(self.number());
        (Side::Client, seg.raw(&self.syn_options()).frame(Side::Client))
    }

    fn good_cookie(&mut self) -> Option<(Side, Vec<u8>)> {
        let live = self.cookies.pop()?;
        let mut seg = live.cookie_ack();
        match self.random.below(4) {
            0 => seg.payload = self.random.octets(100),
            1 => seg.seq = live.client_iss,
            _ => {}
        }
        self.pending.push(live);
        Some((Side::Client, seg.frame(Side::Client)))
    }

    fn forged_cookie(&mut self) -> Option<(Side, Vec<u8>)> {
        let (client, server) = self.challenged_ends();
        let mut seg = Seg::of(client, server).seq(self.number()).ack(self.number()).tags(&self.tags());
        if self.random.one_in(3)
            && let Some(live) = self.cookies.last()
        {
            seg = live.cookie_ack();
            let bit = 1 << self.random.below(32);
            match self.random.below(3) {
                0 => seg.seq ^= bit | 2,
                1 => seg.ack ^= bit,
                _ => seg.client.set_port(self.random.octet().into()),
            }
            return Some((Side::Client, seg.data(b"more").frame(Side::Client)));
        }
        if self.random.one_in(2) {
            seg = seg.timestamps(self.random.word(), self.random.word());
        }
        let len = if self.random.one_in(2) { self.random.below(3) } else { self.random.below(1200) };
        seg.flags |= self.random.octet() & (FIN | PSH | URG | ECE | CWR);
        Some((Side::Client, seg.data(&self.random.octets(len)).frame(Side::Client)))
    }

    /// A flow that is there, and where it stands.
    pub fn live(&mut self, world: &World) -> Option<(Live, Place)> {
        let live = self.flows.get(self.random.below(self.flows.len().max(1)))?.clone();
        let place = live.place(world)?;
        Some((live, place))
    }

    fn flow(&mut self, world: &World, side: Side) -> Option<(Side, Vec<u8>)> {
        let (live, place) = self.live(world)?;
        Some((side, self.segment(&live, &place, side).frame(side)))
    }

    /// A segment that its receiver is likely to take.
    pub fn segment(&mut self, live: &Live, place: &Place, side: Side) -> Seg {
        let Place { ends, delta, ts_delta } = place;
        let (sender, receiver) = match side {
            Side::Client => (ends.client, ends.server),
            Side::Server => (ends.server, ends.client),
        };
        let seq = match self.random.below(6) {
            0 => sender[0].wrapping_sub(self.random.below(3_000) as u32),
            1 => sender[0].wrapping_add(self.random.below(3_000) as u32),
            2 => sender[0].wrapping_sub(1),
            _ => sender[0],
        };
        let ack =
            receiver[0].wrapping_sub(if self.random.one_in(3) { self.random.below(3_000) as u32 } else { 0 });
        let ack = if side == Side::Client { ack.wrapping_sub(*delta) } else { ack };
        let mut seg = live.seg().seq(seq).ack(ack).window(self.random.word() as u16);
        let [latest, _] = ends.clock;
        let value = match side {
            Side::Client => latest.wrapping_sub(*ts_delta),
            Side::Server => latest.wrapping_add(self.random.below(500) as u32),
        };
        seg = match side {
            Side::Client => live.stamped(seg, 2_000, value),
            Side::Server => live.stamped(seg, value, 2_000),
        };
        self.decorate(&mut seg);
        seg
    }

    /// Blocks, flags and data.
    fn decorate(&mut self, seg: &mut Seg) {
        let blocks = 1 + self.random.below(4);
        if self.random.one_in(3) && seg.options.len() + 4 + 8 * blocks <= 40 {
            let edges: Vec<u32> = (0..blocks * 2).map(|_| self.random.word()).collect();
            *seg = seg.clone().sack(2, &edges);
        }
        seg.flags |= self.random.octet() & self.random.pick(&[PSH, PSH | URG | ECE | CWR]);
        if self.random.one_in(30) {
            seg.flags &= !ACK;
        }
        if self.random.one_in(2) {
            let len = self.random.below(400);
            seg.payload = self.random.octets(len);
        }
    }

    /// Options that hardly any sender writes, and clocks that leap.
    fn rare(&mut self, world: &World) -> Option<(Side, Vec<u8>)> {
        let (live, place) = self.live(world)?;
        let side = Side::ALL[self.random.below(2)];
        let mut seg = self.segment(&live, &place, side);
        seg.options.clear();
        while seg.options.len() < 40 && !self.random.one_in(4) {
            let numbers = self.random.octets(8);
            let option = match self.random.below(8) {
                0 => [&[8, 10], &numbers[..]].concat(),
                1 => [&[5, 10], &numbers[..]].concat(),
                2 => [&[5, 18], &numbers[..], &numbers].concat(),
                3 => vec![5, 6, 1, 2, 3, 4],
                4 => vec![254, 4, 1, 2],
                5 => vec![self.random.pick(&[0, 3]), 0],
                _ => vec![1],
            };
            seg.options.extend(option);
        }
        seg.options.resize(seg.options.len().next_multiple_of(4).min(40), 1);
        Some((side, seg.frame(side)))
    }

    fn outside(&mut self, world: &World) -> Option<(Side, Vec<u8>)> {
        let (live, place) = self.live(world)?;
        let side = Side::ALL[self.random.below(2)];
        let mut seg = self.segment(&live, &place, side);
        let far = self.random.pick(&[66_000, 65_536 << 14, 0x4000_0000, 0x8000_0000, 0xf000_0000]);
        if self.random.one_in(2) {
            seg.seq = seg.seq.wrapping_add(far)
        } else {
            seg.ack = seg.ack.wrapping_add(far)
        }
        Some((side, seg.frame(side)))
    }

    fn end(&mut self, world: &World) -> Option<(Side, Vec<u8>)> {
        let (live, place) = self.live(world)?;
        let side = Side::ALL[self.random.below(2)];
        let seg = self.segment(&live, &place, side).flags(self.random.pick(&[FIN, RST, SYN]));
        self.flows.retain(|other| other.client != live.client);
        self.ending.push(live);
        Some((side, seg.frame(side)))
    }

    fn ending(&mut self, world: &World) -> Option<(Side, Vec<u8>)> {
        let live = self.ending.get(self.random.below(self.ending.len().max(1)))?.clone();
        let place = live.place(world)?;
        let side = Side::ALL[self.random.below(2)];
        let mut seg = self.segment(&live, &place, side);
        if self.random.one_in(3) {
            seg = seg.flags(self.random.pick(&[FIN, RST]));
        }
        Some((side, seg.frame(side)))
    }

    fn of_pending(&mut self) -> Option<(Side, Vec<u8>)> {
        let live = self.pending.get(self.random.below(self.pending.len().max(1)))?.clone();
        let ack = live.cookie_ack();
        Some(match self.random.below(4) {
            0 => (Side::Client, ack.frame(Side::Client)),
            1 => (Side::Client, ack.data(b"early").frame(Side::Client)),
            2 => (Side::Server, live.answer(&[2, 4, 5, 0xb4, 1, 3, 3, 4]).frame(Side::Server)),
            _ => (Side::Server, live.seg().seq(9).ack(7).frame(Side::Server)),
        })
    }

    fn stray(&mut self) -> (Side, Vec<u8>) {
        let (client, server) = self.challenged_ends();
        let flags = self.random.pick(&[
            RST,
            RST | ACK,
            SYN | ACK,
            0,
            FIN,
            PSH | URG,
            SYN | ACK | RST,
            ACK | RST | FIN,
        ]);
        let mut seg = Seg::of(client, server).seq(self.number()).tags(&self.tags());
        (seg.flags, seg.ack) = (flags, self.number());
        (Side::Client, seg.frame(Side::Client))
    }

    fn stray_of_server(&mut self) -> (Side, Vec<u8>) {
        let (client, server) = self.challenged_ends();
        let flags = self.random.pick(&[RST, ACK, ACK | PSH, SYN, SYN | ACK, FIN | ACK]);
        let seg = Seg::of(client, server).seq(self.number()).flags(flags);
        (Side::Server, seg.frame(Side::Server))
    }

    fn denied(&mut self) -> (Side, Vec<u8>) {
        let (_, server) = self.challenged_ends();
        let port = self.random.word() as u16;
        let client: SocketAddr = match server.is_ipv4() {
            true => ([198, 18, 66, self.random.octet() & 127], port).into(),
            false => ([0x2001, 0xdb8, 0x66, 0, 0, 0, 0, 1], port).into(),
        };
        let mut seg = Seg::of(client, server).seq(self.number()).data(b"x");
        seg.flags = self.random.octet();
        (Side::Client, seg.frame(Side::Client))
    }

    fn not_challenged(&mut self) -> (Side, Vec<u8>) {
        let server =
            self.random.pick(&["198.18.255.9:80", "198.18.255.8:80", "198.18.255.7:80", "198.18.255.2:80"]);
        let mut client = self.client(false);
        if server == "198.18.255.2:80" {
            client.set_ip([198, 18, 77, self.random.octet()].into());
        }
        let flags = self.random.pick(&[ACK, ACK | PSH, ACK | FIN, RST, RST | ACK]);
        let seg = Seg::of(client, server.parse().unwrap()).seq(self.number()).flags(flags).data(b"some");
        (Side::Client, seg.frame(Side::Client))
    }
}
=======
>>>>>>> main
