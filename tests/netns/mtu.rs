//! Links of every size, links that shrink under a transfer, and segments in fragments.

use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::TcpMaxSeg};

use crate::lab::{Lab, SERVER, eventually};
use crate::traffic::{address, open, receive_halves, receive_hashed, send_halves, send_hashed, serve};

#[test]
fn transfers_arrive_unchanged_at_mtus_of_576_1280_1500_and_9000() {
    // The server's segments are as long as the MSS in the cookie allows: with timestamps it has room for these values.
    for (mtu, mss4, mss6) in
        [(576, 536, None), (1280, 1240, Some(1220)), (1500, 1460, Some(1440)), (9000, 8960, Some(8940))]
    {
        for offloads in ["on", "off"] {
            let lab = Lab::protected(&["--mtu", &mtu.to_string(), "--offloads", offloads]);
            // RFC 8200 §5: no IPv6 on a link below 1280.
            for (host, mss) in SERVER.into_iter().zip([Some(mss4), mss6]) {
                let Some(mss) = mss else { continue };
                assert_eq!(both_ways(&lab, host), [payload(host, mtu), mss - TIMESTAMPS], "{host} at {mtu}");
            }
        }
    }
}

/// Row 59: from a router behind synwall.
#[test]
fn upload_ends_although_the_servers_link_shrinks_behind_synwall() {
    for host in SERVER {
        let mtu = narrow(host);
        let lab = Lab::protected(&["--routers"]);
        let server = serve(&lab, address(host, 8000), 1, |stream| receive_hashed(&stream).unwrap());
        let sent = lab.within("client", || {
            let stream = open(address(host, 8000)).unwrap();
            let sent =
                send_halves(&stream, OCTETS, || shrink(&lab, [("lan", "server"), ("server", "eth0")], mtu));
            assert_eq!(receive_hashed(&stream).unwrap().0, 0, "the server has it all");
            assert_eq!(segments_of(&stream), payload(host, mtu), "over {host}");
            sent.unwrap()
        });
        assert_eq!(server.join().unwrap(), [(OCTETS, sent)], "over {host}");
        assert_learned(&lab, "client", host, mtu);
    }
}

/// Row 58: Linux takes the error for one of its own.
#[test]
fn download_ends_although_the_clients_link_shrinks_before_synwall() {
    for (host, client) in SERVER.into_iter().zip(CLIENT) {
        let mtu = narrow(host);
        let lab = Lab::protected(&["--routers"]);
        let server = serve(&lab, address(host, 8000), 1, |stream| {
            let sent = send_hashed(&stream, OCTETS).unwrap();
            (sent, segments_of(&stream))
        });
        let (len, received) = lab.within("client", || {
            let stream = open(address(host, 8000)).unwrap();
            let shrink = || shrink(&lab, [("wan", "client"), ("client", "eth0")], mtu);
            receive_halves(&stream, OCTETS, shrink).unwrap()
        });
        assert_eq!(server.join().unwrap(), [(received, payload(host, mtu))], "over {host}");
        assert_eq!(len, OCTETS, "over {host}");
        assert_learned(&lab, "server", client, mtu);
    }
}

/// Row 61: the narrow link is synwall's own, so it is synwall that tells.
#[test]
fn upload_ends_although_synwalls_inside_port_shrinks_under_it() {
    for host in SERVER {
        let mtu = narrow(host);
        let lab = Lab::protected(&["--routers"]);
        let server = serve(&lab, address(host, 8000), 1, |stream| receive_hashed(&stream).unwrap());
        let sent = lab.within("client", || {
            let stream = open(address(host, 8000)).unwrap();
            let shrink = || shrink_own(&lab, [("box", "inside"), ("lan", "inside")], mtu);
            let sent = send_halves(&stream, OCTETS, shrink).unwrap();
            assert_eq!(receive_hashed(&stream).unwrap().0, 0, "the server has it all");
            sent
        });
        assert_eq!(server.join().unwrap(), [(OCTETS, sent)], "over {host}");
        assert_learned(&lab, "client", host, mtu);
        assert!(lab.metric("synwall_dropped_total", "too_big") > 0);
    }
}

/// Row 61: the same towards the client.
#[test]
fn download_ends_although_synwalls_outside_port_shrinks_under_it() {
    for (host, client) in SERVER.into_iter().zip(CLIENT) {
        let mtu = narrow(host);
        let lab = Lab::protected(&["--routers"]);
        let server = serve(&lab, address(host, 8000), 1, |stream| send_hashed(&stream, OCTETS).unwrap());
        let (len, received) = lab.within("client", || {
            let stream = open(address(host, 8000)).unwrap();
            let shrink = || shrink_own(&lab, [("box", "outside"), ("wan", "outside")], mtu);
            receive_halves(&stream, OCTETS, shrink).unwrap()
        });
        assert_eq!((server.join().unwrap(), len), (vec![received], OCTETS), "over {host}");
        assert_learned(&lab, "server", client, mtu);
        assert!(lab.metric("synwall_dropped_total", "too_big") > 0);
    }
}

#[test]
fn path_that_is_narrow_from_the_start_is_found() {
    for (host, client) in SERVER.into_iter().zip(CLIENT) {
        let mtu = narrow(host);
        let lab = Lab::protected(&["--routers"]);
        narrow_route(&lab, "lan", host, "server", mtu);
        narrow_route(&lab, "wan", client, "client", mtu);
        assert_eq!(both_ways(&lab, host), [payload(host, mtu); 2], "over {host}");
        assert_learned(&lab, "client", host, mtu);
        assert_learned(&lab, "server", client, mtu);
    }
}

/// Row 57: with real routers and real reassembly.
#[test]
fn segments_in_fragments_arrive_before_and_behind_synwall() {
    let (before, behind) = (["outside", "inside"], ["client", "server"]);
    for [wan, lan] in [before, behind] {
        // To the server through wan's port and to the client through lan's, or the other way round.
        let lab = Lab::protected(&["--routers"]);
        for (router, port) in [("wan", wan), ("lan", lan)] {
            let is_to_server = matches!((router, port), ("wan", "outside") | ("lan", "server"));
            narrow_route(&lab, router, if is_to_server { SERVER[0] } else { CLIENT[0] }, port, 1000);
        }
        for end in ["client", "server"] {
            lab.run(end, &["sysctl", "-qw", "net.ipv4.ip_no_pmtu_disc=1"]);
        }
        both_ways(&lab, SERVER[0]);
        for end in ["client", "server"] {
            assert!(lab.kernel_counter(end, "IpReasmOKs") > 1000, "{end} has put segments together");
            assert_eq!(lab.kernel_counter(end, "IcmpInDestUnreachs"), 0, "{end} was told of no MTU");
        }
        lab.run(
            "client",
            &["ping", "-c", "3", "-i", "0.2", "-W", "2", "-M", "dont", "-s", "8000", SERVER[0]],
        );
    }
}

/// Row 1: and every segment after it keeps its tags.
#[test]
fn tagged_and_doubly_tagged_transfers_arrive_unchanged() {
    for tags in ["5", "7,8"] {
        let lab = Lab::protected(&["--tags", tags]);
        for host in SERVER {
            let url = if is_v4(host) { format!("http://{host}/") } else { format!("http://[{host}]/") };
            let page = lab.run("client", &["curl", "-sf", "--max-time", "5", &url]);
            assert_eq!(page, "served by the server itself\n");
            both_ways(&lab, host);
        }
        lab.assert_metrics(&[("synwall_cookie_valid_total", 4), ("synwall_dropped_total", 0)]);
    }
}

/// Sends there and back on one connection; returns the octets in a full segment of the client and of the server.
fn both_ways(lab: &Lab, host: &str) -> [u32; 2] {
    let proxied = || lab.metric("synwall_flows_admitted_total", "kind=\"proxied\"");
    let before = proxied();
    let (accepted, has_accepted) = mpsc::channel();
    let server = serve(lab, address(host, 8000), 1, move |stream| {
        accepted.send(()).unwrap();
        let received = receive_hashed(&stream).unwrap();
        let sent = send_hashed(&stream, OCTETS).unwrap();
        (received, sent, segments_of(&stream))
    });
    let (sent, segments, received) = lab.within("client", move || {
        let stream = open(address(host, 8000)).unwrap();
        // No early data, which synwall would send itself, and with DF.
        has_accepted.recv_timeout(Duration::from_secs(20)).unwrap();
        let sent = send_hashed(&stream, OCTETS).unwrap();
        let received = receive_hashed(&stream).unwrap();
        (sent, segments_of(&stream), received)
    });
    let (served, returned, servers) = server.join().unwrap().remove(0);
    assert_eq!(served, (OCTETS, sent), "up to {host}");
    assert_eq!(received, (OCTETS, returned), "down from {host}");
    assert_eq!(proxied(), before + 1, "it went through synwall's hands");
    [segments, servers]
}

/// Gives both ends of a link a smaller MTU.
fn shrink(lab: &Lab, ends: [(&str, &str); 2], mtu: u32) {
    for (namespace, port) in ends {
        lab.run(namespace, &["ip", "link", "set", port, "mtu", &mtu.to_string()]);
    }
}

/// The same to a link of synwall's, which notices.
fn shrink_own(lab: &Lab, ends: [(&str, &str); 2], mtu: u32) {
    shrink(lab, ends, mtu);
    assert!(eventually(Duration::from_secs(10), || lab.log().contains("MTU changed")), "{}", lab.log());
}

/// Lets a router take the way to `host` for one of this MTU, as if a narrow link came behind the next router.
fn narrow_route(lab: &Lab, router: &str, host: &str, port: &str, mtu: u32) {
    let family = if is_v4(host) { "-4" } else { "-6" };
    let mtu = mtu.to_string();
    lab.run(router, &["ip", family, "route", "replace", host, "dev", port, "mtu", "lock", &mtu]);
}

/// Asserts that the kernel in `end` has learned the MTU of its path to `host` from ICMP, that it did not refuse all of it
/// as out of the window, and has not found the MTU by probing for a black hole. A report or two may be refused: one that
/// the acknowledgement of what was sent again has overtaken.
fn assert_learned(lab: &Lab, end: &str, host: &str, mtu: u32) {
    let route = lab.run(end, &["ip", "route", "get", host]);
    assert!(route.contains(&format!(" mtu {mtu} ")), "{end}: {route}");
    for probing in ["TcpExtTCPMTUPSuccess", "TcpExtTCPMTUPFail"] {
        assert_eq!(lab.kernel_counter(end, probing), 0, "{probing} of {end}");
    }
    assert!(lab.metric("synwall_backend_established_total", "") >= 1, "it went through synwall's hands");
    let told = if is_v4(host) { "IcmpInDestUnreachs" } else { "Icmp6InPktTooBigs" };
    let refused = lab.kernel_counter(end, "TcpExtOutOfWindowIcmps");
    assert!(
        refused < lab.kernel_counter(end, told),
        "{end} refused {refused} of the reports as out of the window"
    );
}

fn segments_of(stream: &TcpStream) -> u32 {
    getsockopt(stream, TcpMaxSeg).unwrap()
}

/// What a segment with timestamps carries on a link of this MTU.
fn payload(host: &str, mtu: u32) -> u32 {
    mtu - if is_v4(host) { 40 } else { 60 } - TIMESTAMPS
}

fn is_v4(host: &str) -> bool {
    !host.contains(':')
}

/// The narrow link of these tests; IPv6 has none below 1280.
fn narrow(host: &str) -> u32 {
    if is_v4(host) { 1000 } else { 1280 }
}

const CLIENT: [&str; 2] = ["198.18.255.10", "2001:db8:255::10"];
const TIMESTAMPS: u32 = 12;
const OCTETS: u64 = 32 << 20;
