//! Ordinary TCP through synwall: short, long, bulky, in both directions and both families.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::lab::{CONFIG, Lab, SERVER, eventually, plane};
use crate::traffic::{address, get, open, read, receive_hashed, send_hashed, serve, visit};

#[test]
fn curl_gets_the_page_over_both_families() {
    let mut lab = Lab::protected(&[]);
    for url in ["http://198.18.255.2/", "http://[2001:db8:255::2]/"] {
        let page = lab.run("client", &["curl", "-sf", "--max-time", "5", url]);
        assert_eq!(page, "served by the server itself\n");
    }
    lab.assert_metrics(&[
        ("synwall_syn_received_total", 2),
        ("synwall_synack_sent_total", 2),
        ("synwall_cookie_valid_total", 2),
        ("synwall_backend_syn_total", 2),
        ("synwall_cookie_invalid_total", 0),
        ("synwall_dropped_total", 0),
    ]);
    lab.stop();
}

#[test]
fn keep_alive_carries_a_thousand_requests() {
    let lab = Lab::protected(&[]);
    for host in SERVER {
        lab.within("client", || {
            let mut stream = open(address(host, 80)).unwrap();
            for request in 0..1000 {
                let answer = get(&mut stream).unwrap();
                assert!(answer.starts_with("HTTP/1.1 200"), "request {request}: {answer}");
            }
        });
    }
    lab.assert_metrics(&[("synwall_syn_received_total", 2), ("synwall_backend_syn_total", 2)]);
}

#[test]
fn long_lived_connection_speaks_both_ways_between_pauses() {
    let mut lab = Lab::up_to_wait(&[]);
    lab.start(CONFIG);
    for host in SERVER {
        let server = serve(&lab, address(host, 8000), 1, |mut stream| {
            for pause in PAUSES {
                assert_eq!(read(&mut stream, 4).unwrap(), b"ping");
                thread::sleep(pause);
                stream.write_all(b"pong").unwrap();
                thread::sleep(pause);
                stream.write_all(b"news").unwrap();
            }
        });
        lab.within("client", || {
            let mut stream = open(address(host, 8000)).unwrap();
            for pause in PAUSES {
                stream.write_all(b"ping").unwrap();
                assert_eq!(read(&mut stream, 8).unwrap(), b"pongnews");
                thread::sleep(pause);
            }
        });
        server.join().unwrap();
    }
    lab.assert_metrics(&[("synwall_dropped_total", 0)]);
}

#[test]
fn server_that_speaks_first_is_heard() {
    let lab = Lab::protected(&[]);
    for host in SERVER {
        let server = serve(&lab, address(host, 8000), 1, |mut stream| {
            stream.write_all(b"220 ready\r\n").unwrap();
            assert_eq!(read(&mut stream, 6).unwrap(), b"HELO\r\n");
        });
        lab.within("client", || {
            let mut stream = open(address(host, 8000)).unwrap();
            assert_eq!(read(&mut stream, 11).unwrap(), b"220 ready\r\n");
            stream.write_all(b"HELO\r\n").unwrap();
        });
        server.join().unwrap();
    }
}

/// Row 54.
#[test]
fn a_gibibyte_each_way_arrives_unchanged_with_default_offloads() {
    a_gibibyte_each_way(&Lab::protected(&[]));
}

#[test]
fn a_gibibyte_each_way_arrives_unchanged_with_all_offloads_off() {
    a_gibibyte_each_way(&Lab::protected(&["--offloads", "off"]));
}

fn a_gibibyte_each_way(lab: &Lab) {
    for host in SERVER {
        let server = serve(lab, address(host, 8000), 1, |stream| {
            let received = receive_hashed(&stream).unwrap();
            (received, send_hashed(&stream, GIBIBYTE).unwrap())
        });
        let (sent, received) = lab.within("client", || {
            let stream = open(address(host, 8000)).unwrap();
            (send_hashed(&stream, GIBIBYTE).unwrap(), receive_hashed(&stream).unwrap())
        });
        let served = server.join().unwrap().remove(0);
        assert_eq!(served.0, (GIBIBYTE, sent), "up to {host}");
        assert_eq!(received, (GIBIBYTE, served.1), "down from {host}");
    }
}

/// FAULTS P7. Eight connections that carry data both ways at once, over both families, on all CPUs that there are. On the XDP
/// plane a frame that the engine handles (its checksum may look as if it were left to the device) can be overtaken by more than a
/// window of others; its receiver would discard it, too.
#[test]
fn no_segment_of_a_clean_transfer_is_refused_for_its_numbers() {
    for options in [&[][..], &["--mtu", "9000"], &["--offloads", "off"]] {
        let lab = Lab::protected(options);
        let both_ways = |stream: &TcpStream| {
            thread::scope(|scope| {
                let sent = scope.spawn(|| send_hashed(stream, EACH_WAY).unwrap());
                (receive_hashed(stream).unwrap(), sent.join().unwrap())
            })
        };
        let ports = (8000..8004).flat_map(|port| SERVER.map(|host| address(host, port)));
        let connections: Vec<_> = ports
            .map(|server| {
                let serving = serve(&lab, server, 1, move |stream| both_ways(&stream));
                (serving, lab.spawn("client", move || both_ways(&open(server).unwrap())))
            })
            .collect();
        for (serving, client) in connections {
            let ((len, came), sent) = client.join().unwrap();
            let served = serving.join().unwrap().remove(0);
            assert_eq!((served.0, served.1), ((len, sent), came), "{options:?}");
        }
        lab.assert_metrics(&[("synwall_cookie_valid_total", 8)]);
        let dropped = lab.metric("synwall_dropped_total", "out_of_window");
        // An end that has closed answers an ACK that was overtaken by a RST with an old number, which no receiver looks at.
        let resets = lab.metric("synwall_dropped_total", "bad_reset");
        assert_eq!(lab.metric("synwall_dropped_total", ""), dropped + resets, "{options:?}");
        // Raw sockets are given everything in order.
        let passed_up = if plane() == "xdp" { lab.metric("synwall_passed_up_total", "") } else { 0 };
        println!("{options:?}: {dropped} dropped, {passed_up} passed up");
        assert!(dropped <= passed_up, "{dropped} dropped, {passed_up} may have been overtaken, {options:?}");
    }
}

#[test]
fn ten_thousand_short_connections_all_succeed_and_leave_nothing() {
    let lab = Lab::protected(&[]);
    let failed: Vec<_> = thread::scope(|_| {
        let clients: Vec<_> = (0..10)
            .map(|client| {
                let server = address(SERVER[client % 2], 80);
                lab.spawn("client", move || (0..1000).filter_map(|_| visit(server).err()).collect::<Vec<_>>())
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert!(failed.is_empty(), "{} failed, the first: {}", failed.len(), failed[0]);
    lab.assert_metrics(&[("synwall_cookie_valid_total", 10_000), ("synwall_half_open", 0)]);
    let empty = eventually(Duration::from_secs(10), || lab.metric("synwall_flows", "") == 0);
    assert!(empty, "{} flows are left after their timeouts", lab.metric("synwall_flows", ""));
}

const PAUSES: [Duration; 3] =
    [Duration::from_millis(10), Duration::from_millis(700), Duration::from_millis(2500)];
const EACH_WAY: u64 = 32 << 20;
const GIBIBYTE: u64 = 1 << 30;
