//! The control plane: what surrounds the packet path and never sees a frame.
//!
//! Looks at the host before anything is touched ([`doctor`], [`link`],
//! [`privileges`], [`claim`]), keeps the keys ([`key`],
//! [`rotate`]) and the state that outlives the process ([`state`]), swaps the policy ([`reload`]), tells attacks from crowds
//! ([`detect`], [`attacks`], [`hook`]) and answers HTTP ([`http`]). Nothing here changes a setting of the host.

pub mod attacks;
pub mod claim;
pub mod detect;
pub mod doctor;
pub mod hook;
pub mod http;
pub mod key;
pub mod link;
pub mod log;
pub mod privileges;
pub mod reload;
pub mod rotate;
pub mod state;
mod sys;
