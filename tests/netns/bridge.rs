//! Everything that is not a protected service crosses as on a wire.

use std::io::Write;
use std::time::Duration;

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
fn jumbo_frames_of_a_protected_service_cross() {
    let lab = Lab::protected(&["--mtu", "9000", "--offloads", "off"]);
    let arrived = ["client", "server"].map(|end| Capture::of_arriving(&lab, end, "eth0"));
    for host in SERVER {
        lab.run("client", &["ping", "-c", "1", "-W", "2", "-M", "do", "-s", "8900", host]);
        lab.within("client", || get(&mut open(address(host, 80)).unwrap()).unwrap());
        let url =
            if host.contains(':') { format!("http://[{host}]/big") } else { format!("http://{host}/big") };
        lab.run("client", &["curl", "-sf", "-o", "/dev/null", "-r", "0-99999999", "--max-time", "20", &url]);
    }
    // The page's segments are full; those of a client that only asks are not.
    let [longest, pinged] = arrived.map(|capture| capture.longest());
    assert_eq!(longest, 14 + 9000, "at the client");
    assert!(pinged >= 14 + 8900, "at the server: {pinged}");
    lab.assert_metrics(&[("synwall_cookie_valid_total", 4), ("synwall_backend_established_total", 4)]);
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
