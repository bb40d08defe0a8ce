//! Worlds of clients, servers and a network, with the engine in the middle or a plain wire: the simulation's, and those in which
//! `tests/adversary` and the fuzz target of that name play their attackers.

pub mod app;
pub mod attack;
pub mod connection;
pub mod ecn;
pub mod grid;
pub mod honest;
pub mod host;
pub mod icmp;
pub mod keeper;
pub mod listener;
pub mod middle;
pub mod network;
pub mod packet;
pub mod random;
pub mod rich;
pub mod siege;
pub mod smol;
pub mod tcp;
pub mod wide;
pub mod world;
