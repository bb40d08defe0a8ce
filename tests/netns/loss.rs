//! Links that lose frames at random: the wire before synwall and the one behind it, each in both directions.
//!
//! The loss is that of each of the two wires, so of a segment on its way from end to end about twice as many are lost.
//! Without offloads: what is lost is one segment, not a super-frame of many. `STRESS=full` runs every case in full.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::crowd::{Crowd, Visit};
use crate::lab::{CONFIG, Lab, SERVER, eventually};
use crate::traffic::{address, open, receive_hashed, send_hashed, serve};

#[test]
fn crowd_arrives_whole_over_ipv4_with_1_percent_lost() {
    crowd_arrives_whole(SERVER[0], 10);
}

#[test]
fn crowd_arrives_whole_over_ipv6_with_1_percent_lost() {
    crowd_arrives_whole(SERVER[1], 10);
}

#[test]
fn crowd_arrives_whole_over_ipv4_with_5_percent_lost() {
    crowd_arrives_whole(SERVER[0], 50);
}

#[test]
fn crowd_arrives_whole_over_ipv6_with_5_percent_lost() {
    crowd_arrives_whole(SERVER[1], 50);
}

#[test]
fn bulk_arrives_unchanged_with_1_percent_lost() {
    bulk_arrives_unchanged(10, GIBIBYTE);
}

#[test]
fn bulk_arrives_unchanged_with_5_percent_lost() {
    bulk_arrives_unchanged(50, if is_full() { GIBIBYTE } else { GIBIBYTE / 4 });
}

fn crowd_arrives_whole(host: &str, permille: u32) {
    let crowd = Crowd { connections: if is_full() { 10_000 } else { 2_500 }, at_once: 200, octets: 100_000 };
    let what = format!("{} connections to {host}, {permille} of 1000 lost", crowd.connections);
    let lab = with_and_without_synwall(permille, &what, |lab| {
        let Visit { failed, times } = crowd.visit(lab, address(host, 8000));
        let some = &failed[..failed.len().min(10)];
        assert!(failed.is_empty(), "{} failures, the first: {some:#?}", failed.len());
        [times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]]
    });
    assert_eq!(lab.metric("synwall_cookie_valid_total", ""), crowd.connections);
    let empty = eventually(Duration::from_secs(90), || lab.metric("synwall_flows", "") == 0);
    assert!(empty, "{} flows are left after their timeouts", lab.metric("synwall_flows", ""));
    assert!(lost(&lab).iter().all(|frames| *frames > crowd.connections), "{:?} frames lost", lost(&lab));
}

fn bulk_arrives_unchanged(permille: u32, octets: u64) {
    let what = format!("{octets} octets to and from each of {SERVER:?}, {permille} of 1000 lost");
    let lab = with_and_without_synwall(permille, &what, |lab| {
        SERVER.map(|host| {
            let begun = Instant::now();
            both_ways(lab, address(host, 8000), octets);
            begun.elapsed()
        })
    });
    assert!(lost(&lab).iter().all(|frames| *frames > octets >> 20), "{:?} frames lost", lost(&lab));
}

fn both_ways(lab: &Lab, address: SocketAddr, octets: u64) {
    let server = serve(lab, address, 1, move |stream| {
        let received = receive_hashed(&stream).unwrap();
        (received, send_hashed(&stream, octets).unwrap())
    });
    let (sent, received) = lab.within("client", || {
        let stream = open(address).unwrap();
        (send_hashed(&stream, octets).unwrap(), receive_hashed(&stream).unwrap())
    });
    let served = server.join().unwrap().remove(0);
    assert_eq!(served.0, (octets, sent), "up to {address}");
    assert_eq!(received, (octets, served.1), "down from {address}");
}

/// Runs `load` through synwall, and in full before that through a plain bridge, to compare the times that it tells.
fn with_and_without_synwall<const N: usize>(
    permille: u32,
    what: &str,
    load: impl Fn(&Lab) -> [Duration; N],
) -> Lab {
    let mut lab = Lab::up(&["--plain", "--lan", "--offloads", "off"]);
    lab.script(&["loss", &permille.to_string()]);
    if is_full() {
        println!("{what}: {:.3?} through a bridge", load(&lab));
    }
    lab.script(&["box", "bridge"]);
    // Retransmissions back off for longer than the other tests give a close.
    lab.start(&CONFIG.replace("closing_timeout = \"5s\"", "closing_timeout = \"1m\""));
    println!("{what}: {:.3?} through synwall", load(&lab));
    lab
}

/// How many frames each wire has lost.
fn lost(lab: &Lab) -> [u64; 2] {
    ["wan", "lan"].map(|wire| {
        let rules = lab.run(wire, &["nft", "list", "table", "bridge", "lab"]);
        let counter = rules.split_once("packets ").unwrap().1;
        counter.split(' ').next().unwrap().parse().unwrap()
    })
}

fn is_full() -> bool {
    std::env::var("STRESS").is_ok_and(|stress| stress == "full")
}

const GIBIBYTE: u64 = 1 << 30;
