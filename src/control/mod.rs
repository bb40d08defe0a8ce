//! The control plane: what surrounds the packet path and never sees a frame.
//!
//! Looks at the host before anything is touched ([`doctor`], [`link`],
//! [`privileges`], [`claim`]), keeps the keys ([`key`],
//! [`rotate`]) and the state that outlives the process ([`state`]). Puts the policy in force ([`in_force`]): a
//! configuration ([`reload`]) and what an operator changed since ([`overrides`]). Tells attacks from crowds ([`detect`],
//! [`attacks`], [`hook`]). Answers HTTP ([`http`]), the live page included ([`page`], [`live`], [`history`]), and on a unix
//! socket ([`socket`]) the operator ([`admin`], [`api`], [`status`]). One thing here changes the host, if it is asked for:
//! [`propagation`] takes ports down, and brings them up again.

pub mod admin;
pub mod api;
pub mod attacks;
pub mod claim;
pub mod detect;
pub mod doctor;
pub mod history;
pub mod hook;
pub mod http;
pub mod in_force;
pub mod key;
pub mod link;
pub mod live;
pub mod log;
pub mod overrides;
pub mod page;
pub mod plane;
pub mod privileges;
pub mod propagation;
pub mod reload;
pub mod rotate;
mod server;
pub mod socket;
pub mod state;
pub mod status;
mod sys;
