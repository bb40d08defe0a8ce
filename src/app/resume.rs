//! What an earlier run left: its cookie key, its flows, and what follows from how it ended.

use std::sync::Arc;

use super::plane::Fast;
use crate::config::Config;
use crate::control::key::{self, KeyError};
use crate::control::rotate::unix_time;
use crate::control::state::{Found, StateDirectory};
use crate::cookie::MasterKey;
use crate::engine::export::Restored;
use crate::engine::{Engine, Shared};
use crate::io::{Clock, MonotonicClock};

/// The state directory, if it is wanted and usable.
pub(super) fn open_state(config: &Config) -> Option<Arc<StateDirectory>> {
    let opened = StateDirectory::open(config.state.directory.as_deref()?);
    let refused = |error: &_| {
        tracing::error!(
            "connections will not survive a restart, and those that began before this start are not let through: {error}"
        );
    };
    opened.inspect_err(refused).ok().map(Arc::new)
}

/// The master key: configured, kept from an earlier run, or random.
pub(super) fn master_key(config: &Config, state: Option<&StateDirectory>) -> Result<MasterKey, KeyError> {
    match (&config.cookie.key_file, state) {
        (Some(file), _) => key::master(Some(file)),
        (None, Some(state)) => key::kept(&state.key_file()).or_else(|error| {
            tracing::error!("cookies will not survive a restart: {error}");
            key::master(None)
        }),
        (None, None) => key::master(None),
    }
}

/// Takes over what an earlier run left, before frames move.
pub(super) fn resume(
    state: Option<&StateDirectory>,
    shared: &Shared,
    engine: &mut Engine,
    clock: &MonotonicClock,
    fast: &Fast,
) {
    shared.expect_answers(clock.now(), |_| true);
    let adopted = fast.adopt(engine, clock);
    let found = state.map(|state| state.restore(engine, clock.now(), unix_time(), fast.was_there()));
    if let Some(Restored { flows, expired, lost }) = adopted {
        tracing::info!(flows, expired, lost, "connections taken over, which the kernel has kept going");
    } else if let Some(found) = found {
        log_found(found);
    }
    let Some(state) = state else { return };
    if let Err(error) = state.begin(shared, clock) {
        tracing::error!("flows cannot be saved, a crash would lose them: {error}");
    }
    if knows_all(state, shared) {
        shared.grant_grace(clock.now(), |_| true);
    } else {
        tracing::warn!("connections that began before this start are dropped: some may have been translated");
    }
}

fn log_found(found: Found) {
    match found {
        Found::Nothing => tracing::info!("no state of an earlier run"),
        Found::State { restored: Restored { flows, expired, lost }, past } if past.is_exact => {
            tracing::info!(flows, expired, lost, age = ?past.age, "state restored");
        }
        Found::State { restored: Restored { flows, expired, lost }, past } => tracing::warn!(
            flows, expired, lost, age = ?past.age,
            "synwall had not been stopped: state restored from its last checkpoint, connections since then are lost"
        ),
        Found::Damaged(reason) => tracing::error!("saved state {reason}: all connections are lost"),
    }
}

/// Whether every translated connection that may be alive is known.
pub(super) fn knows_all(state: &StateDirectory, shared: &Shared) -> bool {
    let limits = shared.policy().limits;
    state.knows_all(unix_time(), limits.established.max(limits.half_closed))
}
