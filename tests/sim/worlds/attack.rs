//! A small language of attackers: what each sends, what it knows, and what it answers.
//!
//! An attacker is on no path of the innocents: it sees only what is sent to its own addresses. What it cannot see it may know
//! all the same ([`Knowledge`]): tuples can be guessed, windows are wide.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use synwall::engine::Side;
use synwall::wire::tcp::Segment;

use super::icmp::Complaint;
use super::packet::{ACK, FIN, LINK, Outgoing, PSH, RST, SYN, Socket, valid};
use super::random::Random;

/// One attacker, when it begins and how much it sends.
#[derive(Clone, Debug)]
pub struct Attack {
    pub who: Attacker,
    pub start: Duration,
    pub frames: u32,
    /// Between two of its frames.
    pub pause: Duration,
}

/// What an attacker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attacker {
    /// A blind sender of SYNs from addresses all over, with the options of a client or without.
    Flood { has_options: bool },
    /// A blind sender of SYNs in the name of the innocents' own network.
    Forger,
    /// A blind sender of segments in the name of an end of an innocent connection.
    Impostor { of: Side, knows: Knowledge },
    /// A blind sender of ICMP errors about an innocent connection.
    Router { knows: Knowledge },
    /// Clients that complete their handshakes, of so many networks.
    Botnet { networks: u16, then: Then },
}

/// What is known of an innocent connection by one who does not see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    Tuple,
    /// A number in the window, but not RCV.NXT, and no acknowledgement.
    Window,
}

/// What a client does that has completed its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Silence,
    Reset,
    Finish,
    /// Sends data without end, an octet at a time.
    Dribble,
    /// Sends its SYN again, with another number.
    Again,
}

/// How the server treats attackers that show their addresses.
#[allow(dead_code, reason = "tests/adversary uses them all")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    Serves,
    /// Its packet filter answers their SYNs with RST.
    Resets,
    /// With ICMP port unreachable.
    Rejects,
    /// Not at all.
    Ignores,
}

/// What an attacker may know of the innocents.
pub struct View<'a> {
    pub server: Socket,
    pub clients: &'a [Socket],
    /// The end of the last segment that an end of a connection sent, and its SEG.ACK, as this end counts.
    pub seen: &'a [[Option<(u32, u32)>; 2]],
}

/// An attacker at work.
pub struct Actor {
    attack: Attack,
    pub left: u32,
    sent: u32,
    /// Where it sends from, if it is there.
    own: HashSet<Socket>,
    /// Its addresses that have returned a cookie.
    pub proved: HashSet<Socket>,
}

impl Actor {
    pub fn new(attack: Attack) -> Actor {
        Actor { left: attack.frames, attack, sent: 0, own: HashSet::new(), proved: HashSet::new() }
    }

    pub fn attack(&self) -> &Attack {
        &self.attack
    }

    /// The next frame, and the side that it comes from.
    pub fn next(&mut self, view: &View<'_>, random: &mut Random) -> Option<(Side, Vec<u8>)> {
        self.left -= 1;
        self.sent += 1;
        match self.attack.who {
            Attacker::Flood { has_options } => {
                let from = stranger(view.server.0, random.next() as u16, self.sent);
                Some((Side::Client, syn(random.next() as u32, has_options).frame(from, view.server)))
            }
            Attacker::Forger => {
                let from = (neighbour(view.clients[0].0, 100 + (self.sent % 100) as u8), port(self.sent));
                Some((Side::Client, syn(random.next() as u32, true).frame(from, view.server)))
            }
            Attacker::Impostor { of, knows } => impostor(of, knows, view, random),
            Attacker::Router { knows } => router(knows, view, random),
            Attacker::Botnet { networks, .. } => {
                let from = stranger(view.server.0, self.sent as u16 % networks, self.sent);
                self.own.insert(from);
                Some((Side::Client, syn(self.sent.wrapping_mul(77_777), true).frame(from, view.server)))
            }
        }
    }

    /// What it answers to a frame that was sent to one of its addresses.
    pub fn answer(&mut self, frame: &[u8], to: Socket, from: Socket) -> Vec<Vec<u8>> {
        let Attacker::Botnet { then, .. } = self.attack.who else { return Vec::new() };
        let Some(layout) = valid(frame) else { return Vec::new() };
        let segment = Segment::new(frame, layout);
        if segment.flags().0 & (SYN | ACK) != SYN | ACK || !self.own.contains(&to) {
            return Vec::new();
        }
        let is_first = self.proved.insert(to);
        let (seq, ack) = (segment.ack().0, segment.seq().0.wrapping_add(1));
        let timestamps = segment.options().timestamps().map(|(value, _)| (2_000, value));
        let says = |flags, payload| Outgoing {
            flags,
            seq,
            ack,
            window: 65_535,
            timestamps,
            payload,
            ..Outgoing::default()
        };
        let second = match then {
            Then::Silence => None,
            Then::Reset => Some(says(RST, &[][..])),
            Then::Finish => Some(says(FIN | ACK, &[])),
            Then::Dribble => Some(says(PSH | ACK, b"G")),
            Then::Again => is_first.then(|| syn(seq.wrapping_add(100_000), true)),
        };
        let first = says(ACK, &[]);
        [Some(first), second].into_iter().flatten().map(|segment| segment.frame(to, from)).collect()
    }
}

fn syn(seq: u32, has_options: bool) -> Outgoing<'static> {
    Outgoing {
        flags: SYN,
        seq,
        window: 64_240,
        mss: Some(1_220),
        wscale: has_options.then_some(7),
        sack_permitted: has_options,
        timestamps: has_options.then_some((1_000, 0)),
        ..Outgoing::default()
    }
}

/// A segment that its receiver refuses: with `Tuple`, for its numbers are anything; with `Window`, for it is a RST that is not
/// exact, a SYN, has no ACK, or one that acknowledges nothing (RFC 5961).
fn impostor(of: Side, knows: Knowledge, view: &View<'_>, random: &mut Random) -> Option<(Side, Vec<u8>)> {
    let victim = random.below(view.clients.len() as u64) as usize;
    let (mut seq, mut ack) = (random.next() as u32, random.next() as u32);
    let mut flags = random.pick(&[ACK, RST, RST | ACK, SYN, FIN | ACK, PSH | ACK, SYN | ACK, PSH, FIN]);
    if knows == Knowledge::Window {
        let (end, acked) = view.seen[victim][of.index()]?;
        seq = end.wrapping_add(1 + random.below(30_000) as u32);
        // What is sent again ends before RCV.NXT.
        let expected = view.seen[victim][of.peer().index()].map(|(_, expected)| expected);
        seq = seq.wrapping_add(u32::from(expected == Some(seq)));
        ack = acked.wrapping_add(1 << 30);
        flags = random.pick(&[RST, PSH, FIN, PSH | ACK, ACK]);
    }
    let payload = if flags & PSH != 0 { &b"forged"[..] } else { &[] };
    let segment = Outgoing {
        flags,
        seq,
        ack: if flags & ACK != 0 { ack } else { 0 },
        window: 1_000,
        payload,
        ..Outgoing::default()
    };
    let client = view.clients[victim];
    let (from, to) = if of == Side::Client { (client, view.server) } else { (view.server, client) };
    // A frame in the server's name still comes from outside: it is of no service, and may not matter.
    Some((Side::Client, segment.frame(from, to)))
}

/// An error about a segment that the server sent to an innocent client, or so it says.
fn router(knows: Knowledge, view: &View<'_>, random: &mut Random) -> Option<(Side, Vec<u8>)> {
    let victim = random.below(view.clients.len() as u64) as usize;
    let seq = match knows {
        Knowledge::Tuple => random.next() as u32,
        Knowledge::Window => {
            let (_, acked) = view.seen[victim][Side::Client.index()]?;
            acked.wrapping_sub(200_000)
        }
    };
    let quote = Outgoing { flags: ACK, seq, ack: random.next() as u32, ..Outgoing::default() };
    let quoted = quote.frame(view.server, view.clients[victim]);
    let complaint = random.pick(&[
        Complaint::HostUnreachable,
        Complaint::PortUnreachable,
        Complaint::TooBig(1_280),
        Complaint::TimeExceeded,
    ]);
    Some((Side::Client, complaint.frame(view.clients[victim].0, &quoted[LINK..])?))
}

/// An address of that network of strangers; 65,536 of them have 250 hosts each.
fn stranger(like: IpAddr, network: u16, number: u32) -> Socket {
    let host = (number % 250 + 1) as u8;
    let address = match like {
        IpAddr::V4(_) => Ipv4Addr::new(198, 19, network as u8, host).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0x19, network, 0, 0, 0, host.into()).into(),
    };
    (address, port(number))
}

/// Below the innocents' ports.
fn port(number: u32) -> u16 {
    1_024 + (number % 38_000) as u16
}

fn neighbour(of: IpAddr, host: u8) -> IpAddr {
    match of {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            Ipv4Addr::new(a, b, c, host).into()
        }
        IpAddr::V6(address) => {
            let mut words = address.segments();
            words[7] = 0xff00 + u16::from(host);
            Ipv6Addr::from(words).into()
        }
    }
}
