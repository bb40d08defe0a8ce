//! Time as a value.
//!
//! Nothing below `io` asks what time it is: every function that needs the time takes an [`Instant`]. A test advances
//! it as it likes; the appliance derives it from the monotonic clock.

use core::time::Duration;

/// A point on a monotonic clock, in nanoseconds since an origin that the caller chose.
///
/// 64 bits of nanoseconds last for 584 years; arithmetic saturates, so that no input can wrap it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The origin of the clock.
    pub const ZERO: Instant = Instant(0);

    /// The instant `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The instant `duration` later.
    pub fn after(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(saturating_nanos(duration)))
    }

    /// The instant `duration` earlier; the origin if there is none.
    pub fn before(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_sub(saturating_nanos(duration)))
    }

    /// The time from `earlier` to `self`; zero if `earlier` is in fact later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Relates the monotonic clock to Unix time, for what several nodes must agree on (the clock in a cookie's TSval).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WallClock {
    /// The instant at which `unix` was read.
    pub at: Instant,
    /// Time since the Unix epoch at that instant.
    pub unix: Duration,
}

impl WallClock {
    /// The time since the Unix epoch at `now`. An instant before the reading counts as the reading.
    pub fn unix_at(&self, now: Instant) -> Duration {
        self.unix.saturating_add(now.since(self.at))
    }
}

fn saturating_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(
            Instant::from_nanos(u64::MAX - 1).after(Duration::from_secs(1)),
            Instant::from_nanos(u64::MAX)
        );
        assert_eq!(Instant::ZERO.after(Duration::MAX), Instant::from_nanos(u64::MAX));
        assert_eq!(Instant::ZERO.since(Instant::from_nanos(5)), Duration::ZERO);
        assert_eq!(Instant::from_nanos(5).before(Duration::from_nanos(3)), Instant::from_nanos(2));
        assert_eq!(Instant::from_nanos(5).before(Duration::MAX), Instant::ZERO);
        assert_eq!(Instant::from_nanos(7).since(Instant::from_nanos(5)), Duration::from_nanos(2));
    }

    #[test]
    fn wall_clock_goes_on_from_its_reading() {
        let clock = WallClock { at: Instant::from_nanos(500_000_000), unix: Duration::from_millis(10_700) };
        assert_eq!(clock.unix_at(Instant::from_nanos(800_000_000)), Duration::from_secs(11));
        assert_eq!(clock.unix_at(Instant::ZERO), Duration::from_millis(10_700));
    }
}
