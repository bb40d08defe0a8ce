//! Input and output: moves frames between two ports and the engine, and supplies the time.
//!
//! A [`FrameIo`] is one worker's view of the two ports. [`af_packet`] is the raw-socket plane of the appliance;
//! [`memory`], [`pcap`] and [`fault`] are its siblings for tests and for replaying captures. [`worker`] is the loop that
//! joins one of them to an engine. Nothing here looks inside a frame, but for super-frames that have to be cut
//! ([`crate::wire::cut`]).

pub mod af_packet;
pub mod clock;
pub mod ethtool;
pub mod fault;
#[cfg(feature = "xdp")]
pub mod hardware;
pub mod host_stack;
pub mod memory;
pub mod netlink;
pub mod pcap;
pub mod stats;
pub mod worker;
#[cfg(feature = "xdp")]
pub mod xdp;

use std::time::Duration;

pub use clock::{Clock, MonotonicClock};
pub use stats::{IoSnapshot, PortSnapshot, PortStats, ReceiveDrop, SendFailure};

use crate::engine::Side;
use crate::wire::buffer::{FrameBuf, FrameRef};

/// One worker's two ports.
pub trait FrameIo {
    /// Takes the next frame that arrived on `side` and that [`FrameIo::wait`] has seen; never blocks.
    fn receive(&mut self, side: Side, frame: &mut FrameBuf) -> Received;

    /// Transmits `frame` on `side`. A failure is counted in the port's statistics and never stops the worker: to TCP a
    /// frame that was not sent is a frame lost on the wire.
    ///
    /// The frame may wait until [`FrameIo::flush`], so that several go out together.
    fn send(&mut self, side: Side, frame: FrameRef<'_>);

    /// Transmits what waits.
    fn flush(&mut self);

    /// Finds out which ports have frames; blocks until one has or `timeout` is over. Frames that were there before and
    /// were not received yet count: then it returns at once.
    fn wait(&mut self, timeout: Duration);
}

/// What [`FrameIo::receive`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A frame, now in the caller's buffer.
    Frame,
    /// Nothing for now.
    Empty,
    /// A frame that could not be taken whole and was counted: call again.
    Discarded,
    /// Nothing, because the port is down.
    Down,
}

/// A value for each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BySide<T> {
    client: T,
    server: T,
}

impl<T> BySide<T> {
    /// One value for each side.
    pub const fn new(client: T, server: T) -> BySide<T> {
        BySide { client, server }
    }

    /// The value of `side`.
    pub const fn at(&self, side: Side) -> &T {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    /// The value of `side`, to be changed.
    pub const fn at_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// Both values, the client's first, to be changed.
    pub fn both_mut(&mut self) -> [&mut T; 2] {
        [&mut self.client, &mut self.server]
    }
}
