//! A world with attackers in it: what they send, where it goes, and what must hold for the innocents.

use std::time::Duration;

use synwall::engine::Side;
use synwall::wire::frame::Layout;
use synwall::wire::tcp::Segment;

use super::attack::View;
use super::listener::Reaction;
use super::network::{Event, Frame};
use super::packet::{ACK, RST, SYN, Socket, valid};
use super::world::World;

impl World<'_> {
    /// An attacker's next frame is at the middle at once.
    pub(super) fn attack(&mut self, number: usize) {
        let view = View { server: self.server(), clients: &self.sockets, seen: &self.seen };
        let actor = &mut self.actors[number];
        let frame = actor.next(&view, &mut self.random);
        if actor.left > 0 {
            let next = self.now.after(actor.attack().pause);
            self.queue.push(next, Event::Attack(number));
        }
        if let Some((side, octets)) = frame {
            self.inject(side, octets);
        }
    }

    /// A frame without a fate on a link: attackers have the best of lines.
    fn inject(&mut self, side: Side, octets: Vec<u8>) {
        self.frames += 1;
        let frame = Frame::sent(octets);
        self.print(0, side, &frame, " [attack]", None);
        self.queue.push(self.now, Event::Middle(side, frame));
    }

    pub(super) fn react(&mut self, from: Socket, reaction: Reaction) {
        for octets in reaction.frames {
            self.inject(Side::Server, octets);
        }
        if let Some(at) = reaction.wake {
            self.queue.push(at, Event::WakeStranger(from));
        }
    }

    /// A frame for no innocent: from a stranger to the server, or to a stranger, who may be an attacker's.
    pub(super) fn arrive_at_stranger(&mut self, side: Side, frame: &Frame, from: Socket, to: Socket) {
        if side == Side::Server {
            if to == self.server() {
                self.note_syn(frame, from);
            }
            let elsewhere = self.half_open_innocents();
            if let Some((from, reaction)) = self.listener.receive(self.now, &frame.octets, elsewhere) {
                self.react(from, reaction);
            }
            return;
        }
        let answers: Vec<_> =
            self.actors.iter_mut().flat_map(|actor| actor.answer(&frame.octets, to, from)).collect();
        for octets in answers {
            self.inject(Side::Client, octets);
        }
    }

    /// No SYN of one who has not shown its address reaches the server of a service that challenges.
    fn note_syn(&mut self, frame: &Frame, from: Socket) {
        let is_syn = valid(&frame.octets).is_some_and(|layout| is_opening(&frame.octets, layout));
        let challenges = self.middle.is_some() && !self.plan.is_adaptive;
        if is_syn && challenges && !self.actors.iter().any(|actor| actor.proved.contains(&from)) {
            self.violations.push(format!("a SYN of {from:?} passed the challenge"));
        }
    }

    /// Whether a client's SYN finds the server's backlog full.
    pub(super) fn overflows(&mut self, number: usize, frame: &Frame, layout: Layout) -> bool {
        let listens = self.connections[number]
            .hosts
            .as_ref()
            .is_some_and(|hosts| hosts[1].client_iss().is_none() && !hosts[1].is_half_open());
        let elsewhere = self.half_open_innocents();
        listens && is_opening(&frame.octets, layout) && !self.listener.has_room(elsewhere)
    }

    fn half_open_innocents(&self) -> usize {
        let hosts = self.connections.iter().filter_map(|connection| connection.hosts.as_ref());
        hosts.filter(|hosts| hosts[1].is_half_open()).count()
    }

    /// What an innocent end has just sent, for attackers who guess well.
    pub(super) fn note_numbers(&mut self, side: Side, octets: &[u8]) {
        if self.actors.is_empty() {
            return;
        }
        let Some(layout) = valid(octets) else { return };
        let segment = Segment::new(octets, layout);
        let (from, to) = super::packet::sockets(octets, layout);
        let theirs = if side == Side::Client { from } else { to };
        if let Some(number) = self.sockets.iter().position(|socket| *socket == theirs)
            && segment.flags().0 & (SYN | RST) == 0
        {
            self.seen[number][side.index()] = Some((segment.end().0, segment.ack().0));
        }
    }

    /// Innocents that needed a second SYN where nothing was lost.
    pub(super) fn slowed(&self) -> Vec<String> {
        if !self.plan.extra.is_prompt {
            return Vec::new();
        }
        let start = self.start();
        let slow = |(number, connection): (usize, &super::connection::Connection)| {
            // A client that forgot its connection meets what the server has of it first.
            if !connection.forgotten.is_empty() {
                return None;
            }
            let opened = connection.apps[0].opened?.since(start.after(connection.plan.start));
            (opened >= FIRST_RTO).then(|| format!("connection {number} opened after {opened:?}"))
        };
        self.connections.iter().enumerate().filter_map(slow).collect()
    }
}

fn is_opening(octets: &[u8], layout: Layout) -> bool {
    Segment::new(octets, layout).flags().0 & (SYN | ACK | RST) == SYN
}

/// After which a client repeats its SYN.
const FIRST_RTO: Duration = Duration::from_secs(1);
