//! Opens the sockets of all workers on both ports, or none.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
use pnet::datalink::{self, Channel, NetworkInterface};
use thiserror::Error;

use super::filter;
use super::lane::Lane;
use super::sys::{self, Ring};
use crate::wire::buffer::OFFLOAD_HEADER_LEN;
use crate::wire::cut::MAX_SUPER_FRAME_LEN;

/// Why the ports could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Neither port has this name.
    #[error(
        "there is no interface \"{name}\" here; `ip link` lists those there are, and [bridge] names two of them"
    )]
    NoSuchInterface {
        /// The name as configured.
        name: String,
    },
    /// Both ports are the same interface.
    #[error("outside and inside are both \"{name}\": a bridge needs two different interfaces")]
    SameInterface {
        /// The name as configured.
        name: String,
    },
    /// The interface carries no Ethernet frames.
    #[error(
        "interface \"{name}\" is not Ethernet (link type {link_type}): loopback, tunnels and the like cannot be bridged"
    )]
    NotEthernet {
        /// The name as configured.
        name: String,
        /// Its `ARPHRD_*` number.
        link_type: u16,
    },
    /// The interface is administratively down.
    #[error("interface \"{name}\" is down; bring it up with `ip link set {name} up`")]
    InterfaceDown {
        /// The name as configured.
        name: String,
    },
    /// The process may not open packet sockets.
    #[error(
        "no permission to open a packet socket: run as root or with CAP_NET_RAW (systemd: AmbientCapabilities=CAP_NET_RAW)"
    )]
    NoPermission,
    /// No workers, or more than a fanout group takes.
    #[error("{workers} workers: between 1 and {MAX_WORKERS} are possible")]
    WorkerCount {
        /// The number asked for.
        workers: usize,
    },
    /// The system refused something else.
    #[error("cannot {action} on interface \"{name}\": {error}")]
    System {
        /// What was attempted.
        action: &'static str,
        /// The name as configured.
        name: String,
        /// What the system answered.
        error: io::Error,
    },
}

/// The most workers: what a fanout group takes on every kernel.
pub const MAX_WORKERS: usize = 256;

/// An interface that can be a port.
#[derive(Clone, Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: i32,
    for_pnet: NetworkInterface,
}

impl Interface {
    /// Looks up `outside` and `inside`.
    pub(super) fn pair(outside: &str, inside: &str) -> Result<[Interface; 2], OpenError> {
        if outside == inside {
            return Err(OpenError::SameInterface { name: outside.to_owned() });
        }
        Ok([Interface::find(outside)?, Interface::find(inside)?])
    }

    fn find(name: &str) -> Result<Interface, OpenError> {
        let failed = |error| OpenError::System { action: "list addresses", name: name.to_owned(), error };
        let found = getifaddrs()
            .map_err(|error| failed(error.into()))?
            .filter(|entry| entry.interface_name == name)
            .find_map(|entry| Some((entry.flags, *entry.address?.as_link_addr()?)));
        let Some((flags, link)) = found else {
            return Err(OpenError::NoSuchInterface { name: name.to_owned() });
        };
        if link.hatype() != libc::ARPHRD_ETHER {
            return Err(OpenError::NotEthernet { name: name.to_owned(), link_type: link.hatype() });
        }
        if flags.bits() & libc::IFF_UP == 0 {
            return Err(OpenError::InterfaceDown { name: name.to_owned() });
        }
        let for_pnet = NetworkInterface {
            name: name.to_owned(),
            description: String::new(),
            index: u32::try_from(link.ifindex()).map_err(|error| failed(io::Error::other(error)))?,
            mac: link.addr().map(Into::into),
            ips: Vec::new(),
            flags: flags.bits().cast_unsigned(),
        };
        let index = i32::try_from(link.ifindex()).map_err(|error| failed(io::Error::other(error)))?;
        Ok(Interface { name: name.to_owned(), index, for_pnet })
    }

    fn error(&self, action: &'static str, error: io::Error) -> OpenError {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM | Errno::EACCES) => OpenError::NoPermission,
            Some(Errno::ENODEV | Errno::ENXIO) => OpenError::NoSuchInterface { name: self.name.clone() },
            Some(Errno::ENETDOWN) => OpenError::InterfaceDown { name: self.name.clone() },
            _ => OpenError::System { action, name: self.name.clone(), error },
        }
    }
}

/// The socket of one worker on one port, which takes no frames yet.
pub(super) fn lane(interface: &Interface, workers: usize) -> Result<Lane, OpenError> {
    let socket = deaf_socket().map_err(|error| interface.error("open a packet socket", error))?;
    let ring = Ring::map(socket.as_fd(), ring_slots(workers))
        .map_err(|error| interface.error("map a receive ring", error))?;
    let control = socket.try_clone().map_err(|error| interface.error("duplicate a socket", error))?;
    let config = datalink::Config {
        // pnet transmits from the caller's slice; its own write buffer is only for `build_and_send`.
        write_buffer_size: 0,
        read_buffer_size: READ_BUFFER_LEN,
        // Neither direction may block a worker: reading is announced by `wait`, and a frame that the socket has no room
        // for is dropped, as on a wire that is full.
        read_timeout: Some(Duration::ZERO),
        write_timeout: Some(Duration::ZERO),
        promiscuous: true,
        // pnet owns this descriptor from here on, and closes it on an error too.
        socket_fd: Some(socket.into_raw_fd()),
        ..datalink::Config::default()
    };
    match datalink::channel(&interface.for_pnet, config) {
        Ok(Channel::Ethernet(sender, receiver)) => Ok(Lane::new(control, sender, receiver, ring)),
        Ok(_) => Err(interface.error("open an Ethernet channel", io::ErrorKind::Unsupported.into())),
        Err(error) => Err(interface.error("open an Ethernet channel", error)),
    }
}

/// A packet socket that is bound to nothing and takes no frame.
fn deaf_socket() -> io::Result<OwnedFd> {
    // Protocol 0: it receives nothing before it is bound.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    sys::attach_filter(socket.as_fd(), &filter::nothing())?;
    sys::set_packet_option(socket.as_fd(), libc::PACKET_IGNORE_OUTGOING, 1)?;
    sys::set_packet_option(socket.as_fd(), libc::PACKET_VNET_HDR, 1)?;
    set_queue_lengths(socket.as_fd());
    Ok(socket)
}

/// Asks for long queues. They need CAP_NET_ADMIN beyond the system's limits; without it the limits have to do.
fn set_queue_lengths(socket: BorrowedFd<'_>) {
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_QUEUE).is_err() {
        let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_QUEUE);
    }
    if setsockopt(&socket, sockopt::SndBufForce, &SEND_QUEUE).is_err() {
        let _ = setsockopt(&socket, sockopt::SndBuf, &SEND_QUEUE);
    }
}

/// Joins `sockets`, in order, to a fanout group of their own that divides flows by a hash of addresses and ports. The
/// hash is the same in both directions, and so is the order on both ports: a flow's two directions meet in one worker.
pub(super) fn share_by_flow(interface: &Interface, sockets: &[BorrowedFd<'_>]) -> Result<(), OpenError> {
    let [first, others @ ..] = sockets else { return Ok(()) };
    if others.is_empty() {
        return Ok(());
    }
    let join = || -> io::Result<()> {
        let kind = (libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING) << 16;
        let unique = libc::PACKET_FANOUT_FLAG_UNIQUEID << 16;
        sys::set_packet_option(*first, libc::PACKET_FANOUT, kind | unique)?;
        let [group] = sys::packet_option(*first, libc::PACKET_FANOUT)?;
        let id = group & 0xffff;
        others.iter().try_for_each(|socket| sys::set_packet_option(*socket, libc::PACKET_FANOUT, kind | id))
    };
    join().map_err(|error| interface.error("share the load among workers (packet fanout)", error))
}

/// Lets a socket take the frames it is for.
pub(super) fn listen(interface: &Interface, socket: BorrowedFd<'_>) -> Result<(), OpenError> {
    sys::attach_filter(socket, &filter::incoming()).map_err(|error| interface.error("attach a filter", error))
}

/// Longer than the longest super-frame, so that a frame that was cut off is not taken for a whole one.
pub(super) const READ_BUFFER_LEN: usize = OFFLOAD_HEADER_LEN + MAX_SUPER_FRAME_LEN + 64;

/// Frames that may wait for one of `workers` workers: 32 MiB a port for all of them, but at least 4 MiB each. That
/// bridges the some ten milliseconds for which a worker may lose its core; a longer queue would only make the real
/// clients in it wait.
fn ring_slots(workers: usize) -> usize {
    let share = SLOTS_OF_A_PORT.checked_div(workers).unwrap_or(SLOTS_OF_A_PORT);
    share.max(SLOTS_OF_A_WORKER) & !(SLOTS_OF_A_BLOCK - 1)
}

const SLOTS_OF_A_PORT: usize = 16_384;
const SLOTS_OF_A_WORKER: usize = 2048;
/// The kernel takes rings of whole blocks of 64 KiB.
const SLOTS_OF_A_BLOCK: usize = 32;

/// Octets of long frames that wait in a socket for its worker, 32 MiB as the kernel counts: some 400 super-frames.
const RECEIVE_QUEUE: usize = 16 << 20;

/// Octets on their way out of a socket, 8 MiB as the kernel counts, of which it lets half be used: 40 super-frames.
const SEND_QUEUE: usize = 4 << 20;
