//! Octets to fields and back, without an opinion about them.
//!
//! **The contract.** [`frame::parse`] makes one bounded pass over a frame and returns offsets that lie inside it.
//! Accessors and editors take the frame together with those offsets and may index freely, because nothing shortens a
//! frame after it was parsed. Nothing here allocates, and no input makes it panic.

// The contract above is what makes indexing safe here; everywhere else clippy refuses it.
#![allow(clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod buffer;
pub mod build;
pub mod checksum;
pub mod cut;
pub mod ethernet;
pub mod frame;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
mod layers;
pub mod pretty;
pub mod seq;
pub mod tcp;
pub mod tcp_options;
pub mod too_big;

/// Reads two octets, network byte order. The caller's offsets come from [`frame::parse`].
pub(crate) fn read_u16(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..at.saturating_add(2)) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    }
}

/// Reads four octets, network byte order. The caller's offsets come from [`frame::parse`].
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    match bytes.get(at..at.saturating_add(4)) {
        Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
        _ => 0,
    }
}

/// Writes `value` at `at`, if it fits.
pub(crate) fn write(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(room) = bytes.get_mut(at..at.saturating_add(value.len())) {
        room.copy_from_slice(value);
    }
}
