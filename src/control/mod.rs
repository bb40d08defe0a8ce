//! The control plane: what surrounds the packet path and never sees a frame.
//!
//! Looks at the host before anything is touched ([`doctor`], [`link`],
//! [`privileges`], [`claim`]), keeps the keys ([`key`],
//! [`rotate`]) and the state that outlives the process ([`state`]), swaps the policy ([`reload`]), tells attacks from crowds
//! ([`detect`], [`attacks`], [`hook`]) and answers HTTP ([`http`]), the live page included ([`page`], [`live`],
//! [`history`]). Nothing here changes a setting of the host.

pub mod attacks;
pub mod claim;
pub mod detect;
pub mod doctor;
pub mod history;
pub mod hook;
pub mod http;
pub mod key;
pub mod link;
pub mod live;
pub mod log;
pub mod page;
pub mod privileges;
pub mod reload;
pub mod rotate;
pub mod state;
mod sys;
