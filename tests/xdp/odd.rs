//! Random frames that are no plain segments.

use std::net::SocketAddr;

use synwall::engine::Side;

use crate::maker::Maker;
use crate::packets::frames::*;
use crate::world::World;

/// What belongs to nobody.
pub fn foreign(maker: &mut Maker) -> (Side, Vec<u8>) {
    let side = Side::ALL[maker.random.below(2)];
    let client = maker.client(false);
    let other: SocketAddr =
        maker.random.pick(&["198.18.254.1:80", "198.18.255.2:81", "203.0.113.9:80"]).parse().unwrap();
    let mut seg = Seg::of(client, other).seq(maker.number()).tags(&maker.tags()).data(b"foreign");
    seg.flags = maker.random.octet();
    let mut frame = seg.frame(side);
    let at = network(&frame);
    match maker.random.below(5) {
        // Another protocol, another EtherType, a third tag.
        0 => frame[at + 9] = maker.random.pick(&[2, 17, 47, 50, 89, 132]),
        1 => frame[at - 2..at].copy_from_slice(&maker.random.pick(&[
            [8, 6],
            [0x88, 0xcc],
            [0x88, 0x63],
            [0, 38],
        ])),
        2 => frame.splice(12..12, [QINQ.to_vec(), VLAN.to_vec()].concat()).for_each(drop),
        _ => {}
    }
    (side, frame)
}

/// Fragments, IP options, extension headers, errors of ICMP, packets longer than the link.
pub fn headers(maker: &mut Maker, world: &World) -> Option<(Side, Vec<u8>)> {
    let (side, frame) = plain(maker, world);
    let at = network(&frame);
    let is_v6 = frame[at] >> 4 == 6;
    let mut frame = match maker.random.below(5) {
        0 if is_v6 => {
            behind_extension(&frame, at, maker.random.pick(&[0, 43, 44, 51, 60]), maker.random.octets(7))
        }
        0 => with_ip_options(&frame, at, maker.random.octets(8)),
        1 if !is_v6 => fragment(frame, at, maker.random.pick(&[0x2000, 1, 2, 3, 0x2001, 0x2003, 100])),
        1 => behind_extension(&frame, at, 44, vec![0, 0, maker.random.pick(&[1, 8, 9, 16]), 0, 0, 0, 9]),
        2 | 3 => error_about(&frame, at, maker.random.one_in(2)),
        _ => {
            let mut long = Seg::of(maker.client(false), "198.18.255.2:80".parse().unwrap());
            long.flags = maker.random.pick(&[SYN, ACK]);
            long.payload = maker.random.octets(1600);
            return Some((Side::Client, long.frame(Side::Client)));
        }
    };
    if maker.random.one_in(2) {
        complete(&mut frame);
    }
    Some((side, frame))
}

/// A segment of whatever there is to aim at.
fn plain(maker: &mut Maker, world: &World) -> (Side, Vec<u8>) {
    let side = Side::ALL[maker.random.below(2)];
    if maker.random.one_in(2)
        && let Some((live, place)) = maker.live(world)
    {
        return (side, maker.segment(&live, &place, side).frame(side));
    }
    let (client, server) = maker.challenged_ends();
    let seg = Seg::of(client, server).seq(maker.number()).flags(maker.random.pick(&[SYN, ACK, RST]));
    (side, seg.raw(&maker.syn_options()).frame(side))
}

fn behind_extension(frame: &[u8], at: usize, kind: u8, content: Vec<u8>) -> Vec<u8> {
    let (before, segment) = frame.split_at(at + 40);
    let mut extended = [before, &[6], &content, segment].concat();
    extended[at + 6] = kind;
    extended[at + 7 + 34] = if kind == 44 { content[0] } else { 0 };
    let len = u16::from_be_bytes([extended[at + 4], extended[at + 5]]) + 8;
    extended[at + 4..at + 6].copy_from_slice(&len.to_be_bytes());
    extended
}

fn with_ip_options(frame: &[u8], at: usize, options: Vec<u8>) -> Vec<u8> {
    let (before, segment) = frame.split_at(at + 20);
    let mut longer = [before, &options, segment].concat();
    longer[at] = 0x47;
    let len = u16::from_be_bytes([longer[at + 2], longer[at + 3]]) + 8;
    longer[at + 2..at + 4].copy_from_slice(&len.to_be_bytes());
    longer
}

fn fragment(mut frame: Vec<u8>, at: usize, field: u16) -> Vec<u8> {
    frame[at + 6..at + 8].copy_from_slice(&field.to_be_bytes());
    frame
}

/// An error about the packet, from a router on the way.
fn error_about(frame: &[u8], at: usize, is_hard: bool) -> Vec<u8> {
    let quoted = &frame[at..frame.len().min(at + 80)];
    let is_v6 = frame[at] >> 4 == 6;
    let address = |octets: &[u8]| -> std::net::IpAddr {
        match is_v6 {
            true => <[u8; 16]>::try_from(octets).unwrap().into(),
            false => <[u8; 4]>::try_from(octets).unwrap().into(),
        }
    };
    let (from, to) = match is_v6 {
        true => (address(&frame[at + 8..at + 24]), address(&frame[at + 24..at + 40])),
        false => (address(&frame[at + 12..at + 16]), address(&frame[at + 16..at + 20])),
    };
    let kind = match (is_v6, is_hard) {
        (true, true) => [1, 4],
        (true, false) => [2, 0],
        (false, true) => [3, 3],
        (false, false) => [3, 4],
    };
    let message = [&kind[..], &[0, 0, 0, 0, 5, 0], quoted].concat();
    let mut error = frame[..at - 2].to_vec();
    put_ip(&mut error, to, from, if is_v6 { 58 } else { 1 }, message.len());
    [error, message].concat()
}

/// Headers that contradict themselves, for an address that is protected.
pub fn malformed(maker: &mut Maker) -> (Side, Vec<u8>) {
    let (client, server) = maker.challenged_ends();
    let flags = maker.random.pick(&[SYN, ACK, RST]);
    let mut frame = Seg::of(client, server).flags(flags).tags(&maker.tags()).frame(Side::Client);
    let at = network(&frame) + if server.is_ipv4() { 20 } else { 40 } + 12;
    frame[at] = (maker.random.pick(&[0, 1, 2, 3, 4, 6, 15]) << 4) | (frame[at] & 15);
    (Side::Client, frame)
}

pub fn garbage(maker: &mut Maker) -> (Side, Vec<u8>) {
    let len = 14 + maker.random.below(120);
    let mut frame = maker.random.octets(len);
    if maker.random.one_in(2) {
        frame[12..14].copy_from_slice(&maker.random.pick(&[[8, 0], [0x86, 0xdd], [0x81, 0]]));
    }
    if maker.random.one_in(2) && len > 40 {
        frame[14] = maker.random.pick(&[0x45, 0x46, 0x60]);
        frame[23] = 6;
    }
    (Side::ALL[maker.random.below(2)], frame)
}

/// A frame of another kind with some octets changed, or cut.
pub fn mutated(maker: &mut Maker, world: &World) -> Option<(Side, Vec<u8>)> {
    let (mut side, mut frame) = plain(maker, world);
    for _ in 0..1 + maker.random.below(3) {
        let at = maker.random.below(frame.len());
        frame[at] = maker.random.octet();
    }
    if maker.random.one_in(4) {
        let len = 14 + maker.random.below(frame.len() - 13);
        frame.truncate(len);
    }
    if maker.random.one_in(2) {
        complete(&mut frame);
    }
    if maker.random.one_in(8) {
        side = side.peer();
    }
    Some((side, frame))
}
