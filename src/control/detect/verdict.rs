//! What evidence amounts to.

use crate::control::attacks::{Kind, Totals};

use super::evidence::Evidence;

/// The figures that decide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figures {
    /// SYNs that were seen.
    pub(super) samples: u64,
    /// SYNs by source, as far as the samples tell.
    pub(super) syns_per_source: f64,
    /// Completed handshakes by connections that were tried.
    pub(super) completed_share: f64,
    /// Sources of SYNs.
    pub(super) sources: u64,
    /// What the heaviest prefixes have of the SYNs.
    pub(super) heavy_share: f64,
    /// Completed handshakes that were seen.
    pub(super) completed_samples: u64,
    /// Sources of completed handshakes.
    pub(super) completers: u64,
    /// What the heaviest prefixes have of those.
    pub(super) heavy_completed_share: f64,
}

impl Figures {
    /// Of `evidence`, `counted` since it began, and `settled` SYNs: those of them whose handshakes had the time to complete.
    pub(super) fn new(evidence: &Evidence, counted: &Totals, settled: u64) -> Figures {
        let sources = evidence.distinct_sources(counted.syns);
        Figures {
            samples: evidence.samples(),
            syns_per_source: counted.syns.max(evidence.weight()) as f64 / sources.max(1) as f64,
            completed_share: share(counted.completed as f64, evidence.attempts(settled)),
            sources,
            heavy_share: evidence.heavy_share(HEAVY_PREFIXES),
            completed_samples: evidence.completed_samples(),
            completers: evidence.distinct_completers(),
            heavy_completed_share: evidence.heavy_completed_share(HEAVY_COMPLETING_PREFIXES),
        }
    }

    /// What they say.
    pub(super) fn kind(&self) -> Kind {
        match self.completed_share >= REAL_SHARE {
            true if self.completed_samples < LEAST_SAMPLES => Kind::Crowd,
            true if self.completers <= FEW_COMPLETERS || self.heavy_completed_share >= MOST => {
                Kind::Connections
            }
            true => Kind::Crowd,
            false if self.samples < LEAST_SAMPLES => Kind::SpoofedSyn,
            false if self.sources <= FEW_SOURCES && self.syns_per_source >= BUSY => Kind::FewSources,
            false if self.heavy_share >= MOST => Kind::FewSources,
            false => Kind::SpoofedSyn,
        }
    }
}

/// `part` of `all`, 0 to 1; all of nothing is nothing.
pub(super) fn share(part: f64, all: f64) -> f64 {
    if part <= 0.0 { 0.0 } else { (part / all.max(1.0)).min(1.0) }
}

/// If so many of the connections that were tried came about, those who tried are real.
const REAL_SHARE: f64 = 0.5;
/// What makes most.
const MOST: f64 = 0.5;
/// Less say nothing of their sources: the heaviest ten prefixes have a good part of anything.
const LEAST_SAMPLES: u64 = 40;
/// Few sources are at most so many,
const FEW_SOURCES: u64 = 256;
/// each of which sends so many SYNs: the first moments of a forged flood show few sources, too.
const BUSY: f64 = 8.0;
/// Few prefixes are as many as are shown.
const HEAVY_PREFIXES: usize = 10;
/// A crowd of one town may come from some ten prefixes of its providers, a botnet that is worth its name from less.
const HEAVY_COMPLETING_PREFIXES: usize = 4;
/// No crowd comes from so few addresses.
const FEW_COMPLETERS: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOD: Figures = Figures {
        samples: 10_000,
        syns_per_source: 1.1,
        completed_share: 0.0,
        sources: 9_000,
        heavy_share: 0.0,
        completed_samples: 0,
        completers: 0,
        heavy_completed_share: 0.0,
    };
    const CROWD: Figures = Figures {
        completed_share: 0.9,
        sources: 5_000,
        completed_samples: 4_900,
        completers: 4_900,
        heavy_completed_share: 0.2,
        ..FLOOD
    };

    #[test]
    fn each_kind_has_its_mark_and_its_edge() {
        assert_eq!(FLOOD.kind(), Kind::SpoofedSyn);
        assert_eq!(CROWD.kind(), Kind::Crowd);
        let table = [
            (Figures { sources: 256, syns_per_source: 8.0, ..FLOOD }, Kind::FewSources),
            (Figures { sources: 257, syns_per_source: 8.0, ..FLOOD }, Kind::SpoofedSyn),
            (Figures { sources: 256, syns_per_source: 7.9, ..FLOOD }, Kind::SpoofedSyn),
            (Figures { heavy_share: 0.5, ..FLOOD }, Kind::FewSources),
            (Figures { heavy_share: 0.49, ..FLOOD }, Kind::SpoofedSyn),
            (Figures { heavy_share: 1.0, samples: 39, ..FLOOD }, Kind::SpoofedSyn),
            (Figures { completed_share: 0.49, ..CROWD }, Kind::SpoofedSyn),
            (Figures { completed_share: 0.5, ..CROWD }, Kind::Crowd),
            (Figures { heavy_completed_share: 0.5, ..CROWD }, Kind::Connections),
            (Figures { completers: 64, ..CROWD }, Kind::Connections),
            (Figures { completers: 1, completed_samples: 39, ..CROWD }, Kind::Crowd),
            (Figures { completers: 65, ..CROWD }, Kind::Crowd),
        ];
        for (figures, kind) in table {
            assert_eq!(figures.kind(), kind, "{figures:?}");
        }
    }

    #[test]
    fn a_share_of_nothing_is_nothing_and_no_share_is_more_than_all() {
        assert_eq!(
            (share(0.0, 0.0), share(-3.0, 1.0), share(5.0, 0.0), share(1.0, 4.0)),
            (0.0, 0.0, 1.0, 0.25)
        );
    }
}
