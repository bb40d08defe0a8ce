//! Clients that the operator or the server bars come back again and again, and cost no one else a connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::lab::{CONFIG, Lab, SERVER};
use crate::sources::connect_within;
use crate::traffic::{address, visit};

/// Row E1 of `docs/faults.md`: as many attempts as one a second makes in a minute, of a client of each kind and family, in
/// a fifth of that time; a thousand innocents connect meanwhile, to the same ports.
#[test]
fn clients_that_are_barred_cost_no_one_else_a_connection() {
    let mut lab = Lab::up(&[]);
    lab.start(&format!("{CONFIG}\n[filter]\ndeny = [{:?}, {:?}]\n", DENIED[0], DENIED[1]));
    for prefix in DENIED.iter().chain(&RESET).chain(&REJECTED) {
        own(&lab, prefix);
    }
    bar_at_server(&lab);
    let barred: Vec<_> =
        DENIED.iter().chain(&RESET).chain(&REJECTED).map(|prefix| come_back(&lab, prefix)).collect();
    let innocents: Vec<_> =
        (0..LANES).map(|lane| connect_by_turns(&lab, address(SERVER[lane % 2], 80))).collect();
    let failed: Vec<_> = innocents.into_iter().flat_map(|lane| lane.join().unwrap()).collect();
    assert!(failed.is_empty(), "{} of {INNOCENTS} were not served, the first: {}", failed.len(), failed[0]);
    for client in barred {
        assert_eq!(client.join().unwrap(), 0, "of {ATTEMPTS} attempts of a barred client were served");
    }
    assert_eq!(lab.metric("synwall_dropped_total", "reason=\"denied\""), 2 * ATTEMPTS);
    let refused = lab.metric("synwall_backend_handshake_failed_total", "refused");
    let at_once = lab.metric("synwall_refused_at_once_total", "");
    assert_eq!(refused + at_once, 4 * ATTEMPTS, "{refused} by the server, {at_once} in its name");
    assert!(refused >= 4 * 2 && at_once >= ATTEMPTS, "{refused} by the server, {at_once} in its name");
    lab.assert_metrics(&[
        ("synwall_cookie_valid_total", INNOCENTS + refused),
        ("synwall_backend_established_total", INNOCENTS),
        ("synwall_backend_up", 2),
        ("synwall_half_open", 0),
    ]);
    assert_eq!(lab.kernel_counter("client", "TcpExtTCPSynRetrans"), 0, "each at its first SYN");
    lab.stop();
}

/// Gives the client of a network to the attacker.
fn own(lab: &Lab, prefix: &str) {
    let family = if prefix.contains(':') { "ip6" } else { "ip" };
    lab.run("attacker", &["nft", "insert rule netdev lab ingress", family, "daddr", prefix, "accept"]);
    let address = client_of(prefix).to_string();
    let is_at_once: &[&str] = if family == "ip6" { &["nodad"] } else { &[] };
    lab.run("attacker", &[&["ip", "address", "add", &address, "dev", "eth0"], is_at_once].concat());
}

/// Host 7 of a network.
fn client_of(prefix: &str) -> IpAddr {
    match prefix.split_once('/').unwrap().0.parse().unwrap() {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + 7).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) + 7).into()),
    }
}

/// The server's packet filter, as fail2ban and ufw have it: RST, or port unreachable.
fn bar_at_server(lab: &Lab) {
    let rules = |prefixes: [&str; 2], how: &str| {
        let [v4, v6] = prefixes;
        format!("ip saddr {v4} tcp dport 80 {how}\nip6 saddr {v6} tcp dport 80 {how}\n")
    };
    let rules = rules(RESET, "reject with tcp reset") + &rules(REJECTED, "reject");
    let table =
        format!("table inet bar {{ chain input {{ type filter hook input priority 0;\n{rules}}}\n}}\n");
    lab.run("server", &["nft", &table]);
}

/// A barred client's attempts; how many were served.
fn come_back(lab: &Lab, prefix: &str) -> JoinHandle<u64> {
    let source = client_of(prefix);
    let server = address(SERVER[usize::from(source.is_ipv6())], 80);
    lab.spawn("attacker", move || {
        let attempts = at_intervals(ATTEMPTS, LASTS / ATTEMPTS as u32, move || is_served(source, server));
        attempts.into_iter().filter(|served| *served).count() as u64
    })
}

/// Within less than the second after which a client sends its SYN again.
fn is_served(source: IpAddr, server: SocketAddr) -> bool {
    let mut stream = match connect_within(source, server, Duration::from_millis(150)) {
        Ok(stream) => stream,
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::AddrNotAvailable, "{source} is the attacker's");
            return false;
        }
    };
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").is_ok()
        && stream.read(&mut [0; 64]).is_ok_and(|read| read > 0)
}

/// Some of the innocents, one after the other; what went wrong.
fn connect_by_turns(lab: &Lab, server: SocketAddr) -> JoinHandle<Vec<String>> {
    let count = INNOCENTS / LANES as u64;
    lab.spawn("client", move || {
        let visits = at_intervals(count, LASTS / count as u32, move || visit(server));
        let failed = |(number, visited): (usize, std::io::Result<()>)| {
            Some(format!("{number} of {server}: {}", visited.err()?))
        };
        visits.into_iter().enumerate().filter_map(failed).collect()
    })
}

/// Does it so many times, beginning one at each interval, or later if the one before took longer.
fn at_intervals<T>(count: u64, interval: Duration, mut work: impl FnMut() -> T) -> Vec<T> {
    let begun = Instant::now();
    let one = |number| {
        thread::sleep((interval * number).saturating_sub(begun.elapsed()));
        work()
    };
    (0..count as u32).map(one).collect()
}

/// By the operator.
const DENIED: [&str; 2] = ["198.18.7.0/24", "2001:db8:7::/64"];
/// By the server: no three networks of one port, for that would be the port's fault.
const RESET: [&str; 2] = ["198.18.8.0/24", "2001:db8:8::/64"];
const REJECTED: [&str; 2] = ["198.18.9.0/24", "2001:db8:9::/64"];

/// One a second for a minute.
const ATTEMPTS: u64 = 60;
const INNOCENTS: u64 = 1_000;
const LANES: usize = 10;
const LASTS: Duration = Duration::from_secs(12);
