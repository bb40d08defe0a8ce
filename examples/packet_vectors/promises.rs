//! Flows whose server does not do what the client was promised, or does it in a rare way: without SACK, and with ECN.

use std::net::SocketAddr;

use synwall::engine::Side;

use crate::packets::frames::*;
use crate::theme::{Flow, LINUX, Theme, v4, v6};
use crate::translate::{answer, crosses, crosses_as, opened_by};

pub fn put(theme: &mut Theme) {
    for (ends, [lacks_sack, without_sack, ecn, lacks_ecn]) in [
        (v4 as fn(u16) -> (SocketAddr, SocketAddr), ["lacks_sack", "without_sack", "ecn", "lacks_ecn"]),
        (v6, ["lacks_sack6", "without_sack6", "ecn6", "lacks_ecn6"]),
    ] {
        // The server's options without the two octets of SACK-permitted.
        let server = without_sack_permitted(&answer(7));
        let flow = opened_by(theme, lacks_sack, "always", ends(43_010), [&LINUX, &server], [0; 2]);
        sack(theme, &flow, true);
        let client = without_sack_permitted(&LINUX);
        let flow = opened_by(theme, without_sack, "always", ends(43_011), [&client, &server], [0; 2]);
        sack(theme, &flow, false);
        let flow = opened_by(theme, ecn, "ecn", ends(43_012), [&LINUX, &answer(7)], [ECE | CWR, ECE]);
        marks(theme, &flow, false);
        let flow = opened_by(theme, lacks_ecn, "ecn", ends(43_013), [&LINUX, &answer(7)], [ECE | CWR, 0]);
        marks(theme, &flow, true);
    }
}

/// Linux's options with NOPs in its place.
fn without_sack_permitted(options: &[u8; 20]) -> [u8; 20] {
    let mut options = *options;
    options[4..6].fill(1);
    options
}

/// A flow in which the server knows no SACK; `up` if the client was promised it.
fn sack(theme: &mut Theme, flow: &Flow, up: bool) {
    let why =
        if up { "The client was promised SACK: its blocks become NOPs, and the engine does it." } else { "" };
    let data = flow.stamped(flow.client(0, 0)).data(b"GET / HTTP/1.0");
    crosses(theme, flow, "data", why, Side::Client, &data, up);
    let answer = flow.server(0, 0).timestamps(9001, 1001).data(b"HTTP/1.0 200 OK");
    crosses(theme, flow, "data-server", "", Side::Server, &answer, up);
    let edge = flow.told.0.wrapping_add(101);
    let blocks = flow.stamped(flow.client(0, 0)).sack(2, &[edge, edge.wrapping_add(100)]);
    crosses(theme, flow, "blocks", "", Side::Client, &blocks, up);
    // Blocks of the server are about the client's numbers, which are nobody's to change.
    let blocks = flow.server(0, 0).timestamps(9001, 1001).sack(2, &[100, 200]);
    crosses(theme, flow, "blocks-server", "", Side::Server, &blocks, up);
}

/// A flow whose client was promised ECN; `up` if the server does not do it.
fn marks(theme: &mut Theme, flow: &Flow, up: bool) {
    let why = if up {
        "The client's packets become not capable (RFC 3168 §6.1.1), and the engine does it."
    } else {
        ""
    };
    for (name, mark) in [("not-ect", 0), ("ect1", 1), ("ect0", 2), ("ce", 3)] {
        for (side, suffix) in [(Side::Client, ""), (Side::Server, "-server")] {
            let seg = match side {
                Side::Client => flow.stamped(flow.client(0, 0)).flags(CWR),
                Side::Server => flow.server(0, 0).timestamps(9001, 1001).flags(ECE),
            };
            let mut frame = seg.data(b"marked").frame(side);
            mark_as(&mut frame, mark);
            let name = format!("{name}{suffix}");
            let why = if name == "ect0" { why } else { "" };
            crosses_as(theme, flow, &name, why, side, &frame, up);
        }
    }
}
