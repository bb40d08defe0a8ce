//! Frames that are sent as they are: headers of every kind, and what a sender leaves to the hardware.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use synwall::wire::buffer::{FrameBuf, Offload};
use synwall::wire::checksum;

/// The source of all of these frames: no host of the laboratory has it.
pub(crate) const SOURCE: [u8; 6] = [2, 0x53, 0x57, 0, 0, 0x99];

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

/// A frame to `to`, whose header ends with `types` (in hexadecimal), filled up to `len` octets.
pub(crate) fn frame(to: [u8; 6], types: &str, len: usize) -> Vec<u8> {
    let mut octets = [&to[..], &SOURCE, &hex(types)].concat();
    octets.extend((octets.len()..len).map(|number| number as u8));
    octets
}

/// An Ethernet header before `packet`, which is IP.
pub(crate) fn link(to: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let kind: u16 = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    [&to[..], &SOURCE, &kind.to_be_bytes(), packet].concat()
}

/// The addresses of both ends, server's last.
#[derive(Clone, Copy)]
pub(crate) struct Ends(pub(crate) IpAddr, pub(crate) IpAddr);

impl Ends {
    pub(crate) const V4: Ends =
        Ends(IpAddr::V4(Ipv4Addr::new(198, 18, 255, 77)), IpAddr::V4(Ipv4Addr::new(198, 18, 255, 88)));
    pub(crate) const V6: Ends = Ends(
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x255, 0, 0, 0, 0, 0x77)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x255, 0, 0, 0, 0, 0x88)),
    );

    fn pseudo(self, protocol: u8, len: usize) -> u16 {
        checksum::pseudo_header_of(protocol, self.0, self.1, len)
    }

    /// An IP packet, its payload behind `options` of IPv4, or behind extension headers of IPv6 of which `protocol` is the
    /// first.
    pub(crate) fn packet(self, protocol: u8, id: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let half = |value: usize| u16::try_from(value).unwrap().to_be_bytes();
        match (self.0, self.1) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let len = 20 + options.len();
                let mut header =
                    [&[0x40 | (len / 4) as u8, 0][..], &half(len + payload.len()), &id.to_be_bytes()]
                        .concat();
                header.extend([0x40, 0, 64, protocol, 0, 0]);
                header.extend([source.octets(), destination.octets()].concat());
                header.extend(options);
                complete(&mut header, 10, 0);
                [&header, payload].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut header =
                    [&[0x60, 0, 0, 9][..], &half(options.len() + payload.len()), &[protocol, 64]].concat();
                header.extend([source.octets(), destination.octets()].concat());
                [&header, options, payload].concat()
            }
            _ => panic!("addresses of two families"),
        }
    }

    /// A TCP segment, its checksum complete, or left to the hardware.
    pub(crate) fn tcp(self, seq: u32, payload: &[u8], is_partial: bool) -> Vec<u8> {
        let header =
            [&[0x30, 0x39, 0x23, 0x28][..], &seq.to_be_bytes(), &[0, 0, 0, 9, 0x50, 0x10, 1, 0, 0, 0, 0, 0]];
        self.transport(TCP, 16, [&header.concat(), payload].concat(), is_partial)
    }

    /// A TCP segment without payload to port 80: any flags, any options.
    pub(crate) fn bare(self, port: u16, numbers: [u32; 2], flags: u8, options: &[u8]) -> Vec<u8> {
        self.segment([port, 80], numbers, flags, options, &[])
    }

    /// A TCP segment between these ports, SEG.SEQ and SEG.ACK its numbers: any flags, any options.
    pub(crate) fn segment(
        self,
        ports: [u16; 2],
        numbers: [u32; 2],
        flags: u8,
        options: &[u8],
        payload: &[u8],
    ) -> Vec<u8> {
        let offset = ((20 + options.len()) / 4) << 4;
        let (ports, numbers) = (ports.map(u16::to_be_bytes).concat(), numbers.map(u32::to_be_bytes).concat());
        let rest = [offset as u8, flags, 0xfa, 0xf0, 0, 0, 0, 0];
        self.transport(TCP, 16, [&ports[..], &numbers, &rest, options, payload].concat(), false)
    }

    /// An ICMP message, or one of ICMPv6: its type and code, the word behind the checksum, and what it quotes.
    pub(crate) fn icmp(self, [kind, code]: [u8; 2], word: u32, quoted: &[u8]) -> Vec<u8> {
        let mut message = [&[kind, code, 0, 0][..], &word.to_be_bytes(), quoted].concat();
        let pseudo = if self.0.is_ipv4() { 0 } else { self.pseudo(ICMPV6, message.len()) };
        complete(&mut message, 2, pseudo);
        message
    }

    /// A UDP datagram, its checksum complete, or left to the hardware.
    pub(crate) fn udp(self, payload: &[u8], is_partial: bool) -> Vec<u8> {
        let len = u16::try_from(payload.len() + 8).unwrap().to_be_bytes();
        let header = [&[0x30, 0x39, 0x23, 0x28][..], &len, &[0, 0]].concat();
        self.transport(UDP, 6, [&header, payload].concat(), is_partial)
    }

    fn transport(self, protocol: u8, at: usize, mut octets: Vec<u8>, is_partial: bool) -> Vec<u8> {
        let pseudo = self.pseudo(protocol, octets.len());
        if is_partial {
            octets[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        } else {
            complete(&mut octets, at, pseudo);
        }
        octets
    }
}

/// A frame that leaves nothing to the hardware.
pub(crate) fn whole(frame: &[u8]) -> FrameBuf {
    let mut buffer = FrameBuf::new();
    assert!(buffer.set_bytes(frame));
    buffer
}

/// A frame whose transport, `start` octets into it, has a partial checksum and is to be cut every `gso_size` octets.
pub(crate) fn partial(frame: &[u8], start: usize, protocol: u8, gso_size: u16) -> FrameBuf {
    let mut buffer = whole(frame);
    let gso_type = match (gso_size, protocol, frame[12..18].contains(&0x86)) {
        (0, ..) => 0,
        (_, UDP, _) => 5,
        (_, _, true) => 4,
        (_, _, false) => 1,
    };
    let (header_len, csum_offset) = if protocol == TCP { (20, 16) } else { (8, 6) };
    buffer.set_offload(Offload {
        flags: Offload::NEEDS_CSUM,
        gso_type,
        hdr_len: (start + header_len) as u16,
        gso_size,
        csum_start: start as u16,
        csum_offset,
    });
    buffer
}

/// Payload that differs from octet to octet.
pub(crate) fn octets(len: usize) -> Vec<u8> {
    (0..len).map(|number| (number % 251) as u8).collect()
}

fn complete(octets: &mut [u8], at: usize, pseudo: u16) {
    let sum = !checksum::add(checksum::sum(octets), pseudo);
    octets[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
