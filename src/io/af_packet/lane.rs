//! One worker's socket on one port: pnet's channel with a ring to read from and a batch to send.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use pnet::datalink::{DataLinkReceiver, DataLinkSender};

use super::sys::{self, MAX_SEND, Ring, VlanTag};
use crate::io::{ReceiveDrop, SendFailure};
use crate::wire::buffer::{FrameBuf, FrameRef};
use crate::wire::cut::{self, Cutter};

/// Why no frame was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReceiveFailure {
    /// There is none.
    Empty,
    /// A signal came in between.
    Interrupted,
    /// The interface is down or gone.
    PortDown,
    /// A frame was there and is lost.
    Lost(ReceiveDrop),
}

/// A socket that pnet opened, with a receive ring over it and a batch of frames to send.
///
/// pnet's own calls cost two system calls a frame each way, which is fair for the super-frames of bulk traffic and too
/// much for a flood of small frames. So what fits a slot is read from the ring and sent in batches, and what does not is
/// received and sent by pnet; order is kept in both directions. A super-frame that no offload header describes, or that no
/// buffer holds, is received in pieces.
pub(super) struct Lane {
    /// A duplicate of pnet's socket, for what pnet does not offer.
    control: OwnedFd,
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
    ring: Ring,
    /// The rest of a super-frame that is received in pieces.
    pieces: Cutter,
    /// Frames to be sent, one behind the other, and where each ends.
    batch: Vec<u8>,
    ends: Vec<usize>,
}

impl Lane {
    pub(super) fn new(
        control: OwnedFd,
        sender: Box<dyn DataLinkSender>,
        receiver: Box<dyn DataLinkReceiver>,
        ring: Ring,
    ) -> Lane {
        Lane {
            control,
            sender,
            receiver,
            ring,
            pieces: Cutter::new(),
            batch: Vec::with_capacity(BATCH_LEN),
            ends: Vec::with_capacity(MAX_SEND),
        }
    }

    /// Takes the next frame. Never blocks.
    pub(super) fn receive(&mut self, frame: &mut FrameBuf) -> Result<(), ReceiveFailure> {
        if self.pieces.next(frame) {
            return Ok(());
        }
        let Some(slot) = self.ring.peek() else { return Err(ReceiveFailure::Empty) };
        let tag = slot.tag.map(VlanTag::octets);
        let taken = match (slot.is_queued, slot.is_cut) {
            (false, false) => put(&mut self.pieces, frame, slot.raw, tag),
            // The queue for long frames was full.
            (false, true) => Err(ReceiveFailure::Lost(ReceiveDrop::Kernel)),
            (true, _) => match self.receiver.next() {
                Ok(raw) => put(&mut self.pieces, frame, raw, tag),
                Err(error) => Err(explain_receive(&error)),
            },
        };
        if taken != Err(ReceiveFailure::Interrupted) {
            self.ring.release();
        }
        match taken {
            // The slot promised a frame.
            Err(ReceiveFailure::Empty) => Err(ReceiveFailure::Lost(ReceiveDrop::Error)),
            taken => taken,
        }
    }

    /// Whether a part of a frame was received and the rest was not, of which the kernel knows nothing any more.
    pub(super) fn has_pieces(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Transmits `frame`, at the latest when [`Lane::flush`] is called; `failed` is told of each frame that is lost.
    pub(super) fn send(&mut self, frame: FrameRef<'_>, failed: &mut impl FnMut(SendFailure)) {
        let raw = frame.raw();
        if raw.len() > SMALL_LEN {
            self.flush(failed);
            if let Err(cause) = self.send_now(raw) {
                failed(cause);
            }
            return;
        }
        self.batch.extend_from_slice(raw);
        self.ends.push(self.batch.len());
        if self.ends.len() == MAX_SEND {
            self.flush(failed);
        }
    }

    /// Transmits what waits. What the socket has no room for is lost, as on a wire that is full.
    pub(super) fn flush(&mut self, failed: &mut impl FnMut(SendFailure)) {
        let mut from = 0;
        let mut ends = self.ends.as_mut_slice();
        while !ends.is_empty() {
            let arena = self.batch.get(from..).unwrap_or(&[]);
            let sent = match sys::send_many(self.control.as_fd(), arena, ends) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    failed(explain_send(&error));
                    1
                }
            };
            // The next ends are counted from where the frames that are done with end.
            let (done, rest) = ends.split_at_mut(sent.clamp(1, ends.len()));
            let behind = done.last().copied().unwrap_or(0);
            rest.iter_mut().for_each(|end| *end = end.saturating_sub(behind));
            from += behind;
            ends = rest;
        }
        self.batch.clear();
        self.ends.clear();
    }

    fn send_now(&mut self, raw: &[u8]) -> Result<(), SendFailure> {
        loop {
            match self.sender.send_to(raw, None) {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(error)) if is_unexpected_poll_event(&error) => {
                    take_error(self.as_fd());
                    return Err(SendFailure::PortDown);
                }
                Some(Err(error)) => return Err(explain_send(&error)),
                None => return Err(SendFailure::Refused),
            }
        }
    }
}

fn put(
    pieces: &mut Cutter,
    frame: &mut FrameBuf,
    raw: &[u8],
    tag: Option<[u8; 4]>,
) -> Result<(), ReceiveFailure> {
    // Headers that cannot be read are left to the kernel as they are.
    if FrameRef::new(raw).is_some_and(cut::is_needed) && pieces.take(raw, tag) && pieces.next(frame) {
        return Ok(());
    }
    let fits = match tag {
        None => frame.set_raw(raw),
        Some(tag) => frame.set_raw_tagged(raw, tag),
    };
    if fits { Ok(()) } else { Err(ReceiveFailure::Lost(ReceiveDrop::Truncated)) }
}

fn explain_send(error: &io::Error) -> SendFailure {
    match error.raw_os_error().map(Errno::from_raw) {
        // The interface's queue is full, as it is when the link is slower than its traffic: the frame is lost.
        Some(Errno::ENOBUFS) => SendFailure::QueueFull,
        // The interface is down (ENETDOWN) or gone (ENXIO, ENODEV).
        Some(Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV) => SendFailure::PortDown,
        // The other port has a larger MTU, or an 802.1ad tag makes the frame longer than this one carries.
        Some(Errno::EMSGSIZE) => SendFailure::TooLong,
        Some(Errno::EAGAIN) => SendFailure::NotReady,
        // EINVAL: an offload header that the kernel takes for nonsense; and whatever else there may be.
        Some(_) => SendFailure::Refused,
        // pnet's own: poll said that the socket is not writable.
        None if error.kind() == io::ErrorKind::TimedOut => SendFailure::NotReady,
        None => SendFailure::Refused,
    }
}

impl AsFd for Lane {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

fn explain_receive(error: &io::Error) -> ReceiveFailure {
    if is_unexpected_poll_event(error) {
        return ReceiveFailure::PortDown;
    }
    match error.kind() {
        // pnet's own, or the socket's.
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => return ReceiveFailure::Empty,
        io::ErrorKind::Interrupted => return ReceiveFailure::Interrupted,
        _ => {}
    }
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV) => ReceiveFailure::PortDown,
        // A super-frame that no `virtio_net_hdr` describes (of SCTP, say); the kernel has discarded it.
        Some(Errno::EINVAL) => ReceiveFailure::Lost(ReceiveDrop::Offload),
        _ => ReceiveFailure::Lost(ReceiveDrop::Error),
    }
}

/// Whether pnet found, when it polled, neither readiness nor a timeout but an error, which it does not tell.
fn is_unexpected_poll_event(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other && error.raw_os_error().is_none()
}

/// Reads and thereby clears the socket's pending error; whether there was one.
pub(super) fn take_error(socket: BorrowedFd<'_>) -> bool {
    getsockopt(&socket, sockopt::SocketError).is_ok_and(|error| error != 0)
}

/// The longest frame, offload header included, that is sent in a batch; the rest is not worth copying once more.
const SMALL_LEN: usize = 2048;
const BATCH_LEN: usize = SMALL_LEN * MAX_SEND;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receive_errors_are_told_apart() {
        let explain = |errno: Errno| explain_receive(&errno.into());
        assert_eq!(explain(Errno::EAGAIN), ReceiveFailure::Empty);
        assert_eq!(explain(Errno::EINTR), ReceiveFailure::Interrupted);
        assert_eq!(explain(Errno::ENETDOWN), ReceiveFailure::PortDown);
        assert_eq!(explain(Errno::EINVAL), ReceiveFailure::Lost(ReceiveDrop::Offload));
        assert_eq!(explain(Errno::EIO), ReceiveFailure::Lost(ReceiveDrop::Error));
        assert_eq!(
            explain_receive(&io::Error::new(io::ErrorKind::TimedOut, "Timed out")),
            ReceiveFailure::Empty
        );
        assert_eq!(explain_receive(&io::Error::other("Unexpected poll event")), ReceiveFailure::PortDown);
        assert!(!is_unexpected_poll_event(&Errno::EIO.into()));
    }
}
