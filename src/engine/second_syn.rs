//! The second SYN to a server, which keeps its round-trip estimate clean.
//!
//! The server's SYN-ACK is acknowledged by synwall, from next door. A server that takes its first round-trip sample from that
//! (RFC 6298 §2, RFC 7323 §4) believes for seconds in a path of 0.05 ms: BBR then sends a twentieth of what it could, and loss
//! probes and timeouts come too early. So it is kept from taking the sample. Behind its first SYN-ACK the SYN goes out once more:
//!
//! - A server that keeps the connection in mind repeats its SYN-ACK, and takes no sample from a segment that it sent twice
//!   (Karn's algorithm, RFC 6298 §3), nor from a TSecr of 0: that is what it is given.
//! - A server that answers with SYN cookies (Linux with `tcp_syncookies`, at any time) has no time but that in TSecr, of which the
//!   low six bits say which options were agreed. It is given its TSval less a multiple of 64: the round trip of the client, or more.
//!
//! The second SYN tells the two apart: it lacks an option that the first answer granted. Who repeats the first answer grants it again;
//! who knows of none does not. Read RFC 6298 §3 and RFC 7323 §4 first; `docs/networks.md` has the figures, and what other servers
//! do.
//!
//! A second answer that lacks nothing of the first but has another ISS is of a server that has begun anew in between: a RST that was
//! under way has ended what it answered first, or the first answer was late and of an older connection on the tuple. Such a server
//! knows of its second answer alone, and the connection opens by that.

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use super::backend::Handshake;
use super::service::ServerAnswer;
use crate::cookie::Offer;

/// What the ACK of the server's SYN-ACK echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Echo {
    /// The server's TSval, as it came.
    Own,
    /// 0: the server repeated its answer, and looks at nothing else.
    Nothing,
    /// The server's TSval less so much: the server keeps no state.
    Before(u32),
}

impl Echo {
    /// By which of its answers to the first and the second SYN a server's connection opens, and what the server is to be told.
    pub(super) fn between(
        first: ServerAnswer,
        second: ServerAnswer,
        handshake: &Handshake,
    ) -> (ServerAnswer, Echo) {
        let has_again = Telltale::of(&first).map(|telltale| match telltale {
            Telltale::Sack => second.options.sack,
            Telltale::Wscale => second.options.wscale.is_some(),
        });
        match (has_again, second.iss == first.iss) {
            (Some(true), true) => (first, Echo::Nothing),
            (Some(false), _) => (first, Echo::Before(units_before(handshake.round_trip))),
            (None, true) => (first, Echo::Own),
            (Some(true) | None, false) => (second, Echo::Own),
        }
    }

    /// The TSecr for a server whose SYN-ACK said `tsval`.
    pub(super) fn of(self, tsval: u32) -> u32 {
        match self {
            Echo::Own => tsval,
            Echo::Nothing => 0,
            Echo::Before(units) => tsval.wrapping_sub(units),
        }
    }
}

/// What the second SYN lacks.
#[derive(Clone, Copy)]
enum Telltale {
    Sack,
    Wscale,
}

impl Telltale {
    /// What tells the kinds apart behind a first answer. Without timestamps nothing need: a server with cookies takes no sample.
    fn of(first: &ServerAnswer) -> Option<Telltale> {
        let options = first.options;
        match options.timestamps {
            Some(_) if options.sack => Some(Telltale::Sack),
            Some(_) if options.wscale.is_some() => Some(Telltale::Wscale),
            Some(_) | None => None,
        }
    }
}

/// What the second SYN offers.
pub(super) fn second_offer(offer: Offer, first: &ServerAnswer) -> Offer {
    match Telltale::of(first) {
        Some(Telltale::Sack) => Offer { sack: false, ..offer },
        Some(Telltale::Wscale) => Offer { wscale: None, ..offer },
        None => offer,
    }
}

/// The units of a millisecond, a multiple of 64, that are at least `round_trip`.
fn units_before(round_trip: Option<Duration>) -> u32 {
    let longest = round_trip.map_or(USUAL, |measured| measured.saturating_add(TOLERANCE).min(LONGEST));
    let blocks = longest.as_millis().div_ceil(u128::from(OPTIONS)).max(1);
    u32::try_from(blocks).unwrap_or(1).saturating_mul(OPTIONS)
}

/// Whether a server's answers to second SYNs come; lock-free.
#[derive(Default)]
pub(super) struct SecondSyns {
    /// Those since the last answer, sent or spared.
    unanswered: AtomicU32,
}

impl SecondSyns {
    /// Whether the next connection's is to be sent: not while a server, or what guards it, lets them go unanswered, but for a
    /// try now and then.
    pub(super) fn are_worth_it(&self) -> bool {
        let unanswered = self.unanswered.load(Ordering::Relaxed);
        if unanswered < TRIES {
            return true;
        }
        self.unanswered.store(unanswered.wrapping_add(1).max(TRIES), Ordering::Relaxed);
        unanswered.is_multiple_of(REST)
    }

    /// Notes whether one was answered.
    pub(super) fn note(&self, is_answered: bool) {
        let unanswered = self.unanswered.load(Ordering::Relaxed);
        match is_answered {
            true if unanswered != 0 => self.unanswered.store(0, Ordering::Relaxed),
            true => {}
            false => self.unanswered.store(unanswered.saturating_add(1), Ordering::Relaxed),
        }
    }
}

/// How long the answer to the second SYN is awaited: longer than the way to any server beside synwall. What is lost then is only
/// the clean estimate.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_millis(250);

/// The units that a server with cookies has options in, of which Linux makes 64 different TSvals (`TSBITS`).
const OPTIONS: u32 = 64;
/// The round trip of a client of which nothing is known: longer than most.
const USUAL: Duration = Duration::from_millis(256);
/// The longest round trip that is believed: a cookie that was out for longer waited for its client.
const LONGEST: Duration = Duration::from_secs(2);
/// Clocks that the cookie went by may tick so seldom.
const TOLERANCE: Duration = Duration::from_millis(12);
/// So many unanswered second SYNs in turn are no accident.
const TRIES: u32 = 3;
/// One connection in so many tries again.
const REST: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_a_multiple_of_64_and_cover_the_round_trip() {
        for (millis, units) in [(0, 64), (52, 64), (53, 128), (240, 256), (1_900, 1_920), (60_000, 2_048)] {
            assert_eq!(units_before(Some(Duration::from_millis(millis))), units, "{millis} ms");
        }
        assert_eq!(units_before(None), 256);
    }

    #[test]
    fn a_server_that_does_not_answer_is_seldom_asked() {
        let second_syns = SecondSyns::default();
        for _ in 0..TRIES {
            assert!(second_syns.are_worth_it());
            second_syns.note(false);
        }
        let asked = (0..1024).filter(|_| second_syns.are_worth_it()).count();
        assert_eq!(asked, 4);
        second_syns.note(true);
        assert!(second_syns.are_worth_it());
    }
}
