//! Source prefixes: what stands for one source, IPv4 /24 and IPv6 /64, since whoever has one address there has them all.

use core::hash::BuildHasher;
use core::net::IpAddr;

use super::flow_key::TableHasher;

/// The prefix of `address`: /24 for IPv4, /64 for IPv6.
pub fn octets(address: IpAddr) -> [u8; 8] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            // What begins like a multicast address is no source (RFC 4291 §2.7).
            [0xff, 0, 0, 4, 0, a, b, c]
        }
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h, ..] = v6.octets();
            [a, b, c, d, e, f, g, h]
        }
    }
}

/// Two independent places for the prefix of `address` and `what` else counts, in two rows of `row_len` cells each.
///
/// Two prefixes share both places with a chance of `row_len`^-2, and nobody without the hasher's key can choose to.
pub(super) fn places(hasher: &TableHasher, address: IpAddr, what: u16, row_len: usize) -> [usize; 2] {
    let hash = hasher.hash_one((octets(address), what));
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
    fn places_lie_in_their_rows() {
        let hasher = TableHasher::new([1, 2]);
        for last in 0..=255 {
            let [first, second] = places(&hasher, IpAddr::from([198, 18, last, 1]), 7, 16);
            assert!(first < 16 && (16..32).contains(&second));
        }
    }
}
