//! What runs above a TCP: sends its octets when it is its turn, checks every octet that comes, and closes as planned.

use synwall::engine::Side;
use synwall::time::Instant;

use super::grid::{Close, Plan, Talk};
use super::host::{End, Host};

/// One end of one connection.
#[derive(Clone, Debug)]
pub struct App {
    side: Side,
    /// Which of the tuple's connections.
    pub generation: usize,
    /// Tells this connection's octets from all others'.
    keys: [u32; 2],
    pub opened: Option<Instant>,
    pub received: u32,
    written: u32,
    is_closed: bool,
    pub end: Option<End>,
    /// Something came that was never sent.
    pub wrong: Option<String>,
}

impl App {
    pub fn new(side: Side, generation: usize, connection: u64) -> App {
        let key = |side: Side| {
            let number = (connection * 8 + generation as u64) * 2 + side.index() as u64;
            (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
        };
        App {
            side,
            generation,
            keys: [key(Side::Client), key(Side::Server)],
            opened: None,
            received: 0,
            written: 0,
            is_closed: false,
            end: None,
            wrong: None,
        }
    }

    pub fn side(&self) -> Side {
        self.side
    }

    /// Whether all that the peer was to send has come.
    pub fn has_all(&self, plan: &Plan) -> bool {
        self.received == plan.sends[self.side.peer().index()]
    }

    fn has_written_all(&self, plan: &Plan) -> bool {
        self.written == plan.sends[self.side.index()]
    }

    /// Notes how the connection ended: an old SYN may make the TCP begin once more, which changes nothing.
    pub fn note_end(&mut self, host: &dyn Host) {
        self.end = self.end.or(host.end());
    }

    /// Does what can be done now; whether the TCP was given something to do.
    pub fn step(&mut self, now: Instant, plan: &Plan, close_at: Instant, host: &mut dyn Host) -> bool {
        self.note_end(host);
        if !host.is_open() {
            return false;
        }
        self.opened.get_or_insert(now);
        if !self.is_dozing(now, plan) {
            self.read(plan, host);
        }
        if self.end.is_some() || self.is_closed {
            return false;
        }
        let written = self.write(plan, host);
        self.finish(now, plan, close_at, host) || written
    }

    /// Whether it leaves what has come unread.
    pub fn is_dozing(&self, now: Instant, plan: &Plan) -> bool {
        self.opened.is_some_and(|opened| now < opened.after(plan.dozes[self.side.index()]))
    }

    fn read(&mut self, plan: &Plan, host: &mut dyn Host) {
        let mut octets = Vec::new();
        host.read(&mut octets);
        let key = self.keys[self.side.peer().index()];
        let right =
            octets.iter().zip(self.received..).take_while(|(got, at)| **got == octet(key, *at)).count();
        self.received += right as u32;
        if right != octets.len() || self.received > plan.sends[self.side.peer().index()] {
            self.wrong = Some(format!(
                "{:?} was delivered an octet that was not sent, at {}",
                self.side, self.received
            ));
        }
    }

    fn may_write(&self, plan: &Plan, host: &dyn Host) -> bool {
        match (plan.talk, self.side) {
            (Talk::Both, _) | (Talk::Client, Side::Client) | (Talk::Server, Side::Server) => true,
            (Talk::Client, Side::Server) | (Talk::Server, Side::Client) => {
                self.has_all(plan) && (plan.close != Close::Half || host.is_at_end())
            }
        }
    }

    fn write(&mut self, plan: &Plan, host: &mut dyn Host) -> bool {
        let left = (plan.sends[self.side.index()] - self.written) as usize;
        let left = left.min(host.room());
        if left == 0 || !self.may_write(plan, host) {
            return false;
        }
        let key = self.keys[self.side.index()];
        let octets: Vec<u8> = (self.written..).take(left).map(|at| octet(key, at)).collect();
        let taken = host.write(&octets) as u32;
        self.written += taken;
        taken != 0
    }

    fn finish(&mut self, now: Instant, plan: &Plan, close_at: Instant, host: &mut dyn Host) -> bool {
        let is_done = self.has_written_all(plan) && self.has_all(plan);
        let peer_is_done = host.is_at_end() && self.has_written_all(plan);
        let closes = match (plan.close, self.side) {
            (Close::ResetByClient, Side::Client) | (Close::ResetByServer, Side::Server) => {
                let half = plan.sends[self.side.peer().index()] / 2;
                if self.received >= half && (self.written > 0 || self.has_written_all(plan)) {
                    self.is_closed = true;
                    host.abort();
                    return true;
                }
                false
            }
            (Close::ResetByClient, Side::Server) | (Close::ResetByServer, Side::Client) => peer_is_done,
            (Close::ByClient, Side::Client) | (Close::ByServer, Side::Server) => is_done || peer_is_done,
            (Close::ByClient, Side::Server) | (Close::ByServer, Side::Client) => peer_is_done,
            (Close::Half, Side::Client) => self.has_written_all(plan),
            (Close::Half, Side::Server) => is_done,
            (Close::Both, _) => peer_is_done || (is_done && now >= close_at),
        };
        if closes {
            self.is_closed = true;
            host.close();
        }
        closes
    }
}

fn octet(key: u32, at: u32) -> u8 {
    (at.wrapping_mul(0x9e37_79b1).wrapping_add(key) >> 24) as u8
}
