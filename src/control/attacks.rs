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
    /// Events by service and kind since the start, each counted once when its kind is settled.
    counts: Vec<(String, Kind, u64)>,
    hook_runs: [u64; HookRun::ALL.len()],
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

    /// Puts an event on the board, or what is known of it now in the place of what was known before. When there are more
    /// than [`KEPT_EVENTS`] the oldest goes.
    pub fn put(&self, event: &Attack) {
        let mut inner = self.lock();
        if let Some(known) = inner.events.iter_mut().rev().find(|known| known.id == event.id) {
            known.clone_from(event);
            return;
        }
        if inner.events.len() >= KEPT_EVENTS {
            inner.events.pop_front();
        }
        inner.events.push_back(event.clone());
    }

    /// Counts an event as one of `kind`. Whoever calls it does so once for each, when its kind is settled: what was counted
    /// is never moved, for counters only rise.
    pub fn count(&self, service: &str, kind: Kind) {
        let mut inner = self.lock();
        inner.know(service);
        let row = inner.counts.iter_mut().find(|(name, row, _)| name == service && *row == kind);
        if let Some((_, _, count)) = row {
            *count = count.saturating_add(1);
        }
    }

    /// Replaces what is known of the present traffic. From then on each service has counts, if only zeros: a counter that
    /// appears with its first event hides that from whoever looks at increases.
    pub fn set_traffic(&self, traffic: &[Traffic]) {
        let mut inner = self.lock();
        traffic.iter().for_each(|traffic| inner.know(&traffic.service));
        inner.traffic = traffic.to_vec();
    }

    /// Counts how a run of the hook ended.
    pub fn count_hook_run(&self, run: HookRun) {
        if let Some(count) = self.lock().hook_runs.get_mut(run as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// Runs of the hook so far, by how they ended.
    pub fn hook_runs(&self) -> [(HookRun, u64); HookRun::ALL.len()] {
        let runs = self.lock().hook_runs;
        HookRun::ALL.map(|run| (run, runs.get(run as usize).copied().unwrap_or(0)))
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

impl Inner {
    fn know(&mut self, service: &str) {
        if !self.counts.iter().any(|(name, _, _)| name == service) {
            self.counts.extend(Kind::ALL.map(|kind| (service.to_owned(), kind, 0)));
        }
    }
}

/// How a run of the hook ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookRun {
    /// With exit status 0.
    Ok,
    /// Otherwise, or it could not be started.
    Failed,
    /// It took too long and was killed.
    Timeout,
    /// It was not started, since too many waited.
    Dropped,
}

impl HookRun {
    /// Every way.
    pub const ALL: [HookRun; 4] = [HookRun::Ok, HookRun::Failed, HookRun::Timeout, HookRun::Dropped];

    /// Its name in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            HookRun::Ok => "ok",
            HookRun::Failed => "failed",
            HookRun::Timeout => "timeout",
            HookRun::Dropped => "dropped",
        }
    }
}

/// Events kept for whoever asks.
pub const KEPT_EVENTS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: usize, ended: Option<f64>) -> Attack {
        Attack {
            id: format!("1790000000-{number}"),
            service: "web".to_owned(),
            kind: Kind::SpoofedSyn,
            started: 1_790_000_000.0,
            ended,
            peak_syn_rate: 0.0,
            peak_half_open: 0,
            totals: Totals::default(),
            distinct_sources: 0,
            new_source_share: 0.0,
            completed_share: 0.0,
            top_prefixes: Vec::new(),
            source_ports: 0,
            top_ports: Vec::new(),
            hop_limits: [0, 0],
        }
    }

    #[test]
    fn events_are_replaced_by_their_id_and_the_oldest_goes() {
        let board = Board::default();
        (0..KEPT_EVENTS).for_each(|number| board.put(&event(number, Some(1.0))));
        board.put(&event(7, Some(2.0)));
        assert_eq!(board.events().len(), KEPT_EVENTS);
        assert_eq!(board.events()[KEPT_EVENTS - 8], event(7, Some(2.0)));
        board.put(&event(KEPT_EVENTS, None));
        let events = board.events();
        assert_eq!((events.len(), &events[0]), (KEPT_EVENTS, &event(KEPT_EVENTS, None)));
        assert_eq!(events[KEPT_EVENTS - 1], event(1, Some(1.0)), "number 0 went");
        assert_eq!((board.current("web"), board.current("mail")), (Some(event(KEPT_EVENTS, None)), None));
    }

    #[test]
    fn every_known_service_has_counts_of_every_kind() {
        let board = Board::default();
        let traffic = vec![Traffic { service: "web".to_owned(), ..Traffic::default() }];
        board.set_traffic(&traffic);
        board.set_traffic(&traffic);
        board.count("web", Kind::Crowd);
        board.count("gone", Kind::FewSources);
        assert_eq!(board.traffic(), traffic);
        let counts: Vec<u64> = board.counts().iter().map(|(_, _, count)| *count).collect();
        assert_eq!(counts, [0, 0, 0, 1, 0, 1, 0, 0]);
    }

    #[test]
    fn hook_runs_are_counted_by_how_they_ended() {
        let board = Board::default();
        for run in [HookRun::Dropped, HookRun::Ok, HookRun::Dropped] {
            board.count_hook_run(run);
        }
        let counts = board.hook_runs().map(|(run, count)| (run.label(), count));
        assert_eq!(counts, [("ok", 1), ("failed", 0), ("timeout", 0), ("dropped", 2)]);
    }

    #[test]
    fn an_event_in_json_has_the_names_of_the_interface() {
        let json = serde_json::to_value(event(1, None)).unwrap();
        assert_eq!((&json["kind"], &json["ended"]), (&"spoofed_syn".into(), &serde_json::Value::Null));
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/install.md");
        let document = std::fs::read_to_string(document).unwrap();
        for field in json.as_object().unwrap().keys() {
            assert!(document.contains(&format!("`{field}`")), "{field} is in no table of docs/install.md");
        }
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.label());
        }
    }
}
