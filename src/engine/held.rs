//! Half-open connections that are held in the server's place.
//!
//! When the client of one that was let through takes longer than the SYN timeout, the server is told by RST to forget it, and
//! the entry goes on holding what the server's backlog cannot. Should the client answer after all, the connection is opened
//! at the server anew and translated from then on.

use core::time::Duration;

use super::Step;
use super::backend::{Handshake, Subject};
use super::classify::{Arrival, verify};
use super::half_open::{HalfOpen, Phase};
use super::policy::{Service, ServiceId};
use super::reply;
use super::service::mss_of_mtu;
use super::sightings::Sighted;
use super::syn_received::LOOK_INTERVAL;
use super::verdict::{DropReason, Side, Verdict};
use crate::cookie::Offer;
use crate::table::flow_key::FlowKey;
use crate::wire::build::SegmentSpec;
use crate::wire::tcp::{Flags, Segment};
use crate::wire::tcp_options::SynOptions;

impl Step<'_> {
    /// Frees the slot that a half-open connection holds at the server.
    pub(super) fn free_slot(&mut self, service: ServiceId, key: &FlowKey, handshake: &Handshake) {
        let counters = self.counters(service);
        counters.half_open_reset.add(1);
        counters.reset_server.add(1);
        // SEG.SEQ is RCV.NXT of the server in SYN-RECEIVED (RFC 9293 §3.10.7.4, RFC 5961 §3.2).
        let reset = SegmentSpec {
            seq: handshake.client_iss.add(1),
            flags: Flags::RST,
            ..handshake.segment_to_server(key)
        };
        self.send(Side::Server, &reset);
    }

    /// The connection of a repeated SYN, if it is held here in the server's place.
    pub(super) fn held(&self, arrival: &Arrival<'_>) -> Option<Handshake> {
        self.shared.half_open.with(&arrival.key, |entry| match &entry.phase {
            Phase::Direct(direct) => {
                let is_its_own = direct.is_freed() && direct.handshake.client_iss == arrival.seq;
                is_its_own.then_some(direct.handshake)
            }
            Phase::Backend(_) | Phase::Outgoing(_) => None,
        })?
    }

    /// Answers a repeated SYN as the server did, which no longer knows of it: a client that is far away repeats its SYN before
    /// the first answer reaches it, and will acknowledge that.
    pub(super) fn repeat_answer(&mut self, arrival: &Arrival<'_>, frame: &[u8], held: &Handshake) {
        let syn = SynOptions::parse(Segment::new(frame, arrival.layout).options());
        let limit = mss_of_mtu(self.policy.mtu, arrival.layout.network.version);
        let server = self.server_options(&Subject::of(arrival));
        let spec = SegmentSpec {
            seq: held.cookie_iss,
            ack: Some(arrival.seq.add(1)),
            flags: if held.offer.ecn { Flags::SYN.with(Flags::ECE) } else { Flags::SYN },
            window: arrival.service.early_data,
            options: SynOptions {
                mss: syn.mss.map(|_| server.mss.unwrap_or(limit).min(limit)),
                // Never longer than the SYN: what it does not offer, it is not told.
                wscale: held.offer.wscale.and(syn.wscale).map(|_| held.told_wscale),
                sack: held.offer.sack && syn.sack,
                timestamps: syn
                    .timestamps
                    .filter(|_| held.offer.timestamps)
                    .map(|(value, _)| (held.cookie_ts, value)),
            },
            ..reply::answer(arrival, Side::Client, frame)
        };
        self.send(Side::Client, &spec);
        self.counters(arrival.id).synack_repeated.add(1);
    }

    /// The client goes on with a connection that cannot be opened anew: it is told.
    pub(super) fn give_up(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Verdict {
        if let Err(reason) = verify(arrival, frame) {
            return Verdict::Drop(reason);
        }
        self.shared.half_open.remove_if(&arrival.key, HalfOpen::is_direct);
        self.reset_unknown(arrival, frame);
        Verdict::Consume
    }

    /// The client completes a handshake that the server has been told to forget: it is opened there anew, in the client's
    /// name, and translated, for the server will choose another ISS.
    pub(super) fn revive(&mut self, arrival: &Arrival<'_>, frame: &[u8], handshake: Handshake) -> Verdict {
        if let Err(reason) = verify(arrival, frame) {
            return Verdict::Drop(reason);
        }
        let segment = Segment::new(frame, arrival.layout);
        let is_first = arrival.seq == handshake.client_iss.add(1);
        let timestamps = segment.options().timestamps();
        let (client_tsval, cookie_ts) = timestamps.unwrap_or_default();
        // Its last SYN may have come without, and the server would refuse every segment that has none.
        let offer =
            Offer { timestamps: handshake.offer.timestamps && timestamps.is_some(), ..handshake.offer };
        let window = arrival.window;
        let mut handshake = Handshake { client_tsval, cookie_ts, offer, window, ..handshake };
        handshake.note_way_of_client(arrival, frame);
        // Beyond a budget the entry stays, and the client tries again, unless it was told that there is no room.
        if let Err(reason) = self.may_open_backend(arrival) {
            if self.turn_away(arrival, frame, &handshake, reason) {
                self.shared.half_open.remove_if(&arrival.key, HalfOpen::is_direct);
            }
            return Verdict::Drop(reason);
        }
        let backend = self.backend_entry(arrival, handshake, Some(&segment).filter(|_| is_first));
        let deadline = backend.deadline;
        let is_replaced = self.shared.half_open.with(&arrival.key, |entry| {
            let is_held = matches!(&entry.phase, Phase::Direct(direct) if direct.is_freed());
            if is_held {
                *entry = HalfOpen { is_watched: entry.is_watched, ..backend };
            }
            is_held
        });
        if is_replaced != Some(true) {
            return Verdict::Drop(DropReason::EarlyDataExceeded);
        }
        self.counters(arrival.id).half_open_revived.add(1);
        self.sight(Sighted::Completed, arrival, frame);
        self.start_backend(arrival, deadline, &handshake);
        Verdict::Consume
    }
}

/// The SYN timeout of `service` while `half_open` of its connections are half-open: shorter when room gets scarce, shortest
/// under pressure.
pub(super) fn syn_timeout(service: &Service, half_open: usize, is_pressed: bool) -> Duration {
    let most = service.max_half_open.max(1);
    let room = most.saturating_sub(u32::try_from(half_open).unwrap_or(u32::MAX));
    let scarce = match room < most / 2 {
        true => {
            service.syn_timeout.saturating_mul(room.saturating_mul(2)).checked_div(most).unwrap_or_default()
        }
        false => service.syn_timeout,
    };
    let longest = if is_pressed { PRESSED_TIMEOUT } else { scarce };
    longest.min(service.syn_timeout).max(LOOK_INTERVAL)
}

/// The SYN timeout under pressure: a client whose SYN-ACK was not lost answers sooner from anywhere on earth. Between the
/// times at which clients repeat SYNs and servers SYN-ACKs, 1 and 3 s, for the RST not to cross one.
const PRESSED_TIMEOUT: Duration = Duration::from_millis(2_500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_syn_timeout_gets_shorter_in_the_second_half_of_the_room() {
        let timeout = |max_half_open, half_open, is_pressed| {
            let service =
                Service { max_half_open, syn_timeout: Duration::from_secs(20), ..Service::default() };
            syn_timeout(&service, half_open, is_pressed).as_millis()
        };
        for (half_open, millis) in [(0, 20_000), (50, 20_000), (51, 19_600), (90, 4_000), (100, 1_000)] {
            assert_eq!(timeout(100, half_open, false), millis, "{half_open} of 100");
        }
        // Half of an odd number is rounded down.
        assert_eq!((timeout(101, 51, false), timeout(101, 52, false)), (20_000, 19_405));
        assert_eq!((timeout(100, 0, true), timeout(100, 99, true)), (2_500, 2_500));
        assert_eq!(timeout(100, 1_000, false), 1_000, "more than there may be");
    }
}
