//! Looks at the host and says what is in order and what is not, with what to do about it. Changes nothing.
//!
//! `synwall doctor` prints all of it; `synwall run` looks at what would make it fail or do harm, before it touches
//! anything ([`before_start`]).

use std::fmt;
use std::io;

use super::plane::{self, Choice};
use super::{hook, http, key, link, privileges, propagation, socket, state};
use crate::config::{Config, PlaneKind};
use crate::engine::Side;
#[cfg(feature = "xdp")]
use crate::io::xdp;
use link::Link;

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// In order.
    Ok(String),
    /// Not in order.
    Fix {
        /// What is wrong, and what to do about it.
        what: String,
        /// Whether synwall refuses to start with it.
        is_fatal: bool,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Ok(what) => write!(f, "ok   {what}"),
            Finding::Fix { what, .. } => write!(f, "fix  {what}"),
        }
    }
}

/// All that was found, in the order in which it should be put right.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Line by line.
    pub findings: Vec<Finding>,
    /// The MTUs of the ports outside and inside, if both are there.
    pub mtus: Option<[u16; 2]>,
}

impl Report {
    /// What synwall refuses to start with.
    pub fn fatal(&self) -> impl Iterator<Item = &str> {
        self.findings.iter().filter_map(|finding| match finding {
            Finding::Fix { what, is_fatal: true } => Some(what.as_str()),
            Finding::Fix { is_fatal: false, .. } | Finding::Ok(_) => None,
        })
    }

    /// Whether everything is in order.
    pub fn is_ok(&self) -> bool {
        self.findings.iter().all(|finding| matches!(finding, Finding::Ok(_)))
    }

    fn ok(&mut self, what: impl Into<String>) {
        self.findings.push(Finding::Ok(what.into()));
    }

    fn fatal_fix(&mut self, what: impl Into<String>) {
        self.findings.push(Finding::Fix { what: what.into(), is_fatal: true });
    }

    fn fix(&mut self, what: impl Into<String>) {
        self.findings.push(Finding::Fix { what: what.into(), is_fatal: false });
    }
}

/// The MTUs of the ports outside and inside at the moment, if both are there.
pub fn mtus(config: &Config) -> Option<[u16; 2]> {
    let mtu = |name: &str| Some(u16::try_from(link::find(name).ok()??.mtu).unwrap_or(u16::MAX));
    Some([mtu(&config.bridge.outside)?, mtu(&config.bridge.inside)?])
}

/// What must be in order before anything is touched: privileges and ports.
pub fn before_start(config: &Config) -> Report {
    let mut report = Report::default();
    check_privileges(&mut report);
    let outside = check_port(&mut report, Side::Client, &config.bridge.outside);
    let inside = check_port(&mut report, Side::Server, &config.bridge.inside);
    if let (Some(outside), Some(inside)) = (outside, inside) {
        check_mtus(&mut report, &outside, &inside);
    }
    report
}

/// Everything, for an operator.
pub fn examine(config: &Config) -> Report {
    let mut report = before_start(config);
    check_kernel(&mut report);
    check_plane(&mut report, config);
    check_metrics(&mut report, config);
    check_admin(&mut report, config);
    check_key(&mut report, config);
    check_state(&mut report, config);
    check_hook(&mut report, config);
    report
}

fn check_privileges(report: &mut Report) {
    match privileges::missing() {
        Ok(missing) if missing.is_empty() => report.ok("privileges: CAP_NET_RAW and CAP_NET_ADMIN"),
        Ok(missing) => report.fatal_fix(format!(
            "privileges: {} missing: run as root, or under systemd with AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN",
            missing.join(" and ")
        )),
        Err(error) => report.fatal_fix(format!("privileges: cannot be read: {error}: mount /proc")),
    }
}

/// Everything about one port; the link, if it is there.
fn check_port(report: &mut Report, side: Side, name: &str) -> Option<Link> {
    let port = format!("{} port {name}", side.port());
    let link = match link::find(name) {
        Ok(Some(link)) => link,
        Ok(None) => {
            let others = link::names().unwrap_or_default().join(", ");
            report.fatal_fix(format!(
                "{port}: no such interface: set [bridge] {} to one of: {others}",
                side.port()
            ));
            return None;
        }
        Err(error) => {
            report.fatal_fix(format!("{port}: the kernel does not tell about interfaces: {error}"));
            return None;
        }
    };
    if !link.is_ethernet() {
        report.fatal_fix(format!(
            "{port}: not Ethernet (link type {}): loopback, tunnels and the like cannot be bridged; choose another",
            link.hardware
        ));
        return Some(link);
    }
    report.ok(format!("{port}: Ethernet, MTU {}", link.mtu));
    check_link_state(report, &port, name, &link);
    check_master(report, &port, name, &link);
    check_addresses(report, &port, name);
    check_offloads(report, &port, name);
    Some(link)
}

fn check_link_state(report: &mut Report, port: &str, name: &str, link: &Link) {
    match (link.is_up, link.is_running) {
        (false, _) if propagation::is_held(link) => report.fatal_fix(format!(
            "{port}: held down by synwall, since the other port has no carrier ([bridge] link_propagation): it comes up when \
             that has one, or when synwall stops or starts"
        )),
        (false, _) => report.fatal_fix(format!("{port}: down: bring it up with `ip link set {name} up`")),
        (true, false) => report.fix(format!("{port}: no carrier: check the cable and the other end")),
        (true, true) => report.ok(format!("{port}: up, with carrier")),
    }
}

fn check_master(report: &mut Report, port: &str, name: &str, link: &Link) {
    match &link.master {
        Some((master, kind)) => report.fatal_fix(format!(
            "{port}: belongs to the {kind} {master}, which would carry frames past synwall: release it with `ip link set \
             {name} nomaster`"
        )),
        None => report.ok(format!("{port}: in no bridge or bond")),
    }
}

/// A port with an address would have the host's own stack answer what synwall handles.
fn check_addresses(report: &mut Report, port: &str, name: &str) {
    let addresses = match link::addresses(name) {
        Ok(addresses) => addresses,
        Err(error) => {
            return report.fatal_fix(format!("{port}: the kernel does not tell its addresses: {error}"));
        }
    };
    if addresses.is_empty() {
        return report.ok(format!("{port}: no address"));
    }
    for address in addresses {
        let todo = if address.is_ipv4() {
            format!("remove it with `ip addr flush dev {name}`")
        } else {
            // sysctl writes a dot in a name as a slash.
            let key = name.replace('.', "/");
            format!(
                "turn IPv6 off with `sysctl -w net.ipv6.conf.{key}.disable_ipv6=1`, or remove it with `ip -6 addr flush \
                 dev {name}` after `ip link set dev {name} addrgenmode none`"
            )
        };
        report.fatal_fix(format!("{port}: has the address {address}: {todo}"));
    }
}

fn check_offloads(report: &mut Report, port: &str, name: &str) {
    match link::offloads(name) {
        Ok(offloads) if offloads.lro => report.fatal_fix(format!(
            "{port}: LRO is on, which merges segments beyond repair: turn it off with `ethtool -K {name} lro off`"
        )),
        Ok(offloads) if offloads.on.is_empty() => report.ok(format!("{port}: no offloads")),
        Ok(offloads) => report.ok(format!("{port}: offloads that are no harm: {}", offloads.on.join(", "))),
        Err(error) => report.fix(format!("{port}: offloads cannot be read: {error}")),
    }
}

fn check_mtus(report: &mut Report, outside: &Link, inside: &Link) {
    let octets = |link: &Link| u16::try_from(link.mtu).unwrap_or(u16::MAX);
    report.mtus = Some([octets(outside), octets(inside)]);
    report.ok(if outside.mtu == inside.mtu {
        format!("MTU: {} on both ports", outside.mtu)
    } else {
        format!(
            "MTU: {} outside and {} inside: connections get an MSS that fits both, other packets that are too big are \
             reported to their senders",
            outside.mtu, inside.mtu
        )
    });
}

fn check_kernel(report: &mut Report) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    if is_at_least(release, (5, 4)) {
        report.ok(format!("kernel: {release}"));
    } else {
        report.fix(format!("kernel: {release} is older than 5.4: upgrade it"));
    }
    match link::try_packet_socket() {
        Ok(()) => {
            report.ok("kernel: packet sockets with offload headers (PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING)")
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            report.fix("kernel: packet sockets cannot be tried without CAP_NET_RAW: run doctor as root");
        }
        Err(error) => report.fix(format!(
            "kernel: packet sockets do not work: {error}: use a kernel with CONFIG_PACKET, 5.4 or later"
        )),
    }
}

/// Loads the XDP program for a moment and attaches nothing.
fn check_plane(report: &mut Report, config: &Config) {
    match plane::choose(config) {
        Choice::Pnet(None) => report.ok("plane: pnet, as configured"),
        Choice::Pnet(Some(reason)) => report.ok(format!("plane: pnet: {}", reason.text)),
        Choice::Xdp => match try_xdp(config) {
            Ok(found) => report.ok(format!("plane: xdp: {found}")),
            Err(reason) if config.plane.kind == PlaneKind::Auto => {
                report.ok(format!("plane: pnet, since XDP cannot be used: {reason}"));
            }
            Err(reason) => report.fix(format!("plane: xdp: {reason}, or set [plane] kind = \"auto\"")),
        },
    }
}

#[cfg(feature = "xdp")]
fn try_xdp(config: &Config) -> Result<String, String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    if !is_at_least(release, XDP_FLOOR) {
        return Err(format!("kernel {release} is older than 5.15: upgrade it"));
    }
    xdp::probe().map_err(|error| error.to_string())?;
    let pin = plane::pin(config);
    if let Some(pin) = &pin {
        xdp::examine_pin(pin).map_err(|error| error.to_string())?;
    }
    let kept =
        pin.map_or("nothing outlives the process".to_owned(), |pin| format!("kept in {}", pin.display()));
    Ok(format!(
        "the kernel takes the program; {kept}; whether the ports' drivers run it natively shows when it is attached"
    ))
}

#[cfg(not(feature = "xdp"))]
fn try_xdp(_: &Config) -> Result<String, String> {
    Err("this build is without it: build with the feature xdp".to_owned())
}

/// What the XDP program needs: docs/kernels.md.
#[cfg(feature = "xdp")]
const XDP_FLOOR: (u32, u32) = (5, 15);

fn check_metrics(report: &mut Report, config: &Config) {
    let Some(address) = config.metrics.listen else { return report.ok("metrics: off") };
    match http::bind(address) {
        Ok(_) => report.ok(format!("metrics: {address} is free")),
        Err(error) => report.fix(format!("metrics: {error}")),
    }
}

fn check_admin(report: &mut Report, config: &Config) {
    let Some(path) = &config.admin.socket else { return report.ok("admin: off") };
    match socket::examine(path) {
        Ok(()) => report.ok(format!("admin: {} is free", path.display())),
        Err(error) => report.fix(format!("admin: {error}")),
    }
}

fn check_key(report: &mut Report, config: &Config) {
    let Some(file) = &config.cookie.key_file else {
        let until =
            if config.state.directory.is_some() { "the first start, then kept" } else { "every start" };
        return report.ok(format!("cookie key: random at {until}"));
    };
    match key::master(Some(file)) {
        Ok(_) => report.ok(format!("cookie key: {}", file.display())),
        Err(error) => report.fix(format!("cookie key: {error}")),
    }
}

/// Looks without making or locking anything.
fn check_state(report: &mut Report, config: &Config) {
    let Some(path) = &config.state.directory else {
        return report.ok("state: off: connections do not survive a restart");
    };
    match state::examine(path) {
        Ok(()) => report.ok(format!("state: {}", path.display())),
        Err(error) => report.fix(error.to_string()),
    }
}

fn check_hook(report: &mut Report, config: &Config) {
    let Some(hook) = config.attack.hook() else { return report.ok("attack hook: none") };
    match hook::examine(&hook.program) {
        Ok(()) => report.ok(format!("attack hook: {}", hook.program.display())),
        Err(error) => report.fix(format!("attack {error}")),
    }
}

fn is_at_least(release: &str, needed: (u32, u32)) -> bool {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_compared_by_number() {
        for (release, is_enough) in [
            ("6.18.0-rc1", true),
            ("5.4.0", true),
            ("5.10", true),
            ("5.3.18-lp", false),
            ("4.19", false),
            ("", false),
        ] {
            assert_eq!(is_at_least(release, (5, 4)), is_enough, "{release}");
        }
    }

    #[test]
    fn missing_and_unfit_ports_are_refused_with_what_to_do() {
        let text = "[bridge]\noutside = \"no-such-if\"\ninside = \"lo\"\n";
        let report = before_start(&Config::parse("", text).unwrap());
        let fatal: Vec<&str> = report.fatal().collect();
        assert!(
            fatal
                .iter()
                .any(|what| what.starts_with("outside port no-such-if: no such interface: set [bridge]"))
        );
        assert!(fatal.iter().any(|what| what.starts_with("inside port lo: not Ethernet (link type 772)")));
        assert!(!report.is_ok() && report.mtus.is_none());
    }
}
