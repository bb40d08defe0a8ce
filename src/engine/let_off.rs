//! Sources that the operator lets off the challenge (`filter.allow`): their SYNs go straight to the server.
//!
//! # Security
//! Their addresses can be forged like all others. So as many of their SYNs pass as count as no pressure in mode `adaptive`: those
//! of `activate_at` a second, while the server holds fewer half-open connections than that. The rest is answered with cookies.
//! Nothing else that is bounded for each source counts for them, so a proxy that opens more connections than this is served at
//! any rate.

use core::num::NonZeroU32;

use super::Step;
use super::classify::{Arrival, Stance};
use super::verdict::DropReason;

impl Step<'_> {
    /// Whether the operator lets the source off: it is no sign of pressure either.
    pub(super) fn is_let_off(&self, arrival: &Arrival<'_>) -> bool {
        arrival.stance == Stance::Watch && arrival.service.mode.protects()
    }

    /// Has the SYN of a source that is let off challenged if it is beyond what passes.
    ///
    /// # Errors
    /// It is, and no client sends such a SYN.
    pub(super) fn limit_let_off(&self, arrival: &mut Arrival<'_>, frame: &[u8]) -> Result<(), DropReason> {
        if !self.is_let_off(arrival) || self.may_pass(arrival) {
            return Ok(());
        }
        self.screen_opening(arrival, frame)?;
        if let Some(keys) = self.keys {
            // Its ACK is not to pass as it is.
            self.shared.service(arrival.id).let_through(keys.ring.epoch());
        }
        arrival.stance = Stance::Challenge;
        Ok(())
    }

    fn may_pass(&self, arrival: &Arrival<'_>) -> bool {
        let state = self.shared.service(arrival.id);
        let [begin, _] = state.pressure.answering.thresholds(arrival.service);
        let rate = NonZeroU32::new(begin.syn_rate).unwrap_or(NonZeroU32::MIN);
        self.shared.slots_held(arrival.id) < begin.half_open as usize
            && state.let_off.take(self.now, Some(rate))
    }
}
