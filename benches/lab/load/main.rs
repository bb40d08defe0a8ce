//! The load of the lab's bench, and what its ends and the bare peers need: floods of live XDP frames, XDP programs held on
//! a port, real clients, and a state file full of connections.
//!
//! Whatever touches a port refuses to run unless that port is a veth, in a namespace of the lab that the environment
//! variable `LAB` names. Sources come from 198.18.0.0/15 or 2001:db8::/32 only, outside the lab's own segment. A flood
//! ends after the given time and count, whichever comes first.

#![allow(clippy::disallowed_methods, reason = "a generator needs the time")]

use anyhow::Result;
use clap::Parser;

mod clients;
mod flood;
mod flows;
mod guard;
mod hold;
mod segments;

/// The load of the lab's bench.
#[derive(Parser)]
enum Command {
    /// Sends segments with forged sources into a lab, and counts what comes back.
    Flood(flood::Args),
    /// Holds an XDP program on a port until it is told to end.
    Hold(hold::Args),
    /// Visits a server as real clients do.
    Clients(clients::Args),
    /// Writes a state directory in which synwall finds established connections.
    Flows(flows::Args),
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Flood(args) => flood::run(&args),
        Command::Hold(args) => hold::run(&args),
        Command::Clients(args) => clients::run(&args),
        Command::Flows(args) => flows::run(&args),
    }
}
