//! Everything that is not a protected service crosses as on a wire.

use std::io::Write;
use std::time::Duration;

use pnet::datalink::{self, Channel, Config};

use crate::capture::Capture;
use crate::lab::{Lab, SERVER, eventually};
use crate::traffic::{address, get, open, read, serve};

#[test]
fn arp_neighbour_discovery_and_ping_cross() {
    let lab = Lab::protected(&[]);
    for (host, client) in SERVER.iter().zip(["198.18.255.10", "2001:db8:255::10"]) {
        for (from, to) in [("client", *host), ("server", client)] {
            lab.run(from, &["ip", "neigh", "flush", "dev", "eth0"]);
            lab.run(from, &["ping", "-c", "3", "-i", "0.1", "-W", "2", to]);
            lab.run(from, &["ping", "-c", "1", "-W", "2", "-s", "4000", to]);
        }
    }
    lab.run("client", &["ping", "-c", "1", "-W", "2", "ff02::1%eth0"]);
    lab.assert_metrics(&[("synwall_syn_received_total", 0)]);
}

#[test]
fn unprotected_tcp_and_connections_of_the_server_cross() {
    let lab = Lab::protected(&[]);
    for (host, client) in SERVER.iter().zip(["198.18.255.10", "2001:db8:255::10"]) {
        let server = serve(&lab, address(host, 9000), 1, |mut stream| stream.write_all(b"hello").unwrap());
        let greeting = lab.within("client", || read(&mut open(address(host, 9000)).unwrap(), 5).unwrap());
        assert_eq!(greeting, b"hello");
        server.join().unwrap();

        let listener = lab.within("client", || std::net::TcpListener::bind(address(client, 9001))).unwrap();
        let greeter = std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"hello").unwrap());
        let greeting = lab.within("server", || read(&mut open(address(client, 9001)).unwrap(), 5).unwrap());
        assert_eq!(greeting, b"hello");
        greeter.join().unwrap();
    }
    lab.assert_metrics(&[("synwall_syn_received_total", 0), ("synwall_flows", 0)]);
}

#[test]
fn frames_of_every_kind_cross_unchanged_both_ways() {
    let lab = Lab::protected(&["--mtu", "9000"]);
    for (from, to, mac) in [("client", "server", "025357000002"), ("server", "client", "025357000010")] {
        let capture = Capture::start(&lab, to);
        for (kind, frame) in kinds(mac) {
            send(&lab, from, &frame);
            assert!(
                capture.sees(&frame),
                "{kind} from {from} to {to}:\n{:02x?}",
                &frame[..frame.len().min(32)]
            );
        }
    }
}

#[test]
fn jumbo_frames_of_a_protected_service_cross() {
    let lab = Lab::protected(&["--mtu", "9000", "--offloads", "off"]);
    for host in SERVER {
        lab.run("client", &["ping", "-c", "1", "-W", "2", "-M", "do", "-s", "8900", host]);
        lab.within("client", || get(&mut open(address(host, 80)).unwrap()).unwrap());
        let url =
            if host.contains(':') { format!("http://[{host}]/big") } else { format!("http://{host}/big") };
        lab.run("client", &["curl", "-sf", "-o", "/dev/null", "-r", "0-99999999", "--max-time", "20", &url]);
    }
}

#[test]
fn link_that_was_down_carries_again() {
    let lab = Lab::protected(&[]);
    for port in ["outside", "inside"] {
        lab.run("box", &["ip", "link", "set", port, "down"]);
        let label = format!("port=\"{port}\"");
        assert!(
            eventually(Duration::from_secs(5), || lab.metric("synwall_port_up", &label) == 0),
            "{port} is down"
        );
        lab.run("box", &["ip", "link", "set", port, "up"]);
        assert!(
            eventually(Duration::from_secs(5), || lab.metric("synwall_port_up", &label) == 1),
            "{port} is up"
        );
        lab.run("client", &["ping", "-c", "1", "-W", "2", SERVER[0]]);
        lab.within("client", || get(&mut open(address(SERVER[0], 80)).unwrap()).unwrap());
    }
}

/// Frames that no IP stack would make, some for `one` station: (what it is, all of its octets).
fn kinds(one: &str) -> Vec<(&'static str, Vec<u8>)> {
    let frame = |to: &str, types: &str, len: usize| {
        let mut octets = hex(&format!("{to} 025357000099 {types}"));
        octets.extend((octets.len()..len).map(|number| number as u8));
        octets
    };
    let (group, all) = ("01005e0000fb", "ffffffffffff");
    vec![
        ("an unknown EtherType", frame(one, "88b5", 64)),
        ("a broadcast", frame(all, "88b5", 64)),
        ("a multicast", frame(group, "88b5", 64)),
        ("an IEEE 802.3 length", frame(all, "0032 4242 03", 64)),
        ("an MPLS label", frame(one, "8847 0001 01ff", 100)),
        ("a VLAN tag", frame(one, "8100 2005 88b5", 68)),
        ("a VLAN tag before IPv4", frame(all, "8100 0005 0800", 100)),
        ("a priority tag", frame(one, "8100 e000 88b5", 68)),
        ("two tags, QinQ", frame(one, "88a8 0006 8100 0005 88b5", 72)),
        ("two tags of 802.1Q", frame(one, "8100 0006 8100 0005 88b5", 72)),
        ("a jumbo frame", frame(one, "88b5", 9014)),
        ("a jumbo frame with a tag", frame(one, "8100 0005 88b5", 9018)),
        ("nothing behind the EtherType", frame(one, "88b5", 14)),
    ]
}

fn send(lab: &Lab, from: &str, frame: &[u8]) {
    lab.within(from, || {
        let interface = datalink::interfaces().into_iter().find(|port| port.name == "eth0").unwrap();
        let config = Config { write_buffer_size: 16384, ..Config::default() };
        let Ok(Channel::Ethernet(mut sender, _)) = datalink::channel(&interface, config) else {
            panic!("no raw socket")
        };
        sender.send_to(frame, None).unwrap().unwrap();
    });
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
