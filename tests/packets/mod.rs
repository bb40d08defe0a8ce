//! Packet vectors: their format, the engine that runs them, and frames to make them of. Shared by the generator
//! (`examples/packet_vectors`), the runner on the engine (`tests/packet_vectors.rs`) and the tests of the XDP program
//! (`tests/xdp`).

pub mod bench;
pub mod frames;
pub mod vector;
