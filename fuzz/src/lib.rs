//! What the fuzz targets do with their octets. Each `run` returns, or panics because something that must always hold
//! did not. `tests/regressions` of the main crate compiles the same files and replays corpora and past crashes.

pub mod adversary;
pub mod config;
pub mod cookie;
pub mod engine;
pub mod frame;
pub mod options;
pub mod pcap;
