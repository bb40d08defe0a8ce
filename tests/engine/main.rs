//! Stories in packets on a virtual clock. Each states its input, everything that came out and every counter that moved.
//!
//! A frame is written and expected in packetdrill's notation, with the side in front: `client >` is what the client is
//! sent, `server >` what the server is sent. In the scripts of `script`, where frames are sent by the line as well, the arrow
//! says who sends: `client <` is what the client is sent.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests are tests")]

mod lab;

mod adaptive;
mod adaptive_abuse;
mod backend;
mod bounded;
mod calls;
mod clock;
mod closing;
mod conditions;
mod direct;
mod direct_handshake;
mod early_data;
mod edges;
mod exhaustion;
mod forged;
mod fragments;
mod frames;
mod fullness;
mod hairpin;
mod handshake;
mod icmp;
mod incarnations;
mod integrity;
mod kept;
mod learning;
mod lent;
mod limits;
mod list;
mod modes;
mod mtu;
mod nonsense;
mod notes;
mod outdated;
mod random_frames;
mod restart;
mod resumed;
mod script;
mod second_syn;
mod sightings;
mod silence;
mod syn_sent;
mod translation;
mod ways;
mod workers;
