//! The plane in front of the raw sockets: XDP if it can be had, and what keeps it up to date.
//!
//! Opened before frames move, attached when the workers run, told of every change of policy, key and clock, and taken down
//! before the workers stop. Whatever goes wrong before it is attached leaves the raw sockets, which can do all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;

use crate::config::{Config, PlaneKind};
use crate::control::key;
use crate::control::plane::{self, Choice, Reason};
use crate::control::rotate::unix_time;
use crate::engine::export::Restored;
use crate::engine::policy::Policy;
use crate::engine::{Engine, Shared};
use crate::io::xdp::{Path, Plane};
use crate::io::{Clock, MonotonicClock};
use crate::metrics::PlaneSample;

/// The XDP plane, or why there is none.
pub(super) struct Fast {
    plane: Option<Plane>,
    shown: Arc<Mutex<Shown>>,
    /// An earlier run's, which a start that fails must leave alone.
    was_there: bool,
}

/// What others see of the plane; another when it is changed in a running process.
#[derive(Default)]
struct Shown {
    keeper: Option<Arc<Keeper>>,
    sample: PlaneSample,
}

impl Fast {
    /// Loads what the configuration asks for. Nothing is attached that was not.
    ///
    /// # Errors
    /// XDP was asked for by name and cannot be had.
    pub(super) fn open(config: &Config) -> anyhow::Result<Fast> {
        match plane::choose(config) {
            Choice::Pnet(reason) => Ok(Fast::none(reason)),
            Choice::Xdp => match Plane::open(&plane::options(config, key::hash_key()?)) {
                Ok(plane) => Ok(Fast::of(plane)),
                Err(error) if config.plane.kind == PlaneKind::Xdp => Err(error).context(ASKED_FOR),
                Err(error) => Ok(Fast::none(Some(Reason::from(&error)))),
            },
        }
    }

    fn of(plane: Plane) -> Fast {
        if let Some(reason) = plane.drained() {
            tracing::warn!("what an earlier run left in the kernel is removed: {reason}");
        }
        let was_there = plane.is_adopted();
        Fast { plane: Some(plane), shown: Arc::default(), was_there }
    }

    fn none(reason: Option<Reason>) -> Fast {
        let fast = Fast { plane: None, shown: Arc::default(), was_there: false };
        if let Some(reason) = reason {
            fast.explain(&reason);
        }
        fast
    }

    /// Says why the raw sockets are alone.
    fn explain(&self, reason: &Reason) {
        tracing::warn!("raw sockets alone, without XDP: {}", reason.text);
        self.shown().sample.reason = Some(reason.label);
    }

    /// Whether the kernel has kept the flows of an earlier run.
    pub(super) fn was_there(&self) -> bool {
        self.was_there
    }

    /// Makes over to the engine what the kernel has kept, if it has.
    pub(super) fn adopt(&self, engine: &mut Engine, clock: &MonotonicClock) -> Option<Restored> {
        let plane = self.plane.as_ref().filter(|_| self.was_there)?;
        let path = plane.path();
        Some(engine.adopt(clock.now(), &*path, path.flows()))
    }

    /// Tells the plane all that is in force, and the engine of the plane.
    ///
    /// # Errors
    /// It has no room for what there is.
    pub(super) fn begin(&mut self, shared: &Arc<Shared>, clock: MonotonicClock) -> anyhow::Result<()> {
        let Some(plane) = &self.plane else { return Ok(()) };
        let keeper = Keeper::new(plane.path(), shared.clone(), clock);
        keeper.follow(unix_time());
        shared.set_fast_path(clock.now(), plane.path()).context("the flow table in the kernel")?;
        self.shown().keeper = Some(Arc::new(keeper));
        Ok(())
    }

    /// Attaches the plane: from now on the kernel decides what comes up.
    ///
    /// # Errors
    /// It was asked for by name and cannot be had.
    pub(super) fn attach(
        &mut self,
        config: &Config,
        shared: &Shared,
        clock: MonotonicClock,
    ) -> anyhow::Result<()> {
        let Some(plane) = &mut self.plane else { return Ok(()) };
        match plane.attach() {
            Ok(mode) => {
                let why = plane.fallback();
                tracing::info!(mode = mode.label(), why, "XDP attached");
                let sample = PlaneSample { kind: "xdp", mode: mode.label(), ..PlaneSample::default() };
                self.shown().sample = sample;
                Ok(())
            }
            Err(error) if config.plane.kind == PlaneKind::Xdp => Err(error).context(ASKED_FOR),
            Err(error) => {
                self.take_down(shared, clock);
                self.explain(&Reason::from(&error));
                Ok(())
            }
        }
    }

    /// What keeps the plane up to date, if there is one.
    pub(super) fn keeper(&self) -> Option<Arc<Keeper>> {
        self.shown().keeper.clone()
    }

    /// Tells the plane, if there is one, of a change at once.
    pub(super) fn follower(&self) -> impl Fn() + Send + Sync + use<> {
        let shown = self.shown.clone();
        move || {
            let keeper = lock(&shown).keeper.clone();
            if let Some(keeper) = keeper {
                keeper.follow(unix_time());
            }
        }
    }

    /// Says what runs, for metrics.
    pub(super) fn sampler(&self) -> impl Fn() -> PlaneSample + Send + Sync + use<> {
        let shown = self.shown.clone();
        move || {
            let shown = lock(&shown);
            let passed_up = shown.keeper.as_ref().map_or([0; 2], |keeper| keeper.passed_up());
            PlaneSample { passed_up, ..shown.sample.clone() }
        }
    }

    /// Detaches the plane and takes all flows back. The workers go on.
    pub(super) fn take_down(&mut self, shared: &Shared, clock: MonotonicClock) {
        *self.shown() = Shown::default();
        let Some(mut plane) = self.plane.take() else { return };
        if let Err(error) = plane.detach() {
            tracing::error!("XDP cannot be detached; `synwall detach` tries again: {error}");
        }
        shared.drop_fast_path(clock.now());
        self.was_there = false;
    }

    /// Goes over to the plane that a new configuration asks for, in a running process: no connection notices. If it cannot be
    /// had, the raw sockets go on alone.
    pub(super) fn change(&mut self, config: &Config, shared: &Arc<Shared>, clock: MonotonicClock) {
        self.take_down(shared, clock);
        let outcome = Fast::open(config).and_then(|mut new| {
            self.plane = new.plane.take();
            std::mem::swap(&mut *self.shown(), &mut *new.shown());
            self.begin(shared, clock)?;
            self.attach(config, shared, clock)
        });
        if let Err(error) = outcome {
            tracing::error!("raw sockets alone, without XDP: {error:#}");
            self.take_down(shared, clock);
        }
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        lock(&self.shown)
    }

    /// Leaves the plane running for the next run, which takes it over.
    pub(super) fn leave(&mut self) {
        self.shown().keeper = None;
        self.plane = None;
    }
}

impl Drop for Fast {
    /// A start has failed: what it attached goes, what was there stays.
    fn drop(&mut self) {
        if let Some(mut plane) = self.plane.take().filter(|_| !self.was_there) {
            // There is nothing left to be tried.
            let _ = plane.detach();
        }
    }
}

fn lock(shown: &Mutex<Shown>) -> MutexGuard<'_, Shown> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the plane of what changes: policy, promises, keys and the time.
pub(super) struct Keeper {
    path: Arc<Path>,
    shared: Arc<Shared>,
    clock: MonotonicClock,
    told: Mutex<Told>,
}

/// What the plane was told last.
#[derive(Default)]
struct Told {
    policy: Option<Arc<Policy>>,
    epoch: Option<u64>,
}

impl Keeper {
    fn new(path: Arc<Path>, shared: Arc<Shared>, clock: MonotonicClock) -> Keeper {
        Keeper { path, shared, clock, told: Mutex::default() }
    }

    /// Tells the plane what has changed since it was last told, and that somebody tends to it; `unix` is the time since 1970.
    /// To be called several times a second, and at once behind a change.
    pub(super) fn follow(&self, unix: Duration) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let policy = self.shared.policy();
        let promises = self.shared.promises(self.clock.now());
        if told.policy.as_ref().is_some_and(|before| Arc::ptr_eq(before, &policy)) {
            self.path.set_promises(&policy, &promises);
        } else {
            if let Err(error) = self.path.set_policy(&policy, &promises) {
                tracing::error!("the kernel passes everything up until the configuration fits: {error}");
            }
            told.policy = Some(policy);
        }
        if let Some(keys) = self.shared.keys().filter(|keys| told.epoch != Some(keys.ring.epoch())) {
            self.path.set_keys(&keys.ring);
            told.epoch = Some(keys.ring.epoch());
        }
        self.path.heartbeat(unix);
    }

    /// Hands over to the detector what the plane has sighted.
    pub(super) fn hand_over_sightings(&self) {
        while let Some(sighting) = self.path.next_sighting() {
            self.shared.put_sighting(sighting);
        }
    }

    /// Frames that went up to the engine, by side.
    pub(super) fn passed_up(&self) -> [u64; 2] {
        self.path.passed_up()
    }
}

const ASKED_FOR: &str = "[plane] kind = \"xdp\"";
