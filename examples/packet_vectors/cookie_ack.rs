//! ACKs that return a cookie, or something like it.

use std::net::SocketAddr;

use synwall::engine::{DropReason, Side, Verdict};

use crate::packets::frames::*;
use crate::theme::{CLIENT_ISS, Case, LINUX, Theme, syn, told, v4, v6};

pub fn theme() -> Theme {
    let mut theme = Theme::new("cookie_ack", ABOUT, POLICIES);
    good(&mut theme);
    good_shapes(&mut theme);
    bad(&mut theme);
    refused(&mut theme);
    pending(&mut theme);
    theme
}

type Tuple = (SocketAddr, SocketAddr);

/// The SYN, and the ACK with which its client returns the cookie.
fn handshake(theme: &Theme, policy: &str, ends: Tuple, options: &[u8]) -> (Vec<u8>, Seg) {
    let syn = syn(ends).raw(options).frame(Side::Client);
    let outcome = theme.bench(policy).inject(Side::Client, &syn);
    let (iss, tsval) = told(&outcome.out[0].1);
    let ack = Seg::of(ends.0, ends.1).seq(CLIENT_ISS.wrapping_add(1)).ack(iss.wrapping_add(1));
    (syn, if tsval != 0 { ack.timestamps(1001, tsval) } else { ack })
}

fn redeemed(theme: &mut Theme, name: &str, why: &str, policy: &str, frame: &[u8]) {
    let case = Case { name: name.into(), why, policy, may_go_up: true, ..Case::default() };
    let outcome = theme.vector(&case, Side::Client, frame);
    assert_eq!((outcome.verdict, outcome.out.len()), (Verdict::Consume, 1), "{name}");
}

fn good(theme: &mut Theme) {
    let mixes: [(&str, &[u8]); 6] = [
        ("linux", &LINUX),
        ("no-options", &[]),
        ("mss", &[2, 4, 2, 24]),
        ("mss-sack", &[2, 4, 5, 0xb4, 4, 2]),
        ("mss-wscale", &[2, 4, 5, 0xb4, 3, 3, 0]),
        ("timestamps", &[8, 10, 0, 0, 3, 0xe8, 0, 0, 0, 0]),
    ];
    for (family, ends) in [("ipv4", v4(41_000)), ("ipv6", v6(41_000))] {
        for (name, options) in mixes {
            let why = "The SYN to the server says what the cookie carries.";
            let why = if family == "ipv4" && name == "linux" { why } else { "" };
            let (_, ack) = handshake(theme, "always", ends, options);
            redeemed(theme, &format!("good-{family}-{name}"), why, "always", &ack.frame(Side::Client));
        }
    }
}

fn good_shapes(theme: &mut Theme) {
    for (family, ends, options) in [("ipv4", v4(41_001), &LINUX[..]), ("ipv6", v6(41_001), &[2, 4, 5, 0xb4])]
    {
        let (_, ack) = handshake(theme, "always", ends, options);
        let iss = ack.clone().seq(CLIENT_ISS);
        let shapes = [
            (
                "data",
                "Data behind the ACK is kept for the server.",
                ack.clone().flags(PSH).data(b"GET / HTTP/1.0\r\n"),
            ),
            ("fin", "", ack.clone().flags(FIN)),
            ("urgent", "", ack.clone().flags(URG).data(b"!")),
            ("vlan", "", ack.clone().tags(&VLAN)),
            ("qinq", "", ack.clone().tags(&QINQ)),
            ("window-0", "", ack.clone().window(0)),
            (
                "keep-alive",
                "A keep-alive or window probe can be the first that arrives: SEG.SEQ is the ISS.",
                iss.clone(),
            ),
            ("window-probe", "", iss.data(b"x")),
        ];
        for (name, why, seg) in shapes {
            let why = if family == "ipv4" { why } else { "" };
            redeemed(theme, &format!("shape-{family}-{name}"), why, "always", &seg.frame(Side::Client));
        }
    }
    let (_, ack) = handshake(theme, "strict", v4(41_002), &LINUX);
    redeemed(theme, "shape-required-timestamps", "", "strict", &ack.frame(Side::Client));
    let denied_ports = (v4(41_002).0, "198.18.255.77:65535".parse().unwrap());
    let (_, ack) = handshake(theme, "strict", denied_ports, &LINUX);
    redeemed(theme, "shape-address-of-a-prefix", "", "strict", &ack.frame(Side::Client));
}

fn dropped(theme: &mut Theme, case: &Case<'_>, reason: DropReason, frame: &[u8]) {
    let outcome = theme.vector(case, Side::Client, frame);
    assert_eq!(outcome.verdict, Verdict::Drop(reason), "{}", case.name);
}

fn bad(theme: &mut Theme) {
    for (family, ends) in [("ipv4", v4(42_000)), ("ipv6", v6(42_000))] {
        let (_, ack) = handshake(theme, "always", ends, &LINUX);
        let tsval = u32::from_be_bytes(ack.options[8..12].try_into().unwrap());
        let with_echo = |echo: u32| Seg { options: Vec::new(), ..ack.clone() }.timestamps(1001, echo);
        let flipped = |bit: u32| Seg { ack: ((ack.ack - 1) ^ bit).wrapping_add(1), ..ack.clone() };
        let port = SocketAddr::new(ends.0.ip(), 42_001);
        let shapes = [
            ("ack-off-by-one", "", Seg { ack: ack.ack.wrapping_add(1), ..ack.clone() }),
            ("seq-off-by-one", "", Seg { seq: ack.seq.wrapping_add(1), ..ack.clone() }),
            ("mss-index", "A flipped bit of the flags.", flipped(1)),
            ("wscale-index", "", flipped(8)),
            ("sack-flag", "", flipped(0x40)),
            ("parity", "The other epoch's key.", flipped(0x80)),
            ("mac", "", flipped(0x100)),
            ("first-mac-bit", "", flipped(0x8000_0000)),
            ("first-mac-bit-and-parity", "", flipped(0x8000_0080)),
            ("echo-mac", "A flipped bit of TSecr.", with_echo(tsval ^ 1)),
            ("echo-ecn", "", with_echo(tsval ^ 1 << 12)),
            ("echo-scale", "", with_echo(tsval ^ 1 << 8)),
            ("echo-clock", "", with_echo(tsval ^ 1 << 13)),
            ("echo-topmost-clock", "", with_echo(tsval ^ 1 << 31)),
            ("echo-0", "", with_echo(0)),
            (
                "no-echo",
                "A cookie that was minted with timestamps is not redeemed without.",
                Seg { options: Vec::new(), ..ack.clone() },
            ),
            ("other-port", "", Seg { client: port, ..ack.clone() }),
            (
                "second-segment",
                "The ACK and the first data were lost: SEG.SEQ tells another ISS.",
                Seg { seq: ack.seq.wrapping_add(10), ..ack.clone() }.data(b"later"),
            ),
            (
                "two-octets-at-the-iss",
                "A probe has one octet at the most.",
                Seg { seq: CLIENT_ISS, ..ack.clone() }.data(b"ab"),
            ),
            ("data", "", Seg { ack: 77, ..ack.clone() }.data(&[0x5a; 1000])),
            ("vlan", "", Seg { ack: 78, ..ack.clone() }.tags(&VLAN)),
            ("qinq", "", Seg { ack: 79, ..ack.clone() }.tags(&QINQ)),
            ("fin", "", Seg { ack: 80, ..ack.clone() }.flags(FIN)),
        ];
        for (name, why, seg) in shapes {
            let why = if family == "ipv4" { why } else { "" };
            let case =
                Case { name: format!("bad-{family}-{name}"), why, policy: "always", ..Case::default() };
            dropped(theme, &case, DropReason::CookieInvalid, &seg.frame(Side::Client));
        }
    }
    let (_, ack) = handshake(theme, "always", v4(42_002), &[]);
    let case = Case { name: "bad-echo-added".into(), policy: "always", ..Case::default() };
    dropped(theme, &case, DropReason::CookieInvalid, &ack.timestamps(1, 2).frame(Side::Client));
}

fn refused(theme: &mut Theme) {
    let (_, ack) = handshake(theme, "always", v4(42_003), &[2, 4, 5, 0xb4]);
    let why = "Required timestamps are looked for before the cookie.";
    let case = Case { name: "timestamps-required".into(), why, policy: "strict", ..Case::default() };
    dropped(theme, &case, DropReason::TimestampsRequired, &ack.frame(Side::Client));
    let case = Case { name: "no-key".into(), policy: "no_keys", ..Case::default() };
    dropped(theme, &case, DropReason::NoKey, &ack.frame(Side::Client));
    let why = "The service resets what it does not know.";
    let forged = Seg { ack: 81, ..ack.clone() }.frame(Side::Client);
    let case =
        Case { name: "reset-unknown".into(), why, policy: "resetting", may_go_up: true, ..Case::default() };
    dropped(theme, &case, DropReason::CookieInvalid, &forged);
    let mut corrupt = ack.data(b"data").frame(Side::Client);
    *corrupt.last_mut().unwrap() ^= 1;
    let why = "What comes with a good cookie is about to be kept: it has to be intact.";
    let case =
        Case { name: "good-but-corrupt".into(), why, policy: "always", may_go_up: true, ..Case::default() };
    dropped(theme, &case, DropReason::BadChecksum, &corrupt);
}

/// What follows while the server is asked.
fn pending(theme: &mut Theme) {
    for (family, ends) in [("ipv4", v4(41_004)), ("ipv6", v6(41_004))] {
        let (_, ack) = handshake(theme, "always", ends, &LINUX);
        let before = vec![(Side::Client, ack.frame(Side::Client))];
        let case = |name: &str| Case {
            name: format!("pending-{family}-{name}"),
            policy: "always",
            before: before.clone(),
            may_go_up: true,
            ..Case::default()
        };
        let frame = ack.clone().data(b"early").frame(Side::Client);
        theme.vector(&case("data"), Side::Client, &frame);
        theme.vector(&case("again"), Side::Client, &before[0].1);
        let answer = Seg::of(ends.0, ends.1).flags(SYN).seq(0xffff_ff00).ack(ack.seq).raw(&LINUX);
        theme.vector(&case("syn-ack"), Side::Server, &answer.frame(Side::Server));
        let refusal = Seg::of(ends.0, ends.1).flags(RST).ack(ack.seq);
        theme.vector(&case("refusal"), Side::Server, &refusal.frame(Side::Server));
    }
}

const ABOUT: &str =
    "ACKs without a flow: those whose cookie is good open the way to the server (the engine does that), all
others are dropped.";

const POLICIES: &str = r#"[policy.always]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always" },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always" },
]

[policy.no_keys]
has_keys = false
services = [{ name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always" }]

[policy.strict]
services = [
  { name = "web", prefix = "198.18.255.0/24", ports = [[1, 65535]], mode = "always", require_timestamps = true },
]

[policy.resetting]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always", reset_unknown = true },
]
"#;
