//! One event of one service: from the pressure that began it to the end.

use std::time::Duration;

use crate::control::attacks::{Attack, Kind};
use crate::engine::ServiceSnapshot;
use crate::engine::sightings::{Sighted, Sighting};

use super::evidence::Evidence;
use super::verdict::{Figures, share};
use super::window::{Reading, Window};

/// The event.
pub(super) struct Event {
    id: String,
    service: String,
    started: Duration,
    /// The counters just before it.
    base: Reading,
    /// Handshakes a second that were completed before it began.
    background: f64,
    evidence: Evidence,
    peak_syn_rate: f64,
    peak_half_open: u64,
    hostile: Hostile,
    kind: Kind,
    stage: Stage,
}

/// How much is known of its kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Too little: nobody has been told.
    Begun,
    /// Enough to say that it has begun.
    Named,
    /// Enough to be counted.
    Settled,
}

/// What an event does at a review.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Its kind is known.
    Name,
    /// It has been known for long enough to be counted.
    Settle,
}

/// For how long the last ten seconds, by themselves, have been an attack, and of which kind.
#[derive(Default)]
struct Hostile {
    time: Duration,
    kind: Option<Kind>,
}

impl Event {
    /// The event that the last reading of `window` shows.
    pub(super) fn begin(id: String, service: &ServiceSnapshot, window: &Window) -> Event {
        let now = window.now();
        // The pressure rose after the review before this one.
        let base = window.before(Duration::from_nanos(1));
        let oldest = window.oldest();
        Event {
            id,
            service: service.name.clone(),
            started: now.at,
            base,
            background: base.rate(&oldest, base.since(&oldest).completed),
            evidence: window.latest_evidence(),
            peak_syn_rate: 0.0,
            peak_half_open: 0,
            hostile: Hostile::default(),
            kind: Kind::SpoofedSyn,
            stage: Stage::Begun,
        }
    }

    /// Takes note of what was seen; `is_known` says whether its prefix completed a handshake before.
    pub(super) fn note(&mut self, sighting: &Sighting, is_known: bool) {
        match sighting.what {
            Sighted::Syn => self.evidence.note_syn(sighting, is_known),
            Sighted::Completed => self.evidence.note_completed(sighting),
        }
    }

    /// Makes of it what is known by now.
    pub(super) fn review(
        &mut self,
        service: &ServiceSnapshot,
        window: &Window,
        around: &Evidence,
    ) -> Vec<Step> {
        let now = window.now();
        let lately = window.before(RATE_SPAN);
        self.peak_syn_rate = self.peak_syn_rate.max(now.rate(&lately, now.since(&lately).syns));
        self.peak_half_open = self.peak_half_open.max(service.half_open);
        self.judge_lately(service, window, around);
        self.kind = self.judge(window);
        self.proceed(now)
    }

    /// The event as it is shown; `ended` if it is over.
    pub(super) fn show(&self, window: &Window, ended: Option<Duration>) -> Attack {
        let (totals, evidence) = (window.now().since(&self.base), &self.evidence);
        Attack {
            id: self.id.clone(),
            service: self.service.clone(),
            kind: self.kind,
            started: self.started.as_secs_f64(),
            ended: ended.map(|at| at.as_secs_f64()),
            peak_syn_rate: self.peak_syn_rate,
            peak_half_open: self.peak_half_open,
            totals,
            distinct_sources: evidence.distinct_sources(totals.syns),
            new_source_share: evidence.unknown_share(),
            completed_share: share(totals.completed as f64, totals.syns as f64),
            top_prefixes: evidence.top_prefixes(),
            source_ports: evidence.source_ports(),
            top_ports: evidence.top_ports(),
            hop_limits: evidence.hop_limits(),
        }
    }

    /// What is still to be told when it ends.
    pub(super) fn finish(&mut self) -> Vec<Step> {
        let steps = [(Stage::Named, Step::Name), (Stage::Settled, Step::Settle)];
        let left = steps.into_iter().filter(|(stage, _)| self.stage < *stage).map(|(_, step)| step).collect();
        self.stage = Stage::Settled;
        left
    }

    /// Whether it has been told of.
    pub(super) fn is_named(&self) -> bool {
        self.stage >= Stage::Named
    }

    /// Whether it is an attack, as far as is known.
    pub(super) fn is_attack(&self) -> bool {
        self.is_named() && self.kind.is_attack()
    }

    /// All of it together; an attack within a longer crowd is an attack, too.
    fn judge(&self, window: &Window) -> Kind {
        let (now, lagging) = (window.now(), window.before(LAG));
        let mut counted = now.since(&self.base);
        // Handshakes of SYNs that came before it.
        let stray = self.background * now.seconds_since(&self.base).min(LAG.as_secs_f64());
        counted.completed = counted.completed.saturating_sub(stray as u64);
        let kind = Figures::new(&self.evidence, &counted, lagging.since(&self.base).syns).kind();
        match self.hostile.kind {
            Some(hostile) if kind == Kind::Crowd && self.hostile.time >= HOSTILE_TIME => hostile,
            _ => kind,
        }
    }

    /// The last ten seconds by themselves: so that neither the calm after an attack nor the crowd before it hides it.
    fn judge_lately(&mut self, service: &ServiceSnapshot, window: &Window, around: &Evidence) {
        let (now, lagging, oldest) = (window.now(), window.before(LAG), window.oldest());
        let (counted, settled) = (now.since(&oldest), lagging.since(&oldest).syns);
        let kind = Figures::new(around, &counted, settled).kind();
        let completed = counted.completed as f64;
        let (strength, seconds) = match kind {
            Kind::SpoofedSyn | Kind::FewSources => {
                (around.attempts(settled) - completed, lagging.seconds_since(&oldest))
            }
            Kind::Connections => (completed, now.seconds_since(&oldest)),
            Kind::Crowd => return,
        };
        // A few stray SYNs on a quiet day are no attack, whatever becomes of them.
        let enough = f64::from(service.activate_at.syn_rate).min(self.peak_syn_rate / 4.0).max(1.0);
        if strength / seconds.max(1.0) >= enough {
            let before = window.before(Duration::from_nanos(1));
            self.hostile.kind = Some(kind);
            self.hostile.time = self.hostile.time.saturating_add(now.at.saturating_sub(before.at));
        }
    }

    fn proceed(&mut self, now: Reading) -> Vec<Step> {
        let age = now.at.saturating_sub(self.started);
        let mut steps = Vec::new();
        let is_clear = age >= NAMED_AFTER && self.evidence.samples() >= NAMED_WITH || age >= NAMED_ANYHOW;
        if self.stage == Stage::Begun && is_clear {
            self.stage = Stage::Named;
            steps.push(Step::Name);
        }
        if self.stage == Stage::Named && age >= SETTLED_AFTER {
            self.stage = Stage::Settled;
            steps.push(Step::Settle);
        }
        steps
    }
}

/// For so long a handshake may take to complete: SYNs are compared with what was completed so much later.
const LAG: Duration = Duration::from_millis(750);
/// The rate that is a peak lasted for so long.
const RATE_SPAN: Duration = Duration::from_secs(1);
/// Before it, no handshake need have been completed.
const NAMED_AFTER: Duration = Duration::from_secs(1);
/// SYNs that tell a kind.
const NAMED_WITH: u64 = 100;
/// Then nothing more is to be expected.
const NAMED_ANYHOW: Duration = Duration::from_secs(3);
/// What an event has been for so long is what it counts as.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// An attack within a crowd lasts at least so long.
const HOSTILE_TIME: Duration = Duration::from_secs(3);
