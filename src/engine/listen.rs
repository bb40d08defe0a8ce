//! LISTEN: segments of clients that have no entry anywhere (RFC 9293 §3.10.7.2). Nothing here remembers a peer until
//! it has returned a cookie.

use super::Step;
use super::backend::Handshake;
use super::classify::{Arrival, screen, verify};
use super::reply;
use super::service::{default_mss, mss_of_mtu};

use super::verdict::{DropReason, Side, Verdict};
use crate::cookie::{self, Offer, Redeemed, Tuple};
use crate::wire::build::SegmentSpec;
use crate::wire::ethernet::LinkHeader;
use crate::wire::seq::SeqNumber;
use crate::wire::tcp::{Flags, Segment};
use crate::wire::tcp_options::SynOptions;

/// A cookie that was returned.
pub(super) struct Redemption {
    pub(super) client_iss: SeqNumber,
    cookie_iss: SeqNumber,
    offer: Offer,
    epoch: u64,
    /// TSval and TSecr of the ACK.
    timestamps: (u32, u32),
    /// The ACK is a keep-alive or window probe: its SEG.SEQ lies before the data and it carries none that counts.
    is_probe: bool,
}

impl Step<'_> {
    /// Answers a client's SYN with a cookie, whatever else is known of the tuple: no table is touched.
    pub(super) fn answer_syn(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Verdict {
        match self.try_answer_syn(arrival, frame) {
            Ok(()) => Verdict::Consume,
            Err(reason) => Verdict::Drop(reason),
        }
    }

    fn try_answer_syn(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Result<(), DropReason> {
        screen(arrival)?;
        verify(arrival, frame)?;
        let counters = self.counters(arrival.id);
        if self.shared.refused.contains((arrival.key.server(), arrival.key.server_port()), self.now) {
            counters.refused_fast.add(1);
            counters.reset_client.add(1);
            self.send(Side::Client, &reply::refusal(arrival, frame));
            return Ok(());
        }
        let keys = self.keys.ok_or(DropReason::NoKey)?;
        let syn = SynOptions::parse(Segment::new(frame, arrival.layout).options());
        if syn.mss.is_some_and(|mss| mss < SMALLEST_MSS) {
            return Err(DropReason::MssTooSmall);
        }
        if arrival.service.require_timestamps && syn.timestamps.is_none() {
            return Err(DropReason::TimestampsRequired);
        }
        let version = arrival.layout.network.version;
        let state = self.shared.service(arrival.id);
        let server = state.options(arrival.service);
        let offer = Offer {
            mss: syn.mss.unwrap_or(default_mss(version)),
            wscale: syn.wscale.filter(|_| server.wscale.is_some()),
            sack: syn.sack && server.sack,
            timestamps: syn.timestamps.is_some() && server.timestamps,
            ecn: false,
        };
        let seconds = keys.clock.unix_seconds(self.now);
        let minted = cookie::mint(&keys.ring, &tuple(arrival), arrival.seq, &offer, seconds);
        let mss_limit = mss_of_mtu(self.policy.mtu, version);
        let spec = SegmentSpec {
            seq: minted.isn,
            ack: Some(arrival.seq.add(1)),
            flags: Flags::SYN,
            window: arrival.service.early_data,
            options: SynOptions {
                // Without MSS in the SYN there is none in the answer: it is never longer than the SYN.
                mss: syn.mss.map(|_| server.mss.unwrap_or(mss_limit).min(mss_limit)),
                wscale: offer.wscale.map(|_| state.promised_wscale(keys.ring.epoch())),
                sack: offer.sack,
                timestamps: syn
                    .timestamps
                    .filter(|_| offer.timestamps)
                    .map(|(value, _)| (minted.tsval, value)),
            },
            ..reply::answer(arrival, Side::Client, frame)
        };
        self.send(Side::Client, &spec);
        counters.synack_sent.add(1);
        Ok(())
    }

    /// Handles a client's segment that has no entry: an ACK that returns a cookie opens the way to the server.
    pub(super) fn listen(&mut self, arrival: &Arrival<'_>, frame: &mut [u8]) -> Verdict {
        match self.redeem(arrival, frame) {
            Ok(redemption) => self.admit(arrival, frame, &redemption),
            Err(reason) => {
                if reason == DropReason::CookieInvalid {
                    self.counters(arrival.id).cookie_invalid.add(1);
                }
                Verdict::Drop(reason)
            }
        }
    }

    /// Checks the cookie that an ACK returns.
    pub(super) fn redeem(&self, arrival: &Arrival<'_>, frame: &[u8]) -> Result<Redemption, DropReason> {
        screen(arrival)?;
        if !arrival.flags.has(Flags::ACK) || arrival.flags.has(Flags::SYN.with(Flags::RST)) {
            return Err(DropReason::NoFlow);
        }
        let keys = self.keys.ok_or(DropReason::NoKey)?;
        let segment = Segment::new(frame, arrival.layout);
        let timestamps = segment.options().timestamps();
        if arrival.service.require_timestamps && timestamps.is_none() {
            return Err(DropReason::TimestampsRequired);
        }
        let cookie_iss = arrival.ack.sub(1);
        let check = |client_iss| {
            let echo = timestamps.map(|(_, echo)| echo);
            cookie::check(&keys.ring, &tuple(arrival), client_iss, cookie_iss, echo)
        };
        let redemption = |client_iss, Redeemed { offer, epoch }, is_probe| Redemption {
            client_iss,
            cookie_iss,
            offer,
            epoch,
            timestamps: timestamps.unwrap_or_default(),
            is_probe,
        };
        let found = if let Some(redeemed) = check(arrival.seq.sub(1)) {
            redemption(arrival.seq.sub(1), redeemed, false)
        } else if segment.payload().len() <= 1
            && let Some(redeemed) = check(arrival.seq)
        {
            // A keep-alive or window probe can be the first that arrives when the ACK was lost (RFC 9293 §3.8.4).
            redemption(arrival.seq, redeemed, true)
        } else {
            return Err(DropReason::CookieInvalid);
        };
        // The cookie covers the header; what comes with it is about to be kept.
        verify(arrival, frame)?;
        Ok(found)
    }

    /// Admits the connection of a returned cookie: a half-open entry, and a SYN to the server.
    pub(super) fn admit(&mut self, arrival: &Arrival<'_>, frame: &[u8], redemption: &Redemption) -> Verdict {
        let counters = self.counters(arrival.id);
        counters.cookie_valid.add(1);
        let segment = Segment::new(frame, arrival.layout);
        let handshake = Handshake {
            link: LinkHeader::of(frame, arrival.layout.network.offset),
            hop_limit: arrival.layout.network.hop_limit(frame),
            client_iss: redemption.client_iss,
            cookie_iss: redemption.cookie_iss,
            cookie_ts: redemption.timestamps.1,
            client_tsval: redemption.timestamps.0,
            offer: redemption.offer,
            window: arrival.window,
            told_wscale: self.shared.service(arrival.id).promised_wscale(redemption.epoch),
        };
        let payload = if redemption.is_probe { &[] } else { segment.payload() };
        self.open_backend(arrival, handshake, payload, !redemption.is_probe)
    }
}

fn tuple(arrival: &Arrival<'_>) -> Tuple {
    Tuple {
        source: arrival.key.client(),
        destination: arrival.key.server(),
        source_port: arrival.key.client_port(),
        destination_port: arrival.key.server_port(),
    }
}

/// Smaller segments would make the server send a header for every few octets (the attack of CVE-2019-11479).
const SMALLEST_MSS: u16 = 64;
