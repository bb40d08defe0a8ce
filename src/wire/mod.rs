//! Octets to fields and back, without an opinion about them.
//!
//! **The contract.** [`frame::parse`] makes one bounded pass over a frame and returns offsets that lie inside it.
//! Accessors and editors take the frame together with those offsets and may index freely, because nothing shortens a
//! frame after it was parsed. Nothing here allocates, and no input makes it panic.

// The contract above is what makes indexing safe here; everywhere else clippy refuses it.
#![allow(clippy::indexing_slicing)]

pub mod buffer;
pub mod seq;
