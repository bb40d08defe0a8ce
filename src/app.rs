//! `synwall run`: puts the parts together in an order in which a failure leaves the host as it was, and takes them
//! apart again.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::control::claim::Claim;
use crate::control::http::{self, Answers, Readiness};
use crate::control::reload::{self, ReloadError};
use crate::control::rotate::{Rotation, unix_time};
use crate::control::{doctor, key};
use crate::engine::stats::ServiceValues;
use crate::engine::{Engine, Shared};
use crate::io::af_packet::AfPacket;
use crate::io::{MonotonicClock, PortStats, worker};
use crate::metrics::{Exporter, Reload, Sample};

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// It could not start, or a worker ended. Either way the host is left as it was found.
pub fn run(path: &Path, config: Config) -> anyhow::Result<()> {
    log_panics();
    let mtu = check_host(&config)?;
    let _claims = [Claim::new(&config.bridge.outside)?, Claim::new(&config.bridge.inside)?];
    let listener = config.metrics.listen.map(http::bind).transpose().context("metrics")?;
    let rotation = Rotation::new(key::master(config.cookie.key_file.as_deref())?, config.cookie.epoch);
    let cores = cores();
    let workers =
        NonZeroUsize::new(config.plane.workers).map_or(cores.len().clamp(1, MAX_WORKERS), NonZeroUsize::get);
    let shared = Arc::new(Shared::new(config.policy(mtu)?, workers, key::hash_key()?));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("control runtime")?;
    runtime.block_on(async {
        // From here on a signal waits until it is asked for, so that none can end the process half-way through.
        let signals = Signals::new().context("signals")?;
        let mut appliance = Appliance::start(path, config, shared, rotation, &cores, workers)?;
        if let Some(listener) = listener {
            http::serve(listener, appliance.answers()?).context("metrics")?;
        }
        appliance.log_start();
        let outcome = appliance.control(signals).await;
        appliance.stop();
        outcome
    })
}

/// What the workers and the control loop share.
struct Appliance {
    path: PathBuf,
    config: Config,
    shared: Arc<Shared>,
    ports: Arc<PortStats>,
    rotation: Rotation,
    clock: MonotonicClock,
    reload: Arc<Mutex<Reload>>,
    workers: Workers,
}

impl Appliance {
    /// Opens the ports and starts the workers.
    fn start(
        path: &Path,
        config: Config,
        shared: Arc<Shared>,
        mut rotation: Rotation,
        cores: &[usize],
        workers: usize,
    ) -> anyhow::Result<Appliance> {
        let clock = MonotonicClock::new();
        rotation.turn(&shared, &clock, unix_time());
        let (lanes, ports) = AfPacket::open(&config.bridge.outside, &config.bridge.inside, workers)?;
        let workers = Workers::start(lanes, &shared, clock, cores)?;
        let reload = Arc::new(Mutex::new(Reload { success: true, succeeded_at: unix_time() }));
        Ok(Appliance { path: path.to_owned(), config, shared, ports, rotation, clock, reload, workers })
    }

    /// What HTTP answers.
    fn answers(&self) -> anyhow::Result<Answers> {
        let (shared, ports, reload) = (self.shared.clone(), self.ports.clone(), self.reload.clone());
        let running = self.workers.running.clone();
        let exporter = Exporter::new(move || Sample {
            engine: shared.snapshot(),
            io: ports.snapshot(),
            reload: *reload.lock().unwrap_or_else(PoisonError::into_inner),
            workers: running.load(Ordering::Relaxed),
        })?;
        let (shared, ports) = (self.shared.clone(), self.ports.clone());
        let (running, all) = (self.workers.running.clone(), self.workers.threads.len());
        let readiness = move || {
            let [outside, inside] = ports.snapshot().ports;
            Readiness {
                outside_up: outside.up,
                inside_up: inside.up,
                keys: shared.snapshot().key_epoch.is_some(),
                workers: running.load(Ordering::Relaxed) == all,
            }
        };
        Ok(Answers { metrics: Box::new(move || exporter.render()), readiness: Box::new(readiness) })
    }

    /// Rotates keys, watches workers and serves signals until one of them ends it.
    async fn control(&mut self, mut signals: Signals) -> anyhow::Result<()> {
        loop {
            let pause = self.rotation.turn(&self.shared, &self.clock, unix_time()).min(TICK);
            tokio::select! {
                _ = signals.terminate.recv() => {
                    tracing::info!(signal = "SIGTERM", "stopping");
                    return Ok(());
                }
                _ = signals.interrupt.recv() => {
                    tracing::info!(signal = "SIGINT", "stopping");
                    return Ok(());
                }
                _ = signals.hang_up.recv() => self.reload(),
                () = tokio::time::sleep(pause) => {}
            }
            if self.workers.survey() < self.workers.threads.len() {
                bail!("a packet thread ended, which it never should; the log above says why");
            }
        }
    }

    fn reload(&mut self) {
        let outcome = reload::reload(&self.path, &self.config, &self.shared);
        let mut last = self.reload.lock().unwrap_or_else(PoisonError::into_inner);
        last.success = outcome.is_ok();
        match outcome {
            Ok(config) => {
                last.succeeded_at = unix_time();
                tracing::info!(services = config.services.len(), "configuration reloaded");
                self.config = config;
            }
            Err(ReloadError::Config(error)) => {
                for line in error.to_string().lines() {
                    tracing::error!("configuration not reloaded, nothing changed: {line}");
                }
            }
            Err(error) => tracing::error!("configuration not reloaded, nothing changed: {error}"),
        }
    }

    fn log_start(&self) {
        let Config { bridge, services, metrics, .. } = &self.config;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            outside = bridge.outside,
            inside = bridge.inside,
            services = services.len(),
            workers = self.workers.threads.len(),
            metrics = metrics.listen.map(tracing::field::display),
            "synwall runs"
        );
    }

    /// Stops the workers, which closes the ports, and logs what was done.
    fn stop(&mut self) {
        self.workers.stop();
        let snapshot = self.shared.snapshot();
        let sum = |value: fn(&ServiceValues) -> u64| -> u64 {
            snapshot.services.iter().map(|service| value(&service.values.counters)).sum()
        };
        tracing::info!(
            received = snapshot.ports.iter().map(|port| port.received).sum::<u64>(),
            dropped = snapshot.ports.iter().map(|port| port.dropped).sum::<u64>(),
            syn_received = sum(|values| values.syn_received),
            cookies_sent = sum(|values| values.synack_sent),
            cookies_valid = sum(|values| values.cookie_valid),
            connections = sum(|values| values.flows_proxied),
            "stopped"
        );
    }
}

/// The packet threads. However control ends, be it by a panic, they end too: a box without control is half dead.
struct Workers {
    stop: Arc<AtomicBool>,
    running: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    fn start(
        lanes: Vec<AfPacket>,
        shared: &Arc<Shared>,
        clock: MonotonicClock,
        cores: &[usize],
    ) -> anyhow::Result<Workers> {
        let running = Arc::new(AtomicUsize::new(lanes.len()));
        let mut workers = Workers { stop: Arc::default(), running, threads: Vec::new() };
        // A single worker goes wherever there is room, and so do more workers than cores.
        let is_pinned = (2..=cores.len()).contains(&lanes.len());
        for (index, lane) in lanes.into_iter().enumerate() {
            let core = cores.get(index).copied().filter(|_| is_pinned);
            let engine = Engine::new(shared.clone(), index);
            let thread = worker::spawn(index, core, engine, lane, clock, workers.stop.clone());
            workers.threads.push(thread.with_context(|| format!("packet thread {index}"))?);
        }
        Ok(workers)
    }

    /// Counts the threads that still run.
    fn survey(&self) -> usize {
        let running = self.threads.iter().filter(|thread| !thread.is_finished()).count();
        self.running.store(running, Ordering::Relaxed);
        running
    }

    fn stop(&mut self) {
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

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// Refuses what would fail or do harm; the MTU of the ports.
fn check_host(config: &Config) -> anyhow::Result<u16> {
    let report = doctor::before_start(config);
    let count = report.fatal().map(|what| tracing::error!("{what}")).count();
    match report.mtu {
        Some(mtu) if count == 0 => Ok(mtu),
        _ => bail!("not started, nothing was changed: {count} to put right; `synwall doctor` looks again"),
    }
}

/// The cores that this process may use.
fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false)).collect()
}

/// Panics become log lines like any other.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        tracing::error!(thread = thread.name(), "panic: {panic}");
    }));
}

/// The most workers that `workers = 0` makes.
const MAX_WORKERS: usize = 64;

/// How often the workers and the wall clock are looked at: bounds how long a dead worker goes unnoticed.
const TICK: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
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
