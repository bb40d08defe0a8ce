//! What keeps the XDP plane from running, in the operator's words.

use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;

/// Why the plane cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// No privilege.
    #[error(
        "no permission to load XDP programs: {0}; run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    Permission(String),
    /// The kernel does not take the maps.
    #[error(
        "the kernel does not make the maps of the XDP program: {0}; Linux 5.15 or later has all that it takes"
    )]
    Maps(String),
    /// The kernel does not take the program.
    #[error("the kernel refuses the XDP program {program}: {reason}")]
    Program {
        /// Which of the two.
        program: &'static str,
        /// The error, and the verifier's last words.
        reason: String,
    },
    /// There is no such interface.
    #[error("there is no interface {interface:?} here: {reason}")]
    NoInterface {
        /// Its name.
        interface: String,
        /// What the kernel said.
        reason: String,
    },
    /// Somebody else's program is there.
    #[error(
        "another XDP program is attached to {interface}; remove it with `ip link set dev {interface} xdp off`"
    )]
    Taken {
        /// The interface.
        interface: String,
    },
    /// The program cannot be attached.
    #[error("the XDP program cannot be attached to {interface} in {mode} mode: {reason}")]
    Attach {
        /// The interface.
        interface: String,
        /// Native or generic.
        mode: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// VLAN tags would be taken off before the program sees a frame.
    #[error("{interface} takes VLAN tags off (rx-vlan-offload), which cannot be turned off: {reason}")]
    VlanOffload {
        /// The interface.
        interface: String,
        /// What the kernel said.
        reason: String,
    },
    /// The BPF file system.
    #[error("{path}: {reason}; mount a bpffs there, or set [plane] pin", path = .path.display())]
    FileSystem {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// What an earlier run left cannot be taken away.
    #[error("{path} cannot be removed: {reason}", path = .path.display())]
    Remove {
        /// What.
        path: PathBuf,
        /// What the kernel said.
        reason: String,
    },
}

impl XdpError {
    /// A word for the metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            XdpError::Permission(_) => "permission",
            XdpError::Maps(_) => "maps",
            XdpError::Program { .. } => "program",
            XdpError::NoInterface { .. } => "interface",
            XdpError::Taken { .. } => "taken",
            XdpError::Attach { .. } => "attach",
            XdpError::VlanOffload { .. } => "vlan_offload",
            XdpError::FileSystem { .. } => "bpffs",
            XdpError::Remove { .. } => "remove",
        }
    }

    pub(super) fn of_loading(error: &EbpfError) -> XdpError {
        if is_forbidden(error) { XdpError::Permission(chain(error)) } else { XdpError::Maps(chain(error)) }
    }

    pub(super) fn of_map(error: &MapError) -> XdpError {
        XdpError::Maps(chain(error))
    }

    pub(super) fn of_program(program: &'static str, error: &ProgramError) -> XdpError {
        let reason = match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                let log = verifier_log.to_string();
                let last = last_words(&log);
                if last.is_empty() { io_error.to_string() } else { format!("{io_error}: {last}") }
            }
            other => chain(other),
        };
        if is_forbidden(error) { XdpError::Permission(reason) } else { XdpError::Program { program, reason } }
    }

    pub(super) fn of_attaching(interface: &str, mode: &'static str, error: &ProgramError) -> XdpError {
        let interface = interface.to_owned();
        match errno(error) {
            Some(libc::EBUSY) => XdpError::Taken { interface },
            _ => XdpError::Attach { interface, mode, reason: chain(error) },
        }
    }

    pub(super) fn of_link(interface: &str, mode: &'static str, error: &LinkError) -> XdpError {
        XdpError::Attach { interface: interface.to_owned(), mode, reason: chain(error) }
    }
}

/// The verifier's last line but for its statistics.
fn last_words(log: &str) -> &str {
    let is_figure = |line: &&str| {
        line.starts_with("processed ")
            || line.starts_with("verification time")
            || line.starts_with("stack depth")
    };
    log.lines().map(str::trim).rfind(|line| !line.is_empty() && !is_figure(line)).unwrap_or("")
}

/// An error and what caused it, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let said = source.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = source.source();
    }
    text
}

fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<std::io::Error>()?.raw_os_error())
}

fn is_forbidden(error: &(dyn std::error::Error + 'static)) -> bool {
    errno(error) == Some(libc::EPERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifier_s_last_words_are_what_it_complains_about() {
        let log = "0: (b7) r0 = 1\nR1 invalid mem access 'inv'\nverification time 3 usec\nstack depth 0\nprocessed 5 insns (limit 1000000)\n\n";
        assert_eq!(last_words(log), "R1 invalid mem access 'inv'");
        assert_eq!(last_words(""), "");
    }
}
