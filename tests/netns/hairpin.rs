//! Protected servers that call each other by way of a router outside: every segment passes the box twice.

use std::io::Result;
use std::net::TcpListener;

use crate::lab::{CONFIG, Lab, SERVER};
use crate::traffic::{address, open, receive_hashed, seeded_hash, send_seeded};

/// The second server: the host that the bridge behind `inside` is, in a network of its own.
const SECOND: [&str; 2] = ["198.18.254.2", "2001:db8:254::2"];

const MIB: u64 = 1 << 20;

/// Row 4: a server's own address is no bogus source, whether its own ports are protected or not.
#[test]
fn servers_that_call_each_other_by_way_of_a_router_outside_are_served_in_every_mode() {
    let mut lab = Lab::up(&["--lan"]);
    route(&lab);
    for mode in ["always", "adaptive", "monitor", "off"] {
        println!("{mode}");
        lab.start(&config(mode));
        for (first, second) in SERVER.iter().zip(SECOND) {
            exchange(&lab, ("server", "lan"), (second, 9000));
            exchange(&lab, ("lan", "server"), (first, 8000));
        }
        let proxied = if mode == "always" { 4 } else { 0 };
        lab.assert_metrics(&[("synwall_dropped_total", 0), ("synwall_backend_established_total", proxied)]);
        lab.stop();
    }
}

/// All ports of the second server are protected, those that it calls from, too.
fn config(mode: &str) -> String {
    let mut config = CONFIG.to_owned();
    for (name, address) in ["second-four", "second-six"].iter().zip(SECOND) {
        config += &format!(
            "\n[[service]]\nname = {name:?}\naddress = {address:?}\nports = \"all\"\nmode = \"always\"\n"
        );
    }
    config.replace("\"always\"", &format!("{mode:?}"))
}

/// Makes the client a router between the two networks, both of which are behind the box.
fn route(lab: &Lab) {
    let run = |namespace: &str, command: &str| {
        lab.run(namespace, &command.split(' ').collect::<Vec<_>>());
    };
    for (namespace, port) in [("client", "eth0"), ("server", "eth0"), ("lan", "br0")] {
        for setting in [
            "ipv6.conf.all.accept_redirects",
            "ipv4.conf.all.accept_redirects",
            "ipv4.conf.all.send_redirects",
        ] {
            run(namespace, &format!("sysctl -qw net.{setting}=0"));
        }
        run(namespace, &format!("sysctl -qw net.ipv6.conf.{port}.accept_redirects=0"));
        run(namespace, &format!("sysctl -qw net.ipv4.conf.{port}.accept_redirects=0"));
        run(namespace, &format!("sysctl -qw net.ipv4.conf.{port}.send_redirects=0"));
    }
    run("lan", "sysctl -qw net.ipv6.conf.br0.disable_ipv6=0");
    run("lan", "ip address add 198.18.254.2/24 dev br0");
    run("lan", "ip address add 2001:db8:254::2/64 dev br0 nodad");
    run("lan", "ip route add 198.18.255.0/24 via 198.18.254.1");
    run("lan", "ip route add 2001:db8:255::/64 via 2001:db8:254::1");
    run("server", "ip route add 198.18.254.0/24 via 198.18.255.10");
    run("server", "ip route add 2001:db8:254::/64 via 2001:db8:255::10");
    run("client", "ip address add 198.18.254.1/24 dev eth0");
    run("client", "ip address add 2001:db8:254::1/64 dev eth0 nodad");
    // Without one a router asks no neighbour for whom it forwards.
    run("client", "ip address add fe80::10/64 dev eth0 nodad");
    run("client", "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
}

/// Streams of their own both ways at once, which must arrive octet for octet.
fn exchange(lab: &Lab, (from, to): (&str, &str), (host, port): (&str, u16)) {
    let server = address(host, port);
    let listener = lab.within(to, || TcpListener::bind(server)).unwrap();
    let answering = std::thread::spawn(move || both_ways(&listener.accept()?.0, 2));
    let asked = lab.within(from, || both_ways(&open(server)?, 1)).unwrap();
    assert_eq!(asked, (4 * MIB, seeded_hash(2, 4 * MIB)), "{from} from {host}");
    assert_eq!(answering.join().unwrap().unwrap(), (4 * MIB, seeded_hash(1, 4 * MIB)), "{host} from {from}");
}

fn both_ways(stream: &std::net::TcpStream, seed: u64) -> Result<(u64, String)> {
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send_seeded(stream, seed, 4 * MIB));
        let received = receive_hashed(stream);
        sending.join().unwrap()?;
        received
    })
}
