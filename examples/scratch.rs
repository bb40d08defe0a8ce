//! scratch
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use synwall::cookie::*;
use synwall::engine::policy::*;
use synwall::engine::*;
use synwall::io::af_packet::AfPacket;
use synwall::io::{Clock, MonotonicClock, worker};
use synwall::time::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let workers: usize = args[1].parse().unwrap();
    let mut ports = PortSet::empty();
    ports.insert_range(1, 65535);
    let svc = |a: &str| Service { name: a.into(), prefix: Prefix::host(a.parse().unwrap()), ports: ports.clone(), mode: Mode::Always, early_data: 14600, require_timestamps: false, server: ServerOptions::default(), max_half_open: 65536 };
    let policy = Policy::new(vec![svc("198.18.255.2"), svc("2001:db8:255::2")], Limits { time_wait: Duration::from_secs(2), ..Limits::default() }, 1500).unwrap();
    let shared = Arc::new(Shared::new(policy, workers, [3, 4]));
    let clock = MonotonicClock::new();
    shared.set_keys(Keys { ring: KeyRing::at(&MasterKey::from_bytes([9; 32]), 77), clock: WallClock { at: clock.now(), unix: Duration::from_secs(1_700_000_000) } });
    let (ios, _stats) = AfPacket::open("outside", "inside", workers).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    for (i, io) in ios.into_iter().enumerate() {
        worker::spawn(i, None, Engine::new(shared.clone(), i), io, clock, stop.clone()).unwrap();
    }
    let secs: u64 = args[2].parse().unwrap();
    for _ in 0..secs {
        std::thread::sleep(Duration::from_secs(1));
    }
    let s = shared.snapshot();
    println!("{:?}\n{:?}", s.ports, s.flows);
    for v in s.services { println!("{} {:?} dropped {:?}", v.name, v.values.counters, DropReason::ALL.iter().filter(|r| v.values.dropped[r.index()] > 0).map(|r| (r.label(), v.values.dropped[r.index()])).collect::<Vec<_>>()); }
}
