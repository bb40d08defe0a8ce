//! Budgets: so many a second, in all or for each source prefix.
//!
//! The generic cell rate algorithm: a cell holds the time at which it would be empty again, and an event that would put
//! that more than a second ahead is refused. Constant memory, one compare-and-swap an event, nothing to refill.

use core::net::IpAddr;
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use super::flow_key::TableHasher;
use super::prefix;
use crate::time::Instant;

/// Events a second, or `None` for no limit.
pub type Rate = Option<NonZeroU32>;

/// One budget. After a pause it lets a second's worth through at once.
#[derive(Debug, Default)]
pub struct Budget(AtomicU64);

impl Budget {
    /// Takes one event out of the budget of `rate` a second; whether it was in it.
    pub fn take(&self, now: Instant, rate: Rate) -> bool {
        self.take_within(now, rate, BURST)
    }

    /// The same with the worth of `burst`, but at least one event, that may come at once.
    pub fn take_within(&self, now: Instant, rate: Rate, burst: Duration) -> bool {
        let Some(rate) = rate else { return true };
        let now = now.as_nanos();
        let before = self.0.load(Ordering::Relaxed);
        let mut empty_at = before;
        loop {
            let Some(after) = charged(empty_at, now, rate, burst) else { return false };
            match self.0.compare_exchange_weak(empty_at, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(other) => empty_at = other,
            }
        }
    }
}

/// Budgets by source prefix (IPv4 /24, IPv6 /64), each on its own.
///
/// A sketch of two rows: a prefix is refused only if both of its cells are spent. So a heavy prefix spends an innocent
/// one's budget only if they share both cells, a chance of 2^-30, and memory is the same for any number of prefixes.
pub struct PrefixBudgets {
    hasher: TableHasher,
    cells: Box<[AtomicU64]>,
}

impl PrefixBudgets {
    /// All unspent.
    pub fn new(hasher: TableHasher) -> PrefixBudgets {
        PrefixBudgets { hasher, cells: (0..ROW_LEN * 2).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Takes one event of `what` out of the budget of `address`'s prefix; whether it was in it.
    ///
    /// Two workers at once may count one event for two: a budget is a bound, not a ledger.
    pub fn take(&self, address: IpAddr, what: u16, now: Instant, rate: Rate) -> bool {
        self.take_on([rate], |_| prefix::places_at(&self.hasher, address, 0, what, ROW_LEN), now)
    }

    /// The same out of a budget of the address's own.
    pub fn take_own(&self, address: IpAddr, what: u16, now: Instant, rate: Rate) -> bool {
        self.take_on([rate], |_| prefix::places_of(&self.hasher, (address, what), ROW_LEN), now)
    }

    /// The same out of the budgets of the wider prefixes of IPv6, too, as [`prefix::widened`] has it: a /48 is one holder's. A /16
    /// of IPv4 is many parties', which must not spend each other's. For what an address proved to be there for: what can be
    /// forged would spend the budget of a whole provider.
    pub fn take_widened(&self, address: IpAddr, what: u16, now: Instant, rate: Rate) -> bool {
        if address.is_ipv4() {
            return self.take(address, what, now, rate);
        }
        let rates = prefix::WIDENING.map(|by| rate.map(|rate| rate.saturating_mul(by)));
        self.take_on(rates, |level| prefix::places_at(&self.hasher, address, level, what, ROW_LEN), now)
    }

    /// An event that is beyond one of the budgets is taken out of none.
    fn take_on<const N: usize>(
        &self,
        rates: [Rate; N],
        places_at: impl Fn(usize) -> [usize; 2],
        now: Instant,
    ) -> bool {
        let now = now.as_nanos();
        let mut charges = [None; N];
        for (level, (charge, rate)) in charges.iter_mut().zip(rates).enumerate() {
            let Some(rate) = rate else { return true };
            let cells = places_at(level).map(|place| self.cells.get(place));
            let [Some(first), Some(second)] = cells else { return true };
            // A cell from beyond a clock's leap counts as unspent.
            let settled = |cell: &AtomicU64| settled(cell.load(Ordering::Relaxed), now, BURST_NANOS);
            let least = settled(first).min(settled(second));
            let Some(after) = charged(least, now, rate, BURST) else { return false };
            *charge = Some([(first, settled(first).max(after)), (second, settled(second).max(after))]);
        }
        for (cell, after) in charges.into_iter().flatten().flatten() {
            cell.store(after, Ordering::Relaxed);
        }
        true
    }
}

/// When a cell that is empty at `empty_at` is empty after one more event, or `None` if that is beyond the burst.
fn charged(empty_at: u64, now: u64, rate: NonZeroU32, burst: Duration) -> Option<u64> {
    let interval = BURST_NANOS.checked_div(u64::from(rate.get())).unwrap_or(0).max(1);
    let burst = u64::try_from(burst.as_nanos()).unwrap_or(u64::MAX).max(interval);
    let after = settled(empty_at, now, burst).saturating_add(interval);
    (after <= now.saturating_add(burst)).then_some(after)
}

/// The cell at `now`: no credit for the past beyond the burst, and none of a future that the clock has left.
fn settled(empty_at: u64, now: u64, burst: u64) -> u64 {
    if empty_at > now.saturating_add(burst) { now } else { empty_at.max(now) }
}

/// A second's worth may come at once.
const BURST: Duration = Duration::from_secs(1);
const BURST_NANOS: u64 = 1_000_000_000;
const ROW_LEN: usize = 1 << 15;

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(rate: u32) -> Rate {
        NonZeroU32::new(rate)
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_second_s_worth_comes_at_once_and_then_as_time_passes() {
        let budget = Budget::default();
        let start = at(5_000);
        assert_eq!((0..1_000).filter(|_| budget.take(start, rate(10))).count(), 10);
        assert!(!budget.take(at(5_099), rate(10)));
        assert!(budget.take(at(5_100), rate(10)));
        assert!(!budget.take(at(5_100), rate(10)));
        assert_eq!((0..1_000).filter(|_| budget.take(at(9_000), rate(10))).count(), 10);
    }

    #[test]
    fn a_burst_of_more_than_a_second_is_one() {
        let budget = Budget::default();
        let take = |millis| budget.take_within(at(millis), rate(2), Duration::from_secs(8));
        assert_eq!((0..1_000).filter(|_| take(5_000)).count(), 16);
        assert!(!take(5_499) && take(5_500) && !take(5_500));
    }

    #[test]
    fn no_rate_is_no_limit_and_the_highest_rate_lets_nothing_starve() {
        let budget = Budget::default();
        assert!((0..10_000).all(|_| budget.take(at(1), None)));
        assert!((0..10_000).all(|_| budget.take(at(1), rate(u32::MAX))));
    }

    #[test]
    fn a_clock_that_leaps_back_a_day_does_not_shut_the_budget() {
        let budget = Budget::default();
        let prefixes = PrefixBudgets::new(TableHasher::new([1, 2]));
        let address = IpAddr::from([198, 18, 0, 1]);
        let day = at(100_000_000);
        assert!((0..10).all(|_| budget.take(day, rate(10)) && prefixes.take(address, 0, day, rate(10))));
        let before = at(13_600_000);
        assert!(budget.take(before, rate(10)) && prefixes.take(address, 0, before, rate(10)));
        let after = day.after(Duration::from_secs(86_400));
        assert!(budget.take(after, rate(10)) && prefixes.take(address, 0, after, rate(10)));
    }

    #[test]
    fn a_holder_of_a_48_spends_four_times_the_budget_of_a_64_and_nobody_else_s() {
        let prefixes = PrefixBudgets::new(TableHasher::new([1, 2]));
        let take = |site: u16, subnet: u16| {
            let address = IpAddr::from([0x2001, 0xdb8, site, subnet, 0, 0, 0, 1]);
            prefixes.take_widened(address, 3, at(50), rate(100))
        };
        assert_eq!((0..1_000).filter(|_| take(1, 0)).count(), 100, "a /64");
        assert_eq!((0..1_000).filter(|n| take(1, n % 256)).count(), 100, "the rest of its /56");
        assert_eq!((0..u16::MAX).filter(|n| take(1, *n)).count(), 200, "the rest of its /48");
        assert!((2..200).all(|site| take(site, 0)));
        assert!((0..1_000).all(|_| prefixes.take_widened(IpAddr::from([0; 4]), 3, at(50), None)));
    }

    #[test]
    fn a_24_spends_its_own_budget_and_not_that_of_its_16() {
        let prefixes = PrefixBudgets::new(TableHasher::new([1, 2]));
        let take = |third| prefixes.take_widened(IpAddr::from([198, 18, third, 1]), 3, at(50), rate(100));
        assert_eq!((0..1_000).filter(|_| take(1)).count(), 100);
        assert!((2..=255).all(|third| (0..100).all(|_| take(third))));
    }

    #[test]
    fn a_heavy_prefix_spends_its_own_budget_and_nobody_else_s() {
        let prefixes = PrefixBudgets::new(TableHasher::new([1, 2]));
        let take =
            |third: u8, last: u8| prefixes.take(IpAddr::from([198, 18, third, last]), 3, at(50), rate(100));
        assert_eq!((0..10_000).filter(|n| take(1, (*n % 256) as u8)).count(), 100);
        assert!((2..=255).all(|third| (0..100).all(|_| take(third, 1))));
        assert!(prefixes.take(IpAddr::from([198, 18, 1, 1]), 4, at(50), rate(100)), "another service");
    }
}
