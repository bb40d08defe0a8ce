//! A protected server that calls another one by way of a router outside: each segment passes twice, out and in again.
//!
//! The two passes have keys of their own, since a key names the end outside first: out, the server called is the client;
//! in, the calling one is.

use synwall::engine::policy::{Limits, Mode, Policy, PortSet, Prefix, Service};
use synwall::engine::{DropReason, Side, Verdict};
use synwall::wire::pretty::Pretty;
use synwall::wire::tcp::Segment;

use crate::lab::*;

/// The lab's client is the calling server, its port 80 or all of its ports protected, too.
fn lab(mode: Mode, is_v6: bool, has_all_ports: bool) -> Lab {
    let mut lab = if is_v6 { Lab::v6() } else { Lab::new() };
    let mut called = lab.shared.policy().services()[0].clone();
    called.mode = mode;
    let caller = if is_v6 { "2001:db8::1" } else { "198.18.0.1" };
    let mut calling =
        Service { name: "calling".into(), prefix: Prefix::host(caller.parse().unwrap()), ..called.clone() };
    if has_all_ports {
        calling.ports = PortSet::all();
    }
    lab.shared.set_policy(Policy::new(vec![called, calling], Limits::default(), 1500).unwrap());
    lab.skip();
    lab
}

/// The segment leaves `from` and goes through the router, as does whatever comes of it; what each end got of that.
fn send(lab: &mut Lab, from: Side, seg: &Seg) -> [Vec<String>; 2] {
    let frame = lab.frame(from, seg);
    let mut got = [Vec::new(), Vec::new()];
    lab.inject(Side::Server, &frame);
    let mut under_way = lab.outcome();
    while !under_way.is_empty() {
        for (side, frame) in std::mem::take(&mut under_way) {
            if side == Side::Server {
                let is_of_caller = Segment::new(&frame, parse(&frame)).source_port() == 40_000;
                got[usize::from(is_of_caller)].push(Pretty(&frame).to_string());
                continue;
            }
            // The router sends it back.
            lab.inject(Side::Client, &frame);
            under_way.extend(lab.outcome());
        }
    }
    got
}

fn one(text: String) -> Vec<String> {
    vec![text]
}

/// Opens a connection; what the calling server was told, if synwall spoke first.
fn open(lab: &mut Lab, is_challenged: bool) -> Cookie {
    let mss = if lab.v6 { 1440 } else { 1460 };
    let syn_ack = seg(SYN, SERVER_ISS).ack(c(1)).window(65_160).mss(mss);
    let syn = format!("S {}:{}(0) win 64240 <mss {mss}>", c(0), c(1));
    let [to_caller, to_called] = send(lab, Side::Client, &seg(SYN, c(0)).window(64_240).mss(mss));
    if !is_challenged {
        assert_eq!((to_caller, to_called), (vec![], one(syn)));
        let [to_caller, to_called] = send(lab, Side::Server, &syn_ack);
        let answer = format!("S. {}:{}(0) ack {} win 65160 <mss {mss}>", s(0), s(1), c(1));
        assert_eq!((to_caller, to_called), (one(answer), vec![]));
        let [to_caller, to_called] = send(lab, Side::Client, &seg(ACK, c(1)).ack(s(1)));
        assert_eq!(
            (to_caller, to_called),
            (vec![], one(format!(". {}:{}(0) ack {} win 502", c(1), c(1), s(1))))
        );
        return Cookie { iss: SERVER_ISS, tsval: 0 };
    }
    assert_eq!(to_called, [""; 0]);
    let iss: u32 = to_caller[0].split([' ', ':']).nth(1).unwrap().parse().unwrap();
    let next = iss.wrapping_add(1);
    assert_eq!(to_caller, one(format!("S. {iss}:{next}(0) ack {} win 14600 <mss {mss}>", c(1))));
    let [to_caller, to_called] = send(lab, Side::Client, &seg(ACK, c(1)).ack(next));
    assert_eq!((to_caller, to_called), (vec![], one(syn.replace("64240", "502"))));
    let [to_caller, to_called] = send(lab, Side::Server, &syn_ack);
    let ack = one(format!(". {}:{}(0) ack {} win 502", c(1), c(1), s(1)));
    assert_eq!((to_caller, to_called), (vec![], ack));
    Cookie { iss, tsval: 0 }
}

/// Octets each way, and a FIN of each end.
fn talk_and_close(lab: &mut Lab, cookie: Cookie) {
    let told = |seq| as_client(cookie, seq);
    let mut pass = |from, seg: Seg, text: String| {
        let [to_caller, to_called] = send(lab, from, &seg);
        let (got, other) = if from == Side::Client { (to_called, to_caller) } else { (to_caller, to_called) };
        assert_eq!((got, other), (one(text), vec![]));
    };
    let text = |flags: &str, (from, to): (u32, u32), ack| {
        format!("{flags} {from}:{to}({}) ack {ack} win 502", to.wrapping_sub(from).min(4))
    };
    pass(Side::Client, seg(PSH, c(1)).ack(told(s(1))).data(b"ping"), text("P.", (c(1), c(5)), s(1)));
    pass(Side::Server, seg(PSH, s(1)).ack(c(5)).data(b"pong"), text("P.", (told(s(1)), told(s(5))), c(5)));
    let fin =
        |flags: &str, seq: u32, ack| format!("{flags} {seq}:{}(0) ack {ack} win 502", seq.wrapping_add(1));
    pass(Side::Client, seg(FIN, c(5)).ack(told(s(5))), fin("F.", c(5), s(5)));
    pass(Side::Server, seg(FIN, s(5)).ack(c(6)), fin("F.", told(s(5)), c(6)));
    pass(Side::Client, seg(ACK, c(6)).ack(told(s(6))), text(".", (c(6), c(6)), s(6)));
}

/// Row 4.
#[test]
fn a_server_that_calls_another_by_way_of_a_router_is_served_in_every_mode() {
    for mode in [Mode::Off, Mode::Monitor, Mode::Adaptive, Mode::Always] {
        for (is_v6, has_all_ports) in [(false, false), (false, true), (true, false), (true, true)] {
            println!("{mode:?}, IPv6 {is_v6}, all ports of the caller {has_all_ports}");
            let mut lab = lab(mode, is_v6, has_all_ports);
            let cookie = open(&mut lab, mode == Mode::Always);
            talk_and_close(&mut lab, cookie);
            let moved = lab.moved();
            let dropped: Vec<_> = moved.keys().filter(|name| name.starts_with("drop.")).collect();
            assert_eq!(dropped, [""; 0]);
            assert_eq!(moved.get("flows_proxied"), (mode == Mode::Always).then_some(&1));
        }
    }
}

/// Row 4: the SYN-ACK to a forged address of a server gets a RST from it, and that is all.
#[test]
fn a_syn_that_forges_the_address_of_a_server_is_answered_like_any_other() {
    let mut lab = lab(Mode::Always, false, false);
    assert_eq!(lab.client(linux_syn()), Verdict::Consume);
    let cookie = lab.told();
    let answer = lab.outcome().remove(0).1;
    // The router brings it to the server whose address it was, which knows of nothing (RFC 9293 §3.10.7.1).
    assert_eq!(lab.inject(Side::Client, &answer), Verdict::Forward);
    let reset = lab.frame(Side::Client, &seg(RST, cookie.iss.wrapping_add(1)));
    assert_eq!(lab.inject(Side::Server, &reset), Verdict::Forward);
    assert_eq!(lab.inject(Side::Client, &reset), Verdict::Drop(DropReason::NoFlow));
    lab.expect_counters(&[
        ("syn_received", 1),
        ("synack_sent", 1),
        ("outside.originated", 1),
        ("drop.no_flow", 1),
    ]);
}

/// Row 4: whose servers never call from outside says so, and nothing of theirs comes in from there, no cookie's ACK either.
#[test]
fn a_denied_address_of_a_server_is_let_in_by_no_segment() {
    let mut lab = lab(Mode::Always, false, false);
    lab.set_filter(&["198.18.0.1"], &[]);
    assert_eq!(lab.client(linux_syn()), Verdict::Drop(DropReason::Denied));
    assert_eq!(lab.client(seg(ACK, c(1)).ack(77)), Verdict::Drop(DropReason::Denied));
    lab.expect_nothing();
    // It still calls out itself.
    let frame = lab.frame(Side::Client, &linux_syn());
    assert_eq!(lab.inject(Side::Server, &frame), Verdict::Forward);
    lab.skip();
}
