//! What a server believes of the path: its first round-trip sample must not be synwall's, next door.
//!
//! A sender paces at 5 MB/s at the most, so that it is its belief that limits it, not this machine. Octets are counted for 10 s,
//! beside the same in mode `off` in the same laboratory.

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::{CONFIG, Lab, SERVER, eventually};
use crate::traffic::{address, open};

/// Row 40.
#[test]
fn senders_are_as_quick_as_without_synwall_at_any_distance() {
    let labs: Vec<(u32, Lab)> = ROUND_TRIPS.map(|millis| (millis, lab(millis))).into();
    let results = thread::scope(|scope| {
        let threads: Vec<_> =
            labs.into_iter().map(|(millis, lab)| scope.spawn(move || compare(millis, lab))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    for Comparison { what, off, always } in &results {
        println!("{what}: {:.1} MB off, {:.1} MB always", megabytes(*off), megabytes(*always));
    }
    for Comparison { what, off, always } in results {
        assert!(always * 10 >= off * 9, "{what}: {always} octets, {off} without");
    }
}

struct Comparison {
    what: String,
    off: u64,
    always: u64,
}

fn lab(round_trip: u32) -> Lab {
    let lab = Lab::up_to_wait(&["--delay", &(round_trip / 2).to_string()]);
    // What it learned of one connection is not to help the next.
    lab.run("server", &["sysctl", "-qw", "net.ipv4.tcp_no_metrics_save=1"]);
    for (port, name) in PORTS.iter().zip(SENDERS) {
        lab.script(&["spawn", "server", name, "python3", "-c", SENDER, &port.to_string(), name]);
        let listens = || !lab.run("server", &["ss", "-Hltn", &format!("sport = :{port}")]).is_empty();
        assert!(eventually(Duration::from_secs(10), listens), "the sender did not start");
    }
    lab
}

fn compare(millis: u32, mut lab: Lab) -> Vec<Comparison> {
    lab.start(&CONFIG.replace("always", "off"));
    let off = transfers(&lab);
    lab.stop();
    lab.start(CONFIG);
    let mut all = Vec::new();
    // What it is for, to be read beside the rest.
    lab.stop();
    lab.start(&CONFIG.replace("mode = \"always\"", "mode = \"always\"\nsecond_syn = false"));
    for ((name, off), without) in SENDERS.iter().zip(off).zip(transfers(&lab)) {
        println!(
            "{name} at {millis} ms, without a second SYN: {:.1} of {:.1} MB",
            megabytes(without),
            megabytes(off)
        );
    }
    lab.stop();
    lab.start(CONFIG);
    for syncookies in ["0", "1", "2"] {
        lab.run("server", &["sysctl", "-qw", &format!("net.ipv4.tcp_syncookies={syncookies}")]);
        let always = transfers(&lab);
        for ((name, off), always) in SENDERS.iter().zip(off).zip(always) {
            let what = format!("{name} at {millis} ms, tcp_syncookies={syncookies}");
            all.push(Comparison { what, off, always });
        }
    }
    let proxied = lab.metric("synwall_flows_admitted_total", "proxied");
    assert!(proxied >= 6, "{proxied} connections were proxied");
    let refused = lab.run("server", &["nstat", "-asz", "TcpExtTSEcrRejected", "TcpExtPAWSEstab"]);
    let counted = refused.lines().filter(|line| line.starts_with("Tcp"));
    assert!(counted.into_iter().all(|line| line.split_whitespace().nth(1) == Some("0")), "{refused}");
    all
}

/// Octets within ten seconds of connecting, of each sender, side by side.
fn transfers(lab: &Lab) -> [u64; 2] {
    PORTS.map(|port| lab.spawn("client", move || transfer(port))).map(|thread| thread.join().unwrap())
}

fn transfer(port: u16) -> u64 {
    let end = Instant::now() + Duration::from_secs(10);
    let mut stream = open(address(SERVER[0], port)).unwrap();
    let (mut octets, mut total) = (vec![0; 1 << 18], 0);
    while Instant::now() < end {
        total += stream.read(&mut octets).unwrap() as u64;
    }
    total
}

fn megabytes(octets: u64) -> f64 {
    octets as f64 / 1e6
}

const ROUND_TRIPS: [u32; 3] = [10, 40, 250];
const PORTS: [u16; 2] = [8010, 8011];
const SENDERS: [&str; 2] = ["cubic", "bbr"];

/// Sends without end to all that connect, by a congestion control of that name.
const SENDER: &str = r#"
import socket, sys, threading

def send(connection):
    try:
        while True:
            connection.sendall(bytes(1 << 18))
    except OSError:
        connection.close()

listener = socket.create_server(("", int(sys.argv[1])))
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, sys.argv[2].encode())
listener.setsockopt(socket.SOL_SOCKET, 47, 5_000_000)  # SO_MAX_PACING_RATE
while True:
    threading.Thread(target=send, args=[listener.accept()[0]], daemon=True).start()
"#;
