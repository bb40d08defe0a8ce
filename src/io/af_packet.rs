//! The raw-socket plane: two Ethernet interfaces through pnet's `AF_PACKET` channels.
//!
//! Works on any kernel and any interface, changes no setting of the host (promiscuity ends with the sockets), and keeps
//! super-frames and partial checksums whole (`PACKET_VNET_HDR`); what that header cannot describe is cut ([`crate::wire::cut`]). Each worker has one socket a port, which pnet opens and
//! binds. Frames that fit a slot come through a ring that the kernel fills and go out in batches; longer ones come and go
//! through pnet's channel. The ring also tells the outer VLAN tag, which the kernel takes off every frame before a packet
//! socket sees it. With several workers the kernel divides the flows among them.
//!
//! Read first: packet(7); `Documentation/networking/packet_mmap.rst` on fanout.

mod filter;
mod lane;
mod open;
mod port;
mod sys;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::{BySide, Clock, FrameIo, MonotonicClock, PortStats, ReceiveDrop, Received};
use crate::engine::Side;
use crate::time::Instant;
use crate::wire::buffer::{FrameBuf, FrameRef};
use open::Interface;
pub use open::{MAX_WORKERS, OpenError};
use port::Port;

/// One worker's sockets on both ports.
pub struct AfPacket {
    ports: BySide<Port>,
    stats: Arc<PortStats>,
    clock: MonotonicClock,
    next_survey: Instant,
}

impl AfPacket {
    /// Opens both ports for `workers` workers: all of them, and the statistics they share, or nothing.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says what is wrong in the operator's words; then no socket is left open.
    pub fn open(
        outside: &str,
        inside: &str,
        workers: usize,
    ) -> Result<(Vec<AfPacket>, Arc<PortStats>), OpenError> {
        if !(1..=MAX_WORKERS).contains(&workers) {
            return Err(OpenError::WorkerCount { workers });
        }
        let [client, server] = Interface::pair(outside, inside)?;
        let stats = Arc::new(PortStats::new(&client.name, &server.name));
        let (clients, servers) = (Port::open_all(&client, workers)?, Port::open_all(&server, workers)?);
        let clock = MonotonicClock::new();
        let worker = |(client, server)| AfPacket {
            ports: BySide::new(client, server),
            stats: stats.clone(),
            clock,
            next_survey: Instant::ZERO,
        };
        Ok((clients.into_iter().zip(servers).map(worker).collect(), stats))
    }

    /// Collects, now and then, what the sockets do not report by themselves.
    fn survey(&mut self) {
        let now = self.clock.now();
        if now < self.next_survey {
            return;
        }
        self.next_survey = now.after(SURVEY_INTERVAL);
        for side in Side::ALL {
            let port = self.ports.at(side);
            self.stats.count_receive_dropped(side, ReceiveDrop::Kernel, port.kernel_drops());
            self.stats.set_up(side, port.is_running());
        }
    }

    /// Asks the kernel which of the sockets have something to say, in the order of [`Side::ALL`].
    fn poll(&self, timeout: Duration) -> Option<[PollFlags; 2]> {
        let mut polled =
            Side::ALL.map(|side| PollFd::new(self.ports.at(side).lane.as_fd(), PollFlags::POLLIN));
        ppoll(&mut polled, Some(TimeSpec::from_duration(timeout)), None).ok()?;
        Some(polled.map(|socket| socket.revents().unwrap_or(PollFlags::POLLERR)))
    }
}

impl FrameIo for AfPacket {
    fn receive(&mut self, side: Side, frame: &mut FrameBuf) -> Received {
        let AfPacket { ports, stats, .. } = self;
        ports.at_mut(side).receive(side, frame, stats)
    }

    fn send(&mut self, side: Side, frame: FrameRef<'_>) {
        let AfPacket { ports, stats, .. } = self;
        ports.at_mut(side).send(side, frame, stats);
    }

    fn flush(&mut self) {
        let AfPacket { ports, stats, .. } = self;
        Side::ALL.into_iter().for_each(|side| ports.at_mut(side).flush(side, stats));
    }

    fn wait(&mut self, timeout: Duration) {
        self.survey();
        let has_pieces = Side::ALL.into_iter().any(|side| self.ports.at(side).lane.has_pieces());
        let timeout = if has_pieces { Duration::ZERO } else { timeout };
        // A signal (EINTR) ends the wait like a timeout does; the other errors (ENOMEM) may pass.
        let [client_events, server_events] = self.poll(timeout).unwrap_or([PollFlags::empty(); 2]);
        let [client, server] = self.ports.both_mut();
        let client_calm = client.note(Side::Client, client_events, &self.stats);
        let server_calm = server.note(Side::Server, server_events, &self.stats);
        if !(client_calm && server_calm) {
            std::thread::sleep(timeout.min(BACK_OFF));
        }
    }
}

/// How often drops are collected and the link is looked at.
const SURVEY_INTERVAL: Duration = Duration::from_millis(100);

/// How long to leave sockets alone of which one reports an error without saying which.
const BACK_OFF: Duration = Duration::from_millis(10);
