//! One worker's socket on one port, and what is known of it.

use std::os::fd::AsFd;

use nix::poll::PollFlags;

use super::lane::{Lane, ReceiveFailure, take_error};
use super::open::{Interface, OpenError, lane, listen, share_by_flow};
use super::sys;
use crate::engine::Side;
use crate::io::{PortStats, Received};
use crate::wire::buffer::{FrameBuf, FrameRef};

/// The socket and its interface.
pub(super) struct Port {
    pub(super) lane: Lane,
    index: i32,
}

impl Port {
    /// Opens the ports of all workers on `interface` and lets them take frames, each frame in one of them.
    pub(super) fn open_all(interface: &Interface, workers: usize) -> Result<Vec<Port>, OpenError> {
        let open = |_| Ok(Port { lane: lane(interface, workers)?, index: interface.index });
        let ports: Vec<Port> = (0..workers).map(open).collect::<Result<_, _>>()?;
        // In the order of the workers on both ports; the kernel keeps it when a link goes down and up.
        share_by_flow(interface, &ports.iter().map(|port| port.lane.as_fd()).collect::<Vec<_>>())?;
        ports.iter().try_for_each(|port| listen(interface, port.lane.as_fd()))?;
        Ok(ports)
    }

    /// Takes the next frame.
    pub(super) fn receive(&mut self, side: Side, frame: &mut FrameBuf, stats: &PortStats) -> Received {
        loop {
            match self.lane.receive(frame) {
                Ok(()) => return Received::Frame,
                Err(ReceiveFailure::Interrupted) => {}
                Err(ReceiveFailure::Empty) => return Received::Empty,
                Err(ReceiveFailure::PortDown) => {
                    take_error(self.lane.as_fd());
                    stats.set_up(side, false);
                    return Received::Down;
                }
                Err(ReceiveFailure::Lost(cause)) => {
                    stats.count_receive_dropped(side, cause, 1);
                    return Received::Discarded;
                }
            }
        }
    }

    /// Transmits `frame`, at the latest with the next [`Port::flush`].
    pub(super) fn send(&mut self, side: Side, frame: FrameRef<'_>, stats: &PortStats) {
        self.lane.send(frame, &mut |cause| stats.count_send_failed(side, cause));
    }

    /// Transmits what waits.
    pub(super) fn flush(&mut self, side: Side, stats: &PortStats) {
        self.lane.flush(&mut |cause| stats.count_send_failed(side, cause));
    }

    /// Takes note of what the kernel says of the socket; whether an error, if there was one, could be explained.
    pub(super) fn note(&mut self, side: Side, events: PollFlags, stats: &PortStats) -> bool {
        if !events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL) {
            return true;
        }
        // Reading the error clears it; it is ENETDOWN when the link went down.
        let is_explained = take_error(self.lane.as_fd());
        stats.set_up(side, !is_explained);
        is_explained
    }

    /// Frames that the ring and the queue had no room for since the last call.
    pub(super) fn kernel_drops(&self) -> u64 {
        // Packets and drops, both since the last reading; a socket that cannot tell has none.
        sys::packet_option::<2>(self.lane.as_fd(), libc::PACKET_STATISTICS)
            .map_or(0, |[_, drops]| u64::from(drops))
    }

    /// Whether the interface is there, up, and has a carrier.
    pub(super) fn is_running(&self) -> bool {
        sys::is_running(self.lane.as_fd(), self.index).unwrap_or(false)
    }
}
