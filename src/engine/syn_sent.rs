//! SYN-SENT: the client has returned its cookie, the server has been sent a SYN and has not answered yet
//! (RFC 9293 §3.10.7.3).

use super::Step;
use super::backend::{
    Answer, Backend, Completion, FIRST_TIMEOUT, FromClient, Handshake, RESET_SETTLES, Subject, Timeout,
};
use super::classify::{Arrival, Stance};
use super::flow::Flow;
use super::half_open::{HalfOpen, Phase};
use super::policy::ServiceId;
use super::second_syn::ANSWER_TIMEOUT;
use super::service::{ServerAnswer, mss_of_mtu};
use super::verdict::{DropReason, Side, Verdict};
use crate::table::capped::{Caps, Refused};
use crate::table::early_data::{EarlyData, Room};
use crate::table::flow_key::FlowKey;
use crate::time::Instant;
use crate::wire::build::SegmentSpec;
use crate::wire::frame::Version;
use crate::wire::tcp::{Flags, Segment};

/// Whose cookie it was that opened a connection to the server.
pub(super) enum Opened {
    /// This one.
    Now,
    /// A copy of it.
    Before,
}

impl Step<'_> {
    /// Enters SYN-SENT: remembers the connection and sends its SYN to the server. `first` is the client's segment if what it
    /// carries is early data.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) fn open_backend(
        &mut self,
        arrival: &Arrival<'_>,
        handshake: Handshake,
        first: Option<&Segment<'_>>,
    ) -> Result<Opened, DropReason> {
        self.may_open_backend(arrival)?;
        self.make_room_for_a_half_open(arrival.id);
        let entry = self.backend_entry(arrival, handshake, first);
        let deadline = entry.deadline;
        match self.shared.half_open.admit(arrival.key, entry, self.half_open_caps(arrival.id, false)) {
            Ok(()) => {}
            Err(Refused::Full) => return Err(DropReason::HalfOpenFull),
            Err(Refused::ShareFull) => return Err(DropReason::SourceShareFull),
            // Another worker was faster with the same ACK.
            Err(Refused::Exists) => return Ok(Opened::Before),
        }
        if self.shared.flows.contains(&arrival.key) {
            // Or with all of the handshake: the flow was opened, and its entry removed, since it was looked for.
            self.shared.half_open.remove_if(&arrival.key, HalfOpen::is_backend);
            return Err(DropReason::EarlyDataExceeded);
        }
        self.start_backend(arrival, deadline, &handshake);
        Ok(Opened::Now)
    }

    /// Takes a connection to the server out of its budgets.
    ///
    /// # Errors
    /// It is beyond one.
    pub(super) fn may_open_backend(&mut self, arrival: &Arrival<'_>) -> Result<(), DropReason> {
        self.make_room_for_a_flow(arrival.id)?;
        if !self.has_room_for_timers(false) {
            return Err(DropReason::HalfOpenFull);
        }
        if arrival.stance != Stance::Watch && !self.take_connection(arrival) {
            return Err(DropReason::SourceConnectionsExceeded);
        }
        let syns = &self.shared.service(arrival.id).backend_syns;
        match syns.take(self.now, arrival.service.budgets.backend_syn) {
            true => Ok(()),
            false => Err(DropReason::BackendRateExceeded),
        }
    }

    /// The entry of a connection whose SYN is about to be sent to the server; `first` as above.
    pub(super) fn backend_entry(
        &self,
        arrival: &Arrival<'_>,
        handshake: Handshake,
        first: Option<&Segment<'_>>,
    ) -> HalfOpen {
        let mut early = EarlyData::new(self.shared.early_data.clone(), arrival.id.index());
        let room = self.room_for_early_data(arrival);
        let kept = first.filter(|segment| early.append(segment.payload(), room));
        // A FIN behind data that was not kept waits for that, or the server would get a stream that was cut short.
        let fin = kept.is_some() && arrival.flags.has(Flags::FIN);
        let settled = settled(&handshake);
        let waits = settled > self.now;
        let mut backend = Backend::new(handshake, early, fin, waits);
        kept.into_iter().for_each(|segment| backend.note_urgent(segment));
        HalfOpen {
            service: arrival.id,
            is_watched: false,
            admitted: self.now,
            deadline: if waits { settled } else { self.now.after(FIRST_TIMEOUT) },
            armed_for: Instant::ZERO,
            phase: Phase::Backend(backend),
        }
    }

    /// Sends the SYN of an entry that was admitted.
    pub(super) fn start_backend(&mut self, arrival: &Arrival<'_>, deadline: Instant, handshake: &Handshake) {
        self.spend(&arrival.key, handshake.client_iss, Some(handshake.cookie_iss));
        self.arm_half_open(arrival.key, deadline);
        if settled(handshake) <= self.now {
            self.counters(arrival.id).backend_syn.add(1);
            self.send_syn(&arrival.key, handshake);
        }
    }

    /// Takes a connection out of the budget of its source prefix; whether it was in it.
    pub(super) fn take_connection(&self, arrival: &Arrival<'_>) -> bool {
        let rate = arrival.service.budgets.connections_per_source;
        self.shared.connection_budgets.take_widened(arrival.key.client(), arrival.id.0, self.now, rate)
    }

    /// Handles a client's segment while the server has not answered; `None` if there is no such entry.
    pub(super) fn syn_sent_client(&mut self, arrival: &Arrival<'_>, frame: &mut [u8]) -> Option<Verdict> {
        let room = self.room_for_early_data(arrival);
        let segment = Segment::new(frame, arrival.layout);
        let verdict = self.shared.half_open.with(&arrival.key, |entry| match &mut entry.phase {
            Phase::Backend(backend) => Some(backend.handle_client(arrival, &segment, room)),
            Phase::Direct(_) | Phase::Outgoing(_) => None,
        })??;
        match verdict {
            FromClient::Settled(verdict) => Some(verdict),
            FromClient::Reset => {
                // The server's answer will find no flow and be reset.
                self.abort(arrival);
                Some(Verdict::Consume)
            }
            FromClient::Foreign(handshake) => {
                let redemption = match self.redeem(arrival, frame) {
                    Ok(redemption) => redemption,
                    Err(DropReason::CookieReplayed) => {
                        return Some(Verdict::Drop(DropReason::CookieReplayed));
                    }
                    Err(_) => return Some(Verdict::Drop(DropReason::OutOfWindow)),
                };
                let opened = Some((handshake.client_iss, handshake.cookie_iss));
                let told = || handshake.told(arrival.service.early_data);
                if self.may_be_late(arrival, frame, opened, &redemption, told) {
                    return Some(Verdict::Drop(DropReason::OutOfWindow));
                }
                // The client has given up and opened the next connection on the tuple.
                self.abort(arrival);
                Some(self.admit(arrival, frame, &redemption))
            }
        }
    }

    /// Forgets a connection that its client no longer wants.
    fn abort(&mut self, arrival: &Arrival<'_>) {
        self.shared.half_open.remove_if(&arrival.key, HalfOpen::is_backend);
        self.counters(arrival.id).backend_aborted.add(1);
    }

    /// Handles a server's segment while its answer to our SYN is awaited; `None` if there is no such entry.
    pub(super) fn syn_sent_server(&mut self, arrival: &Arrival<'_>, frame: &[u8]) -> Option<Verdict> {
        let (pool, now) = (self.shared.early_data.clone(), self.now);
        let second_syns = &self.shared.service(arrival.id).second_syns;
        let was_freed = self.was_freed_of_late(arrival);
        let asks_again = || arrival.service.second_syn && second_syns.are_worth_it();
        let answer = self.shared.half_open.with(&arrival.key, |entry| {
            let Phase::Backend(backend) = &mut entry.phase else { return None };
            let is_old = was_freed || backend.is_still_under_way(arrival.seq, now);
            let empty = EarlyData::new(pool, arrival.id.index());
            let answer = backend.handle_server(arrival, frame, empty, is_old, now, asks_again);
            match &answer {
                Answer::AskAgain(..) => entry.deadline = now.after(ANSWER_TIMEOUT),
                Answer::Outdated(handshake) => entry.deadline = settled(handshake),
                Answer::Established(_) | Answer::Refused(_) | Answer::Unexpected { .. } => {}
            }
            Some(answer)
        })??;
        match answer {
            Answer::Established(completion) => Some(self.complete(&Subject::of(arrival), &completion)),
            Answer::AskAgain(handshake, said) => {
                self.ask_again(arrival, &handshake, &said);
                Some(Verdict::Consume)
            }
            Answer::Outdated(handshake) => {
                self.arm_half_open(arrival.key, settled(&handshake));
                self.reset(Side::Server, arrival, frame);
                Some(Verdict::Drop(DropReason::UnexpectedAnswer))
            }
            Answer::Refused(handshake) => {
                self.remember_refusal(&arrival.key);
                self.refuse(arrival.id, &arrival.key, &handshake);
                Some(Verdict::Consume)
            }
            Answer::Unexpected { resend, wants_reset } => {
                if wants_reset {
                    self.reset(Side::Server, arrival, frame);
                }
                if let Some(handshake) = resend {
                    self.counters(arrival.id).backend_syn_retransmitted.add(1);
                    self.send_syn(&arrival.key, &handshake);
                }
                Some(Verdict::Drop(DropReason::UnexpectedAnswer))
            }
        }
    }

    /// The server has answered: what it does with the SYN once more tells how to keep its round-trip estimate clean.
    fn ask_again(&mut self, arrival: &Arrival<'_>, handshake: &Handshake, said: &ServerAnswer) {
        self.arm_half_open(arrival.key, self.now.after(ANSWER_TIMEOUT));
        self.counters(arrival.id).backend_syn_second.add(1);
        let limit = mss_of_mtu(self.policy.mtu, arrival.layout.network.version);
        self.send(Side::Server, &handshake.second_syn(&arrival.key, limit, said));
    }

    /// The server has answered: the flow is open, and what the client has sent meanwhile is replayed.
    fn complete(&mut self, subject: &Subject<'_>, completion: &Completion) -> Verdict {
        let handshake = &completion.handshake;
        self.note_served(subject);
        self.note_vlans(subject.id, &handshake.link, &handshake.back);
        self.learn(subject, &handshake.offer, &completion.said);
        if let Some(is_answered) = completion.is_second_answered {
            self.shared.service(subject.id).second_syns.note(is_answered);
        }
        if handshake.offer.timestamps && completion.said.options.timestamps.is_none() {
            return self.fail_without_timestamps(subject, handshake);
        }
        // The flow is there before the half-open entry goes: a segment that another worker handles meanwhile finds one
        // of the two.
        let flow = completion.flow(subject, self.now);
        let deadline = flow.deadline(&self.policy.limits);
        let admitted = self.admit_flow(subject.key, flow);
        let counters = self.counters(subject.id);
        if let Some(entry) = self.shared.half_open.remove_if(&subject.key, HalfOpen::is_backend) {
            let row = self.stats.service(Some(subject.id));
            row.handshake.observe(self.now.since(entry.admitted));
        }
        if let Err(refused) = admitted {
            self.reset_both(subject, handshake);
            return Verdict::Drop(match refused {
                Refused::ShareFull => DropReason::SourceShareFull,
                Refused::Full | Refused::Exists => DropReason::FlowTableFull,
            });
        }
        counters.backend_established.add(1);
        counters.flows_proxied.add(1);
        self.arm_flow(subject.key, deadline);
        self.replay(subject, completion);
        Verdict::Consume
    }

    /// The client was promised timestamps and would discard every segment without them (RFC 7323 §3.2).
    fn fail_without_timestamps(&mut self, subject: &Subject<'_>, handshake: &Handshake) -> Verdict {
        self.shared.half_open.remove_if(&subject.key, HalfOpen::is_backend);
        self.counters(subject.id).backend_no_timestamps.add(1);
        self.reset_both(subject, handshake);
        Verdict::Consume
    }

    pub(super) fn reset_both(&mut self, subject: &Subject<'_>, handshake: &Handshake) {
        let counters = self.counters(subject.id);
        counters.reset_client.add(1);
        counters.reset_server.add(1);
        self.send(Side::Client, &handshake.reset_client(&subject.key));
        let reset = SegmentSpec {
            seq: handshake.client_iss.add(1),
            flags: Flags::RST,
            ..handshake.segment_to_server(&subject.key)
        };
        self.send(Side::Server, &reset);
    }

    /// The server refused: so does the client's connection end.
    pub(super) fn refuse(&mut self, service: ServiceId, key: &FlowKey, handshake: &Handshake) {
        self.shared.half_open.remove_if(key, HalfOpen::is_backend);
        self.reject(key, handshake);
        self.note_failure(service, key.client());
        let counters = self.counters(service);
        counters.backend_refused.add(1);
        counters.reset_client.add(1);
        self.send(Side::Client, &handshake.reset_client(key));
    }

    /// Acts on the silence of a server: the SYN again, or the end.
    pub(super) fn syn_sent_timeout(&mut self, key: &FlowKey, service: ServiceId, timeout: &Timeout) {
        let counters = self.counters(service);
        match timeout {
            Timeout::Complete(completion) => match self.policy.service(service) {
                Some(of) => {
                    let _ = self.complete(&Subject { id: service, service: of, key: *key }, completion);
                }
                // A service that is no more opens nothing: the server's SYN-ACK is reset when it comes again.
                None => drop(self.shared.half_open.remove_if(key, HalfOpen::is_backend)),
            },
            Timeout::Send(handshake) => {
                counters.backend_syn.add(1);
                self.send_syn(key, handshake);
            }
            Timeout::Resend { handshake, is_late } => {
                if *is_late {
                    self.note_failure(service, key.client());
                }
                counters.backend_syn_retransmitted.add(1);
                if let Some(fast) = self.fast {
                    // Its mark would not last as long.
                    fast.mark_pending(key);
                }
                self.send_syn(key, handshake);
            }
            Timeout::GiveUp { handshake, is_noted } => {
                self.shared.half_open.remove_if(key, HalfOpen::is_backend);
                self.reject(key, handshake);
                if !is_noted {
                    self.note_failure(service, key.client());
                }
                if self.policy.service(service).is_some_and(|service| service.refuse_silent) {
                    self.remember_refusal(key);
                }
                counters.backend_timeout.add(1);
                counters.reset_client.add(1);
                self.send(Side::Client, &handshake.reset_client(key));
            }
        }
    }

    /// How much of a client's early data may be kept.
    fn room_for_early_data(&self, arrival: &Arrival<'_>) -> Room {
        let all = self.policy.limits.early_data_total;
        let bound = usize::from(arrival.service.early_data);
        Room { bound, owner: self.policy.early_data_cap(), all }
    }

    /// The caps of the half-open table, of the service and in all. Those that are only watched have a table of their own,
    /// half as large, and leave half of the service's to what is challenged.
    pub(super) fn half_open_caps(&self, service: ServiceId, is_watched: bool) -> Caps {
        let limits = &self.policy.limits;
        let part = |most: usize| if is_watched { most.div_ceil(2) } else { most };
        Caps {
            all: usize::MAX,
            kind: part(limits.max_half_open as usize),
            owner: part(self.policy.half_open_cap(service)),
            group: usize::MAX,
            share: limits.max_half_open_per_source as usize,
        }
    }

    /// How many flows like this one there may be.
    pub(super) fn flow_caps(&self, flow: &Flow) -> Caps {
        let limits = &self.policy.limits;
        let all = limits.max_flows as usize;
        Caps {
            // Those that are only watched leave half of the table to those that are protected.
            all: if flow.is_watched { all.div_ceil(2) } else { all },
            kind: usize::MAX,
            owner: self.policy.flow_cap(flow.service),
            group: usize::MAX,
            share: limits.max_flows_per_source as usize,
        }
    }

    /// How many flows of an earlier run there may be: what is open goes on, however the shares have changed.
    pub(super) fn restored_caps(&self) -> Caps {
        let [kind, owner, group, share] = [usize::MAX; 4];
        Caps { all: self.policy.limits.max_flows as usize, kind, owner, group, share }
    }

    fn send_syn(&mut self, key: &FlowKey, handshake: &Handshake) {
        let version = if key.server().is_ipv4() { Version::V4 } else { Version::V6 };
        let spec = handshake.syn(key, mss_of_mtu(self.policy.mtu, version));
        self.send(Side::Server, &spec);
    }
}

/// When no RST that the server was sent can be under way any more.
fn settled(handshake: &Handshake) -> Instant {
    handshake.forgotten.map_or(Instant::ZERO, |before| before.told.after(RESET_SETTLES))
}
