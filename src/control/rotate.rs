//! Which key is in force when: epochs are counted from 1970, so that nodes with one master and right clocks agree.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cookie::{KeyRing, MasterKey};
use crate::engine::{Keys, Shared};
use crate::io::{Clock, MonotonicClock};
use crate::time::WallClock;

/// Installs the keys of the present epoch.
pub struct Rotation {
    master: MasterKey,
    epoch: Duration,
    installed: Option<u64>,
    installed_at: Arc<Mutex<Duration>>,
}

impl Rotation {
    /// A rotation of keys from `master` every `epoch`.
    pub fn new(master: MasterKey, epoch: Duration) -> Rotation {
        Rotation { master, epoch, installed: None, installed_at: Arc::default() }
    }

    /// When the keys in force were installed, since 1970; for whoever shows it.
    pub fn installed_at(&self) -> Arc<Mutex<Duration>> {
        self.installed_at.clone()
    }

    /// Installs the keys for `unix`, the time since 1970, unless they are installed; returns the time until the next.
    ///
    /// Whoever calls it at least every few seconds also follows a clock that is set, forwards or backwards.
    pub fn turn(&mut self, shared: &Shared, clock: &MonotonicClock, unix: Duration) -> Duration {
        let epoch = number(unix, self.epoch);
        if self.installed != Some(epoch) {
            let clock = WallClock { at: clock.now(), unix };
            shared.set_keys(Keys { ring: KeyRing::at(&self.master, epoch), clock });
            tracing::debug!(epoch, "cookie key rotated");
            self.installed = Some(epoch);
            *self.installed_at.lock().unwrap_or_else(PoisonError::into_inner) = unix;
        }
        let next = self.epoch.as_secs().max(1).saturating_mul(epoch.saturating_add(1));
        Duration::from_secs(next).saturating_sub(unix)
    }
}

/// The time since 1970; zero before.
#[expect(clippy::disallowed_methods, reason = "`control` supplies the wall clock")]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn number(unix: Duration, epoch: Duration) -> u64 {
    unix.as_secs().checked_div(epoch.as_secs()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::policy::{Limits, Policy};

    #[test]
    fn keys_change_at_the_boundary_and_follow_a_clock_that_is_set() {
        let shared = Shared::new(Policy::new(Vec::new(), Limits::default(), 1500).unwrap(), 1, [1, 2]);
        let clock = MonotonicClock::new();
        let mut rotation = Rotation::new(MasterKey::from_bytes([7; 32]), Duration::from_secs(32));
        let millis = Duration::from_millis;
        for (unix, epoch, rest) in [
            (millis(32_000), 1, millis(32_000)),
            (millis(63_999), 1, millis(1)),
            (millis(64_000), 2, millis(32_000)),
            (millis(640_500), 20, millis(31_500)),
            (millis(1_000), 0, millis(31_000)),
        ] {
            assert_eq!(rotation.turn(&shared, &clock, unix), rest);
            assert_eq!(shared.snapshot().key_epoch, Some(epoch));
        }
    }
}
