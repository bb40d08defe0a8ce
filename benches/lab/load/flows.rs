//! A state file full of established connections, as synwall leaves one behind when it stops: the way to a million flows
//! without a million clients. Their segments are those that `flood --kinds established` sends.

use std::fs::DirBuilder;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Result;
use synwall::control::state::format::{Encoder, Header};
use synwall::engine::export::{FlowKey, LinkHeader, SavedEnd, SavedFlow, SavedService, SavedServices};

use crate::segments::{CLIENT_MAC, SERVER_MAC, SERVER4};

/// How many, and where.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The state directory, which is made.
    directory: PathBuf,
    /// How many connections.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// The name of their service.
    #[arg(long, default_value = "web")]
    service: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let header = Header { is_final: true, unix: UNIX_EPOCH.elapsed()?, ..Header::default() };
    let service = SavedService { name: args.service.clone(), learned: 0, promised: [7, 7] };
    let mut file = Encoder::new(&header, &SavedServices { epoch: None, services: vec![service] });
    (0..args.count).for_each(|number| file.flow(&flow(number)));
    DirBuilder::new().mode(0o700).recursive(true).create(&args.directory)?;
    std::fs::write(args.directory.join("flows"), file.finish())?;
    Ok(())
}

fn flow(number: u32) -> SavedFlow {
    let (address, port) = tuple(number);
    let (client_next, server_next) = (CLIENT_ISS + 1, COOKIE_NEXT + DELTA);
    let end = |next: u32, acked: u32| SavedEnd {
        is_known: true,
        next,
        acked,
        // All that the load sends lies within.
        edge: acked + WINDOW,
        max_window: WINDOW,
        fin: None,
    };
    let link = [SERVER_MAC, CLIENT_MAC].concat().into_iter().chain([0x08, 0x00]).collect::<Vec<_>>();
    SavedFlow {
        key: FlowKey::new(address.into(), port, SERVER4.into(), 80),
        service: 0,
        idle: Duration::ZERO,
        state: 0,
        is_direct: false,
        client_iss: CLIENT_ISS,
        server_iss: 0,
        client_tsval: Some(CLIENT_TSVAL),
        delta: DELTA,
        ts_delta: TS_DELTA,
        clock: [0, u32::MAX],
        server_window: [14, 14],
        client_window: [14, 14],
        strips_sack: false,
        strips_ecn: false,
        client: end(client_next, server_next),
        server: end(server_next, client_next),
        link: LinkHeader::of(&link, link.len()),
    }
}

/// The client of a connection: see `name_flow` in the BPF program.
fn tuple(number: u32) -> (Ipv4Addr, u16) {
    (Ipv4Addr::from(0xc613_0000 | number & 0xffff), 20_000 + (number >> 16) as u16)
}

/// The client's ISS in every connection.
pub(crate) const CLIENT_ISS: u32 = 0x1000_0000;
/// What the client acknowledges, in the cookie's numbers.
pub(crate) const COOKIE_NEXT: u32 = 0x2000_0001;
/// TSval of the client.
pub(crate) const CLIENT_TSVAL: u32 = 1_000_000;
/// What the client echoes, in the cookie's times.
pub(crate) const COOKIE_TSVAL: u32 = 2_000_000;
const DELTA: u32 = 0x0102_0304;
const TS_DELTA: u32 = 0x0506_0708;
const WINDOW: u32 = 1 << 29;
