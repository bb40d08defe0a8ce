//! A minute of hping3 at full rate, and floods that it does not make, while real clients come and go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use synwall::wire::buffer::FrameBuf;

use crate::frames::{Ends, TCP, link, whole};
use crate::lab::{Lab, SERVER, eventually, plane};
use crate::sender::{SERVER_MAC, send_as_attacker};
use crate::traffic::{address, visit};

#[test]
fn a_minute_of_flood_costs_no_client_no_memory_and_no_syn_at_the_server() {
    let mut lab = Lab::protected(&["--backlog", "256"]);
    let before = lab.syns_at_server();
    lab.script(&["flood", "60"]);
    thread::sleep(Duration::from_secs(5));
    let flooded = lab.metric("synwall_syn_received_total", "");

    let clients: Vec<_> = (0..10)
        .map(|client| lab.spawn("client", move || hundred_visits(address(SERVER[client % 2], 80))))
        .collect();
    // Half of the clients have been there, and timers have come round: what grows from here on would grow for ever.
    thread::sleep(Duration::from_secs(25));
    let resident = lab.resident_kib();
    let results: Vec<Result<Duration, String>> =
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of 1000 failed: {failed:#?}", failed.len());

    let grown = lab.resident_kib().saturating_sub(resident);
    let received = lab.metric("synwall_syn_received_total", "");
    assert!(received - flooded > 500_000, "a flood worth the name: {} SYNs", received - flooded);
    assert!(grown <= 1024, "resident memory grew by {grown} KiB under the second half of it");
    lab.assert_metrics(&[("synwall_cookie_valid_total", 1000), ("synwall_backend_syn_total", 1000)]);
    assert_eq!(lab.syns_at_server() - before, 2000, "two SYNs a client, none of the flood");
    // On raw sockets a flood at full rate loses frames of clients, too (README), which they send again.
    let repeated = lab.kernel_counter("client", "TcpExtTCPSynRetrans");
    assert!(
        repeated <= if plane() == "xdp" { 50 } else { 1_000 },
        "{repeated} SYNs of 1000 clients were sent again"
    );
    let mut times: Vec<_> = results.into_iter().flatten().collect();
    times.sort_unstable();
    let lost = lab.metric("synwall_receive_dropped_total", "");
    println!(
        "{received} SYNs, {lost} frames lost before capture; visits under flood: p50 {:?} p99 {:?} max {:?}",
        times[500], times[990], times[999]
    );
    lab.stop();
}

/// A hundred visits, evenly over 50 s.
fn hundred_visits(server: std::net::SocketAddr) -> Vec<Result<Duration, String>> {
    let begun = Instant::now();
    (0..100)
        .map(|number| {
            let due = Duration::from_millis(500) * number;
            thread::sleep(due.saturating_sub(begun.elapsed()));
            let visited = Instant::now();
            visit(server).map(|()| visited.elapsed()).map_err(|error| format!("after {due:?}: {error}"))
        })
        .collect()
}

/// SYNs as Linux sends them, with all options, and forged ACKs, over both versions of IP.
#[test]
fn floods_of_full_syns_and_of_acks_over_both_families_cost_no_client_and_no_syn_at_the_server() {
    let mut lab = Lab::protected(&["--backlog", "256"]);
    for v6 in [false, true] {
        for flags in [SYN, ACK] {
            let (syns, family) = (lab.syns_at_server(), if v6 { "six" } else { "four" });
            let counted = || match flags {
                SYN => lab.metric("synwall_synack_sent_total", family),
                _ => lab.metric("synwall_cookie_invalid_total", family),
            };
            let before = counted();
            let flood = Flood::start(&lab, v6, flags);
            assert!(
                eventually(Duration::from_secs(20), || counted() > before + 5_000),
                "{family}: {}",
                counted()
            );
            for host in SERVER.iter().cycle().take(50) {
                lab.within("client", || visit(address(host, 80))).unwrap();
            }
            let is_worth_the_name = eventually(Duration::from_secs(20), || counted() > before + 10_000);
            assert!(is_worth_the_name, "{} of {family}", counted() - before);
            flood.stop();
            assert_eq!(lab.syns_at_server() - syns, 100, "two SYNs a client, none of the flood");
        }
    }
    let repeated = lab.kernel_counter("client", "TcpExtTCPSynRetrans");
    assert!(repeated <= 10, "{repeated} SYNs of 200 clients were sent again");
    lab.assert_metrics(&[("synwall_cookie_valid_total", 200), ("synwall_backend_syn_total", 200)]);
    lab.stop();
}

/// Forged segments from the attacker's port, some ten thousand a second.
struct Flood {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Flood {
    fn start(lab: &Lab, v6: bool, flags: u8) -> Flood {
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = is_over.clone();
        let thread = send_as_attacker(lab, move |ports| {
            let frames: Vec<_> = (0..4096).map(|number| forged(v6, flags, number)).collect();
            for burst in frames.chunks(32).cycle().take(MOST / 32) {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                ports.send(burst);
                thread::sleep(Duration::from_millis(3));
            }
        });
        Flood { is_over, thread }
    }

    fn stop(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// The segment of a source of its own.
fn forged(v6: bool, flags: u8, number: u16) -> FrameBuf {
    let [high, low] = number.to_be_bytes();
    let ends = if v6 {
        let of = |host| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, host));
        Ends(of(7), SERVER[1].parse().unwrap())
    } else {
        Ends(IpAddr::V4(Ipv4Addr::new(198, 19, high, low)), SERVER[0].parse().unwrap())
    };
    let number32 = u32::from(number);
    let options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, high, low, 0, 0, 0, 0, 1, 3, 3, 7];
    let segment = if flags == SYN {
        ends.bare(1024 + number, [number32 << 16, 0], SYN, &options)
    } else {
        ends.bare(1024 + number, [number32 << 16, number32 << 8 | 1], ACK, &[])
    };
    whole(&link(SERVER_MAC, &ends.packet(TCP, number, &[], &segment)))
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// The most segments of one flood.
const MOST: usize = 600_000;
