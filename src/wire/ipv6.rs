//! The IPv6 header and the extension headers in front of TCP (RFC 8200).

use super::frame::{Datagram, Malformed};
use super::read_u16;

/// Octets of the fixed header.
pub const HEADER_LEN: usize = 40;

/// Reads the header at the start of `packet` and walks over hop-by-hop options, routing, fragment, authentication and
/// destination options.
///
/// # Errors
/// [`Malformed`] if the headers are cut short, contradict the length of `packet`, or are more than eight: no sender
/// needs so many, and each costs a step.
pub fn parse(packet: &[u8]) -> Result<Datagram, Malformed> {
    let header = parse_cut(packet)?;
    if header.total_len <= packet.len() { Ok(header) } else { Err(Malformed) }
}

/// The same for a packet of which only the beginning is there, all of these headers whole.
///
/// # Errors
/// [`Malformed`] if the headers are cut short or are more than eight.
pub fn parse_cut(packet: &[u8]) -> Result<Datagram, Malformed> {
    let total_len = usize::from(read_u16(packet, 4)).saturating_add(HEADER_LEN);
    parse_within(packet, total_len)
}

/// The same for headers whose packet tells no length, as one above 64 KiB does.
///
/// # Errors
/// [`Malformed`] if the headers are cut short or are more than eight.
pub(super) fn parse_chain(packet: &[u8]) -> Result<Datagram, Malformed> {
    parse_within(packet, packet.len())
}

fn parse_within(packet: &[u8], total_len: usize) -> Result<Datagram, Malformed> {
    let bound = total_len.min(packet.len());
    if packet.first().is_none_or(|first| first >> 4 != 6) || bound < HEADER_LEN {
        return Err(Malformed);
    }
    let mut header = Datagram {
        header_len: HEADER_LEN,
        total_len,
        protocol: packet[6],
        fragment_offset: 0,
        more_fragments: false,
    };
    for _ in 0..MAX_EXTENSION_HEADERS {
        let Some(len) = extension_len(packet, &header) else { return Ok(header) };
        let end = header.header_len.saturating_add(len);
        if end > bound {
            return Err(Malformed);
        }
        if header.protocol == FRAGMENT {
            let field = read_u16(packet, header.header_len.saturating_add(2));
            header.fragment_offset = usize::from(field & 0xfff8);
            header.more_fragments = field & 1 != 0;
        }
        header.protocol = packet[header.header_len];
        header.header_len = end;
        if header.fragment_offset != 0 {
            return Ok(header);
        }
    }
    match extension_len(packet, &header) {
        None => Ok(header),
        Some(_) => Err(Malformed),
    }
}

/// Octets of the extension header that `header.protocol` announces, or `None` if it announces a payload.
fn extension_len(packet: &[u8], header: &Datagram) -> Option<usize> {
    let units =
        || packet.get(header.header_len.saturating_add(1)).map_or(usize::MAX, |len| usize::from(*len));
    match header.protocol {
        HOP_BY_HOP | ROUTING | DESTINATION => Some(units().saturating_add(1).saturating_mul(8)),
        FRAGMENT => Some(8),
        AUTHENTICATION => Some(units().saturating_add(2).saturating_mul(4)),
        _ => None,
    }
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MAX_EXTENSION_HEADERS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(first: u8, rest: &[u8]) -> Vec<u8> {
        let mut octets = vec![0x60, 0, 0, 0];
        octets.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        octets.extend([first, 64]);
        octets.extend([0; 32]);
        octets.extend(rest);
        octets
    }

    /// Row 19.
    #[test]
    fn extension_headers_are_walked() {
        let mut rest = vec![60, 0, 0, 0, 0, 0, 0, 0]; // hop-by-hop
        rest.extend([51, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // destination options of 16 octets
        rest.extend([44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // authentication of 12 octets
        rest.extend([6, 0, 0, 0, 0, 0, 0, 9]); // atomic fragment
        rest.extend([1, 2, 3]);
        let header = parse(&packet(0, &rest)).unwrap();
        assert_eq!((header.header_len, header.total_len, header.protocol), (40 + 44, 40 + 47, 6));
        assert!(header.fragment_offset == 0 && !header.more_fragments);
    }

    #[test]
    fn fragments_tell_their_place() {
        let first = parse(&packet(44, &[6, 0, 0, 1, 0, 0, 0, 9])).unwrap();
        assert_eq!((first.fragment_offset, first.more_fragments, first.protocol), (0, true, 6));
        let later = parse(&packet(44, &[60, 0, 0, 0x10, 0, 0, 0, 9])).unwrap();
        assert_eq!((later.fragment_offset, later.more_fragments, later.protocol), (16, false, 60));
    }

    #[test]
    fn nine_headers_and_cut_headers_are_malformed() {
        let chain = |count: usize| {
            let mut rest = [60, 0, 0, 0, 0, 0, 0, 0].repeat(count - 1);
            rest.extend([6, 0, 0, 0, 0, 0, 0, 0]);
            packet(60, &rest)
        };
        assert_eq!(parse(&chain(8)).unwrap().header_len, 40 + 64);
        assert_eq!(parse(&chain(9)), Err(Malformed));
        let whole = chain(2);
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]), Err(Malformed), "{len} octets");
        }
        assert_eq!(parse(&packet(0, &[6, 1, 0, 0, 0, 0, 0, 0])), Err(Malformed), "header past the payload");
        assert_eq!(parse(&packet(0, &[6])), Err(Malformed), "header without a length");
    }
}
