//! The XDP program against the engine: the packet vectors, random frames, and how large the program is.
//!
//! The program is loaded as the appliance loads it (`io::xdp`), and run a frame at a time by `BPF_PROG_TEST_RUN`, so no
//! frame leaves for anywhere. Needs root; what is missing fails the test, nothing is skipped. Each test has a network
//! namespace of its own, which goes with its thread.

#![allow(clippy::disallowed_methods, reason = "the program reads the real clock")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "in a test that is how to fail"
)]
#![allow(unreachable_pub, dead_code, reason = "what is shared knows more than is needed here")]

#[path = "../packets/mod.rs"]
mod packets;

mod differential;
mod direct;
mod flows;
mod kinds;
mod maker;
mod odd;
mod program;
mod random;
mod segments;
mod size;
mod stories;
mod vectors;
mod world;
