//! Counters of the packet path.
//!
//! Each worker has a block of its own and is its only writer, so counting is a load, an add and a store, without a
//! locked instruction or a shared cache line. A scrape reads all blocks and sums them ([`super::Shared::snapshot`]).

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use super::policy::{MAX_SERVICES, ServiceId};
use super::verdict::{DropReason, Side};

/// A counter with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this: two writers would lose counts.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The value as of now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Declares a block of counters and the plain block of their values.
macro_rules! counters {
    ($(#[$doc:meta])* $live:ident, $values:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $live { $($(#[$field_doc])* pub $field: Counter,)* }

        #[doc = concat!("The values of [`", stringify!($live), "`], summed over workers.")]
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $values { $($(#[$field_doc])* pub $field: u64,)* }

        impl $live {
            /// Adds these values to `sum`.
            pub fn add_to(&self, sum: &mut $values) {
                $(sum.$field = sum.$field.wrapping_add(self.$field.value());)*
            }
        }

        impl $values {
            /// Each counter's name and value, in the order of declaration.
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field),)*]
            }
        }
    };
}

counters! {
    /// What a port carried. `received` = `forwarded` + `consumed` + `dropped`.
    PortCounters, PortValues {
        /// Frames captured on this port.
        received,
        /// Octets captured on this port, from the Ethernet header on.
        received_octets,
        /// Frames captured here and passed to the other port.
        forwarded,
        /// Frames captured here that had done their work.
        consumed,
        /// Frames captured here and dropped, for whatever reason.
        dropped,
        /// Frames the engine originated for transmission on this port.
        originated,
    }
}

counters! {
    /// What happened to one service.
    ServiceCounters, ServiceValues {
        /// SYNs from clients.
        syn_received,
        /// SYN-ACKs with a cookie sent to clients.
        synack_sent,
        /// Cookies accepted.
        cookie_valid,
        /// ACKs without a flow whose cookie was refused.
        cookie_invalid,
        /// SYNs sent to the server, first ones.
        backend_syn,
        /// SYNs sent to the server again.
        backend_syn_retransmitted,
        /// Second SYNs, behind the server's first answer.
        backend_syn_second,
        /// Handshakes with the server that completed.
        backend_established,
        /// The server answered a SYN with RST.
        backend_refused,
        /// The server answered none of the SYNs.
        backend_timeout,
        /// The client reset the connection before the server had answered.
        backend_aborted,
        /// The server refused timestamps that the client had been promised: the client would discard all it sends
        /// (RFC 7323 §3.2), so the connection was reset and the promise is not given again.
        backend_no_timestamps,
        /// RSTs sent to clients.
        reset_client,
        /// RSTs sent to the server.
        reset_server,
        /// SYNs answered with RST because the server has just refused.
        refused_fast,
        /// Octets of early data replayed to the server.
        early_data_replayed,
        /// Flows admitted, translated ones.
        flows_proxied,
        /// Flows admitted, let through as they are.
        flows_direct,
        /// Handshakes that clients completed of connections let through as they are.
        direct_completed,
        /// Flows that ended by FIN or RST.
        flows_closed,
        /// Flows that ended by idle timeout.
        flows_expired,
        /// Flows that were over (TIME-WAIT, reset, closing) and went before their time, since the table was filling.
        reclaimed_over,
        /// Flows of a service that is only watched that went before their time.
        reclaimed_watched,
        /// Flows that went before their idle timeout: neither end had sent an octet since the handshake.
        reclaimed_silent,
        /// Flows that went before their idle timeout: one end had closed.
        reclaimed_half_closed,
        /// Flows that went before their idle timeout: both ends were silent for two minutes at least.
        reclaimed_idle,
        /// Connections let through as they are that their client never completed.
        half_open_expired,
        /// Connections that were given up since the server had let a timeout pass and there was no room for the next: also
        /// counted as `backend_timeout`.
        half_open_reclaimed,
        /// Connections let through whose slot at the server was freed with a RST, since their client was too slow.
        half_open_reset,
        /// Of those: connections that were opened anew when their client completed the handshake after all.
        half_open_revived,
        /// Times that the service began to challenge.
        challenge_started,
        /// Times that it stopped.
        challenge_ended,
        /// SYNs that are signed (TCP MD5, TCP-AO): no SYN-ACK of ours can be. Such a service needs mode `off`.
        syn_signed,
        /// SYN-ACKs sent once more: to clients whose server is the first to send, and for connections that are held in the
        /// server's place.
        synack_repeated,
        /// SYNs of allowed sources, let through.
        syn_allowed,
        /// SYNs that `adaptive` let through because the service was not under pressure.
        syn_passed,
        /// Flows that an earlier run had saved.
        flows_restored,
        /// Clients' segments of no known connection that the start-up grace let through.
        grace_passed,
        /// Flows admitted because the server sent on them during the start-up grace; also counted as direct.
        grace_flows,
        /// SYNs that `monitor` let through and `adaptive` would have answered with a cookie.
        would_challenge,
        /// ICMP errors about segments in flight, translated and passed on.
        icmp_translated,
        /// ICMP errors about a SYN to the server that are no reason to give up.
        icmp_noted,
        /// SYN-ACKs of the server in other VLANs than their client's segments.
        answered_in_other_vlan,
    }
}

/// Upper bounds, in seconds, of the buckets of the time from a valid ACK to the server's SYN-ACK.
pub const HANDSHAKE_BUCKETS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 4.0, 16.0];

const HANDSHAKE_BUCKET_NANOS: [u64; 12] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    4_000_000_000,
    16_000_000_000,
];

/// A histogram of durations over [`HANDSHAKE_BUCKETS`], the last bucket being everything above.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; 13],
    sum_nanos: Counter,
}

impl Histogram {
    /// Records one duration.
    pub fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = HANDSHAKE_BUCKET_NANOS.iter().take_while(|bound| nanos > **bound).count();
        if let Some(counter) = self.buckets.get(bucket) {
            counter.add(1);
        }
        self.sum_nanos.add(nanos);
    }

    fn add_to(&self, sum: &mut HistogramValues) {
        for (total, counter) in sum.buckets.iter_mut().zip(&self.buckets) {
            *total = total.wrapping_add(counter.value());
        }
        sum.sum_nanos = sum.sum_nanos.wrapping_add(self.sum_nanos.value());
    }
}

/// The values of a [`Histogram`]: observations per bucket, not cumulative.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramValues {
    /// Observations per bucket; the last is everything above the last bound.
    pub buckets: [u64; 13],
    /// The sum of all observations, in nanoseconds.
    pub sum_nanos: u64,
}

/// Everything counted for one service.
#[derive(Debug, Default)]
pub struct ServiceRow {
    /// The plain counters.
    pub counters: ServiceCounters,
    /// From a valid ACK to the server's SYN-ACK.
    pub handshake: Histogram,
    dropped: [Counter; DropReason::ALL.len()],
}

/// The values of a [`ServiceRow`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRowValues {
    /// The plain counters.
    pub counters: ServiceValues,
    /// From a valid ACK to the server's SYN-ACK.
    pub handshake: HistogramValues,
    /// Frames dropped, by [`DropReason::index`].
    pub dropped: [u64; DropReason::ALL.len()],
}

/// One worker's counters, on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerStats {
    ports: [PortCounters; 2],
    services: Box<[ServiceRow]>,
}

impl WorkerStats {
    /// All zero.
    pub fn new() -> WorkerStats {
        // One row more than services: what belongs to none.
        let services = (0..=MAX_SERVICES).map(|_| ServiceRow::default()).collect();
        WorkerStats { ports: Default::default(), services }
    }

    /// The port on `side`.
    pub fn port(&self, side: Side) -> &PortCounters {
        match side {
            Side::Client => &self.ports[0],
            Side::Server => &self.ports[1],
        }
    }

    /// The row of `service`, or of no service.
    pub fn service(&self, service: Option<ServiceId>) -> &ServiceRow {
        let row = service.map_or(MAX_SERVICES, ServiceId::index).min(MAX_SERVICES);
        #[expect(clippy::indexing_slicing, reason = "there are MAX_SERVICES + 1 rows and `row` is clamped")]
        &self.services[row]
    }

    /// Counts a dropped frame.
    pub fn count_drop(&self, service: Option<ServiceId>, reason: DropReason) {
        if let Some(counter) = self.service(service).dropped.get(reason.index()) {
            counter.add(1);
        }
    }

    /// Adds the port's values to `sum`.
    pub fn add_port_to(&self, side: Side, sum: &mut PortValues) {
        self.port(side).add_to(sum);
    }

    /// Adds the row of `service` to `sum`.
    pub fn add_service_to(&self, service: Option<ServiceId>, sum: &mut ServiceRowValues) {
        let row = self.service(service);
        row.counters.add_to(&mut sum.counters);
        row.handshake.add_to(&mut sum.handshake);
        for (total, counter) in sum.dropped.iter_mut().zip(&row.dropped) {
            *total = total.wrapping_add(counter.value());
        }
    }
}

impl Default for WorkerStats {
    fn default() -> WorkerStats {
        WorkerStats::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_bounds_are_inclusive_and_agree_with_the_seconds() {
        for (seconds, nanos) in HANDSHAKE_BUCKETS.iter().zip(HANDSHAKE_BUCKET_NANOS) {
            assert_eq!(Duration::from_secs_f64(*seconds), Duration::from_nanos(nanos));
        }
        let histogram = Histogram::default();
        histogram.observe(Duration::from_nanos(500_000));
        histogram.observe(Duration::from_nanos(500_001));
        histogram.observe(Duration::from_secs(17));
        let mut values = HistogramValues::default();
        histogram.add_to(&mut values);
        assert_eq!((values.buckets[0], values.buckets[1], values.buckets[12]), (1, 1, 1));
        assert_eq!(values.sum_nanos, 1_000_001 + 17_000_000_000);
    }

    #[test]
    fn rows_of_services_and_of_none_are_apart() {
        let stats = WorkerStats::new();
        stats.count_drop(None, DropReason::Malformed);
        stats.count_drop(Some(ServiceId(3)), DropReason::NoFlow);
        stats.service(Some(ServiceId(3))).counters.syn_received.add(2);
        let (mut none, mut third) = (ServiceRowValues::default(), ServiceRowValues::default());
        stats.add_service_to(None, &mut none);
        stats.add_service_to(Some(ServiceId(3)), &mut third);
        assert_eq!(none.dropped[DropReason::Malformed.index()], 1);
        assert_eq!(third.dropped[DropReason::NoFlow.index()], 1);
        assert_eq!(third.counters.syn_received, 2);
        assert_eq!(none.counters, ServiceValues::default());
    }
}
