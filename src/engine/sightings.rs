//! What the detector gets to see: a sample of SYNs and of completed handshakes, handed over without a lock.
//!
//! The packet path puts sightings into a queue of fixed size and forgets them; `control` takes them out and makes of them
//! what it can (distinct sources, heavy prefixes). A queue that is full loses the newest.

use core::net::IpAddr;
use core::sync::atomic::{AtomicU8, Ordering};

use crossbeam_queue::ArrayQueue;

use super::policy::ServiceId;

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

    /// Puts one in; lost if the queue is full.
    pub(super) fn put(&self, sighting: Sighting) {
        let _ = self.queue.push(sighting);
    }

    /// One SYN in 2^this is wanted.
    pub(super) fn log2(&self) -> u8 {
        self.log2.load(Ordering::Relaxed)
    }
}

impl super::Shared {
    /// Takes out the oldest sighting, if there is one.
    pub fn next_sighting(&self) -> Option<Sighting> {
        self.sightings.queue.pop()
    }

    /// Asks for one SYN in 2^`log2`, at most 2^16, so that the queue is not overrun between two looks at it.
    pub fn set_sampling(&self, log2: u8) {
        self.sightings.log2.store(log2.min(16), Ordering::Relaxed);
    }
}

/// Some milliseconds of the heaviest flood at one in one, seconds at the rate that the detector asks for.
pub const CAPACITY: usize = 1 << 14;
