//! What is dropped, reason by reason.

use synwall::engine::{DropReason, Side, Verdict};

use crate::packets::frames::*;
use crate::theme::{Case, LINUX, Theme, syn, v4, v6};

pub fn theme() -> Theme {
    let mut theme = Theme::new("drops", ABOUT, POLICIES);
    checksums(&mut theme);
    flags(&mut theme);
    addresses(&mut theme);
    headers(&mut theme);
    options(&mut theme);
    unknown(&mut theme);
    denied(&mut theme);
    theme
}

fn dropped(theme: &mut Theme, name: &str, why: &str, policy: &str, reason: DropReason, frame: &[u8]) {
    let case = Case { name: name.into(), why, policy, ..Case::default() };
    put(theme, &case, reason, frame);
}

fn put(theme: &mut Theme, case: &Case<'_>, reason: DropReason, frame: &[u8]) {
    let outcome = theme.vector(case, Side::Client, frame);
    assert_eq!(outcome.verdict, Verdict::Drop(reason), "{}", case.name);
}

fn checksums(theme: &mut Theme) {
    for (family, ends) in [("ipv4", v4(44_000)), ("ipv6", v6(44_000))] {
        let good = syn(ends).raw(&LINUX).data(b"hello").frame(Side::Client);
        let tcp = good.len() - 45;
        let places = [
            ("checksum", tcp + 16),
            ("options", tcp + 25),
            ("last-octet", good.len() - 1),
            ("window", tcp + 14),
        ];
        for (name, at) in places {
            let mut bad = good.clone();
            bad[at] ^= 4;
            dropped(theme, &format!("{family}-bad-{name}"), "", "always", DropReason::BadChecksum, &bad);
        }
    }
    let mut bad = syn(v4(44_001)).raw(&LINUX).frame(Side::Client);
    bad[14 + 1] ^= 4;
    let why = "The checksum of the IP header alone is wrong.";
    dropped(theme, "ipv4-bad-header", why, "always", DropReason::BadChecksum, &bad);
}

fn flags(theme: &mut Theme) {
    for (family, ends) in [("ipv4", v4(44_002)), ("ipv6", v6(44_002))] {
        for (name, flags) in [
            ("syn-fin", SYN | FIN),
            ("syn-rst", SYN | RST),
            ("everything", 0xff),
            ("none", 0),
            ("fin", FIN),
            ("fin-psh-urg", FIN | PSH | URG),
            ("syn-fin-ack", SYN | FIN | ACK),
        ] {
            let seg = Seg { flags, ..syn(ends).raw(&LINUX) };
            let name = format!("{family}-flags-{name}");
            dropped(theme, &name, "", "always", DropReason::BadFlags, &seg.frame(Side::Client));
        }
    }
}

fn addresses(theme: &mut Theme) {
    let server = v4(1).1;
    let cases = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "198.18.255.2",
    ];
    for source in cases {
        let why = if source == "198.18.255.2" { "Its own address as source (land)." } else { "" };
        let client = format!("{source}:44003").parse().unwrap();
        for (what, seg) in
            [("syn", Seg::of(client, server).flags(SYN)), ("ack", Seg::of(client, server).ack(9))]
        {
            let name = format!("source-{source}-{what}");
            dropped(theme, &name, why, "always", DropReason::BogusAddress, &seg.frame(Side::Client));
        }
    }
    let server = v6(1).1;
    for source in ["::", "::1", "ff02::1", "::ffff:198.18.0.1", "2001:db8:255::2"] {
        let client = format!("[{source}]:44003").parse().unwrap();
        for (what, seg) in
            [("syn", Seg::of(client, server).flags(SYN)), ("ack", Seg::of(client, server).ack(9))]
        {
            let name = format!("source-{source}-{what}");
            dropped(theme, &name, "", "always", DropReason::BogusAddress, &seg.frame(Side::Client));
        }
    }
    for (family, ends) in [("ipv4", v4(0)), ("ipv6", v6(0))] {
        for (what, seg) in [("syn", syn(ends)), ("ack", Seg::of(ends.0, ends.1).ack(9))] {
            dropped(
                theme,
                &format!("{family}-port-0-{what}"),
                "",
                "always",
                DropReason::BogusPort,
                &seg.frame(Side::Client),
            );
        }
        let mut to_0 = ends;
        to_0.0.set_port(44_004);
        to_0.1.set_port(0);
        dropped(
            theme,
            &format!("{family}-to-port-0"),
            "",
            "all_ports",
            DropReason::BogusPort,
            &syn(to_0).frame(Side::Client),
        );
    }
}

fn headers(theme: &mut Theme) {
    for (family, ends, header) in [("ipv4", v4(44_005), 20), ("ipv6", v6(44_005), 40)] {
        let good = syn(ends).raw(&LINUX).frame(Side::Client);
        let tcp = 14 + header;
        let edited = |edits: &[(usize, u8)]| {
            let mut frame = good.clone();
            edits.iter().for_each(|(at, value)| frame[*at] = *value);
            frame
        };
        let why = "Such a header has no ports that could be trusted: the address alone decides, and no service is named.";
        let name = |name: &str| format!("{family}-{name}");
        dropped(theme, &name("offset-4"), why, "always", DropReason::Malformed, &edited(&[(tcp + 12, 0x40)]));
        dropped(theme, &name("offset-0"), "", "always", DropReason::Malformed, &edited(&[(tcp + 12, 0)]));
        dropped(
            theme,
            &name("offset-past-the-end"),
            "",
            "always",
            DropReason::Malformed,
            &edited(&[(tcp + 12, 0xf0)]),
        );
        let case =
            |what: &str| Case { name: name(what), policy: "always", may_go_up: true, ..Case::default() };
        put(theme, &case("cut"), DropReason::Malformed, &good[..good.len() - 1]);
        let short = if header == 20 { edited(&[(17, 39)]) } else { edited(&[(19, 19)]) };
        put(theme, &case("shorter-than-a-header"), DropReason::Malformed, &short);
        let first = first_fragment(&good, header);
        put(theme, &case("syn-in-a-fragment"), DropReason::Fragment, &first);
    }
    let tiny = |at: usize, value: u8| {
        let mut frame = syn(v4(44_006)).raw(&LINUX).frame(Side::Client);
        frame[at] = value;
        frame
    };
    let why = "An offset of 8 octets would overwrite the flags (RFC 3128).";
    let case = Case {
        name: "ipv4-overlapping-fragment".into(),
        why,
        policy: "always",
        may_go_up: true,
        ..Case::default()
    };
    put(theme, &case, DropReason::Fragment, &tiny(21, 1));
    let case =
        Case { name: "ipv4-header-of-16".into(), policy: "always", may_go_up: true, ..Case::default() };
    put(theme, &case, DropReason::Malformed, &tiny(14, 0x44));
}

/// The same as the first fragment of a larger segment.
fn first_fragment(frame: &[u8], header: usize) -> Vec<u8> {
    let mut first = frame.to_vec();
    if header == 20 {
        first[20] = 0x20;
        complete(&mut first);
        return first;
    }
    let segment = first.split_off(54);
    first[20] = 44;
    first[19] += 8;
    [&first[..], &[6, 0, 0, 1, 0, 0, 0, 9], &segment].concat()
}

fn options(theme: &mut Theme) {
    for (family, ends) in [("ipv4", v4(44_007)), ("ipv6", v6(44_007))] {
        let without = syn(ends).mss(1460).frame(Side::Client);
        dropped(
            theme,
            &format!("{family}-no-timestamps"),
            "",
            "strict",
            DropReason::TimestampsRequired,
            &without,
        );
        let linux = syn(ends).raw(&LINUX).frame(Side::Client);
        dropped(theme, &format!("{family}-no-key"), "", "no_keys", DropReason::NoKey, &linux);
    }
}

fn unknown(theme: &mut Theme) {
    for (family, ends) in [("ipv4", v4(44_008)), ("ipv6", v6(44_008))] {
        let seg = || Seg::of(ends.0, ends.1).seq(1000);
        for (name, seg) in [
            ("rst", seg().flags(RST)),
            ("rst-ack", seg().flags(RST).ack(5)),
            ("syn-ack", seg().flags(SYN).ack(5).mss(1460)),
        ] {
            let name = format!("{family}-unknown-{name}");
            dropped(theme, &name, "", "always", DropReason::NoFlow, &seg.frame(Side::Client));
        }
        let stray = seg().ack(7).data(b"late").frame(Side::Server);
        let why = "The server's segment of no connection: an odd case.";
        let name = format!("{family}-unknown-from-server");
        let case = Case { name, why, policy: "always", may_go_up: true, ..Case::default() };
        let outcome = theme.vector(&case, Side::Server, &stray);
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlow));
    }
}

fn denied(theme: &mut Theme) {
    for (family, ends) in [("ipv4", v4(44_009)), ("ipv6", v6(44_009))] {
        let seg = || Seg::of(ends.0, ends.1).seq(1000);
        for (name, seg) in [
            ("syn", syn(ends).raw(&LINUX)),
            ("ack", seg().ack(5)),
            ("data", seg().ack(5).data(b"denied")),
            ("rst", seg().flags(RST)),
            ("nothing", seg()),
        ] {
            let frame = seg.frame(Side::Client);
            dropped(theme, &format!("{family}-denied-{name}"), "", "denying", DropReason::Denied, &frame);
            dropped(
                theme,
                &format!("{family}-denied-adaptive-{name}"),
                "",
                "denying_adaptive",
                DropReason::Denied,
                &frame,
            );
        }
    }
}

const ABOUT: &str = "Frames that are dropped, reason by reason.";

const POLICIES: &str = r#"[policy.always]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always" },
  { name = "mail", prefix = "198.18.255.3", ports = [[25, 25]], mode = "always" },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always" },
]

[policy.all_ports]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[0, 65535]], mode = "always" },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[0, 65535]], mode = "always" },
]

[policy.strict]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always", require_timestamps = true },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always", require_timestamps = true },
]

[policy.no_keys]
has_keys = false
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always" },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always" },
]

[policy.denying]
deny = ["198.18.0.0/24", "2001:db8::/64"]
allow = ["198.18.0.128/25"]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always" },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always" },
]

[policy.denying_adaptive]
deny = ["198.18.0.1", "2001:db8::1"]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "adaptive" },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "adaptive" },
]
"#;
