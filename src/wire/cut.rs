//! Cuts super-frames into what a `virtio_net_hdr` can describe and a buffer can hold.
//!
//! Two kinds need it. *Tunnels* (VXLAN, Geneve, GRE, IP in IP): the header has no field for the outer headers, so the
//! kernel hands such a frame over and does not take it back. It is cut into its segments, as the last device before the
//! wire would. *BIG TCP*: a frame above 64 KiB, with IPv6's jumbo payload option or an IPv4 total length of zero. It is cut
//! into super-frames below 64 KiB. All octets of the payload stay, in order; lengths, identifications, sequence numbers,
//! flags and checksums are those that the kernel's segmentation gives.
//!
//! Read first: RFC 9293 §3.1; RFC 2675; RFC 7348 §5; Linux' `Documentation/networking/segmentation-offloads.rst`.

use super::buffer::{FrameBuf, FrameRef, MAX_FRAME_LEN, Offload};
use super::layers::{Layers, Place, UDP};
use super::{ethernet, tcp, too_big};

/// The longest super-frame, in octets: the kernel's `GSO_MAX_SIZE`, and room for the headers in front.
pub const MAX_SUPER_FRAME_LEN: usize = 8 * 65_535 + 1_024;

/// A super-frame that is handed out in pieces.
pub struct Cutter {
    whole: FrameBuf,
    headers: Layers,
    offload: Offload,
    /// Where the payload that was not handed out yet begins in `whole`.
    next: usize,
    /// Whether offload headers describe the pieces, so that they may be of several segments each.
    is_described: bool,
    /// Segments of a piece.
    each: usize,
    /// Segments that were handed out.
    done: usize,
}

impl Cutter {
    /// One that holds nothing, with room for the longest super-frame.
    pub fn new() -> Cutter {
        Cutter {
            whole: FrameBuf::with_room(MAX_SUPER_FRAME_LEN),
            headers: Layers::default(),
            offload: Offload::default(),
            next: 0,
            is_described: false,
            each: 0,
            done: 0,
        }
    }

    /// Whether pieces are left.
    pub fn is_empty(&self) -> bool {
        self.next >= self.whole.bytes().len()
    }

    /// Takes `raw`, offload header first, with the VLAN tag that belongs into it; `false` if its headers are none that can be
    /// cut. Pieces that were left are forgotten.
    pub fn take(&mut self, raw: &[u8], tag: Option<[u8; 4]>) -> bool {
        let fits = match tag {
            None => self.whole.set_raw(raw),
            Some(tag) => self.whole.set_raw_tagged(raw, tag),
        };
        let is_taken = fits && self.plan().is_some();
        if !is_taken {
            self.whole.clear();
        }
        is_taken
    }

    /// Puts the next piece into `frame`, whole and with an offload header of its own; `false` if none is left.
    pub fn next(&mut self, frame: &mut FrameBuf) -> bool {
        let rest = self.whole.bytes().get(self.next..).unwrap_or(&[]);
        if rest.is_empty() {
            return false;
        }
        let gso_size = usize::from(self.offload.gso_size);
        let chunk = &rest[..rest.len().min(self.each.saturating_mul(gso_size))];
        let Some(bytes) = frame.start(self.headers.len().saturating_add(chunk.len())) else { return false };
        let keeps_cwr = self.done == 0 || self.offload.gso_type & Offload::GSO_ECN == 0;
        let place =
            Place { number: self.done, size: gso_size, is_last: chunk.len() == rest.len(), keeps_cwr };
        self.headers.write(bytes, chunk, place);
        self.headers.complete(bytes, self.is_described);
        frame.set_offload(self.offload_of(chunk.len()));
        self.next = self.next.saturating_add(chunk.len());
        self.done = self.done.saturating_add(self.each);
        true
    }

    /// Reads the headers, and decides how large the pieces are.
    fn plan(&mut self) -> Option<()> {
        self.offload = self.whole.offload();
        let bytes = self.whole.bytes();
        let (headers, payload) = Layers::read(bytes, &self.offload)?;
        let gso_size = usize::from(self.offload.gso_size);
        // An offload header can say how to cut further what one IP header describes.
        self.is_described = headers.is_simple_tcp();
        let link_len = ethernet::parse(bytes)?.1;
        let room = MAX_PACKET_LEN.saturating_sub(headers.len().saturating_sub(link_len));
        let most = room.checked_div(gso_size)?;
        self.each = if self.is_described { most } else { most.min(1) };
        (self.headers, self.next, self.done) = (headers, payload, 0);
        (self.each > 0).then_some(())
    }

    fn offload_of(&self, payload: usize) -> Offload {
        if !self.is_described {
            return Offload::default();
        }
        let half = |at: usize| u16::try_from(at).unwrap_or(u16::MAX);
        let is_super = payload > usize::from(self.offload.gso_size);
        let ecn = if self.done == 0 { Offload::GSO_ECN } else { 0 };
        Offload {
            flags: Offload::NEEDS_CSUM,
            gso_type: if is_super { self.offload.gso_type & (ecn | !Offload::GSO_ECN) } else { 0 },
            hdr_len: half(self.headers.len()),
            gso_size: if is_super { self.offload.gso_size } else { 0 },
            csum_start: half(self.headers.transport()),
            csum_offset: tcp::CHECKSUM as u16,
        }
    }
}

impl Default for Cutter {
    fn default() -> Cutter {
        Cutter::new()
    }
}

/// Whether the kernel would not take this frame back as it is, or no buffer could hold it.
pub fn is_needed(frame: FrameRef<'_>) -> bool {
    let offload = frame.offload();
    offload.gso_size != 0 && (frame.bytes().len() > MAX_FRAME_LEN || !is_plain(frame.bytes(), &offload))
}

/// Whether what is to be cut stands directly behind the first IP header, with a checksum that the header can leave open.
fn is_plain(bytes: &[u8], offload: &Offload) -> bool {
    let Some((network, datagram)) = too_big::read(bytes) else { return false };
    let transport = network.offset.saturating_add(datagram.header_len);
    let starts_there = usize::from(offload.csum_start) == transport;
    match datagram.protocol {
        tcp::PROTOCOL => starts_there || !offload.is_partial(),
        UDP => starts_there && offload.is_partial(),
        _ => false,
    }
}

/// The longest IP packet whose length its header can tell.
const MAX_PACKET_LEN: usize = 65_535;

#[cfg(test)]
mod tests;
