//! Which plane moves the frames: what the configuration says, as far as this host allows.

use std::path::PathBuf;

#[cfg(feature = "xdp")]
use crate::config::PlaneMode;
use crate::config::{Config, PlaneKind, PlanePin};
#[cfg(feature = "xdp")]
use crate::io::hardware;
#[cfg(feature = "xdp")]
use crate::io::xdp::{self, Attachment, HASH_KEYS, Options, XdpError};

/// A plane to start with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A program in the kernel. If it cannot be used after all and the configuration leaves the choice, then raw sockets.
    Xdp,
    /// Raw sockets, and why not XDP if that was to be chosen here.
    Pnet(Option<Reason>),
}

/// Why raw sockets are used where `auto` would have liked XDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// A word of a closed set, for the metrics.
    pub label: &'static str,
    /// A sentence, for the log.
    pub text: String,
}

/// The plane that `config` asks for, before anything is tried.
pub fn choose(config: &Config) -> Choice {
    match config.plane.kind {
        PlaneKind::Pnet => Choice::Pnet(None),
        PlaneKind::Xdp => Choice::Xdp,
        PlaneKind::Auto => against_xdp(config).map_or(Choice::Xdp, |reason| Choice::Pnet(Some(reason))),
    }
}

/// Where the program of these ports is pinned, if it is.
pub fn pin(config: &Config) -> Option<PathBuf> {
    match &config.plane.pin {
        PlanePin::Auto => Some(PathBuf::from(format!("/sys/fs/bpf/synwall-{}", config.bridge.outside))),
        PlanePin::At(path) => Some(path.clone()),
        PlanePin::None => None,
    }
}

#[cfg(not(feature = "xdp"))]
fn against_xdp(_: &Config) -> Option<Reason> {
    Some(Reason { label: "not_built", text: "this build is without the XDP plane".to_owned() })
}

/// What speaks against XDP on these ports.
#[cfg(feature = "xdp")]
fn against_xdp(config: &Config) -> Option<Reason> {
    let port = without_hardware(config)?;
    let kind = xdp::driver(port).map_or_else(String::new, |driver| format!(" ({driver})"));
    let text = format!(
        "{port}{kind} has no hardware behind it, so senders on this machine leave checksums to it that an XDP program \
         cannot see are missing; with [plane] kind = \"xdp\" it is used all the same, in generic mode"
    );
    Some(Reason { label: "no_hardware", text })
}

/// A port at which frames may arrive without their checksums.
#[cfg(feature = "xdp")]
fn without_hardware(config: &Config) -> Option<&str> {
    let ports = [&config.bridge.outside, &config.bridge.inside];
    // What is not there yet, opening it says.
    let is_there = |port: &str| xdp::driver(port).is_some();
    ports.into_iter().map(String::as_str).find(|port| is_there(port) && !hardware::is_behind(port))
}

#[cfg(feature = "xdp")]
impl From<&XdpError> for Reason {
    fn from(error: &XdpError) -> Reason {
        Reason { label: error.label(), text: error.to_string() }
    }
}

/// What the XDP plane is opened with; `hash_keys` are random.
#[cfg(feature = "xdp")]
pub fn options(config: &Config, hash_keys: [u64; HASH_KEYS]) -> Options {
    Options {
        outside: config.bridge.outside.clone(),
        inside: config.bridge.inside.clone(),
        max_flows: config.limits.max_flows,
        max_half_open: config.limits.max_half_open,
        attachment: match config.plane.mode {
            // In generic mode the kernel carries along what is still to be done for a frame.
            PlaneMode::Auto if without_hardware(config).is_some() => Attachment::Generic,
            PlaneMode::Auto => Attachment::Auto,
            PlaneMode::Native => Attachment::Native,
            PlaneMode::Generic => Attachment::Generic,
        },
        pin: pin(config),
        hash_keys,
    }
}

/// Removes what a run left in the kernel; what that was, a line each.
///
/// # Errors
/// What cannot be removed.
#[cfg(feature = "xdp")]
pub fn detach(config: &Config) -> Result<Vec<String>, String> {
    pin(config).map_or(Ok(Vec::new()), |pin| xdp::remove(&pin)).map_err(|error| error.to_string())
}

/// Without the XDP plane there is nothing in the kernel that could be found.
///
/// # Errors
/// Always: another build may have left something.
#[cfg(not(feature = "xdp"))]
pub fn detach(_: &Config) -> Result<Vec<String>, String> {
    Err("this build is without the XDP plane and cannot tell what another has left".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(plane: &str) -> Config {
        let text = format!("[bridge]\noutside = \"no-such-a\"\ninside = \"no-such-b\"\n[plane]\n{plane}\n");
        Config::parse("", &text).unwrap()
    }

    #[test]
    fn pins_are_named_after_the_outside_port_unless_the_configuration_says_otherwise() {
        let at = |plane| pin(&config(plane)).map(|pin| pin.display().to_string());
        assert_eq!(at("").as_deref(), Some("/sys/fs/bpf/synwall-no-such-a"));
        assert_eq!(at("pin = \"/mnt/x\"").as_deref(), Some("/mnt/x"));
        assert_eq!(at("pin = \"none\""), None);
    }

    #[test]
    fn pnet_is_chosen_where_it_is_said_and_xdp_where_it_is_built() {
        assert_eq!(choose(&config("kind = \"pnet\"")), Choice::Pnet(None));
        let label = match choose(&config("")) {
            Choice::Xdp => "xdp",
            Choice::Pnet(reason) => reason.unwrap().label,
        };
        assert_eq!(label, if cfg!(feature = "xdp") { "xdp" } else { "not_built" });
    }
}
