//! Clients and servers: plain sockets in threads that have entered a namespace.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::TcpStreamExt;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use sha2::{Digest, Sha256};

use crate::lab::Lab;

/// Longer than any answer may take here.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a server for `count` connections, one after the other, and returns when it listens. Joining it gives what it
/// made of each.
pub(crate) fn serve<T: Send + 'static>(
    lab: &Lab,
    address: SocketAddr,
    count: usize,
    handle: impl Fn(TcpStream) -> T + Send + 'static,
) -> JoinHandle<Vec<T>> {
    let listener = lab.within("server", || TcpListener::bind(address)).unwrap();
    std::thread::spawn(move || {
        listener.incoming().take(count).map(|stream| handle(patient(stream.unwrap()))).collect()
    })
}

/// Connects from within the calling thread's namespace.
pub(crate) fn open(address: SocketAddr) -> Result<TcpStream> {
    TcpStream::connect_timeout(&address, PATIENCE).map(patient)
}

/// Connects from this address and port, which an earlier connection may have left a moment ago.
pub(crate) fn open_from(local: SocketAddr, address: SocketAddr) -> Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(local))?;
    let stream = patient(TcpStream::from(fd));
    connect(stream.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(stream)
}

/// Connects so that the first data travels in the third segment of the handshake: a socket in interactive mode
/// (`TCP_QUICKACK` off) holds its ACK back for it.
pub(crate) fn open_without_a_bare_ack(address: SocketAddr) -> Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let stream = TcpStream::from(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?);
    stream.set_quickack(false)?;
    connect(stream.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(patient(stream))
}

pub(crate) fn address(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse::<IpAddr>().unwrap(), port)
}

/// Asks for the page on an open connection and reads the whole answer.
pub(crate) fn get(stream: &mut TcpStream) -> Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut octet = [0; 512];
    while !answer.ends_with(PAGE.as_bytes()) {
        match stream.read(&mut octet)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            read => answer.extend(&octet[..read]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A client of HTTP/1.0: connects, asks, reads to the end.
pub(crate) fn visit(address: SocketAddr) -> Result<()> {
    let mut stream = open(address)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.ends_with(PAGE) { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

/// Reads exactly this many octets.
pub(crate) fn read(stream: &mut TcpStream, len: usize) -> Result<Vec<u8>> {
    let mut octets = vec![0; len];
    stream.read_exact(&mut octets)?;
    Ok(octets)
}

/// Sends `len` octets that never repeat, ends the stream, and returns their SHA-256.
pub(crate) fn send_hashed(stream: &TcpStream, len: u64) -> Result<String> {
    send_seeded(stream, 1, len)
}

/// Sends octets that never repeat while it `goes_on`, ends the stream, and returns their SHA-256.
pub(crate) fn send_hashed_while(stream: &TcpStream, mut goes_on: impl FnMut() -> bool) -> Result<String> {
    let hash = send_part(stream, octets(1, u64::MAX).take_while(|_| goes_on()))?;
    stream.shutdown(Shutdown::Write)?;
    Ok(hash)
}

/// The same in pieces of so many octets, from a seed.
pub(crate) fn send_pieces_while(
    stream: &TcpStream,
    (seed, piece): (u64, usize),
    mut goes_on: impl FnMut() -> bool,
) -> Result<String> {
    let cut = move |chunk: Vec<u8>| chunk.chunks(piece).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let hash = send_part(stream, octets(seed, u64::MAX).flat_map(cut).take_while(|_| goes_on()))?;
    stream.shutdown(Shutdown::Write)?;
    Ok(hash)
}

/// The same with the octets of a seed, which no other seed gives.
pub(crate) fn send_seeded(stream: &TcpStream, seed: u64, len: u64) -> Result<String> {
    let hash = send_part(stream, octets(seed, len))?;
    stream.shutdown(Shutdown::Write)?;
    Ok(hash)
}

/// The same as [`send_hashed`] with something that happens when half of it was sent.
pub(crate) fn send_halves(stream: &TcpStream, len: u64, between: impl FnOnce()) -> Result<String> {
    let mut between = Some(between);
    let mut sent = 0;
    let chunks = octets(1, len).inspect(|chunk| {
        sent += chunk.len() as u64;
        if sent >= len / 2 {
            between.take().into_iter().for_each(|between| between());
        }
    });
    let hash = send_part(stream, chunks)?;
    stream.shutdown(Shutdown::Write)?;
    Ok(hash)
}

fn send_part(mut stream: &TcpStream, chunks: impl Iterator<Item = Vec<u8>>) -> Result<String> {
    let mut hash = Sha256::new();
    for chunk in chunks {
        hash.update(&chunk);
        stream.write_all(&chunk)?;
    }
    Ok(hex(hash))
}

/// The SHA-256 of what [`send_seeded`] sends.
pub(crate) fn seeded_hash(seed: u64, len: u64) -> String {
    hex(octets(seed, len).fold(Sha256::new(), |hash, chunk| hash.chain_update(&chunk)))
}

/// Reads to the end of the stream: how many octets, and their SHA-256.
pub(crate) fn receive_hashed(stream: &TcpStream) -> Result<(u64, String)> {
    receive_halves(stream, u64::MAX, || {})
}

/// The same with something that happens when half of `expected` has come.
pub(crate) fn receive_halves(
    mut stream: &TcpStream,
    expected: u64,
    between: impl FnOnce(),
) -> Result<(u64, String)> {
    let mut hash = Sha256::new();
    let (mut len, mut chunk) = (0, vec![0; CHUNK]);
    let mut between = Some(between);
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok((len, hex(hash))),
            read => {
                hash.update(&chunk[..read]);
                len += read as u64;
            }
        }
        if len >= expected / 2 {
            between.take().into_iter().for_each(|between| between());
        }
    }
}

/// `len` octets in chunks, those of xorshift64 from a seed.
fn octets(seed: u64, len: u64) -> impl Iterator<Item = Vec<u8>> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut left = usize::try_from(len).unwrap();
    std::iter::from_fn(move || {
        let len = left.min(CHUNK);
        left -= len;
        let mut chunk = Vec::with_capacity(len + 8);
        while chunk.len() < len {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.extend_from_slice(&state.to_le_bytes());
        }
        chunk.truncate(len);
        (len > 0).then_some(chunk)
    })
}

/// Nothing takes longer than [`PATIENCE`].
pub(crate) fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|octet| format!("{octet:02x}")).collect()
}

/// What nginx serves at `/`.
const PAGE: &str = "served by the server itself\n";
const CHUNK: usize = 256 << 10;
