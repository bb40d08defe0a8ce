//! The packet threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::Context;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::engine::{Engine, Shared};
use crate::io::af_packet::AfPacket;
use crate::io::{MonotonicClock, worker};

/// The packet threads. However control ends, be it by a panic, they end too: a box without control is half dead.
pub(super) struct Workers {
    stop: Arc<AtomicBool>,
    pub(super) running: Arc<AtomicUsize>,
    pub(super) threads: Vec<JoinHandle<()>>,
}

impl Workers {
    pub(super) fn start(
        lanes: Vec<AfPacket>,
        shared: &Arc<Shared>,
        first: Engine,
        clock: MonotonicClock,
        cores: &[usize],
    ) -> anyhow::Result<Workers> {
        let mut first = Some(first);
        let running = Arc::new(AtomicUsize::new(lanes.len()));
        let mut workers = Workers { stop: Arc::default(), running, threads: Vec::new() };
        // A single worker goes wherever there is room, and so do more workers than cores.
        let is_pinned = (2..=cores.len()).contains(&lanes.len());
        for (index, lane) in lanes.into_iter().enumerate() {
            let core = cores.get(index).copied().filter(|_| is_pinned);
            let engine = first.take().unwrap_or_else(|| Engine::new(shared.clone(), index));
            let thread = worker::spawn(index, core, engine, lane, clock, workers.stop.clone());
            workers.threads.push(thread.with_context(|| format!("packet thread {index}"))?);
        }
        Ok(workers)
    }

    /// Counts the threads that still run.
    pub(super) fn survey(&self) -> usize {
        let running = self.threads.iter().filter(|thread| !thread.is_finished()).count();
        self.running.store(running, Ordering::Relaxed);
        running
    }

    pub(super) fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // The panic itself was logged when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The cores that this process may use.
pub(super) fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false)).collect()
}

/// The most workers that `workers = 0` makes.
pub(super) const MAX_WORKERS: usize = 64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_thread_that_ended_is_noticed() {
        let stop = Arc::new(AtomicBool::new(false));
        let stays = stop.clone();
        let wait = move || {
            while !stays.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let threads = vec![std::thread::spawn(wait), std::thread::spawn(|| panic!("as a worker might"))];
        let mut workers = Workers { stop, running: Arc::default(), threads };
        while workers.survey() == 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(workers.running.load(Ordering::Relaxed), 1);
        workers.stop();
        assert_eq!(workers.survey(), 0);
    }
}
