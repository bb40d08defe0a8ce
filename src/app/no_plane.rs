//! A build without the XDP plane: the raw sockets alone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;

use crate::config::{Config, PlaneKind};
use crate::engine::export::Restored;
use crate::engine::{Engine, Shared};
use crate::io::MonotonicClock;
use crate::metrics::PlaneSample;

/// No XDP plane.
pub(super) struct Fast {
    reason: Option<String>,
}

impl Fast {
    /// # Errors
    /// XDP was asked for by name.
    pub(super) fn open(config: &Config) -> anyhow::Result<Fast> {
        match config.plane.kind {
            PlaneKind::Pnet => Ok(Fast { reason: None }),
            PlaneKind::Auto => Ok(Fast { reason: Some(MISSING.into()) }),
            PlaneKind::Xdp => bail!("[plane] kind = \"xdp\": {MISSING}"),
        }
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
        let reason = self.reason.clone();
        move || PlaneSample { reason: reason.clone(), ..PlaneSample::default() }
    }

    pub(super) fn follower(&self) -> impl Fn() + Send + Sync + use<> {
        || ()
    }

    pub(super) fn change(&mut self, config: &Config, _: &Arc<Shared>, _: MonotonicClock) {
        match Fast::open(config) {
            Ok(new) => *self = new,
            Err(error) => tracing::error!("raw sockets alone, without XDP: {error:#}"),
        }
    }

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

const MISSING: &str = "this synwall was built without the feature `xdp`";
