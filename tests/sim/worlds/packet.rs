//! Segments as the hosts of the simulation send and take them.

use std::net::IpAddr;

use synwall::wire::checksum;
use synwall::wire::frame::{self, Layout, Parsed};
use synwall::wire::tcp::Segment;
use synwall::wire::tcp_options::TcpOption;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const ECE: u8 = 64;
pub const CWR: u8 = 128;

/// The octets of the link header.
pub const LINK: usize = 14;

/// Address and port.
pub type Socket = (IpAddr, u16);

/// A segment to be sent.
#[derive(Clone, Debug, Default)]
pub struct Outgoing<'a> {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub mss: Option<u16>,
    pub wscale: Option<u8>,
    pub sack_permitted: bool,
    pub timestamps: Option<(u32, u32)>,
    pub sack: Vec<(u32, u32)>,
    pub payload: &'a [u8],
}

impl Outgoing<'_> {
    fn options(&self) -> Vec<u8> {
        let mut octets = Vec::new();
        if let Some(mss) = self.mss {
            octets.extend([2, 4]);
            octets.extend(mss.to_be_bytes());
        }
        if self.sack_permitted {
            octets.extend([1, 1, 4, 2]);
        }
        if let Some((value, echo)) = self.timestamps {
            octets.extend([1, 1, 8, 10]);
            octets.extend(value.to_be_bytes());
            octets.extend(echo.to_be_bytes());
        }
        if let Some(scale) = self.wscale {
            octets.extend([1, 3, 3, scale]);
        }
        if !self.sack.is_empty() {
            octets.extend([1, 1, 5, 2 + 8 * self.sack.len() as u8]);
            for (left, right) in &self.sack {
                octets.extend(left.to_be_bytes());
                octets.extend(right.to_be_bytes());
            }
        }
        octets
    }

    /// The frame, with its checksums.
    pub fn frame(&self, source: Socket, destination: Socket) -> Vec<u8> {
        let options = self.options();
        let mut tcp = Vec::with_capacity(60 + self.payload.len());
        tcp.extend(source.1.to_be_bytes());
        tcp.extend(destination.1.to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([((20 + options.len()) / 4 * 16) as u8, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(options);
        tcp.extend(self.payload);
        let pseudo = checksum::pseudo_header(source.0, destination.0, tcp.len());
        let sum = !checksum::add(checksum::sum(&tcp), pseudo);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let mut packet = Vec::with_capacity(54 + tcp.len());
        match (source.0, destination.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                packet.extend([0x45, 0]);
                packet.extend((20 + tcp.len() as u16).to_be_bytes());
                packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
                packet.extend(from.octets());
                packet.extend(to.octets());
                let sum = !checksum::sum(&packet);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                packet.extend([0x60, 0, 0, 0]);
                packet.extend((tcp.len() as u16).to_be_bytes());
                packet.extend([6, 64]);
                packet.extend(from.octets());
                packet.extend(to.octets());
            }
            _ => unreachable!("a connection has one family"),
        }
        packet.extend(tcp);
        on_link(&packet)
    }
}

/// The frame that carries an IP packet.
pub fn on_link(packet: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(LINK + packet.len());
    frame.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame.extend(if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] });
    frame.extend(packet);
    frame
}

/// The segment in a frame, if a host would look at it: its checksums are right.
pub fn valid(frame: &[u8]) -> Option<Layout> {
    match frame::parse(frame) {
        Parsed::Tcp(layout)
            if layout.has_valid_tcp_checksum(frame) && layout.has_valid_ip_checksum(frame) =>
        {
            Some(layout)
        }
        _ => None,
    }
}

/// The edges of the SACK blocks of a segment.
pub fn sack_blocks(segment: &Segment<'_>) -> Vec<(u32, u32)> {
    for option in segment.options() {
        if let TcpOption::Sack { at, len } = option {
            return segment.options().sack_blocks(at, len).collect();
        }
    }
    Vec::new()
}

/// Whether `a` lies before `b` in sequence space, or in that of timestamps.
pub fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether `low <= x <= high` in sequence space.
pub fn within(x: u32, low: u32, high: u32) -> bool {
    !before(x, low) && !before(high, x)
}

/// Source and destination of a frame that carries a segment.
pub fn sockets(frame: &[u8], layout: Layout) -> (Socket, Socket) {
    let segment = Segment::new(frame, layout);
    (
        (layout.network.source(frame), segment.source_port()),
        (layout.network.destination(frame), segment.destination_port()),
    )
}
