//! What makes random frames of connections that are not open.

use std::net::SocketAddr;

use synwall::engine::Side;

use crate::flows::Live;
use crate::kinds::KINDS;
use crate::packets::frames::*;
use crate::random::Random;
use crate::world::World;

/// What makes frames.
pub struct Maker {
    pub random: Random,
    /// Challenging services.
    targets: &'static [&'static str],
    next_port: u16,
    pub flows: Vec<Live>,
    /// Those whose segments the engine edits.
    pub edited: Vec<Live>,
    /// Those that one end has ended.
    pub ending: Vec<Live>,
    /// Answered, and not yet returned.
    pub cookies: Vec<Live>,
    /// Returned, and not yet open.
    pub pending: Vec<Live>,
}

impl Maker {
    pub fn new(seed: u64, targets: &'static [&'static str]) -> Maker {
        let [flows, edited, ending, cookies, pending] = [const { Vec::new() }; 5];
        Maker { random: Random(seed), targets, next_port: 1024, flows, edited, ending, cookies, pending }
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

    pub fn syn(&mut self) -> (Side, Vec<u8>) {
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

    pub fn bad_syn(&mut self) -> (Side, Vec<u8>) {
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

    pub fn quiet_syn(&mut self) -> (Side, Vec<u8>) {
        let server = self.random.pick(&["198.18.255.7:80", "198.18.255.8:80"]);
        let seg = Seg::of(self.client(false), server.parse().unwrap()).flags(SYN).seq(self.number());
        (Side::Client, seg.raw(&self.syn_options()).frame(Side::Client))
    }

    pub fn good_cookie(&mut self) -> Option<(Side, Vec<u8>)> {
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

    pub fn forged_cookie(&mut self) -> Option<(Side, Vec<u8>)> {
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

    pub fn of_pending(&mut self) -> Option<(Side, Vec<u8>)> {
        let live = self.pending.get(self.random.below(self.pending.len().max(1)))?.clone();
        let ack = live.cookie_ack();
        Some(match self.random.below(4) {
            0 => (Side::Client, ack.frame(Side::Client)),
            1 => (Side::Client, ack.data(b"early").frame(Side::Client)),
            2 => {
                // What one server of a prefix lacks the program believes of all of them, and the engine of that one.
                let is_one_of_many = live.server.to_string().starts_with("198.18.240.") && live.told.1 != 0;
                let stamp: &[u8] =
                    if is_one_of_many { &[8, 10, 0, 0, 0x23, 0x28, 0, 0, 3, 0xe9] } else { &[] };
                let options = [&[2, 4, 5, 0xb4], stamp, &[1, 3, 3, 4]].concat();
                (Side::Server, live.answer(&options).frame(Side::Server))
            }
            _ => (Side::Server, live.seg().seq(9).ack(7).frame(Side::Server)),
        })
    }

    pub fn stray(&mut self) -> (Side, Vec<u8>) {
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

    pub fn stray_of_server(&mut self) -> (Side, Vec<u8>) {
        let (client, server) = self.challenged_ends();
        let flags = self.random.pick(&[RST, ACK, ACK | PSH, SYN, SYN | ACK, FIN | ACK]);
        let seg = Seg::of(client, server).seq(self.number()).flags(flags);
        (Side::Server, seg.frame(Side::Server))
    }

    pub fn denied(&mut self) -> (Side, Vec<u8>) {
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

    pub fn not_challenged(&mut self) -> (Side, Vec<u8>) {
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
