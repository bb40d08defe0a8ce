//! What goes over the admin socket besides the status: one set of types for both ends.
//!
//! | path | method | body | answer |
//! |---|---|---|---|
//! | `/v1/status` | GET | | [`super::status::Status`] |
//! | `/v1/attacks?service=` | GET | | [`Attacks`] |
//! | `/v1/flows?prefix=&service=&state=&limit=` | GET | | [`Flows`] |
//! | `/v1/blocks` | GET | | [`Blocks`] |
//! | `/v1/blocks` | POST | [`BlockRequest`] | [`Blocks`] |
//! | `/v1/blocks` | DELETE | [`UnblockRequest`] | [`Blocks`] |
//! | `/v1/services/NAME/mode` | PUT | [`ModeRequest`] | [`ModeAnswer`] |
//!
//! Everything else answers [`Failure`]. Within `v1` fields are added, never renamed or removed.

use serde::{Deserialize, Serialize};

use super::attacks::Attack;
pub use crate::engine::list::STATES;
use crate::engine::policy::Mode;

/// Events, the newest first.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Attacks {
    /// At most [`super::attacks::KEPT_EVENTS`].
    pub attacks: Vec<Attack>,
    /// When this was true, in seconds since 1970.
    pub time: f64,
}

/// Which connections are asked for; what is absent restricts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// That of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// A service's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// One of [`STATES`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The most that are listed: 1 to [`MAX_FLOWS`], [`DEFAULT_FLOWS`] if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Connections, in no order.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Flows {
    /// As many as were asked for.
    pub flows: Vec<Flow>,
    /// Whether there are more.
    pub is_truncated: bool,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Flow {
    /// The client's address.
    pub client: String,
    /// The client's port.
    pub client_port: u16,
    /// The server's address.
    pub server: String,
    /// The server's port.
    pub server_port: u16,
    /// The service's name, `-` for one that is gone.
    pub service: String,
    /// One of [`STATES`].
    pub state: String,
    /// `proxied`, `direct` or `half_open`.
    pub kind: String,
    /// Seconds since it is known; of half-open ones.
    pub age_seconds: Option<f64>,
    /// Seconds since its last segment; of those that both ends have opened.
    pub idle_seconds: Option<f64>,
}

/// What is blocked.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Blocks {
    /// In the order of addresses.
    pub blocks: Vec<Block>,
}

/// A blocked source prefix.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Block {
    /// Such as `198.18.3.0/24`.
    pub prefix: String,
    /// How much longer, in seconds; `None` until a restart.
    pub remaining_seconds: Option<f64>,
}

/// Asks for a block.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BlockRequest {
    /// Such as `198.18.3.0/24` or `2001:db8::7`.
    pub prefix: String,
    /// For how long, 1 to [`MAX_BLOCK_SECONDS`]; until a restart if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
}

/// Asks for a block's end.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UnblockRequest {
    /// As it is listed.
    pub prefix: String,
}

/// Asks for another mode.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModeRequest {
    /// One of [`MODES`].
    pub mode: String,
}

/// The mode in force.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ModeAnswer {
    /// The service's name.
    pub service: String,
    /// Its mode from now on.
    pub mode: String,
    /// What the configuration says.
    pub configured_mode: String,
}

/// What is answered to a request that cannot be met.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Failure {
    /// Why.
    pub error: Reason,
}

/// Why a request cannot be met.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reason {
    /// For programs, such as `bad_prefix`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// What a service's mode can be set to.
pub const MODES: [&str; 5] =
    [Mode::Off.label(), Mode::Monitor.label(), Mode::Adaptive.label(), Mode::Always.label(), CONFIGURED];

/// The mode of the configuration.
pub const CONFIGURED: &str = "configured";

/// Connections that are listed when nobody says how many.
pub const DEFAULT_FLOWS: usize = 100;

/// The most connections in one answer: bounds its size.
pub const MAX_FLOWS: usize = 10_000;

/// The longest block that ends by itself: a year.
pub const MAX_BLOCK_SECONDS: u64 = 365 * 86_400;
