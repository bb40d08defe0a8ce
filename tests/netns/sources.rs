//! Many source addresses in one namespace.

use std::io::Result;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::lab::Lab;

/// An IPv4 prefix of which a namespace has every address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sources {
    first: u32,
    count: u32,
}

impl Sources {
    /// Gives all addresses of `prefix` to whoever the server sends what it has no route for: the attacker, or the client if
    /// there is none.
    pub(crate) fn of_attacker(lab: &Lab, namespace: &str, prefix: &str) -> Sources {
        lab.run(namespace, &["nft", "insert rule netdev lab ingress ip daddr", prefix, "accept"]);
        Sources::own(lab, namespace, prefix)
    }

    /// Gives all addresses of `prefix` to the client beside an attacker.
    pub(crate) fn of_client(lab: &Lab, prefix: &str) -> Sources {
        lab.run("server", &["ip", "route", "add", prefix, "via", "198.18.255.10"]);
        Sources::own(lab, "client", prefix)
    }

    fn own(lab: &Lab, namespace: &str, prefix: &str) -> Sources {
        let (first, len) = prefix.split_once('/').unwrap();
        let first = u32::from(first.parse::<Ipv4Addr>().unwrap());
        lab.run(namespace, &["ip", "route", "add", "local", prefix, "dev", "lo"]);
        Sources { first, count: 1 << (32 - len.parse::<u32>().unwrap()) }
    }

    /// The address with this number.
    pub(crate) fn address(self, number: u32) -> Ipv4Addr {
        assert!(number < self.count);
        Ipv4Addr::from(self.first + number)
    }

    /// Whether `address` is one of them.
    pub(crate) fn contains(self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(v4) if (self.first..self.first + self.count).contains(&u32::from(v4)))
    }
}

/// Connects from `source`, within the calling thread's namespace; the connection ends by RST, so that no port stays taken.
pub(crate) fn connect_from(source: Ipv4Addr, server: SocketAddr) -> Result<TcpStream> {
    connect_within(source.into(), server, Duration::from_secs(20))
}

/// The same over either family; nothing may take longer than `limit`.
pub(crate) fn connect_within(source: IpAddr, server: SocketAddr, limit: Duration) -> Result<TcpStream> {
    let fd = bound(source)?;
    let micros = i64::try_from(limit.as_micros()).unwrap();
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::microseconds(micros))?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(server))?;
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(limit))?;
    Ok(stream)
}

fn bound(source: IpAddr) -> Result<OwnedFd> {
    let family = if source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&fd, sockopt::Linger, &at_once)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::from((source, 0))))?;
    Ok(fd)
}
