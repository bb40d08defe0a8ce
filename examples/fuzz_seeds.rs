//! Writes the seeds of the fuzz corpora (docs/fuzzing.md): `cargo run --example fuzz_seeds`. What fuzzing adds to them
//! is minimized by `fuzz/grow` before it is committed.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    unreachable_pub,
    dead_code,
    reason = "compiles the fuzz targets' own files"
)]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use synwall::engine::Side;
use synwall::io::pcap::Writer;

use targets::engine::{self, Kind, Step, ends};

fn main() {
    let mut frames = Vec::new();
    for (name, story) in stories() {
        write("engine", name, &octets(&story));
    }
    for index in [0, 4, 6] {
        frames.extend(handshake(index));
    }
    for (index, frame) in frames.iter().enumerate() {
        write("frame", &format!("segment-{index}"), frame);
        write("options", &format!("segment-{index}"), frame.get(54..94.min(frame.len())).unwrap_or(&[]));
    }
    for count in [0, 1, frames.len()] {
        write("pcap", &format!("frames-{count}"), &capture(&frames[..count]));
    }
    (0..4u8).for_each(|n| write("cookie", &format!("input-{n}"), &[n.wrapping_mul(77); 96]));
    configurations();
}

/// What the ends of connection `index` send, with all kinds of options.
fn handshake(index: usize) -> Vec<Vec<u8>> {
    let mut peer = engine::peer(index);
    let step = Step { kind: 0, peer: 0, flags: 0, seq: 0, ack: 0, window: 0, options: 0, amount: 3 };
    let opening = peer.opening(Side::Client, &step);
    let syn = peer.frame(Side::Client, &opening, false);
    peer.server.has_timestamps = true;
    let answer = peer.answer(&step);
    let syn_ack = peer.frame(Side::Server, &answer, true);
    let options = [0, ends::SACK_BLOCKS, ends::SACK_BLOCKS | ends::MISALIGNED];
    let segments = options.map(|options| {
        let segment = peer.segment(Side::Client, &Step { options, ..step });
        peer.frame(Side::Client, &segment, options == 0)
    });
    [vec![syn, syn_ack], segments.to_vec()].concat()
}

fn stories() -> Vec<(&'static str, Vec<Step>)> {
    let step = |kind: Kind| Step {
        kind: kind as u8,
        peer: 0,
        flags: 0,
        seq: 0,
        ack: 0,
        window: 0,
        options: 0,
        amount: 0,
    };
    let data = |kind: Kind| Step { amount: 9, ..step(kind) };
    let fin = |kind: Kind| Step { flags: 1, ..step(kind) };
    let open = [Kind::Open, Kind::Client, Kind::Answer, Kind::Client].map(step).to_vec();
    let close = vec![fin(Kind::Client), step(Kind::Server), fin(Kind::Server), step(Kind::Client)];
    let talk = vec![
        data(Kind::Client),
        data(Kind::Server),
        Step { options: ends::SACK_BLOCKS, ..step(Kind::Client) },
        Step { options: ends::TAGGED, ..data(Kind::Server) },
    ];
    let early = vec![step(Kind::Open), data(Kind::Client), data(Kind::Client), step(Kind::Answer)];
    let wait = |amount| Step { amount, ..step(Kind::Wait) };
    let on = |peer: u8, steps: &[Step]| steps.iter().map(|s| Step { peer, ..*s }).collect::<Vec<_>>();
    let icmp =
        |peer| [3, 4, 64].map(|seq| Step { peer, seq, amount: 40, window: 200, ..step(Kind::Icmp) }).to_vec();
    let whole = [open.clone(), talk.clone(), close.clone()].concat();
    vec![
        ("whole", whole.clone()),
        ("twice", [whole.clone(), vec![wait(10)], whole.clone()].concat()),
        ("early", [early, talk.clone(), close.clone()].concat()),
        ("ipv6", on(4, &whole)),
        ("monitored", on(6, &[open.clone(), talk.clone(), close.clone()].concat())),
        ("silent", [&open[..2], &[wait(10), wait(11), wait(12), wait(13)]].concat()),
        ("refused", [&open[..2], &[Step { flags: 4, ..step(Kind::Server) }, step(Kind::Open)]].concat()),
        ("reset", [open.clone(), vec![Step { flags: 4, ..step(Kind::Client) }, wait(20)]].concat()),
        ("keys", [&open[..1], &[step(Kind::Key)], &open[1..], &[step(Kind::Key); 2], &talk].concat()),
        ("policy", [&open[..2], &[Step { amount: 0x2f, ..step(Kind::Policy) }], &open[2..], &talk].concat()),
        ("many", (0..6).flat_map(|peer| on(peer, &[&open[..], &talk[..2]].concat())).collect()),
        ("leap", [&open[..], &[Step { amount: 27, ..step(Kind::Leap) }], &talk].concat()),
        ("back", [&open[..], &[Step { amount: 27, flags: 1, ..step(Kind::Leap) }], &open, &close].concat()),
        ("icmp", [open.clone(), talk.clone(), icmp(0), icmp(1), talk.clone()].concat()),
        ("icmp-half-open", [&open[..2], &icmp(1)].concat()),
        ("servers-own", [vec![step(Kind::ServerOpens)], talk, close].concat()),
    ]
}

fn octets(story: &[Step]) -> Vec<u8> {
    let octets = |s: &Step| [s.kind, s.peer, s.flags, s.seq, s.ack, s.window, s.options, s.amount];
    [0].into_iter().chain(story.iter().flat_map(octets)).collect()
}

fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).expect("memory takes what is written");
    for (second, frame) in (1..).zip(frames) {
        writer.write_record(Duration::from_millis(second * 1001), frame).expect("short records");
    }
    writer.finish().expect("memory takes what is written")
}

fn configurations() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for folder in [root.clone(), root.join("examples")] {
        for entry in fs::read_dir(folder).expect("the folder of examples").flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
                write("config", &name, &fs::read(path).expect("an example that can be read"));
            }
        }
    }
}

fn write(target: &str, name: &str, octets: &[u8]) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    fs::create_dir_all(&folder).expect("a folder for the corpus");
    fs::write(folder.join(name), octets).expect("a corpus that can be written");
}
