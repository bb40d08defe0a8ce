//! What honest machines on the way do: a router with a narrow link says that a packet was too big for it, or marks one instead
//! of losing it; and a client that is gone without a word, with another that begins on its tuple.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use synwall::engine::Side;

use super::app::App;
use super::icmp::{Complaint, too_big};
use super::network::{Event, Frame};
use super::packet::LINK;
use super::world::World;

impl World<'_> {
    /// Whether a router has discarded a frame on the link of `side` and said so to its sender.
    pub(super) fn is_too_big(&mut self, away: usize, side: Side, frame: &Frame) -> bool {
        let Some((narrow, mtu)) = self.plan.extra.narrow else { return false };
        if narrow != side || frame.octets.len() <= LINK + usize::from(mtu) {
            return false;
        }
        self.too_big += 1;
        // The headers of a frame that was bent may say anything.
        let complaint = Complaint::TooBig(mtu).frame(router(self.plan.v6), &frame.octets[LINK..]);
        let Some(octets) = complaint.filter(|_| !frame.is_corrupt) else { return true };
        let at = self.now.after(self.plan.network.delay);
        let frame = Frame::sent(octets);
        self.queue.push(at, if away == 1 { Event::Middle(side, frame) } else { Event::Host(side, frame) });
        true
    }

    /// An error about one of a host's packets, which must be one that it has sent.
    pub(super) fn hear(&mut self, side: Side, frame: &Frame) {
        let Some(heard) = too_big(&frame.octets) else { return };
        let [sender, receiver] = heard.ends;
        let theirs = if side == Side::Client { sender } else { receiver };
        let Some(number) = self.sockets.iter().position(|socket| *socket == theirs) else { return };
        let mut out = Vec::new();
        let is_own = match &mut self.connections[number].hosts {
            Some(hosts) => hosts[side.index()].hear_too_big(self.now, heard.mtu, heard.seq, &mut out),
            None => false,
        };
        // What crosses as it was sent is the ends' own affair.
        if !is_own && !frame.is_as_sent {
            let seq = heard.seq;
            self.violations.push(format!("connection {number}: {side:?}: an error quotes SEG.SEQ {seq}"));
        }
        self.emit(side, out);
        self.touch(number, side);
    }

    /// A client forgets its connection, and the next one on the tuple begins with numbers of its own: it was switched off and
    /// on, or a NAT gave the tuple to another.
    pub(super) fn reboot(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        let Some(hosts) = &mut connection.hosts else { return };
        // A connection that is over has nothing to forget, and one that waits for its next has none.
        if connection.apps[0].end.is_some() || connection.is_reopening {
            return;
        }
        let (iss, ts_offset) = (self.random.next() as u32, self.random.next() as u32);
        if !hosts[0].forget(self.now, iss, ts_offset) {
            return;
        }
        let next = App::new(Side::Client, connection.issues.len(), connection.number);
        connection.forgotten.push(connection.issues.len() - 1);
        connection.past.push(std::mem::replace(&mut connection.apps[0], next));
        connection.close_at = self.now.after(connection.plan.close_after);
        connection.issues.push(iss);
        connection.begin();
        self.touch(number, Side::Client);
    }
}

/// The address of the router in front of the clients, and of the one in front of the server.
fn router(v6: bool) -> IpAddr {
    match v6 {
        false => Ipv4Addr::new(198, 18, 254, 1).into(),
        true => Ipv6Addr::new(0x2001, 0xdb8, 0x254, 0, 0, 0, 0, 1).into(),
    }
}
