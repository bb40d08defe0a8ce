//! Two ports that are queues in memory: what a test pushes arrives, and what was sent can be popped.

use std::collections::VecDeque;
use std::time::Duration;

use super::{BySide, FrameIo, Received};
use crate::engine::Side;
use crate::wire::buffer::{FrameBuf, FrameRef, OFFLOAD_HEADER_LEN};

/// A pair of ports in memory. Frames are kept raw, offload header first.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    arrived: BySide<VecDeque<Vec<u8>>>,
    sent: BySide<VecDeque<Vec<u8>>>,
}

impl Memory {
    /// Two ports without frames.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// Lets `bytes`, from the Ethernet header on, arrive on `side` with a zero offload header.
    pub fn push(&mut self, side: Side, bytes: &[u8]) {
        self.push_raw(side, [[0; OFFLOAD_HEADER_LEN].as_slice(), bytes].concat());
    }

    /// Lets `raw`, offload header first, arrive on `side`.
    pub fn push_raw(&mut self, side: Side, raw: Vec<u8>) {
        self.arrived.at_mut(side).push_back(raw);
    }

    /// Takes the oldest frame that was sent on `side`, without its offload header.
    pub fn pop(&mut self, side: Side) -> Option<Vec<u8>> {
        Some(self.pop_raw(side)?.split_off(OFFLOAD_HEADER_LEN))
    }

    /// Takes the oldest frame that was sent on `side`, offload header first.
    pub fn pop_raw(&mut self, side: Side) -> Option<Vec<u8>> {
        self.sent.at_mut(side).pop_front()
    }
}

impl FrameIo for Memory {
    fn receive(&mut self, side: Side, frame: &mut FrameBuf) -> Received {
        match self.arrived.at_mut(side).pop_front() {
            None => Received::Empty,
            Some(raw) if frame.set_raw(&raw) => Received::Frame,
            Some(_) => Received::Discarded,
        }
    }

    fn send(&mut self, side: Side, frame: FrameRef<'_>) {
        self.sent.at_mut(side).push_back(frame.raw().to_vec());
    }

    /// Returns at once: nothing can arrive while the caller waits.
    fn flush(&mut self) {}

    fn wait(&mut self, _timeout: Duration) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::buffer::MAX_FRAME_LEN;

    #[test]
    fn frames_keep_side_and_order() {
        let mut io = Memory::new();
        let mut frame = FrameBuf::new();
        io.push(Side::Client, b"one");
        io.push(Side::Client, b"two");
        assert_eq!(io.receive(Side::Server, &mut frame), Received::Empty);
        for expected in [b"one", b"two"] {
            assert_eq!(io.receive(Side::Client, &mut frame), Received::Frame);
            assert_eq!(frame.bytes(), expected);
            io.send(Side::Server, frame.as_frame());
        }
        assert_eq!(io.receive(Side::Client, &mut frame), Received::Empty);
        assert_eq!(io.pop(Side::Client), None);
        assert_eq!(io.pop(Side::Server).unwrap(), b"one");
        assert_eq!(io.pop_raw(Side::Server).unwrap(), b"\0\0\0\0\0\0\0\0\0\0two");
    }

    #[test]
    fn what_does_not_fit_is_discarded_and_the_next_one_arrives() {
        let mut io = Memory::new();
        let mut frame = FrameBuf::new();
        io.push(Side::Client, &vec![0; MAX_FRAME_LEN + 1]);
        io.push_raw(Side::Client, vec![0; OFFLOAD_HEADER_LEN - 1]);
        io.push(Side::Client, b"fits");
        let outcomes: Vec<Received> = (0..4).map(|_| io.receive(Side::Client, &mut frame)).collect();
        assert_eq!(outcomes, [Received::Discarded, Received::Discarded, Received::Frame, Received::Empty]);
    }
}
