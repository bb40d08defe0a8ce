//! Links that lose, repeat, delay and bend frames, and the queue of what is on its way.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use synwall::engine::Side;
use synwall::time::Instant;

use super::ecn;
use super::grid::Network;
use super::packet::{LINK, Socket};
use super::random::Random;

/// What happens next.
pub enum Event {
    /// A frame reaches the middle from that side.
    Middle(Side, Frame),
    /// A frame reaches the host on that side.
    Host(Side, Frame),
    /// The host on that side of a connection wanted to be woken.
    Wake(usize, Side),
    /// A client opens the next connection on its tuple.
    Open(usize),
    /// An attacker sends its next frame.
    Attack(usize),
    /// A connection that the server has with a stranger wanted to be woken.
    WakeStranger(Socket),
    /// The operator changes the mode.
    Reload,
    /// The operator starts synwall anew.
    Restart,
    /// A client is gone without a word; the next one on its tuple begins.
    Reboot(usize),
}

/// A frame on its way.
#[derive(Clone)]
pub struct Frame {
    pub octets: Vec<u8>,
    pub is_corrupt: bool,
    /// It is what an end sent: nobody translated it, and nobody but an end originated it.
    pub is_as_sent: bool,
}

impl Frame {
    /// What an end sends.
    pub fn sent(octets: Vec<u8>) -> Frame {
        Frame { octets, is_corrupt: false, is_as_sent: true }
    }
}

/// Events in order of time, and of their making at the same time.
#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    made: u64,
}

struct Entry {
    at: Instant,
    number: u64,
    event: Event,
}

impl Queue {
    pub fn push(&mut self, at: Instant, event: Event) {
        self.made += 1;
        self.heap.push(Reverse(Entry { at, number: self.made, event }));
    }

    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    pub fn pop(&mut self) -> Option<(Instant, Event)> {
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

/// One direction of one link.
#[derive(Default)]
pub struct Link {
    /// When the last frame that kept its place arrives.
    last: Instant,
    /// Until then all is lost.
    down_until: Instant,
    /// When the last frame has been put on the wire.
    busy_until: Instant,
    sent: u64,
    lost: u64,
    marked: u64,
}

/// What became of a frame: when its copies arrive, and a word about it.
pub struct Fate {
    pub arrivals: Vec<Instant>,
    pub flipped: Option<usize>,
    pub word: &'static str,
}

impl Link {
    /// Throws the dice for a frame that is sent now.
    pub fn carry(&mut self, now: Instant, network: &Network, random: &mut Random, frame: &mut Frame) -> Fate {
        self.sent += 1;
        if now < self.down_until || random.happens(network.loss) {
            self.lost += 1;
            if self.down_until <= now {
                self.down_until = now.after(random.duration(network.burst));
            }
            return Fate { arrivals: Vec::new(), flipped: None, word: " [lost]" };
        }
        let Some(now) = self.queue(now, network, frame.octets.len()) else {
            return Fate { arrivals: Vec::new(), flipped: None, word: " [full]" };
        };
        let is_marked = !frame.is_corrupt && random.happens(network.marking) && ecn::mark(&mut frame.octets);
        self.marked += u64::from(is_marked);
        let flipped =
            (!frame.is_corrupt && random.happens(network.corruption)).then(|| flip(frame, random)).flatten();
        let mut word = if flipped.is_some() { " [bent]" } else { "" };
        let jitter = random.duration(network.delay / 8);
        let mut arrivals = Vec::with_capacity(1);
        if random.happens(network.reorder) {
            word = " [late]";
            // Now and then so late that a cookie's clock has moved on.
            let most = if random.below(50) == 0 { Duration::from_secs(3) } else { network.delay * 3 };
            arrivals.push(now.after(network.delay + jitter + random.duration(most)));
        } else {
            self.last = self.last.max(now.after(network.delay + jitter));
            arrivals.push(self.last);
        }
        if random.happens(network.duplication) {
            word = " [twice]";
            let most = if random.below(50) == 0 { Duration::from_secs(3) } else { network.delay };
            arrivals.push(arrivals[0].after(random.duration(most)));
        }
        Fate { arrivals, flipped, word }
    }

    /// How many frames it has marked.
    pub fn marked(&self) -> u64 {
        self.marked
    }

    /// How many frames it has lost, of a million: with bursts many more than the dice say.
    pub fn loss(&self) -> u64 {
        self.lost * 1_000_000 / self.sent.max(1)
    }

    /// When the link has sent a frame that it is given now; `None` if too many wait.
    fn queue(&mut self, now: Instant, network: &Network, octets: usize) -> Option<Instant> {
        let Some(bandwidth) = network.bandwidth else { return Some(now) };
        let start = self.busy_until.max(now);
        if start.since(now) > LONGEST_QUEUE {
            return None;
        }
        self.busy_until = start.after(Duration::from_nanos(octets as u64 * 1_000_000_000 / bandwidth));
        Some(self.busy_until)
    }
}

impl Network {
    /// What one of its links does to frames.
    pub fn of_link(&self, away: usize, side: Side) -> Network {
        let share = self.shares[away][side.index()];
        Network { loss: self.loss * share / 100, delay: self.delay * share as u32 / 100, ..*self }
    }
}

const LONGEST_QUEUE: Duration = Duration::from_millis(250);

/// Flips one bit that a checksum covers: which are all but those of an IPv6 header beside its addresses and lengths.
fn flip(frame: &mut Frame, random: &mut Random) -> Option<usize> {
    let octets = frame.octets.len() - LINK;
    let at = LINK + random.below(octets as u64) as usize;
    let is_v6 = frame.octets[LINK] >> 4 == 6;
    if is_v6 && (at < LINK + 4 || at == LINK + 7) {
        return None;
    }
    frame.octets[at] ^= 1 << random.below(8);
    frame.is_corrupt = true;
    Some(at)
}
