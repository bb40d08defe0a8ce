//! What the program has counted, each CPU for itself, summed for the engine's snapshot.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::abi::{PortCounters, SERVICE_ROWS, ServiceCounters};
use super::sys::Mapped;
use crate::engine::Side;
use crate::engine::policy::ServiceId;
use crate::engine::stats::{PortValues, ServiceRowValues};

/// The counters, and where they stood when this run began.
pub(super) struct Counting {
    services: Mapped<ServiceCounters>,
    ports: Mapped<PortCounters>,
    /// An earlier run's, by row and by side: those are not counted again.
    before: (Vec<ServiceRowValues>, [(PortValues, u64); 2]),
}

impl Counting {
    /// Counts from now on.
    pub(super) fn new(services: Mapped<ServiceCounters>, ports: Mapped<PortCounters>) -> Counting {
        let rows = (0..SERVICE_ROWS).map(|row| sum_row(&services, row)).collect();
        let sides = Side::ALL.map(|side| sum_port(&ports, side));
        Counting { services, ports, before: (rows, sides) }
    }

    /// Adds the row of `service`, or of none, to `sum`.
    pub(super) fn add_service_to(&self, service: Option<ServiceId>, sum: &mut ServiceRowValues) {
        let row = service.map_or(SERVICE_ROWS - 1, ServiceId::index).min(SERVICE_ROWS - 1);
        let (now, Some(before)) = (sum_row(&self.services, row), self.before.0.get(row)) else { return };
        let fields = |values: &ServiceRowValues| {
            let counters = &values.counters;
            [counters.syn_received, counters.synack_sent, counters.cookie_invalid, counters.syn_signed]
        };
        let counters = &mut sum.counters;
        let sums = [
            &mut counters.syn_received,
            &mut counters.synack_sent,
            &mut counters.cookie_invalid,
            &mut counters.syn_signed,
        ];
        for ((sum, now), before) in sums.into_iter().zip(fields(&now)).zip(fields(before)) {
            *sum = sum.wrapping_add(now.wrapping_sub(before));
        }
        for ((sum, now), before) in sum.dropped.iter_mut().zip(now.dropped).zip(before.dropped) {
            *sum = sum.wrapping_add(now.wrapping_sub(before));
        }
    }

    /// Adds what the port on `side` carried without the engine to `sum`.
    pub(super) fn add_port_to(&self, side: Side, sum: &mut PortValues) {
        let (now, _) = sum_port(&self.ports, side);
        let Some((before, _)) = self.before.1.get(side.index()) else { return };
        let add = |sum: &mut u64, now: u64, before: u64| *sum = sum.wrapping_add(now.wrapping_sub(before));
        add(&mut sum.received, now.received, before.received);
        add(&mut sum.received_octets, now.received_octets, before.received_octets);
        add(&mut sum.forwarded, now.forwarded, before.forwarded);
        add(&mut sum.consumed, now.consumed, before.consumed);
        add(&mut sum.dropped, now.dropped, before.dropped);
        add(&mut sum.originated, now.originated, before.originated);
    }

    /// How many frames that arrived on `side` were passed to the engine, which counts them as received.
    pub(super) fn passed_up(&self, side: Side) -> u64 {
        let before = self.before.1.get(side.index()).map_or(0, |(_, before)| *before);
        sum_port(&self.ports, side).1.wrapping_sub(before)
    }
}

fn sum_row(services: &[ServiceCounters], row: usize) -> ServiceRowValues {
    let mut sum = ServiceRowValues::default();
    for counters in services.iter().skip(row).step_by(SERVICE_ROWS) {
        add(&mut sum.counters.syn_received, &counters.syn_received);
        add(&mut sum.counters.synack_sent, &counters.synack_sent);
        add(&mut sum.counters.cookie_invalid, &counters.cookie_invalid);
        add(&mut sum.counters.syn_signed, &counters.syn_signed);
        for (sum, dropped) in sum.dropped.iter_mut().zip(&counters.dropped) {
            add(sum, dropped);
        }
    }
    sum
}

fn sum_port(ports: &[PortCounters], side: Side) -> (PortValues, u64) {
    let (mut sum, mut passed_up) = (PortValues::default(), 0);
    for port in ports.iter().skip(side.index()).step_by(Side::ALL.len()) {
        add(&mut sum.received, &port.received);
        add(&mut sum.received_octets, &port.received_octets);
        add(&mut sum.forwarded, &port.forwarded);
        add(&mut sum.consumed, &port.consumed);
        add(&mut sum.dropped, &port.dropped);
        add(&mut sum.originated, &port.originated);
        add(&mut passed_up, &port.passed_up);
    }
    (sum, passed_up)
}

fn add(sum: &mut u64, counter: &AtomicU64) {
    *sum = sum.wrapping_add(counter.load(Relaxed));
}
