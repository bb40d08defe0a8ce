//! What crosses as it is.

use synwall::engine::{Side, Verdict};

use crate::packets::frames::*;
use crate::theme::{Case, LINUX, Theme, syn, v4, v6};

pub fn theme() -> Theme {
    let mut theme = Theme::new("foreign", ABOUT, POLICIES);
    not_tcp(&mut theme);
    not_protected(&mut theme);
    let_through(&mut theme);
    odd(&mut theme);
    theme
}

fn crosses(
    theme: &mut Theme,
    name: &str,
    why: &str,
    policy: &str,
    may_go_up: bool,
    (side, frame): (Side, &[u8]),
) {
    let case = Case { name: name.into(), why, policy, may_go_up, ..Case::default() };
    let outcome = theme.vector(&case, side, frame);
    let same = vec![(side.peer(), frame.to_vec())];
    assert_eq!((outcome.verdict, outcome.out), (Verdict::Forward, same), "{name}");
}

/// Both ways.
fn both(theme: &mut Theme, name: &str, why: &str, frame: &[u8]) {
    crosses(theme, name, why, "mixed", false, (Side::Client, frame));
    crosses(theme, &format!("{name}-from-inside"), "", "mixed", false, (Side::Server, frame));
}

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let macs = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1];
    [&macs, &ethertype.to_be_bytes()[..], payload].concat()
}

fn packet(ends: (std::net::SocketAddr, std::net::SocketAddr), protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    put_ip(&mut frame, ends.0.ip(), ends.1.ip(), protocol, payload.len());
    [frame, payload.to_vec()].concat()
}

fn not_tcp(theme: &mut Theme) {
    let arp = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 198, 18, 0, 1, 0, 0, 0, 0, 0, 0, 198, 18, 255, 2];
    both(theme, "arp", "", &ethernet(0x0806, &arp));
    both(theme, "lldp", "", &ethernet(0x88cc, &[2, 7, 4, 2, 0, 0, 0, 0, 1]));
    both(
        theme,
        "length-field",
        "IEEE 802.3 with a length in the place of the type.",
        &ethernet(38, &[0x42; 38]),
    );
    both(
        theme,
        "three-tags",
        "Nobody looks behind a third tag.",
        &ethernet(0x88a8, &[0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3, 8, 0, 0x45]),
    );
    let udp = [0x30, 0x39, 0, 80, 0, 12, 0, 0, 1, 2, 3, 4];
    both(theme, "udp", "", &packet(v4(1), 17, &udp));
    both(theme, "ipv6-udp", "", &packet(v6(1), 17, &udp));
    both(theme, "echo", "", &packet(v4(1), 1, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]));
    both(theme, "ipv6-echo", "", &packet(v6(1), 58, &[128, 0, 0, 0, 0, 1, 0, 1]));
    both(
        theme,
        "neighbour-solicitation",
        "",
        &packet(
            v6(1),
            58,
            &[135, 0, 0, 0, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 2, 0x55, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
        ),
    );
    both(theme, "gre", "", &packet(v4(1), 47, &[0; 24]));
    both(theme, "igmp", "", &packet(v4(1), 2, &[0x16, 0, 0, 0, 224, 0, 0, 251]));
    both(theme, "sctp", "", &packet(v6(1), 132, &[0; 12]));
    let mut tagged = packet(v4(1), 17, &udp);
    tagged.splice(12..12, QINQ);
    both(theme, "udp-in-qinq", "", &tagged);
    both(theme, "bare-header", "", &ethernet(0x0800, &[]));
    both(
        theme,
        "cut-ip",
        "An IP header that ends early says nothing of TCP.",
        &ethernet(0x0800, &[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6]),
    );
}

fn not_protected(theme: &mut Theme) {
    let other_port = (v4(45_000).0, "198.18.255.2:8080".parse().unwrap());
    let other_address = (v4(45_000).0, "198.18.254.2:80".parse().unwrap());
    let other_v6 = (v6(45_000).0, "[2001:db8:254::2]:80".parse().unwrap());
    let off = (v4(45_000).0, "198.18.255.9:80".parse().unwrap());
    for (name, ends) in [
        ("other-port", other_port),
        ("other-address", other_address),
        ("ipv6-other-address", other_v6),
        ("mode-off", off),
    ] {
        let up = name == "mode-off";
        for side in Side::ALL {
            let from = if side == Side::Client { "" } else { "-from-inside" };
            let seg = || Seg::of(ends.0, ends.1).seq(7);
            for (what, seg) in [
                ("syn", syn(ends).raw(&LINUX)),
                ("syn-ack", seg().flags(SYN).ack(8)),
                ("ack", seg().ack(8)),
                ("data", seg().ack(8).data(b"data")),
                ("fin", seg().ack(8).flags(FIN)),
                ("rst", seg().flags(RST)),
                ("nonsense", seg().flags(SYN | FIN | RST)),
            ] {
                // The SYN of a service that is off is counted.
                let may_go_up = up && what == "nonsense";
                crosses(
                    theme,
                    &format!("{name}-{what}{from}"),
                    "",
                    "mixed",
                    may_go_up,
                    (side, &seg.frame(side)),
                );
            }
        }
    }
    let mut corrupt = syn(other_port).raw(&LINUX).frame(Side::Client);
    *corrupt.last_mut().unwrap() ^= 1;
    crosses(
        theme,
        "other-port-bad-checksum",
        "Checksums are its receiver's business.",
        "mixed",
        false,
        (Side::Client, &corrupt),
    );
    let tagged = syn(other_address).raw(&LINUX).tags(&QINQ).frame(Side::Client);
    crosses(theme, "other-address-qinq", "", "mixed", false, (Side::Client, &tagged));
    let denied = Seg::of("198.18.66.1:1".parse().unwrap(), other_port.1).flags(SYN).frame(Side::Client);
    crosses(
        theme,
        "denied-source-elsewhere",
        "The filter is for protected services.",
        "mixed",
        false,
        (Side::Client, &denied),
    );
}

fn let_through(theme: &mut Theme) {
    let monitor = (v4(45_001).0, "198.18.255.8:80".parse().unwrap());
    let allowed = ("198.18.77.1:45001".parse().unwrap(), v4(1).1);
    for (name, ends) in [("monitor", monitor), ("allowed", allowed)] {
        let seg = || Seg::of(ends.0, ends.1).seq(7);
        for (what, seg) in [
            ("syn", syn(ends).raw(&LINUX)),
            ("ack", seg().ack(8)),
            ("data", seg().ack(8).data(b"data")),
            ("fin", seg().ack(8).flags(FIN)),
            ("rst", seg().flags(RST)),
        ] {
            let up = what == "syn";
            crosses(
                theme,
                &format!("{name}-{what}"),
                "",
                "mixed",
                up,
                (Side::Client, &seg.frame(Side::Client)),
            );
        }
        let server = seg().ack(8).data(b"data").frame(Side::Server);
        let up = name == "allowed";
        crosses(theme, &format!("{name}-data-from-inside"), "", "mixed", up, (Side::Server, &server));
        let opening = seg().flags(SYN).frame(Side::Server);
        crosses(theme, &format!("{name}-syn-from-inside"), "", "mixed", true, (Side::Server, &opening));
    }
    let adaptive = (v4(45_002).0, "198.18.255.7:80".parse().unwrap());
    let frame = syn(adaptive).raw(&LINUX).frame(Side::Client);
    let why = "While all is quiet an adaptive service lets SYNs through, and the engine tracks them.";
    crosses(theme, "adaptive-syn", why, "mixed", true, (Side::Client, &frame));
    let why = "The server itself opens a connection.";
    let frame = syn(v4(45_003)).raw(&LINUX).frame(Side::Server);
    crosses(theme, "always-syn-from-inside", why, "mixed", true, (Side::Server, &frame));
}

fn odd(theme: &mut Theme) {
    let mut later = Seg::of(v4(1).0, v4(1).1).ack(1).data(&[7; 64]).frame(Side::Client);
    later[14 + 6..14 + 8].copy_from_slice(&[0, 9]);
    let why = "A later fragment has no ports, and is worth nothing without the first.";
    crosses(theme, "later-fragment", why, "mixed", true, (Side::Client, &later));
    let other_address = (v4(45_000).0, "198.18.254.2:80".parse().unwrap());
    let mut malformed = syn(other_address).raw(&LINUX).frame(Side::Client);
    malformed[14 + 20 + 12] = 0x10;
    let why = "Nonsense for an address that nobody protects.";
    crosses(theme, "malformed-elsewhere", why, "mixed", true, (Side::Client, &malformed));
    let error = packet(
        other_address,
        1,
        &[
            3, 3, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1,
            0, 2, 0, 8, 0, 0,
        ],
    );
    crosses(theme, "icmp-error-about-udp", "", "mixed", true, (Side::Client, &error));
}

const ABOUT: &str =
    "Frames that cross as they are, both ways: what is not TCP, what nobody protects, what is let through.";

const POLICIES: &str = r#"[policy.mixed]
deny = ["198.18.66.0/24"]
allow = ["198.18.77.0/24"]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always" },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always" },
  { name = "adaptive", prefix = "198.18.255.7", ports = [[80, 80]], mode = "adaptive" },
  { name = "monitor", prefix = "198.18.255.8", ports = [[80, 80]], mode = "monitor" },
  { name = "off", prefix = "198.18.255.9", ports = [[80, 80]], mode = "off" },
]
"#;
