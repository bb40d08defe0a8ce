//! Clients that completed a handshake lately, as the program looks for them: `table::known` in the kernel's memory, under the
//! program's own hash. `src/bpf/budget.h` is the reader.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::abi::{HASH_KEYS, KNOWN_CLIENT, KNOWN_SITE};
use super::fast::{address_words, prefix_words};
use super::table::hash;
use crate::table::known;
use crate::time::Instant;

/// The map `known`.
pub(super) struct Known<Cells> {
    cells: Cells,
    keys: [u64; HASH_KEYS],
}

impl<Cells: Deref<Target = [AtomicU64]>> Known<Cells> {
    pub(super) fn new(cells: Cells, keys: [u64; HASH_KEYS]) -> Known<Cells> {
        Known { cells, keys }
    }

    /// Notes that `client` was there at `at`, nanoseconds of the program's clock.
    pub(super) fn note(&self, client: IpAddr, at: u64) {
        let (place, tag) = self.place(client);
        if let Some(cell) = self.cells.get(place) {
            cell.store(known::pack(tag, Instant::from_nanos(at)).into(), Relaxed);
        }
    }

    fn place(&self, client: IpAddr) -> (usize, u16) {
        let [a, b, c, d] = address_words(client);
        let [e, f] = prefix_words(client);
        let own = hash(&self.keys, &[a, b, c, d, KNOWN_CLIENT, 0]);
        let f = if client.is_ipv6() { f & 0xffff_0000_u32.to_be() } else { f };
        known::place(client, hash(&self.keys, &[e, f, KNOWN_SITE, 0]), own)
    }
}
