//! Which key is in force when: epochs are counted from 1970, so that nodes with one master and right clocks agree.
//!
//! A clock that is set, forwards or backwards, changes the epoch in the middle of handshakes. The key that was in force until
//! then stays valid beside the new one, as at any other change, so no cookie under way is lost. Where the parity, by which
//! cookies name their key, is the same, the key in force stays for the rest of the new epoch.

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
    /// A caller that comes at least every few seconds also follows a clock that is set, forwards or backwards.
    pub fn turn(&mut self, shared: &Shared, clock: &MonotonicClock, unix: Duration) -> Duration {
        let epoch = number(unix, self.epoch);
        let ring = match self.installed {
            None => Some(KeyRing::at(&self.master, epoch)),
            Some(before) => KeyRing::following(&self.master, epoch, before),
        };
        if let Some(ring) = ring {
            let clock = WallClock { at: clock.now(), unix };
            shared.set_keys(Keys { ring, clock });
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
        // Each with the epochs whose cookies are accepted: the one that was current before always is.
        for (unix, epochs, rest) in [
            (millis(32_000), [1, 0], millis(32_000)),
            (millis(63_999), [1, 0], millis(1)),
            (millis(64_000), [2, 1], millis(32_000)),
            (millis(64_500), [2, 1], millis(31_500)),
            // A second back, across the boundary, and on again.
            (millis(63_500), [1, 2], millis(500)),
            (millis(64_000), [2, 1], millis(32_000)),
            // Far on: the parity is the same, and the key stays for the rest of that epoch.
            (millis(640_500), [2, 1], millis(31_500)),
            (millis(672_000), [21, 2], millis(32_000)),
            (millis(704_000), [22, 21], millis(32_000)),
            // Far back.
            (millis(1_000), [22, 21], millis(31_000)),
            (millis(32_000), [1, 22], millis(32_000)),
            (millis(64_000), [2, 1], millis(32_000)),
        ] {
            assert_eq!(rotation.turn(&shared, &clock, unix), rest);
            let ring = &shared.keys().unwrap().ring;
            assert_eq!(ring.epoch(), epochs[0], "at {unix:?}");
            assert!((0..30).all(|epoch| ring.accepts(epoch) == epochs.contains(&epoch)), "at {unix:?}");
        }
    }
}
