//! One worker's sockets on one port.

use std::os::fd::AsFd;

use nix::poll::PollFlags;

use super::filter::Tag;
use super::lane::{PlainLane, ReceiveFailure, TaggedLane, take_error};
use super::open::{Interface, OpenError, lanes, listen, share_by_flow};
use super::sys;
use crate::engine::Side;
use crate::io::{PortStats, ReceiveDrop, Received};
use crate::wire::buffer::FrameBuf;

/// The two sockets and what is known of them.
pub(super) struct Port {
    pub(super) plain: PlainLane,
    pub(super) tagged: TaggedLane,
    index: i32,
    plain_ready: bool,
    tagged_ready: bool,
    /// Whose turn it is when both are ready, so that neither starves the other.
    tagged_next: bool,
}

impl Port {
    /// Opens the ports of all workers on `interface` and lets them take frames, each frame in one of them.
    pub(super) fn open_all(interface: &Interface, workers: usize) -> Result<Vec<Port>, OpenError> {
        let ports: Vec<Port> = (0..workers).map(|_| Port::open(interface)).collect::<Result<_, _>>()?;
        // In the order of the workers on both ports; the kernel keeps it when a link goes down and up.
        share_by_flow(interface, &ports.iter().map(|port| port.plain.as_fd()).collect::<Vec<_>>())?;
        share_by_flow(interface, &ports.iter().map(|port| port.tagged.as_fd()).collect::<Vec<_>>())?;
        for port in &ports {
            listen(interface, port.plain.as_fd(), Tag::Absent)?;
            listen(interface, port.tagged.as_fd(), Tag::Present)?;
        }
        Ok(ports)
    }

    fn open(interface: &Interface) -> Result<Port, OpenError> {
        let (plain, tagged) = lanes(interface)?;
        let index = interface.index;
        Ok(Port { plain, tagged, index, plain_ready: false, tagged_ready: false, tagged_next: false })
    }

    /// Takes the next frame of either lane.
    pub(super) fn receive(&mut self, side: Side, frame: &mut FrameBuf, stats: &PortStats) -> Received {
        loop {
            let (ready, result) = match self.next_lane() {
                Some(Tag::Absent) => (&mut self.plain_ready, self.plain.receive(frame)),
                Some(Tag::Present) => (&mut self.tagged_ready, self.tagged.receive(frame)),
                None => return Received::Empty,
            };
            match result {
                Ok(()) => return Received::Frame,
                Err(ReceiveFailure::Interrupted) => {}
                Err(ReceiveFailure::Empty) => *ready = false,
                Err(ReceiveFailure::PortDown) => {
                    *ready = false;
                    stats.set_up(side, false);
                    return Received::Down;
                }
                Err(ReceiveFailure::Lost(cause)) => {
                    // An unknown error might come again at once: ask the kernel first.
                    *ready = cause != ReceiveDrop::Error;
                    stats.count_receive_dropped(side, cause, 1);
                    return Received::Discarded;
                }
            }
        }
    }

    fn next_lane(&mut self) -> Option<Tag> {
        self.tagged_next = !self.tagged_next;
        match (self.plain_ready, self.tagged_ready) {
            (true, true) if self.tagged_next => Some(Tag::Present),
            (true, _) => Some(Tag::Absent),
            (false, true) => Some(Tag::Present),
            (false, false) => None,
        }
    }

    /// Takes note of what the kernel says of the sockets; whether each error, if there was one, could be explained.
    pub(super) fn note(
        &mut self,
        side: Side,
        plain: PollFlags,
        tagged: PollFlags,
        stats: &PortStats,
    ) -> bool {
        self.plain_ready = plain.contains(PollFlags::POLLIN);
        self.tagged_ready = tagged.contains(PollFlags::POLLIN);
        let mut explained = true;
        for (events, socket) in [(plain, self.plain.as_fd()), (tagged, self.tagged.as_fd())] {
            if events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL) {
                // Reading the error clears it; it is ENETDOWN when the link went down.
                let error = take_error(socket);
                explained &= error;
                stats.set_up(side, !error);
            }
        }
        explained
    }

    /// Frames that the sockets had no room for since the last call.
    pub(super) fn kernel_drops(&self) -> u64 {
        [self.plain.as_fd(), self.tagged.as_fd()]
            .into_iter()
            // Packets and drops, both since the last reading; a socket that cannot tell has none.
            .filter_map(|socket| sys::packet_option::<2>(socket, libc::PACKET_STATISTICS).ok())
            .map(|[_, drops]| u64::from(drops))
            .sum()
    }

    /// Whether the interface is there, up, and has a carrier.
    pub(super) fn is_running(&self) -> bool {
        sys::is_running(self.tagged.as_fd(), self.index).unwrap_or(false)
    }
}
