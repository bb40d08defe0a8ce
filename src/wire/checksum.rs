//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use core::net::IpAddr;

/// The one's complement sum of `bytes`, not complemented; an odd last octet counts as if followed by zero.
pub fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    // 64 bits hold the sum of 2^32 such words: more than any frame has.
    let mut total =
        words.iter().fold(0u64, |total, word| total.wrapping_add(u64::from(u32::from_be_bytes(*word))));
    let mut tail = [0; 4];
    tail[..rest.len()].copy_from_slice(rest);
    total = total.wrapping_add(u64::from(u32::from_be_bytes(tail)));
    fold(total)
}

/// The sum of the pseudo-header of a TCP segment of `len` octets (RFC 9293 §3.1, RFC 8200 §8.1).
pub fn pseudo_header(source: IpAddr, destination: IpAddr, len: usize) -> u16 {
    const PROTOCOL_TCP: u8 = 6;
    pseudo_header_of(PROTOCOL_TCP, source, destination, len)
}

/// The sum of the pseudo-header of `len` octets of another protocol.
pub fn pseudo_header_of(protocol: u8, source: IpAddr, destination: IpAddr, len: usize) -> u16 {
    let addresses = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            add(sum(&source.octets()), sum(&destination.octets()))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            add(sum(&source.octets()), sum(&destination.octets()))
        }
        // No packet has addresses of two families; the sum of nothing is as good as any.
        _ => 0,
    };
    fold(u64::from(addresses).wrapping_add(u64::from(protocol)).wrapping_add(len as u64))
}

/// Adds two one's complement sums.
pub fn add(a: u16, b: u16) -> u16 {
    fold(u64::from(a).wrapping_add(u64::from(b)))
}

/// The change that edits make to a checksum that covers them: `HC' = ~(~HC + ~m + m')` (RFC 1624 §3, eqn. 3).
#[derive(Clone, Copy, Debug, Default)]
pub struct Update {
    even: u64,
    odd: u64,
}

impl Update {
    /// Records that the 16-bit word at an even offset changed.
    pub fn replace_u16(&mut self, old: u16, new: u16) {
        self.even = self.even.wrapping_add(u64::from(!old)).wrapping_add(u64::from(new));
    }

    /// Records that four octets changed, which start at an even or an odd offset of what the checksum covers.
    pub fn replace_u32(&mut self, at_odd_offset: bool, old: u32, new: u32) {
        let change = u64::from(fold(u64::from(!old))).wrapping_add(u64::from(fold(u64::from(new))));
        let half = if at_odd_offset { &mut self.odd } else { &mut self.even };
        *half = half.wrapping_add(change);
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.even == 0 && self.odd == 0
    }

    /// The checksum that covers the edited octets, given the one that covered the old.
    pub fn apply(self, checksum: u16) -> u16 {
        // A word at an odd offset lies across two words of the sum; summing commutes with swapping octets (RFC 1071 §2).
        let change = add(fold(self.even), fold(self.odd).swap_bytes());
        !add(!checksum, change)
    }
}

fn fold(total: u64) -> u16 {
    let total = (total >> 32).wrapping_add(total & 0xffff_ffff);
    let total = (total >> 16).wrapping_add(total & 0xffff);
    let total = (total >> 16).wrapping_add(total & 0xffff);
    let total = (total >> 16).wrapping_add(total & 0xffff);
    (total & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_1071_example() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[0x12]), 0x1200, "an odd octet counts as the high one");
        assert_eq!(sum(&[]), 0);
    }

    #[test]
    fn rfc_1624_example() {
        // RFC 1624 §4: the case in which the older formula of RFC 1141 is wrong.
        let mut update = Update::default();
        update.replace_u16(0x5555, 0x3285);
        assert_eq!(update.apply(0xdd2f), 0x0000);
    }

    #[test]
    fn the_last_carry_of_a_carry_is_folded_too() {
        assert_eq!(fold(0x0001_0000_ffff_ffff), 1);
        assert_eq!(fold(u64::MAX), 0xffff);
    }

    #[test]
    fn pseudo_header_of_both_families() {
        let v4 = pseudo_header("198.18.0.1".parse().unwrap(), "198.18.0.2".parse().unwrap(), 20);
        let mut octets = vec![198, 18, 0, 1, 198, 18, 0, 2, 0, 6, 0, 20];
        assert_eq!(v4, sum(&octets));
        let v6 = pseudo_header("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap(), 70_000);
        octets = "2001:db8::1".parse::<core::net::Ipv6Addr>().unwrap().octets().to_vec();
        octets.extend("2001:db8::2".parse::<core::net::Ipv6Addr>().unwrap().octets());
        octets.extend(70_000u32.to_be_bytes());
        octets.extend([0, 0, 0, 6]);
        assert_eq!(v6, sum(&octets));
    }

    proptest! {
        /// Row 54.
        #[test]
        fn update_equals_recomputation(
            mut bytes in proptest::collection::vec(any::<u8>(), 12..120),
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 0..8),
        ) {
            bytes[0] |= 1; // the sum of a real packet is never zero
            let checksum = !sum(&bytes);
            let mut update = Update::default();
            for (index, new) in edits {
                let at = 1 + index.index(bytes.len() - 5);
                let old = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
                bytes[at..at + 4].copy_from_slice(&new.to_be_bytes());
                update.replace_u32(at % 2 == 1, old, new);
            }
            prop_assert_eq!(update.apply(checksum), !sum(&bytes));
        }

        #[test]
        fn words_and_double_words_may_change_in_one_update(
            mut bytes in proptest::collection::vec(any::<u8>(), 12..120),
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u32>(), any::<bool>()), 1..8),
        ) {
            bytes[0] |= 1;
            let checksum = !sum(&bytes);
            let mut update = Update::default();
            prop_assert!(update.is_empty());
            for (index, new, is_word) in edits {
                let at = 2 + index.index(bytes.len() - 6);
                if is_word {
                    let at = at & !1;
                    let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
                    bytes[at..at + 2].copy_from_slice(&(new as u16).to_be_bytes());
                    update.replace_u16(old, new as u16);
                } else {
                    let old = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
                    bytes[at..at + 4].copy_from_slice(&new.to_be_bytes());
                    update.replace_u32(at % 2 == 1, old, new);
                }
                prop_assert!(!update.is_empty());
            }
            prop_assert_eq!(update.apply(checksum), !sum(&bytes));
        }

        #[test]
        fn sums_add_up(
            first in proptest::collection::vec(any::<u8>(), 0..60),
            second in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut first = first;
            first.resize(first.len().next_multiple_of(2), 0);
            prop_assert_eq!(add(sum(&first), sum(&second)), sum(&[first, second].concat()));
        }

        #[test]
        fn sum_equals_the_naive_one(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut naive = 0u32;
            for pair in bytes.chunks(2) {
                naive += (u32::from(pair[0]) << 8) | pair.get(1).map_or(0, |low| u32::from(*low));
                naive = (naive & 0xffff) + (naive >> 16);
            }
            prop_assert_eq!(u32::from(sum(&bytes)), naive);
        }
    }
}
