//! Rewrites the segments of an established flow, so that each end sees the sequence numbers it knows.
//!
//! `delta = server_iss - cookie_iss`: client to server it is added to SEG.ACK and to every SACK edge, server to client
//! it is subtracted from SEG.SEQ. `ts_delta = server_ts - cookie_ts` does the same for TSecr and TSval (RFC 7323 §3).

use super::classify::Arrival;
use crate::wire::tcp::{Flags, SegmentMut};
use crate::wire::tcp_options::TcpOption;

/// How a flow is translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Translation {
    pub(super) delta: u32,
    pub(super) ts_delta: u32,
    /// For the window that the server announces.
    pub(super) server_window: Rescale,
    /// For the window that the client announces.
    pub(super) client_window: Rescale,
    /// The client was granted SACK and the server does not know it: its blocks become NOPs.
    pub(super) strips_sack: bool,
}

/// The change of a window field between the scale of who says it and the scale that its reader applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rescale {
    /// The scale of who says it.
    pub(super) from: u8,
    /// The scale that the reader applies.
    pub(super) to: u8,
}

impl Rescale {
    /// The field that says to the reader what `window` says: at most 65535, and never 0 unless it was 0, or the reader
    /// would stop and probe.
    pub(super) fn apply(self, window: u16) -> u16 {
        let octets = u64::from(window).wrapping_shl(u32::from(self.from));
        let field = u16::try_from(octets.wrapping_shr(u32::from(self.to))).unwrap_or(u16::MAX);
        if window == 0 { 0 } else { field.max(1) }
    }

    fn changes(self) -> bool {
        self.from != self.to
    }
}

impl Translation {
    /// The client's segment as the server is to see it.
    pub(super) fn client_to_server(&self, arrival: &Arrival<'_>, frame: &mut [u8]) {
        let has_ack = arrival.flags.has(Flags::ACK);
        let mut segment = SegmentMut::new(frame, arrival.layout);
        if has_ack {
            segment.set_ack(arrival.ack.add(self.delta));
        }
        if self.client_window.changes() {
            segment.set_window(self.client_window.apply(arrival.window));
        }
        for option in segment.as_segment().options().to_octets().iter() {
            match option {
                TcpOption::Sack { at, len } if self.strips_sack => segment.erase_in_options(at, len),
                TcpOption::Sack { at, len } => {
                    for edge in (at.saturating_add(2)..at.saturating_add(len)).step_by(4) {
                        segment.add_in_options(edge, self.delta);
                    }
                }
                // Without ACK the field means nothing (RFC 7323 §3.2).
                TcpOption::Timestamps { at, .. } if has_ack => {
                    segment.add_in_options(at.saturating_add(6), self.ts_delta);
                }
                _ => {}
            }
        }
        segment.finish(&arrival.offload);
    }

    /// The server's segment as the client is to see it.
    pub(super) fn server_to_client(&self, arrival: &Arrival<'_>, frame: &mut [u8]) {
        let mut segment = SegmentMut::new(frame, arrival.layout);
        segment.set_seq(arrival.seq.sub(self.delta));
        if self.server_window.changes() {
            segment.set_window(self.server_window.apply(arrival.window));
        }
        for option in segment.as_segment().options().to_octets().iter() {
            if let TcpOption::Timestamps { at, .. } = option {
                segment.add_in_options(at.saturating_add(2), self.ts_delta.wrapping_neg());
            }
        }
        segment.finish(&arrival.offload);
    }
}
