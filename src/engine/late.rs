//! Cookies that may be late, on the tuple of a connection that is young.
//!
//! A client reboots while its ACK is under way, or a NAT gives its tuple to another, and the ACK comes when the next client's
//! connection is open. Two cookies do not tell which is newer. So the client that is there is asked, by a keep-alive: the one
//! that has the connection stays silent or says what it has, one that has another returns its cookie once more.

use core::time::Duration;

use super::Step;
use super::backend::Handshake;
use super::classify::Arrival;
use super::listen::{Redemption, SPENT};
use super::reply;
use super::translate::Rescale;
use super::verdict::Side;
use crate::wire::build::SegmentSpec;
use crate::wire::seq::SeqNumber;
use crate::wire::tcp::Segment;
use crate::wire::tcp_options::SynOptions;

/// The state of a connection as its client knows it.
pub(super) struct Told {
    /// SND.UNA of the server: what the client expects next, as far as it has said.
    pub(super) una: SeqNumber,
    /// RCV.NXT of the server.
    pub(super) ack: SeqNumber,
    /// The server's window field.
    pub(super) window: u16,
}

impl Handshake {
    /// The state after the SYN-ACK with the cookie, which announced a window of `early_data`.
    pub(super) fn told(&self, early_data: u16) -> Told {
        let to = self.offer.wscale.map_or(0, |_| self.told_wscale);
        let window = Rescale { from: 0, to }.apply(early_data);
        Told { una: self.cookie_iss.add(1), ack: self.client_iss.add(1), window }
    }
}

impl Step<'_> {
    /// Whether the cookie that a client returns may be older than `opened`: the ISS and the cookie by which the connection on its tuple
    /// was opened. The client that is there is asked, by what that connection's was `told`; if the cookie is its own it returns it again.
    pub(super) fn may_be_late(
        &mut self,
        arrival: &Arrival<'_>,
        frame: &[u8],
        opened: Option<(SeqNumber, SeqNumber)>,
        redemption: &Redemption,
        told: impl FnOnce() -> Told,
    ) -> bool {
        let (spent, key, now) = (&self.shared.spent, &arrival.key, self.now);
        let returned = (redemption.client_iss, redemption.cookie_iss);
        let Some((client_iss, cookie_iss)) = opened.filter(|opened| *opened != returned) else {
            return false;
        };
        let age = spent.age((key, client_iss, Some(cookie_iss)), now, SPENT);
        if age.is_none_or(|age| age >= LATE) {
            return false;
        }
        let asked = (key, returned, ASKED);
        if let Some(ago) = spent.age(asked, now, LATE) {
            // An answer carries nothing. What does was sent in one go with the ACK, and is as late, or it is repeated.
            return arrival.end != arrival.seq && ago < IN_ONE_GO;
        }
        spent.insert(asked, now, LATE);
        self.probe_client(arrival, frame, &told());
        true
    }

    /// Asks the client who is there, by a keep-alive of the connection in which it was `told` so much (RFC 9293 §3.8.4): one that has
    /// another connection answers as well, with what it expects. Its timestamps are such as the sender of `frame` takes.
    fn probe_client(&mut self, arrival: &Arrival<'_>, frame: &[u8], told: &Told) {
        let own = Segment::new(frame, arrival.layout).options().timestamps();
        let timestamps = own.map(|(value, echo)| (echo, value));
        let probe = SegmentSpec {
            seq: told.una.sub(1),
            ack: Some(told.ack),
            window: told.window,
            options: SynOptions { timestamps, ..SynOptions::default() },
            ..reply::answer(arrival, Side::Client, frame)
        };
        self.send(Side::Client, &probe);
    }
}

/// For so long after a connection was opened, what its tuple's client before it has sent may still be under way.
const LATE: Duration = Duration::from_secs(4);

/// Segments that were sent in one go arrive within this, and nothing is repeated so soon: RTO is a second (RFC 6298 §2.4), Linux's at
/// least 200 ms.
const IN_ONE_GO: Duration = Duration::from_millis(100);

/// Tells cookies that were asked about from those that are spent.
const ASKED: u8 = 3;
