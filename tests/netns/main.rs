//! The whole appliance on real kernels: two bare ports, Linux clients and servers, hping3, in network namespaces.
//!
//! Every test makes a laboratory of its own (`deploy/lab/lab`), runs the program in its box and takes everything down
//! again, whether it passed or not. Needs root and the packages of `deploy/lab/packages.txt`; what is missing fails the
//! test, nothing is skipped. One laboratory at a time: they share the machine's cores.

#![allow(clippy::disallowed_methods, reason = "these tests measure real time")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "in a test that is how to fail"
)]

mod capture;
mod crowd;
mod floods;
mod frames;
mod lab;
mod operator;
mod prometheus;
#[path = "../dashboard/promql.rs"]
mod promql;
#[path = "../dashboard/queries.rs"]
mod queries;
mod screen;
mod segments;
mod sender;
mod sources;
mod traffic;

mod admin;
mod attacks;
mod bad_input;
mod banned;
mod blind;
mod bridge;
mod connections;
mod control_abuse;
mod crossing;
mod differential;
mod estimates;
mod failures;
mod flood;
mod hairpin;
mod loss;
mod modes;
mod mtu;
mod observed;
mod page;
mod ports;
mod restart;
mod round_trips;
mod xdp;
