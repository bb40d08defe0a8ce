//! What came of the fixed range, to the last connection.

use super::tally::{Counts, Tally};
use super::worlds::grid::LOSS;

/// The wire's counts are the pinned ones: whoever changes the simulation sees what it does. Of synwall's, where losses are few,
/// each connection opens and none is lost; where they are many, fewer are lost than on the wire.
pub fn assert_unchanged(tally: &Tally) {
    for ((loss, pinned), [synwall, wire]) in LOSS.iter().zip(&WIRE).zip(&tally.levels) {
        assert_eq!(wire, pinned, "on the wire, with {} % of loss", loss / 10_000);
        assert_eq!(synwall.tried, synwall.completed + synwall.lost + synwall.faulty, "each has an end");
        if *loss <= FEW {
            assert_eq!((synwall.tried, synwall.opened, synwall.lost), (wire.tried, wire.tried, 0));
        } else {
            assert!(
                synwall.lost < wire.lost,
                "{} lost with synwall, {} on the wire",
                synwall.lost,
                wire.lost
            );
        }
    }
}

const FEW: u64 = 50_000;

const WIRE: [Counts; LOSS.len()] = [
    Counts { tried: 11_595, opened: 11_595, completed: 11_595, transfers: 596, lost: 0, faulty: 0 },
    Counts { tried: 11_524, opened: 11_524, completed: 11_523, transfers: 597, lost: 0, faulty: 1 },
    Counts { tried: 11_580, opened: 11_580, completed: 11_576, transfers: 590, lost: 0, faulty: 4 },
    Counts { tried: 11_350, opened: 11_350, completed: 11_339, transfers: 602, lost: 3, faulty: 8 },
    Counts { tried: 11_345, opened: 11_319, completed: 11_255, transfers: 608, lost: 86, faulty: 4 },
    Counts { tried: 11_361, opened: 11_097, completed: 10_820, transfers: 583, lost: 539, faulty: 2 },
];
