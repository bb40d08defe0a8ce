//! The bits of a cookie: the flags octet, the `extra` octet, the MSS and window scale tables, the ISN.
//!
//! Owns what each bit means and nothing of who may set it. Every function is total: any octet decodes to some options,
//! any offer encodes to some octet. Read RFC 9293 §3.7.1 (MSS) and RFC 7323 §2.2 (window scale) first; `docs/cookie.md`
//! has a picture.

use crate::cookie::Offer;
use crate::wire::seq::SeqNumber;

/// The version of this layout, in the upper half of the `extra` octet.
pub const VERSION: u8 = 1;

/// The MSS values that a cookie can carry over IPv4, ascending: the RFC 9293 default second, then what links between
/// tunnels, PPPoE, Ethernet and jumbo frames make common.
pub const MSS_IPV4: [u16; 8] = [64, 536, 1220, 1360, 1400, 1452, 1460, 8960];

/// The MSS values that a cookie can carry over IPv6, ascending: the RFC 9293 default second.
pub const MSS_IPV6: [u16; 8] = [64, 1220, 1280, 1360, 1420, 1432, 1440, 8940];

/// The window scales that a cookie can carry, ascending: no option (not the same as a shift of 0) first.
pub const WSCALE: [Option<u8>; 8] = [None, Some(0), Some(2), Some(4), Some(6), Some(7), Some(8), Some(10)];

/// The flags octet: `parity · SACK · wscale index (3) · MSS index (3)`, most significant bit first.
///
/// It travels inside the ISN, so a check can read it before it knows whether the cookie is genuine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags(pub(crate) u8);

impl Flags {
    /// The flags of a cookie for `offer` in `epoch`, MSS and window scale rounded down to the tables.
    pub(crate) fn new(family: Family, epoch: u64, offer: &Offer) -> Flags {
        let parity = if is_odd(epoch) { PARITY } else { 0 };
        let sack = if offer.sack { SACK } else { 0 };
        Flags(parity | sack | (wscale_index(offer.wscale) << 3) | family.mss_index(offer.mss))
    }

    /// Whether the cookie was minted in an odd epoch.
    pub(crate) const fn is_odd_epoch(self) -> bool {
        self.0 & PARITY != 0
    }

    /// Whether SACK was granted.
    pub(crate) const fn has_sack(self) -> bool {
        self.0 & SACK != 0
    }

    /// The window scale that was granted, rounded down.
    pub(crate) fn wscale(self) -> Option<u8> {
        WSCALE.get(usize::from((self.0 >> 3) & INDEX)).copied().flatten()
    }

    /// The client's MSS, rounded down.
    pub(crate) fn mss(self, family: Family) -> u16 {
        family.mss_table().get(usize::from(self.0 & INDEX)).copied().unwrap_or(SMALLEST_MSS)
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

/// Which MSS table applies.
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

/// The index of the last entry that is not above the value, 0 if all are. Looks at all eight, so it never branches.
fn last_not_above(is_not_above: impl Iterator<Item = bool>) -> u8 {
    is_not_above.map(u8::from).fold(0, u8::wrapping_add).saturating_sub(1)
}

const PARITY: u8 = 0x80;
const SACK: u8 = 0x40;
const INDEX: u8 = 0x07;
const EXTRA_TIMESTAMPS: u8 = 0x01;
const EXTRA_ECN: u8 = 0x02;
const SMALLEST_MSS: u16 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(family: Family, mss: u16, wscale: Option<u8>) -> (u16, Option<u8>) {
        let offer = Offer { mss, wscale, sack: false, timestamps: false, ecn: false };
        let flags = Flags::new(family, 0, &offer);
        (flags.mss(family), flags.wscale())
    }

    /// Row 8.
    #[test]
    fn every_mss_rounds_down_to_its_table() {
        for (family, table) in [(Family::V4, MSS_IPV4), (Family::V6, MSS_IPV6)] {
            for mss in 0..=u16::MAX {
                let expected = table.into_iter().rfind(|&entry| entry <= mss).unwrap_or(64);
                assert_eq!(carried(family, mss, None).0, expected, "{family:?} {mss}");
            }
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

    #[test]
    fn tables_ascend_and_hold_the_defaults() {
        assert!(MSS_IPV4.is_sorted() && MSS_IPV6.is_sorted() && WSCALE.is_sorted());
        assert_eq!((MSS_IPV4[1], MSS_IPV6[1]), (536, 1220));
    }

    #[test]
    fn flags_lie_where_the_design_puts_them() {
        let offer = Offer { mss: 1460, wscale: Some(7), sack: true, timestamps: true, ecn: true };
        assert_eq!(Flags::new(Family::V4, 3, &offer), Flags(0x80 | 0x40 | 5 << 3 | 6));
        assert_eq!(Flags::new(Family::V4, 2, &offer), Flags(0x40 | 5 << 3 | 6));
        let least = Offer { mss: 0, wscale: None, sack: false, timestamps: false, ecn: false };
        assert_eq!(Flags::new(Family::V6, 0, &least), Flags(0));
        assert_eq!(
            [extra(false, false), extra(true, false), extra(false, true), extra(true, true)],
            [0x10, 0x11, 0x12, 0x13]
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
