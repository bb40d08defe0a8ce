//! The two ends of a connection as a TCP would keep them, and the frames they send.

use std::net::IpAddr;

use synwall::engine::Side;
use synwall::wire::checksum;
use synwall::wire::seq::SeqNumber;
use synwall::wire::tcp::{Flags, Segment};
use synwall::wire::tcp_options::SynOptions;

use super::Step;

/// Options of a step's segment. In a SYN they are inverted: all zeros offers everything.
pub const WITHOUT_MSS: u8 = 1;
pub const OTHER_TIMESTAMPS: u8 = 2;
pub const SACK_BLOCKS: u8 = 4;
pub const MISALIGNED: u8 = 8;
pub const WRONG_ECHO: u8 = 16;
pub const PARTIAL_CHECKSUM: u8 = 32;
pub const CLAIMED_GOOD: u8 = 64;
pub const TAGGED: u8 = 128;

/// One end.
#[derive(Clone, Copy, Debug, Default)]
pub struct End {
    /// SND.NXT.
    pub next: u32,
    /// RCV.NXT.
    pub expected: u32,
    /// TSval of the next segment.
    pub clock: u32,
    /// TSecr of the next segment.
    pub echo: u32,
    /// Whether its segments carry timestamps.
    pub has_timestamps: bool,
}

/// Both ends of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub client: End,
    pub server: End,
    pub addresses: (IpAddr, IpAddr),
    pub ports: (u16, u16),
}

/// A segment to be sent.
pub struct Outgoing {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    /// The mark of ECN.
    pub ecn: u8,
}

impl Peer {
    pub fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// The segment of `side` that `step` asks for.
    pub fn segment(&mut self, side: Side, step: &Step) -> Outgoing {
        let end = self.end(side);
        end.clock = end.clock.wrapping_add(1);
        let (seq, ack) =
            (end.next.wrapping_add(offset(step.seq)), end.expected.wrapping_add(offset(step.ack)));
        let mut options = Vec::new();
        if step.options & MISALIGNED != 0 {
            options.push(1);
        }
        if end.has_timestamps != (step.options & OTHER_TIMESTAMPS != 0) {
            let echo = if step.options & WRONG_ECHO != 0 { !end.echo } else { end.echo };
            options.extend([8, 10]);
            options.extend(end.clock.to_be_bytes());
            options.extend(echo.to_be_bytes());
        }
        if step.options & SACK_BLOCKS != 0 {
            options.extend([5, 18]);
            (1..5).for_each(|n| options.extend(ack.wrapping_add(n * 100).to_be_bytes()));
        }
        let payload = (0..u32::from(step.amount) * 9).map(|n| pattern(seq.wrapping_add(n))).collect();
        let window = u16::from_be_bytes([!step.window, step.window]);
        Outgoing {
            flags: step.flags ^ Flags::ACK.0,
            seq,
            ack,
            window,
            options,
            payload,
            ecn: step.window & 3,
        }
    }

    /// A SYN of `side`; its numbers begin anew.
    pub fn opening(&mut self, side: Side, step: &Step) -> Outgoing {
        let end = self.end(side);
        let iss = u32::from_be_bytes([step.amount, step.seq, step.ack, step.window]).wrapping_sub(16);
        *end = End { next: iss.wrapping_add(1), clock: end.clock.wrapping_add(1), ..*end };
        end.has_timestamps = step.options & OTHER_TIMESTAMPS == 0;
        let options = syn_options(step, end);
        let (flags, payload) = (Flags::SYN.0 ^ step.flags, Vec::new());
        Outgoing { flags, seq: iss, ack: 0, window: 64_240, options, payload, ecn: 0 }
    }

    /// The server's answer to the SYN that it was sent.
    pub fn answer(&mut self, step: &Step) -> Outgoing {
        let offered = self.server.has_timestamps;
        let mut answer = self.opening(Side::Server, step);
        self.server.has_timestamps = offered && step.options & OTHER_TIMESTAMPS == 0;
        answer.options = syn_options(step, &self.server);
        answer.flags ^= Flags::ACK.0;
        answer.ack = self.server.expected;
        answer
    }

    /// Delivers to `side` the segment that came out for it.
    pub fn deliver(&mut self, side: Side, segment: &Segment<'_>) {
        let end = self.end(side);
        let said = SynOptions::parse(segment.options());
        if segment.flags().has(Flags::SYN) {
            end.expected = segment.seq().0.wrapping_add(1);
            end.echo = said.timestamps.map_or(0, |(value, _)| value);
            let can = side == Side::Server && !segment.flags().has(Flags::ACK) || end.has_timestamps;
            end.has_timestamps = can && said.timestamps.is_some();
        } else if segment.seq() == SeqNumber(end.expected) && !segment.flags().has(Flags::RST) {
            end.expected = segment.end().0;
            end.echo = said.timestamps.map_or(end.echo, |(value, _)| value);
        }
    }

    /// The frame that carries `segment` from `side`.
    pub fn frame(&self, side: Side, segment: &Outgoing, is_tagged: bool) -> Vec<u8> {
        let ((client, server), (client_port, server_port)) = (self.addresses, self.ports);
        let (macs, source, destination, ports) = match side {
            Side::Client => ([2, 1], client, server, [client_port, server_port]),
            Side::Server => ([1, 2], server, client, [server_port, client_port]),
        };
        let tcp = tcp(source, destination, ports, segment);
        let mut frame = vec![2, 0, 0, 0, 0, macs[0], 2, 0, 0, 0, 0, macs[1]];
        if is_tagged {
            frame.extend([0x81, 0, 0, 7]);
        }
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([8, 0]);
                let at = frame.len();
                let [high, low] = (20 + tcp.len() as u16).to_be_bytes();
                frame.extend([0x45, segment.ecn, high, low, 0, 0, 0x40, 0, 61, 6, 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                let sum = !checksum::sum(&frame[at..]);
                frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let [high, low] = (tcp.len() as u16).to_be_bytes();
                frame.extend([0x86, 0xdd, 0x60, segment.ecn << 4, 0, 0, high, low, 6, 61]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            _ => unreachable!("both addresses of a peer are of one family"),
        }
        frame.extend(tcp);
        frame
    }
}

fn tcp(source: IpAddr, destination: IpAddr, ports: [u16; 2], segment: &Outgoing) -> Vec<u8> {
    let mut options = segment.options.clone();
    options.resize(options.len().next_multiple_of(4).min(40), 1);
    let mut tcp = ports.map(u16::to_be_bytes).concat();
    tcp.extend(segment.seq.to_be_bytes());
    tcp.extend(segment.ack.to_be_bytes());
    tcp.extend([((20 + options.len()) << 2) as u8, segment.flags]);
    tcp.extend(segment.window.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend(options);
    tcp.extend(&segment.payload);
    let pseudo = checksum::pseudo_header(source, destination, tcp.len());
    let sum = !checksum::add(checksum::sum(&tcp), pseudo);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    tcp
}

fn syn_options(step: &Step, end: &End) -> Vec<u8> {
    let mut options = Vec::new();
    if step.options & WITHOUT_MSS == 0 {
        // From 0 to 1460 and beyond.
        let [high, low] = ((u16::from(step.peer >> 3) * 48) ^ 1460).to_be_bytes();
        options.extend([2, 4, high, low]);
    }
    if step.options & SACK_BLOCKS == 0 {
        options.extend([4, 2]);
    }
    if end.has_timestamps {
        options.extend([8, 10]);
        options.extend(end.clock.to_be_bytes());
        options.extend(end.echo.to_be_bytes());
    }
    if step.options & MISALIGNED == 0 {
        options.extend([1, 3, 3, step.window >> 4 ^ 7]);
    }
    options
}

/// The octet that the stream has at `seq`: what is replayed can be recognised.
pub fn pattern(seq: u32) -> u8 {
    (seq ^ seq >> 8 ^ seq >> 16) as u8
}

/// How far off: nothing, a little or a lot, on either side.
pub fn offset(octet: u8) -> u32 {
    let amount = u32::from(octet & 0x3f);
    match octet >> 6 {
        0 => amount,
        1 => amount.wrapping_neg(),
        2 => amount << 12,
        _ => (amount << 22).wrapping_neg(),
    }
}
