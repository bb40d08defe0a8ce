//! What the engine knows of a service's server: what it supports, and what clients were promised in its name.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::classify::Arrival;
use super::grace::Grace;
use super::policy::{ServerOptions, Service};
use super::pressure::Pressure;
use super::refusals::Failing;
use super::second_syn::SecondSyns;
use super::servers::{LIFE, Learned};
use crate::cookie::{KeyRing, Offer};
use crate::table::budget::Budget;
use crate::table::ripe::Ripe;
use crate::time::Instant;
use crate::wire::frame::Version;
use crate::wire::seq::SeqNumber;
use crate::wire::tcp::{Flags, Segment};
use crate::wire::tcp_options::{MAX_WINDOW_SCALE, SynOptions};

/// One service's learned options and promises; lock-free.
///
/// A SYN-ACK promises a client what the server supports, and the cookie has no room for the promise. All of it but one
/// value can be read off the client's ACK (SACK and a scaled window are among the cookie's flags, timestamps show
/// themselves): those change as soon as the server is seen to differ. The *value* of the window scale cannot, so it is
/// fixed for the life of a key epoch, whose parity the cookie carries, and a difference is made good by rescaling.
#[derive(Default)]
pub(super) struct ServiceState {
    learned: AtomicU64,
    /// Until when what it lacks counts.
    lacks_until: AtomicU64,
    promised_wscale: [AtomicU8; 2],
    pub(super) failing: Failing,
    pub(super) synacks: Budget,
    pub(super) backend_syns: Budget,
    pub(super) resets: Budget,
    /// Of SYNs that pass because their sources are allowed.
    pub(super) let_off: Budget,
    pub(super) grace: Grace,
    /// Cookies of the epoch before this one, and of what was accepted beside it, may be under way although their clients are let
    /// through now; 0 for none.
    challenged_before: AtomicU64,
    pub(super) pressure: Pressure,
    /// Flows that may go when the service's share of the table is full.
    pub(super) ripe_flows: Ripe,
    /// The same of half-open entries.
    pub(super) ripe_half_open: Ripe,
    pub(super) second_syns: SecondSyns,
}

/// What the server says in its SYN-ACK.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ServerAnswer {
    /// Its ISS.
    pub(super) iss: SeqNumber,
    /// Its window, which in a SYN-ACK is never scaled (RFC 7323 §2.2).
    pub(super) window: u16,
    pub(super) options: SynOptions,
    /// It takes part in ECN: ECE without CWR (RFC 3168 §6.1.1).
    pub(super) ecn: bool,
}

impl ServerAnswer {
    /// The answer in the server's SYN-ACK.
    pub(super) fn of(arrival: &Arrival<'_>, frame: &[u8]) -> ServerAnswer {
        let options = SynOptions::parse(Segment::new(frame, arrival.layout).options());
        ServerAnswer {
            iss: arrival.seq,
            window: arrival.window,
            options,
            ecn: arrival.flags.has(Flags::ECE) && !arrival.flags.has(Flags::CWR),
        }
    }

    /// Whether it grants an option that its SYN cannot have had.
    pub(super) fn grants_more_than(&self, offer: &Offer) -> bool {
        let options = &self.options;
        (options.timestamps.is_some() && !offer.timestamps)
            || (options.wscale.is_some() && offer.wscale.is_none())
            || (options.sack && !offer.sack)
            || (self.ecn && !offer.ecn)
    }
}

impl ServiceState {
    /// What the server supports: as seen in its SYN-ACKs, and until then as configured. Of a prefix, what the weakest of its
    /// servers does, as far as is known.
    pub(super) fn options(&self, service: &Service) -> ServerOptions {
        self.learned().over(service)
    }

    pub(super) fn learned(&self) -> Learned {
        Learned::unpack(self.learned.load(Ordering::Relaxed))
    }

    /// Takes over what was learned; what the server lacks counts for [`LIFE`].
    pub(super) fn set_learned(&self, learned: Learned, now: Instant) {
        let packed = learned.pack();
        self.lacks_until.store(now.after(LIFE).as_nanos(), Ordering::Relaxed);
        if packed != self.learned.load(Ordering::Relaxed) {
            self.learned.store(packed, Ordering::Relaxed);
        }
    }

    /// Forgets what the server lacked when that was learned long ago, or beyond a leap of the clock.
    pub(super) fn age(&self, now: Instant) {
        let until = Instant::from_nanos(self.lacks_until.load(Ordering::Relaxed));
        if now >= until || until > now.after(LIFE) {
            let learned = self.learned();
            if learned.without_lacks() != learned {
                self.learned.store(learned.without_lacks().pack(), Ordering::Relaxed);
            }
        }
    }

    /// Whether the server answers, as far as its last handshakes tell.
    pub(super) fn is_up(&self) -> bool {
        !self.failing.is_down.load(Ordering::Relaxed)
    }

    /// Notes in `epoch` that clients are let through from now on to whom cookies were sent before.
    pub(super) fn let_through(&self, epoch: u64) {
        self.challenged_before.store(epoch.saturating_add(1), Ordering::Relaxed);
    }

    /// Whether such a cookie may still come back: one that is accepted by what is on the ring.
    pub(super) fn expects_cookies(&self, ring: &KeyRing) -> bool {
        let epoch = self.challenged_before.load(Ordering::Relaxed).checked_sub(1);
        epoch.is_some_and(|epoch| ring.accepts(epoch))
    }

    /// Forgets what was learned: the configuration speaks again.
    pub(super) fn unlearn(&self) {
        self.learned.store(0, Ordering::Relaxed);
    }

    /// Forgets everything about a service that is no more.
    pub(super) fn forget(&self) {
        self.unlearn();
        self.failing.end();
        self.grace.end();
        self.challenged_before.store(0, Ordering::Relaxed);
        self.pressure.forget();
    }

    /// What was learned and promised, to be restored by [`ServiceState::restore`].
    pub(super) fn save(&self) -> (u64, [u8; 2]) {
        (self.learned.load(Ordering::Relaxed), [self.promised_wscale(0), self.promised_wscale(1)])
    }

    /// Takes over what an earlier run had learned, and what it promised in the name of `epoch` and the one before, as far as
    /// cookies of those are still accepted in `present`.
    pub(super) fn restore(
        &self,
        now: Instant,
        service: &Service,
        saved: (u64, [u8; 2]),
        [epoch, present]: [u64; 2],
    ) {
        let (learned, [even, odd]) = saved;
        // Packed anew: what is no option does not get in.
        self.set_learned(Learned::unpack(learned), now);
        self.promise(service, present);
        self.promise(service, present.wrapping_add(1));
        let promised = |epoch| if epoch & 1 == 0 { even } else { odd };
        let is_alive = |saved: u64| saved == present || saved.wrapping_add(1) == present;
        for saved in [epoch, epoch.wrapping_sub(1)].into_iter().filter(|saved| is_alive(*saved)) {
            self.slot(saved).store(promised(saved).min(MAX_WINDOW_SCALE), Ordering::Release);
        }
    }

    /// Fixes the promise for `epoch` before its key is used. The slot's last user, two epochs ago, is past any cookie.
    pub(super) fn promise(&self, service: &Service, epoch: u64) {
        let wscale = self.options(service).wscale.unwrap_or(DEFAULT_WSCALE).min(MAX_WINDOW_SCALE);
        self.slot(epoch).store(wscale, Ordering::Release);
    }

    /// The window scale that SYN-ACKs of `epoch` promise.
    pub(super) fn promised_wscale(&self, epoch: u64) -> u8 {
        self.slot(epoch).load(Ordering::Acquire)
    }

    fn slot(&self, epoch: u64) -> &AtomicU8 {
        match epoch & 1 {
            0 => &self.promised_wscale[0],
            _ => &self.promised_wscale[1],
        }
    }
}

/// The MSS that a link of `mtu` octets leaves to TCP (RFC 9293 §3.7.1: without options).
pub(super) fn mss_of_mtu(mtu: u16, version: Version) -> u16 {
    match version {
        Version::V4 => mtu.saturating_sub(40),
        Version::V6 => mtu.saturating_sub(60),
    }
}

/// The MSS to assume of a peer that announces none (RFC 9293 §3.7.1, RFC 8200 §5).
pub(super) fn default_mss(version: Version) -> u16 {
    match version {
        Version::V4 => 536,
        Version::V6 => 1220,
    }
}

/// What is promised while the server has not been seen to scale: any value will do, it is rescaled.
const DEFAULT_WSCALE: u8 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    /// The scale that was promised in an epoch whose cookies are still accepted is what they mean.
    #[test]
    fn promises_come_back_for_the_epochs_that_are_alive() {
        let restored = |epoch, present| {
            let state = ServiceState::default();
            let service = Service {
                server: ServerOptions { wscale: Some(9), ..ServerOptions::default() },
                ..Service::default()
            };
            state.restore(Instant::ZERO, &service, (0, [3, 5]), [epoch, present]);
            [state.promised_wscale(0), state.promised_wscale(1)]
        };
        assert_eq!([restored(10, 10), restored(11, 11)], [[3, 5]; 2]);
        // One epoch on, the older of the two is over.
        assert_eq!((restored(10, 11), restored(11, 12)), ([3, 9], [9, 5]));
        assert_eq!([restored(10, 12), restored(9, 12)], [[9, 9]; 2]);
        // One epoch back: the newer one has not begun.
        assert_eq!((restored(11, 10), restored(10, 9)), ([3, 9], [9, 5]));
    }
}
