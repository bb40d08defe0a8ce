//! What a frame is to the engine: something that crosses, a segment of a protected service, or nonsense aimed at one.

use core::net::IpAddr;

use super::icmp::{self, Report};
use super::policy::filter::Rule;
use super::policy::{LINGERING, Mode, Policy, Service, ServiceId};
use super::verdict::{DropReason, Side};
use crate::table::flow_key::FlowKey;
use crate::wire::buffer::Offload;
use crate::wire::frame::{self, Layout, Network, Parsed, Unreadable, Version};
use crate::wire::seq::SeqNumber;
use crate::wire::tcp::{Flags, Segment};

/// A segment to or from a protected service.
#[derive(Clone, Copy)]
pub(super) struct Arrival<'p> {
    pub(super) id: ServiceId,
    pub(super) service: &'p Service,
    pub(super) key: FlowKey,
    pub(super) layout: Layout,
    pub(super) offload: Offload,
    pub(super) flags: Flags,
    pub(super) seq: SeqNumber,
    pub(super) ack: SeqNumber,
    /// SEG.SEQ + SEG.LEN.
    pub(super) end: SeqNumber,
    pub(super) window: u16,
    pub(super) stance: Stance,
}

/// How a connection that is not known yet is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stance {
    /// It crosses.
    Pass,
    /// It crosses, and is tracked.
    Watch,
    /// It crosses within limits, and is tracked, unless the service is under pressure.
    Admit,
    /// Its client must return a cookie.
    Challenge,
}

impl Arrival<'_> {
    /// Whether it is a SYN without ACK: the opening of a connection.
    pub(super) fn is_opening(&self) -> bool {
        self.flags.has(Flags::SYN) && !self.flags.has(Flags::ACK)
    }

    /// Whether it, a SYN, offers ECN: ECE and CWR (RFC 3168 §6.1.1).
    pub(super) fn offers_ecn(&self) -> bool {
        self.flags.has(Flags::ECE) && self.flags.has(Flags::CWR)
    }
}

/// What a frame is.
pub(super) enum Class<'p> {
    /// It belongs to no protected service.
    Foreign,
    /// A segment that can be read.
    Segment(Arrival<'p>),
    /// An ICMP error about a segment of one.
    Icmp(Report),
    /// It is aimed at a protected service, or comes from one, and must not cross.
    Nonsense(Option<ServiceId>, DropReason),
}

/// Classifies the frame that arrived on `side`.
pub(super) fn classify<'p>(policy: &'p Policy, side: Side, frame: &[u8], offload: Offload) -> Class<'p> {
    match frame::parse(frame) {
        Parsed::Other => Class::Foreign,
        Parsed::IcmpError(error) => icmp::classify(policy, side, frame, error, offload),
        Parsed::Tcp(layout) => segment(policy, side, Segment::new(frame, layout), offload),
        Parsed::Unreadable(network, what) => unreadable(policy, protected(side, &network, frame), what),
    }
}

fn segment<'p>(policy: &'p Policy, side: Side, segment: Segment<'_>, offload: Offload) -> Class<'p> {
    let layout = *segment.layout();
    let source = (layout.network.source(segment.frame()), segment.source_port());
    let destination = (layout.network.destination(segment.frame()), segment.destination_port());
    let (client, server) = match side {
        Side::Client => (source, destination),
        Side::Server => (destination, source),
    };
    let found = policy.find(server.0, server.1);
    let Some((id, service)) = found.or_else(|| Some((LINGERING, policy.lingering()?))) else {
        return Class::Foreign;
    };
    let stance = match service.mode {
        Mode::Off => Stance::Pass,
        Mode::Monitor => Stance::Watch,
        Mode::Adaptive | Mode::Always => match policy.filter.decide(client.0) {
            None if service.mode == Mode::Adaptive => Stance::Admit,
            None => Stance::Challenge,
            Some(Rule::Allow) => Stance::Watch,
            // Only what it sends: what reaches it from the server is an answer to nothing new.
            Some(Rule::Deny) if side == Side::Client => {
                return Class::Nonsense(Some(id), DropReason::Denied);
            }
            Some(Rule::Deny) => Stance::Challenge,
        },
    };
    Class::Segment(Arrival {
        id,
        service,
        key: FlowKey::new(client.0, client.1, server.0, server.1),
        layout,
        offload,
        flags: segment.flags(),
        seq: segment.seq(),
        ack: segment.ack(),
        end: segment.end(),
        window: segment.window(),
        stance,
    })
}

/// A TCP header that cannot be read has no ports that could be trusted: the address alone decides.
fn unreadable<'p>(policy: &Policy, server: IpAddr, what: Unreadable) -> Class<'p> {
    if !policy.protects(server) {
        return Class::Foreign;
    }
    match what {
        // Worth nothing without the first fragment, which is judged.
        Unreadable::LaterFragment => Class::Foreign,
        Unreadable::TinyFragment => Class::Nonsense(None, DropReason::Fragment),
        Unreadable::Malformed => Class::Nonsense(None, DropReason::Malformed),
    }
}

fn protected(side: Side, network: &Network, frame: &[u8]) -> IpAddr {
    match side {
        Side::Client => network.destination(frame),
        Side::Server => network.source(frame),
    }
}

/// Refuses what no client's TCP sends: checked before anything is answered or remembered, with segments that have no
/// flow and with every SYN.
pub(super) fn screen(arrival: &Arrival<'_>) -> Result<(), DropReason> {
    let flags = arrival.flags;
    let opens_and_ends = flags.has(Flags::SYN) && flags.has(Flags::FIN.with(Flags::RST));
    let says_nothing = !flags.has(Flags::SYN.with(Flags::ACK).with(Flags::RST));
    if opens_and_ends || says_nothing {
        return Err(DropReason::BadFlags);
    }
    if arrival.key.client_port() == 0 || arrival.key.server_port() == 0 {
        return Err(DropReason::BogusPort);
    }
    let client = arrival.key.client();
    // The key tells an IPv4-mapped address of an IPv6 packet as the IPv4 address that it names.
    let is_mapped = arrival.layout.network.version == Version::V6 && client.is_ipv4();
    if is_mapped || is_bogus(client) || client == arrival.key.server() {
        return Err(DropReason::BogusAddress);
    }
    if arrival.layout.is_fragment {
        return Err(DropReason::Fragment);
    }
    Ok(())
}

/// Verifies the checksums of a segment that is about to be answered or remembered. One that the device has verified,
/// or that its sender on this machine has not completed yet, is good.
pub(super) fn verify(arrival: &Arrival<'_>, frame: &[u8]) -> Result<(), DropReason> {
    let tcp_is_good = arrival.offload.is_known_good() || arrival.layout.has_valid_tcp_checksum(frame);
    if tcp_is_good && arrival.layout.has_valid_ip_checksum(frame) {
        Ok(())
    } else {
        Err(DropReason::BadChecksum)
    }
}

fn is_bogus(client: IpAddr) -> bool {
    match client {
        IpAddr::V4(v4) => {
            v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_loopback()
                || v4.octets()[0] == 0
                || v4.octets()[0] >= 240
        }
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_loopback() || v6.is_unspecified(),
    }
}
