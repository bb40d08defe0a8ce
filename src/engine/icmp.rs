//! ICMP errors about the segments of protected services.
//!
//! An error quotes a segment as it was where the error arose, which is the other side of here: its receiver would not
//! find the numbers among those that it sent. So the quote is translated back, and path MTU discovery (RFC 1191,
//! RFC 8201) works through synwall. An error about nothing that is in flight is dropped (RFC 5927 §4.1): nobody who sees
//! no segments can slow a connection down. No error ends a flow here, hard ones neither (RFC 5927 §6.3): the ends decide.

use core::num::NonZeroU32;

use super::Step;
use super::backend::Handshake;
use super::classify::Class;
use super::flow::Flow;
use super::half_open::Phase;
use super::policy::filter::Rule;
use super::policy::{Mode, Policy, ServiceId};
use super::translate::Translation;
use super::verdict::{DropReason, Side, Verdict};
use crate::table::budget::Rate;
use crate::table::flow_key::FlowKey;
use crate::wire::buffer::Offload;
use crate::wire::icmp::{IcmpError, Kind, Quote, QuotedSegment, QuotedSegmentMut};
use crate::wire::seq::SeqNumber;

/// An error about a segment to or from a protected service.
#[derive(Clone, Copy)]
pub(super) struct Report {
    pub(super) id: ServiceId,
    key: FlowKey,
    error: IcmpError,
    quote: Quote,
    offload: Offload,
    /// SEG.SEQ as it is quoted.
    seq: SeqNumber,
    /// The operator lets the client off, or the service protects nothing.
    is_spared: bool,
}

/// What the tables say of a report.
enum Outcome {
    /// Of a connection that is let through.
    Untouched,
    /// Of a segment in flight, which was translated so.
    InFlight(Translation),
    /// Of our SYN to the server.
    OfSyn(Handshake),
    /// Of no segment that could have been on the way.
    Unmatched,
}

/// Classifies an error that arrived on `side`. One that goes to the server's side is about what a server sent, one that
/// goes to the clients' side about what a client sent; any other is none of ours.
pub(super) fn classify<'p>(
    policy: &'p Policy,
    side: Side,
    frame: &[u8],
    error: IcmpError,
    offload: Offload,
) -> Class<'p> {
    let (source, destination) = (error.quoted.source(frame), error.quoted.destination(frame));
    let (client, server) = match side {
        Side::Client => (destination, source),
        Side::Server => (source, destination),
    };
    if !policy.protects(server) {
        return Class::Foreign;
    }
    let Some(quote) = error.segment else { return Class::Nonsense(None, DropReason::IcmpUnmatched) };
    let quoted = QuotedSegment::new(frame, quote);
    let (source_port, destination_port) = (quoted.source_port(), quoted.destination_port());
    let (client_port, server_port) = match side {
        Side::Client => (destination_port, source_port),
        Side::Server => (source_port, destination_port),
    };
    let Some((id, service)) = policy.find(server, server_port) else { return Class::Foreign };
    // An error goes to whom its packet came from; a host that has both addresses would not notice the difference.
    if error.network.destination(frame) != source {
        return Class::Nonsense(Some(id), DropReason::IcmpUnmatched);
    }
    let key = FlowKey::new(client, client_port, server, server_port);
    let is_spared = !service.mode.protects() || policy.filter.decide(client) == Some(Rule::Allow);
    Class::Icmp(Report { id, key, error, quote, offload, seq: quoted.seq(), is_spared })
}

impl Step<'_> {
    /// Handles an error that arrived on `side`.
    pub(super) fn handle_icmp(&mut self, side: Side, report: &Report, frame: &mut [u8]) -> Verdict {
        if !report.is_spared && !self.take_report(side, report) {
            return Verdict::Drop(DropReason::IcmpRateExceeded);
        }
        match self.find_reported(side, report) {
            Outcome::Untouched => Verdict::Forward,
            Outcome::Unmatched => Verdict::Drop(DropReason::IcmpUnmatched),
            Outcome::InFlight(_) | Outcome::OfSyn(_) if !report.is_intact(frame) => {
                Verdict::Drop(DropReason::BadChecksum)
            }
            Outcome::InFlight(translation) => {
                self.counters(report.id).icmp_translated.add(1);
                let mut quoted = QuotedSegmentMut::new(frame, &report.error, report.quote);
                match side {
                    Side::Client => translation.restore_server(&mut quoted),
                    Side::Server => translation.restore_client(&mut quoted),
                }
                quoted.finish(&report.offload);
                Verdict::Forward
            }
            Outcome::OfSyn(handshake) => {
                self.hear_of_syn(report, &handshake);
                Verdict::Consume
            }
        }
    }

    /// Takes an error out of the budget of the prefix of the client whose connection it is about.
    ///
    /// # Security
    /// Counted before the error is looked at, and for each prefix apart: a budget that all share and that only a valid error
    /// spends would tell a blind sender which SEG.SEQ is in flight (as with CVE-2016-5696), and one client could spend what
    /// the path MTU discovery of all others needs. Forged errors spend no more than the budget of the prefix they name.
    fn take_report(&self, side: Side, report: &Report) -> bool {
        // What is forged outside spends nothing that reports from the servers' side need.
        let what = if side == Side::Client { report.id.0 } else { report.id.0 | FROM_SERVERS };
        self.shared.icmp_budgets.take(report.key.client(), what, self.now, RATE)
    }

    fn find_reported(&self, side: Side, report: &Report) -> Outcome {
        let of_flow = self.with_flow(&report.key, |flow| {
            if flow.is_direct {
                Outcome::Untouched
            } else if flow.has_in_flight(side.peer(), report.seq) {
                Outcome::InFlight(flow.translation)
            } else {
                Outcome::Unmatched
            }
        });
        if let Some(outcome) = of_flow {
            return outcome;
        }
        let of_half_open = self.shared.half_open.with(&report.key, |entry| match &entry.phase {
            Phase::Direct(_) | Phase::Outgoing(_) => Outcome::Untouched,
            Phase::Backend(backend) => match backend.sent_syn(report.seq) {
                Some(handshake) if side == Side::Server => Outcome::OfSyn(handshake),
                _ => Outcome::Unmatched,
            },
        });
        // Without an entry it is about a SYN-ACK of ours, which the server knows nothing of, or about nothing.
        let unknown = if self.may_be_unknown(report) { Outcome::Untouched } else { Outcome::Unmatched };
        of_half_open.unwrap_or(unknown)
    }

    /// Whether a connection that has no entry may be there all the same: one that the operator lets pass, or one from before
    /// the start. Not while the service challenges: then nearly all errors are about our SYN-ACKs.
    fn may_be_unknown(&self, report: &Report) -> bool {
        let is_challenging = match self.policy.service(report.id).map(|service| service.mode) {
            Some(Mode::Always) => true,
            Some(Mode::Adaptive) => self.shared.service(report.id).pressure.is_on(),
            Some(Mode::Monitor | Mode::Off) | None => false,
        };
        let has_grace = || self.shared.service(report.id).grace.is_in_force(self.now);
        report.is_spared || (!is_challenging && has_grace())
    }

    /// Our SYN did not arrive. A client would give up on a hard error (RFC 1122 §4.2.3.9) and go on trying on a soft one.
    fn hear_of_syn(&mut self, report: &Report, handshake: &Handshake) {
        match report.error.kind {
            Kind::PortUnreachable => {
                self.remember_refusal(&report.key);
                self.refuse(report.id, &report.key, handshake);
            }
            // A rule of somebody's about this client, and perhaps for no longer than this: the next one is asked for.
            Kind::Hard => self.refuse(report.id, &report.key, handshake),
            Kind::Soft | Kind::TooBig(_) => self.counters(report.id).icmp_noted.add(1),
        }
    }
}

impl Report {
    fn is_intact(&self, frame: &[u8]) -> bool {
        self.offload.is_known_good() || self.error.has_valid_checksum(frame)
    }
}

impl Flow {
    /// Whether a segment that `sender` sent, and that its receiver knows as `seq`, may be unacknowledged as the sender sees it: SND.UNA
    /// <= SEG.SEQ < SND.NXT (RFC 5927 §4.1). Its SND.UNA is up to a window behind what was acknowledged here, for ACKs are lost behind
    /// here, too, and what it then repeats may be too big.
    fn has_in_flight(&self, sender: Side, seq: SeqNumber) -> bool {
        let (own, peer) = self.ends(sender);
        let seq = match sender {
            Side::Server => seq.add(self.translation.delta),
            Side::Client => seq,
        };
        let iss = if sender == Side::Client { self.client_iss } else { self.server_iss };
        let sent = if iss == SeqNumber(0) { u32::MAX } else { peer.acked.distance_from(iss.add(1)) };
        let oldest = peer.acked.sub(peer.max_window.min(sent));
        own.is_known && peer.is_known && !seq.is_before(oldest) && seq.is_before(own.next)
    }
}

/// Errors a second about one client prefix's connections to one service: more than any path reports, and less for the server
/// than the segments that such clients may send.
const RATE: Rate = NonZeroU32::new(1_000);

/// Tells errors from the servers' side apart, in a budget's name; above any service.
const FROM_SERVERS: u16 = 1 << 15;
