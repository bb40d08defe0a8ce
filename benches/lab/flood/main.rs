//! A bounded SYN flood for the lab: what hping3 does, some times faster, so that the box is the bottleneck and not the
//! generator.
//!
//! It refuses to run unless its namespace is the attacker's (or, where there is none, the client's) of the lab named by
//! the environment variable `LAB`, and its device a veth. Sources come from 198.18.0.0/15 or 2001:db8::/32 only, outside
//! the lab's own segment. It ends after the given time and count, whichever comes first.

#![allow(clippy::disallowed_methods, reason = "a generator needs the time")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use synwall::wire::build::SegmentSpec;
use synwall::wire::ethernet::LinkHeader;
use synwall::wire::seq::SeqNumber;
use synwall::wire::tcp::Flags;
use synwall::wire::tcp_options::SynOptions;

mod sys;

/// Sends SYNs with forged sources into a lab.
#[derive(Parser)]
struct Args {
    /// The veth to send on.
    device: String,
    /// The address under attack.
    destination: IpAddr,
    /// Its port.
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// The MAC address to send to.
    #[arg(long, default_value = "02:53:57:00:00:02")]
    mac: String,
    /// Ends after this many seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// Ends after this many segments.
    #[arg(long, default_value_t = 100_000_000)]
    count: u64,
    /// At most this many segments a second; 0 for as many as go.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Sends bare ACKs with guessed cookies instead of SYNs.
    #[arg(long)]
    ack: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    refuse_outside_the_lab(&args.device)?;
    let frames: Vec<Vec<u8>> = (0..DISTINCT).map(|number| forge(&args, number)).collect::<Result<_>>()?;
    let mut sender = sys::Sender::open(&args.device, &frames)?;

    let begun = Instant::now();
    let limit = Duration::from_secs(args.seconds);
    let mut sent = 0;
    while sent < args.count && begun.elapsed() < limit {
        if args.rate != 0 && sent > begun.elapsed().as_millis() as u64 * args.rate / 1000 {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        sent += sender.send_batch()?;
    }
    println!("{sent} {:.3}", begun.elapsed().as_secs_f64());
    Ok(())
}

/// A flood must not leave the lab, whatever the command line says.
fn refuse_outside_the_lab(device: &str) -> Result<()> {
    let lab = std::env::var("LAB").context("LAB is not set: this runs inside a lab only")?;
    ensure!(!lab.is_empty(), "LAB is empty");
    let here = std::fs::metadata("/proc/thread-self/ns/net")?;
    let is_lab = ["attacker", "client"].iter().any(|role| {
        std::fs::metadata(format!("/run/netns/{lab}-{role}"))
            .is_ok_and(|there| (there.dev(), there.ino()) == (here.dev(), here.ino()))
    });
    ensure!(is_lab, "this is not the namespace {lab}-attacker or {lab}-client");
    let link = Command::new("ip").args(["-details", "-oneline", "link", "show", "dev", device]).output()?;
    ensure!(
        String::from_utf8_lossy(&link.stdout).split_whitespace().any(|word| word == "veth"),
        "{device} is not a veth"
    );
    Ok(())
}

/// The `number`-th of the distinct segments, a SYN as Linux sends it.
fn forge(args: &Args, number: u32) -> Result<Vec<u8>> {
    let random = mix(number);
    let (source, ethertype): (IpAddr, [u8; 2]) = match args.destination {
        IpAddr::V4(_) => {
            // 198.18.0.0/15 without 198.18.255.0/24, where the lab itself lives.
            let host = random % (1 << 17);
            let host = if host >> 8 == 0xff { host ^ (1 << 16) } else { host };
            (Ipv4Addr::from(0xc612_0000 | host).into(), [0x08, 0x00])
        }
        IpAddr::V6(_) => {
            let net = 0x1000 | random as u16 & 0xfff;
            (Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, (random >> 16) as u16, 1).into(), [0x86, 0xdd])
        }
    };
    let link = [&parse_mac(&args.mac)?, &[2, 0x53, 0x57, 0, 0, 0x66], &ethertype[..]].concat();
    let spec = SegmentSpec {
        link: LinkHeader::of(&link, link.len()),
        source,
        destination: args.destination,
        hop_limit: 64,
        source_port: 1024 + (mix(random) % 64_000) as u16,
        destination_port: args.port,
        seq: SeqNumber(mix(random ^ 0x5eed)),
        ack: args.ack.then_some(SeqNumber(mix(random ^ 0xacc))),
        flags: if args.ack { Flags(0) } else { Flags::SYN },
        window: 64_240,
        urgent: None,
        options: match args.ack {
            true => SynOptions::default(),
            false => {
                SynOptions { mss: Some(1460), wscale: Some(7), sack: true, timestamps: Some((number, 0)) }
            }
        },
        payload: &[],
    };
    let mut frame = vec![0; spec.room()];
    let len = spec.write(&mut frame);
    ensure!(len > 0, "a segment that cannot be built");
    frame.truncate(len);
    Ok(frame)
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let octets: Vec<u8> = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16))
        .collect::<Result<_, _>>()
        .with_context(|| format!("{text}: not a MAC address"))?;
    match octets.try_into() {
        Ok(mac) => Ok(mac),
        Err(_) => bail!("{text}: not a MAC address"),
    }
}

/// Scatters (the finaliser of MurmurHash3): distinct numbers stay distinct.
fn mix(number: u32) -> u32 {
    let number = (number ^ (number >> 16)).wrapping_mul(0x85eb_ca6b);
    let number = (number ^ (number >> 13)).wrapping_mul(0xc2b2_ae35);
    number ^ (number >> 16)
}

/// Distinct segments, sent round and round; far more than any backlog holds.
const DISTINCT: u32 = 1 << 16;
