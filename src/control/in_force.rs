//! The policy in force: the configuration, what an operator changed since, and the links' MTUs.
//!
//! The one place that composes them. Whoever changes one of the three, a reload, an admin request, a block that expires or a
//! port whose MTU changes, does it here, one at a time, and the other two stay as they are.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::overrides::{OverrideError, Overrides};
use super::reload::{self, ReloadError};
use crate::config::{Config, Plane};
use crate::engine::Shared;
use crate::engine::policy::{Mode, Policy, PolicyError, Prefix, Service};
use crate::io::{Clock, MonotonicClock};

/// Configuration and overrides, and the engine that acts on them.
pub struct InForce {
    shared: Arc<Shared>,
    clock: MonotonicClock,
    /// Whether every translated connection that may be alive is known, so that a start-up grace does no harm.
    knows_all: Box<dyn Fn() -> bool + Send + Sync>,
    /// Called behind every change.
    on_change: Box<dyn Fn() + Send + Sync>,
    inner: Mutex<Inner>,
}

struct Inner {
    config: Config,
    overrides: Overrides,
}

/// A blocked prefix and how much longer; `None` until a restart.
pub type Blocked = (Prefix, Option<Duration>);

impl InForce {
    /// `config` is in force in `shared`, without overrides.
    pub fn new(
        config: Config,
        shared: Arc<Shared>,
        clock: MonotonicClock,
        knows_all: impl Fn() -> bool + Send + Sync + 'static,
        on_change: impl Fn() + Send + Sync + 'static,
    ) -> InForce {
        let inner = Mutex::new(Inner { config, overrides: Overrides::default() });
        InForce { shared, clock, knows_all: Box::new(knows_all), on_change: Box::new(on_change), inner }
    }

    /// Reads the file at `path` and puts its services, limits and filter in force. Overrides stay, but for those of services
    /// that are gone and of prefixes that are now allowed. How many services there are.
    ///
    /// # Errors
    /// Then everything is as it was.
    pub fn reload(&self, path: &Path) -> Result<usize, ReloadError> {
        let mut inner = self.lock();
        let config = reload::load(path, &inner.config)?;
        let mut overrides = inner.overrides.clone();
        let dropped = overrides.fit(&config);
        self.put(&config, &overrides)?;
        for what in dropped {
            tracing::warn!("the new configuration leaves no room for what was changed since: {what} ended");
        }
        let count = config.services.len();
        *inner = Inner { config, overrides };
        Ok(count)
    }

    /// The plane that the configuration asks for.
    pub fn plane(&self) -> Plane {
        self.lock().config.plane.clone()
    }

    /// Takes up the MTUs of the links to clients and to servers.
    pub fn set_mtus(&self, [client, server]: [u16; 2]) {
        let _inner = self.lock();
        self.shared.set_policy(Policy::clone(&self.shared.policy()).with_link_mtus(client, server));
        (self.on_change)();
    }

    /// Blocks `prefix` for `time`, or until a restart.
    ///
    /// # Errors
    /// Then everything is as it was.
    pub fn block(&self, prefix: Prefix, time: Option<Duration>) -> Result<(), OverrideError> {
        let end = time.map(|time| self.clock.now().after(time));
        self.change(|config, overrides| overrides.block(config, prefix, end))
    }

    /// Ends the block of `prefix`.
    ///
    /// # Errors
    /// Then everything is as it was.
    pub fn unblock(&self, prefix: Prefix) -> Result<(), OverrideError> {
        self.change(|_, overrides| overrides.unblock(prefix))
    }

    /// Gives the service `name` another mode, or with `None` the configured one.
    ///
    /// # Errors
    /// Then everything is as it was.
    pub fn set_mode(&self, name: &str, mode: Option<Mode>) -> Result<(), OverrideError> {
        self.change(|config, overrides| overrides.set_mode(config, name, mode))
    }

    /// Ends the blocks whose time is over. To be called every now and then: a block lasts that much longer.
    pub fn expire(&self) {
        let now = self.clock.now();
        if !self.lock().overrides.has_expired(now) {
            return;
        }
        let mut over = Vec::new();
        let outcome = self.change(|_, overrides| {
            over = overrides.expire(now);
            Ok(())
        });
        match outcome {
            Ok(()) => over.iter().for_each(|prefix| tracing::info!(%prefix, "block ended: its time is over")),
            Err(error) => tracing::error!("blocks cannot be ended: {error}"),
        }
    }

    /// What is blocked, in the order of addresses.
    pub fn blocks(&self) -> Vec<Blocked> {
        let now = self.clock.now();
        let blocks = self.lock().overrides.blocks();
        blocks.into_iter().map(|(prefix, end)| (prefix, end.map(|end| end.since(now)))).collect()
    }

    /// The services' names and the modes that the configuration gives them.
    pub fn configured_modes(&self) -> Vec<(String, Mode)> {
        let inner = self.lock();
        inner.config.services.iter().map(|service| (service.name.clone(), service.mode)).collect()
    }

    fn change(
        &self,
        change: impl FnOnce(&Config, &mut Overrides) -> Result<(), OverrideError>,
    ) -> Result<(), OverrideError> {
        let mut inner = self.lock();
        let mut overrides = inner.overrides.clone();
        change(&inner.config, &mut overrides)?;
        self.put(&inner.config, &overrides)?;
        inner.overrides = overrides;
        Ok(())
    }

    /// What comes under protection only now has a start-up grace.
    fn put(&self, config: &Config, overrides: &Overrides) -> Result<(), PolicyError> {
        let knows_all = (self.knows_all)();
        let before = self.shared.policy();
        self.shared.set_policy(overrides.over(config).policy_after(&before)?);
        let is_new = |service: &_| !was_protected(&before, service);
        self.shared.expect_answers(self.clock.now(), is_new);
        if knows_all {
            self.shared.grant_grace(self.clock.now(), is_new);
        }
        (self.on_change)();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether every connection to the service has gone through synwall's hands: its clients were challenged, or would have been.
fn was_protected(before: &Policy, service: &Service) -> bool {
    before.services().iter().any(|old| {
        let is_same = old.name == service.name && old.prefix == service.prefix && old.ports == service.ports;
        is_same && old.mode.protects()
    })
}
