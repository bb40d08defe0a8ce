//! The IPv4 header (RFC 791).

use super::frame::{Datagram, Malformed};
use super::{checksum, read_u16};

/// Octets of a header without options.
pub const MIN_HEADER_LEN: usize = 20;

/// Reads the header at the start of `packet`.
///
/// # Errors
/// [`Malformed`] if it is cut short or contradicts itself or the length of `packet`.
pub fn parse(packet: &[u8]) -> Result<Datagram, Malformed> {
    let datagram = parse_cut(packet)?;
    if datagram.total_len <= packet.len() { Ok(datagram) } else { Err(Malformed) }
}

/// The same for a packet of which only the beginning is there, the header whole.
///
/// # Errors
/// [`Malformed`] if the header is cut short or contradicts itself.
pub fn parse_cut(packet: &[u8]) -> Result<Datagram, Malformed> {
    let first = *packet.first().ok_or(Malformed)?;
    let header_len = usize::from(first & 0xf).saturating_mul(4);
    let total_len = usize::from(read_u16(packet, 2));
    let is_sound = first >> 4 == 4
        && header_len >= MIN_HEADER_LEN
        && header_len <= total_len
        && header_len <= packet.len();
    if !is_sound {
        return Err(Malformed);
    }
    let fragment = read_u16(packet, 6);
    Ok(Datagram {
        header_len,
        total_len,
        protocol: packet[9],
        fragment_offset: usize::from(fragment & 0x1fff).saturating_mul(8),
        more_fragments: fragment & 0x2000 != 0,
    })
}

/// Whether the header checksum is right.
pub fn has_valid_checksum(header: &[u8]) -> bool {
    checksum::sum(header) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Vec<u8> {
        let mut octets =
            vec![0x45, 0, 0, 24, 0, 0, 0x40, 0, 64, 6, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2, 1, 2, 3, 4];
        let sum = !checksum::sum(&octets[..20]);
        octets[10..12].copy_from_slice(&sum.to_be_bytes());
        octets
    }

    #[test]
    fn fields_are_read_and_the_checksum_verified() {
        let mut octets = header();
        let parsed = parse(&octets).unwrap();
        assert_eq!((parsed.header_len, parsed.total_len, parsed.protocol), (20, 24, 6));
        assert_eq!((parsed.fragment_offset, parsed.more_fragments), (0, false));
        assert!(has_valid_checksum(&octets[..20]));
        octets[8] -= 1;
        assert!(!has_valid_checksum(&octets[..20]));
        octets[6..8].copy_from_slice(&[0x20, 0x03]);
        let parsed = parse(&octets).unwrap();
        assert_eq!((parsed.fragment_offset, parsed.more_fragments), (24, true));
    }

    #[test]
    fn contradictions_are_malformed() {
        for (at, value) in [(0, 0x44), (0, 0x55), (0, 0x65), (0, 0x47), (3, 19), (3, 25)] {
            let mut octets = header();
            octets[at] = value;
            assert_eq!(parse(&octets), Err(Malformed), "octet {at} = {value:#x}");
        }
        for len in 0..24 {
            assert_eq!(parse(&header()[..len]), Err(Malformed), "{len} octets");
        }
    }
}
