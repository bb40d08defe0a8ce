//! Sequence numbers: arithmetic modulo 2^32 and nothing else (RFC 9293 §3.4).

/// A point in a TCP's sequence space.
///
/// There is no `Ord`: which of two numbers comes first depends on where one looks from, and is asked with
/// [`SeqNumber::is_before`] within half the space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SeqNumber(pub u32);

impl SeqNumber {
    /// The number `count` octets further on.
    #[must_use]
    pub const fn add(self, count: u32) -> SeqNumber {
        SeqNumber(self.0.wrapping_add(count))
    }

    /// The number `count` octets back.
    #[must_use]
    pub const fn sub(self, count: u32) -> SeqNumber {
        SeqNumber(self.0.wrapping_sub(count))
    }

    /// Octets from `earlier` to `self`, modulo 2^32.
    pub const fn distance_from(self, earlier: SeqNumber) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether `self` lies in the half of the space before `other`.
    pub const fn is_before(self, other: SeqNumber) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Whether `self` lies in the half of the space behind `other`.
    pub const fn is_after(self, other: SeqNumber) -> bool {
        other.is_before(self)
    }

    /// The later of the two.
    #[must_use]
    pub const fn max(self, other: SeqNumber) -> SeqNumber {
        if self.is_before(other) { other } else { self }
    }
}

impl core::fmt::Display for SeqNumber {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn order_holds_across_the_wrap() {
        let low = SeqNumber(u32::MAX - 1);
        let high = low.add(3);
        assert_eq!(high, SeqNumber(1));
        assert!(low.is_before(high) && high.is_after(low));
        assert!(!low.is_before(low));
        assert_eq!(low.max(high), high);
        assert_eq!(high.distance_from(low), 3);
        assert_eq!(high.sub(3), low);
    }

    #[test]
    fn half_the_space_away_is_the_limit() {
        assert!(SeqNumber(0).is_before(SeqNumber(0x7fff_ffff)));
        assert!(!SeqNumber(0).is_after(SeqNumber(0x7fff_ffff)));
        assert!(SeqNumber(0x8000_0001).is_before(SeqNumber(0)));
    }

    proptest! {
        #[test]
        fn add_sub_and_distance_undo_each_other(from: u32, count: u32) {
            let (from, to) = (SeqNumber(from), SeqNumber(from).add(count));
            prop_assert_eq!(to.distance_from(from), count);
            prop_assert_eq!(to.sub(count), from);
            prop_assert_eq!(from.distance_from(to), count.wrapping_neg());
            prop_assert_eq!(to.0, from.0.wrapping_add(count));
        }

        #[test]
        fn within_half_the_space_exactly_one_of_before_equal_and_after_holds(from: u32, count in 0..1u32 << 31) {
            let (from, to) = (SeqNumber(from), SeqNumber(from).add(count));
            prop_assert_eq!((from.is_before(to), to.is_before(from)), (count != 0, false));
            prop_assert_eq!((from.is_after(to), to.is_after(from)), (false, count != 0));
            prop_assert_eq!((from.max(to), to.max(from)), (to, to));
        }

        #[test]
        fn order_does_not_depend_on_where_the_space_begins(a: u32, b: u32, shift: u32) {
            let (a, b) = (SeqNumber(a), SeqNumber(b));
            prop_assert_eq!(a.is_before(b), a.add(shift).is_before(b.add(shift)));
        }
    }
}
