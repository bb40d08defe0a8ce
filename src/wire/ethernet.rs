//! Ethernet II with up to two VLAN tags (IEEE 802.1Q, 802.1ad).

use super::read_u16;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// Octets of the two MAC addresses.
const ADDRESSES_LEN: usize = 12;
/// In the first octet of an address: it is of a group of stations.
const GROUP: u8 = 1;
/// The same: it was not given out by its vendor.
const LOCAL: u8 = 2;
/// Octets of a header without tags.
pub const MIN_HEADER_LEN: usize = ADDRESSES_LEN + 2;
/// Octets of a VLAN tag.
const TAG_LEN: usize = 4;
/// The number of the VLAN in a tag's second word, beside the priority.
const VLAN: u16 = 0x0fff;
/// The most tags that are looked behind: customer and service tag.
const MAX_TAGS: usize = 2;
/// Octets of the longest header.
pub const MAX_HEADER_LEN: usize = ADDRESSES_LEN + MAX_TAGS * TAG_LEN + 2;

/// The EtherType behind the tags, and where the payload starts; `None` if the frame ends before.
///
/// A frame with more than two tags yields the third tag's type: nothing that anyone here looks into.
pub fn parse(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = ADDRESSES_LEN;
    for _ in 0..MAX_TAGS {
        if !is_tag(read_u16(frame, at)) {
            break;
        }
        at = at.saturating_add(TAG_LEN);
    }
    let payload = at.saturating_add(2);
    (frame.len() >= payload).then(|| (read_u16(frame, at), payload))
}

fn is_tag(ethertype: u16) -> bool {
    // 802.1Q, 802.1ad, and the number that was in use before 802.1ad.
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100)
}

/// A link header, kept to address frames that are originated later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkHeader {
    octets: [u8; MAX_HEADER_LEN],
    len: u8,
}

impl LinkHeader {
    /// The header that takes the first `len` octets of `frame`, cut at [`MAX_HEADER_LEN`].
    pub fn of(frame: &[u8], len: usize) -> LinkHeader {
        let len = len.min(MAX_HEADER_LEN).min(frame.len());
        let mut octets = [0; MAX_HEADER_LEN];
        octets[..len].copy_from_slice(&frame[..len]);
        LinkHeader { octets, len: len as u8 }
    }

    /// The same with source and destination exchanged and the tags kept: the way back. Switches drop a source with the group bit
    /// (IEEE 802.3 §3.2.3), so what was sent to a group of stations (a cluster's address) comes from the group's address with that
    /// bit cleared and the one of local administration set, an address that no vendor has given out.
    #[must_use]
    pub fn reversed(mut self) -> LinkHeader {
        let (destination, rest) = self.octets.split_at_mut(6);
        destination.swap_with_slice(&mut rest[..6]);
        if rest[0] & GROUP != 0 {
            rest[0] = (rest[0] & !GROUP) | LOCAL;
        }
        self
    }

    /// The same between the stations of `other`, its own tags kept.
    #[must_use]
    pub fn between_stations_of(mut self, other: LinkHeader) -> LinkHeader {
        self.octets[..ADDRESSES_LEN].copy_from_slice(&other.octets[..ADDRESSES_LEN]);
        self
    }

    /// The numbers of its VLANs, the outer first. A tag of VLAN 0 only tells a priority (IEEE 802.1Q §9.6).
    pub fn vlans(&self) -> impl Iterator<Item = u16> + '_ {
        let tags = self.octets().get(ADDRESSES_LEN..).unwrap_or(&[]);
        let tags = tags.chunks_exact(TAG_LEN).take_while(|tag| is_tag(read_u16(tag, 0)));
        tags.map(|tag| read_u16(tag, 2) & VLAN).filter(|vlan| *vlan != 0)
    }

    /// Its octets.
    pub fn octets(&self) -> &[u8] {
        &self.octets[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(types: &[u16]) -> Vec<u8> {
        let mut octets = (1..=12).collect::<Vec<u8>>();
        for (index, ethertype) in types.iter().enumerate() {
            octets.extend(ethertype.to_be_bytes());
            if index + 1 < types.len() {
                octets.extend([0, 7]);
            }
        }
        octets
    }

    #[test]
    fn vlans_are_told_without_priorities() {
        let vlans = |types: &[u8]| {
            let frame = [&[0; ADDRESSES_LEN], types].concat();
            LinkHeader::of(&frame, frame.len()).vlans().collect::<Vec<u16>>()
        };
        assert_eq!(vlans(&[8, 0]), [0; 0]);
        assert_eq!(vlans(&[0x81, 0, 0xe0, 5, 8, 0]), [5]);
        assert_eq!(vlans(&[0x81, 0, 0xe0, 0, 8, 0]), [0; 0]);
        assert_eq!(vlans(&[0x88, 0xa8, 0xff, 0xff, 0x81, 0, 0, 7, 8, 0]), [4095, 7]);
        assert_eq!(vlans(&[]), [0; 0]);
    }

    #[test]
    fn tags_are_looked_behind_up_to_two() {
        assert_eq!(parse(&frame(&[IPV4])), Some((IPV4, 14)));
        assert_eq!(parse(&frame(&[0x8100, IPV6])), Some((IPV6, 18)));
        assert_eq!(parse(&frame(&[0x88a8, 0x8100, IPV4])), Some((IPV4, 22)));
        assert_eq!(parse(&frame(&[0x88a8, 0x8100, 0x8100, IPV4])), Some((0x8100, 22)));
    }

    #[test]
    fn every_cut_of_a_tagged_header_is_none() {
        let whole = frame(&[0x88a8, 0x8100, IPV4]);
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]), None, "{len} octets");
        }
    }

    #[test]
    fn reversed_never_comes_from_a_group_of_stations() {
        let mut whole = frame(&[IPV4]);
        for (group, station) in [(0x01, 0x02), (0x03, 0x02), (0xff, 0xfe), (0x00, 0x00), (0x06, 0x06)] {
            whole[0] = group;
            assert_eq!(LinkHeader::of(&whole, 14).reversed().octets()[6], station);
        }
    }

    #[test]
    fn stations_move_and_tags_stay() {
        let (tagged, other) = (frame(&[0x8100, IPV4]), [9; 14]);
        let moved = LinkHeader::of(&tagged, 18).between_stations_of(LinkHeader::of(&other, 14));
        assert_eq!(moved.octets()[..12], [9; 12]);
        assert_eq!(moved.octets()[12..], tagged[12..18]);
    }

    #[test]
    fn reversed_swaps_addresses_and_keeps_tags() {
        let mut whole = frame(&[0x8100, IPV4]);
        (whole[0], whole[6]) = (2, 8);
        let back = LinkHeader::of(&whole, 18).reversed();
        assert_eq!(back.octets()[..12], [8, 8, 9, 10, 11, 12, 2, 2, 3, 4, 5, 6]);
        assert_eq!(back.octets()[12..], whole[12..18]);
        assert_eq!(back.reversed(), LinkHeader::of(&whole, 18));
    }
}
