//! The bits of a cookie: the flags octet, the `extra` and `scale` octets, the tables of MSS and window scale, the ISN.
//!
//! Owns what each bit means and nothing of who may set it. Every function is total: any octets decode to some options,
//! any offer encodes to some octets. Read RFC 9293 §3.7.1 (MSS) and RFC 7323 §2.2 (window scale) first; `docs/cookie.md`
//! has a picture.

use crate::cookie::Offer;
use crate::wire::seq::SeqNumber;
use crate::wire::tcp_options::MAX_WINDOW_SCALE;

/// The version of this layout, in the upper half of the `extra` octet.
pub const VERSION: u8 = 2;

/// The MSS values that a cookie without timestamps can carry over IPv4, ascending: the floor, the RFC 9293 default, then
/// what tunnels, Ethernet and jumbo frames make common.
pub const MSS_IPV4: [u16; 8] = [SMALLEST_MSS, 536, 960, 1220, 1360, 1440, 1460, 8960];

/// The same over IPv6, ascending: the RFC 9293 default third.
pub const MSS_IPV6: [u16; 8] = [SMALLEST_MSS, 536, 1220, 1280, 1360, 1420, 1440, 8940];

/// The MSS values that a cookie with timestamps can carry, ascending, over either family: the floor, 32 in steps of 36, 13
/// in steps of 20 from the default of IPv6 to that of Ethernet, 1432 and 1452 for PPPoE, 15 in steps of 500 up to jumbo
/// frames, and theirs over IPv6.
pub const MSS_FINE: [u16; 64] = fine_table();

/// The least MSS that a sender goes by, however little its peer announces: Linux's TCP_MIN_SND_MSS. Smaller segments would
/// be a header for every few octets (CVE-2019-11479).
pub const SMALLEST_MSS: u16 = 48;

/// The window scales that a cookie without timestamps can carry, ascending: no option (not the same as a shift of 0) first.
pub const WSCALE: [Option<u8>; 8] = [None, Some(0), Some(2), Some(4), Some(6), Some(7), Some(8), Some(10)];

/// The flags octet: `parity · SACK · options (6)`, most significant bit first. Without timestamps the options are the indices
/// of window scale (3) and MSS (3); with them the index of the MSS alone, and the window scale is in the TSval.
///
/// It travels inside the ISN, so a check can read it before it knows whether the cookie is genuine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags(pub(crate) u8);

impl Flags {
    /// The flags of a cookie for `offer` in `epoch`, MSS and window scale rounded down to the tables.
    pub(crate) fn new(family: Family, epoch: u64, offer: &Offer) -> Flags {
        let parity = if is_odd(epoch) { PARITY } else { 0 };
        let sack = if offer.sack { SACK } else { 0 };
        let options = match offer.timestamps {
            true => fine_index(offer.mss),
            false => (wscale_index(offer.wscale) << 3) | family.mss_index(offer.mss),
        };
        Flags(parity | sack | options)
    }

    /// Whether the cookie was minted in an odd epoch.
    pub(crate) const fn is_odd_epoch(self) -> bool {
        self.0 & PARITY != 0
    }

    /// Whether SACK was granted.
    pub(crate) const fn has_sack(self) -> bool {
        self.0 & SACK != 0
    }

    /// The window scale of a cookie without timestamps, rounded down.
    pub(crate) fn wscale(self) -> Option<u8> {
        WSCALE.get(usize::from((self.0 >> 3) & INDEX)).copied().flatten()
    }

    /// The client's MSS in a cookie without timestamps, rounded down.
    pub(crate) fn mss(self, family: Family) -> u16 {
        family.mss_table().get(usize::from(self.0 & INDEX)).copied().unwrap_or(SMALLEST_MSS)
    }

    /// The client's MSS in a cookie with timestamps, rounded down.
    pub(crate) fn fine_mss(self) -> u16 {
        MSS_FINE.get(usize::from(self.0 & FINE_INDEX)).copied().unwrap_or(SMALLEST_MSS)
    }
}

/// Whether `epoch` has the parity that sets the topmost flag.
pub(crate) const fn is_odd(epoch: u64) -> bool {
    epoch & 1 == 1
}

/// The `extra` octet: under the MAC but not in the ISN, because the ACK itself shows what it says.
pub(crate) const fn extra(has_timestamps: bool, ecn: bool) -> u8 {
    let timestamps = if has_timestamps { EXTRA_TIMESTAMPS } else { 0 };
    let ecn = if ecn { EXTRA_ECN } else { 0 };
    (VERSION << 4) | ecn | timestamps
}

/// The `scale` octet of a cookie with timestamps: 0 is no window scale, else one more than the scale. Scales above 14 count
/// as 14 (RFC 7323 §2.3).
pub(crate) fn scale(wscale: Option<u8>) -> u8 {
    wscale.map_or(0, |shift| shift.min(MAX_WINDOW_SCALE).saturating_add(1))
}

/// The window scale that a `scale` octet tells.
pub(crate) fn wscale_of(scale: u8) -> Option<u8> {
    scale.checked_sub(1)
}

/// The table of MSS values that applies without timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6, IPv4-mapped addresses included.
    V6,
}

impl Family {
    const fn mss_table(self) -> &'static [u16; 8] {
        match self {
            Family::V4 => &MSS_IPV4,
            Family::V6 => &MSS_IPV6,
        }
    }

    fn mss_index(self, mss: u16) -> u8 {
        last_not_above(self.mss_table().iter().map(|&entry| entry <= mss))
    }
}

/// The truncated MAC as the ISN carries it: `MAC24 << 8 | (flags ^ MAC24 >> 16)`.
///
/// The flags are masked with the MAC's first octet so that an ISN shows no constant bits.
pub(crate) const fn isn(mac24: [u8; 3], flags: Flags) -> SeqNumber {
    let [first, second, third] = mac24;
    SeqNumber(u32::from_be_bytes([first, second, third, flags.0 ^ first]))
}

/// What an ISN carries if it is one of ours: the MAC and the flags it claims.
pub(crate) const fn split_isn(isn: SeqNumber) -> ([u8; 3], Flags) {
    let [first, second, third, masked] = isn.0.to_be_bytes();
    ([first, second, third], Flags(masked ^ first))
}

/// The window scale's place in [`WSCALE`]. Scales above 14 count as 14 (RFC 7323 §2.3) and so share the last place.
fn wscale_index(wscale: Option<u8>) -> u8 {
    last_not_above(WSCALE.iter().map(|&entry| entry <= wscale))
}

/// The place of the MSS in [`MSS_FINE`].
fn fine_index(mss: u16) -> u8 {
    last_not_above(MSS_FINE.iter().map(|&entry| entry <= mss))
}

/// The index of the last entry that is not above the value, 0 if all are. Looks at all of them, so it never branches.
fn last_not_above(is_not_above: impl Iterator<Item = bool>) -> u8 {
    is_not_above.map(u8::from).fold(0, u8::wrapping_add).saturating_sub(1)
}

// Constants are computed when this is compiled: an overflow or a bad index would not compile.
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
const fn fine_table() -> [u16; 64] {
    let mut table = [SMALLEST_MSS; 64];
    let (mut at, mut mss) = (1, 68);
    while at < table.len() {
        table[at] = mss;
        at += 1;
        mss = match mss {
            ..1220 => mss + 36,
            1420 => 1432,
            1432 => 1440,
            1440 => 1452,
            1452 => 1460,
            1220..1460 => mss + 20,
            8460 => 8940,
            8940 => 8960,
            1460.. => mss + 500,
        };
    }
    table
}

const PARITY: u8 = 0x80;
const SACK: u8 = 0x40;
const INDEX: u8 = 0x07;
const FINE_INDEX: u8 = 0x3f;
const EXTRA_TIMESTAMPS: u8 = 0x01;
const EXTRA_ECN: u8 = 0x02;

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(mss: u16, wscale: Option<u8>, timestamps: bool) -> Offer {
        Offer { mss, wscale, sack: false, timestamps, ecn: false }
    }

    fn carried(family: Family, mss: u16, wscale: Option<u8>) -> (u16, Option<u8>) {
        let flags = Flags::new(family, 0, &offer(mss, wscale, false));
        (flags.mss(family), flags.wscale())
    }

    /// Row 8.
    #[test]
    fn every_mss_rounds_down_to_its_table() {
        for (family, table) in [(Family::V4, MSS_IPV4), (Family::V6, MSS_IPV6)] {
            for mss in 0..=u16::MAX {
                let expected = table.into_iter().rfind(|&entry| entry <= mss).unwrap_or(48);
                assert_eq!(carried(family, mss, None).0, expected, "{family:?} {mss}");
            }
        }
    }

    /// Row 8.
    #[test]
    fn with_timestamps_every_mss_loses_little() {
        for mss in 0..=u16::MAX {
            let carried = Flags::new(Family::V4, 0, &offer(mss, None, true)).fine_mss();
            let expected = MSS_FINE.into_iter().rfind(|&entry| entry <= mss).unwrap_or(48);
            assert_eq!(carried, expected, "{mss}");
            let lost = mss.saturating_sub(carried);
            let bound = match mss {
                ..1220 => 35,
                1220..1460 => 19,
                1460..8960 => 499,
                _ => continue,
            };
            assert!(lost <= bound, "{mss} loses {lost}");
        }
        for exact in [48, 536, 1220, 1280, 1300, 1360, 1380, 1400, 1420, 1432, 1440, 1452, 1460, 8940, 8960] {
            assert!(MSS_FINE.contains(&exact), "{exact}");
        }
    }

    /// Row 9.
    #[test]
    fn every_wscale_rounds_down_and_absent_is_not_zero() {
        assert_eq!(carried(Family::V4, 1460, None).1, None);
        let expected = [0, 0, 2, 2, 4, 4, 6, 7, 8, 8, 10, 10, 10, 10, 10];
        for (offered, rounded) in (0u8..).zip(expected) {
            assert_eq!(carried(Family::V4, 1460, Some(offered)).1, Some(rounded), "{offered}");
        }
        for offered in 15..=u8::MAX {
            assert_eq!(carried(Family::V4, 1460, Some(offered)).1, Some(10), "{offered}");
        }
    }

    /// Row 9.
    #[test]
    fn with_timestamps_every_wscale_is_exact() {
        assert_eq!(wscale_of(scale(None)), None);
        for offered in 0..=u8::MAX {
            assert_eq!(wscale_of(scale(Some(offered))), Some(offered.min(14)), "{offered}");
            assert!(scale(Some(offered)) < 16);
        }
    }

    #[test]
    fn tables_ascend_and_hold_the_defaults() {
        assert!(MSS_IPV4.is_sorted() && MSS_IPV6.is_sorted() && WSCALE.is_sorted());
        assert_eq!((MSS_IPV4[1], MSS_IPV6[2]), (536, 1220));
        assert!(MSS_FINE.is_sorted_by(|a, b| a < b));
        assert_eq!(MSS_FINE[..4], [48, 68, 104, 140]);
        assert_eq!(MSS_FINE[31..36], [1148, 1184, 1220, 1240, 1260]);
        assert_eq!(MSS_FINE[43..50], [1420, 1432, 1440, 1452, 1460, 1960, 2460]);
        assert_eq!(MSS_FINE[60..], [7960, 8460, 8940, 8960]);
    }

    #[test]
    fn flags_lie_where_the_design_puts_them() {
        let offer = Offer { mss: 1460, wscale: Some(7), sack: true, timestamps: false, ecn: false };
        assert_eq!(Flags::new(Family::V4, 3, &offer), Flags(0x80 | 0x40 | 5 << 3 | 6));
        assert_eq!(Flags::new(Family::V4, 2, &offer), Flags(0x40 | 5 << 3 | 6));
        let fine = Offer { timestamps: true, ..offer };
        assert_eq!(Flags::new(Family::V4, 3, &fine), Flags(0x80 | 0x40 | 47));
        assert_eq!(scale(fine.wscale), 8);
        let least = Offer { mss: 0, wscale: None, sack: false, timestamps: false, ecn: false };
        assert_eq!(Flags::new(Family::V6, 0, &least), Flags(0));
        assert_eq!(
            [extra(false, false), extra(true, false), extra(false, true), extra(true, true)],
            [0x20, 0x21, 0x22, 0x23]
        );
    }

    #[test]
    fn isn_gives_back_mac_and_any_flags() {
        for flags in (0..=u8::MAX).map(Flags) {
            for mac24 in [[0, 0, 0], [0xff, 0xff, 0xff], [0xa5, 0x12, 0x34]] {
                assert_eq!(split_isn(isn(mac24, flags)), (mac24, flags));
            }
        }
        assert_eq!(isn([0xa5, 0x12, 0x34], Flags(0x0f)), SeqNumber(0xa512_34aa));
    }
}
