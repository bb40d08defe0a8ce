//! XDP programs on the ports of a lab: the bare peers in the box, counters at the ends. They go with this process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::{DevMap, PerCpuArray};
use aya::programs::{Xdp, XdpMode};
use clap::ValueEnum;
use nix::net::if_::if_nametoindex;
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use crate::guard::refuse_outside_the_lab;

/// Which program, and where.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What the program does.
    #[arg(value_enum)]
    peer: Peer,
    /// Where the BPF programs are.
    #[arg(long)]
    objects: PathBuf,
}

/// What is held.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// `outside` answers SYNs by turning them around.
    Reflect,
    /// `outside` drops everything.
    Drop,
    /// The same, behind a look at the headers.
    DropRead,
    /// Each port of the box sends everything out of the other.
    Redirect,
    /// The same, behind a look at the headers.
    RedirectRead,
    /// `eth0` counts the segments of a load and drops them.
    Count,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.peer == Peer::Count {
        refuse_outside_the_lab("eth0", &["client", "attacker", "server"])?;
        let counter = Counter::attach(&args.objects, "eth0")?;
        wait()?;
        let [syns, syn_acks, resets, others] = counter.settled()?;
        println!("{}", json!({ "syns": syns, "syn_acks": syn_acks, "resets": resets, "others": others }));
        return Ok(());
    }
    for port in ["outside", "inside"] {
        refuse_outside_the_lab(port, &["box"])?;
    }
    let mut objects = Ebpf::load_file(args.objects.join("bare.bpf.o"))?;
    let mut links = DevMap::try_from(objects.map_mut("links").context("no map \"links\"")?)?;
    links.set(0, if_nametoindex("inside")?, None, 0)?;
    links.set(1, if_nametoindex("outside")?, None, 0)?;
    let programs: &[_] = match args.peer {
        Peer::Reflect => &[("reflect", "outside")],
        Peer::Drop => &[("drop", "outside")],
        Peer::DropRead => &[("drop_read", "outside")],
        Peer::Redirect => &[("to_inside", "outside"), ("to_outside", "inside")],
        Peer::RedirectRead => &[("to_inside_read", "outside"), ("to_outside_read", "inside")],
        Peer::Count => bail!("counters have no place in the box"),
    };
    for (name, port) in programs {
        attach(&mut objects, name, port)?;
    }
    wait()
}

/// Says that all is in place, and waits to be told to end.
fn wait() -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    println!("ready");
    signals.wait()?;
    Ok(())
}

/// Loads the program and attaches it in the driver: a slower way would compare nothing.
fn attach(objects: &mut Ebpf, name: &str, device: &str) -> Result<()> {
    let program = program(objects, name)?;
    program.load().with_context(|| format!("loading {name}"))?;
    program.attach(device, XdpMode::Driver).with_context(|| format!("attaching {name} to {device}"))?;
    Ok(())
}

pub(crate) fn program<'o>(objects: &'o mut Ebpf, name: &str) -> Result<&'o mut Xdp> {
    Ok(objects.program_mut(name).with_context(|| format!("no program \"{name}\""))?.try_into()?)
}

/// Counts the segments of a load at an end of the lab, and takes them away.
pub(crate) struct Counter(Ebpf);

/// SYNs, SYN-ACKs, RSTs, others.
pub(crate) type Counts = [u64; COUNTS];
const COUNTS: usize = 4;

impl Counter {
    pub(crate) fn attach(objects: &Path, device: &str) -> Result<Counter> {
        let mut objects = Ebpf::load_file(objects.join("count.bpf.o"))?;
        attach(&mut objects, "count", device)?;
        Ok(Counter(objects))
    }

    /// What was counted, once nothing more comes.
    pub(crate) fn settled(&self) -> Result<Counts> {
        let mut last = self.counts()?;
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let counts = self.counts()?;
            if counts == last {
                return Ok(counts);
            }
            last = counts;
        }
    }

    fn counts(&self) -> Result<Counts> {
        let map = PerCpuArray::<_, u64>::try_from(self.0.map("counts").context("no map \"counts\"")?)?;
        let mut counts = [0; COUNTS];
        for (count, key) in counts.iter_mut().zip(0..) {
            *count = map.get(&key, 0)?.iter().sum();
        }
        Ok(counts)
    }
}
