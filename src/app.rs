//! `synwall run`: puts the parts together in an order in which a failure leaves the host as it was, and takes them
//! apart again.

mod closed;
#[cfg(feature = "xdp")]
mod plane;
#[cfg(not(feature = "xdp"))]
#[path = "app/no_plane.rs"]
mod plane;
mod resume;
mod workers;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::control::admin::{self, Admin};
use crate::control::attacks::Board;
use crate::control::claim::Claim;
use crate::control::detect;
use crate::control::doctor;
use crate::control::http::{self, Answers, Readiness};
use crate::control::in_force::InForce;
use crate::control::key;
use crate::control::live::Live;
use crate::control::propagation::{self, Propagation};
use crate::control::reload::ReloadError;
use crate::control::rotate::{Rotation, unix_time};
use crate::control::socket::Socket;
use crate::control::state::{Checkpoints, StateDirectory};
use crate::engine::stats::ServiceValues;
use crate::engine::{Engine, Shared};
use crate::io::af_packet::AfPacket;
use crate::io::host_stack::Closed;
use crate::io::{Clock, MonotonicClock, PortStats};
use crate::metrics::{Exporter, Reload, Sample};
use crate::time::Instant;
use plane::Fast;
use resume::{knows_all, master_key, open_state, resume};
use workers::{MAX_WORKERS, Workers, cores};

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// It could not start, or a worker ended. Either way the host is left as it was found.
pub fn run(path: &Path, config: Config) -> anyhow::Result<()> {
    log_panics();
    let _claims = [Claim::new(&config.bridge.outside)?, Claim::new(&config.bridge.inside)?];
    propagation::restore(&config.bridge);
    let [outside, inside] = check_host(&config)?;
    let listener = config.metrics.listen.map(http::bind).transpose().context("metrics")?;
    let socket = config.admin.socket.as_deref().map(Socket::bind).transpose().context("admin")?;
    let state = open_state(&config);
    let rotation = Rotation::new(master_key(&config, state.as_deref())?, config.cookie.epoch);
    let cores = cores();
    let workers =
        NonZeroUsize::new(config.plane.workers).map_or(cores.len().clamp(1, MAX_WORKERS), NonZeroUsize::get);
    let policy = config.policy(outside.min(inside))?.with_link_mtus(outside, inside);
    let shared = Arc::new(Shared::new(policy, workers, key::hash_key()?));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("control runtime")?;
    runtime.block_on(async {
        // From here on a signal waits until it is asked for, so that none can end the process half-way through.
        let signals = Signals::new().context("signals")?;
        let mut appliance = Appliance::start(path, config, shared, rotation, state, &cores, workers)?;
        if let Some(listener) = listener {
            http::serve(listener, appliance.answers()?).context("metrics")?;
        }
        detect::task::start(
            appliance.shared.clone(),
            appliance.board.clone(),
            appliance.config.attack.hook(),
        )?;
        if let Some(socket) = &socket {
            admin::serve(socket, appliance.admin()).context("admin")?;
        }
        appliance.log_start();
        let outcome = appliance.control(signals).await;
        appliance.stop(matches!(outcome, Ok(End::HandOver)));
        outcome.map(|_| ())
    })
}

/// What the workers and the control loop share.
struct Appliance {
    path: PathBuf,
    /// As it was at the start.
    config: Config,
    in_force: Arc<InForce>,
    shared: Arc<Shared>,
    ports: Arc<PortStats>,
    _closed: Option<Closed>,
    propagation: Option<Propagation>,
    rotation: Rotation,
    clock: MonotonicClock,
    started: Instant,
    reload: Arc<Mutex<Reload>>,
    // Before the workers: frames that are no longer handled in the kernel come to them.
    fast: Fast,
    workers: Workers,
    state: Option<Arc<StateDirectory>>,
    checkpoints: Option<Checkpoints>,
    board: Arc<Board>,
}

impl Appliance {
    /// Opens the ports and starts the workers.
    fn start(
        path: &Path,
        config: Config,
        shared: Arc<Shared>,
        mut rotation: Rotation,
        state: Option<Arc<StateDirectory>>,
        cores: &[usize],
        workers: usize,
    ) -> anyhow::Result<Appliance> {
        let clock = MonotonicClock::new();
        rotation.turn(&shared, &clock, unix_time());
        let (lanes, ports) = AfPacket::open(&config.bridge.outside, &config.bridge.inside, workers)?;
        let closed = closed::close(&config.bridge);
        let propagation = Propagation::new(&config.bridge, ports.clone(), clock.now());
        let mut fast = Fast::open(&config)?;
        let mut first = Engine::new(shared.clone(), 0);
        resume(state.as_deref(), &shared, &mut first, &clock, &fast);
        fast.begin(&shared, clock)?;
        let workers = Workers::start(lanes, &shared, first, clock, cores)?;
        fast.attach(&config, &shared, clock)?;
        let checkpoint = |state: &Arc<StateDirectory>| {
            Checkpoints::start(state.clone(), shared.clone(), clock, config.state.checkpoint)
        };
        let checkpoints = state.as_ref().map(checkpoint).transpose().context("checkpoints")?;
        let reload = Arc::new(Mutex::new(Reload { success: true, succeeded_at: unix_time() }));
        let (path, board) = (path.to_owned(), Arc::default());
        let knows_all = {
            let (state, shared) = (state.clone(), shared.clone());
            move || state.as_ref().is_some_and(|state| knows_all(state, &shared))
        };
        let in_force = InForce::new(config.clone(), shared.clone(), clock, knows_all, fast.follower());
        let in_force = Arc::new(in_force);
        Ok(Appliance {
            path,
            config,
            in_force,
            shared,
            ports,
            _closed: closed,
            propagation,
            rotation,
            clock,
            started: clock.now(),
            reload,
            fast,
            workers,
            state,
            checkpoints,
            board,
        })
    }

    /// Takes samples of all that is counted.
    fn sampler(&self) -> impl Fn() -> Sample + Send + Sync + 'static {
        let (shared, ports, reload) = (self.shared.clone(), self.ports.clone(), self.reload.clone());
        let (running, state, board) = (self.workers.running.clone(), self.state.clone(), self.board.clone());
        let (installed_at, epoch) = (self.rotation.installed_at(), self.config.cookie.epoch);
        let plane = self.fast.sampler();
        move || Sample {
            engine: shared.snapshot(),
            io: ports.snapshot(),
            plane: plane(),
            reload: *reload.lock().unwrap_or_else(PoisonError::into_inner),
            workers: running.load(Ordering::Relaxed),
            checkpoint: state.as_ref().map(|state| state.last()),
            key: (*installed_at.lock().unwrap_or_else(PoisonError::into_inner), epoch),
            attacks: board.counts(),
            traffic: board.traffic(),
            hook_runs: board.hook_runs(),
        }
    }

    /// What the admin socket answers from.
    fn admin(&self) -> Admin {
        Admin {
            sample: Box::new(self.sampler()),
            shared: self.shared.clone(),
            board: self.board.clone(),
            in_force: self.in_force.clone(),
            clock: self.clock,
            started: self.started,
            workers: self.workers.threads.len(),
        }
    }

    /// What HTTP answers.
    fn answers(&self) -> anyhow::Result<Answers> {
        let exporter = Exporter::new(self.sampler())?;
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
        let live = Live::new(self.shared.clone(), self.ports.clone(), self.board.clone());
        tokio::spawn(live.clone().watch(self.clock));
        Ok(Answers { metrics: Box::new(move || exporter.render()), readiness: Box::new(readiness), live })
    }

    /// Rotates keys, watches workers and serves signals until one of them ends it.
    async fn control(&mut self, mut signals: Signals) -> anyhow::Result<End> {
        loop {
            let pause = self.rotation.turn(&self.shared, &self.clock, unix_time()).min(TICK);
            if let Some(keeper) = self.fast.keeper() {
                keeper.follow(unix_time());
                keeper.hand_over_sightings();
            }
            tokio::select! {
                _ = signals.terminate.recv() => {
                    tracing::info!(signal = "SIGTERM", "stopping");
                    return Ok(End::Stop);
                }
                _ = signals.interrupt.recv() => {
                    tracing::info!(signal = "SIGINT", "stopping");
                    return Ok(End::Stop);
                }
                _ = signals.hand_over.recv() => {
                    tracing::info!(signal = "SIGUSR2", "stopping, the next run takes over");
                    return Ok(End::HandOver);
                }
                _ = signals.hang_up.recv() => self.reload(),
                () = tokio::time::sleep(pause) => {}
            }
            self.follow_mtus();
            if let Some(propagation) = &mut self.propagation {
                propagation.follow(self.clock.now());
            }
            self.in_force.expire();
            if self.workers.survey() < self.workers.threads.len() {
                bail!("a packet thread ended, which it never should; the log above says why");
            }
        }
    }

    fn reload(&mut self) {
        let before = self.in_force.plane();
        let outcome = self.in_force.reload(&self.path);
        if self.in_force.plane() != before {
            self.config.plane = self.in_force.plane();
            self.fast.change(&self.config, &self.shared, self.clock);
        }
        let mut last = self.reload.lock().unwrap_or_else(PoisonError::into_inner);
        last.success = outcome.is_ok();
        match outcome {
            Ok(services) => {
                last.succeeded_at = unix_time();
                tracing::info!(services, "configuration reloaded");
            }
            Err(ReloadError::Config(error)) => {
                for line in error.to_string().lines() {
                    tracing::error!("configuration not reloaded, nothing changed: {line}");
                }
            }
            Err(error) => tracing::error!("configuration not reloaded, nothing changed: {error}"),
        }
    }

    /// Takes up an MTU that somebody changed.
    fn follow_mtus(&self) {
        let before = self.shared.policy().link_mtus();
        let Some([outside, inside]) = doctor::mtus(&self.config).filter(|now| *now != before) else { return };
        tracing::info!(outside, inside, "MTU changed");
        self.in_force.set_mtus([outside, inside]);
    }

    fn log_start(&self) {
        let Config { bridge, services, metrics, admin, .. } = &self.config;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            outside = bridge.outside,
            inside = bridge.inside,
            services = services.len(),
            workers = self.workers.threads.len(),
            metrics = metrics.listen.map(tracing::field::display),
            admin = admin.socket.as_ref().map(|path| tracing::field::display(path.display())),
            "synwall runs"
        );
    }

    /// Stops the workers, which closes the ports, saves the flows, and logs what was done. If there is something in the kernel
    /// to hand over, that goes on.
    fn stop(&mut self, hands_over: bool) {
        let goes_on = hands_over && self.fast.keeper().is_some();
        if !goes_on {
            self.fast.take_down(&self.shared, self.clock);
        }
        self.workers.stop();
        self.propagation.iter_mut().for_each(Propagation::end);
        self.checkpoints = None;
        if let Some(state) = &self.state
            && let Err(error) = state.save(&self.shared, &self.clock, !goes_on)
        {
            tracing::error!("flows cannot be saved, only those of the last checkpoint come back: {error}");
        }
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
        self.fast.leave();
    }
}

/// How a run ends.
enum End {
    /// The host is left as it was found.
    Stop,
    /// What runs in the kernel goes on, and the next run takes it over.
    HandOver,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    hand_over: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            hand_over: signal(SignalKind::user_defined2())?,
        })
    }
}

/// Refuses what would fail or do harm; the MTUs of the ports outside and inside.
fn check_host(config: &Config) -> anyhow::Result<[u16; 2]> {
    let report = doctor::before_start(config);
    let count = report.fatal().map(|what| tracing::error!("{what}")).count();
    match report.mtus {
        Some(mtus) if count == 0 => Ok(mtus),
        _ => bail!("not started, nothing was changed: {count} to put right; `synwall doctor` looks again"),
    }
}

/// Panics become log lines like any other.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        tracing::error!(thread = thread.name(), "panic: {panic}");
    }));
}

/// How often the workers and the wall clock are looked at: bounds how long a dead worker goes unnoticed.
const TICK: Duration = Duration::from_millis(250);
