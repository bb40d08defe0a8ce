//! What an operator gets wrong: a message, an exit status, and a host as it was.

use nix::sys::signal::Signal;

use crate::lab::{CONFIG, Lab};

#[test]
fn bad_configuration_is_named_and_exits_78() {
    let lab = Lab::up(&[]);
    let before = host(&lab);
    let overlap = CONFIG.replace("2001:db8:255::2", "198.18.0.0/15");
    for (config, words) in [
        (CONFIG.replace("\"inside\"", "\"outside\""), &["inside", "4:10"][..]),
        (CONFIG.replace("mode =", "mood ="), &["mood", "10:1"]),
        (overlap, &["four", "six"]),
        (CONFIG.replace("\"2s\"", "\"2 parsecs\""), &["time_wait"]),
    ] {
        let (status, said) = lab.run_to_end(&[], &config);
        assert_eq!(status, Some(78), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?} in: {said}");
    }
    host(&lab).assert_same(&before);
}

#[test]
fn world_that_does_not_fit_the_configuration_is_named_and_exits_1() {
    let lab = Lab::up(&[]);
    lab.run("box", &["ip", "link", "add", "port0", "type", "veth", "peer", "port1"]);
    lab.run("box", &["ip", "address", "add", "198.19.0.1/32", "dev", "port0"]);
    let before = host(&lab);
    for (config, words) in [
        (CONFIG.replace("\"inside\"", "\"nowhere\""), &["nowhere"][..]),
        (CONFIG.replace("\"inside\"", "\"port0\""), &["port0", "198.19.0.1"]),
    ] {
        let (status, said) = lab.run_to_end(&[], &config);
        assert_eq!(status, Some(1), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?} in: {said}");
        host(&lab).assert_same(&before);
    }
}

#[test]
fn busy_metrics_port_is_named_and_exits_1() {
    let lab = Lab::up(&[]);
    let before = host(&lab);
    let _busy = lab.within("box", || std::net::TcpListener::bind("127.0.0.1:10910")).unwrap();
    let (status, said) = lab.run_to_end(&[], CONFIG);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("127.0.0.1:10910"), "{said}");
    host(&lab).assert_same(&before);
}

#[test]
fn missing_privileges_are_named_and_exit_1() {
    let lab = Lab::up(&[]);
    let before = host(&lab);
    let (status, said) = lab.run_to_end(&["setpriv", "--bounding-set=-all"], CONFIG);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("CAP_NET_RAW") || said.contains("privilege") || said.contains("root"), "{said}");
    host(&lab).assert_same(&before);
}

#[test]
fn ports_are_left_as_they_were_found() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut lab = Lab::up(&[]);
        let before = host(&lab);
        lab.start(CONFIG);
        assert!(!host(&lab).beyond(&before).is_empty(), "it captures: promiscuous, offloads set");
        let status = lab.signal(signal);
        assert!(status.success(), "{status} on {signal}:\n{}", lab.log());
        host(&lab).assert_same(&before);
    }
}

/// What a program can leave behind on the ports, line by line: flags, promiscuity, offloads, addresses, filters, sysctls.
pub(crate) struct Host(Vec<String>);

pub(crate) fn host(lab: &Lab) -> Host {
    let look = "set -e; for port in outside inside; do ip -details -oneline link show $port; ip -oneline address show $port; \
                ethtool -k $port; tc filter show dev $port ingress; done; nft list ruleset; \
                sysctl -a --pattern 'conf.(outside|inside)|ip_forward|conf.all.forwarding'";
    let lines: Vec<_> = lab.run("box", &["sh", "-c", look]).lines().map(str::to_owned).collect();
    for said in ["promiscuity", "scatter-gather", "ipv4.conf.outside.forwarding"] {
        assert!(lines.iter().any(|line| line.contains(said)), "nothing of {said} in {lines:#?}");
    }
    Host(lines)
}

impl Host {
    /// The lines of which the other has none.
    fn beyond<'a>(&'a self, other: &'a Host) -> Vec<&'a String> {
        self.0.iter().filter(|line| !other.0.contains(line)).collect()
    }

    pub(crate) fn assert_same(&self, before: &Host) {
        let (gone, new) = (before.beyond(self), self.beyond(before));
        assert!(gone.is_empty() && new.is_empty(), "gone: {gone:#?}\nnew: {new:#?}");
    }
}
