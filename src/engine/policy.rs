//! What the operator asked for, validated and compiled: services, modes and limits.
//!
//! `config` is the only module that produces a [`Policy`] from text; tests build one directly. The engine reads it and
//! never changes it: a reload swaps the whole value.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::HashMap;

/// The most services that one policy may hold. Bounds the counters' memory: a row per service and worker.
pub const MAX_SERVICES: usize = 256;

/// A service's position in the policy; also its row in the counters. Stays the same over a reload for a kept name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u16);

impl ServiceId {
    /// Its row.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// How a service is defended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Its frames cross like any other.
    Off,
    /// Its connections pass and are tracked; what would have been done is counted.
    Monitor,
    /// Every SYN is answered with a cookie.
    Always,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Mode; 3] = [Mode::Off, Mode::Monitor, Mode::Always];

    /// Its name in configuration and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Monitor => "monitor",
            Mode::Always => "always",
        }
    }
}

/// An IPv4 or IPv6 prefix, host bits cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    network: IpAddr,
    len: u8,
}

impl Prefix {
    /// The prefix of `len` bits that holds `address`; `None` if `len` is too long for the family.
    pub fn new(address: IpAddr, len: u8) -> Option<Prefix> {
        let network = match address {
            IpAddr::V4(_) if len > 32 => return None,
            IpAddr::V6(_) if len > 128 => return None,
            _ => mask(address, len),
        };
        Some(Prefix { network, len })
    }

    /// The prefix of exactly one address.
    pub fn host(address: IpAddr) -> Prefix {
        Prefix { network: address, len: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// The network address.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// The length in bits.
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether it holds every address of its family.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `address` lies within.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4() && mask(address, self.len) == self.network
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &Prefix) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }
}

impl core::fmt::Display for Prefix {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}", self.network, self.len)
    }
}

/// A set of TCP ports as a bitmap: membership in one look-up, whatever the ranges.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet {
    bits: Box<[u64; 1024]>,
}

impl PortSet {
    /// No port.
    pub fn empty() -> PortSet {
        PortSet { bits: Box::new([0; 1024]) }
    }

    /// Ports 1 to 65535.
    pub fn all() -> PortSet {
        let mut set = PortSet::empty();
        set.insert_range(1, u16::MAX);
        set
    }

    /// Adds `first` to `last`, both included.
    pub fn insert_range(&mut self, first: u16, last: u16) {
        for port in first..=last {
            if let Some(word) = self.bits.get_mut(usize::from(port >> 6)) {
                *word |= 1 << (port & 63);
            }
        }
    }

    /// Whether `port` is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.bits.get(usize::from(port >> 6)).is_some_and(|word| word & (1 << (port & 63)) != 0)
    }

    /// Whether the two share a port.
    pub fn overlaps(&self, other: &PortSet) -> bool {
        self.bits.iter().zip(other.bits.iter()).any(|(a, b)| a & b != 0)
    }

    /// The ports as ascending ranges, both ends included.
    pub fn ranges(&self) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for port in 0..=u16::MAX {
            if !self.contains(port) {
                continue;
            }
            match ranges.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(port) => *last = port,
                _ => ranges.push((port, port)),
            }
        }
        ranges
    }
}

impl core::fmt::Debug for PortSet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.ranges()).finish()
    }
}

/// What a server supports: what a SYN-ACK may promise in its name until its own SYN-ACKs have told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// The MSS to announce, in octets; `None` for what the link allows.
    pub mss: Option<u16>,
    /// Its window scale (RFC 7323 §2), or `None` if it does not scale.
    pub wscale: Option<u8>,
    /// Whether it permits selective acknowledgements (RFC 2018).
    pub sack: bool,
    /// Whether it uses timestamps (RFC 7323 §3).
    pub timestamps: bool,
}

impl Default for ServerOptions {
    /// What a current Linux server says.
    fn default() -> ServerOptions {
        ServerOptions { mss: None, wscale: Some(7), sack: true, timestamps: true }
    }
}

/// A protected address or prefix with its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name in configuration, logs and metrics.
    pub name: String,
    /// The protected addresses.
    pub prefix: Prefix,
    /// The protected ports.
    pub ports: PortSet,
    /// How it is defended.
    pub mode: Mode,
    /// What the SYN-ACK offers as window and what is kept of a client's data until the server answers, in octets.
    pub early_data: u16,
    /// Whether only cookies with timestamps are accepted (2^-44 instead of 2^-24 for a blind guess).
    pub require_timestamps: bool,
    /// What the server supports until it has told.
    pub server: ServerOptions,
    /// The most half-open entries this service may hold.
    pub max_half_open: u32,
}

/// Caps and timeouts. Each bounds memory or the life of an entry; the defaults follow RFC 5382 where it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most flows in the table.
    pub max_flows: u32,
    /// The most half-open entries of all services together.
    pub max_half_open: u32,
    /// The most octets of early data kept for all half-open entries together.
    pub early_data_total: u64,
    /// Life of an idle established flow (RFC 5382 REQ-5: at least 2 h 4 min).
    pub established: Duration,
    /// Life of a flow with one FIN, since its last segment (half-closed connections are legal for hours).
    pub half_closed: Duration,
    /// Life of a flow with both FINs of which one is not acknowledged, since its last segment.
    pub closing: Duration,
    /// Life after both FINs were acknowledged: 2 MSL (RFC 9293 §3.6.1).
    pub time_wait: Duration,
    /// Life after a RST, during which late segments end quietly.
    pub reset: Duration,
    /// How long a refused server's SYNs are answered with RST at once.
    pub refused: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_flows: 1_000_000,
            max_half_open: 65_536,
            early_data_total: 64 << 20,
            established: Duration::from_secs(7_440),
            half_closed: Duration::from_secs(7_440),
            closing: Duration::from_secs(240),
            time_wait: Duration::from_secs(120),
            reset: Duration::from_secs(45),
            refused: Duration::from_secs(1),
        }
    }
}

/// The whole of what the engine is told.
#[derive(Clone, Debug)]
pub struct Policy {
    services: Vec<Service>,
    index: HashMap<Prefix, Vec<ServiceId>>,
    lengths: Vec<u8>,
    /// All services, the longest prefixes first.
    by_length: Vec<ServiceId>,
    /// Caps and timeouts.
    pub limits: Limits,
    /// The longest IP packet that both links carry, in octets: bounds the MSS that is announced and what is originated.
    pub mtu: u16,
}

impl Policy {
    /// Compiles `services`; the position in the vector is the [`ServiceId`].
    ///
    /// # Errors
    /// Too many services, or two that share an address and a port.
    pub fn new(services: Vec<Service>, limits: Limits, mtu: u16) -> Result<Policy, PolicyError> {
        if services.len() > MAX_SERVICES {
            return Err(PolicyError::TooMany { count: services.len() });
        }
        let mut index: HashMap<Prefix, Vec<ServiceId>> = HashMap::new();
        let mut lengths = Vec::new();
        for (position, service) in services.iter().enumerate() {
            for earlier in services.iter().take(position) {
                if earlier.prefix.overlaps(&service.prefix) && earlier.ports.overlaps(&service.ports) {
                    return Err(PolicyError::Overlap {
                        first: earlier.name.clone(),
                        second: service.name.clone(),
                    });
                }
            }
            let id = ServiceId(u16::try_from(position).unwrap_or(u16::MAX));
            index.entry(service.prefix).or_default().push(id);
            if !lengths.contains(&service.prefix.len()) {
                lengths.push(service.prefix.len());
            }
        }
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        let mut by_length: Vec<ServiceId> = index.values().flatten().copied().collect();
        by_length.sort_by_key(|id| {
            let len = services.get(id.index()).map_or(0, |service| service.prefix.len());
            (core::cmp::Reverse(len), *id)
        });
        Ok(Policy { services, index, lengths, by_length, limits, mtu })
    }

    /// The services in the order of their ids.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// The service with this id.
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(id.index())
    }

    /// The service that protects this address and port.
    ///
    /// A few comparisons, or one hash look-up per distinct prefix length when there are many services.
    pub fn find(&self, address: IpAddr, port: u16) -> Option<(ServiceId, &Service)> {
        self.candidates(address).find(|(_, service)| service.ports.contains(port))
    }

    /// Whether any service protects this address, whatever its ports.
    pub fn protects(&self, address: IpAddr) -> bool {
        self.candidates(address).any(|(_, service)| service.mode != Mode::Off)
    }

    fn candidates(&self, address: IpAddr) -> impl Iterator<Item = (ServiceId, &Service)> {
        // A few services are compared faster than an address is hashed.
        let (listed, lengths) = match self.services.len() {
            0..=FEW => (self.by_length.as_slice(), [].as_slice()),
            _ => ([].as_slice(), self.lengths.as_slice()),
        };
        let hashed =
            lengths.iter().filter_map(move |len| self.index.get(&Prefix::new(address, *len)?)).flatten();
        listed
            .iter()
            .chain(hashed)
            .filter_map(|id| Some((*id, self.service(*id)?)))
            .filter(move |(_, service)| service.prefix.contains(address))
    }
}

/// Up to so many services are looked through one by one.
const FEW: usize = 8;

/// Why services do not make a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// More services than [`MAX_SERVICES`].
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// Two services protect the same address and port.
    Overlap {
        /// The name of the earlier one.
        first: String,
        /// The name of the later one.
        second: String,
    },
}

impl core::fmt::Display for PolicyError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            PolicyError::TooMany { count } => {
                write!(f, "{count} services, at most {MAX_SERVICES} are possible")
            }
            PolicyError::Overlap { first, second } => {
                write!(f, "services \"{first}\" and \"{second}\" share an address and a port")
            }
        }
    }
}

impl core::error::Error for PolicyError {}

fn mask(address: IpAddr, len: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let bits = u32::MAX.checked_shl(32u32.saturating_sub(u32::from(len))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & bits).into())
        }
        IpAddr::V6(v6) => {
            let bits = u128::MAX.checked_shl(128u32.saturating_sub(u32::from(len))).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & bits).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, prefix: &str, len: u8, ports: &[(u16, u16)]) -> Service {
        let mut set = PortSet::empty();
        ports.iter().for_each(|(first, last)| set.insert_range(*first, *last));
        Service {
            name: name.into(),
            prefix: Prefix::new(prefix.parse().unwrap(), len).unwrap(),
            ports: set,
            mode: Mode::Always,
            early_data: 14_600,
            require_timestamps: false,
            server: ServerOptions::default(),
            max_half_open: 1024,
        }
    }

    #[test]
    fn the_longest_prefix_with_the_port_wins() {
        let policy = Policy::new(
            vec![
                service("net", "198.18.0.0", 16, &[(80, 80)]),
                service("host", "198.18.0.1", 32, &[(443, 443)]),
                service("six", "2001:db8::", 32, &[(1, 65535)]),
            ],
            Limits::default(),
            1500,
        )
        .unwrap();
        let find = |address: &str, port| policy.find(address.parse().unwrap(), port).map(|(id, _)| id.0);
        assert_eq!(find("198.18.0.1", 443), Some(1));
        assert_eq!(find("198.18.0.1", 80), Some(0));
        assert_eq!(find("198.18.0.2", 443), None);
        assert_eq!(find("198.19.0.1", 80), None);
        assert_eq!(find("2001:db8:ffff::1", 1), Some(2));
        assert_eq!(find("2001:db9::1", 1), None);
        assert_eq!(find("2001:db8::1", 0), None);
    }

    #[test]
    fn many_services_are_found_like_few() {
        let many: Vec<Service> = (0..100)
            .map(|n| service(&format!("s{n}"), &format!("198.18.{n}.0"), 24, &[(80, 80)]))
            .chain([service("host", "198.18.7.7", 32, &[(443, 443)])])
            .collect();
        let policy = Policy::new(many, Limits::default(), 1500).unwrap();
        let find = |address: &str, port| policy.find(address.parse().unwrap(), port).map(|(id, _)| id.0);
        assert_eq!(find("198.18.7.7", 443), Some(100));
        assert_eq!(find("198.18.7.7", 80), Some(7));
        assert_eq!(find("198.18.99.1", 80), Some(99));
        assert_eq!(find("198.18.100.1", 80), None);
        assert!(policy.protects("198.18.1.1".parse().unwrap()));
    }

    #[test]
    fn overlapping_services_are_refused_by_name() {
        let refused = Policy::new(
            vec![service("a", "198.18.0.0", 15, &[(80, 90)]), service("b", "198.19.1.1", 32, &[(90, 90)])],
            Limits::default(),
            1500,
        );
        assert_eq!(refused.unwrap_err(), PolicyError::Overlap { first: "a".into(), second: "b".into() });
    }

    #[test]
    fn prefixes_mask_host_bits_and_keep_families_apart() {
        let prefix = Prefix::new("198.18.3.7".parse().unwrap(), 24).unwrap();
        assert_eq!(prefix.to_string(), "198.18.3.0/24");
        assert!(!Prefix::new("0.0.0.0".parse().unwrap(), 0).unwrap().contains("::".parse().unwrap()));
        assert!(Prefix::new("::".parse().unwrap(), 0).unwrap().contains("2001:db8::1".parse().unwrap()));
        assert!(Prefix::new("1.2.3.4".parse().unwrap(), 33).is_none());
    }

    #[test]
    fn port_ranges_merge_and_reach_both_ends() {
        let mut set = PortSet::empty();
        set.insert_range(65535, 65535);
        set.insert_range(80, 80);
        set.insert_range(81, 90);
        assert_eq!(set.ranges(), vec![(80, 90), (65535, 65535)]);
        assert_eq!(PortSet::all().ranges(), vec![(1, 65535)]);
        assert!(!PortSet::all().contains(0));
    }
}
