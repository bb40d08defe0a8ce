//! Real clients: each opens a connection, asks for a page, and must get it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use serde_json::json;

/// Whom they visit, and how many they are.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The server's address and port.
    server: SocketAddrV4,
    /// How many clients.
    #[arg(long, default_value_t = 10_000)]
    count: u64,
    /// How many at a time, at most.
    #[arg(long, default_value_t = 64)]
    at_once: u64,
    /// How many a second come.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// How long each waits, in seconds.
    #[arg(long, default_value_t = 10)]
    timeout: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (next, begun) = (AtomicU64::new(0), Instant::now());
    let next_visit = || {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let due = Duration::from_nanos(number.saturating_mul(1_000_000_000) / args.rate);
        (number < args.count).then(|| {
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
            visit(args, number).ok()
        })
    };
    let come = || std::iter::from_fn(next_visit).collect::<Vec<_>>();
    let results: Vec<Option<Duration>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.at_once).map(|_| scope.spawn(come)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    });
    let mut times: Vec<_> = results.iter().flatten().copied().collect();
    times.sort_unstable();
    let rank = |per_mille: usize| {
        times
            .get((times.len() * per_mille / 1000).min(times.len().saturating_sub(1)))
            .map(Duration::as_secs_f64)
    };
    let report = json!({
        "clients": args.count, "served": times.len(), "p50": rank(500), "p99": rank(990), "max": rank(1000),
    });
    println!("{report}");
    Ok(())
}

/// How long connecting took, for a client that got its page.
fn visit(args: &Args, number: u64) -> Result<Duration> {
    let stream = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let timeout = TimeVal::new(i64::try_from(args.timeout)?, 0);
    setsockopt(&stream, sockopt::SendTimeout, &timeout)?;
    setsockopt(&stream, sockopt::ReceiveTimeout, &timeout)?;
    let [a, b, c, first] = FIRST_CLIENT.octets();
    let own = Ipv4Addr::new(a, b, c, first + u8::try_from(number % CLIENTS)?);
    bind(stream.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(own, 0)))?;
    let begun = Instant::now();
    connect(stream.as_raw_fd(), &SockaddrIn::from(args.server))?;
    let connected = begun.elapsed();
    let mut stream = TcpStream::from(stream);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("no answer")?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "not the page");
    Ok(connected)
}

/// Where the clients are, as the suite has routed it.
const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 255, 128);
const CLIENTS: u64 = 128;
