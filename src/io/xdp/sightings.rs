//! What the program shows of the SYNs that it settled, as the detector takes it from the engine.

use super::abi::SIGHTING_LEN;
use super::fast::address;
use super::{Path, locked};
use crate::engine::policy::ServiceId;
use crate::engine::sightings::{Sighted, Sighting};

impl Path {
    /// Takes out the oldest sighting, if there is one.
    pub fn next_sighting(&self) -> Option<Sighting> {
        let mut ring = locked(&self.sightings);
        loop {
            // One that is not as long as the contract says is none of ours.
            if let Some(sighting) = read(&ring.next()?) {
                return Some(sighting);
            }
        }
    }
}

/// A `struct sighting`: the address as it lies in a packet, ports as the host counts.
fn read(octets: &[u8]) -> Option<Sighting> {
    let octets: &[u8; SIGHTING_LEN] = octets.try_into().ok()?;
    let (words, _) = octets.as_chunks::<4>();
    let [a, b, c, d, services, last] = *words else { return None };
    let ([s, t, p, q], [m, n, hop_limit, weight_log2]) = (services, last);
    Some(Sighting {
        service: ServiceId(u16::from_ne_bytes([s, t])),
        what: Sighted::Syn,
        source: address([a, b, c, d].map(u32::from_ne_bytes)),
        source_port: u16::from_ne_bytes([p, q]),
        port: u16::from_ne_bytes([m, n]),
        hop_limit,
        weight_log2,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sighting_is_read_as_the_program_wrote_it() {
        let mut octets = [0; SIGHTING_LEN];
        octets[10..16].copy_from_slice(&[0xff, 0xff, 198, 18, 0, 1]);
        octets[16..18].copy_from_slice(&5_u16.to_ne_bytes());
        octets[18..20].copy_from_slice(&0x1234_u16.to_ne_bytes());
        octets[20..22].copy_from_slice(&80_u16.to_ne_bytes());
        octets[22..].copy_from_slice(&[61, 4]);
        let expected = Sighting {
            service: ServiceId(5),
            what: Sighted::Syn,
            source: "198.18.0.1".parse().unwrap(),
            source_port: 0x1234,
            port: 80,
            hop_limit: 61,
            weight_log2: 4,
        };
        assert_eq!(read(&octets), Some(expected));
        assert_eq!(read(&octets[1..]), None);
    }
}
