//! What crosses, crosses whole: frames of every kind through a Linux bridge and through synwall, compared octet for octet.
//!
//! The port that a frame leaves the box by segments and sums in software, so that behind it everything is as on a wire.

use std::io::Write;
use std::time::Duration;

use synwall::engine::Side;
use synwall::io::FrameIo;
use synwall::io::af_packet::AfPacket;
use synwall::wire::buffer::FrameBuf;

use crate::capture::Capture;
use crate::frames::{Ends, SOURCE, TCP, UDP, frame, link, octets, partial, whole};
use crate::lab::{CONFIG, Lab, SERVER, eventually, plane};
use crate::traffic::{address, open, receive_hashed, send_hashed, serve};

/// From where to where, through which ports of the box, and the address there.
const DIRECTIONS: [Direction; 2] = [
    Direction { ends: ["client", "server"], ports: ["outside", "inside"], to: [2, 0x53, 0x57, 0, 0, 2] },
    Direction { ends: ["server", "client"], ports: ["inside", "outside"], to: [2, 0x53, 0x57, 0, 0, 0x10] },
];

#[derive(Clone, Copy)]
struct Direction {
    ends: [&'static str; 2],
    ports: [&'static str; 2],
    to: [u8; 6],
}

#[test]
fn frames_that_no_ip_stack_would_make_cross() {
    both_ways(&["--mtu", "9000"], |to| {
        let (group, all) = ([1, 0, 0x5e, 0, 0, 0xfb], [0xff; 6]);
        [
            frame(to, "88b5", 64),
            frame(to, "88b5", 14),
            frame(all, "88b5", 64),
            frame(group, "88b5", 64),
            // IEEE 802.3 with LLC: spanning tree, and something else.
            frame([1, 0x80, 0xc2, 0, 0, 0], "0026 4242 03", 60),
            frame(all, "0032 4242 03", 64),
            // MPLS, ARP, PPPoE, LLDP to a group that bridges forward.
            frame(to, "8847 0001 01ff", 100),
            frame(all, "0806 0001 0800 0604 0001", 60),
            frame(to, "8864 1100 0001 0020", 60),
            frame(group, "88cc", 60),
            frame(to, "8100 2005 88b5", 68),
            frame(all, "8100 0005 0800", 100),
            frame(to, "8100 e000 88b5", 68),
            frame(to, "88a8 0006 8100 0005 88b5", 72),
            frame(to, "8100 0006 8100 0005 88b5", 72),
            frame(to, "88b5", 9014),
            frame(to, "8100 0005 88b5", 9018),
        ]
        .iter()
        .map(|frame| whole(frame))
        .collect()
    });
}

#[test]
fn packets_of_every_protocol_cross() {
    both_ways(&[], |to| {
        let data = octets(900);
        let mut frames = Vec::new();
        for ends in [Ends::V4, Ends::V6] {
            let segments = [(TCP, ends.tcp(5, &data, false)), (UDP, ends.udp(&data, false))];
            for (protocol, payload) in &segments {
                frames.push(ends.packet(*protocol, 7, &[], payload));
            }
            // GRE, ESP, OSPF, SCTP, something unknown, IP in IP.
            frames.extend([47, 50, 89, 132, 253].map(|protocol| ends.packet(protocol, 7, &[], &data)));
            frames.push(ends.packet(
                4,
                7,
                &[],
                &Ends::V4.packet(TCP, 9, &[], &Ends::V4.tcp(5, &data, false)),
            ));
            frames.push(ends.packet(41, 7, &[], &Ends::V6.packet(UDP, 9, &[], &Ends::V6.udp(&data, false))));
        }
        let udp = Ends::V4.udp(&data, false);
        // A router alert and a time stamp; the first fragment and the last.
        frames.push(Ends::V4.packet(UDP, 7, &[148, 4, 0, 0, 68, 8, 5, 0, 0, 0, 0, 0], &udp));
        let fragments = [(0x2000_u16, &udp[..400]), (50, &udp[400..])];
        frames.extend(fragments.map(|(field, part)| fragment(&Ends::V4.packet(UDP, 7, &[], part), field)));
        let udp = Ends::V6.udp(&data, false);
        let hop_by_hop = [60, 0, 5, 2, 0, 0, 1, 0, UDP, 0, 1, 4, 0, 0, 0, 0];
        frames.push(Ends::V6.packet(0, 7, &hop_by_hop, &udp));
        frames.push(Ends::V6.packet(44, 7, &[UDP, 0, 0, 1, 0, 0, 0, 9], &udp[..400]));
        frames.push(Ends::V6.packet(44, 7, &[UDP, 0, 1, 0x90, 0, 0, 0, 9], &udp[400..]));
        frames.iter().map(|packet| whole(&link(to, packet))).collect()
    });
}

#[test]
fn checksums_that_were_left_to_the_hardware_are_completed() {
    both_ways(&[], |to| {
        let data = octets(700);
        let mut frames = Vec::new();
        for (ends, start) in [(Ends::V4, 34), (Ends::V6, 54)] {
            let segments = [(TCP, ends.tcp(5, &data, true)), (UDP, ends.udp(&data, true))];
            for (protocol, payload) in segments {
                let plain = link(to, &ends.packet(protocol, 7, &[], &payload));
                frames.push(partial(&plain, start, protocol, 0));
                frames.push(partial(&tagged(&plain), start + 4, protocol, 0));
            }
        }
        frames
    });
}

#[test]
fn super_frames_are_cut_into_the_same_segments() {
    both_ways(&[], |to| {
        let data = octets(15_000);
        let mut frames = Vec::new();
        for (ends, start) in [(Ends::V4, 34), (Ends::V6, 54)] {
            let segments = [(TCP, ends.tcp(u32::MAX - 99, &data, true)), (UDP, ends.udp(&data, true))];
            for (protocol, payload) in segments {
                let plain = link(to, &ends.packet(protocol, 7, &[], &payload));
                for gso_size in [1400, 500] {
                    frames.push(partial(&plain, start, protocol, gso_size));
                    frames.push(partial(&tagged(&plain), start + 4, protocol, gso_size));
                }
            }
        }
        frames
    });
}

/// What the box's kernel has merged before synwall sees it.
#[test]
fn what_gro_has_merged_comes_apart_again() {
    let merging = |lab: &Lab| {
        for port in ["outside", "inside"] {
            lab.run("box", &["ethtool", "-K", port, "gro", "on", "rx-udp-gro-forwarding", "on"]);
            // Without it a veth that is polled for each frame merges none.
            let file = format!("/sys/class/net/{port}/gro_flush_timeout");
            lab.run("box", &["sh", "-c", &format!("echo 2000000 >{file}")]);
        }
    };
    // IP in IP, GRE, UDP, TCP.
    for kind in 0..4 {
        let frames = move |to: [u8; 6]| -> Vec<FrameBuf> {
            let part = |number: u16| {
                let data = octets(1200);
                let seq = 1200 * u32::from(number);
                let (ends, inner) =
                    (Ends::V4, Ends::V4.packet(TCP, number, &[], &Ends::V4.tcp(seq, &data, false)));
                let packet = match kind {
                    0 => ends.packet(4, number, &[], &inner),
                    1 => ends.packet(47, number, &[], &[&[0, 0, 8, 0][..], &inner].concat()),
                    2 => ends.packet(UDP, number, &[], &ends.udp(&data, false)),
                    _ => inner,
                };
                whole(&link(to, &packet))
            };
            (0..20).map(part).collect()
        };
        both_ways_with(&[], &merging, &|came_in| assert_longest(came_in, 1514), frames);
    }
}

/// Sends these frames each way through a Linux bridge and through synwall, and compares what comes out.
fn both_ways(options: &[&str], frames: impl Fn([u8; 6]) -> Vec<FrameBuf>) {
    both_ways_with(options, &|_| (), &|_| (), frames);
}

fn both_ways_with(
    options: &[&str],
    prepare: &dyn Fn(&Lab),
    seen: &dyn Fn(&Capture),
    frames: impl Fn([u8; 6]) -> Vec<FrameBuf>,
) {
    let through = |expected: Option<&[Vec<Vec<u8>>; 2]>| -> [Vec<Vec<u8>>; 2] {
        let is_bridge = expected.is_none();
        let mut lab =
            Lab::up(&[&["--direct", if is_bridge { "--plain" } else { "--bridge" }], options].concat());
        for end in ["client", "server"] {
            lab.run(end, &["ethtool", "-K", "eth0", "gro", "off"]);
        }
        prepare(&lab);
        if !is_bridge {
            lab.start(CONFIG);
        }
        [0, 1].map(|number: usize| {
            let direction = DIRECTIONS[number];
            for feature in ["tx", "gso", "tso", "tx-udp-segmentation"] {
                lab.run("box", &["ethtool", "-K", direction.ports[1], feature, "off"]);
            }
            let mut came_in = Capture::of_arriving(&lab, "box", direction.ports[0]);
            let came_out = came_out(
                &lab,
                direction,
                &frames(direction.to),
                expected.map(|expected| expected[number].len()),
            );
            came_in.end();
            seen(&came_in);
            came_out
        })
    };
    let expected = through(None);
    for ((there, expected), Direction { ends: [from, to], .. }) in
        through(Some(&expected)).iter().zip(&expected).zip(DIRECTIONS)
    {
        assert!(!expected.is_empty());
        for frame in there.iter().filter(|frame| !expected.contains(frame)) {
            eprintln!(
                "not through a bridge: {:02x?} … {} octets",
                &frame[..frame.len().min(60)],
                frame.len()
            );
        }
        for frame in expected.iter().filter(|frame| !there.contains(frame)) {
            eprintln!("a bridge alone: {:02x?} … {} octets", &frame[..frame.len().min(60)], frame.len());
        }
        assert!(
            there == expected,
            "{} frames from {from} to {to}, {} through a bridge",
            there.len(),
            expected.len()
        );
    }
}

/// The frames of ours that arrive at `to`, sorted: on the way some pass through a process and others do not.
fn came_out(lab: &Lab, direction: Direction, frames: &[FrameBuf], at_least: Option<usize>) -> Vec<Vec<u8>> {
    let [from, to] = direction.ends;
    let [mut arrived, mut echoed] = [to, from].map(|namespace| Capture::of_arriving(lab, namespace, "eth0"));
    lab.run(from, &["ip", "link", "add", "unused0", "type", "veth", "peer", "name", "unused1"]);
    lab.run(from, &["ip", "link", "set", "unused0", "up"]);
    let mut ports = lab.within(from, || AfPacket::open("eth0", "unused0", 1)).unwrap().0.remove(0);
    frames.iter().for_each(|frame| ports.send(Side::Client, frame.as_frame()));
    ports.flush();
    let ours = |capture: &Capture| -> Vec<Vec<u8>> {
        capture.frames().into_iter().filter(|frame| frame[6..12] == SOURCE).collect()
    };
    // Then nothing more, for as long as a copy that took another way may need.
    let (mut count, mut calm) = (0, 0);
    assert!(eventually(Duration::from_secs(10), || {
        let before = std::mem::replace(&mut count, ours(&arrived).len());
        calm = if before == count { calm + 1 } else { 0 };
        calm >= 50 || (calm >= 25 && at_least.is_some_and(|least| count >= least))
    }));
    arrived.end();
    echoed.end();
    assert!(ours(&echoed).is_empty(), "frames came back to {from}");
    lab.run(from, &["ip", "link", "del", "unused0"]);
    let mut frames = ours(&arrived);
    frames.sort();
    frames
}

/// VXLAN between hosts that leave segmenting to whoever sends last: a super-frame with two IP headers.
#[test]
fn transfers_in_a_tunnel_of_late_segments_arrive() {
    let lab = Lab::protected(&["--direct"]);
    for (end, local, remote, inner) in
        [("client", "198.18.255.10", SERVER[0], "10"), ("server", SERVER[0], "198.18.255.10", "2")]
    {
        let words = ["id", "5", "local", local, "remote", remote, "dstport", "4789", "dev", "eth0"];
        lab.run(end, &[&["ip", "link", "add", "vx0", "type", "vxlan"][..], &words].concat());
        lab.run(end, &["ip", "address", "add", &format!("198.19.0.{inner}/24"), "dev", "vx0"]);
        lab.run(end, &["ip", "address", "add", &format!("2001:db8:19::{inner}/64"), "dev", "vx0", "nodad"]);
        lab.run(end, &["ip", "link", "set", "vx0", "up"]);
    }
    let mut outside = Capture::of_arriving(&lab, "box", "outside");
    for host in ["198.19.0.2", "2001:db8:19::2"] {
        transfer_both_ways(&lab, host, 9000);
    }
    outside.end();
    assert_longest(&outside, 1514);
    assert_no_losses(&lab);
}

/// BIG TCP: super-frames above 64 KiB, which have no length that their IP header could tell.
#[test]
fn transfers_in_frames_above_64_kib_arrive() {
    let mut lab = Lab::up(&["--direct"]);
    for (namespace, port) in [("client", "eth0"), ("server", "eth0"), ("box", "outside"), ("box", "inside")] {
        // IPv4 has limits of its own, which older iproute2 cannot set.
        for limit in ["gso_max_size", "gro_max_size"] {
            lab.run(namespace, &["ip", "link", "set", "dev", port, limit, "500000"]);
        }
    }
    lab.start(CONFIG);
    for end in ["client", "server"] {
        lab.run(
            end,
            &[
                "sysctl",
                "-qw",
                "net.ipv4.tcp_wmem=4096 4194304 16777216",
                "net.ipv4.tcp_rmem=4096 4194304 16777216",
            ],
        );
    }
    let mut outside = Capture::of_arriving(&lab, "box", "outside");
    for host in SERVER {
        // Unprotected, and protected.
        transfer_both_ways(&lab, host, 9000);
        transfer_both_ways(&lab, host, 8000);
    }
    outside.end();
    assert_longest(&outside, 65_549);
    lab.assert_metrics(&[("synwall_cookie_valid_total", 2)]);
    assert_no_losses(&lab);
}

/// Sends 32 MiB each way on one connection, hashes equal.
pub(crate) fn transfer_both_ways(lab: &Lab, host: &str, port: u16) {
    let server = serve(lab, address(host, port), 1, |stream| {
        (receive_hashed(&stream).unwrap(), send_hashed(&stream, OCTETS).unwrap())
    });
    let (sent, received) = lab.within("client", || {
        let mut stream = open(address(host, port)).unwrap();
        stream.flush().unwrap();
        (send_hashed(&stream, OCTETS).unwrap(), receive_hashed(&stream).unwrap())
    });
    assert_eq!(server.join().unwrap(), [((OCTETS, sent), received.1)], "{host} port {port}");
    assert_eq!(received.0, OCTETS);
}

/// That frames longer than a link takes, or a header tells, came at all. With XDP in the driver the far end segments.
fn assert_longest(capture: &Capture, limit: usize) {
    let longest = capture.longest();
    assert!(longest > limit || plane() == "xdp", "no frame is longer than {longest} octets");
}

fn assert_no_losses(lab: &Lab) {
    for name in ["synwall_send_failed_total", "synwall_receive_dropped_total", "synwall_dropped_total"] {
        assert_eq!(lab.metric(name, ""), 0, "{name}");
    }
}

/// An IPv4 packet with another word of flags and fragment offset.
fn fragment(packet: &[u8], field: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[6..8].copy_from_slice(&field.to_be_bytes());
    packet[10..12].copy_from_slice(&[0, 0]);
    let sum = !synwall::wire::checksum::sum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0xa0, 5], &frame[12..]].concat()
}

const OCTETS: u64 = 32 << 20;
