//! LISTEN: segments of clients that have no entry anywhere (RFC 9293 §3.10.7.2). Nothing here remembers a peer until
//! it has returned a cookie.

use core::net::IpAddr;
use core::time::Duration;

use super::backend::{Forgotten, Handshake, RESET_LIFE, RESET_SETTLES, Subject};
use super::classify::{Arrival, screen, verify};
use super::policy::{Service, ServiceId};
use super::reply;
use super::service::{default_mss, mss_of_mtu};
use super::sightings::Sighted;
use super::syn_sent::Opened;
use super::verdict::{DropReason, Side, Verdict};
use super::{Keys, Step};
use crate::cookie::layout::SMALLEST_MSS;
use crate::cookie::{self, Minted, Offer, Redeemed, Tuple};
use crate::table::flow_key::FlowKey;
use crate::wire::build::SegmentSpec;
use crate::wire::ethernet::LinkHeader;
use crate::wire::seq::SeqNumber;
use crate::wire::tcp::{Flags, Segment};
use crate::wire::tcp_options::SynOptions;

/// A cookie that was returned.
pub(super) struct Redemption {
    pub(super) client_iss: SeqNumber,
    pub(super) cookie_iss: SeqNumber,
    offer: Offer,
    epoch: u64,
    /// TSval and TSecr of the ACK.
    timestamps: (u32, u32),
    /// See [`Handshake::round_trip`].
    round_trip: Option<Duration>,
    /// See [`Handshake::forgotten`].
    forgotten: Option<Forgotten>,
    /// The ACK is a keep-alive or window probe: its SEG.SEQ lies before the data and it carries none that counts.
    is_probe: bool,
}

impl Step<'_> {
    /// Answers a client's SYN, which has been screened, with a cookie, whatever else is known of the tuple: no table is touched.
    pub(super) fn answer_syn(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Verdict {
        match self.try_answer_syn(arrival, frame) {
            Ok(()) => Verdict::Consume,
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// Refuses a SYN that no client sends.
    pub(super) fn screen_opening(&self, arrival: &Arrival<'_>, frame: &[u8]) -> Result<(), DropReason> {
        screen(arrival)?;
        verify(arrival, frame)
    }

    fn try_answer_syn(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Result<(), DropReason> {
        let counters = self.counters(arrival.id);
        if self.is_refused(arrival) {
            if !self.may_reset(arrival) {
                return Err(DropReason::ResetRateExceeded);
            }
            counters.refused_fast.add(1);
            counters.reset_client.add(1);
            self.send(Side::Client, &reply::refusal(arrival, frame));
            return Ok(());
        }
        let keys = self.keys.ok_or(DropReason::NoKey)?;
        let options = Segment::new(frame, arrival.layout).options();
        let syn = SynOptions::parse(options.clone());
        if arrival.service.require_timestamps && syn.timestamps.is_none() {
            return Err(DropReason::TimestampsRequired);
        }
        self.take_syn_ack(arrival.id, arrival.service, arrival.key.client())?;
        if options.has_signature() {
            counters.syn_signed.add(1);
        }
        let version = arrival.layout.network.version;
        let state = self.shared.service(arrival.id);
        let server = self.server_options(&Subject::of(arrival));
        let mut offer = Offer {
            // An MSS of 0 is none, as Linux takes it.
            mss: syn.mss.filter(|mss| *mss != 0).unwrap_or(default_mss(version)),
            wscale: syn.wscale.filter(|_| server.wscale.is_some()),
            sack: syn.sack && server.sack,
            timestamps: syn.timestamps.is_some() && server.timestamps,
            // Without timestamps the cookie has no room for it.
            ecn: arrival.offers_ecn() && server.ecn && syn.timestamps.is_some() && server.timestamps,
        };
        let minted = self.mint(keys, arrival, &mut offer)?;
        let mss_limit = mss_of_mtu(self.policy.mtu, version);
        let spec = SegmentSpec {
            seq: minted.isn,
            ack: Some(arrival.seq.add(1)),
            flags: if offer.ecn { Flags::SYN.with(Flags::ECE) } else { Flags::SYN },
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
        state.pressure.note_sent(self.now, arrival.service);
        self.note_challenge(arrival);
        self.remember_syn_ack(arrival, spec);
        Ok(())
    }

    /// Takes a SYN-ACK out of the budgets of its source prefix and its service.
    pub(super) fn take_syn_ack(
        &self,
        id: ServiceId,
        service: &Service,
        client: IpAddr,
    ) -> Result<(), DropReason> {
        self.take_syn(id, service, client)?;
        match self.shared.service(id).synacks.take(self.now, service.budgets.synack) {
            true => Ok(()),
            false => Err(DropReason::SynRateExceeded),
        }
    }

    /// Takes a SYN out of the budget of its source prefix, or of its address's own if a client completed a handshake from there
    /// lately. SYNs forged in the name of other addresses of the prefix do not spend that.
    pub(super) fn take_syn(
        &self,
        id: ServiceId,
        service: &Service,
        client: IpAddr,
    ) -> Result<(), DropReason> {
        let (budgets, rate, now) = (&self.shared.syn_budgets, service.budgets.syn_per_source, self.now);
        let is_within = budgets.take(client, id.0, now, rate)
            || (self.shared.known.contains(client, now) && budgets.take_own(client, id.0, now, rate));
        match is_within {
            true => Ok(()),
            false => Err(DropReason::SourceRateExceeded),
        }
    }

    /// Handles a client's segment that has no entry: an ACK that returns a cookie opens the way to the server.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) fn listen(&mut self, arrival: &Arrival<'_>, frame: &mut [u8]) -> Result<Verdict, DropReason> {
        let redemption = self.redeem(arrival, frame);
        // Another worker may have redeemed it since the connection was looked for: its cookie has done its work.
        if matches!(redemption, Ok(_) | Err(DropReason::CookieReplayed)) {
            let found = self.established(Side::Client, arrival, frame);
            let found = found.or_else(|| self.syn_sent_client(arrival, frame));
            if let Some(verdict) = found {
                return Ok(verdict);
            }
        }
        Ok(self.open(arrival, frame, redemption?))
    }

    /// Opens the connection of a returned cookie. If the client's first SYN was let through and a later one answered, it is the
    /// answer that arrived: what the cookie has rounded the first SYN has told exactly, and its server goes by that.
    pub(super) fn open(
        &mut self,
        arrival: &Arrival<'_>,
        frame: &[u8],
        mut redemption: Redemption,
    ) -> Verdict {
        if let Some(entry) = self.forget_direct(arrival, |entry| !entry.is_backend()) {
            redemption.forgotten = entry.forgotten().or(redemption.forgotten);
            let exact = entry.offered_wscale(redemption.client_iss);
            redemption.offer.wscale = redemption.offer.wscale.map(|rounded| exact.unwrap_or(rounded));
        }
        self.admit(arrival, frame, &redemption)
    }

    /// Drops a client's segment that belongs to no connection and opens none, unless the start-up grace lets it through.
    pub(super) fn refuse_unknown(
        &mut self,
        arrival: &Arrival<'_>,
        frame: &[u8],
        reason: DropReason,
    ) -> Verdict {
        if self.is_graced_client(arrival, reason) {
            return Verdict::Forward;
        }
        if reason == DropReason::CookieInvalid {
            self.counters(arrival.id).cookie_invalid.add(1);
            if arrival.service.reset_unknown && verify(arrival, frame).is_ok() {
                self.reset_unknown(arrival, frame);
            }
        }
        if reason == DropReason::CookieReplayed && self.was_rejected(arrival) {
            self.reset_unknown(arrival, frame);
        }
        Verdict::Drop(reason)
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
            round_trip: timestamps.map(|(_, echo)| cookie::age(echo, keys.clock.unix_at(self.now))),
            forgotten: self.freed_of_late(&arrival.key, client_iss),
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
        match self.is_spent(&arrival.key, found.client_iss, cookie_iss) {
            true => Err(DropReason::CookieReplayed),
            false => Ok(found),
        }
    }

    /// Refuses a cookie from now on, for it has opened a connection: what is late of that, or sent again by whoever saw it, must
    /// not open it once more. `None` stands for every cookie of the ISS: of a connection from before a restart no more is known.
    pub(super) fn spend(&self, key: &FlowKey, client_iss: SeqNumber, cookie_iss: Option<SeqNumber>) {
        self.shared.spent.insert((key, client_iss, cookie_iss), self.now, self.spent_life(cookie_iss));
    }

    fn is_spent(&self, key: &FlowKey, client_iss: SeqNumber, cookie_iss: SeqNumber) -> bool {
        [Some(cookie_iss), None].into_iter().any(|cookie_iss| {
            self.shared.spent.contains((key, client_iss, cookie_iss), self.now, self.spent_life(cookie_iss))
        })
    }

    fn spent_life(&self, cookie_iss: Option<SeqNumber>) -> Duration {
        if cookie_iss.is_some() { SPENT } else { self.policy.limits.time_wait.max(WITHOUT_COOKIE) }
    }

    /// Refuses a cookie from now on, and notes that the client of a connection that came to nothing was told by RST: what crossed that
    /// RST must not open at the server what the client has given up, and a client that missed it is told again.
    pub(super) fn reject(&self, key: &FlowKey, handshake: &Handshake) {
        self.spend(key, handshake.client_iss, Some(handshake.cookie_iss));
        self.shared.spent.insert((key, handshake.client_iss, REJECTED), self.now, SPENT);
    }

    fn was_rejected(&self, arrival: &Arrival<'_>) -> bool {
        let is_rejected =
            |iss: SeqNumber| self.shared.spent.contains((&arrival.key, iss, REJECTED), self.now, SPENT);
        is_rejected(arrival.seq.sub(1)) || is_rejected(arrival.seq)
    }

    /// Notes that the server's answer to the client's SYN was reset, as one to which nothing here belongs: that RST would end what a
    /// cookie of the same SYN opens, and until it has come the server may repeat that answer.
    pub(super) fn note_freed(&self, key: &FlowKey, client_iss: SeqNumber, server_iss: SeqNumber) {
        self.shared.spent.insert((key, client_iss, FREED), self.now, RESET_SETTLES);
        self.shared.spent.insert((key, client_iss, server_iss, FREED), self.now, RESET_LIFE);
    }

    /// Whether a server's SYN-ACK is one that was reset when nothing belonged to it.
    pub(super) fn was_freed_of_late(&self, arrival: &Arrival<'_>) -> bool {
        let item = (&arrival.key, arrival.ack.sub(1), arrival.seq, FREED);
        arrival.flags.has(Flags::SYN) && self.shared.spent.contains(item, self.now, RESET_LIFE)
    }

    /// A connection that the server was told to forget when nothing belonged to its answer, if the RST may be under way.
    pub(super) fn freed_of_late(&self, key: &FlowKey, client_iss: SeqNumber) -> Option<Forgotten> {
        let is_freed = self.shared.spent.contains((key, client_iss, FREED), self.now, RESET_SETTLES);
        is_freed.then_some(Forgotten { iss: None, told: self.now })
    }

    /// Mints a cookie for the client's SYN that is not spent, and says what `offer` it carries.
    ///
    /// A client that rebooted may choose the same ISS again (embedded stacks do), and so have the cookie of the connection before,
    /// of which a late segment must open nothing. Less is offered in its name then, so that the cookie is another.
    fn mint(&self, keys: &Keys, arrival: &Arrival<'_>, offer: &mut Offer) -> Result<Minted, DropReason> {
        let unix = keys.clock.unix_at(self.now);
        for _ in 0..MOST_INCARNATIONS {
            let minted = cookie::mint(&keys.ring, &tuple(arrival), arrival.seq, offer, unix);
            // A SYN that comes again while the server is asked is answered alike: number for number, whoever answers.
            if !self.is_spent(&arrival.key, arrival.seq, minted.isn) || self.is_opened_by(arrival, minted.isn)
            {
                return Ok(minted);
            }
            offer.mss = (offer.mss / 4).saturating_mul(3).max(SMALLEST_MSS);
        }
        Err(DropReason::CookieReplayed)
    }

    fn is_opened_by(&self, arrival: &Arrival<'_>, cookie_iss: SeqNumber) -> bool {
        self.shared.half_open.with(&arrival.key, |entry| entry.is_of_cookie(arrival.seq, cookie_iss))
            == Some(true)
    }

    /// Admits the connection of a returned cookie: a half-open entry, and a SYN to the server.
    pub(super) fn admit(&mut self, arrival: &Arrival<'_>, frame: &[u8], redemption: &Redemption) -> Verdict {
        self.counters(arrival.id).cookie_valid.add(1);
        self.remember_source(arrival);
        let segment = Segment::new(frame, arrival.layout);
        let network = arrival.layout.network;
        let link = LinkHeader::of(frame, network.offset);
        let handshake = Handshake {
            link,
            back: link.reversed(),
            hop_limit: network.hop_limit(frame),
            flow_label: network.flow_label(frame),
            client_iss: redemption.client_iss,
            cookie_iss: redemption.cookie_iss,
            cookie_ts: redemption.timestamps.1,
            client_tsval: redemption.timestamps.0,
            offer: redemption.offer,
            round_trip: redemption.round_trip,
            window: arrival.window,
            told_wscale: self.shared.service(arrival.id).promised_wscale(redemption.epoch),
            forgotten: redemption.forgotten,
        };
        let first = Some(&segment).filter(|_| !redemption.is_probe);
        match self.open_backend(arrival, handshake, first) {
            Ok(Opened::Now) => {
                // Once for each cookie, and not before it is redeemed: copies of an ACK beyond a budget would hide a flood.
                self.shared.service(arrival.id).pressure.note_returned(self.now, arrival.service);
                self.sight(Sighted::Completed, arrival, frame);
                Verdict::Consume
            }
            Ok(Opened::Before) => Verdict::Consume,
            Err(reason) => {
                self.turn_away(arrival, frame, &handshake, reason);
                Verdict::Drop(reason)
            }
        }
    }

    /// Tells a client that returned its cookie and cannot be served, by RST within the service's budget: it believes that it
    /// is connected. Beyond a rate it will try again, if it is the first to speak. Whether it was told.
    pub(super) fn turn_away(
        &mut self,
        arrival: &Arrival<'_>,
        frame: &[u8],
        handshake: &Handshake,
        reason: DropReason,
    ) -> bool {
        let is_full = matches!(
            reason,
            DropReason::FlowTableFull | DropReason::HalfOpenFull | DropReason::SourceShareFull
        );
        let is_beyond_a_rate =
            matches!(reason, DropReason::SourceConnectionsExceeded | DropReason::BackendRateExceeded);
        let waits = is_full || (is_beyond_a_rate && arrival.service.server_speaks_first);
        if !waits || !self.may_reset(arrival) {
            return false;
        }
        self.counters(arrival.id).reset_client.add(1);
        self.send(Side::Client, &handshake.reset_client(&arrival.key));
        let carries =
            !Segment::new(frame, arrival.layout).payload().is_empty() || arrival.flags.has(Flags::FIN);
        if carries {
            // Its client may send the request once more on another connection: a copy of this one must not be executed.
            self.reject(&arrival.key, handshake);
        }
        true
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

/// Tell the clients that were rejected, and the server's answers that were reset, from cookies that are spent.
const REJECTED: u8 = 1;
const FREED: u8 = 2;

/// How long a cookie counts as spent: two epochs of the longest, for no longer does it live. It is known by all its bits, so no
/// other is refused for it.
pub(super) const SPENT: Duration = Duration::from_secs(2 * 3_600);

/// The same where only the ISS is known: two epochs of the default. A client that chooses the same ISS again waits for so long.
const WITHOUT_COOKIE: Duration = Duration::from_secs(64);

/// Cookies that are tried for one ISS: as many as an MSS of 1460 can be rounded down to, and some. Bounds what a SYN costs whose
/// sender has opened and reset connections with one ISS in turn.
const MOST_INCARNATIONS: u32 = 12;
