//! The segments that synwall originates: none is longer than what it answers, none is sent twice without state.

use core::net::IpAddr;

use super::Step;
use super::backend::Handshake;
use super::classify::Arrival;
use super::flow::Flow;
use super::policy::ServiceId;
use super::second_syn::second_offer;
use super::service::ServerAnswer;
use super::verdict::Side;
use crate::table::flow_key::FlowKey;
use crate::wire::build::SegmentSpec;
use crate::wire::ethernet::LinkHeader;
use crate::wire::seq::SeqNumber;
use crate::wire::tcp::Flags;
use crate::wire::tcp_options::SynOptions;

/// TTL and hop limit of what is sent to clients: the number in use for new packets (RFC 1700, RFC 9293 §3.8.6).
const HOP_LIMIT: u8 = 64;

/// A bare segment in answer to `arrival`, back to where it came from.
pub(super) fn answer<'a>(arrival: &Arrival<'_>, side: Side, frame: &[u8]) -> SegmentSpec<'a> {
    let link = LinkHeader::of(frame, arrival.layout.network.offset).reversed();
    bare(&arrival.key, side, link, HOP_LIMIT)
}

/// A bare segment towards the server in the client's name, along the way that `frame` of the client's takes.
pub(super) fn onward<'a>(arrival: &Arrival<'_>, frame: &[u8]) -> SegmentSpec<'a> {
    let network = arrival.layout.network;
    let link = LinkHeader::of(frame, network.offset);
    let flow_label = network.flow_label(frame);
    SegmentSpec { flow_label, ..bare(&arrival.key, Side::Server, link, network.hop_limit(frame)) }
}

/// RST in answer to an acknowledgement of nothing we sent: `<SEQ=SEG.ACK><CTL=RST>` (RFC 9293 §3.10.7.1).
pub(super) fn reset_for_ack<'a>(arrival: &Arrival<'_>, side: Side, frame: &[u8]) -> SegmentSpec<'a> {
    SegmentSpec { seq: arrival.ack, flags: Flags::RST, ..answer(arrival, side, frame) }
}

/// RST in answer to a SYN: `<SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>` (RFC 9293 §3.10.7.1).
pub(super) fn refusal<'a>(arrival: &Arrival<'_>, frame: &[u8]) -> SegmentSpec<'a> {
    SegmentSpec { ack: Some(arrival.seq.add(1)), flags: Flags::RST, ..answer(arrival, Side::Client, frame) }
}

impl Handshake {
    /// SYN to the server as the client would have sent it: its ISS, its options as far as the cookie carried them, the
    /// TSval of its ACK.
    pub(super) fn syn<'a>(&self, key: &FlowKey, mss_limit: u16) -> SegmentSpec<'a> {
        // The window of a SYN is never scaled (RFC 7323 §2.2).
        let octets = u32::from(self.window).wrapping_shl(u32::from(self.offer.wscale.unwrap_or(0)));
        SegmentSpec {
            seq: self.client_iss,
            flags: if self.offer.ecn { Flags::SYN.with(Flags::ECE).with(Flags::CWR) } else { Flags::SYN },
            window: u16::try_from(octets).unwrap_or(u16::MAX),
            options: SynOptions {
                mss: Some(self.offer.mss.min(mss_limit)),
                wscale: self.offer.wscale,
                sack: self.offer.sack,
                timestamps: self.offer.timestamps.then_some((self.client_tsval, 0)),
            },
            ..self.segment_to_server(key)
        }
    }

    /// The SYN once more, behind the server's first answer.
    pub(super) fn second_syn<'a>(
        &self,
        key: &FlowKey,
        mss_limit: u16,
        first: &ServerAnswer,
    ) -> SegmentSpec<'a> {
        let offer = second_offer(self.offer, first);
        let syn = self.syn(key, mss_limit);
        SegmentSpec { options: SynOptions { wscale: offer.wscale, sack: offer.sack, ..syn.options }, ..syn }
    }

    /// A bare segment to the server in the client's name.
    pub(super) fn segment_to_server<'a>(&self, key: &FlowKey) -> SegmentSpec<'a> {
        // Paths that are chosen by the label (RFC 6437 §3) stay one path for the connection.
        let flow_label = self.flow_label;
        SegmentSpec { flow_label, ..bare(key, Side::Server, self.link, self.hop_limit) }
    }

    /// RST that the client will obey: SEG.SEQ is what it expects next from the server it knows (RFC 5961 §3.2).
    pub(super) fn reset_client<'a>(&self, key: &FlowKey) -> SegmentSpec<'a> {
        SegmentSpec {
            seq: self.cookie_iss.add(1),
            ack: Some(self.client_iss.add(1)),
            flags: Flags::RST,
            ..self.segment_to_client(key)
        }
    }

    /// A bare segment to the client in the server's name.
    pub(super) fn segment_to_client<'a>(&self, key: &FlowKey) -> SegmentSpec<'a> {
        bare(key, Side::Client, self.back, HOP_LIMIT)
    }
}

impl Step<'_> {
    /// Answers with RST a client's segment that belongs to no connection, within the service's budget.
    pub(super) fn reset_unknown(&mut self, arrival: &Arrival<'_>, frame: &[u8]) {
        if self.may_reset(arrival) {
            self.reset(Side::Client, arrival, frame);
        }
    }

    /// Answers with RST a segment from `side` whose connection is to end. Servers' segments need no budget: they answer what was let
    /// through to them, within budgets, and a slot that is not freed stays taken for a minute.
    pub(super) fn reset(&mut self, side: Side, arrival: &Arrival<'_>, frame: &[u8]) {
        let counters = self.counters(arrival.id);
        match side {
            Side::Client => counters.reset_client.add(1),
            Side::Server => counters.reset_server.add(1),
        }
        self.send(side, &reset_for_ack(arrival, side, frame));
    }

    /// Takes a RST that nothing but the arrival calls for out of the service's budget.
    pub(super) fn may_reset(&self, arrival: &Arrival<'_>) -> bool {
        self.shared.service(arrival.id).resets.take(self.now, arrival.service.budgets.reset)
    }

    /// Resets both ends of a flow that was idle for too long, each with the number that it expects (RFC 5961 §3.2).
    pub(super) fn reset_expired(&mut self, key: &FlowKey, flow: &Flow) {
        // Adopted without a checkpoint: nobody knows the way to its ends.
        if flow.link.octets().is_empty() {
            return;
        }
        let counters = self.counters(flow.service);
        if flow.server.is_known {
            let seq = flow.server.next.sub(flow.translation.delta);
            let to_client = bare(key, Side::Client, flow.link.reversed(), HOP_LIMIT);
            counters.reset_client.add(1);
            self.send(Side::Client, &SegmentSpec { seq, flags: Flags::RST, ..to_client });
        }
        if flow.client.is_known {
            let to_server = bare(key, Side::Server, flow.link, HOP_LIMIT);
            counters.reset_server.add(1);
            self.send(Side::Server, &SegmentSpec { seq: flow.client.next, flags: Flags::RST, ..to_server });
        }
    }

    /// Counts an answer in other VLANs than what it answers: a SYN-ACK of ours, which no server has answered yet, goes back in the
    /// client's.
    pub(super) fn note_vlans(&self, id: ServiceId, of_client: &LinkHeader, of_server: &LinkHeader) {
        if !of_client.vlans().eq(of_server.vlans()) {
            self.counters(id).answered_in_other_vlan.add(1);
        }
    }

    /// Originates the segment towards `side`, and counts it.
    pub(super) fn send(&mut self, side: Side, spec: &SegmentSpec<'_>) {
        if self.out.push(side, spec.room(), |buffer| spec.write(buffer)) {
            self.stats.port(side).originated.add(1);
        }
    }
}

/// A segment towards `side` with nothing in it.
fn bare<'a>(key: &FlowKey, side: Side, link: LinkHeader, hop_limit: u8) -> SegmentSpec<'a> {
    let client: (IpAddr, u16) = (key.client(), key.client_port());
    let server = (key.server(), key.server_port());
    let (source, destination) = match side {
        Side::Client => (server, client),
        Side::Server => (client, server),
    };
    SegmentSpec {
        link,
        source: source.0,
        destination: destination.0,
        hop_limit,
        flow_label: 0,
        source_port: source.1,
        destination_port: destination.1,
        seq: SeqNumber(0),
        ack: None,
        flags: Flags::default(),
        window: 0,
        urgent: None,
        options: SynOptions::default(),
        payload: &[],
    }
}
