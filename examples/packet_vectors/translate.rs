//! Segments of flows.

use std::net::SocketAddr;

use synwall::engine::{DropReason, Side, Verdict};

use crate::packets::frames::*;
use crate::promises;
use crate::theme::{CLIENT_ISS, Case, Flow, LINUX, SERVER_ISS, Theme, syn, told, v4, v6};

pub fn theme() -> Theme {
    let mut theme = Theme::new("translate", ABOUT, POLICIES);
    let flows = flows(&mut theme);
    for flow in &flows {
        from_client(&mut theme, flow);
        from_server(&mut theme, flow);
    }
    blocks(&mut theme, &flows[0]);
    clocks(&mut theme, &flows[0]);
    edges(&mut theme, &flows[0]);
    flows[..2].iter().for_each(|flow| beyond(&mut theme, flow));
    promises::put(&mut theme);
    ends(&mut theme, &flows[0]);
    direct(&mut theme);
    theme
}

fn c(n: u32) -> u32 {
    CLIENT_ISS.wrapping_add(n)
}

fn s(n: u32) -> u32 {
    SERVER_ISS.wrapping_add(n)
}

/// The server's options: Linux, its clock at 9000, with another scale.
pub const fn answer(scale: u8) -> [u8; 20] {
    [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0x23, 0x28, 0, 0, 3, 0xe9, 1, 3, 3, scale]
}

/// A connection that was opened by SYNs with these options.
fn opened(
    theme: &mut Theme,
    name: &'static str,
    policy: &'static str,
    ends: (SocketAddr, SocketAddr),
    options: [&[u8]; 2],
) -> Flow {
    opened_by(theme, name, policy, ends, options, [0; 2])
}

/// The same, with flags of the SYNs.
pub fn opened_by(
    theme: &mut Theme,
    name: &'static str,
    policy: &'static str,
    ends: (SocketAddr, SocketAddr),
    options: [&[u8]; 2],
    flags: [u8; 2],
) -> Flow {
    let mut bench = theme.bench(policy);
    let client_syn = syn(ends).flags(flags[0]).raw(options[0]).frame(Side::Client);
    let answered = bench.inject(Side::Client, &client_syn);
    let told = told(&answered.out[0].1);
    let has_timestamps = told.1 != 0;
    let seg = || Seg::of(ends.0, ends.1);
    let window = if options[0].len() > 4 { 502 } else { 64_240 };
    let ack = seg().seq(c(1)).ack(told.0.wrapping_add(1)).window(window);
    let ack = if has_timestamps { ack.timestamps(1001, told.1) } else { ack };
    let syn_ack = seg().flags(SYN | flags[1]).seq(SERVER_ISS).ack(c(1)).window(65_160).raw(options[1]);
    let before = vec![(Side::Client, ack.frame(Side::Client)), (Side::Server, syn_ack.frame(Side::Server))];
    let flow = Flow { name, client: ends.0, server: ends.1, policy, before, told };
    theme.flow(flow.clone());
    flow
}

fn flows(theme: &mut Theme) -> Vec<Flow> {
    let plain: &[u8] = &[2, 4, 5, 0xb4];
    vec![
        opened(theme, "usual", "always", v4(43_000), [&LINUX, &answer(7)]),
        opened(theme, "ipv6", "always", v6(43_000), [&LINUX, &answer(7)]),
        opened(theme, "rescaled_down", "always", v4(43_001), [&LINUX, &answer(2)]),
        opened(theme, "rescaled_up", "scale2", v6(43_001), [&LINUX, &answer(9)]),
        opened(theme, "unscaled", "always", v4(43_002), [&LINUX, &answer(7)[..16]]),
        opened(theme, "plain", "always", v4(43_003), [plain, plain]),
    ]
}

impl Flow {
    /// What the client sends: numbers from its ISS, and acknowledging so many octets behind the server's SYN.
    pub fn client(&self, seq: u32, ack: u32) -> Seg {
        let ack = self.told.0.wrapping_add(1).wrapping_add(ack);
        Seg::of(self.client, self.server).seq(c(1).wrapping_add(seq)).ack(ack)
    }

    pub fn server(&self, seq: u32, ack: u32) -> Seg {
        Seg::of(self.client, self.server).seq(s(1).wrapping_add(seq)).ack(c(1).wrapping_add(ack))
    }

    /// With the server's TSval as this client knows it.
    pub fn stamped(&self, seg: Seg) -> Seg {
        if self.told.1 == 0 { seg } else { seg.timestamps(1002, self.told.1) }
    }
}

/// A vector of a flow; `up` if the engine may have to do it.
pub fn crosses(theme: &mut Theme, flow: &Flow, name: &str, why: &str, side: Side, seg: &Seg, up: bool) {
    crosses_as(theme, flow, name, why, side, &seg.frame(side), up);
}

/// The same of a frame.
pub fn crosses_as(theme: &mut Theme, flow: &Flow, name: &str, why: &str, side: Side, frame: &[u8], up: bool) {
    let case = case(flow, name, why, up);
    let outcome = theme.vector(&case, side, frame);
    assert_eq!(outcome.verdict, Verdict::Forward, "{}", case.name);
}

fn case<'a>(flow: &'a Flow, name: &str, why: &'a str, may_go_up: bool) -> Case<'a> {
    let name = format!("{}-{name}", flow.name);
    Case { name, why, flow: Some(flow.name), may_go_up, ..Case::default() }
}

fn from_client(theme: &mut Theme, flow: &Flow) {
    let side = Side::Client;
    let why = "SEG.ACK and every edge of SACK are the server's, as is what TSecr echoes.";
    let why = if flow.name == "usual" { why } else { "" };
    crosses(theme, flow, "ack", why, side, &flow.stamped(flow.client(0, 0)), false);
    let request = flow.stamped(flow.client(0, 0)).flags(PSH).data(b"GET / HTTP/1.0\r\n\r\n");
    crosses(theme, flow, "request", "", side, &request, false);
    for window in [0, 1, 3, 65_535] {
        let seg = flow.stamped(flow.client(0, 0)).window(window);
        crosses(theme, flow, &format!("client-window-{window}"), "", side, &seg, false);
    }
    let odd = flow.stamped(flow.client(0, 0)).data(&[0xc3; 1001]);
    crosses(theme, flow, "client-odd-data", "", side, &odd, false);
    crosses(theme, flow, "client-vlan", "", side, &request.clone().tags(&VLAN), false);
    crosses(theme, flow, "client-qinq", "", side, &request.tags(&QINQ), false);
    let nothing = flow.client(0, 0).raw(&[1, 1, 1, 0]);
    crosses(theme, flow, "client-padding", "", side, &nothing, true);
}

fn from_server(theme: &mut Theme, flow: &Flow) {
    let side = Side::Server;
    let stamped = |seg: Seg| if flow.told.1 == 0 { seg } else { seg.timestamps(9001, 1001) };
    let why = "SEG.SEQ is the cookie's, and so is TSval.";
    let why = if flow.name == "usual" { why } else { "" };
    crosses(
        theme,
        flow,
        "answer",
        why,
        side,
        &stamped(flow.server(0, 0)).flags(PSH).data(b"HTTP/1.0 200 OK\r\n\r\n"),
        false,
    );
    for window in [0, 1, 3, 502, 65_535] {
        let seg = stamped(flow.server(0, 0)).window(window);
        let why = "Rescaled where scales differ: at most 65535, and never 0 unless it was 0.";
        let why = if flow.name == "rescaled_down" && window == 0 { why } else { "" };
        crosses(theme, flow, &format!("server-window-{window}"), why, side, &seg, false);
    }
    let why = "Behind this the server's numbers begin again at 0.";
    let why = if flow.name == "usual" { why } else { "" };
    crosses(theme, flow, "server-wraps", why, side, &stamped(flow.server(0, 0)).data(&[0x3c; 300]), false);
    crosses(theme, flow, "server-odd-data", "", side, &stamped(flow.server(0, 0)).data(&[0x3c; 1401]), false);
    crosses(theme, flow, "server-vlan", "", side, &stamped(flow.server(0, 0)).tags(&VLAN), false);
    crosses(theme, flow, "server-qinq", "", side, &stamped(flow.server(0, 0)).tags(&QINQ), false);
}

/// SACK: one to four blocks at every alignment, alone and with timestamps.
fn blocks(theme: &mut Theme, flow: &Flow) {
    let side = Side::Client;
    let edge = |n: u32| flow.told.0.wrapping_add(1).wrapping_add(n * 100);
    let edges: Vec<u32> = (1..=8).map(edge).collect();
    for count in 1..=4 {
        for lead in 0..4 {
            let room = 40 - lead - (2 + 8 * count);
            let why = "Edges at every alignment: the checksum is over words.";
            let why = if (count, lead) == (1, 0) { why } else { "" };
            let plain = flow.client(0, 0).sack(lead, &edges[..count * 2]);
            // Everybody writes two NOPs in front.
            let is_rare = lead != 2;
            crosses(theme, flow, &format!("sack-{count}-at-{lead}"), why, side, &plain, is_rare);
            if room >= 12 {
                let both = flow.stamped(flow.client(0, 0)).sack(lead, &edges[..count * 2]);
                crosses(theme, flow, &format!("sack-{count}-at-{lead}-ts"), "", side, &both, is_rare);
            }
        }
    }
    let duplicate = flow.client(0, 0).sack(2, &[edge(0), edge(1), edge(0), edge(5)]);
    crosses(theme, flow, "d-sack", "", side, &duplicate, false);
    let wrapping = flow.client(0, 0).sack(2, &[u32::MAX - 1, 2, 0x7fff_ffff, 0x8000_0001]);
    crosses(theme, flow, "sack-around-0", "", side, &wrapping, false);
    let why = "Half a block is no SACK option, and stays as it is.";
    crosses(theme, flow, "sack-of-6", why, side, &flow.client(0, 0).raw(&[1, 1, 5, 6, 1, 2, 3, 4]), true);
    let why = "Behind a broken length nothing is read.";
    let broken = flow.client(0, 0).raw(&[9, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    crosses(theme, flow, "sack-behind-broken", why, side, &broken, true);
    let ended = flow.client(0, 0).raw(&[0, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    crosses(theme, flow, "sack-behind-end", "", side, &ended, true);
    crosses(
        theme,
        flow,
        "unknown-option",
        "",
        side,
        &flow.stamped(flow.client(0, 0)).raw(&[254, 4, 1, 2]),
        true,
    );
    let two = [8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 8, 10, 0, 0, 0, 3, 0, 0, 0, 4];
    crosses(theme, flow, "two-timestamps", "", side, &flow.client(0, 0).raw(&two), true);
    crosses(theme, flow, "two-timestamps-server", "", Side::Server, &flow.server(0, 0).raw(&two), true);
    let odd = [1, 8, 10, 0, 0, 3, 0xea, 0, 0, 0, 9, 1];
    crosses(theme, flow, "timestamps-at-odd", "", side, &flow.client(0, 0).raw(&odd), true);
    crosses(theme, flow, "timestamps-at-odd-server", "", Side::Server, &flow.server(0, 0).raw(&odd), true);
}

/// What TSecr stands for.
fn clocks(theme: &mut Theme, flow: &Flow) {
    let side = Side::Client;
    let echo = |value: u32| flow.client(0, 0).timestamps(1002, value);
    let why = "The cookie of a repeated SYN, two seconds later: it stands for the SYN-ACK's TSval.";
    crosses(theme, flow, "echo-other-cookie", why, side, &echo(flow.told.1.wrapping_add(2 << 21)), false);
    crosses(theme, flow, "echo-next", "", side, &echo(flow.told.1.wrapping_add(1)), false);
    crosses(theme, flow, "echo-0", "", side, &echo(0), false);
    let on = |value: u32| flow.server(0, 0).timestamps(value, 1001);
    for (name, value, up) in [
        ("on", 9500, false),
        ("same", 9000, false),
        ("back", 8990, false),
        ("leap", 9000 + (1 << 16), true),
        ("far-back", 9000u32.wrapping_sub(1 << 30), true),
    ] {
        let why = if value == 8990 { "One that was overtaken does not set the clock back." } else { "" };
        crosses(theme, flow, &format!("clock-{name}"), why, Side::Server, &on(value), up);
    }
}

/// At the edges of the windows.
fn edges(theme: &mut Theme, flow: &Flow) {
    let keep_alive = flow.client(u32::MAX, 0);
    crosses(theme, flow, "keep-alive", "", Side::Client, &keep_alive, false);
    crosses(theme, flow, "keep-alive-server", "", Side::Server, &flow.server(u32::MAX, 0), false);
    let why = "One octet beyond the window is a probe.";
    crosses(theme, flow, "window-probe", why, Side::Client, &flow.client(65_160, 0).data(b"x"), false);
    let old = 0u32.wrapping_sub(132_000);
    // The server has announced 65,160.
    let oldest = old.wrapping_sub(65_160);
    crosses(
        theme,
        flow,
        "old-duplicate",
        "Its receiver acknowledges again.",
        Side::Client,
        &flow.client(oldest, old),
        false,
    );
    for (name, side, seg) in [
        ("beyond", Side::Client, flow.client(65_162, 0).data(b"x")),
        ("far-beyond", Side::Client, flow.client(0x4000_0000, 0).data(b"x")),
        ("too-old", Side::Client, flow.client(oldest.wrapping_sub(1), 0)),
        ("ack-of-nothing", Side::Client, flow.client(0, 1)),
        ("ack-too-old", Side::Client, flow.client(0, old.wrapping_sub(64_257))),
        ("server-beyond", Side::Server, flow.server(0x4000_0000, 0).data(b"x")),
        ("server-ack-of-nothing", Side::Server, flow.server(0, 1)),
        ("fin-beyond", Side::Client, flow.client(0x4000_0000, 0).flags(FIN)),
        ("fin-beyond-server", Side::Server, flow.server(0x4000_0000, 0).flags(FIN)),
        ("reset-beyond", Side::Client, flow.client(0x4000_0000, 0).flags(RST)),
        ("reset-beyond-server", Side::Server, flow.server(0x4000_0000, 0).flags(RST)),
        ("reset-two-before", Side::Client, flow.client(u32::MAX - 1, 0).flags(RST)),
        ("reset-at-the-edge", Side::Client, flow.client(65_160, 0).flags(RST)),
    ] {
        let outcome = theme.vector(&case(flow, name, "", false), side, &seg.frame(side));
        assert!(matches!(outcome.verdict, Verdict::Drop(_)), "{name}: {:?}", outcome.verdict);
    }
    let why = "RFC 9293 §3.10.7.4, fifth: without ACK it is dropped.";
    for (name, side, seg) in [
        ("no-ack", Side::Client, flow.stamped(flow.client(0, 0))),
        ("no-ack-server", Side::Server, flow.server(0, 0).data(b"x")),
    ] {
        let seg = Seg { flags: URG, ..seg };
        let outcome = theme.vector(&case(flow, name, why, false), side, &seg.frame(side));
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::BadFlags));
    }
    for (name, flags) in [("urg", URG), ("ece", ECE), ("cwr", CWR), ("all-but-ends", URG | PSH | ECE | CWR)] {
        crosses(
            theme,
            flow,
            &format!("flag-{name}"),
            "",
            Side::Client,
            &flow.stamped(flow.client(0, 0)).flags(flags),
            false,
        );
    }
}

/// Segments that go on beyond the window. The server has announced 65,160, and the client 502 << 7.
fn beyond(theme: &mut Theme, flow: &Flow) {
    let why = "Its receiver takes what fits, or owes an ACK.";
    let data = [0xc3; 400];
    let client = flow.stamped(flow.client(65_060, 0)).data(&data);
    crosses(theme, flow, "goes-beyond", why, Side::Client, &client, false);
    let server = flow.server(64_200, 0).timestamps(9001, 1001).data(&data);
    crosses(theme, flow, "goes-beyond-server", "", Side::Server, &server, false);
    let closed = flow.stamped(flow.client(65_160, 0)).data(&data);
    crosses(theme, flow, "at-the-edge", "", Side::Client, &closed, false);
    let closed = flow.server(64_256, 0).timestamps(9001, 1001).data(&data);
    crosses(theme, flow, "at-the-edge-server", "", Side::Server, &closed, false);
    crosses(theme, flow, "fin-goes-beyond", "", Side::Client, &client.flags(FIN), true);
}

/// What changes the state of a flow is the engine's.
fn ends(theme: &mut Theme, flow: &Flow) {
    for (name, side, seg) in [
        ("fin", Side::Client, flow.stamped(flow.client(0, 0)).flags(FIN)),
        ("fin-server", Side::Server, flow.server(0, 0).flags(FIN)),
        ("reset", Side::Client, flow.client(0, 0).flags(RST)),
        ("reset-in-window", Side::Client, flow.client(5, 0).flags(RST)),
        ("reset-server", Side::Server, flow.server(0, 0).flags(RST)),
        ("syn-in-window", Side::Client, flow.client(0, 0).flags(SYN)),
    ] {
        crosses(theme, flow, name, "", side, &seg, true);
    }
    let why = "As macOS sends it behind a FIN; without one it is behind.";
    let before = flow.client(u32::MAX, 0).flags(RST).frame(Side::Client);
    theme.vector(&case(flow, "reset-one-before", why, true), Side::Client, &before);
    let mut fragment = flow.stamped(flow.client(0, 0)).data(&[9; 64]).frame(Side::Client);
    fragment[14 + 6] = 0x20;
    theme.vector(&case(flow, "first-fragment", "", true), Side::Client, &fragment);
    let again = flow.before[1].1.clone();
    theme.vector(
        &case(flow, "syn-ack-again", "The ACK was lost: it is sent again.", true),
        Side::Server,
        &again,
    );
}

/// A connection that was let through while all was quiet: nothing of it is changed, and nothing judged.
fn direct(theme: &mut Theme) {
    let (client, server) = v4(43_004);
    let seg = || Seg::of(client, server);
    let before = vec![
        (Side::Client, syn((client, server)).raw(&LINUX).frame(Side::Client)),
        (Side::Server, seg().flags(SYN).seq(SERVER_ISS).ack(c(1)).raw(&answer(7)).frame(Side::Server)),
        (Side::Client, seg().seq(c(1)).ack(s(1)).timestamps(1001, 9000).frame(Side::Client)),
        (Side::Server, seg().seq(s(1)).ack(c(1)).timestamps(9001, 1001).frame(Side::Server)),
    ];
    let flow = Flow { name: "direct", client, server, policy: "adaptive", before, told: (SERVER_ISS, 9000) };
    theme.flow(flow.clone());
    let data = flow.client(0, 0).timestamps(1002, 9001).flags(PSH).data(b"GET / HTTP/1.0\r\n\r\n");
    crosses(theme, &flow, "data", "", Side::Client, &data, false);
    let answer = flow.server(0, 0).timestamps(9002, 1001).data(&[0x3c; 300]);
    crosses(theme, &flow, "data-server", "", Side::Server, &answer, false);
    let rare = flow.client(0, 0).raw(&[254, 4, 1, 2]);
    crosses(theme, &flow, "rare-option", "", Side::Client, &rare, false);
    crosses(theme, &flow, "fin", "", Side::Client, &data.clone().flags(FIN), true);
    let scaled = flow.client(40_000, 0).data(b"x");
    crosses(theme, &flow, "in-scaled-window", "", Side::Client, &scaled, false);
    let beyond = flow.client(65_060, 0).data(&[0xc3; 400]);
    crosses(theme, &flow, "goes-beyond", "", Side::Client, &beyond, false);
    let far = flow.server(0x4000_0000, 0).data(b"x");
    crosses(theme, &flow, "beyond-server", "The server is believed.", Side::Server, &far, true);
    let without_ack = seg().seq(c(1)).flags(PSH).data(b"x");
    let unacceptable = [
        (
            "beyond",
            "What its receiver would not take changes nothing.",
            flow.client(0x4000_0000, 0).data(b"x"),
        ),
        ("blind", "", flow.client(0x1234_5678, 0x5555_5555)),
        ("blind-ack-in-window", "", flow.client(10, 0x5555_5555)),
        ("old-ack", "", flow.client(10, 0_u32.wrapping_sub(70_000))),
        ("without-ack", "", without_ack),
        ("fin-beyond", "", flow.client(0x4000_0000, 0).flags(FIN)),
        ("reset-blind", "", seg().seq(0x1234_5678).flags(RST)),
        ("reset-in-window", "", seg().seq(c(2)).flags(RST)),
    ];
    for (name, why, segment) in unacceptable {
        crosses(theme, &flow, name, why, Side::Client, &segment, false);
    }
    crosses(theme, &flow, "reset", "", Side::Client, &seg().seq(c(1)).flags(RST), true);
    crosses(theme, &flow, "reset-server", "", Side::Server, &seg().seq(s(1)).flags(RST), true);
    crosses(theme, &flow, "reset-server-in-window", "", Side::Server, &seg().seq(s(2)).flags(RST), false);
    crosses(theme, &flow, "old-server", "", Side::Server, &flow.server(0_u32.wrapping_sub(70_000), 0), true);
}

const ABOUT: &str = "Segments of flows, translated. delta is the server's ISS less the cookie's: added to SEG.ACK and to the edges of
SACK on the way to the server, subtracted from SEG.SEQ on the way back. ts_delta does the same for TSecr and TSval.";

const POLICIES: &str = r#"[policy.always]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always" },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always" },
]

[policy.adaptive]
services = [{ name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "adaptive" }]

[policy.ecn]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always", ecn = true },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always", ecn = true },
]

[policy.scale2]
services = [
  { name = "web", prefix = "198.18.255.2", ports = [[80, 80]], mode = "always", wscale = 2 },
  { name = "web6", prefix = "2001:db8:255::2", ports = [[80, 80]], mode = "always", wscale = 2 },
]
"#;
