//! Random segments of flows.

use synwall::engine::Side;

use crate::flows::{Live, Place};
use crate::maker::Maker;
use crate::packets::frames::*;
use crate::packets::vector::EndSpec;
use crate::world::World;

impl Maker {
    /// A flow that is there, and where it stands.
    pub fn live(&mut self, world: &World) -> Option<(Live, Place)> {
        let live = self.flows.get(self.random.below(self.flows.len().max(1)))?.clone();
        let place = live.place(world)?;
        Some((live, place))
    }

    pub fn flow(&mut self, world: &World, side: Side) -> Option<(Side, Vec<u8>)> {
        let (live, place) = self.live(world)?;
        Some((side, self.marked(&live, &place, side)))
    }

    /// A segment that its receiver is likely to take.
    pub fn segment(&mut self, live: &Live, place: &Place, side: Side) -> Seg {
        let Place { ends, delta, ts_delta } = place;
        let (sender, receiver) = match side {
            Side::Client => (ends.client, ends.server),
            Side::Server => (ends.server, ends.client),
        };
        let seq = match self.random.below(6) {
            0 => sender[0].wrapping_sub(self.random.below(3_000) as u32),
            1 => sender[0].wrapping_add(self.random.below(3_000) as u32),
            2 => sender[0].wrapping_sub(1),
            _ => sender[0],
        };
        let ack =
            receiver[0].wrapping_sub(if self.random.one_in(3) { self.random.below(3_000) as u32 } else { 0 });
        let ack = if side == Side::Client { ack.wrapping_sub(*delta) } else { ack };
        let mut seg = live.seg().seq(seq).ack(ack).window(self.random.word() as u16);
        let [latest, _] = ends.clock;
        let value = match side {
            Side::Client => latest.wrapping_sub(*ts_delta),
            Side::Server => latest.wrapping_add(self.random.below(500) as u32),
        };
        seg = match side {
            Side::Client => live.stamped(seg, 2_000, value),
            Side::Server => live.stamped(seg, value, 2_000),
        };
        self.decorate(&mut seg);
        seg
    }

    /// Blocks, flags and data.
    pub fn decorate(&mut self, seg: &mut Seg) {
        let blocks = 1 + self.random.below(4);
        if self.random.one_in(3) && seg.options.len() + 4 + 8 * blocks <= 40 {
            let edges: Vec<u32> = (0..blocks * 2).map(|_| self.random.word()).collect();
            *seg = seg.clone().sack(2, &edges);
        }
        seg.flags |= self.random.octet() & self.random.pick(&[PSH, PSH | URG | ECE | CWR]);
        if self.random.one_in(30) {
            seg.flags &= !ACK;
        }
        if self.random.one_in(2) {
            let len = self.random.below(400);
            seg.payload = self.random.octets(len);
        }
    }

    /// Options that hardly any sender writes, and clocks that leap.
    pub fn rare(&mut self, world: &World) -> Option<(Side, Vec<u8>)> {
        let (live, place) = self.live(world)?;
        let side = Side::ALL[self.random.below(2)];
        let mut seg = self.segment(&live, &place, side);
        seg.options.clear();
        while seg.options.len() < 40 && !self.random.one_in(4) {
            let numbers = self.random.octets(8);
            let option = match self.random.below(8) {
                0 => [&[8, 10], &numbers[..]].concat(),
                1 => [&[5, 10], &numbers[..]].concat(),
                2 => [&[5, 18], &numbers[..], &numbers].concat(),
                3 => vec![5, 6, 1, 2, 3, 4],
                4 => vec![254, 4, 1, 2],
                5 => vec![self.random.pick(&[0, 3]), 0],
                _ => vec![1],
            };
            seg.options.extend(option);
        }
        seg.options.resize(seg.options.len().next_multiple_of(4).min(40), 1);
        Some((side, seg.frame(side)))
    }

    pub fn outside(&mut self, world: &World) -> Option<(Side, Vec<u8>)> {
        let (live, place) = self.live(world)?;
        let side = Side::ALL[self.random.below(2)];
        let mut seg = self.segment(&live, &place, side);
        let far = self.random.pick(&[66_000, 65_536 << 14, 0x4000_0000, 0x8000_0000, 0xf000_0000]);
        match self.random.below(4) {
            0 => seg.seq = seg.seq.wrapping_add(far),
            1 => seg.ack = seg.ack.wrapping_add(far),
            _ => self.reach_the_limit(&mut seg, &place, side),
        }
        Some((side, seg.frame(side)))
    }

    /// Moves a number to the last that crosses, or to the first that does not.
    fn reach_the_limit(&mut self, seg: &mut Seg, place: &Place, side: Side) {
        let (sender, receiver) = match side {
            Side::Client => (place.ends.client, place.ends.server),
            Side::Server => (place.ends.server, place.ends.client),
        };
        let oldest =
            |[_, acked, _, max_window]: EndSpec| acked.wrapping_sub(max_window).wrapping_sub(OLD_SEGMENT);
        let beyond = self.random.below(2) as u32;
        let delta = if side == Side::Client { place.delta } else { 0 };
        match self.random.below(3) {
            0 => seg.seq = receiver[2].wrapping_add(1).wrapping_add(beyond),
            1 => seg.seq = oldest(receiver).wrapping_sub(beyond).wrapping_sub(seg.payload.len() as u32),
            _ => seg.ack = oldest(sender).wrapping_sub(beyond).wrapping_sub(delta),
        }
    }

    /// A segment of a flow whose segments the engine edits: it erases what the server does not do.
    pub fn edited(&mut self, world: &World) -> Option<(Side, Vec<u8>)> {
        let live = self.edited.get(self.random.below(self.edited.len().max(1)))?.clone();
        let place = live.place(world)?;
        let side = Side::ALL[self.random.below(2)];
        Some((side, self.marked(&live, &place, side)))
    }

    /// A segment in a packet with any of the four marks of ECN.
    fn marked(&mut self, live: &Live, place: &Place, side: Side) -> Vec<u8> {
        let mut frame = self.segment(live, place, side).frame(side);
        mark_as(&mut frame, self.random.octet() & 3);
        frame
    }

    pub fn end(&mut self, world: &World) -> Option<(Side, Vec<u8>)> {
        let (live, place) = self.live(world)?;
        let side = Side::ALL[self.random.below(2)];
        let seg = self.segment(&live, &place, side).flags(self.random.pick(&[FIN, RST, SYN]));
        self.flows.retain(|other| other.client != live.client);
        self.ending.push(live);
        Some((side, seg.frame(side)))
    }

    pub fn ending(&mut self, world: &World) -> Option<(Side, Vec<u8>)> {
        let live = self.ending.get(self.random.below(self.ending.len().max(1)))?.clone();
        let place = live.place(world)?;
        let side = Side::ALL[self.random.below(2)];
        let mut seg = self.segment(&live, &place, side);
        if self.random.one_in(3) {
            seg = seg.flags(self.random.pick(&[FIN, RST]));
        }
        Some((side, seg.frame(side)))
    }
}

/// Beside the window: as `engine::flow` has it.
const OLD_SEGMENT: u32 = 132_000;
