//! synwall: a SYN-flood defence appliance.
//!
//! A packet travels through the modules in one direction: [`io`] captures a frame and supplies the time, [`engine`]
//! decides what becomes of it with the help of [`wire`] (octets), [`cookie`] (who may pass) and [`table`] (who has
//! passed), and `io` sends what came out. [`config`] compiles the policy, [`control`] swaps it and rotates the keys,
//! [`metrics`] reads snapshots. `ARCHITECTURE.md` follows a packet through the files.
//!
//! Without the `appliance` feature only the core is compiled: `time`, `wire`, `cookie`, `table` and `engine`, which
//! know no clock, no randomness and no socket.

pub mod cookie;
pub mod engine;
pub mod table;
pub mod time;
pub mod wire;

#[cfg(feature = "appliance")]
pub mod app;
#[cfg(feature = "appliance")]
pub mod cli;
#[cfg(feature = "appliance")]
pub mod config;
#[cfg(feature = "appliance")]
pub mod control;
#[cfg(feature = "appliance")]
pub mod io;
#[cfg(feature = "appliance")]
pub mod metrics;
