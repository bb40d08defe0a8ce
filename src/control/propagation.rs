//! Link propagation: a port that has lost its carrier takes the other one down with it, so that who is connected there
//! notices and finds another way.
//!
//! A port that is held down says so in its alias. The kernel keeps that, so a start that finds it after a crash brings the
//! port up again, wherever the state directory is, and whether the option is still on.

use std::sync::Arc;
use std::time::Duration;

use super::link::{self, Link};
use crate::config::Bridge;
use crate::engine::Side;
use crate::io::{BySide, PortStats};
use crate::time::Instant;

/// The ports and whether one of them is held down.
#[derive(Debug)]
pub struct Propagation {
    names: BySide<String>,
    ports: Arc<PortStats>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// None is held. A carrier that is missing counts from `from` on.
    Watching { from: Instant },
    /// The port on this side is held down.
    Holding(Side),
    /// Others have brought it up, or the kernel refuses: left alone until the other port has a carrier again.
    LeftAlone(Side),
}

impl Propagation {
    /// Begins at `now` if the configuration asks for it.
    pub fn new(bridge: &Bridge, ports: Arc<PortStats>, now: Instant) -> Option<Propagation> {
        let names = BySide::new(bridge.outside.clone(), bridge.inside.clone());
        bridge.link_propagation.then_some(Propagation {
            names,
            ports,
            state: State::Watching { from: now.after(SETTLES) },
        })
    }

    /// Looks at the ports and does what is due.
    pub fn follow(&mut self, now: Instant) {
        let find = |side| link::find(self.names.at(side)).ok().flatten();
        let (Some(outside), Some(inside)) = (find(Side::Client), find(Side::Server)) else { return };
        let before = self.state;
        self.state = next(before, now, &BySide::new(Seen::of(&outside), Seen::of(&inside)));
        let links = BySide::new(outside, inside);
        match (before, self.state) {
            (State::Watching { .. }, State::Holding(side)) => self.hold(side, links.at(side)),
            (State::Holding(side), State::Watching { .. }) if self.release(side, links.at(side)) => {
                tracing::info!(
                    port = side.port(),
                    "link propagation: the port is up again, since the other one has a carrier"
                );
            }
            // Tried again at the next look.
            (State::Holding(_), State::Watching { .. }) => self.state = before,
            (State::Holding(side), State::LeftAlone(_)) => {
                self.release(side, links.at(side));
                tracing::warn!(
                    port = side.port(),
                    "link propagation: others have brought the port up, it is left so"
                );
            }
            _ => {}
        }
    }

    /// Brings up what is held down.
    pub fn end(&mut self) {
        let State::Holding(side) = self.state else { return };
        if let Ok(Some(link)) = link::find(self.names.at(side)) {
            self.release(side, &link);
        }
        self.state = State::LeftAlone(side);
    }

    fn hold(&mut self, side: Side, link: &Link) {
        match link::set(self.names.at(side), false, &with_mark(&link.alias)) {
            Ok(()) => {
                tracing::warn!(
                    port = side.port(),
                    "link propagation: the port is held down, since the other one has no carrier"
                );
                self.ports.set_held_down(side, true);
            }
            Err(error) => {
                tracing::error!(port = side.port(), %error, "link propagation: the port cannot be taken down");
                self.state = State::LeftAlone(side);
            }
        }
    }

    /// Brings a port up; whether that is so.
    fn release(&self, side: Side, link: &Link) -> bool {
        let outcome = link::set(self.names.at(side), true, without_mark(&link.alias));
        match &outcome {
            Ok(()) => self.ports.set_held_down(side, false),
            Err(error) => {
                tracing::error!(port = side.port(), %error, "link propagation: the port cannot be brought up")
            }
        }
        outcome.is_ok()
    }
}

/// Brings up ports that an earlier run held down and could not bring up any more.
pub fn restore(bridge: &Bridge) {
    for name in [&bridge.outside, &bridge.inside] {
        let Ok(Some(link)) = link::find(name) else { continue };
        if !is_held(&link) {
            continue;
        }
        match link::set(name, true, without_mark(&link.alias)) {
            Ok(()) => tracing::info!(interface = name, "port is brought up, which an earlier run held down"),
            Err(error) => {
                tracing::error!(interface = name, %error, "port that an earlier run held down stays so");
            }
        }
    }
}

/// Whether synwall holds the port down.
pub fn is_held(link: &Link) -> bool {
    !link.is_up && link.alias.ends_with(MARK)
}

/// The part of a port's state that decides.
#[derive(Clone, Copy)]
struct Seen {
    is_up: bool,
    has_carrier: bool,
}

impl Seen {
    fn of(link: &Link) -> Seen {
        Seen { is_up: link.is_up, has_carrier: link.is_up && link.is_running }
    }
}

/// The state after `state`.
fn next(state: State, now: Instant, seen: &BySide<Seen>) -> State {
    let lost = Side::ALL.into_iter().find(|side| !seen.at(*side).has_carrier);
    match (state, lost) {
        (State::Watching { .. }, None) => State::Watching { from: now },
        // Without a carrier on either port there is no end that could be told.
        (State::Watching { from }, Some(lost)) if now >= from && seen.at(lost.peer()).has_carrier => {
            State::Holding(lost.peer())
        }
        (State::Watching { .. }, Some(_)) => state,
        (State::Holding(side), _) if seen.at(side).is_up => State::LeftAlone(side),
        (State::Holding(side) | State::LeftAlone(side), _) if seen.at(side.peer()).has_carrier => {
            State::Watching { from: now.after(SETTLES) }
        }
        (State::Holding(_) | State::LeftAlone(_), _) => state,
    }
}

fn with_mark(alias: &str) -> String {
    if alias.ends_with(MARK) { alias.to_owned() } else { format!("{alias}{MARK}") }
}

fn without_mark(alias: &str) -> &str {
    alias.strip_suffix(MARK).unwrap_or(alias)
}

/// At the end of the alias of a port that is held down.
const MARK: &str = " [held down by synwall: link_propagation]";

/// For how long a port may be without a carrier after it was brought up, and after the start: links take seconds to agree on
/// a speed, and two ports that judged each other in that time would hold each other down in turn.
const SETTLES: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    const CARRIER: Seen = Seen { is_up: true, has_carrier: true };
    const NONE: Seen = Seen { is_up: true, has_carrier: false };
    const DOWN: Seen = Seen { is_up: false, has_carrier: false };

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    /// Compares the state after each look.
    fn play(looks: &[(u64, [Seen; 2], State)]) {
        let mut state = State::Watching { from: at(10) };
        for (when, seen, expected) in looks {
            let [outside, inside] = *seen;
            state = next(state, at(*when), &BySide::new(outside, inside));
            assert_eq!(state, *expected, "at {when} s");
        }
    }

    #[test]
    fn a_lost_carrier_takes_the_other_port_down_until_it_is_back() {
        let watching = |from| State::Watching { from: at(from) };
        for side in Side::ALL {
            let turned =
                |outside, inside| if side == Side::Client { [outside, inside] } else { [inside, outside] };
            play(&[
                (1, turned(CARRIER, CARRIER), watching(1)),
                (2, turned(NONE, CARRIER), State::Holding(side.peer())),
                (3, turned(NONE, DOWN), State::Holding(side.peer())),
                (4, turned(CARRIER, DOWN), watching(14)),
                // It has not agreed on a speed yet.
                (13, turned(CARRIER, NONE), watching(14)),
                (13, turned(CARRIER, CARRIER), watching(13)),
                // Taken down by an operator: the same to who is connected.
                (20, turned(DOWN, CARRIER), State::Holding(side.peer())),
            ]);
        }
    }

    #[test]
    fn ports_do_not_take_each_other_down_in_turn() {
        let watching = |from| State::Watching { from: at(from) };
        play(&[
            // Both cables are out; outside comes back, then inside.
            (9, [NONE, CARRIER], watching(10)),
            (10, [NONE, CARRIER], State::Holding(Side::Server)),
            (20, [CARRIER, DOWN], watching(30)),
            (29, [CARRIER, NONE], watching(30)),
            (30, [CARRIER, NONE], State::Holding(Side::Client)),
            (40, [DOWN, CARRIER], watching(50)),
            (41, [NONE, CARRIER], watching(50)),
            (43, [CARRIER, CARRIER], watching(43)),
            // Both at once: there is no end to tell.
            (50, [NONE, NONE], watching(43)),
            (51, [CARRIER, NONE], State::Holding(Side::Client)),
        ]);
    }

    #[test]
    fn a_port_that_others_bring_up_is_left_alone_until_the_carrier_is_back() {
        play(&[
            (10, [NONE, CARRIER], State::Holding(Side::Server)),
            (11, [NONE, CARRIER], State::LeftAlone(Side::Server)),
            (12, [NONE, CARRIER], State::LeftAlone(Side::Server)),
            (13, [CARRIER, CARRIER], State::Watching { from: at(23) }),
            (14, [CARRIER, CARRIER], State::Watching { from: at(14) }),
            (15, [NONE, CARRIER], State::Holding(Side::Server)),
        ]);
    }

    #[test]
    fn the_mark_keeps_the_alias_that_was_there() {
        for alias in ["", "rack 7, port 2"] {
            let marked = with_mark(alias);
            assert_eq!((with_mark(&marked), without_mark(&marked)), (marked.clone(), alias));
        }
    }
}
