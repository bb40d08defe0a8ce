//! What the detector gets to see: a sample of SYNs and of completed handshakes, handed over without a lock.
//!
//! The packet path puts sightings into a queue of fixed size and forgets them; `control` takes them out and makes of them
//! what it can (distinct sources, heavy prefixes). A queue that is full loses the newest.

use core::net::IpAddr;
use core::sync::atomic::{AtomicU8, Ordering};

use crossbeam_queue::ArrayQueue;

use super::classify::Arrival;
use super::policy::ServiceId;
use super::{Shared, Step};

/// One segment that was seen, standing for 2^[`Sighting::weight_log2`] of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The service that it was sent to.
    pub service: ServiceId,
    /// What it was.
    pub what: Sighted,
    /// Who sent it, or pretended to.
    pub source: IpAddr,
    /// From which port.
    pub source_port: u16,
    /// To which port.
    pub port: u16,
    /// Its TTL or hop limit on arrival.
    pub hop_limit: u8,
    /// One of 2^this was sampled.
    pub weight_log2: u8,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighted {
    /// A SYN from a client.
    Syn,
    /// A client completed a handshake: it returned a cookie, or acknowledged its server's SYN-ACK.
    Completed,
}

/// The queue.
pub(super) struct Sightings {
    queue: ArrayQueue<Sighting>,
    /// One SYN in 2^this is put in.
    log2: AtomicU8,
}

impl Sightings {
    pub(super) fn new() -> Sightings {
        Sightings { queue: ArrayQueue::new(CAPACITY), log2: AtomicU8::new(0) }
    }
}

impl Step<'_> {
    /// Shows the detector a segment, or one of so many.
    pub(super) fn sight(&self, what: Sighted, arrival: &Arrival<'_>, frame: &[u8]) {
        let log2 = match what {
            Sighted::Syn => self.shared.sightings.log2.load(Ordering::Relaxed),
            // So rare that each counts.
            Sighted::Completed => 0,
        };
        // Sources that take turns must not fall into step with the sample: multiples of the golden ratio never do.
        let spread = self.counters(arrival.id).syn_received.value().wrapping_mul(GOLDEN_RATIO);
        if log2 != 0 && spread >> 64u32.saturating_sub(u32::from(log2)) != 0 {
            return;
        }
        // Lost if nobody takes them out: the detector asks for fewer.
        let _ = self.shared.sightings.queue.push(Sighting {
            service: arrival.id,
            what,
            source: arrival.key.client(),
            source_port: arrival.key.client_port(),
            port: arrival.key.server_port(),
            hop_limit: arrival.layout.network.hop_limit(frame),
            weight_log2: log2,
        });
    }
}

impl Shared {
    /// Takes out the oldest sighting, if there is one.
    pub fn next_sighting(&self) -> Option<Sighting> {
        self.sightings.queue.pop()
    }

    /// Asks for one SYN in 2^`log2`, at most 2^16, so that the queue is not overrun between two looks at it.
    pub fn set_sampling(&self, log2: u8) {
        let log2 = log2.min(16);
        self.sightings.log2.store(log2, Ordering::Relaxed);
        if let Some(fast) = &*self.fast.load() {
            fast.set_sampling(log2);
        }
    }

    /// Puts in what a fast path has sighted.
    pub fn put_sighting(&self, sighting: Sighting) {
        // Lost if nobody takes them out.
        let _ = self.sightings.queue.push(sighting);
    }
}

/// 2^64 / φ.
const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

/// Some milliseconds of the heaviest flood at one in one, seconds at the rate that the detector asks for.
pub const CAPACITY: usize = 1 << 14;
