//! Detection: from what the packet path counted and sampled to what goes on, by service, and to events.
//!
//! [`Detector`] is a function of sightings, snapshots and time; [`task`] feeds it. Two things are told apart that look alike
//! by rate: a flood, whose handshakes do not complete, and a crowd, whose handshakes do. An event begins and ends with the
//! pressure that the engine reports (`activate_at`, `deactivate_at`); what it is follows from the evidence (`verdict`):
//!
//! - Handshakes complete a round trip after their SYN, so SYNs are compared with what was completed until a little later,
//!   and what was completed anyhow before the event began is set off against that.
//! - SYNs that are sent again are one attempt, up to a point: repeating is what some floods do.
//! - Sketches are of a fixed size: a service with traffic takes some 80 KiB, a quiet one 4 KiB.

mod event;
mod evidence;
mod sketch;
pub mod task;
mod verdict;
mod window;

use std::time::Duration;

use crate::engine::policy::MAX_SERVICES;
use crate::engine::sightings::{Sighted, Sighting};
use crate::engine::{ServiceSnapshot, Snapshot};
use crate::table::flow_key::TableHasher;
use crate::table::prefix;
use crate::table::recent::RecentSet;
use crate::time::Instant;

use super::attacks::{Attack, Traffic};
use event::{Event, Step};
use evidence::Evidence;
use verdict::share;
use window::{Reading, Window};

/// What a review found out about an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It has begun, a moment ago: until then too little was known.
    Started(Attack),
    /// It goes on.
    Updated(Attack),
    /// It has been of its kind for so long that it counts as such. Comes once for each event, before it ends.
    Settled(Attack),
    /// It is over.
    Ended(Attack),
}

/// Watches all services.
pub struct Detector {
    watches: Vec<Option<Box<Watch>>>,
    traffic: Vec<Traffic>,
    /// Prefixes that completed a handshake, each with the service.
    known: RecentSet,
    hasher: TableHasher,
    /// When the last review was, since 1970.
    now: Duration,
    /// SYNs of all services, by the last review.
    syns: u64,
    sampling: u8,
    /// Events so far.
    events: u64,
}

/// One service.
struct Watch {
    service: String,
    window: Window,
    event: Option<Event>,
    traffic: Traffic,
}

impl Detector {
    /// A detector that has seen nothing. `hash_key` must be unpredictable to clients, who choose the addresses.
    pub fn new(hash_key: [u64; 2]) -> Detector {
        let hasher = TableHasher::new(hash_key);
        Detector {
            watches: (0..MAX_SERVICES).map(|_| None).collect(),
            traffic: Vec::new(),
            known: RecentSet::new(hasher.clone(), KNOWN_LOG2),
            hasher,
            now: Duration::ZERO,
            syns: 0,
            sampling: 0,
            events: 0,
        }
    }

    /// Takes note of a sighting, as of the present.
    pub fn note(&mut self, sighting: &Sighting) {
        let Some(watch) = self.watches.get_mut(sighting.service.index()) else { return };
        let watch = watch.get_or_insert_with(|| Box::new(Watch::new(&self.hasher)));
        let prefix = (sighting.service.0, prefix::octets(sighting.source));
        let now = instant(self.now);
        let is_known = match sighting.what {
            Sighted::Syn => self.known.contains(prefix, now, KNOWN_FOR),
            Sighted::Completed => {
                self.known.insert(prefix, now, KNOWN_FOR);
                true
            }
        };
        watch.note(sighting, is_known);
    }

    /// Looks at the counters at `now`, the time since 1970, and draws conclusions.
    pub fn review(&mut self, now: Duration, snapshot: &Snapshot) -> Vec<Change> {
        self.choose_sampling(now, snapshot);
        self.now = now;
        let mut changes = Vec::new();
        let mut traffic = Vec::with_capacity(snapshot.services.len());
        for (slot, service) in self.watches.iter_mut().zip(&snapshot.services) {
            if slot.as_ref().is_some_and(|watch| watch.is_of_another(service))
                && let Some(mut gone) = slot.take()
            {
                changes.extend(gone.end(now));
            }
            let watch = slot.get_or_insert_with(|| Box::new(Watch::new(&self.hasher)));
            changes.extend(watch.review(now, service, &mut self.events));
            traffic.push(watch.traffic.clone());
        }
        for slot in self.watches.iter_mut().skip(snapshot.services.len()) {
            if let Some(mut gone) = slot.take() {
                changes.extend(gone.end(now));
            }
        }
        self.traffic = traffic;
        changes
    }

    /// What goes on, for each service of the last snapshot.
    pub fn traffic(&self) -> &[Traffic] {
        &self.traffic
    }

    /// One SYN in 2^this is wanted, so that about [`SIGHTINGS`] a second come.
    pub fn sampling(&self) -> u8 {
        self.sampling
    }

    fn choose_sampling(&mut self, now: Duration, snapshot: &Snapshot) {
        let syns = snapshot.services.iter().map(|service| service.values.counters.syn_received);
        let syns = syns.fold(0, u64::saturating_add);
        let seconds = now.saturating_sub(self.now).as_secs_f64();
        // The first review has nothing to compare with; nor has one after the clock was set back.
        if self.now > Duration::ZERO && seconds > 0.0 {
            let rate = syns.saturating_sub(self.syns) as f64 / seconds;
            self.sampling = (rate / SIGHTINGS).max(1.0).log2().ceil() as u8;
        }
        self.syns = syns;
    }
}

impl Watch {
    fn new(hasher: &TableHasher) -> Watch {
        let window = Window::new(hasher.clone());
        Watch { service: String::new(), window, event: None, traffic: Traffic::default() }
    }

    /// Whether its place now belongs to another service.
    fn is_of_another(&self, service: &ServiceSnapshot) -> bool {
        !self.service.is_empty() && self.service != service.name
    }

    fn note(&mut self, sighting: &Sighting, is_known: bool) {
        match sighting.what {
            Sighted::Syn => self.window.pane().note_syn(sighting, is_known),
            Sighted::Completed => self.window.pane().note_completed(sighting),
        }
        if let Some(event) = &mut self.event {
            event.note(sighting, is_known);
        }
    }

    fn review(&mut self, now: Duration, service: &ServiceSnapshot, events: &mut u64) -> Vec<Change> {
        self.service.clone_from(&service.name);
        let is_new_second = now.as_secs() != self.window.now().at.as_secs();
        self.window.advance(Reading::of(service, now));
        if service.is_under_pressure && self.event.is_none() {
            *events = events.saturating_add(1);
            let id = format!("{}-{events}", now.as_secs());
            self.event = Some(Event::begin(id, service, &self.window));
        }
        if self.event.is_none() && !is_new_second {
            return Vec::new();
        }
        let around = self.window.evidence();
        let mut changes = self.look_at_event(service, &around);
        if !service.is_under_pressure {
            changes.extend(self.end(now));
        }
        self.sum_up(&around);
        changes
    }

    fn look_at_event(&mut self, service: &ServiceSnapshot, around: &Evidence) -> Vec<Change> {
        let Some(event) = &mut self.event else { return Vec::new() };
        let was_named = event.is_named();
        let steps = event.review(service, &self.window, around);
        let shown = event.show(&self.window, None);
        let mut changes = told(steps, &shown);
        if was_named {
            changes.insert(0, Change::Updated(shown));
        }
        changes
    }

    /// Ends the event, if there is one.
    fn end(&mut self, now: Duration) -> Vec<Change> {
        let Some(mut event) = self.event.take() else { return Vec::new() };
        let mut changes = told(event.finish(), &event.show(&self.window, None));
        changes.push(Change::Ended(event.show(&self.window, Some(now))));
        changes
    }

    fn sum_up(&mut self, around: &Evidence) {
        let (now, oldest, lately) = (self.window.now(), self.window.oldest(), self.window.before(RATE_SPAN));
        let (counted, recent) = (now.since(&oldest), now.since(&lately));
        self.traffic = Traffic {
            service: self.service.clone(),
            is_attacked: self.event.as_ref().is_some_and(Event::is_attack),
            syn_rate: now.rate(&lately, recent.syns),
            completed_rate: now.rate(&lately, recent.completed),
            distinct_sources: around.distinct_sources(counted.syns),
            completed_share: share(counted.completed as f64, counted.syns as f64),
            new_source_share: around.unknown_share(),
            top_prefixes: around.top_prefixes(),
        };
    }
}

fn told(steps: Vec<Step>, attack: &Attack) -> Vec<Change> {
    let change = |step| match step {
        Step::Name => Change::Started(attack.clone()),
        Step::Settle => Change::Settled(attack.clone()),
    };
    steps.into_iter().map(change).collect()
}

/// The wall clock on the scale of the engine's: it only has to agree with itself.
fn instant(unix: Duration) -> Instant {
    Instant::from_nanos(u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX))
}

/// Sightings a second that are asked for: a quarter of a second's fill a sixth of their queue.
pub const SIGHTINGS: f64 = 10_000.0;

/// Rates are those of so long.
const RATE_SPAN: Duration = Duration::from_secs(3);
/// 2^17 prefixes are remembered, in 1 MiB; more make each other forgotten.
const KNOWN_LOG2: u32 = 17;
/// A prefix that has not completed a handshake for so long is new again.
const KNOWN_FOR: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests;
