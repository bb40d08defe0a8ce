//! A flood of connections that complete their handshake and then say nothing: the cheapest way to fill a table of flows.

use std::time::Duration;

use synwall::engine::policy::{Limits, Mode, Policy, Prefix};
use synwall::engine::{Side, Verdict};
use synwall::wire::checksum;

use crate::lab::*;

/// The frame with 198.18.255.`last` for the server.
pub fn readdress(mut frame: Vec<u8>, side: Side, last: u8) -> Vec<u8> {
    let layout = parse(&frame);
    let at = if side == Side::Client { 33 } else { 29 };
    frame[at] = last;
    frame[24..26].fill(0);
    frame[50..52].fill(0);
    let header = !checksum::sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    let (source, destination) = (layout.network.source(&frame), layout.network.destination(&frame));
    let pseudo = checksum::pseudo_header(source, destination, frame.len() - 34);
    let tcp = !checksum::add(checksum::sum(&frame[34..]), pseudo);
    frame[50..52].copy_from_slice(&tcp.to_be_bytes());
    frame
}

/// A second service at 198.18.255.9, like the first but for its mode.
pub fn with_another(lab: &Lab, mode: Mode) {
    let policy = lab.shared.policy();
    let web = policy.services()[0].clone();
    let mut other = web.clone();
    other.name = "other".into();
    other.mode = mode;
    other.prefix = Prefix::host("198.18.255.9".parse().unwrap());
    lab.shared.set_policy(Policy::new(vec![web, other], policy.limits, 1500).unwrap());
}

/// A flood of connections that complete their handshake and stay silent, a table full of them in 20 seconds and half as many
/// again, while newcomers come and others go on with what they do.
struct Silence {
    lab: Lab,
    total: u32,
    /// Connections that carry data each second.
    in_use: Vec<(u16, Cookie, u32)>,
}

impl Silence {
    fn new(v6: bool, total: u32, change: impl FnOnce(&mut Limits)) -> Silence {
        let mut lab = Lab::with(|service, limits| {
            limits.max_flows = total;
            limits.max_flows_per_source = total / 16;
            change(limits);
            service.max_flows = u32::MAX;
            service.budgets.connections_per_source = None;
            if v6 {
                service.prefix = Prefix::host("2001:db8:255::2".parse().unwrap());
            }
        });
        lab.v6 = v6;
        if !v6 {
            with_another(&lab, Mode::Always);
        }
        let mut silence = Silence { lab, total, in_use: Vec::new() };
        for port in 1..=20 {
            let of = |s: Seg| s.of_net(19).of_client([200, 1]).port(port);
            let cookie = silence.connect(2, of).expect("an empty table");
            silence.in_use.push((port, cookie, 0));
        }
        silence
    }

    /// Opens a connection to 198.18.255.`last`, if there is room.
    fn connect(&mut self, last: u8, of: impl Fn(Seg) -> Seg) -> Option<Cookie> {
        let give = |lab: &mut Lab, side, s: Seg| {
            let frame = lab.frame(side, &of(s));
            lab.inject(side, &if last == 2 { frame } else { readdress(frame, side, last) })
        };
        let lab = &mut self.lab;
        if give(lab, Side::Client, linux_syn()) != Verdict::Consume {
            return None;
        }
        let cookie = lab.told();
        let ack = lab.client_ack(cookie);
        let answer = lab.server_syn_ack();
        let is_open = give(lab, Side::Client, ack) == Verdict::Consume
            && give(lab, Side::Server, answer) == Verdict::Consume;
        lab.take();
        is_open.then_some(cookie)
    }

    /// Each of those in use sends a request and is answered.
    fn go_on(&mut self) {
        for (port, cookie, sent) in &mut self.in_use {
            let of = |s: Seg| s.of_net(19).of_client([200, 1]).port(*port);
            let (ask, answer) = (c(1 + *sent), as_client(*cookie, s(1 + *sent)));
            let request = seg(PSH, ask).ack(answer).ts(1_100, cookie.tsval).data(b"x");
            assert_eq!(self.lab.client(of(request)), Verdict::Forward, "a connection in use");
            let reply = seg(PSH, s(1 + *sent)).ack(c(2 + *sent)).ts(9_100, 1_100).data(b"y");
            assert_eq!(self.lab.server(of(reply)), Verdict::Forward);
            *sent += 1;
        }
        self.lab.take();
    }

    /// How many of 150 newcomers to each service are served, while connections of these clients come.
    fn served(&mut self, attacker: impl Fn(u32) -> Seg) -> [u32; 2] {
        let (part, a_second) = (self.total / 100, self.total / 20);
        let tick = Duration::from_secs(1) / a_second;
        let mut served = [0; 2];
        for n in 0..self.total / 2 * 3 {
            self.lab.advance(tick);
            let from = attacker(n);
            self.connect(2, |s| Seg {
                client: from.client,
                net: from.net,
                client_port: from.client_port,
                ..s
            });
            if n % a_second == 0 {
                self.go_on();
            }
            if n % part == 0 {
                for (service, last) in [2, 9].into_iter().enumerate().take(if self.lab.v6 { 1 } else { 2 }) {
                    let number = (n / part) as u8;
                    let newcomer = |s: Seg| s.of_net(19).of_client([number, 7]).port(40_000);
                    served[service] += u32::from(self.connect(last, newcomer).is_some());
                }
            }
        }
        assert!(
            self.lab.snapshot().flows[1..].iter().map(|(_, count)| count).sum::<u64>() <= self.total.into()
        );
        served
    }
}

/// Where the flood comes from: a /16 of IPv4, or a /48 of IPv6.
fn from_one_holder(n: u32) -> Seg {
    let [_, _, high, low] = n.to_be_bytes();
    seg(SYN, 0).of_client([low, high]).port(1_000 + (n >> 16) as u16)
}

/// As many more networks.
fn from_everywhere(n: u32) -> Seg {
    from_one_holder(n).of_net(18 + (n % 2) as u8)
}

/// Row 33.
#[test]
fn connections_of_one_holder_that_stay_silent_keep_no_newcomer_out() {
    for v6 in [false, true] {
        let mut silence = Silence::new(v6, 16_000, |_| {});
        assert_eq!(silence.served(from_one_holder), if v6 { [150, 0] } else { [150, 150] });
        let counters = silence.lab.snapshot().services[0].values.counters.clone();
        assert_eq!(counters.reclaimed_idle, 0);
    }
}

/// Row 33: where shares by source help nothing.
#[test]
fn connections_from_everywhere_that_stay_silent_keep_no_newcomer_out() {
    for v6 in [false, true] {
        let mut silence = Silence::new(v6, 16_000, |limits| limits.max_flows_per_source = 16_000);
        assert_eq!(silence.served(from_everywhere), if v6 { [150, 0] } else { [150, 150] });
        let counters = silence.lab.snapshot().services[0].values.counters.clone();
        assert!(counters.reclaimed_silent > 1_000 && counters.reclaimed_idle == 0, "{counters:?}");
    }
}

#[test]
#[ignore = "a minute: cargo test --release --no-default-features --test engine -- --ignored a_million"]
fn a_million_and_a_half_silent_connections_keep_no_newcomer_out() {
    for v6 in [false, true] {
        let mut silence = Silence::new(v6, 1_000_000, |_| {});
        assert_eq!(silence.served(from_one_holder), if v6 { [150, 0] } else { [150, 150] });
        let mut silence = Silence::new(v6, 1_000_000, |limits| limits.max_flows_per_source = 1_000_000);
        assert_eq!(silence.served(from_everywhere), if v6 { [150, 0] } else { [150, 150] });
    }
}
