//! A new policy while frames flow: all of the new file takes effect, or nothing does.

use std::path::Path;

use thiserror::Error;

use crate::config::{Config, ConfigError};
use crate::engine::Shared;
use crate::engine::policy::{Policy, PolicyError, Service};
use crate::time::Instant;

/// Why nothing changed.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// The file is wrong.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The file changes what is fixed at the start.
    #[error("{} changed, which takes a restart", tables.join(", "))]
    NeedsRestart {
        /// The tables that differ.
        tables: Vec<&'static str>,
    },
    /// The services do not make a policy together with those that were removed.
    #[error("{0}")]
    Policy(#[from] PolicyError),
}

/// Reads the file at `path` and puts its services and limits in force; `running` is what synwall was started with. If
/// `grace` says what time it is, what comes under protection only now has a start-up grace.
///
/// # Errors
/// Then everything is as it was.
pub fn reload(
    path: &Path,
    running: &Config,
    shared: &Shared,
    grace: Option<Instant>,
) -> Result<Config, ReloadError> {
    let new = Config::load(path)?;
    let tables = fixed(running, &new);
    if !tables.is_empty() {
        return Err(ReloadError::NeedsRestart { tables });
    }
    let before = shared.policy();
    shared.set_policy(new.policy_after(&before)?);
    if let Some(now) = grace {
        shared.grant_grace(now, |service| !was_protected(&before, service));
    }
    Ok(new)
}

/// Whether every connection to the service has gone through synwall's hands: its clients were challenged already.
fn was_protected(before: &Policy, service: &Service) -> bool {
    before.services().iter().any(|old| {
        let is_same = old.name == service.name && old.prefix == service.prefix && old.ports == service.ports;
        is_same && old.mode.protects()
    })
}

/// The tables that differ and cannot change in a running process.
fn fixed(running: &Config, new: &Config) -> Vec<&'static str> {
    [
        ("[bridge]", running.bridge == new.bridge),
        ("[cookie]", running.cookie == new.cookie),
        ("[state]", running.state == new.state),
        ("[attack]", running.attack == new.attack),
        ("[metrics]", running.metrics == new.metrics),
        ("[log]", running.log == new.log),
        ("[plane]", running.plane == new.plane),
    ]
    .into_iter()
    .filter_map(|(table, is_equal)| (!is_equal).then_some(table))
    .collect()
}
