//! The TSval of a SYN-ACK, which carries what the ISN has no room for.
//!
//! `TSval = clock19 << 13 | ecn << 12 | scale << 8 | (MAC8 ^ fold(clock19))`. The client must echo it as TSecr (RFC 7323
//! §3.2), so it adds 8 bits to the MAC, carries two more options, and tells when it was made. Read RFC 7323 §3 and §5
//! first.
//!
//! # Security
//!
//! The clock is under no MAC, so that the ISN stays the same for a SYN that is repeated. It is folded into the MAC bits, so
//! that a TSecr with any single bit changed is refused; a blind guess succeeds with 2^-8 beside the ISN's 2^-24. A client that
//! holds a genuine TSval can change a clock bit and a MAC bit together. It then lies about its own round trip, which it could
//! do by waiting: whether a cookie is genuine does not depend on the clock.

use core::time::Duration;

/// The fields of a TSval beside the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// Whether ECN was negotiated.
    pub(crate) ecn: bool,
    /// See [`super::layout::scale`]; four bits.
    pub(crate) scale: u8,
    pub(crate) mac8: u8,
}

/// The TSval at `unix`.
pub(crate) fn encode(unix: Duration, content: Content) -> u32 {
    let clock = clock_at(unix);
    let ecn = if content.ecn { ECN } else { 0 };
    let scale = u32::from(content.scale) << SCALE_SHIFT & SCALE;
    (clock << CLOCK_SHIFT) | ecn | scale | u32::from(content.mac8 ^ fold(clock))
}

/// The fields of a TSecr that echoes one of our TSvals.
pub(crate) fn decode(tsecr: u32) -> Content {
    let [.., mac8] = tsecr.to_be_bytes();
    let [.., scale] = ((tsecr & SCALE) >> SCALE_SHIFT).to_be_bytes();
    Content { ecn: tsecr & ECN != 0, scale, mac8: mac8 ^ fold(tsecr >> CLOCK_SHIFT) }
}

/// How long before `unix` the TSval that `tsecr` echoes was made, to one tick more or less; at most 37 minutes.
pub(crate) fn age(tsecr: u32, unix: Duration) -> Duration {
    let ticks = clock_at(unix).wrapping_sub(tsecr >> CLOCK_SHIFT) & CLOCK;
    Duration::from_nanos(u64::from(ticks) << TICK_SHIFT)
}

/// The clock: units of 2^22 ns of Unix time, 4.2 ms, which go around after 37 minutes.
fn clock_at(unix: Duration) -> u32 {
    let ticks = unix.as_nanos() >> TICK_SHIFT;
    let [.., a, b, c, d] = ticks.to_be_bytes();
    u32::from_be_bytes([a, b, c, d]) & CLOCK
}

/// The clock's 19 bits in 8: each of them changes one.
fn fold(clock: u32) -> u8 {
    let [_, high, middle, low] = clock.to_be_bytes();
    high ^ middle ^ low
}

/// After how long the clock begins anew.
#[cfg(test)]
const LAP: Duration = Duration::from_nanos(1 << (19 + TICK_SHIFT));

const TICK_SHIFT: u32 = 22;
const CLOCK_SHIFT: u32 = 13;
const CLOCK: u32 = 0x7_ffff;
const ECN: u32 = 1 << 12;
const SCALE_SHIFT: u32 = 8;
const SCALE: u32 = 0xf << SCALE_SHIFT;

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_nanos(1 << TICK_SHIFT);

    #[test]
    fn encoded_values_decode() {
        for unix in [Duration::ZERO, TICK, LAP - TICK, LAP, Duration::from_secs(1_760_000_000), Duration::MAX]
        {
            for ecn in [false, true] {
                for scale in 0..16 {
                    for mac8 in [0, 1, 0x55, 0xff] {
                        let content = Content { ecn, scale, mac8 };
                        assert_eq!(decode(encode(unix, content)), content);
                    }
                }
            }
        }
    }

    #[test]
    fn fields_lie_where_the_layout_puts_them() {
        let at = |ticks: u32, ecn, scale, mac8| encode(TICK * ticks, Content { ecn, scale, mac8 });
        assert_eq!(at(0x7_ffff, false, 0, 0), 0xffff_e007);
        assert_eq!(at(0x8_0000, true, 15, 0xab), 0x0000_1fab);
        assert_eq!(at(3, false, 8, 0xab), 0x0000_68a8);
    }

    /// Row 11.
    #[test]
    fn clock_rises_with_every_tick_and_wraps_after_a_lap() {
        let clock = |unix| encode(unix, Content::default()) >> CLOCK_SHIFT;
        assert_eq!(
            [clock(TICK - Duration::from_nanos(1)), clock(TICK), clock(LAP - TICK), clock(LAP)],
            [0, 1, 0x7_ffff, 0]
        );
    }

    #[test]
    fn age_is_the_time_since_to_a_tick() {
        let made = Duration::from_secs(1_760_000_000);
        let tsval = encode(made, Content::default());
        for millis in [0, 1, 4, 5, 40, 250, 1_000, 60_000, 2_000_000] {
            let passed = Duration::from_millis(millis);
            let age = age(tsval, made + passed);
            assert!(age < passed + TICK && age + TICK > passed, "{age:?} for {passed:?}");
        }
        assert_eq!(age(tsval, made - TICK), LAP - TICK, "a clock that was set back");
    }

    /// Row 34.
    #[test]
    fn any_single_flipped_bit_changes_what_is_decoded() {
        let content = Content { ecn: true, scale: 9, mac8: 0xbc };
        let tsval = encode(Duration::from_secs(1_760_000_000), content);
        for bit in 0..u32::BITS {
            assert_ne!(decode(tsval ^ (1 << bit)), content, "bit {bit}");
        }
    }
}
