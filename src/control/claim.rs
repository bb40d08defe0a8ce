//! One synwall a port: two on the same port would carry every frame twice.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use thiserror::Error;

/// Why a port cannot be had.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// Another process has it.
    #[error("port {0} belongs to another synwall that runs: stop that one, or choose another port")]
    Taken(String),
    /// The system refused.
    #[error("port {port} cannot be claimed: {error}")]
    System {
        /// The interface.
        port: String,
        /// What the system answered.
        error: io::Error,
    },
}

/// The claim on a port; it ends with the value, or with the process, however that ends.
#[derive(Debug)]
pub struct Claim {
    _socket: UnixListener,
}

impl Claim {
    /// Claims the interface `port` among the processes of this network namespace.
    ///
    /// # Errors
    /// Another synwall has it.
    pub fn new(port: &str) -> Result<Claim, ClaimError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => ClaimError::Taken(port.to_owned()),
            _ => ClaimError::System { port: port.to_owned(), error },
        };
        // The kernel keeps abstract names by network namespace, as it does interfaces; no file is left behind.
        let address = SocketAddr::from_abstract_name(format!("synwall/port/{port}")).map_err(failed)?;
        Ok(Claim { _socket: UnixListener::bind_addr(&address).map_err(failed)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_claimed_once_and_free_again_afterwards() {
        let first = Claim::new("unit-test").unwrap();
        assert!(matches!(Claim::new("unit-test"), Err(ClaimError::Taken(port)) if port == "unit-test"));
        drop(first);
        assert!(Claim::new("unit-test").is_ok());
    }
}
