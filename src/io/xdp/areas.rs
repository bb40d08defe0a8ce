//! Which service is where, as the program looks it up: protected prefixes with a service for each port.

use std::net::{IpAddr, Ipv6Addr};

use super::abi::PORT_BLOCK;
use super::abi::PORT_BLOCKS;
use super::fast::address_words;
use crate::engine::policy::{MAX_SERVICES, Mode, Policy, Prefix, Service};

/// A prefix as the program compares it: of IPv4-mapped addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct MappedPrefix {
    pub(super) address: [u32; 4],
    pub(super) len: u32,
}

impl MappedPrefix {
    /// Where all of IPv4 is mapped.
    pub(super) const IPV4: MappedPrefix =
        MappedPrefix { address: [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), 0], len: MAPPED_LEN };

    pub(super) fn of(prefix: &Prefix) -> MappedPrefix {
        let before = if prefix.network().is_ipv4() { MAPPED_LEN } else { 0 };
        let len = before.saturating_add(u32::from(prefix.len()));
        MappedPrefix { address: address_words(prefix.network()), len }
    }

    pub(super) fn mask(&self) -> [u32; 4] {
        let bits = u128::MAX.checked_shl(128_u32.saturating_sub(self.len)).unwrap_or(0);
        address_words(IpAddr::V6(Ipv6Addr::from(bits)))
    }

    /// Whether an IPv6 prefix would hold IPv4 addresses too, mapped as they are.
    pub(super) fn swallows_ipv4(prefix: &Prefix) -> bool {
        prefix.network().is_ipv6()
            && Prefix::new(MAPPED.into(), prefix.len()) == Some(*prefix)
            && prefix.len() <= 96
    }
}

/// A protected prefix, or a hole in one.
pub(super) struct AreaPlan {
    pub(super) prefix: MappedPrefix,
    /// A service that is not off protects it.
    pub(super) is_protected: bool,
    /// The service of each port, plus one; empty for a hole.
    pub(super) ports: Vec<u16>,
}

/// The areas of a policy, the longest prefix first: each with what shorter ones around it protect.
pub(super) fn areas(policy: &Policy) -> Vec<AreaPlan> {
    let mut prefixes: Vec<Prefix> = Vec::new();
    for service in policy.services() {
        if !prefixes.contains(&service.prefix) {
            prefixes.push(service.prefix);
        }
    }
    let mut areas: Vec<AreaPlan> = prefixes.iter().map(|prefix| area(policy, prefix)).collect();
    let is_there = areas.iter().any(|area| area.prefix == MappedPrefix::IPV4);
    if prefixes.iter().any(MappedPrefix::swallows_ipv4) && !is_there {
        areas.push(AreaPlan { prefix: MappedPrefix::IPV4, is_protected: false, ports: vec![0; PORTS] });
    }
    areas.sort_by_key(|area| std::cmp::Reverse(area.prefix.len));
    areas
}

fn area(policy: &Policy, prefix: &Prefix) -> AreaPlan {
    let mut ports = vec![0; PORTS];
    let holds =
        |service: &Service| service.prefix.contains(prefix.network()) && service.prefix.len() <= prefix.len();
    for (number, service) in (1_u16..).zip(policy.services()).filter(|(_, service)| holds(service)) {
        for (first, last) in service.ports.ranges() {
            if let Some(range) = ports.get_mut(usize::from(first)..=usize::from(last)) {
                range.fill(number);
            }
        }
    }
    AreaPlan {
        prefix: MappedPrefix::of(prefix),
        is_protected: policy.services().iter().any(|service| holds(service) && service.mode != Mode::Off),
        ports,
    }
}

/// Each service may have a prefix of its own, and there may be a hole.
pub(super) const MAX_AREAS: usize = MAX_SERVICES + 1;

const PORTS: usize = PORT_BLOCKS * PORT_BLOCK;
const MAPPED_LEN: u32 = 96;
const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::policy::{Limits, PortSet};

    fn service(prefix: &str, len: u8, ports: (u16, u16), mode: Mode) -> Service {
        let mut set = PortSet::empty();
        set.insert_range(ports.0, ports.1);
        let prefix = Prefix::new(prefix.parse().unwrap(), len).unwrap();
        Service { prefix, ports: set, mode, ..Service::default() }
    }

    /// The service that the program would find.
    fn find(areas: &[AreaPlan], address: &str, port: u16) -> Option<u16> {
        let words = address_words(address.parse().unwrap());
        let is_in = |area: &&AreaPlan| {
            let masked: Vec<u32> =
                words.iter().zip(area.prefix.mask()).map(|(word, mask)| word & mask).collect();
            masked == area.prefix.address
        };
        areas.iter().find(is_in)?.ports[usize::from(port)].checked_sub(1)
    }

    #[test]
    fn every_address_and_port_finds_the_service_that_the_policy_has() {
        let policy = Policy::new(
            vec![
                service("198.18.0.0", 16, (80, 90), Mode::Always),
                service("198.18.0.1", 32, (443, 443), Mode::Always),
                service("198.18.0.0", 24, (22, 22), Mode::Always),
                service("::", 0, (25, 25), Mode::Always),
                service("2001:db8::1", 128, (80, 80), Mode::Off),
                service("198.18.0.1", 32, (65_535, 65_535), Mode::Monitor),
            ],
            Limits::default(),
            1500,
        )
        .unwrap();
        let areas = areas(&policy);
        assert_eq!(areas.len(), 6, "five prefixes and a hole");
        assert!(areas.is_sorted_by_key(|area| std::cmp::Reverse(area.prefix.len)));
        for address in
            ["198.18.0.1", "198.18.0.2", "198.18.1.1", "198.19.0.1", "::1", "2001:db8::1", "2001:db8::2"]
        {
            for port in [0, 22, 25, 79, 80, 90, 91, 443, 65_535] {
                let expected = policy.find(address.parse().unwrap(), port).map(|(id, _)| id.0);
                assert_eq!(find(&areas, address, port), expected, "{address} {port}");
            }
        }
    }

    #[test]
    fn masks_have_as_many_bits_as_the_prefix() {
        for len in 0..=128 {
            let mask = MappedPrefix { address: [0; 4], len }.mask();
            assert_eq!(mask.iter().map(|word| word.count_ones()).sum::<u32>(), len);
        }
        assert_eq!(MappedPrefix::IPV4.mask(), [u32::MAX, u32::MAX, u32::MAX, 0]);
        assert!(MappedPrefix::swallows_ipv4(&Prefix::new("::".parse().unwrap(), 80).unwrap()));
        assert!(!MappedPrefix::swallows_ipv4(&Prefix::new("::".parse().unwrap(), 81).unwrap()));
    }
}
