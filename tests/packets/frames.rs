//! Frames as their senders make them.

use std::net::{IpAddr, SocketAddr};

use synwall::engine::Side;
use synwall::wire::checksum;
use synwall::wire::frame::{self, Parsed, Version};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const URG: u8 = 32;
pub const ECE: u8 = 64;
pub const CWR: u8 = 128;

/// Tag stacks, as they stand behind the MAC addresses.
pub const VLAN: [u8; 4] = [0x81, 0, 0x20, 7];
pub const QINQ: [u8; 8] = [0x88, 0xa8, 0, 5, 0x81, 0, 0, 7];

/// A segment of a connection, named from the client's side.
#[derive(Clone, Debug)]
pub struct Seg {
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    pub tags: Vec<u8>,
}

impl Seg {
    pub fn of(client: SocketAddr, server: SocketAddr) -> Seg {
        let (options, payload, tags) = (Vec::new(), Vec::new(), Vec::new());
        Seg { client, server, flags: 0, seq: 0, ack: 0, window: 502, options, payload, tags }
    }

    pub fn flags(mut self, flags: u8) -> Seg {
        self.flags |= flags;
        self
    }

    pub fn seq(mut self, seq: u32) -> Seg {
        self.seq = seq;
        self
    }

    pub fn ack(mut self, ack: u32) -> Seg {
        self.flags |= ACK;
        self.ack = ack;
        self
    }

    pub fn window(mut self, window: u16) -> Seg {
        self.window = window;
        self
    }

    pub fn data(mut self, payload: &[u8]) -> Seg {
        self.payload = payload.to_vec();
        self
    }

    pub fn tags(mut self, tags: &[u8]) -> Seg {
        self.tags = tags.to_vec();
        self
    }

    /// Appends options, and pads the list with NOPs.
    pub fn raw(mut self, options: &[u8]) -> Seg {
        self.options.extend_from_slice(options);
        self.options.resize(self.options.len().next_multiple_of(4), 1);
        self
    }

    pub fn mss(self, mss: u16) -> Seg {
        let [high, low] = mss.to_be_bytes();
        self.raw(&[2, 4, high, low])
    }

    pub fn timestamps(self, value: u32, echo: u32) -> Seg {
        self.raw(&[&[1, 1, 8, 10], &value.to_be_bytes()[..], &echo.to_be_bytes()].concat())
    }

    /// SACK blocks, behind `lead` NOPs.
    pub fn sack(self, lead: usize, edges: &[u32]) -> Seg {
        let mut option = vec![1; lead];
        option.extend([5, 2 + 4 * edges.len() as u8]);
        edges.iter().for_each(|edge| option.extend(edge.to_be_bytes()));
        self.raw(&option)
    }

    /// The frame in which `side` sends it.
    pub fn frame(&self, side: Side) -> Vec<u8> {
        let (macs, source, destination) = match side {
            Side::Client => ([2, 1], self.client, self.server),
            Side::Server => ([1, 2], self.server, self.client),
        };
        let mut frame = vec![2, 0, 0, 0, 0, macs[0], 2, 0, 0, 0, 0, macs[1]];
        frame.extend(&self.tags);
        let len = 20 + self.options.len() + self.payload.len();
        put_ip(&mut frame, source.ip(), destination.ip(), 6, len);
        frame.extend(source.port().to_be_bytes());
        frame.extend(destination.port().to_be_bytes());
        frame.extend(self.seq.to_be_bytes());
        frame.extend(self.ack.to_be_bytes());
        frame.extend([(((20 + self.options.len()) / 4) << 4) as u8, self.flags]);
        frame.extend(self.window.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(&self.options);
        frame.extend(&self.payload);
        complete(&mut frame);
        frame
    }
}

/// An IP header in front of `len` octets of `protocol`; the IPv4 checksum is [`complete`]'s.
pub fn put_ip(frame: &mut Vec<u8>, source: IpAddr, destination: IpAddr, protocol: u8, len: usize) {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + len as u16).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 61, protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((len as u16).to_be_bytes());
            frame.extend([protocol, 61]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => panic!("addresses of two families"),
    }
}

/// Makes the checksums of a frame right, as far as it holds a segment that can be read.
pub fn complete(frame: &mut [u8]) {
    let Parsed::Tcp(layout) = frame::parse(frame) else { return };
    if layout.network.version == Version::V4 {
        let at = layout.network.offset;
        let end = at + usize::from(frame[at] & 15) * 4;
        frame[at + 10..at + 12].fill(0);
        let sum = !checksum::sum(&frame[at..end]);
        frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    }
    let (from, to) = (layout.network.source(frame), layout.network.destination(frame));
    let tcp = layout.tcp;
    frame[tcp + 16..tcp + 18].fill(0);
    let pseudo = checksum::pseudo_header(from, to, layout.end - tcp);
    let sum = !checksum::add(checksum::sum(&frame[tcp..layout.end]), pseudo);
    frame[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
}

/// Puts two bits of ECN (RFC 3168 §5) into the IP header of a frame with a segment.
pub fn mark_as(frame: &mut [u8], ecn: u8) {
    let at = network(frame);
    frame[at + 1] |= if frame[at] >> 4 == 4 { ecn } else { ecn << 4 };
    complete(frame);
}

/// Where the IP header of a frame is: behind its tags.
pub fn network(frame: &[u8]) -> usize {
    let is_tag = |at: usize| matches!(frame[at..at + 2], [0x81 | 0x91, 0] | [0x88, 0xa8]);
    (0..2).fold(14, |at, _| if is_tag(at - 2) { at + 4 } else { at })
}

pub fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

pub fn octets(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "whole octets: {hex}");
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
