//! What the detector gets to see.

use synwall::engine::policy::ServiceId;
use synwall::engine::sightings::{CAPACITY, Sighted, Sighting};

use crate::lab::*;

fn sightings(lab: &Lab) -> Vec<Sighting> {
    std::iter::from_fn(|| lab.shared.next_sighting()).collect()
}

fn sighted(what: Sighted, weight_log2: u8) -> Sighting {
    Sighting {
        service: ServiceId(0),
        what,
        source: [198, 18, 0, 1].into(),
        source_port: 40_000,
        port: 80,
        hop_limit: 61,
        weight_log2,
    }
}

#[test]
fn a_syn_and_a_completed_handshake_are_shown_as_they_came() {
    let mut lab = Lab::new();
    lab.established();
    assert_eq!(sightings(&lab), [sighted(Sighted::Syn, 0), sighted(Sighted::Completed, 0)]);
}

#[test]
fn of_syns_a_sample_is_shown_with_its_weight_and_every_completed_handshake() {
    let mut lab = Lab::with(|service, _| {
        (service.budgets.syn_per_source, service.budgets.synack) = (None, None);
    });
    lab.shared.set_sampling(4);
    for _ in 0..3_200 {
        lab.syn();
    }
    let shown = sightings(&lab);
    assert!((190..=210).contains(&shown.len()), "{} of 3200", shown.len());
    assert!(shown.iter().all(|sighting| *sighting == sighted(Sighted::Syn, 4)));
    lab.established();
    assert_eq!(sightings(&lab).last(), Some(&sighted(Sighted::Completed, 0)));
    // No more than 2^16 SYNs are skipped, whatever is asked for.
    lab.shared.set_sampling(64);
    for _ in 0..(1 << 17) {
        lab.client(linux_syn());
        lab.take();
    }
    let shown = sightings(&lab);
    assert!((1..=4).contains(&shown.len()), "{}", shown.len());
    assert!(shown.iter().all(|sighting| sighting.weight_log2 == 16));
}

/// Sources that take turns do not fall into step with the sample.
#[test]
fn of_sources_that_take_turns_each_is_shown() {
    let mut lab = Lab::new();
    lab.shared.set_sampling(4);
    for number in 0..1_600 {
        lab.client(linux_syn().of_client([1, (number % 16) as u8]));
        lab.take();
    }
    let sources: std::collections::HashSet<_> =
        sightings(&lab).iter().map(|sighting| sighting.source).collect();
    assert!(sources.len() >= 12, "{} of 16", sources.len());
}

#[test]
fn what_a_fast_path_has_sighted_is_shown_and_what_is_too_much_is_lost() {
    let lab = Lab::new();
    let one = Sighting { hop_limit: 7, ..sighted(Sighted::Syn, 9) };
    lab.shared.put_sighting(one);
    assert_eq!(sightings(&lab), [one]);
    (0..CAPACITY + 5).for_each(|_| lab.shared.put_sighting(one));
    assert_eq!(sightings(&lab).len(), CAPACITY);
}
