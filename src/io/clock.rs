//! The only clock of the packet path.

use std::time::Duration;

use crate::time::Instant;

/// Says what time it is.
pub trait Clock {
    /// The present; never earlier than what it said before.
    fn now(&self) -> Instant;
}

/// The system's monotonic clock; it says `BEFORE` when the value is made. Copies share their origin, so workers that are
/// handed copies of one clock agree on the time.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    origin: std::time::Instant,
}

impl MonotonicClock {
    /// A clock that starts now.
    pub fn new() -> MonotonicClock {
        MonotonicClock { origin: read_clock() }
    }
}

impl Default for MonotonicClock {
    fn default() -> MonotonicClock {
        MonotonicClock::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Instant {
        Instant::ZERO.after(BEFORE).after(read_clock().saturating_duration_since(self.origin))
    }
}

/// What an earlier run saved was last used before this one's clock began: a year is left for it.
const BEFORE: Duration = Duration::from_secs(366 * 86_400);

#[expect(clippy::disallowed_methods, reason = "the one place where time enters")]
fn read_clock() -> std::time::Instant {
    std::time::Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_agree_and_time_does_not_run_back() {
        let clock = MonotonicClock::new();
        let copy = clock;
        let first = clock.now();
        let second = copy.now();
        assert!(first <= second && second <= clock.now());
    }
}
