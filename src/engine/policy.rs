//! What the operator asked for, validated and compiled: services, modes and limits.
//!
//! `config` is the only module that produces a [`Policy`] from text; tests build one directly. The engine reads it and
//! never changes it: a reload swaps the whole value.

pub mod filter;
mod port_set;
mod prefix;

use core::net::IpAddr;
use core::num::NonZeroU32;
use core::time::Duration;
use std::collections::HashMap;

use filter::Filter;
pub use port_set::PortSet;
pub use prefix::Prefix;

use super::verdict::Side;
pub use crate::table::budget::Rate;

/// The most services that one policy may hold. Bounds the counters' memory: a row per service and worker.
pub const MAX_SERVICES: usize = 256;

/// A service's position in the policy; also its row in the counters. Stays the same over a reload for a kept name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u16);

/// The id of what belongs to no service of the policy.
pub const LINGERING: ServiceId = ServiceId(MAX_SERVICES as u16);

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
    /// Its connections pass and are tracked until pressure passes [`Service::activate_at`]; then as `Always`, until it has
    /// stayed below [`Service::deactivate_at`] for [`Service::min_active`].
    Adaptive,
    /// Every SYN is answered with a cookie.
    Always,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Mode; 4] = [Mode::Off, Mode::Monitor, Mode::Adaptive, Mode::Always];

    /// Whether it keeps attackers out: no segment of no known connection passes, be it challenging or not.
    pub const fn protects(self) -> bool {
        matches!(self, Mode::Adaptive | Mode::Always)
    }

    /// Its name in configuration and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Monitor => "monitor",
            Mode::Adaptive => "adaptive",
            Mode::Always => "always",
        }
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
    /// Whether it does ECN (RFC 3168). Offered to nobody until it is known: an end that believes its peer takes part
    /// loses the packets' congestion marks.
    pub ecn: bool,
}

impl Default for ServerOptions {
    /// What a current Linux server says.
    fn default() -> ServerOptions {
        ServerOptions { mss: None, wscale: Some(7), sack: true, timestamps: true, ecn: false }
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
    /// Whether only cookies with timestamps are accepted (2^-32 instead of 2^-24 for a blind guess).
    pub require_timestamps: bool,
    /// What the server supports until it has told.
    pub server: ServerOptions,
    /// The most flows this service may hold: see [`Policy::flow_cap`].
    pub max_flows: u32,
    /// The most half-open entries this service may hold.
    pub max_half_open: u32,
    /// The pressure at which the service counts as under attack, and `adaptive` begins to challenge.
    pub activate_at: Threshold,
    /// The pressure below which that ends, if it stays there for [`Service::min_active`].
    pub deactivate_at: Threshold,
    /// For how long pressure must stay below [`Service::deactivate_at`].
    pub min_active: Duration,
    /// How long a connection that was let through may stay half-open at the server; shorter as the table fills.
    pub syn_timeout: Duration,
    /// What may be sent in its name.
    pub budgets: Budgets,
    /// The server is the first to send (SMTP, SSH): a client whose ACK is lost waits for ever unless the SYN-ACK is
    /// repeated.
    pub server_speaks_first: bool,
    /// The server is sent a second SYN, so that it takes no round-trip sample from synwall (`engine::second_syn`).
    pub second_syn: bool,
    /// An ACK that belongs to no connection and carries no cookie is answered with RST, within the budget, so that a
    /// client whose connection was lost (a restart) notices at once. So is a server's.
    pub reset_unknown: bool,
    /// A server that answered none of the SYNs of a connection counts as refusing.
    pub refuse_silent: bool,
}

impl Default for Service {
    /// An address that nobody has, without ports; everything else as when the configuration does not say.
    fn default() -> Service {
        Service {
            name: String::new(),
            prefix: Prefix::host(IpAddr::from([0; 4])),
            ports: PortSet::empty(),
            mode: Mode::Adaptive,
            early_data: DEFAULT_EARLY_DATA,
            require_timestamps: false,
            server: ServerOptions::default(),
            max_flows: u32::MAX,
            max_half_open: Limits::default().max_half_open,
            activate_at: Threshold { half_open: 256, syn_rate: 1_000 },
            deactivate_at: Threshold { half_open: 128, syn_rate: 500 },
            min_active: Duration::from_secs(60),
            syn_timeout: Duration::from_secs(20),
            budgets: Budgets::default(),
            server_speaks_first: false,
            second_syn: true,
            reset_unknown: false,
            refuse_silent: false,
        }
    }
}

/// Pressure on a service. It is reached when either measure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// Half-open entries and cookies in flight.
    pub half_open: u32,
    /// SYNs a second.
    pub syn_rate: u32,
}

/// What is promised to a client and kept of its early data, in octets, unless the service says otherwise: ten segments,
/// the initial window of RFC 6928, so that no client is slowed down.
pub const DEFAULT_EARLY_DATA: u16 = 14_600;

/// How much a second may be sent in a service's name to those who have proved nothing, or to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// SYN-ACKs in all. Beyond it SYNs are dropped.
    pub synack: Rate,
    /// SYNs of one source prefix (IPv4 /24, IPv6 /64) that are answered or let through: bounds what a network whose
    /// addresses are forged gets, and what one that attacks can do.
    pub syn_per_source: Rate,
    /// New connections of one source prefix that proved to be there: its share of what the server can do. Its /20 or /56
    /// has twice as many, its /16 or /48 four times.
    pub connections_per_source: Rate,
    /// First SYNs to the server: bounds what a flood of real connections puts on it.
    pub backend_syn: Rate,
    /// RSTs to clients in answer to what belongs to no connection.
    pub reset: Rate,
}

/// A source prefix may open one in so many of the connections that may be opened, unless the service says otherwise.
pub const CONNECTION_PARTS: u32 = 8;

impl Default for Budgets {
    fn default() -> Budgets {
        Budgets {
            synack: NonZeroU32::new(5_000_000),
            syn_per_source: NonZeroU32::new(10_000),
            connections_per_source: NonZeroU32::new(100_000 / CONNECTION_PARTS),
            backend_syn: NonZeroU32::new(100_000),
            reset: NonZeroU32::new(1_000),
        }
    }
}

/// Caps and timeouts. Each bounds memory or the life of an entry; the defaults follow RFC 5382 where it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most flows in the table.
    pub max_flows: u32,
    /// The most half-open entries of all services together.
    pub max_half_open: u32,
    /// The most flows of one source prefix (IPv4 /24, IPv6 /64); its /20 or /56 may hold twice as many, its /16 or /48 four
    /// times.
    pub max_flows_per_source: u32,
    /// The most half-open entries of one source prefix, and of wider ones in the same way.
    pub max_half_open_per_source: u32,
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
    /// How long after a start, or after a service came under protection, connections that began before are let through.
    pub startup_grace: Duration,
    /// A connection that ends because it was idle is reset on both sides, instead of being forgotten quietly.
    pub reset_expired: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_flows: 1_000_000,
            max_half_open: 65_536,
            max_flows_per_source: 1_000_000 / 16,
            max_half_open_per_source: 65_536 / 16,
            early_data_total: 64 << 20,
            established: Duration::from_secs(7_440),
            half_closed: Duration::from_secs(7_440),
            closing: Duration::from_secs(240),
            time_wait: Duration::from_secs(120),
            reset: Duration::from_secs(45),
            refused: Duration::from_secs(1),
            startup_grace: Duration::from_secs(600),
            reset_expired: false,
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
    /// Sources that are let off or locked out.
    pub filter: Filter,
    /// The longest IP packet that both links carry, in octets: bounds the MSS that is announced and what is originated.
    pub mtu: u16,
    /// The longest that each carries, by [`Side::index`].
    links: [u16; 2],
    /// Several services are protected.
    are_several: bool,
    /// Stands for services that protect less than they did: see [`Policy::with_lingering_flows`].
    lingering: Option<Box<Service>>,
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
        let are_several = services.iter().filter(|service| service.mode.protects()).count() > 1;
        Ok(Policy {
            are_several,
            services,
            index,
            lengths,
            by_length,
            limits,
            filter: Filter::none(),
            mtu,
            links: [mtu; 2],
            lingering: None,
        })
    }

    /// The same with `filter`.
    #[must_use]
    pub fn with_filter(self, filter: Filter) -> Policy {
        Policy { filter, ..self }
    }

    /// The same between links that carry packets of `client` and of `server` octets.
    #[must_use]
    pub fn with_link_mtus(self, client: u16, server: u16) -> Policy {
        Policy { mtu: client.min(server), links: [client, server], ..self }
    }

    /// The same, knowing that there may be flows of services that were removed or protect less than they did. They are
    /// translated to their end, under the id [`LINGERING`]: a segment that crossed as it is would break its connection.
    #[must_use]
    pub fn with_lingering_flows(self) -> Policy {
        let lingering = Service { mode: Mode::Off, ..Service::default() };
        Policy { lingering: Some(Box::new(lingering)), ..self }
    }

    /// The service that flows without one belong to, if there may be any.
    pub fn lingering(&self) -> Option<&Service> {
        self.lingering.as_deref()
    }

    /// The longest IP packets that the links to clients and to servers carry, in octets.
    pub fn link_mtus(&self) -> [u16; 2] {
        self.links
    }

    /// The longest IP packet that the link on `side` carries, in octets.
    pub fn link_mtu(&self, side: Side) -> u16 {
        self.links.get(side.index()).copied().unwrap_or(self.mtu)
    }

    /// The services in the order of their ids.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// The service with this id.
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(id.index())
    }

    /// The most flows of a service: where several are protected, none has the last quarter of the table alone.
    pub fn flow_cap(&self, id: ServiceId) -> usize {
        self.share_of(id, self.limits.max_flows, |service| service.max_flows)
    }

    /// The same of half-open entries.
    pub fn half_open_cap(&self, id: ServiceId) -> usize {
        self.share_of(id, self.limits.max_half_open, |service| service.max_half_open)
    }

    /// The most octets of early data of a service, in the same way.
    pub fn early_data_cap(&self) -> u64 {
        let all = self.limits.early_data_total;
        if self.are_several { all.saturating_sub(all / 4) } else { all }
    }

    fn share_of(&self, id: ServiceId, all: u32, own: impl Fn(&Service) -> u32) -> usize {
        let left = if self.are_several { all / 4 } else { 0 };
        let cap = all.saturating_sub(left);
        // Flows of a service that was removed end in their time.
        self.service(id).map_or(all, |service| own(service).min(cap)) as usize
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
    /// A source prefix has two rules.
    DeniedAndAllowed {
        /// The prefix.
        prefix: Prefix,
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
            PolicyError::DeniedAndAllowed { prefix } => {
                write!(f, "prefix {prefix} is both denied and allowed")
            }
        }
    }
}

impl core::error::Error for PolicyError {}

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
            max_half_open: 1024,
            ..Service::default()
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
    fn the_smaller_link_is_the_mtu() {
        let policy = Policy::new(Vec::new(), Limits::default(), 1500).unwrap();
        assert_eq!((policy.mtu, policy.link_mtus()), (1500, [1500, 1500]));
        let policy = policy.with_link_mtus(9000, 1400);
        assert_eq!((policy.mtu, policy.link_mtus()), (1400, [9000, 1400]));
        assert_eq!([Side::Client, Side::Server].map(|side| policy.link_mtu(side)), [9000, 1400]);
    }

    #[test]
    fn overlapping_services_are_refused_by_name() {
        let refused = Policy::new(
            vec![service("a", "198.18.0.0", 15, &[(80, 90)]), service("b", "198.19.1.1", 32, &[(90, 90)])],
            Limits::default(),
            1500,
        );
        let error = refused.clone().unwrap_err();
        assert_eq!(error.to_string(), "services \"a\" and \"b\" share an address and a port");
        assert_eq!(refused.unwrap_err(), PolicyError::Overlap { first: "a".into(), second: "b".into() });
    }
}
