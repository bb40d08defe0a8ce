//! A new configuration for a running process: all of the new file takes effect, or nothing does.

use std::path::Path;

use thiserror::Error;

use crate::config::{Config, ConfigError};
use crate::engine::policy::PolicyError;

/// Why nothing changed.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// The file is wrong.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The file changes what is fixed at the start.
    #[error("{} changed, which takes a restart: restart synwall, or take that back and reload", tables.join(", "))]
    NeedsRestart {
        /// The tables that differ.
        tables: Vec<&'static str>,
    },
    /// The services do not make a policy together with those that were removed.
    #[error("{0}")]
    Policy(#[from] PolicyError),
}

/// Reads the file at `path`, which may differ from `running` in what can change in a running process. Puts nothing in
/// force (`in_force` does).
///
/// # Errors
/// The file is wrong, or changes what is fixed at the start.
pub fn load(path: &Path, running: &Config) -> Result<Config, ReloadError> {
    let new = Config::load(path)?;
    let tables = fixed(running, &new);
    if tables.is_empty() { Ok(new) } else { Err(ReloadError::NeedsRestart { tables }) }
}

/// The tables that differ and cannot change in a running process.
fn fixed(running: &Config, new: &Config) -> Vec<&'static str> {
    [
        ("[bridge]", running.bridge == new.bridge),
        ("[cookie]", running.cookie == new.cookie),
        ("[state]", running.state == new.state),
        ("[attack]", running.attack == new.attack),
        ("[metrics]", running.metrics == new.metrics),
        ("[admin]", running.admin == new.admin),
        ("[log]", running.log == new.log),
        ("[plane] workers", running.plane.workers == new.plane.workers),
    ]
    .into_iter()
    .filter_map(|(table, is_equal)| (!is_equal).then_some(table))
    .collect()
}
