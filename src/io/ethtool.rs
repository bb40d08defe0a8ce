//! What a driver says of an interface, and takes to be told: ethtool's ioctl, in the process's own network namespace.

mod sys;

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `ETHTOOL_GFLAGS`, which asks for flags `ETH_FLAG_*`.
pub const FLAGS: u32 = 0x25;

/// A socket to ask with; any one does.
pub struct Ethtool(OwnedFd);

impl Ethtool {
    /// Asks in the present network namespace.
    ///
    /// # Errors
    /// The system gives no socket.
    pub fn open() -> io::Result<Ethtool> {
        Ok(Ethtool(socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?))
    }

    /// The value that `command` (`ETHTOOL_G…`) asks for.
    ///
    /// # Errors
    /// There is no such interface, or its driver cannot tell.
    pub fn value(&self, interface: &str, command: u32) -> io::Result<u32> {
        let mut value = sys::Value { command, data: 0 };
        sys::ethtool(&self.0, interface, &mut value)?;
        Ok(value.data)
    }

    /// Sets the flags `ETH_FLAG_*`.
    ///
    /// # Errors
    /// The driver, or the lack of a privilege, forbids it.
    pub fn set_flags(&self, interface: &str, flags: u32) -> io::Result<()> {
        sys::ethtool(&self.0, interface, &mut sys::Value { command: SET_FLAGS, data: flags })
    }

    /// The name of the driver.
    ///
    /// # Errors
    /// There is no such interface, or it has no driver.
    pub fn driver(&self, interface: &str) -> io::Result<String> {
        let mut info = sys::DriverInfo { command: DRIVER_INFO, driver: [0; 32], rest: [0; 160] };
        sys::ethtool(&self.0, interface, &mut info)?;
        let name = info.driver.iter().take_while(|octet| **octet != 0).copied().collect();
        String::from_utf8(name).map_err(io::Error::other)
    }
}

const SET_FLAGS: u32 = 0x26;
const DRIVER_INFO: u32 = 3;
