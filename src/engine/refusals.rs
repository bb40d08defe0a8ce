//! A server that refuses: for whom, and whether it is down for all.
//!
//! A packet filter beside the server refuses a single client (`fail2ban`, a limit of connections) in the same words as a
//! closed port refuses all. So a refusal is that client's prefix's own, and is taken for the port's only when several
//! prefixes were refused and none was served.

use core::net::IpAddr;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use super::Step;
use super::backend::Subject;
use super::classify::Arrival;
use super::policy::ServiceId;
use crate::table::flow_key::FlowKey;
use crate::table::prefix;
use crate::time::Instant;

/// The handshakes of a service's server that failed since the last that did not.
#[derive(Debug, Default)]
pub(super) struct Failing {
    count: AtomicU32,
    since: AtomicU64,
    pub(super) is_down: AtomicBool,
}

impl Failing {
    /// Counts one more; `is_believed` if several sources tell.
    fn note(&self, now: Instant, is_believed: bool) {
        let count = self.count.load(Ordering::Relaxed).saturating_add(1);
        self.count.store(count, Ordering::Relaxed);
        if count == 1 {
            self.since.store(now.as_nanos(), Ordering::Relaxed);
        }
        let since = Instant::from_nanos(self.since.load(Ordering::Relaxed));
        if is_believed || (count >= FEWEST && now.since(since) >= LONG) {
            self.is_down.store(true, Ordering::Relaxed);
        }
    }

    /// A handshake succeeded; whether others had failed before.
    pub(super) fn end(&self) -> bool {
        // Nearly always a look and no store: the line is shared by all workers.
        let has_failed = self.count.load(Ordering::Relaxed) != 0;
        if has_failed {
            self.count.store(0, Ordering::Relaxed);
            self.is_down.store(false, Ordering::Relaxed);
        }
        has_failed
    }
}

impl Step<'_> {
    /// Whether SYNs of the client are answered with what the server would say to them.
    pub(super) fn is_refused(&self, arrival: &Arrival<'_>) -> bool {
        let port = (arrival.key.server(), arrival.key.server_port());
        let life = self.policy.limits.refused;
        let refused = &self.shared.refused;
        refused.contains((port, prefix::octets(arrival.key.client())), self.now, life)
            || refused.contains(port, self.now, life)
    }

    /// Has the next SYNs to a server that refused a client answered at once: those of its prefix, and all if others were
    /// refused too and none was served. A network tells that once for a while: one that the server bars is refused again and again.
    pub(super) fn remember_refusal(&self, key: &FlowKey) {
        let (port, client) = ((key.server(), key.server_port()), key.client());
        let (now, life) = (self.now, self.policy.limits.refused);
        self.shared.refused.insert((port, prefix::octets(client)), now, life);
        let is_serving = || self.shared.serving.contains(port, now, SERVING);
        let (barred, network) = (&self.shared.barred, (port, prefix::site(client)));
        let is_news = !barred.contains(network, now, TOLD);
        barred.insert(network, now, TOLD);
        let is_closed =
            is_news && self.shared.witnesses.claim((REFUSES, port), client, now, SERVING) && !is_serving();
        if is_closed {
            self.shared.refused.insert(port, now, life);
        }
        if let Some(fast) = self.fast {
            fast.note_refusal(port, (!is_closed).then_some(client), life);
        }
    }

    /// Notes that the server answered a SYN.
    pub(super) fn note_served(&self, subject: &Subject<'_>) {
        let port = (subject.key.server(), subject.key.server_port());
        self.shared.serving.insert(port, self.now, SERVING);
        if self.shared.service(subject.id).failing.end() {
            self.shared.witnesses.refute((FAILS, subject.id));
        }
    }

    /// Notes that a handshake with the server of `service` failed that a client of `client`'s prefix had asked for.
    pub(super) fn note_failure(&self, service: ServiceId, client: IpAddr) {
        let is_believed = self.shared.witnesses.claim((FAILS, service), client, self.now, LONG);
        self.shared.service(service).failing.note(self.now, is_believed);
    }
}

/// A port that answered a SYN so lately is not closed; and refusals further apart are not added up. Bounds what three
/// networks that the server bars can do to the others.
const SERVING: Duration = Duration::from_secs(10);

/// For so long a network's further refusals tell nothing about others. Bounds how often three networks that the server bars have all
/// SYNs to it refused for [`super::policy::Limits::refused`].
const TOLD: Duration = Duration::from_secs(600);

/// Where all clients are of one network, nothing but failures for so long tells that a server is down.
const LONG: Duration = Duration::from_secs(60);
const FEWEST: u32 = 3;

/// What is claimed.
const REFUSES: u8 = 1;
const FAILS: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(1_000_000_000_000 + seconds * 1_000_000_000)
    }

    #[test]
    fn a_server_is_down_when_several_sources_say_so_or_nothing_succeeds_for_a_minute() {
        let failing = Failing::default();
        let after = |seconds, is_believed| {
            failing.note(at(seconds), is_believed);
            failing.is_down.load(Ordering::Relaxed)
        };
        assert!(!after(0, false) && !after(1, false) && after(2, true));
        failing.end();
        assert!(!failing.is_down.load(Ordering::Relaxed));
        assert!(!after(100, false) && !after(159, false) && after(160, false));
        failing.end();
        assert!(!after(200, false) && !after(300, false), "two are an accident");
    }
}
