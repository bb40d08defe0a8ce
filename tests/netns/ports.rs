//! The ports are the bridge's: the host's own stack hears nothing there, and a lost link is passed on if that is asked for.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::bad_input::host;
use crate::capture::Capture;
use crate::lab::{CONFIG, Lab, SERVER, eventually, plane};

/// An address that the host has on another interface.
const OWN: [&str; 2] = ["198.18.255.99", "2001:db8:255::99"];

const SERVER_MAC: &str = "02:53:57:00:00:02";
const CLIENT_MAC: &str = "02:53:57:00:00:10";
const OUTSIDE_MAC: &str = "02:53:57:00:00:f0";

/// Its own management address the host answers on its own interface, and not on a port: neither ARP nor what goes to its MAC.
#[test]
fn the_hosts_own_stack_answers_nothing_on_the_ports() {
    let mut lab = Lab::up(&[]);
    run(&lab, "box", "sysctl -qw net.ipv6.conf.outside.disable_ipv6=0 net.ipv6.conf.all.accept_dad=0");
    for (address, route) in OWN.iter().zip(["198.18.255.0/24", "2001:db8:255::/64"]) {
        run(&lab, "box", &format!("ip address add {address} dev lo"));
        run(&lab, "box", &format!("ip route add {route} dev outside"));
    }
    // It has no address there from which it could ask.
    run(
        &lab,
        "box",
        &format!("ip neigh replace 2001:db8:255::10 lladdr {CLIENT_MAC} dev outside nud permanent"),
    );
    let before = host(&lab);
    assert!(is_answered(&lab, OWN[0]), "without synwall the host answers ARP and ping");
    assert!(OWN.iter().all(|own| is_answered_at(&lab, own)));
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        lab.start(CONFIG);
        assert!(!is_answered(&lab, OWN[0]));
        assert!(!OWN.iter().any(|own| is_answered_at(&lab, own)));
        lab.signal(signal);
        // A program in the kernel goes on without the process, and takes all that arrives.
        if signal == Signal::SIGTERM || plane() == "pnet" {
            assert!(
                OWN.iter().all(|own| is_answered_at(&lab, own)),
                "after {signal} the ports are the host's again"
            );
        }
    }
    // What the kill left is taken over, and taken down.
    lab.start(CONFIG);
    // The request itself crosses.
    run(&lab, "server", &format!("ip address add {} dev eth0", OWN[0]));
    let arrived = Capture::of_arriving(&lab, "client", "eth0");
    assert!(is_answered(&lab, OWN[0]));
    let neighbour = lab.run("client", &["ip", "neigh", "show", OWN[0]]);
    assert!(neighbour.contains(SERVER_MAC), "{neighbour}");
    assert_eq!(arrived.select(&format!("arp.opcode == 2 && arp.src.proto_ipv4 == {}", OWN[0])).len(), 1);
    lab.stop();
    host(&lab).assert_same(&before);
}

/// A port on which others stand stays open to them.
#[test]
fn a_port_under_another_interface_is_left_to_the_host() {
    let mut lab = Lab::up(&[]);
    run(&lab, "box", "ip link add link outside name upper type macvlan mode bridge");
    let before = host(&lab);
    lab.start(CONFIG);
    let rules = lab.run("box", &["nft", "list", "ruleset"]);
    assert!(rules.contains("\"inside\"") && !rules.contains("\"outside\""), "{rules}");
    assert!(lab.log().contains("upper on top of this port"), "{}", lab.log());
    lab.stop();
    host(&lab).assert_same(&before);
}

#[test]
fn a_lost_link_is_passed_on_and_comes_back() {
    let mut lab = Lab::up(&[]);
    let before = host(&lab);
    lab.start(&propagating());
    let cables = [
        ("outside", ("wan", "outside"), ("server", "eth0"), "inside"),
        ("inside", ("server", "eth0"), ("wan", "outside"), "outside"),
    ];
    for (lost, (namespace, cable), (other, end), held) in cables {
        set(&lab, namespace, cable, "down");
        assert!(eventually(PATIENCE, || !has_carrier(&lab, other, end)), "{held} goes down with {lost}");
        let described = lab.run("box", &["ip", "link", "show", held]);
        assert!(described.contains("held down by synwall"), "{described}");
        assert!(eventually(PATIENCE, || held_down(&lab, held) == 1));
        set(&lab, namespace, cable, "up");
        assert!(eventually(PATIENCE, || has_carrier(&lab, other, end)), "{held} comes back with {lost}");
        assert!(eventually(PATIENCE, || held_down(&lab, held) == 0));
        assert!(eventually(PATIENCE, || is_answered(&lab, SERVER[0])), "and carries");
    }
    set(&lab, "wan", "outside", "down");
    assert!(eventually(PATIENCE, || !has_carrier(&lab, "server", "eth0")));
    lab.stop();
    assert!(has_carrier(&lab, "server", "eth0"), "nothing stays down");
    set(&lab, "wan", "outside", "up");
    host(&lab).assert_same(&before);
}

#[test]
fn a_port_that_a_killed_run_held_down_comes_up_at_the_next_start() {
    let mut lab = Lab::up(&[]);
    run(&lab, "box", "ip link set inside alias rack-7");
    let before = host(&lab);
    lab.start(&propagating());
    set(&lab, "wan", "outside", "down");
    assert!(eventually(PATIENCE, || !has_carrier(&lab, "server", "eth0")));
    lab.signal(Signal::SIGKILL);
    assert!(!has_carrier(&lab, "server", "eth0"));
    set(&lab, "wan", "outside", "up");
    // Whether the option is still on or not.
    lab.start(CONFIG);
    assert!(has_carrier(&lab, "server", "eth0"));
    assert!(eventually(PATIENCE, || is_answered(&lab, SERVER[0])));
    lab.stop();
    host(&lab).assert_same(&before);
}

#[test]
fn a_lost_link_is_not_passed_on_unless_it_is_asked_for() {
    let lab = Lab::protected(&[]);
    set(&lab, "wan", "outside", "down");
    assert!(eventually(PATIENCE, || lab.metric("synwall_port_up", "port=\"outside\"") == 0));
    let is_passed_on = || held_down(&lab, "inside") == 1 || !has_carrier(&lab, "server", "eth0");
    assert!(!eventually(Duration::from_secs(2), is_passed_on), "eight looks later");
}

fn propagating() -> String {
    CONFIG.replace("inside = \"inside\"", "inside = \"inside\"\nlink_propagation = true")
}

fn run(lab: &Lab, namespace: &str, command: &str) {
    lab.run(namespace, &command.split(' ').collect::<Vec<_>>());
}

fn set(lab: &Lab, namespace: &str, port: &str, state: &str) {
    run(lab, namespace, &format!("ip link set {port} {state}"));
}

fn has_carrier(lab: &Lab, namespace: &str, port: &str) -> bool {
    lab.run(namespace, &["ip", "link", "show", port]).contains("LOWER_UP")
}

fn held_down(lab: &Lab, port: &str) -> u64 {
    lab.metric("synwall_port_held_down", &format!("port={port:?}"))
}

/// Whether a ping of the client's is answered, whoever has to be asked for the MAC address first.
fn is_answered(lab: &Lab, address: &str) -> bool {
    lab.run("client", &["ip", "neigh", "flush", "dev", "eth0", "to", address]);
    ping(lab, address)
}

/// The same of one to the MAC address of the host's port.
fn is_answered_at(lab: &Lab, address: &str) -> bool {
    run(lab, "client", &format!("ip neigh replace {address} lladdr {OUTSIDE_MAC} dev eth0 nud permanent"));
    let is_answered = ping(lab, address);
    run(lab, "client", &format!("ip neigh del {address} dev eth0"));
    is_answered
}

fn ping(lab: &Lab, address: &str) -> bool {
    lab.command("client", "ping").args(["-c", "1", "-W", "1", address]).output().unwrap().status.success()
}

/// Longer than no port is judged after one was brought up, and after the start.
const PATIENCE: Duration = Duration::from_secs(20);
