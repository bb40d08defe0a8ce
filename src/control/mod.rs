//! The control plane: what surrounds the packet path and never sees a frame.
//!
//! Looks at the host before anything is touched ([`doctor`], [`link`],
//! [`privileges`], [`claim`]), keeps the keys ([`key`],
//! [`rotate`]) and the state that outlives the process ([`state`]), swaps the policy ([`reload`]) and answers HTTP ([`http`]) and, on a unix
//! socket, the operator ([`admin`], [`socket`]), whose changes lie over the configuration ([`overrides`], [`in_force`]). Nothing here changes a setting of the host.

pub mod admin;
pub mod api;
pub mod attacks;
pub mod claim;
pub mod doctor;
pub mod http;
pub mod in_force;
pub mod key;
pub mod link;
pub mod log;
pub mod overrides;
pub mod privileges;
pub mod reload;
pub mod rotate;
mod server;
pub mod socket;
pub mod state;
pub mod status;
mod sys;
