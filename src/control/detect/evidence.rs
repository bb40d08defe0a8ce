//! What a number of sightings of one service tell, in memory of a fixed size.

use std::net::Ipv6Addr;

use crate::control::attacks::{HeavyPort, HeavyPrefix};
use crate::engine::policy::Prefix;
use crate::engine::sightings::Sighting;
use crate::table::flow_key::TableHasher;
use crate::table::prefix;

use super::sketch::{Distinct, Heavy, extrapolate};

/// What the SYNs and the completed handshakes of some time have in common.
#[derive(Clone)]
pub(super) struct Evidence {
    /// SYNs that were seen, and how many they stand for.
    samples: u64,
    weight: u64,
    /// Of the weight: from prefixes that had not completed a handshake before.
    unknown: u64,
    sources: Distinct,
    /// Connections that somebody tried to open: a SYN that is sent again is none.
    attempts: Distinct,
    source_ports: Distinct,
    prefixes: Heavy<PrefixOctets>,
    ports: Heavy<u16>,
    hop_limits: Option<[u8; 2]>,
    /// Completed handshakes that were seen.
    completed_samples: u64,
    completers: Distinct,
    completing: Heavy<PrefixOctets>,
}

type PrefixOctets = [u8; 8];

impl Evidence {
    /// None yet.
    pub(super) fn new(hasher: &TableHasher) -> Evidence {
        let distinct = |precision| Distinct::new(hasher.clone(), precision);
        Evidence {
            samples: 0,
            weight: 0,
            unknown: 0,
            sources: distinct(SOURCE_PRECISION),
            attempts: distinct(SOURCE_PRECISION),
            source_ports: distinct(PORT_PRECISION),
            prefixes: Heavy::new(PREFIXES),
            ports: Heavy::new(PORTS),
            hop_limits: None,
            completed_samples: 0,
            completers: distinct(PORT_PRECISION),
            completing: Heavy::new(PREFIXES),
        }
    }

    /// Takes note of a SYN; `is_known` says whether its prefix completed a handshake before.
    pub(super) fn note_syn(&mut self, sighting: &Sighting, is_known: bool) {
        let Sighting { source, source_port, port, hop_limit, .. } = *sighting;
        let weight = weight(sighting);
        self.samples = self.samples.saturating_add(1);
        self.weight = self.weight.saturating_add(weight);
        self.unknown = self.unknown.saturating_add(if is_known { 0 } else { weight });
        self.sources.note(&source);
        self.attempts.note(&(source, source_port, port));
        self.source_ports.note(&source_port);
        self.prefixes.note(prefix::octets(source), weight);
        self.ports.note(port, weight);
        self.note_hop_limits([hop_limit; 2]);
    }

    /// Takes note of a completed handshake.
    pub(super) fn note_completed(&mut self, sighting: &Sighting) {
        self.completed_samples = self.completed_samples.saturating_add(1);
        self.completers.note(&sighting.source);
        self.completing.note(prefix::octets(sighting.source), weight(sighting));
    }

    /// Takes over what `other` knows.
    pub(super) fn merge(&mut self, other: &Evidence) {
        self.samples = self.samples.saturating_add(other.samples);
        self.weight = self.weight.saturating_add(other.weight);
        self.unknown = self.unknown.saturating_add(other.unknown);
        self.sources.merge(&other.sources);
        self.attempts.merge(&other.attempts);
        self.source_ports.merge(&other.source_ports);
        self.prefixes.merge(&other.prefixes);
        self.ports.merge(&other.ports);
        self.completed_samples = self.completed_samples.saturating_add(other.completed_samples);
        self.completers.merge(&other.completers);
        self.completing.merge(&other.completing);
        if let Some(limits) = other.hop_limits {
            self.note_hop_limits(limits);
        }
    }

    /// Whether nothing was seen.
    pub(super) fn is_empty(&self) -> bool {
        self.samples == 0 && self.completed_samples == 0
    }

    /// SYNs that were seen.
    pub(super) fn samples(&self) -> u64 {
        self.samples
    }

    /// SYNs that they stand for.
    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    /// How many sources sent the `syns` that were counted.
    pub(super) fn distinct_sources(&self, syns: u64) -> u64 {
        extrapolate(self.sources.count(), self.samples as f64, self.all(syns)) as u64
    }

    /// How many connections were tried by `syns` SYNs, each of which was repeated, but not without end ([`MOST_REPEATED`]).
    ///
    /// That a sketch counts a little less than there is must not look like repetition.
    pub(super) fn attempts(&self, syns: u64) -> f64 {
        let seen = self.attempts.count() * (1.0 + ATTEMPT_TOLERANCE);
        let tried = extrapolate(seen.min(self.samples as f64), self.samples as f64, self.all(syns));
        syns as f64 * (tried / self.all(syns).max(1.0)).clamp(1.0 / MOST_REPEATED, 1.0)
    }

    /// The share of SYNs from prefixes that had not completed a handshake before.
    pub(super) fn unknown_share(&self) -> f64 {
        self.unknown as f64 / self.weight.max(1) as f64
    }

    /// Different source ports.
    pub(super) fn source_ports(&self) -> u64 {
        self.source_ports.count() as u64
    }

    /// The least and the greatest TTL or hop limit; zeros if nothing was seen.
    pub(super) fn hop_limits(&self) -> [u8; 2] {
        self.hop_limits.unwrap_or_default()
    }

    /// The prefixes that sent most SYNs.
    pub(super) fn top_prefixes(&self) -> Vec<HeavyPrefix> {
        let top = self.prefixes.top(SHOWN_PREFIXES);
        top.into_iter().map(|(prefix, share)| HeavyPrefix { prefix: show(prefix), share }).collect()
    }

    /// The ports that got most.
    pub(super) fn top_ports(&self) -> Vec<HeavyPort> {
        self.ports.top(SHOWN_PORTS).into_iter().map(|(port, share)| HeavyPort { port, share }).collect()
    }

    /// The share of SYNs that the `most` heaviest prefixes sent.
    pub(super) fn heavy_share(&self, most: usize) -> f64 {
        self.prefixes.top(most).iter().map(|(_, share)| share).sum()
    }

    /// The share of completed handshakes that were those of the `most` heaviest prefixes.
    pub(super) fn heavy_completed_share(&self, most: usize) -> f64 {
        self.completing.top(most).iter().map(|(_, share)| share).sum()
    }

    /// Completed handshakes that were seen.
    pub(super) fn completed_samples(&self) -> u64 {
        self.completed_samples
    }

    /// How many sources completed handshakes.
    pub(super) fn distinct_completers(&self) -> u64 {
        self.completers.count() as u64
    }

    /// What the samples were taken from: sightings may be lost, and the counters may be behind them.
    fn all(&self, syns: u64) -> f64 {
        syns.max(self.weight) as f64
    }

    fn note_hop_limits(&mut self, [least, greatest]: [u8; 2]) {
        let known = self.hop_limits.unwrap_or([least, greatest]);
        self.hop_limits = Some([known[0].min(least), known[1].max(greatest)]);
    }
}

fn weight(sighting: &Sighting) -> u64 {
    1 << sighting.weight_log2.min(32)
}

/// The prefix behind [`prefix::octets`].
fn show(octets: PrefixOctets) -> String {
    let prefix = match octets {
        [0xff, 0, 0, 4, 0, a, b, c] => Prefix::new([a, b, c, 0].into(), 24),
        _ => Prefix::new(Ipv6Addr::from_bits(u128::from(u64::from_be_bytes(octets)) << 64).into(), 64),
    };
    prefix.map(|prefix| prefix.to_string()).unwrap_or_default()
}

/// 4 KiB, within 1.6 %.
const SOURCE_PRECISION: u8 = 12;
/// The same. Three standard errors of it:
const ATTEMPT_TOLERANCE: f64 = 0.05;
/// 512 octets, within 4.6 %.
const PORT_PRECISION: u8 = 9;
/// Prefixes that are remembered: one with more than one part in so many is not overlooked.
const PREFIXES: usize = 128;
/// Ports that are remembered.
const PORTS: usize = 16;
/// Prefixes that are shown.
const SHOWN_PREFIXES: usize = 10;
/// Ports that are shown.
const SHOWN_PORTS: usize = 5;
/// On average, of a crowd some of whose SYNs or SYN-ACKs are lost. What is repeated more often is no TCP's doing.
const MOST_REPEATED: f64 = 2.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::policy::ServiceId;
    use crate::engine::sightings::Sighted;

    fn syn(source: &str, source_port: u16, port: u16, hop_limit: u8, weight_log2: u8) -> Sighting {
        let source = source.parse().unwrap();
        Sighting {
            service: ServiceId(0),
            what: Sighted::Syn,
            source,
            source_port,
            port,
            hop_limit,
            weight_log2,
        }
    }

    fn evidence() -> Evidence {
        Evidence::new(&TableHasher::new([1, 2]))
    }

    #[test]
    fn sightings_count_by_their_weight() {
        let mut evidence = evidence();
        evidence.note_syn(&syn("198.18.3.1", 1000, 80, 60, 0), true);
        evidence.note_syn(&syn("198.18.3.9", 1001, 443, 50, 1), false);
        evidence.note_syn(&syn("2001:db8:1:2::7", 1001, 443, 64, 0), false);
        assert_eq!((evidence.samples(), evidence.weight()), (3, 4));
        assert_eq!(evidence.unknown_share(), 0.75);
        assert_eq!(evidence.source_ports(), 2);
        assert_eq!(evidence.hop_limits(), [50, 64]);
        let prefix = |prefix: &str, share| HeavyPrefix { prefix: prefix.to_owned(), share };
        assert_eq!(
            evidence.top_prefixes(),
            [prefix("198.18.3.0/24", 0.75), prefix("2001:db8:1:2::/64", 0.25)]
        );
        assert_eq!(
            evidence.top_ports(),
            [HeavyPort { port: 443, share: 0.75 }, HeavyPort { port: 80, share: 0.25 }]
        );
        assert_eq!(evidence.heavy_share(1), 0.75);
    }

    #[test]
    fn evidence_of_nothing_says_nothing() {
        let evidence = evidence();
        assert_eq!((evidence.distinct_sources(0), evidence.distinct_sources(1_000)), (0, 0));
        assert_eq!((evidence.unknown_share(), evidence.hop_limits()), (0.0, [0, 0]));
        assert_eq!((evidence.attempts(0), evidence.heavy_share(10)), (0.0, 0.0));
        assert_eq!((evidence.distinct_completers(), evidence.heavy_completed_share(4)), (0, 0.0));
        assert!(evidence.top_prefixes().is_empty() && evidence.top_ports().is_empty());
    }

    #[test]
    fn a_syn_that_is_sent_again_is_no_new_attempt_within_reason() {
        let mut evidence = evidence();
        (0..3_000).for_each(|n| evidence.note_syn(&syn("198.18.3.1", n % 2_000, 80, 60, 0), true));
        assert!((evidence.attempts(3_000) / 2_100.0 - 1.0).abs() < 0.07, "{}", evidence.attempts(3_000));
        let mut same = self::evidence();
        (0..6_000).for_each(|_| same.note_syn(&syn("198.18.3.1", 1, 80, 60, 0), false));
        assert_eq!(same.attempts(6_000), 3_000.0, "nobody repeats a SYN thousands of times in good faith");
    }

    #[test]
    fn a_sketch_that_counts_short_is_no_repetition_under_strong_sampling() {
        let mut evidence = evidence();
        for n in 0..50_000u32 {
            let [_, _, high, low] = n.to_be_bytes();
            evidence.note_syn(&syn(&format!("198.18.{high}.{low}"), 1, 80, 60, 7), false);
        }
        assert_eq!(evidence.attempts(6_400_000), 6_400_000.0);
    }

    #[test]
    fn merged_evidence_is_that_of_both() {
        let (mut a, mut b) = (evidence(), evidence());
        a.note_syn(&syn("198.18.3.1", 1, 80, 60, 0), true);
        b.note_syn(&syn("198.18.4.1", 2, 80, 40, 1), false);
        b.note_completed(&syn("198.18.4.1", 2, 80, 40, 0));
        a.merge(&b);
        assert_eq!((a.samples(), a.weight(), a.distinct_sources(3)), (2, 3, 3));
        assert_eq!((a.hop_limits(), a.distinct_completers(), a.heavy_completed_share(1)), ([40, 60], 1, 1.0));
        assert_eq!(a.top_prefixes().len(), 2);
    }
}
