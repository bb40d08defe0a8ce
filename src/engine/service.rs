//! What the engine knows of a service's server: what it supports, and what clients were promised in its name.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::policy::{ServerOptions, Service};
use crate::cookie::Offer;
use crate::wire::frame::Version;
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
}

impl ServiceState {
    /// What the server supports: as seen in its SYN-ACKs, and until then as configured.
    pub(super) fn options(&self, service: &Service) -> ServerOptions {
        Learned::unpack(self.learned.load(Ordering::Relaxed)).over(service.server)
    }

    /// Notes what the server said in a SYN-ACK that answered `offer`: an option that was not offered says nothing.
    pub(super) fn learn(&self, offer: &Offer, answer: &SynOptions) {
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
        let after = learned.pack();
        if after != before {
            self.learned.store(after, Ordering::Relaxed);
        }
    }

    /// Forgets what was learned: the configuration speaks again.
    pub(super) fn forget(&self) {
        self.learned.store(0, Ordering::Relaxed);
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

/// What SYN-ACKs have told; `None` where they have not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Learned {
    mss: Option<u16>,
    wscale: Option<Option<u8>>,
    sack: Option<bool>,
    timestamps: Option<bool>,
}

impl Learned {
    fn over(self, configured: ServerOptions) -> ServerOptions {
        ServerOptions {
            mss: self.mss.or(configured.mss),
            wscale: self.wscale.unwrap_or(configured.wscale),
            sack: self.sack.unwrap_or(configured.sack),
            timestamps: self.timestamps.unwrap_or(configured.timestamps),
        }
    }

    /// Octets from the low end: MSS (2, 0 unknown), wscale (0 unknown, 1 absent, else value + 2), SACK and timestamps
    /// (0 unknown, 1 no, 2 yes).
    fn pack(self) -> u64 {
        let wscale = self.wscale.map_or(0, |wscale| wscale.map_or(1, |value| value.saturating_add(2)));
        let tristate = |known: Option<bool>| known.map_or(0, |yes| if yes { 2 } else { 1 });
        let [high, low] = self.mss.unwrap_or(0).to_be_bytes();
        u64::from_le_bytes([low, high, wscale, tristate(self.sack), tristate(self.timestamps), 0, 0, 0])
    }

    fn unpack(packed: u64) -> Learned {
        let [low, high, wscale, sack, timestamps, ..] = packed.to_le_bytes();
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
                        let learned = Learned { mss, wscale, sack, timestamps };
                        assert_eq!(Learned::unpack(learned.pack()), learned);
                    }
                }
            }
        }
    }

    #[test]
    fn only_what_was_offered_is_learned() {
        let state = ServiceState::default();
        let nothing = Offer { mss: 1460, wscale: None, sack: false, timestamps: false, ecn: false };
        state.learn(&nothing, &SynOptions { mss: Some(1400), ..SynOptions::default() });
        let learned = Learned::unpack(state.learned.load(Ordering::Relaxed));
        assert_eq!(learned, Learned { mss: Some(1400), ..Learned::default() });
        let all = Offer { mss: 1460, wscale: Some(7), sack: true, timestamps: true, ecn: false };
        state.learn(&all, &SynOptions { mss: None, wscale: None, sack: true, timestamps: None });
        let learned = Learned::unpack(state.learned.load(Ordering::Relaxed));
        let expected =
            Learned { mss: Some(1400), wscale: Some(None), sack: Some(true), timestamps: Some(false) };
        assert_eq!(learned, expected);
    }
}
