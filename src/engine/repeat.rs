//! SYN-ACKs that may have to be sent once more.
//!
//! The one state a SYN cookie cannot do without: when the server is the first to speak and the client's ACK is lost,
//! the client waits for a greeting, the server has never heard of it, and nobody sends anything again. For services that
//! say so (`server_speaks_first`), and only to source prefixes that completed a handshake lately, the SYN-ACK is kept
//! for a second and sent once more if the cookie has not come back. Spoofed sources get nothing from this: they have
//! completed no handshake.

use core::net::IpAddr;
use core::num::NonZeroU32;
use core::time::Duration;
use std::collections::VecDeque;

use super::Step;
use super::classify::Arrival;
use super::policy::ServiceId;
use super::verdict::Side;
use crate::table::budget::Rate;
use crate::table::flow_key::FlowKey;
use crate::table::prefix;
use crate::time::Instant;
use crate::wire::build::SegmentSpec;

/// One worker's SYN-ACKs of the last second, the oldest first.
pub(super) struct Repeats {
    queue: VecDeque<Repeat>,
}

/// A SYN-ACK, and when it is to be sent again.
pub(super) struct Repeat {
    due: Instant,
    service: ServiceId,
    key: FlowKey,
    spec: SegmentSpec<'static>,
}

impl Repeats {
    /// None, with room for [`CAPACITY`].
    pub(super) fn new() -> Repeats {
        Repeats { queue: VecDeque::with_capacity(CAPACITY) }
    }

    /// When [`Repeats::pop_due`] will next have something.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.front().map(|repeat| repeat.due)
    }

    /// Takes a SYN-ACK that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Repeat> {
        // One from beyond a leap of the clock must not hold up those behind it.
        self.queue.pop_front_if(|repeat| repeat.due <= now || repeat.due > now.after(DELAY))
    }

    /// Whether it takes its share to get in.
    fn is_filling(&self) -> bool {
        self.queue.len() >= CAPACITY / 2
    }

    /// Remembers one; a full queue forgets its oldest.
    fn push(&mut self, repeat: Repeat) {
        if self.queue.len() >= CAPACITY {
            self.queue.pop_front();
        }
        self.queue.push_back(repeat);
    }
}

impl Step<'_> {
    /// Notes that a client was there at `at`.
    pub(super) fn note_known(&self, client: IpAddr, at: Instant) {
        let is_news = self.shared.known.note(client, at, self.now);
        if let Some(fast) = self.fast.filter(|_| is_news) {
            fast.note_known(client, self.now.since(at));
        }
    }

    /// Notes that a client, and its prefix, has completed a handshake.
    pub(super) fn remember_source(&self, arrival: &Arrival<'_>) {
        self.note_known(arrival.key.client(), self.now);
        if arrival.service.server_speaks_first {
            self.shared.validated.insert(prefix::octets(arrival.key.client()), self.now, VALIDATED);
        }
    }

    /// Keeps a SYN-ACK that was sent, to send it again if the client should need it.
    pub(super) fn remember_syn_ack(&mut self, arrival: &Arrival<'_>, spec: SegmentSpec<'static>) {
        let client = arrival.key.client();
        let source = prefix::octets(client);
        if !arrival.service.server_speaks_first
            || !self.shared.validated.contains(source, self.now, VALIDATED)
        {
            return;
        }
        let what = arrival.id.0 | REPEATS;
        let is_within = self.shared.syn_budgets.take_widened(client, what, self.now, SHARE);
        if is_within || !self.repeats.is_filling() {
            let due = self.now.after(DELAY);
            self.repeats.push(Repeat { due, service: arrival.id, key: arrival.key, spec });
        }
    }

    /// Sends a SYN-ACK once more, unless its cookie has come back meanwhile.
    pub(super) fn repeat_syn_ack(&mut self, repeat: &Repeat) {
        let has_come_back =
            self.shared.flows.contains(&repeat.key) || self.shared.half_open.contains(&repeat.key);
        let Some(service) = self.policy.service(repeat.service).filter(|_| !has_come_back) else { return };
        if self.take_syn_ack(repeat.service, service, repeat.key.client()).is_err() {
            return;
        }
        self.counters(repeat.service).synack_repeated.add(1);
        self.send(Side::Client, &repeat.spec);
    }
}

/// As long as a TCP waits before it sends a SYN-ACK again (RFC 6298 §2).
const DELAY: Duration = Duration::from_secs(1);
/// How long a source prefix that completed a handshake is worth a second SYN-ACK.
const VALIDATED: Duration = Duration::from_secs(600);
/// The most SYN-ACKs that are kept, for each worker: a second's worth of new connections.
const CAPACITY: usize = 4096;
/// Of a source prefix so many a second are kept when that is half full. Bounds what of the rest one network with many SYNs takes: an
/// eighth.
const SHARE: Rate = NonZeroU32::new(128);
/// Tells them from SYNs in a budget's name; above any service.
const REPEATS: u16 = 1 << 15;
