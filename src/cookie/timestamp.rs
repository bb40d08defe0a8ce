//! The TSval of a SYN-ACK, which carries what the ISN has no room for.
//!
//! `TSval = clock11 << 21 | ecn << 20 | (MAC20 ^ clock11)`. The client must echo it as TSecr (RFC 7323 §3.2), so it adds
//! 20 bits to the MAC and carries one more option. Read RFC 7323 §3 and §5 first.
//!
//! # Security
//!
//! The clock is under no MAC: it only makes the TSvals of successive connections rise, and nothing is decided from it.
//! It is folded into the MAC bits so that a TSecr with any single bit changed is refused; without that, 11 of the 32
//! bits could be anything. A blind guess succeeds with 2^-20 either way. Someone who holds a genuine TSval can change
//! a clock bit and the MAC bit below it together, and gains nothing: the clock is not read.

/// The TSval for `unix_seconds`.
pub(crate) fn encode(unix_seconds: u64, ecn: bool, mac20: u32) -> u32 {
    let [.., high, low] = unix_seconds.to_be_bytes();
    let clock = u32::from(u16::from_be_bytes([high, low])) & CLOCK;
    let ecn = if ecn { ECN } else { 0 };
    (clock << CLOCK_SHIFT) | ecn | ((mac20 ^ clock) & MAC20)
}

/// What a TSecr carries if it echoes one of our TSvals: whether ECN was negotiated, and MAC20.
pub(crate) const fn decode(tsecr: u32) -> (bool, u32) {
    (tsecr & ECN != 0, (tsecr ^ (tsecr >> CLOCK_SHIFT)) & MAC20)
}

const CLOCK_SHIFT: u32 = 21;
const CLOCK: u32 = 0x7ff;
const ECN: u32 = 1 << 20;
const MAC20: u32 = 0xf_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_values_decode() {
        for unix_seconds in [0, 1, 0x7ff, 0x800, 1_760_000_000, u64::MAX] {
            for ecn in [false, true] {
                for mac20 in [0, 1, 0x5_5555, MAC20] {
                    assert_eq!(decode(encode(unix_seconds, ecn, mac20)), (ecn, mac20));
                }
            }
        }
    }

    #[test]
    fn fields_lie_where_the_layout_puts_them() {
        assert_eq!(encode(0x7ff, false, 0), 0xffe0_07ff);
        assert_eq!(encode(0x800, true, 0xa_bcde), 0x001a_bcde);
        assert_eq!(encode(3, false, 0xa_bcde), 0x006a_bcdd);
    }

    /// Row 11.
    #[test]
    fn clock_rises_every_second_and_wraps_after_2048() {
        let clock = |seconds| encode(seconds, false, 0) >> CLOCK_SHIFT;
        assert_eq!([clock(0), clock(1), clock(2047), clock(2048)], [0, 1, 2047, 0]);
    }

    /// Row 34.
    #[test]
    fn any_single_flipped_bit_changes_what_is_decoded() {
        let tsval = encode(1_760_000_000, true, 0xa_bcde);
        for bit in 0..u32::BITS {
            assert_ne!(decode(tsval ^ (1 << bit)), decode(tsval), "bit {bit}");
        }
    }
}
