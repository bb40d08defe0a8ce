//! Finds out who must move for a slot to come free: breadth first, so that as few as can be do.

use super::abi::SLOTS_PER_BUCKET;
use super::table::Place;

/// A move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) from: Place,
    pub(super) to: Place,
}

/// Moves that free a slot in one of `buckets`, in the order in which they are to be made; the last one's `from` is that
/// slot. `None` if few enough do not.
///
/// `free` says which slot of a bucket is free, `other` to which bucket the flow in a slot may move, if it may.
pub(super) fn find(
    buckets: [usize; 2],
    free: impl Fn(usize) -> Option<Place>,
    other: impl Fn(Place) -> Option<usize>,
) -> Option<Vec<Step>> {
    let mut seen: Vec<Node> = buckets.into_iter().map(|bucket| Node { bucket, came: None }).collect();
    let mut at = 0;
    while let Some(node) = seen.get(at).copied() {
        for lane in 0..SLOTS_PER_BUCKET {
            let place = Place { bucket: node.bucket, lane };
            let Some(bucket) = other(place) else { continue };
            // A bucket that is there already: its slots are looked at anyway, and a path that crosses itself is none.
            if seen.iter().any(|node| node.bucket == bucket) {
                continue;
            }
            if let Some(to) = free(bucket) {
                return Some(path(&seen, Step { from: place, to }, node.came));
            }
            if seen.len() < MOST {
                seen.push(Node { bucket, came: Some((at, lane)) });
            }
        }
        at = at.saturating_add(1);
    }
    None
}

/// A full bucket, and the slot of an earlier one whose flow could move here.
#[derive(Clone, Copy)]
struct Node {
    bucket: usize,
    came: Option<(usize, usize)>,
}

fn path(seen: &[Node], first: Step, came: Option<(usize, usize)>) -> Vec<Step> {
    let mut steps = vec![first];
    let (mut came, mut to) = (came, first.from);
    while let Some((node, lane)) = came {
        let Some(node) = seen.get(node) else { break };
        let from = Place { bucket: node.bucket, lane };
        steps.push(Step { from, to });
        (came, to) = (node.came, from);
    }
    steps
}

/// Buckets that are looked at: bounds how long an admission takes. Five moves reach as far at the most.
const MOST: usize = 500;
