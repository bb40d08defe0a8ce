//! The two sockets of a port: pnet's channel, and the one for tagged frames.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use pnet::datalink::{DataLinkReceiver, DataLinkSender};

use super::open::READ_BUFFER_LEN;
use super::sys::{self, VlanTag};
use crate::io::{ReceiveDrop, SendFailure};
use crate::wire::buffer::{FrameBuf, FrameRef, OFFLOAD_HEADER_LEN};

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

/// Untagged frames, and everything that is sent: pnet's channel.
pub(super) struct PlainLane {
    /// A duplicate of pnet's socket, for what pnet does not offer.
    control: OwnedFd,
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
}

impl PlainLane {
    pub(super) fn new(
        control: OwnedFd,
        sender: Box<dyn DataLinkSender>,
        receiver: Box<dyn DataLinkReceiver>,
    ) -> PlainLane {
        PlainLane { control, sender, receiver }
    }

    pub(super) fn receive(&mut self, frame: &mut FrameBuf) -> Result<(), ReceiveFailure> {
        match self.receiver.next() {
            Ok(raw) if frame.set_raw(raw) => Ok(()),
            Ok(_) => Err(ReceiveFailure::Lost(ReceiveDrop::Truncated)),
            Err(error) => Err(self.explain_receive(&error)),
        }
    }

    /// Transmits `frame` unless the socket is full.
    pub(super) fn send(&mut self, frame: FrameRef<'_>) -> Result<(), SendFailure> {
        loop {
            match self.sender.send_to(frame.raw(), None) {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(error)) => return Err(self.explain_send(&error)),
                None => return Err(SendFailure::Refused),
            }
        }
    }

    fn explain_receive(&self, error: &io::Error) -> ReceiveFailure {
        if is_unexpected_poll_event(error) {
            take_error(self.as_fd());
            return ReceiveFailure::PortDown;
        }
        explain_receive(error)
    }

    fn explain_send(&self, error: &io::Error) -> SendFailure {
        if is_unexpected_poll_event(error) {
            take_error(self.as_fd());
            return SendFailure::PortDown;
        }
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
}

impl AsFd for PlainLane {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

/// Frames whose outer VLAN tag the kernel took out.
pub(super) struct TaggedLane {
    socket: OwnedFd,
    buffer: Box<[u8]>,
}

impl TaggedLane {
    pub(super) fn new(socket: OwnedFd) -> TaggedLane {
        TaggedLane { socket, buffer: vec![0; READ_BUFFER_LEN].into_boxed_slice() }
    }

    pub(super) fn receive(&mut self, frame: &mut FrameBuf) -> Result<(), ReceiveFailure> {
        // Received around a gap of four octets, in which the tag finds its place without moving the frame.
        let Some((before, gap, after)) = around_tag(&mut self.buffer) else {
            return Err(ReceiveFailure::Lost(ReceiveDrop::Error));
        };
        let message =
            sys::receive(self.socket.as_fd(), before, after).map_err(|error| explain_receive(&error))?;
        let Some(VlanTag { tpid, tci }) = message.tag else {
            return Err(ReceiveFailure::Lost(ReceiveDrop::Error));
        };
        let [a, b] = tpid.to_be_bytes();
        let [c, d] = tci.to_be_bytes();
        *gap = [a, b, c, d];
        let whole = message.len.checked_add(TAG_LEN).filter(|_| message.len >= TAG_AT && !message.truncated);
        match whole.and_then(|len| self.buffer.get(..len)) {
            Some(raw) if frame.set_raw(raw) => {
                shift_offload(frame);
                Ok(())
            }
            _ => Err(ReceiveFailure::Lost(ReceiveDrop::Truncated)),
        }
    }
}

impl AsFd for TaggedLane {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Splits a raw buffer into what precedes an outer VLAN tag, the tag, and what follows it.
fn around_tag(buffer: &mut [u8]) -> Option<(&mut [u8], &mut [u8; TAG_LEN], &mut [u8])> {
    let (before, rest) = buffer.split_at_mut_checked(TAG_AT)?;
    let (gap, after) = rest.split_first_chunk_mut()?;
    Some((before, gap, after))
}

/// Moves the offsets of the offload header behind the tag that was put in.
fn shift_offload(frame: &mut FrameBuf) {
    let mut offload = frame.offload();
    for offset in [&mut offload.hdr_len, &mut offload.csum_start] {
        if *offset != 0 {
            *offset = offset.saturating_add(TAG_LEN_U16);
        }
    }
    frame.set_offload(offload);
}

fn explain_receive(error: &io::Error) -> ReceiveFailure {
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

/// Where a raw frame has its outer tag: behind the offload header and two MAC addresses.
const TAG_AT: usize = OFFLOAD_HEADER_LEN + 12;
/// Octets of a VLAN tag.
const TAG_LEN: usize = 4;
const TAG_LEN_U16: u16 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::buffer::Offload;

    #[test]
    fn offsets_move_behind_the_tag_and_absent_ones_stay_absent() {
        let mut frame = FrameBuf::new();
        frame.set_bytes(&[0; 60]);
        shift_offload(&mut frame);
        assert_eq!(frame.offload(), Offload::default());
        let offload =
            Offload { hdr_len: 54, csum_start: 34, csum_offset: 16, gso_size: 1448, ..Offload::default() };
        frame.set_offload(offload);
        shift_offload(&mut frame);
        assert_eq!(frame.offload(), Offload { hdr_len: 58, csum_start: 38, ..offload });
    }

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
        assert!(is_unexpected_poll_event(&io::Error::other("Unexpected poll event")));
        assert!(!is_unexpected_poll_event(&Errno::EIO.into()));
    }
}
