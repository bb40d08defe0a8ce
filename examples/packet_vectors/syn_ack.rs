//! SYN-ACKs.

use std::net::SocketAddr;

use synwall::cookie::layout::MSS_FINE;
use synwall::engine::{Side, Verdict};

use crate::packets::frames::*;
use crate::theme::{Case, LINUX, Theme, syn, v4, v6};

const MSS: &[u8] = &[2, 4, 5, 0xb4];
const SACK_OK: &[u8] = &[4, 2];
const TIMESTAMPS: &[u8] = &[8, 10, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0];
const WSCALE: &[u8] = &[3, 3, 7];

pub fn theme() -> Theme {
    let mut theme = Theme::new("syn_ack", ABOUT, POLICIES);
    mixes(&mut theme);
    lists(&mut theme);
    values(&mut theme);
    servers(&mut theme);
    surroundings(&mut theme);
    theme
}

fn answered(theme: &mut Theme, name: &str, why: &str, policy: &str, seg: &Seg) {
    answered_frame(theme, name, why, policy, &seg.frame(Side::Client));
}

fn answered_frame(theme: &mut Theme, name: &str, why: &str, policy: &str, frame: &[u8]) {
    let case = Case { name: name.into(), why, policy, ..Case::default() };
    let outcome = theme.vector(&case, Side::Client, frame);
    assert_eq!((outcome.verdict, outcome.out.len()), (Verdict::Consume, 1), "{name}");
}

fn mixes(theme: &mut Theme) {
    for (family, ends) in [("ipv4", v4(40_000)), ("ipv6", v6(40_000))] {
        for mix in 0..16 {
            let chosen = [("mss", MSS), ("sack", SACK_OK), ("ts", TIMESTAMPS), ("wscale", WSCALE)];
            let chosen = || chosen.iter().enumerate().filter(|(bit, _)| mix >> bit & 1 == 1);
            let names: Vec<&str> = chosen().map(|(_, (name, _))| *name).collect();
            let options: Vec<u8> = chosen().flat_map(|(_, (_, octets))| octets.to_vec()).collect();
            let name = format!("{family}-{}", if mix == 0 { "none".into() } else { names.join("-") });
            answered(theme, &name, "", "always", &syn(ends).raw(&options));
        }
    }
}

fn lists(theme: &mut Theme) {
    let backwards = [WSCALE, TIMESTAMPS, SACK_OK, MSS].concat();
    let list: &[(&str, &str, &[u8])] = &[
        ("order-backwards", "", &backwards),
        ("order-bsd", "", &[2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 4, 2, 0, 0]),
        ("order-windows", "", &[2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2]),
        ("padding-only", "", &[1; 40]),
        (
            "end-of-list",
            "What stands behind the end of the list does not count.",
            &[2, 4, 5, 0xb4, 0, 4, 2, 1],
        ),
        ("end-of-list-first", "", &[0, 2, 4, 5, 0xb4, 4, 2, 1]),
        (
            "last-of-repeated",
            "Of repeated options the last counts.",
            &[2, 4, 5, 0xb4, 3, 3, 2, 3, 3, 9, 2, 4, 4, 0],
        ),
        ("repeated-timestamps", "", &[8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 8, 10, 0, 0, 0, 2, 0, 0, 0, 0]),
        ("length-0", "A broken length ends the list; what came before counts.", &[2, 4, 5, 0xb4, 3, 0, 4, 2]),
        ("length-1", "", &[2, 4, 5, 0xb4, 3, 1, 4, 2]),
        ("length-past-the-end", "", &[2, 4, 5, 0xb4, 8, 11, 0, 0, 0, 9, 0, 0, 0, 0, 1, 1, 5, 6, 0, 0]),
        ("kind-at-the-end", "The last octet is a kind without a length.", &[2, 4, 5, 0xb4, 1, 1, 1, 3]),
        (
            "mss-of-5",
            "A known kind with a length it cannot have is passed over.",
            &[2, 5, 5, 0xb4, 0, 4, 2, 1],
        ),
        ("timestamps-of-9", "", &[8, 9, 0, 0, 0, 1, 0, 0, 0, 4, 2, 1]),
        (
            "unknown-kinds",
            "Fast open and MPTCP are passed over and not echoed.",
            &[34, 2, 30, 12, 0, 0x81, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, 5, 0xb4, 254, 4, 1, 2],
        ),
        (
            "signed-md5",
            "Answered, and counted as signed: no answer of ours can be.",
            &[19, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1, 1],
        ),
        ("signed-ao", "", &[29, 4, 1, 2]),
        ("sack-blocks-in-a-syn", "", &[5, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1, 4, 2, 1, 1]),
    ];
    for (name, why, options) in list {
        answered(theme, name, why, "always", &syn(v4(40_001)).raw(options));
        answered(theme, &format!("ipv6-{name}"), "", "always", &syn(v6(40_001)).raw(options));
    }
}

fn values(theme: &mut Theme) {
    for mss in [
        0, 1, 47, 48, 63, 535, 536, 959, 960, 1219, 1220, 1280, 1360, 1420, 1439, 1440, 1459, 1460, 1461,
        8939, 8940, 8960, 9000, 65_535,
    ] {
        let why =
            "The MSS of the answer is the server's own; the client's goes into the cookie, rounded down.
One of 0 is none, and less than 48 counts as 48.";
        let why = if mss == 0 { why } else { "" };
        answered(theme, &format!("mss-{mss}"), why, "always", &syn(v4(40_002)).mss(mss));
        answered(theme, &format!("ipv6-mss-{mss}"), "", "always", &syn(v6(40_002)).mss(mss));
    }
    let fine = MSS_FINE.into_iter().flat_map(|mss| [mss - 1, mss]).chain([0, 1, 49, 8_961, 9_000, 65_535]);
    for mss in fine {
        let why = if mss == 47 { "With timestamps the cookie has room for 64 values." } else { "" };
        answered(theme, &format!("fine-mss-{mss}"), why, "always", &timed(v4(40_007), mss, None));
    }
    answered(theme, "ipv6-fine-mss-1432", "", "always", &timed(v6(40_007), 1432, Some(3)));
    for scale in (0..=15).chain([255]) {
        let why = if scale == 0 { "With timestamps the window scale is exact." } else { "" };
        let name = format!("fine-wscale-{scale}");
        answered(theme, &name, why, "always", &timed(v4(40_008), 1460, Some(scale)));
    }
    for scale in [0, 1, 3, 5, 6, 9, 10, 14, 15, 255] {
        let why = if scale == 15 { "Scales above 14 count as 14 (RFC 7323 §2.3)." } else { "" };
        answered(theme, &format!("wscale-{scale}"), why, "always", &syn(v4(40_003)).raw(&[3, 3, scale]));
    }
    for seq in [0, 1, 0x7fff_ffff, 0xffff_fffe, 0xffff_ffff] {
        answered(theme, &format!("seq-{seq:#010x}"), "", "always", &syn(v4(40_004)).seq(seq).raw(&LINUX));
    }
    for (name, flags) in [("push", PSH), ("urgent", URG), ("ece", ECE), ("cwr", CWR), ("ecn", ECE | CWR)] {
        answered(theme, &format!("flag-{name}"), "", "always", &syn(v4(40_005)).flags(flags).raw(&LINUX));
    }
    for len in [1, 7, 1400] {
        let why = "Data of a SYN is neither acknowledged nor kept; the checksum is over all of it.";
        let why = if len == 1 { why } else { "" };
        let data = vec![0xa5; len];
        answered(theme, &format!("data-{len}"), why, "always", &syn(v4(40_006)).raw(&LINUX).data(&data));
        answered(
            theme,
            &format!("ipv6-data-{len}"),
            "",
            "always",
            &syn(v6(40_006)).raw(&LINUX).data(&data[..len.min(1380)]),
        );
    }
}

/// A SYN with timestamps.
fn timed(ends: (SocketAddr, SocketAddr), mss: u16, scale: Option<u8>) -> Seg {
    let [high, low] = mss.to_be_bytes();
    let scale = scale.map_or(vec![], |scale| vec![1, 3, 3, scale]);
    syn(ends).raw(&[&[2, 4, high, low, 1, 1], TIMESTAMPS, &scale].concat())
}

fn servers(theme: &mut Theme) {
    let why = "Options only if the server has them, too; ECN only with timestamps, in whose value the cookie has room for it.";
    for (at, policy) in
        ["plain", "scale0", "scale14", "no_sack", "no_timestamps", "ecn", "jumbo", "small", "strict"]
            .into_iter()
            .enumerate()
    {
        for (family, ends) in [("ipv4", v4(40_007)), ("ipv6", v6(40_007))] {
            let why = if at == 0 && family == "ipv4" { why } else { "" };
            let name = format!("server-{policy}-{family}");
            answered(theme, &name, why, policy, &syn(ends).raw(&LINUX).flags(ECE | CWR));
        }
    }
    let no_timestamps = syn(v4(40_007)).flags(ECE | CWR).raw(&[2, 4, 5, 0xb4, 4, 2, 3, 3, 7]);
    answered(theme, "server-ecn-without-timestamps", "", "ecn", &no_timestamps);
    let mut accurate = syn(v4(40_007)).flags(ECE | CWR).raw(&LINUX).frame(Side::Client);
    accurate[14 + 20 + 12] |= 1;
    complete(&mut accurate);
    answered_frame(
        theme,
        "server-ecn-accurate",
        "A SYN with AE (RFC 9768) is answered as a classic one.",
        "ecn",
        &accurate,
    );
}

fn surroundings(theme: &mut Theme) {
    let why = "The answer goes back with the tags of the SYN and its MAC addresses exchanged.";
    for (name, tags) in [("vlan", &VLAN[..]), ("qinq", &QINQ), ("vlan-9100", &[0x91, 0, 0, 1])] {
        let why = if name == "vlan" { why } else { "" };
        answered(theme, name, why, "always", &syn(v4(40_008)).raw(&LINUX).tags(tags));
        answered(theme, &format!("ipv6-{name}"), "", "always", &syn(v6(40_008)).raw(&LINUX).tags(tags));
    }
    let why = "What was sent to a group of stations is answered from no group: its bit is cleared, that of local administration set.";
    for (name, ends, first) in
        [("group", v4(40_011), 0x01), ("ipv6-group", v6(40_011), 0x33), ("broadcast", v4(40_011), 0xff)]
    {
        let mut frame = syn(ends).raw(&LINUX).frame(Side::Client);
        frame[..6].copy_from_slice(&[first, 0xbf, 10, 0, 0, 9]);
        answered_frame(theme, name, if name == "group" { why } else { "" }, "always", &frame);
    }
    let why = "Servers may call each other by way of a router outside: what comes from one is answered like any other.";
    for (family, caller, ends) in
        [("ipv4", "198.18.255.3:25", v4(40_012)), ("ipv6", "[2001:db8:255::3]:25", v6(40_012))]
    {
        let why = if family == "ipv4" { why } else { "" };
        let seg = syn((caller.parse().unwrap(), ends.1)).raw(&LINUX);
        answered(theme, &format!("source-another-server-{family}"), why, "servers", &seg);
    }
    let mut padded = syn(v4(40_009)).frame(Side::Client);
    padded.resize(60, 0xee);
    answered_frame(theme, "link-padding", "Padding of the link is no part of the packet.", "always", &padded);
    let usual = syn(v4(40_010)).raw(&LINUX).frame(Side::Client);
    let why = "TTL, DSCP, identification and DF of the SYN do not show in the answer.";
    for (at, value, name) in
        [(8, 1, "ttl-1"), (1, 0xb9, "dscp"), (4, 0x77, "identification"), (6, 0, "without-df")]
    {
        let mut frame = usual.clone();
        frame[14 + at] = value;
        complete(&mut frame);
        answered_frame(theme, name, if at == 8 { why } else { "" }, "always", &frame);
    }
    let mut labelled = syn(v6(40_010)).raw(&LINUX).frame(Side::Client);
    labelled[14..18].copy_from_slice(&[0x6b, 0x9a, 0xbc, 0xde]);
    answered_frame(theme, "ipv6-flow-label", "", "always", &labelled);
}

const ABOUT: &str = "SYNs and the SYN-ACKs that answer them: every mix of options, odd lists, values at the edges of the
cookie's tables, what servers support, tags. SYN-ACKs promise nothing that was not offered, and are no longer than the SYN.";

const POLICIES: &str = r#"[policy.always]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always" },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always" },
]

[policy.servers]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always" },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always" },
  { name = "mail", prefix = "198.18.255.3", ports = [[25, 25]], mode = "always" },
  { name = "mail6", prefix = "2001:db8:255::3", ports = [[25, 25]], mode = "always" },
]

[policy.plain]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always", wscale = -1, sack = false, timestamps = false },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always", wscale = -1, sack = false, timestamps = false },
]

[policy.scale0]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always", wscale = 0 },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always", wscale = 0 },
]

[policy.scale14]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always", wscale = 14 },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always", wscale = 14 },
]

[policy.no_sack]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always", sack = false },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always", sack = false },
]

[policy.no_timestamps]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always", timestamps = false },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always", timestamps = false },
]

[policy.ecn]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always", ecn = true },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always", ecn = true },
]

# The MSS is never more than the links carry.
[policy.jumbo]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always", mss = 8960, early_data = 65535 },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always", mss = 8940, early_data = 65535 },
]

[policy.small]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always", mss = 536, early_data = 536 },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always", mss = 1220, early_data = 1220 },
]

# The whole prefix, and only cookies with timestamps.
[policy.strict]
services = [
  { name = "web", prefix = "198.18.255.0/24", ports = [[1, 65535]], mode = "always", require_timestamps = true },
  { name = "web6", prefix = "2001:db8:255::/48", ports = [[1, 65535]], mode = "always", require_timestamps = true },
]
"#;
