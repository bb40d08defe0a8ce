//! ICMP errors, as routers and packet filters send them about a packet to its sender.

use std::net::IpAddr;

use synwall::wire::checksum;

use super::packet::{LINK, Socket, on_link};

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    HostUnreachable,
    PortUnreachable,
    TimeExceeded,
    /// The next link carries no more than so many octets of a packet.
    TooBig(u16),
}

impl Complaint {
    /// Type and code of ICMP, or of ICMPv6.
    fn codes(self, v4: bool) -> [u8; 2] {
        match (self, v4) {
            (Complaint::HostUnreachable, true) => [3, 1],
            (Complaint::PortUnreachable, true) => [3, 3],
            (Complaint::TooBig(_), true) => [3, 4],
            (Complaint::TimeExceeded, true) => [11, 0],
            (Complaint::HostUnreachable, false) => [1, 3],
            (Complaint::PortUnreachable, false) => [1, 4],
            (Complaint::TooBig(_), false) => [2, 0],
            (Complaint::TimeExceeded, false) => [3, 0],
        }
    }

    /// The frame with which `from` says it to the sender of the packet in `quoted`, of which it quotes the headers.
    pub fn frame(self, from: IpAddr, quoted: &[u8]) -> Option<Vec<u8>> {
        let [kind, code] = self.codes(from.is_ipv4());
        let mtu = if let Complaint::TooBig(mtu) = self { mtu } else { 0 };
        let mut message = vec![kind, code, 0, 0, 0, 0];
        message.extend(mtu.to_be_bytes());
        let mut packet = match from {
            IpAddr::V4(from) => {
                message.extend(quoted.get(..40)?);
                let mut header = vec![0x45, 0];
                header.extend((20 + message.len() as u16).to_be_bytes());
                header.extend([0, 0, 0, 0, 60, ICMP, 0, 0]);
                header.extend(from.octets());
                header.extend(quoted.get(12..16)?);
                complete(&mut header, 10, 0);
                complete(&mut message, 2, 0);
                header
            }
            IpAddr::V6(from) => {
                message.extend(quoted.get(..60)?);
                let mut header = vec![0x60, 0, 0, 0];
                header.extend((message.len() as u16).to_be_bytes());
                header.extend([ICMPV6, 60]);
                header.extend(from.octets());
                let to: [u8; 16] = quoted.get(8..24)?.try_into().ok()?;
                header.extend(to);
                let pseudo = checksum::pseudo_header_of(ICMPV6, from.into(), to.into(), message.len());
                complete(&mut message, 2, pseudo);
                header
            }
        };
        packet.extend(message);
        Some(on_link(&packet))
    }
}

/// What a host hears of a packet of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    pub mtu: u16,
    /// The packet's ends, its sender first, and its SEG.SEQ.
    pub ends: [Socket; 2],
    pub seq: u32,
}

/// An error that says that a packet was too big, if the frame is one and its checksums are right.
pub fn too_big(frame: &[u8]) -> Option<Heard> {
    let packet = frame.get(LINK..)?;
    let is_v4 = packet.first()? >> 4 == 4;
    let (header, kind, protocol) = if is_v4 { (20, [3, 4], 9) } else { (40, [2, 0], 6) };
    if *packet.get(protocol)? != if is_v4 { ICMP } else { ICMPV6 } {
        return None;
    }
    let message = packet.get(header..)?;
    let (from, to) = addresses(packet)?;
    let pseudo = if is_v4 { 0 } else { checksum::pseudo_header_of(ICMPV6, from, to, message.len()) };
    let is_intact = checksum::add(checksum::sum(message), pseudo) == 0xffff
        && (!is_v4 || checksum::sum(&packet[..header]) == 0xffff);
    if !is_intact || message.get(..2)? != kind {
        return None;
    }
    let (quoted, word) =
        (message.get(8..)?, |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?)));
    let (sender, receiver) = addresses(quoted)?;
    let port = |at: usize| word(8 + header + at);
    let seq = u32::from(port(4)?) << 16 | u32::from(port(6)?);
    Some(Heard { mtu: word(6)?, ends: [(sender, port(0)?), (receiver, port(2)?)], seq })
}

fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    Some(if packet.first()? >> 4 == 4 {
        let of = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        (of(12)?, of(16)?)
    } else {
        let of = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
        (of(8)?, of(24)?)
    })
}

fn complete(octets: &mut [u8], at: usize, pseudo: u16) {
    let sum = !checksum::add(checksum::sum(octets), pseudo);
    octets[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
