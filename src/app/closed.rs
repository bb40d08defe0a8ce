//! Closes the ports to the host's own stack, as far as this host lets it.

use crate::config::Bridge;
use crate::control::link;
use crate::io::host_stack::{self, Closed};

/// Closes both ports; not one on which others stand, who would be cut off.
pub(super) fn close(bridge: &Bridge) -> Option<Closed> {
    let ports = [bridge.outside.as_str(), bridge.inside.as_str()];
    let free: Vec<&str> = ports.into_iter().filter(|port| !is_shared(port)).collect();
    if free.is_empty() {
        return None;
    }
    match host_stack::close(&format!("synwall-{}", bridge.outside), &free) {
        Ok(closed) => Some(closed),
        Err(error) => {
            tracing::warn!(
                %error,
                "the ports are not closed to the host's own stack, which answers there for every address it has, ARP and ping, \
                 too: that takes Linux 5.12 with nf_tables; until then set net.ipv4.conf.PORT.arp_ignore = 8"
            );
            None
        }
    }
}

fn is_shared(port: &str) -> bool {
    let others = link::on_top_of(port).unwrap_or_default();
    if !others.is_empty() {
        tracing::warn!(
            interface = port,
            "{} on top of this port: the host's own stack gets what arrives there, and may answer it",
            others.join(", ")
        );
    }
    !others.is_empty()
}
