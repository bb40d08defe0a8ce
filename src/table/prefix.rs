//! Source prefixes: what stands for one source, IPv4 /24 and IPv6 /64, since whoever has one address there has them all; and
//! the wider ones of one holder, since whoever has a /48 has 65,536 of those.

use core::hash::{BuildHasher, Hash};
use core::net::IpAddr;
use core::num::NonZeroU32;

use super::flow_key::TableHasher;

/// Levels on which a source is counted: /24, /20 and /16 of IPv4, /64, /56 and /48 of IPv6.
pub const LEVELS: usize = 3;

/// The prefix of `address`: /24 for IPv4, /64 for IPv6.
pub fn octets(address: IpAddr) -> [u8; 8] {
    octets_at(address, 0)
}

/// The prefix of `address` on this level.
fn octets_at(address: IpAddr, level: usize) -> [u8; 8] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let c = match level {
                0 => c,
                1 => c & 0xf0,
                _ => 0,
            };
            // What begins like a multicast address is no source (RFC 4291 §2.7).
            [0xff, 0, 0, 4, 0, a, b, c]
        }
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h, ..] = v6.octets();
            match level {
                0 => [a, b, c, d, e, f, g, h],
                1 => [a, b, c, d, e, f, g, 0],
                _ => [a, b, c, d, e, f, 0, 0],
            }
        }
    }
}

/// The prefix of what one party holds at the least: /24 for IPv4, /48 for IPv6.
pub fn site(address: IpAddr) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h] = octets(address);
    if address.is_ipv4() { [a, b, c, d, e, f, g, h] } else { [a, b, c, d, e, f, 0, 0] }
}

/// What the prefixes of each level may have if the narrowest may have `share`.
pub fn widened(share: usize) -> [usize; LEVELS] {
    WIDENING.map(|by| share.saturating_mul(by.get() as usize))
}

/// Twice as much a level: a holder of many narrow prefixes gets no more than four times what one gets.
pub(super) const WIDENING: [NonZeroU32; LEVELS] =
    [NonZeroU32::MIN, NonZeroU32::MIN.saturating_add(1), NonZeroU32::MIN.saturating_add(3)];

/// Two independent places for the prefix of `address` on this level and `what` else counts, in two rows of `row_len` cells each.
///
/// Two prefixes share both places with a chance of `row_len`^-2, and nobody without the hasher's key can choose to.
pub(super) fn places_at(
    hasher: &TableHasher,
    address: IpAddr,
    level: usize,
    what: u16,
    row_len: usize,
) -> [usize; 2] {
    places_of(hasher, (octets_at(address, level), level, what), row_len)
}

/// The same for whatever `of` is.
pub(super) fn places_of(hasher: &TableHasher, of: impl Hash, row_len: usize) -> [usize; 2] {
    let hash = hasher.hash_one(of);
    let mask = row_len.saturating_sub(1);
    [(hash as usize) & mask, row_len.saturating_add(((hash >> 32) as usize) & mask)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_prefix_are_one_source_and_families_are_apart() {
        let octets = |text: &str| octets(text.parse().unwrap());
        assert_eq!(octets("198.18.3.1"), octets("198.18.3.255"));
        assert_ne!(octets("198.18.3.1"), octets("198.18.4.1"));
        assert_eq!(octets("2001:db8:1:2::1"), octets("2001:db8:1:2:ffff::"));
        assert_ne!(octets("2001:db8:1:2::1"), octets("2001:db8:1:3::1"));
        assert_ne!(octets("198.18.3.1"), octets("::c612:0301"));
    }

    #[test]
    fn wider_prefixes_hold_narrower_ones_and_end_where_they_end() {
        let same = |level, one: &str, other: &str| {
            octets_at(one.parse().unwrap(), level) == octets_at(other.parse().unwrap(), level)
        };
        for (level, last, next) in [
            (0, "198.18.32.255", "198.18.33.0"),
            (1, "198.18.47.255", "198.18.48.0"),
            (2, "198.18.255.255", "198.19.0.0"),
        ] {
            assert!(
                same(level, "198.18.32.0", last) && !same(level, "198.18.32.0", next),
                "IPv4, level {level}"
            );
        }
        for (level, last, next) in [
            (0, "2001:db8:0:0:ffff::", "2001:db8:0:1::"),
            (1, "2001:db8:0:ff::", "2001:db8:0:100::"),
            (2, "2001:db8:0:ffff::", "2001:db8:1::"),
        ] {
            assert!(
                same(level, "2001:db8::", last) && !same(level, "2001:db8::", next),
                "IPv6, level {level}"
            );
        }
    }

    #[test]
    fn places_lie_in_their_rows_and_differ_by_level() {
        let hasher = TableHasher::new([1, 2]);
        for last in 0..=255 {
            let address = IpAddr::from([198, 18, last, 1]);
            let [first, second] = places_at(&hasher, address, 0, 7, 16);
            assert!(first < 16 && (16..32).contains(&second));
        }
        let zero = IpAddr::from([198, 18, 0, 1]);
        let at = |level| places_at(&hasher, zero, level, 7, 1 << 15);
        assert!(at(0) != at(1) && at(1) != at(2) && at(0) != at(2));
    }
}
