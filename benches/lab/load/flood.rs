//! A flood of live frames: the kernel runs the BPF program for each, and hands what it makes to the veth.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::Array;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use nix::net::if_::if_nametoindex;
use serde_json::json;

use crate::guard::refuse_outside_the_lab;
use crate::hold::{Counter, program};
use crate::segments::{Kind, ROOM, Template, parse_mac};

/// What is sent, how fast and for how long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The veth to send on.
    device: String,
    /// What is sent, in turns: up to eight.
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    kinds: Vec<Kind>,
    /// The server's port.
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// The MAC address to send to.
    #[arg(long, default_value = "02:53:57:00:00:02")]
    mac: String,
    /// Ends after this many seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// Ends after this many segments.
    #[arg(long, default_value_t = 1_000_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    count: u64,
    /// At most this many segments a second; 0 for as many as go.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// How many established connections there are.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    flows: u64,
    /// Leaves what comes back to a counter that is held already.
    #[arg(long)]
    no_count: bool,
    /// Where the BPF programs are.
    #[arg(long)]
    objects: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    refuse_outside_the_lab(&args.device, &["attacker", "client"])?;
    let counter = match args.no_count {
        true => None,
        false => Some(Counter::attach(&args.objects, &args.device)?),
    };
    let mut objects = Ebpf::load_file(args.objects.join("generate.bpf.o"))?;
    prepare(&mut objects, args)?;
    program(&mut objects, "generate")?.load()?;
    let begun = Instant::now();
    let sent = send(&objects, args)?;
    let seconds = begun.elapsed().as_secs_f64();
    let [_, syn_acks, resets, others] = counter.map_or(Ok([0; 4]), |counter| counter.settled())?;
    let report = json!({
        "sent": sent, "seconds": seconds, "syn_acks": syn_acks, "resets": resets, "others": others,
    });
    println!("{report}");
    Ok(())
}

/// Lets the kernel send until the time or the count is over, and returns how many it sent.
fn send(objects: &Ebpf, args: &Args) -> Result<u64> {
    let generator: &Xdp = objects.program("generate").context("no program \"generate\"")?.try_into()?;
    let progress = Array::<_, Progress>::try_from(objects.map("progress").context("no map \"progress\"")?)?;
    let begun = Instant::now();
    let limit = Duration::from_secs(args.seconds);
    loop {
        let state = progress.get(&0, 0)?;
        if state[LEFT] == 0 || begun.elapsed() >= limit {
            return Ok(state[SENT]);
        }
        generator.test_run(TestRunOptions {
            data_in: Some(&[0; ROOM]),
            repeat: SLICE,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        })?;
    }
}

/// Tells the program what to send.
fn prepare(objects: &mut Ebpf, args: &Args) -> Result<()> {
    ensure!(args.kinds.len() <= TEMPLATES, "{} kinds, more than {TEMPLATES}", args.kinds.len());
    let mac = parse_mac(&args.mac)?;
    let mut templates =
        Array::<_, Template>::try_from(objects.map_mut("templates").context("no map \"templates\"")?)?;
    for (index, kind) in (0..).zip(args.kinds.iter().cycle().take(TEMPLATES)) {
        templates.set(index, kind.template(mac, args.port)?, 0)?;
    }
    let mut progress =
        Array::<_, Progress>::try_from(objects.map_mut("progress").context("no map \"progress\"")?)?;
    let mut state: Progress = [0; PROGRESS_WORDS];
    state[RANDOM] = std::time::UNIX_EPOCH.elapsed()?.as_nanos() as u64;
    state[LEFT] = args.count;
    state[INTERVAL] = 1_000_000_000_u64.checked_div(args.rate).unwrap_or(0);
    state[FLOWS] = args.flows;
    state[IFINDEX] = if_nametoindex(args.device.as_str())?.into();
    progress.set(0, state, 0)?;
    Ok(())
}

/// `struct progress` of the program.
type Progress = [u64; PROGRESS_WORDS];
const PROGRESS_WORDS: usize = 7;
const RANDOM: usize = 0;
const LEFT: usize = 1;
const SENT: usize = 2;
const INTERVAL: usize = 3;
const FLOWS: usize = 5;
const IFINDEX: usize = 6;

const TEMPLATES: usize = 8;
/// Frames before the clock is looked at: about a tenth of a second.
const SLICE: u32 = 1 << 19;
/// Frames that the kernel makes before it hands them on.
const BATCH: u32 = 64;
