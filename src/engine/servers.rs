//! What is learned of servers from the SYN-ACKs of handshakes that their clients completed.
//!
//! What a server grants it supports. That it lacks something is believed when clients of several networks were not granted
//! what they asked for: one client can ask in a way that a server does not understand, and a server whose backlog is full
//! grants little to some (Linux's own cookies keep no option for a client without timestamps). So is a smaller MSS, which
//! may be that of one client's path (RFC 9293 §3.7.1); a larger one is taken at once. What is lacking is asked for again
//! [`LIFE`] after it was last seen to be: a SYN-ACK that answers a SYN without it says nothing of it. An MSS is in each SYN-ACK, and
//! counts until there is a larger one.
//!
//! A service may be a prefix with many servers: each is known by itself, as far as it differs from the configuration. The
//! fast path, and the value of the window scale that is promised, know the service alone: there its weakest server counts.

use core::hash::BuildHasher;
use core::net::IpAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use super::Step;
use super::backend::Subject;
use super::policy::{Prefix, ServerOptions, Service, ServiceId};
use super::service::{ServerAnswer, mss_of_mtu};
use crate::cookie::Offer;
use crate::table::flow_key::TableHasher;
use crate::time::Instant;
use crate::wire::frame::Version;

/// Servers of prefixes that are not as configured; lock-free, keyed, and of fixed size: a newer one may push an older one out,
/// which is then learned anew.
pub(super) struct Servers {
    hasher: TableHasher,
    /// What was learned with a tag, and until when it counts, in nanoseconds.
    cells: Box<[[AtomicU64; 2]]>,
}

impl Servers {
    pub(super) fn new(hasher: TableHasher) -> Servers {
        Servers { hasher, cells: (0..1usize << LOG2_CELLS).map(|_| Default::default()).collect() }
    }

    fn find(&self, id: ServiceId, server: IpAddr, now: Instant) -> Option<Learned> {
        let ([learned, until], tag) = self.place(id, server);
        let packed = learned.load(Ordering::Relaxed);
        let until = Instant::from_nanos(until.load(Ordering::Relaxed));
        let is_fresh = now < until && until <= now.after(LIFE);
        let learned = || Learned::unpack(packed & !TAG);
        (packed & TAG == tag).then(|| if is_fresh { learned() } else { learned().without_lacks() })
    }

    fn put(&self, id: ServiceId, server: IpAddr, learned: Learned, now: Instant) {
        let ([cell, until], tag) = self.place(id, server);
        until.store(now.after(LIFE).as_nanos(), Ordering::Relaxed);
        cell.store(learned.pack() | tag, Ordering::Relaxed);
    }

    fn place(&self, id: ServiceId, server: IpAddr) -> (&[AtomicU64; 2], u64) {
        let hash = self.hasher.hash_one((id, server));
        #[expect(clippy::indexing_slicing, reason = "the index is masked to the number of cells")]
        (&self.cells[(hash as usize) & self.cells.len().saturating_sub(1)], hash & TAG)
    }
}

impl Step<'_> {
    /// What the server that the segment goes to supports.
    pub(super) fn server_options(&self, subject: &Subject<'_>) -> ServerOptions {
        self.known(subject).over(subject.service)
    }

    fn known(&self, subject: &Subject<'_>) -> Learned {
        match is_host(subject.service) {
            true => self.shared.service(subject.id).learned(),
            false => self.shared.servers.find(subject.id, subject.key.server(), self.now).unwrap_or_default(),
        }
    }

    /// Learns from a handshake that its client completed: what the server said to a SYN that offered `offer`. An option that
    /// was not offered says nothing.
    pub(super) fn learn(&self, subject: &Subject<'_>, offer: &Offer, said: &ServerAnswer) {
        let options = &said.options;
        // Without timestamps a server in need keeps no option for its client, whatever it supports.
        let (asks, sack) = (offer.timestamps, self.tell(subject, SACK, offer.sack, options.sack));
        let wscale = self.tell(subject, WSCALE, offer.wscale.is_some(), options.wscale.is_some());
        let supported_or_asked = |known: Option<bool>| known.filter(|is_supported| *is_supported || asks);
        let news = Learned {
            mss: options.mss.filter(|mss| self.is_believed_mss(subject, *mss)),
            wscale: supported_or_asked(wscale).map(|_| options.wscale),
            sack: supported_or_asked(sack),
            timestamps: self.tell(subject, TIMESTAMPS, asks, options.timestamps.is_some()),
            ecn: self.tell(subject, ECN, offer.ecn, said.ecn),
        };
        let state = self.shared.service(subject.id);
        if is_host(subject.service) {
            let learned = state.learned();
            let after = learned.updated(news);
            if after != learned || news != news.without_lacks() {
                state.set_learned(after, self.now);
            }
            return;
        }
        let learned = self.known(subject);
        let after = learned.updated(news);
        if after.over(subject.service) != learned.over(subject.service) || news != news.without_lacks() {
            self.shared.servers.put(subject.id, subject.key.server(), after, self.now);
        }
        let (weakest, lacks) = (state.learned(), Learned { mss: None, ecn: None, ..news });
        if weakest.weakened(news) != weakest || lacks != lacks.without_lacks() {
            state.set_learned(weakest.weakened(news), self.now);
        }
    }

    /// What is believed of an option: nothing new, that it is supported, or that it is lacking.
    fn tell(&self, subject: &Subject<'_>, option: u8, is_offered: bool, is_granted: bool) -> Option<bool> {
        let lacks = (LACKS, option, subject.id, subject.key.server());
        let (witnesses, client) = (&self.shared.witnesses, subject.key.client());
        match (is_offered, is_granted) {
            (false, _) => None,
            (true, true) => {
                witnesses.refute(lacks);
                Some(true)
            }
            (true, false) => witnesses.claim(lacks, client, self.now, CLAIM_LIFE).then_some(false),
        }
    }

    /// Whether the server is taken to announce this MSS to all: at once if it is no smaller than what clients are told.
    fn is_believed_mss(&self, subject: &Subject<'_>, mss: u16) -> bool {
        let version = if subject.key.server().is_ipv4() { Version::V4 } else { Version::V6 };
        let limit = mss_of_mtu(self.policy.mtu, version);
        let told = self.server_options(subject).mss.unwrap_or(limit).min(limit);
        let smaller = (SMALLER_MSS, mss, subject.id, subject.key.server());
        mss >= told || self.shared.witnesses.claim(smaller, subject.key.client(), self.now, CLAIM_LIFE)
    }
}

/// Whether there is one server.
fn is_host(service: &Service) -> bool {
    service.prefix == Prefix::host(service.prefix.network())
}

/// At most 2^12 servers of prefixes that are not as configured.
const LOG2_CELLS: u32 = 12;

/// The octets that [`Learned::pack`] leaves free.
const TAG: u64 = 0xffff << 48;

/// What a server lacks is asked for again after this: it may have been another, or an old network's word.
pub(super) const LIFE: Duration = Duration::from_secs(6 * 3_600);

/// Witnesses that are further apart are not added up.
const CLAIM_LIFE: Duration = Duration::from_secs(3_600);

/// What is claimed, beside what `refusals` knows.
const LACKS: u8 = 3;
const SMALLER_MSS: u8 = 4;

const SACK: u8 = 0;
const WSCALE: u8 = 1;
const TIMESTAMPS: u8 = 2;
const ECN: u8 = 3;

/// What SYN-ACKs have told; `None` where they have not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Learned {
    mss: Option<u16>,
    wscale: Option<Option<u8>>,
    sack: Option<bool>,
    timestamps: Option<bool>,
    ecn: Option<bool>,
}

impl Learned {
    /// What the server of `service` supports.
    pub(super) fn over(self, service: &Service) -> ServerOptions {
        let configured = service.server;
        ServerOptions {
            mss: self.mss.or(configured.mss),
            wscale: self.wscale.unwrap_or(configured.wscale),
            sack: self.sack.unwrap_or(configured.sack),
            // Where the operator requires timestamps, no client could connect that is not promised them.
            timestamps: self.timestamps.unwrap_or(configured.timestamps) || service.require_timestamps,
            ecn: self.ecn.unwrap_or(configured.ecn),
        }
    }

    /// The same with what `newer` knows.
    fn updated(self, newer: Learned) -> Learned {
        Learned {
            mss: newer.mss.or(self.mss),
            wscale: newer.wscale.or(self.wscale),
            sack: newer.sack.or(self.sack),
            timestamps: newer.timestamps.or(self.timestamps),
            ecn: newer.ecn.or(self.ecn),
        }
    }

    /// The same of several servers, of which one was found to be like `other`: what one lacks, they lack.
    fn weakened(self, other: Learned) -> Learned {
        let both = |one: Option<bool>, other: Option<bool>| match (one, other) {
            (Some(one), Some(other)) => Some(one && other),
            (one, other) => one.or(other),
        };
        Learned {
            mss: None,
            wscale: if self.wscale == Some(None) { self.wscale } else { other.wscale.or(self.wscale) },
            sack: both(self.sack, other.sack),
            timestamps: both(self.timestamps, other.timestamps),
            // Offered to no client in the name of a server that was not asked.
            ecn: None,
        }
    }

    /// Only what it was seen to support, and its MSS.
    pub(super) fn without_lacks(self) -> Learned {
        let supported = |known: Option<bool>| known.filter(|is_supported| *is_supported);
        Learned {
            mss: self.mss,
            wscale: self.wscale.filter(Option::is_some),
            sack: supported(self.sack),
            timestamps: supported(self.timestamps),
            ecn: supported(self.ecn),
        }
    }

    /// Octets from the low end: MSS (2, 0 unknown), wscale (0 unknown, 1 absent, else value + 2), SACK, timestamps and ECN
    /// (0 unknown, 1 no, 2 yes).
    pub(super) fn pack(self) -> u64 {
        let wscale = self.wscale.map_or(0, |wscale| wscale.map_or(1, |value| value.saturating_add(2)));
        let tristate = |known: Option<bool>| known.map_or(0, |yes| if yes { 2 } else { 1 });
        let [high, low] = self.mss.unwrap_or(0).to_be_bytes();
        u64::from_le_bytes([
            low,
            high,
            wscale,
            tristate(self.sack),
            tristate(self.timestamps),
            tristate(self.ecn),
            0,
            0,
        ])
    }

    pub(super) fn unpack(packed: u64) -> Learned {
        let [low, high, wscale, sack, timestamps, ecn, ..] = packed.to_le_bytes();
        let tristate = |octet| match octet {
            0 => None,
            octet => Some(octet == 2),
        };
        Learned {
            mss: Some(u16::from_be_bytes([high, low])).filter(|mss| *mss != 0),
            wscale: match wscale {
                0 => None,
                octet => Some(octet.checked_sub(2)),
            },
            sack: tristate(sack),
            timestamps: tristate(timestamps),
            ecn: tristate(ecn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learned_options_survive_packing() {
        for mss in [None, Some(1), Some(1460), Some(u16::MAX)] {
            for wscale in [None, Some(None), Some(Some(0)), Some(Some(14))] {
                for sack in [None, Some(false), Some(true)] {
                    for timestamps in [None, Some(false), Some(true)] {
                        let ecn = sack.map(|sack| !sack);
                        let learned = Learned { mss, wscale, sack, timestamps, ecn };
                        assert_eq!(Learned::unpack(learned.pack()), learned);
                    }
                }
            }
        }
    }

    #[test]
    fn what_one_server_lacks_its_prefix_lacks() {
        let all =
            Learned { sack: Some(true), timestamps: Some(true), wscale: Some(Some(7)), ..Learned::default() };
        let none =
            Learned { sack: Some(false), timestamps: Some(false), wscale: Some(None), ..Learned::default() };
        assert_eq!(all.weakened(none), none);
        assert_eq!(none.weakened(all), none);
        assert_eq!(none.without_lacks(), Learned::default());
        assert_eq!(all.without_lacks(), all);
    }

    #[test]
    fn a_server_is_known_by_its_address_for_a_while() {
        let servers = Servers::new(TableHasher::new([1, 2]));
        let (now, id) = (Instant::from_nanos(1_000_000_000), ServiceId(3));
        let host = |last| IpAddr::from([198, 18, 255, last]);
        let learned = Learned { mss: Some(1400), timestamps: Some(false), ..Learned::default() };
        servers.put(id, host(9), learned, now);
        assert_eq!(servers.find(id, host(9), now), Some(learned));
        assert_eq!(servers.find(id, host(8), now), None);
        assert_eq!(servers.find(ServiceId(4), host(9), now), None);
        let end = now.after(LIFE);
        assert_eq!(servers.find(id, host(9), Instant::from_nanos(end.as_nanos() - 1)), Some(learned));
        let without_lacks = Learned { timestamps: None, ..learned };
        assert_eq!(servers.find(id, host(9), end), Some(without_lacks));
        assert_eq!(servers.find(id, host(9), Instant::ZERO), Some(without_lacks), "the clock fell back");
    }

    #[test]
    fn servers_that_share_a_cell_are_not_taken_for_each_other() {
        let servers = Servers::new(TableHasher::new([1, 2]));
        let (now, id) = (Instant::from_nanos(1_000_000_000), ServiceId(3));
        let host = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]);
        let cell = |n| core::ptr::from_ref(servers.place(id, host(n)).0);
        let other = (1..).find(|n| cell(*n) == cell(0)).unwrap();
        servers.put(id, host(0), Learned { sack: Some(false), ..Learned::default() }, now);
        assert_eq!(servers.find(id, host(other), now), None);
    }

    #[test]
    fn timestamps_that_are_required_are_promised() {
        let learned = Learned { timestamps: Some(false), ..Learned::default() };
        let service = Service { require_timestamps: true, ..Service::default() };
        assert!(learned.over(&service).timestamps && !learned.over(&Service::default()).timestamps);
    }
}
