//! Links of unequal MTU: what does not fit the next one is reported to its sender, as by a router (RFC 1191, RFC 8201).
//!
//! A bridge that dropped such packets silently would be a black hole for every connection whose MSS it did not clamp:
//! those of other services, tunnels, UDP. Packets that may be fragmented are dropped, for a bridge fragments nothing.

use core::num::NonZeroU32;

use super::Step;
use super::verdict::{DropReason, Side, Verdict};
use crate::table::budget::Rate;
use crate::wire::buffer::FrameBuf;
use crate::wire::ethernet;
use crate::wire::too_big::{self, TooBig};

/// A packet that arrived and is too long for the other link.
pub(super) struct Excess {
    /// What its sender is told, if it may be told.
    report: Option<TooBig>,
}

impl Step<'_> {
    /// Looks whether the frame that arrived on `side` is too long for the other link; to be asked before it is edited,
    /// for its sender must recognise it.
    pub(super) fn excess(&self, side: Side, frame: &FrameBuf) -> Option<Excess> {
        let limit = usize::from(self.policy.link_mtu(side.peer()));
        // One comparison for nearly every frame.
        if frame.bytes().len() <= limit.saturating_add(ethernet::MIN_HEADER_LEN) {
            return None;
        }
        let is_longer = too_big::packet_len(frame.bytes(), &frame.offload()).is_some_and(|len| len > limit);
        is_longer.then(|| Excess { report: TooBig::of(frame.bytes()) })
    }

    /// Drops a packet that would have crossed, and tells its sender.
    pub(super) fn refuse_excess(&mut self, side: Side, excess: &Excess) -> Verdict {
        if let Some(report) = &excess.report
            && self.shared.too_big_budgets.take(
                report.sender(),
                u16::from(side == Side::Server),
                self.now,
                RATE,
            )
        {
            let mtu = self.policy.link_mtu(side.peer());
            if self.out.push(side, TooBig::ROOM, |buffer| report.write(mtu, buffer)) {
                self.stats.port(side).originated.add(1);
            }
        }
        Verdict::Drop(DropReason::TooBig)
    }
}

/// Reports a second to one source prefix on one side: a sender needs one for each path. What is forged spends no more than what the
/// prefix has that it names, and a report is never longer than what it answers.
const RATE: Rate = NonZeroU32::new(1_000);
