//! Floods in the name of networks that have real clients, and of sources that the operator allows.

use std::num::NonZeroU32;
use std::time::Duration;

use synwall::engine::export::Past;
use synwall::engine::policy::Mode;
use synwall::engine::{DropReason, Side, Verdict};

use crate::lab::*;

const KNOWN: [u8; 2] = [77, 7];
const NEWCOMER: u8 = 200;
/// Forged SYNs in a millisecond.
const FLOOD: u32 = 50;

/// The frame of the client's segment, from host number `host` of the network: of a /24, or of one /64.
fn frame_of(lab: &Lab, side: Side, segment: Seg, host: u8) -> Vec<u8> {
    if !lab.v6 {
        return lab.frame(side, &segment.of_client([77, host]));
    }
    let mut frame = lab.frame(side, &segment.of_client(KNOWN));
    if host != KNOWN[1] {
        // Two words that sum up to nothing (RFC 1071): the checksum stays right.
        let word = u16::from(host).to_be_bytes();
        let at = 14 + if side == Side::Client { 16 } else { 32 };
        frame[at..at + 2].copy_from_slice(&word);
        frame[at + 2..at + 4].copy_from_slice(&word.map(|octet| !octet));
    }
    frame
}

/// A connection from a known client that is open.
fn connect(lab: &mut Lab) {
    let of = |segment: Seg| segment.of_client(KNOWN).port(999);
    assert_eq!(lab.client(of(linux_syn())), Verdict::Consume);
    let cookie = lab.told();
    assert_eq!(lab.client(of(lab.client_ack(cookie))), Verdict::Consume);
    assert_eq!(lab.server(of(lab.server_syn_ack())), Verdict::Consume);
    lab.skip();
}

/// 50,000 forged SYNs a second in the name of all addresses of a network, for `seconds`, and a SYN of each of two real clients of
/// it every 100 ms; how many of those of each are answered.
fn flood(lab: &mut Lab, seconds: u32) -> [u32; 2] {
    let mut answered = [0; 2];
    for milli in 0..seconds * 1_000 {
        lab.advance(Duration::from_millis(1));
        for n in 0..FLOOD {
            // At a place that falls into step with nothing.
            if milli % 100 == 0 && n == (milli / 100).wrapping_mul(37) % FLOOD {
                let syn = linux_syn().port(1_000 + (milli / 100) as u16);
                for (host, answered) in [KNOWN[1], NEWCOMER].into_iter().zip(&mut answered) {
                    let frame = frame_of(lab, Side::Client, syn.clone(), host);
                    *answered += u32::from(lab.inject(Side::Client, &frame) == Verdict::Consume);
                }
            }
            let number = milli * FLOOD + n;
            let forged = seg(SYN, number).mss(1460).port(2_000 + (number % 60_000) as u16);
            let frame = frame_of(lab, Side::Client, forged, (number % 256) as u8);
            lab.inject(Side::Client, &frame);
        }
        lab.skip();
    }
    answered
}

/// Row 18: an address that completed a connection lately has a budget of its own, in both families.
#[test]
fn a_client_that_connected_lately_is_answered_whatever_is_forged_in_the_name_of_its_network() {
    let mut lab = Lab::new();
    connect(&mut lab);
    let [known, newcomer] = flood(&mut lab, 5);
    assert_eq!(known, 50);
    assert!((5..=20).contains(&newcomer), "of what is left, a fifth: {newcomer} of 50");
    let values = lab.snapshot().services[0].values.counters.clone();
    // What passes is the network's 10,000 a second and a burst, and the known address's own share, 200 forged ones a second.
    assert!((60_000..63_000).contains(&values.synack_sent), "{}", values.synack_sent);
}

#[test]
fn an_address_of_ipv6_that_connected_lately_is_answered_whatever_is_forged_in_its_64() {
    let mut lab = Lab::v6();
    connect(&mut lab);
    let [known, newcomer] = flood(&mut lab, 5);
    assert_eq!(known, 50);
    assert!((5..=20).contains(&newcomer), "{newcomer} of 50");
}

/// A connection that was let through counts as well.
#[test]
fn a_client_of_quiet_times_is_known_when_the_flood_comes() {
    let mut lab = Lab::with(|service, _| service.mode = Mode::Adaptive);
    let of = |segment: Seg| segment.of_client(KNOWN).port(999);
    assert_eq!(lab.client(of(linux_syn())), Verdict::Forward);
    assert_eq!(lab.server(of(lab.server_syn_ack())), Verdict::Forward);
    assert_eq!(lab.client(of(seg(ACK, c(1)).ack(s(1)))), Verdict::Forward);
    lab.skip();
    flood(&mut lab, 1);
    assert_eq!(flood(&mut lab, 2)[0], 20);
}

#[test]
fn what_is_known_lasts_over_a_reload_and_a_restart_for_clients_that_are_connected() {
    let mut lab = Lab::new();
    connect(&mut lab);
    lab.set_policy(|service, _| service.early_data = 4_000);
    assert_eq!(flood(&mut lab, 2)[0], 20);
    let mut next = lab.next_run(lab.now);
    next.import(&lab, Past { age: Duration::ZERO, is_exact: true, is_kept: false });
    next.skip();
    assert_eq!(flood(&mut next, 2)[0], 20);
}

/// The hour counts from the last segment of the last connection.
#[test]
fn a_client_is_known_for_an_hour_after_its_last_connection() {
    for (seconds, is_known) in [(3_580, true), (3_610, false)] {
        let mut lab = Lab::new();
        connect(&mut lab);
        lab.advance(Duration::from_secs(7_000));
        let of = |segment: Seg| segment.of_client(KNOWN).port(999);
        assert_eq!(lab.server(of(seg(RST, s(1)).ack(c(1)))), Verdict::Forward);
        lab.advance(Duration::from_secs(60));
        lab.skip();
        lab.advance(Duration::from_secs(seconds - 60));
        assert_eq!(flood(&mut lab, 1)[0] == 10, is_known, "{seconds}");
    }
}

/// A spoofer who forges one known address alone gets what the network and the address have, and no more.
#[test]
fn a_known_address_that_is_forged_itself_gets_no_more_than_its_own_budget() {
    let mut lab = Lab::with(|service, _| service.budgets.syn_per_source = NonZeroU32::new(100));
    connect(&mut lab);
    lab.advance(Duration::from_secs(2));
    lab.skip();
    let forged = |n| seg(SYN, n).mss(1460).of_client(KNOWN).port(2_000 + n as u16);
    let answered = (0..1_000).filter(|n| lab.client(forged(*n)) == Verdict::Consume).count();
    assert_eq!(answered, 200);
    assert_eq!(lab.client(forged(7)), Verdict::Drop(DropReason::SourceRateExceeded));
}

// ---------------------------------------------------------------- sources that are allowed

fn allowed() -> Lab {
    let mut lab = Lab::new();
    lab.set_filter(&[], &["198.18.77.0/24"]);
    lab
}

/// Row 82: what a spoofer gets through in the name of an allowed network is bounded, and its real clients are served: by the server
/// itself or, beyond that, as all others.
#[test]
fn allowed_sources_that_are_forged_do_not_flood_the_server_and_keep_the_real_ones_served() {
    let mut lab = allowed();
    let forged = |n: u32| seg(SYN, n).mss(1460).of_client([77, (n % 256) as u8]).port(2_000 + n as u16);
    let count = |lab: &mut Lab, from: u32| {
        let fates: Vec<Verdict> = (from..from + 5_000).map(|n| lab.client(forged(n))).collect();
        lab.skip();
        let count = |verdict| fates.iter().filter(|fate| **fate == verdict).count();
        (count(Verdict::Forward), count(Verdict::Consume))
    };
    assert_eq!(count(&mut lab, 0), (1_000, 4_000));
    // Of the next second's, too, as long as the server does not hold them half-open.
    lab.advance(Duration::from_secs(1));
    assert_eq!(count(&mut lab, 10_000), (1_000, 4_000));
    let of = |segment: Seg| segment.of_client([77, 9]).port(999);
    assert_eq!(lab.client(of(linux_syn())), Verdict::Consume, "beyond what passes: challenged");
    let cookie = lab.told();
    lab.skip();
    assert_eq!(lab.client(of(lab.client_ack(cookie).data(b"GET"))), Verdict::Consume);
    assert_eq!(lab.server(of(lab.server_syn_ack())), Verdict::Consume);
    assert_eq!(lab.moved().get("flows_proxied"), Some(&1));
    let told = |n| as_client(cookie, s(n));
    assert_eq!(
        lab.client(of(seg(PSH, c(4)).ack(told(1)).ts(1100, cookie.tsval).data(b"x"))),
        Verdict::Forward
    );
}

/// Half-open connections that the server has answered bound it as well.
#[test]
fn allowed_sources_are_challenged_while_the_server_holds_too_many_half_open() {
    let mut lab = Lab::with(|service, _| service.activate_at.half_open = 3);
    lab.set_filter(&[], &["198.18.77.0/24"]);
    let of = |port, segment: Seg| segment.of_client([77, 9]).port(port);
    for port in 1..=3 {
        assert_eq!(lab.client(of(port, linux_syn())), Verdict::Forward);
        assert_eq!(lab.server(of(port, lab.server_syn_ack())), Verdict::Forward);
    }
    assert_eq!(lab.client(of(4, linux_syn())), Verdict::Consume);
    assert_eq!(lab.client(of(1, seg(ACK, c(1)).ack(s(1)))), Verdict::Forward);
    assert_eq!(lab.client(of(5, linux_syn())), Verdict::Forward);
}

/// A proxy that is allowed opens more connections than pass: it is challenged, and limited by nothing else.
#[test]
fn an_allowed_source_is_not_limited_as_others_are() {
    let mut lab = Lab::with(|service, _| {
        service.activate_at.syn_rate = 2;
        service.budgets.connections_per_source = NonZeroU32::new(1);
    });
    lab.set_filter(&[], &["198.18.77.0/24"]);
    let mut proxied = 0;
    for port in 1..=20 {
        let of = |segment: Seg| segment.of_client([77, 9]).port(port);
        if lab.client(of(linux_syn())) == Verdict::Consume {
            let cookie = lab.told();
            assert_eq!(lab.client(of(lab.client_ack(cookie))), Verdict::Consume);
            proxied += 1;
        }
        lab.skip();
    }
    assert_eq!(proxied, 18);
}

/// What no client sends is not answered, though the source is allowed.
#[test]
fn nonsense_of_an_allowed_source_beyond_what_passes_is_dropped() {
    let mut lab = Lab::with(|service, _| service.activate_at.syn_rate = 1);
    lab.set_filter(&[], &["198.18.77.0/24"]);
    let nonsense = |port| seg(SYN | FIN, 5).of_client([77, 9]).port(port);
    assert_eq!(lab.client(nonsense(1)), Verdict::Forward);
    assert_eq!(lab.client(nonsense(2)), Verdict::Drop(DropReason::BadFlags));
}
