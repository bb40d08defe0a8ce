//! What is remembered about connections, within caps, without knowing a rule of TCP.
//!
//! The entries' types belong to the engine; what is here is keyed by [`flow_key::FlowKey`], hashed with a secret key,
//! bounded by a number that never depends on what arrives, and O(1) also when full.

pub mod budget;
pub mod capped;
pub mod early_data;
pub mod flow_key;
pub mod known;
pub mod prefix;
pub mod recent;
pub mod ripe;
pub mod shares;
pub mod timers;
pub mod witnesses;
