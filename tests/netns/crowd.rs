//! Many clients at a time, each of which sends and receives a stream of its own.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};

use crate::lab::Lab;
use crate::traffic::{receive_hashed, seeded_hash, send_seeded};

/// So many connections, so many of them open at a time, so many octets each way on each.
#[derive(Clone, Copy)]
pub(crate) struct Crowd {
    pub(crate) connections: u64,
    pub(crate) at_once: u64,
    pub(crate) octets: u64,
}

/// How it went.
pub(crate) struct Visit {
    /// What failed, on either side.
    pub(crate) failed: Vec<String>,
    /// How long each connection took that did not, from the shortest to the longest.
    pub(crate) times: Vec<Duration>,
}

impl Crowd {
    /// Sends it to the server.
    pub(crate) fn visit(self, lab: &Lab, address: SocketAddr) -> Visit {
        let listener = lab.within("server", || open_listener(address)).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let server = lab.spawn("server", {
            let is_over = is_over.clone();
            move || self.serve(&listener, &is_over)
        });
        let next = Arc::new(AtomicU64::new(0));
        let clients: Vec<_> = (0..self.at_once)
            .map(|_| {
                let next = next.clone();
                lab.spawn("client", move || self.come(&next, address))
            })
            .collect();
        let mut visit = Visit { failed: Vec::new(), times: Vec::new() };
        for result in clients.into_iter().flat_map(|client| client.join().unwrap()) {
            match result {
                Ok(time) => visit.times.push(time),
                Err(what) => visit.failed.push(what),
            }
        }
        visit.times.sort();
        is_over.store(true, Ordering::Relaxed);
        let served = server.join().unwrap();
        if served != self.connections {
            visit.failed.push(format!("the server got {served} of {} streams whole", self.connections));
        }
        visit
    }

    /// One connection after the other, until all of the crowd have been opened.
    fn come(self, next: &AtomicU64, address: SocketAddr) -> Vec<std::result::Result<Duration, String>> {
        let numbers = std::iter::from_fn(|| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            (number < self.connections).then_some(number)
        });
        numbers
            .map(|number| {
                let begun = Instant::now();
                self.exchange(number, address).map_err(|error| format!("connection {number}: {error}"))?;
                Ok(begun.elapsed())
            })
            .collect()
    }

    fn exchange(self, number: u64, address: SocketAddr) -> Result<()> {
        let mut stream = patient(TcpStream::connect_timeout(&address, PATIENCE)?);
        stream.write_all(&number.to_be_bytes())?;
        send_seeded(&stream, number, self.octets)?;
        self.expect(&stream, !number)
    }

    /// Serves until it is over and nobody is left; returns how many streams arrived whole.
    fn serve(self, listener: &TcpListener, is_over: &AtomicBool) -> u64 {
        let whole = AtomicU64::new(0);
        listener.set_nonblocking(true).unwrap();
        std::thread::scope(|scope| {
            while !is_over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let whole = &whole;
                        scope.spawn(move || {
                            if self.answer(patient(stream)).is_ok() {
                                whole.fetch_add(1, Ordering::Relaxed);
                            }
                        });
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        whole.into_inner()
    }

    fn answer(self, mut stream: TcpStream) -> Result<()> {
        let mut number = [0; 8];
        stream.read_exact(&mut number)?;
        let number = u64::from_be_bytes(number);
        self.expect(&stream, number)?;
        send_seeded(&stream, !number, self.octets).map(drop)
    }

    fn expect(self, stream: &TcpStream, seed: u64) -> Result<()> {
        let received = receive_hashed(stream)?;
        if received == (self.octets, seeded_hash(seed, self.octets)) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidData, format!("{} octets, not those that were sent", received.0)))
    }
}

/// A listener whose backlog holds a crowd; the one of std does not.
pub(crate) fn open_listener(address: SocketAddr) -> Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(1024)?)?;
    Ok(fd.into())
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Retransmission timeouts double: under loss a connection can pause for long without being lost.
const PATIENCE: Duration = Duration::from_secs(120);
