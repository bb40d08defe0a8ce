//! What the engine knows of a service's server: what it supports, and what clients were promised in its name.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::classify::Arrival;
use super::grace::Grace;
use super::policy::{ServerOptions, Service};
use super::pressure::Pressure;
use super::second_syn::SecondSyns;
use crate::cookie::Offer;
use crate::table::budget::Budget;
use crate::table::ripe::Ripe;
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
    promised_wscale: [AtomicU8; 2],
    /// Handshakes with the server that failed since the last that did not.
    failures: AtomicU32,
    pub(super) synacks: Budget,
    pub(super) backend_syns: Budget,
    pub(super) resets: Budget,
    pub(super) grace: Grace,
    /// Cookies of epochs before this one may be under way although their clients are let through now; 0 for none.
    redeems_before: AtomicU64,
    pub(super) pressure: Pressure,
    pub(super) icmp: Budget,
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
}

impl ServiceState {
    /// What the server supports: as seen in its SYN-ACKs, and until then as configured.
    pub(super) fn options(&self, service: &Service) -> ServerOptions {
        Learned::unpack(self.learned.load(Ordering::Relaxed)).over(service.server)
    }

    /// Notes what the server said in a SYN-ACK that answered `offer`: an option that was not offered says nothing.
    pub(super) fn learn(&self, offer: &Offer, said: &ServerAnswer) {
        let answer = &said.options;
        let before = self.learned.load(Ordering::Relaxed);
        let mut learned = Learned::unpack(before);
        learned.mss = answer.mss.or(learned.mss);
        if offer.wscale.is_some() {
            learned.wscale = Some(answer.wscale);
        }
        if offer.sack {
            learned.sack = Some(answer.sack);
        }
        if offer.timestamps {
            learned.timestamps = Some(answer.timestamps.is_some());
        }
        if offer.ecn {
            learned.ecn = Some(said.ecn);
        }
        let after = learned.pack();
        if after != before {
            self.learned.store(after, Ordering::Relaxed);
        }
    }

    /// Notes how a handshake with the server ended.
    pub(super) fn note_handshake(&self, succeeded: bool) {
        let failures = self.failures.load(Ordering::Relaxed);
        let after = if succeeded { 0 } else { failures.saturating_add(1) };
        if after != failures {
            self.failures.store(after, Ordering::Relaxed);
        }
    }

    /// Whether the server answers, as far as its last handshakes tell.
    pub(super) fn is_up(&self) -> bool {
        self.failures.load(Ordering::Relaxed) < FAILURES_OF_ONE_DOWN
    }

    /// Notes in `epoch` that clients are let through from now on to whom cookies were sent before.
    pub(super) fn let_through(&self, epoch: u64) {
        self.redeems_before.store(epoch.saturating_add(2), Ordering::Relaxed);
    }

    /// Whether such a cookie may still come back in `epoch`: one of the epoch before is accepted.
    pub(super) fn expects_cookies(&self, epoch: u64) -> bool {
        epoch < self.redeems_before.load(Ordering::Relaxed)
    }

    /// Forgets what was learned: the configuration speaks again.
    pub(super) fn unlearn(&self) {
        self.learned.store(0, Ordering::Relaxed);
    }

    /// Forgets everything about a service that is no more.
    pub(super) fn forget(&self) {
        self.unlearn();
        self.failures.store(0, Ordering::Relaxed);
        self.grace.end();
        self.redeems_before.store(0, Ordering::Relaxed);
        self.pressure.forget();
    }

    /// What was learned and promised, to be restored by [`ServiceState::restore`].
    pub(super) fn save(&self) -> (u64, [u8; 2]) {
        (self.learned.load(Ordering::Relaxed), [self.promised_wscale(0), self.promised_wscale(1)])
    }

    /// Takes over what an earlier run had learned, and what it promised in the name of `epoch` and the one before, as far as
    /// cookies of those are still accepted in `present`.
    pub(super) fn restore(&self, service: &Service, saved: (u64, [u8; 2]), epoch: u64, present: u64) {
        let (learned, [even, odd]) = saved;
        // Packed anew: what is no option does not get in.
        self.learned.store(Learned::unpack(learned).pack(), Ordering::Relaxed);
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

/// So many failed handshakes in a row are no accident: a single client's may be.
const FAILURES_OF_ONE_DOWN: u32 = 3;

/// What is promised while the server has not been seen to scale: any value will do, it is rescaled.
const DEFAULT_WSCALE: u8 = 7;

/// What SYN-ACKs have told; `None` where they have not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Learned {
    mss: Option<u16>,
    wscale: Option<Option<u8>>,
    sack: Option<bool>,
    timestamps: Option<bool>,
    ecn: Option<bool>,
}

impl Learned {
    fn over(self, configured: ServerOptions) -> ServerOptions {
        ServerOptions {
            mss: self.mss.or(configured.mss),
            wscale: self.wscale.unwrap_or(configured.wscale),
            sack: self.sack.unwrap_or(configured.sack),
            timestamps: self.timestamps.unwrap_or(configured.timestamps),
            ecn: self.ecn.unwrap_or(configured.ecn),
        }
    }

    /// Octets from the low end: MSS (2, 0 unknown), wscale (0 unknown, 1 absent, else value + 2), SACK, timestamps and ECN
    /// (0 unknown, 1 no, 2 yes).
    fn pack(self) -> u64 {
        let wscale = self.wscale.map_or(0, |wscale| wscale.map_or(1, |value| value.saturating_add(2)));
        let tristate = |known: Option<bool>| known.map_or(0, |yes| if yes { 2 } else { 1 });
        let [high, low] = self.mss.unwrap_or(0).to_be_bytes();
        u64::from_le_bytes([
            low,
            high,
            wscale,
            tristate(self.sack),
            tristate(self.timestamps),
            tristate(self.ecn),
            0,
            0,
        ])
    }

    fn unpack(packed: u64) -> Learned {
        let [low, high, wscale, sack, timestamps, ecn, ..] = packed.to_le_bytes();
        let tristate = |octet| match octet {
            0 => None,
            octet => Some(octet == 2),
        };
        Learned {
            mss: Some(u16::from_be_bytes([high, low])).filter(|mss| *mss != 0),
            wscale: match wscale {
                0 => None,
                octet => Some(octet.checked_sub(2)),
            },
            sack: tristate(sack),
            timestamps: tristate(timestamps),
            ecn: tristate(ecn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learned_options_survive_packing() {
        for mss in [None, Some(1), Some(1460), Some(u16::MAX)] {
            for wscale in [None, Some(None), Some(Some(0)), Some(Some(14))] {
                for sack in [None, Some(false), Some(true)] {
                    for timestamps in [None, Some(false), Some(true)] {
                        let ecn = sack.map(|sack| !sack);
                        let learned = Learned { mss, wscale, sack, timestamps, ecn };
                        assert_eq!(Learned::unpack(learned.pack()), learned);
                    }
                }
            }
        }
    }

    #[test]
    fn a_server_is_down_after_three_failures_in_a_row() {
        let state = ServiceState::default();
        let after = |succeeded| {
            state.note_handshake(succeeded);
            state.is_up()
        };
        let expected =
            [(false, true), (false, true), (true, true), (false, true), (false, true), (false, false)];
        for (succeeded, is_up) in expected.into_iter().chain([(false, false), (true, true)]) {
            assert_eq!(after(succeeded), is_up);
        }
    }

    /// The scale that was promised in an epoch whose cookies are still accepted is what they mean.
    #[test]
    fn promises_come_back_for_the_epochs_that_are_alive() {
        let restored = |epoch, present| {
            let state = ServiceState::default();
            let service = Service {
                server: ServerOptions { wscale: Some(9), ..ServerOptions::default() },
                ..Service::default()
            };
            state.restore(&service, (0, [3, 5]), epoch, present);
            [state.promised_wscale(0), state.promised_wscale(1)]
        };
        assert_eq!([restored(10, 10), restored(11, 11)], [[3, 5]; 2]);
        // One epoch on, the older of the two is over.
        assert_eq!((restored(10, 11), restored(11, 12)), ([3, 9], [9, 5]));
        assert_eq!([restored(10, 12), restored(9, 12)], [[9, 9]; 2]);
        // One epoch back: the newer one has not begun.
        assert_eq!((restored(11, 10), restored(10, 9)), ([3, 9], [9, 5]));
    }

    #[test]
    fn only_what_was_offered_is_learned() {
        let state = ServiceState::default();
        let nothing = Offer { mss: 1460, wscale: None, sack: false, timestamps: false, ecn: false };
        let said = |options, ecn| ServerAnswer { options, ecn, ..ServerAnswer::default() };
        state.learn(&nothing, &said(SynOptions { mss: Some(1400), ..SynOptions::default() }, true));
        let learned = Learned::unpack(state.learned.load(Ordering::Relaxed));
        assert_eq!(learned, Learned { mss: Some(1400), ..Learned::default() });
        let all = Offer { mss: 1460, wscale: Some(7), sack: true, timestamps: true, ecn: true };
        state.learn(&all, &said(SynOptions { sack: true, ..SynOptions::default() }, true));
        let learned = Learned::unpack(state.learned.load(Ordering::Relaxed));
        let expected = Learned {
            mss: Some(1400),
            wscale: Some(None),
            sack: Some(true),
            timestamps: Some(false),
            ecn: Some(true),
        };
        assert_eq!(learned, expected);
    }
}
