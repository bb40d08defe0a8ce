//! A build without the XDP plane: the raw sockets alone.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::control::plane::{self, Choice};
use crate::engine::export::Restored;
use crate::engine::{Engine, Shared};
use crate::io::MonotonicClock;
use crate::metrics::PlaneSample;

/// No XDP plane, and why.
pub(super) struct Fast {
    reason: Option<&'static str>,
}

impl Fast {
    /// # Errors
    /// None: `config` takes no other plane.
    pub(super) fn open(config: &Config) -> anyhow::Result<Fast> {
        let reason = match plane::choose(config) {
            Choice::Pnet(reason) => reason.map(|reason| reason.label),
            Choice::Xdp => None,
        };
        Ok(Fast { reason })
    }

    pub(super) fn was_there(&self) -> bool {
        false
    }

    pub(super) fn adopt(&self, _: &mut Engine, _: &MonotonicClock) -> Option<Restored> {
        None
    }

    pub(super) fn begin(&mut self, _: &Arc<Shared>, _: MonotonicClock) -> anyhow::Result<()> {
        Ok(())
    }

    pub(super) fn attach(&mut self, _: &Config, _: &Shared, _: MonotonicClock) -> anyhow::Result<()> {
        Ok(())
    }

    pub(super) fn keeper(&self) -> Option<Arc<Keeper>> {
        None
    }

    pub(super) fn sampler(&self) -> impl Fn() -> PlaneSample + Send + Sync + use<> {
        let reason = self.reason;
        move || PlaneSample { reason, ..PlaneSample::default() }
    }

    pub(super) fn follower(&self) -> impl Fn() + Send + Sync + use<> {
        || ()
    }

    pub(super) fn change(&mut self, _: &Config, _: &Arc<Shared>, _: MonotonicClock) {}

    pub(super) fn take_down(&mut self, _: &Shared, _: MonotonicClock) {}

    pub(super) fn leave(&mut self) {}
}

/// There is nothing to be kept up to date.
pub(super) enum Keeper {}

impl Keeper {
    pub(super) fn follow(&self, _: Duration) {
        match *self {}
    }

    pub(super) fn hand_over_sightings(&self) {
        match *self {}
    }
}
