//! `src/bpf/abi.h` in Rust: what is shared with the program in the kernel, as structs of atomics, since both sides read and
//! write it at the same time.
//!
//! The comments are those of the header; sizes and offsets are asserted on both sides.
#![allow(unsafe_code)]

use std::mem::{offset_of, size_of};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use crate::engine::DropReason;
use crate::engine::policy::MAX_SERVICES;

/// What may lie in memory that is shared with the kernel.
///
/// # Safety
///
/// A type of atomics alone, without padding, for which any octets are a value.
pub(super) unsafe trait Shared: Sync {}

// SAFETY: an atomic, for which any octets are a value.
unsafe impl Shared for AtomicU64 {}

/// Pinned maps of another version are drained, not adopted.
pub(super) const ABI_VERSION: u32 = 6;

/// One row more than services: what belongs to none.
pub(super) const SERVICE_ROWS: usize = MAX_SERVICES + 1;

/// Settings that the program looks at first.
pub(super) mod setting {
    /// Everything goes up, as if no program were attached.
    pub(in super::super) const BYPASS: u32 = 1 << 0;
    /// The filter has rules.
    pub(in super::super) const FILTER: u32 = 1 << 1;
    /// There are direct flows.
    pub(in super::super) const DIRECT_FLOWS: u32 = 1 << 2;
    /// There are more areas than are looked through one by one.
    pub(in super::super) const MANY_AREAS: u32 = 1 << 3;
    /// There may be flows of services that are protected no more.
    pub(in super::super) const LINGERING: u32 = 1 << 4;
}

/// Secrets of the program's hashes.
pub const HASH_KEYS: usize = 11;

/// Map `settings`, one entry.
#[repr(C)]
pub(super) struct Settings {
    pub(super) version: AtomicU32,
    pub(super) flags: AtomicU32,
    pub(super) alive_until: AtomicU64,
    pub(super) refused_until: AtomicU64,
    pub(super) unix_nanos: AtomicU64,
    pub(super) unix_read_at: AtomicU64,
    pub(super) keys: [[AtomicU64; 2]; 2],
    pub(super) hash_keys: [AtomicU64; HASH_KEYS],
    pub(super) has_key: [AtomicU8; 2],
    pub(super) parity: AtomicU8,
    pub(super) sampling_log2: AtomicU8,
    pub(super) buckets: AtomicU32,
    pub(super) areas: AtomicU32,
    pub(super) mtu: [AtomicU16; 2],
    pub(super) cpus: AtomicU32,
    reserved: AtomicU32,
}

const _: () = assert!(size_of::<Settings>() == 184 && offset_of!(Settings, reserved) == 180);
const _: () = assert!(offset_of!(Settings, keys) == 40 && offset_of!(Settings, hash_keys) == 72);
// SAFETY: atomics up to octet 184, by the asserts.
unsafe impl Shared for Settings {}

/// `Service::flags`.
pub(super) mod service_flag {
    pub(in super::super) const REQUIRE_TIMESTAMPS: u8 = 1 << 0;
    pub(in super::super) const SPEAKS_FIRST: u8 = 1 << 1;
    pub(in super::super) const RESET_UNKNOWN: u8 = 1 << 2;
    pub(in super::super) const GRACE: u8 = 1 << 3;
    pub(in super::super) const WSCALE: u8 = 1 << 4;
    pub(in super::super) const SACK: u8 = 1 << 5;
    pub(in super::super) const TIMESTAMPS: u8 = 1 << 6;
    pub(in super::super) const ECN: u8 = 1 << 7;
}

/// Map `services`, [`SERVICE_ROWS`] entries.
#[repr(C)]
pub(super) struct Service {
    pub(super) mode: AtomicU8,
    pub(super) flags: AtomicU8,
    pub(super) promised_wscale: [AtomicU8; 2],
    pub(super) early_data: AtomicU16,
    pub(super) mss: [AtomicU16; 2],
    pub(super) synack_chunk: AtomicU16,
    pub(super) pressed: AtomicU32,
    pub(super) synack_interval: AtomicU64,
    pub(super) source_interval: AtomicU64,
    pub(super) reset_interval: AtomicU64,
    pub(super) pressure_interval: AtomicU64,
    pub(super) pressure_window: AtomicU64,
}

const _: () = assert!(size_of::<Service>() == 56 && offset_of!(Service, synack_interval) == 16);
// SAFETY: atomics up to octet 56, by the asserts.
unsafe impl Shared for Service {}

/// Map `areas`: protected prefixes, the longest first.
#[repr(C)]
pub(super) struct Area {
    pub(super) address: [AtomicU32; 4],
    pub(super) mask: [AtomicU32; 4],
    pub(super) is_protected: AtomicU32,
    reserved: AtomicU32,
}

const _: () = assert!(size_of::<Area>() == 40);
// SAFETY: atomics up to octet 40, by the assert.
unsafe impl Shared for Area {}

/// Up to so many areas are looked through one by one.
pub(super) const FEW_AREAS: usize = 4;
pub(super) const PORT_BLOCK: usize = 32;
/// Blocks of an area.
pub(super) const PORT_BLOCKS: usize = 65_536 / PORT_BLOCK;

/// Map `ports`: the service of each port, plus one; 0 is none.
#[repr(C)]
pub(super) struct PortBlock {
    pub(super) service: [AtomicU16; PORT_BLOCK],
}

const _: () = assert!(size_of::<PortBlock>() == 64);
// SAFETY: an array of atomics.
unsafe impl Shared for PortBlock {}

/// Map `hints`: what may be known of connections whose hash ends like this one's. See `hints`.
#[repr(C)]
#[derive(Default)]
pub(super) struct Hint {
    /// A bit is set if there is a flow.
    pub(super) flows: AtomicU32,
    /// When one was last marked as pending, in units of 2^[`STAMP_SHIFT`] milliseconds.
    pub(super) stamps: [AtomicU16; 2],
}

const _: () = assert!(size_of::<Hint>() == 8 && offset_of!(Hint, stamps) == 4);
// SAFETY: atomics up to octet 8, by the assert.
unsafe impl Shared for Hint {}

pub(super) const HINTS: usize = 32_768;
pub(super) const STAMP_SHIFT: u32 = 10;

/// Domains of the hashes for the map `known`: that of a site, and that of an address.
pub(super) const KNOWN_SITE: u32 = 1 << 18;
pub(super) const KNOWN_CLIENT: u32 = 1 << 19;

/// Values of `filter`.
pub(super) mod rule {
    /// A hole: as if there were no rule.
    pub(in super::super) const NONE: u32 = 0;
    pub(in super::super) const DENY: u32 = 1;
    pub(in super::super) const ALLOW: u32 = 2;
}

/// A `struct flow_key` as words: client, server, and both ports as they lie in a segment.
pub(super) const KEY_WORDS: usize = 9;

/// One end of a flow.
#[repr(C)]
#[derive(Default)]
pub(super) struct End {
    pub(super) next: AtomicU32,
    pub(super) acked: AtomicU32,
    pub(super) edge: AtomicU32,
    pub(super) max_window: AtomicU32,
}

/// `Slot::flags`.
pub(super) mod flow_flag {
    pub(in super::super) const UP: u8 = 1 << 0;
    pub(in super::super) const DIRECT: u8 = 1 << 1;
    pub(in super::super) const CHALLENGED: u8 = 1 << 2;
}

/// Map `slots`: flows, four a bucket.
#[repr(C)]
#[derive(Default)]
pub(super) struct Slot {
    pub(super) key: [AtomicU32; KEY_WORDS],
    /// Odd while the slot is empty or being written.
    pub(super) version: AtomicU32,
    pub(super) delta: AtomicU32,
    pub(super) ts_delta: AtomicU32,
    pub(super) ends: [End; 2],
    pub(super) clock_latest: AtomicU32,
    pub(super) clock_reach: AtomicU32,
    pub(super) last_seen: AtomicU32,
    pub(super) client_iss: AtomicU32,
    /// Four bits each, from the low end: the scale of the server's window, the one that its reader applies, the same of the
    /// client's.
    pub(super) scales: AtomicU16,
    pub(super) service: AtomicU16,
    pub(super) flags: AtomicU8,
    pub(super) storm: AtomicU8,
    pub(super) marks: AtomicU8,
    pub(super) last_server: AtomicU8,
}

const _: () = assert!(size_of::<Slot>() == 104 && offset_of!(Slot, version) == 36);
const _: () = assert!(offset_of!(Slot, ends) == 48 && offset_of!(Slot, scales) == 96);
const _: () = assert!(offset_of!(Slot, flags) == 100 && offset_of!(Slot, marks) == 102);
// SAFETY: atomics up to octet 104, by the asserts.
unsafe impl Shared for Slot {}

pub(super) const SLOTS_PER_BUCKET: usize = 4;

/// Map `counters`: cpu * [`SERVICE_ROWS`] + service.
#[repr(C)]
pub(super) struct ServiceCounters {
    pub(super) syn_received: AtomicU64,
    pub(super) synack_sent: AtomicU64,
    pub(super) cookie_invalid: AtomicU64,
    pub(super) syn_signed: AtomicU64,
    pub(super) synack_credit: AtomicU64,
    pub(super) pressure_meter: AtomicU64,
    pub(super) dropped: [AtomicU64; DropReason::ALL.len()],
    pub(super) padding: [AtomicU64; 6],
}

const _: () = assert!(size_of::<ServiceCounters>() == 320 && offset_of!(ServiceCounters, padding) == 272);
// SAFETY: atomics up to octet 320, by the asserts.
unsafe impl Shared for ServiceCounters {}

/// Map `port_counters`: cpu * 2 + side.
#[repr(C)]
pub(super) struct PortCounters {
    pub(super) received: AtomicU64,
    pub(super) received_octets: AtomicU64,
    pub(super) forwarded: AtomicU64,
    pub(super) consumed: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) originated: AtomicU64,
    pub(super) passed_up: AtomicU64,
    pub(super) padding: AtomicU64,
    /// The program's own: its clock and meters.
    pub(super) private: [AtomicU64; 8],
}

const _: () = assert!(size_of::<PortCounters>() == 128 && offset_of!(PortCounters, private) == 64);
// SAFETY: atomics up to octet 128, by the assert.
unsafe impl Shared for PortCounters {}

/// Octets of a `struct sighting`.
pub(super) const SIGHTING_LEN: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::known;

    /// The header is read, so that nothing here can go its own way.
    const HEADER: &str = include_str!("../../bpf/abi.h");

    fn define(name: &str) -> usize {
        let line = HEADER.lines().find_map(|line| line.strip_prefix(&format!("#define {name} "))).unwrap();
        line.trim().parse().unwrap()
    }

    #[test]
    fn constants_are_those_of_the_header() {
        assert_eq!(define("ABI_VERSION"), ABI_VERSION as usize);
        assert_eq!(define("MAX_SERVICES"), MAX_SERVICES);
        assert_eq!(define("HASH_KEYS"), HASH_KEYS);
        assert_eq!(define("FEW_AREAS"), FEW_AREAS);
        assert_eq!(define("PORT_BLOCK"), PORT_BLOCK);
        assert_eq!(define("SLOTS_PER_BUCKET"), SLOTS_PER_BUCKET);
        assert_eq!(define("STAMP_SHIFT"), STAMP_SHIFT as usize);
        assert_eq!(define("HINTS"), HINTS);
        assert_eq!(define("KNOWN_BLOCKS"), known::BLOCKS);
        assert_eq!(define("KNOWN_BLOCK"), known::BLOCK);
        assert_eq!(define("KNOWN_UNIT_LOG2"), known::UNIT_LOG2 as usize);
        assert_eq!(define("KNOWN_LIFE"), (known::LIFE.as_nanos() >> known::UNIT_LOG2) as usize);
        for (name, what) in [("KNOWN_SITE", KNOWN_SITE), ("KNOWN_CLIENT", KNOWN_CLIENT)] {
            assert!(HEADER.contains(&format!("#define {name} (1 << {})\n", what.trailing_zeros())), "{name}");
        }
    }

    #[test]
    fn drop_reasons_have_the_header_s_names_in_its_order() {
        let names: Vec<String> = HEADER
            .lines()
            .filter_map(|line| line.trim().strip_prefix("DROP_")?.strip_suffix(','))
            .map(str::to_lowercase)
            .collect();
        let labels: Vec<&str> = DropReason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(names, [labels, vec!["reasons"]].concat());
    }

    #[test]
    fn sizes_are_those_that_the_header_asserts() {
        for (name, size) in [
            ("settings", size_of::<Settings>()),
            ("service", size_of::<Service>()),
            ("area", size_of::<Area>()),
            ("port_block", size_of::<PortBlock>()),
            ("flow_key", KEY_WORDS * 4),
            ("hint", size_of::<Hint>()),
            ("slot", size_of::<Slot>()),
            ("service_counters", size_of::<ServiceCounters>()),
            ("port_counters", size_of::<PortCounters>()),
            ("sighting", SIGHTING_LEN),
        ] {
            let said = format!("ASSERT_ABI(sizeof(struct {name}) == {size});");
            assert!(HEADER.contains(&said), "{said}");
        }
    }
}
