//! A minute of hping3 at full rate, while real clients come and go.

use std::thread;
use std::time::{Duration, Instant};

use crate::lab::{Lab, SERVER};
use crate::traffic::{address, visit};

#[test]
fn a_minute_of_flood_costs_no_client_no_memory_and_no_syn_at_the_server() {
    let mut lab = Lab::protected(&["--backlog", "256"]);
    let before = lab.syns_at_server();
    lab.script(&["flood", "60"]);
    thread::sleep(Duration::from_secs(5));
    let (resident, flooded) = (lab.resident_kib(), lab.metric("synwall_syn_received_total", ""));

    let clients: Vec<_> = (0..10)
        .map(|client| lab.spawn("client", move || hundred_visits(address(SERVER[client % 2], 80))))
        .collect();
    let results: Vec<Result<Duration, String>> =
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of 1000 failed: {failed:#?}", failed.len());

    let grown = lab.resident_kib().saturating_sub(resident);
    let received = lab.metric("synwall_syn_received_total", "");
    assert!(received - flooded > 500_000, "a flood worth the name: {} SYNs", received - flooded);
    assert!(grown <= 2048, "resident memory grew by {grown} KiB");
    lab.assert_metrics(&[("synwall_cookie_valid_total", 1000), ("synwall_backend_syn_total", 1000)]);
    assert_eq!(lab.syns_at_server() - before, 2000, "two SYNs a client, none of the flood");
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
