//! Attacks as events: what each was, when, how large, and where it came from.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// What an event turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// SYNs from very many sources, nearly none of which completes a handshake: the addresses are forged.
    SpoofedSyn,
    /// SYNs from a few sources or prefixes that complete no handshakes.
    FewSources,
    /// Completed handshakes, most of them from a few source prefixes.
    Connections,
    /// Completed handshakes from many sources: many real clients at once. No attack.
    Crowd,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 4] = [Kind::SpoofedSyn, Kind::FewSources, Kind::Connections, Kind::Crowd];

    /// Its name in logs, metrics and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Kind::SpoofedSyn => "spoofed_syn",
            Kind::FewSources => "few_sources",
            Kind::Connections => "connections",
            Kind::Crowd => "crowd",
        }
    }

    /// Whether it is an attack.
    pub const fn is_attack(self) -> bool {
        !matches!(self, Kind::Crowd)
    }
}

/// One event, from its begin on; `ended` when it is over.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Attack {
    /// Unique among all events of this host: the second of its start and a running number, such as `1790000000-1`.
    pub id: String,
    /// The service's name.
    pub service: String,
    /// What it is, as far as is known by now.
    pub kind: Kind,
    /// Seconds since 1970.
    pub started: f64,
    /// Seconds since 1970, or `None` while it lasts.
    pub ended: Option<f64>,
    /// The most SYNs a second.
    pub peak_syn_rate: f64,
    /// The most half-open entries.
    pub peak_half_open: u64,
    /// What was counted since it began.
    pub totals: Totals,
    /// How many different sources sent SYNs, estimated.
    pub distinct_sources: u64,
    /// The share of SYNs whose source prefix had not completed a handshake before, 0 to 1.
    pub new_source_share: f64,
    /// Completed handshakes by SYNs, 0 to 1.
    pub completed_share: f64,
    /// The prefixes that sent most, the heaviest first; at most ten.
    pub top_prefixes: Vec<HeavyPrefix>,
    /// Different source ports among the samples, estimated.
    pub source_ports: u64,
    /// The ports that SYNs were sent to most, the heaviest first; at most five.
    pub top_ports: Vec<HeavyPort>,
    /// The least and the greatest TTL or hop limit on arrival: forged SYNs of one host have travelled equally far.
    pub hop_limits: [u8; 2],
}

/// What was counted during an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Totals {
    /// SYNs received.
    pub syns: u64,
    /// SYN-ACKs with a cookie sent.
    pub cookies_sent: u64,
    /// Handshakes that clients completed.
    pub completed: u64,
    /// Frames dropped, for whatever reason.
    pub dropped: u64,
}

/// A source prefix (IPv4 /24, IPv6 /64) and its part.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct HeavyPrefix {
    /// Such as `198.18.3.0/24`.
    pub prefix: String,
    /// Its share of the SYNs, 0 to 1.
    pub share: f64,
}

/// A port of the service and its part.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct HeavyPort {
    /// The port.
    pub port: u16,
    /// Its share of the SYNs, 0 to 1.
    pub share: f64,
}

/// What the detector knows of a service at the moment, attack or none.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Traffic {
    /// The service's name.
    pub service: String,
    /// Whether there is pressure that is not a crowd.
    pub is_attacked: bool,
    /// SYNs a second, over the last few seconds.
    pub syn_rate: f64,
    /// Completed handshakes a second, over the last few seconds.
    pub completed_rate: f64,
    /// Different sources of SYNs within the last seconds, estimated.
    pub distinct_sources: u64,
    /// Completed handshakes by SYNs, 0 to 1.
    pub completed_share: f64,
    /// The share of SYNs from prefixes that had not completed a handshake before, 0 to 1.
    pub new_source_share: f64,
    /// The heaviest source prefixes of the last seconds; at most ten.
    pub top_prefixes: Vec<HeavyPrefix>,
}

/// Events and present traffic, for everybody who shows them.
#[derive(Default)]
pub struct Board {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    events: VecDeque<Attack>,
    traffic: Vec<Traffic>,
    /// Events by service and kind since the start, counted when their kind is settled.
    counts: Vec<(String, Kind, u64)>,
}

impl Board {
    /// The latest events, the newest first.
    pub fn events(&self) -> Vec<Attack> {
        self.lock().events.iter().rev().cloned().collect()
    }

    /// What goes on, by service.
    pub fn traffic(&self) -> Vec<Traffic> {
        self.lock().traffic.clone()
    }

    /// Events so far by service and kind.
    pub fn counts(&self) -> Vec<(String, Kind, u64)> {
        self.lock().counts.clone()
    }

    /// The event that lasts for `service`, if any.
    pub fn current(&self, service: &str) -> Option<Attack> {
        self.lock()
            .events
            .iter()
            .rev()
            .find(|event| event.service == service && event.ended.is_none())
            .cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Events kept for whoever asks.
pub const KEPT_EVENTS: usize = 256;
