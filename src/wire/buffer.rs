//! A frame in memory, behind the 10-octet `virtio_net_hdr` that the kernel puts before it (`PACKET_VNET_HDR`).
//!
//! The header says which part of the checksumming and segmentation is still to be done by whoever transmits the frame
//! for real. Keeping header and frame in one buffer lets a forwarded frame, 64 KiB super-frames included, go from
//! `recv` to `send` without being taken apart.

/// Octets of the `virtio_net_hdr` before each frame.
pub const OFFLOAD_HEADER_LEN: usize = 10;

/// The longest frame that fits a buffer, in octets: 64 KiB of IP packet, Ethernet header, two VLAN tags and a spare.
pub const MAX_FRAME_LEN: usize = 65_535 + 14 + 8 + 3;

/// The fields of a `virtio_net_hdr`: what the sender left to the hardware.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// `VIRTIO_NET_HDR_F_*`: see [`Offload::NEEDS_CSUM`] and [`Offload::DATA_VALID`].
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`: 0 for an ordinary frame, else how to cut it up.
    pub gso_type: u8,
    /// Octets of headers before the payload of a super-frame.
    pub hdr_len: u16,
    /// Octets of payload in each segment of a super-frame.
    pub gso_size: u16,
    /// Where the checksum that is still to be completed starts.
    pub csum_start: u16,
    /// Where, from `csum_start` on, it is to be stored.
    pub csum_offset: u16,
}

impl Offload {
    /// The checksum field holds only the pseudo-header's sum (`CHECKSUM_PARTIAL`).
    pub const NEEDS_CSUM: u8 = 1;
    /// In `gso_type`: CWR is for the first segment alone (RFC 3168 §6.1.2).
    pub const GSO_ECN: u8 = 0x80;
    /// The receiving device has verified the checksum (`CHECKSUM_UNNECESSARY`).
    pub const DATA_VALID: u8 = 2;

    /// Whether the transport checksum is partial: a pseudo-header sum that the transmitter completes.
    pub const fn is_partial(&self) -> bool {
        self.flags & Self::NEEDS_CSUM != 0
    }

    /// Whether the transport checksum needs no verification here.
    pub const fn is_known_good(&self) -> bool {
        self.flags & (Self::NEEDS_CSUM | Self::DATA_VALID) != 0
    }

    fn read(header: &[u8]) -> Offload {
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at.saturating_add(1)]]);
        Offload {
            flags: header[0],
            gso_type: header[1],
            hdr_len: half(2),
            gso_size: half(4),
            csum_start: half(6),
            csum_offset: half(8),
        }
    }

    fn write(self, header: &mut [u8]) {
        header[0] = self.flags;
        header[1] = self.gso_type;
        header[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        header[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        header[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        header[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
    }
}

/// An owned frame of up to [`MAX_FRAME_LEN`] octets with its offload header.
pub struct FrameBuf {
    storage: Box<[u8]>,
    len: usize,
}

impl FrameBuf {
    /// An empty frame with room for the largest.
    pub fn new() -> FrameBuf {
        FrameBuf::with_room(MAX_FRAME_LEN)
    }

    /// An empty frame with room for another length.
    pub(super) fn with_room(len: usize) -> FrameBuf {
        FrameBuf { storage: vec![0; OFFLOAD_HEADER_LEN.saturating_add(len)].into_boxed_slice(), len: 0 }
    }

    /// Makes room for a frame of `len` octets with a zero offload header, to be written; `None`, leaving it empty, if it is
    /// too long.
    pub(super) fn start(&mut self, len: usize) -> Option<&mut [u8]> {
        self.len = 0;
        let (header, room) = self.storage.split_at_mut(OFFLOAD_HEADER_LEN);
        let room = room.get_mut(..len)?;
        header.fill(0);
        self.len = len;
        Some(room)
    }

    /// Forgets the frame.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Replaces the frame by `bytes`, with a zero offload header; returns `false`, leaving it empty, if it is too long.
    pub fn set_bytes(&mut self, bytes: &[u8]) -> bool {
        let Some(room) = self.start(bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        true
    }

    /// Replaces header and frame by `raw` (offload header first); returns `false`, leaving it empty, if `raw` is
    /// shorter than the header or longer than the buffer.
    pub fn set_raw(&mut self, raw: &[u8]) -> bool {
        self.len = 0;
        let Some(len) = raw.len().checked_sub(OFFLOAD_HEADER_LEN) else { return false };
        let Some(room) = self.storage.get_mut(..raw.len()) else { return false };
        room.copy_from_slice(raw);
        self.len = len;
        true
    }

    /// Like [`FrameBuf::set_raw`] with the VLAN tag that the kernel took out put back behind the two MAC addresses, and
    /// the offsets of the offload header moved behind it.
    pub fn set_raw_tagged(&mut self, raw: &[u8], tag: [u8; 4]) -> bool {
        const TAG_AT: usize = OFFLOAD_HEADER_LEN + 12;
        const BEHIND_TAG: usize = TAG_AT + 4;
        self.len = 0;
        let Some((before, after)) = raw.split_at_checked(TAG_AT) else { return false };
        let Some(room) = self.storage.get_mut(BEHIND_TAG..BEHIND_TAG.saturating_add(after.len())) else {
            return false;
        };
        room.copy_from_slice(after);
        self.storage[..TAG_AT].copy_from_slice(before);
        self.storage[TAG_AT..BEHIND_TAG].copy_from_slice(&tag);
        self.len = raw.len().saturating_sub(OFFLOAD_HEADER_LEN).saturating_add(tag.len());
        let mut offload = self.offload();
        for offset in [&mut offload.hdr_len, &mut offload.csum_start] {
            // Zero says that there is none.
            if *offset != 0 {
                *offset = offset.saturating_add(4);
            }
        }
        self.set_offload(offload);
        true
    }

    /// The frame, from its Ethernet header on.
    pub fn bytes(&self) -> &[u8] {
        &self.storage[OFFLOAD_HEADER_LEN..][..self.len]
    }

    /// The frame, to be edited in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.storage[OFFLOAD_HEADER_LEN..][..self.len]
    }

    /// What is left to the transmitter.
    pub fn offload(&self) -> Offload {
        Offload::read(&self.storage)
    }

    /// Replaces the offload header.
    pub fn set_offload(&mut self, offload: Offload) {
        offload.write(&mut self.storage);
    }

    /// The frame as something to send.
    pub fn as_frame(&self) -> FrameRef<'_> {
        FrameRef(&self.storage[..OFFLOAD_HEADER_LEN.saturating_add(self.len)])
    }
}

impl Default for FrameBuf {
    fn default() -> FrameBuf {
        FrameBuf::new()
    }
}

/// A borrowed frame with its offload header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FrameRef<'a>(&'a [u8]);

impl<'a> FrameRef<'a> {
    /// Takes `raw`, offload header first; `None` if it is shorter than that header.
    pub fn new(raw: &'a [u8]) -> Option<FrameRef<'a>> {
        (raw.len() >= OFFLOAD_HEADER_LEN).then_some(FrameRef(raw))
    }

    /// Offload header and frame, as `PACKET_VNET_HDR` sockets take it.
    pub fn raw(&self) -> &'a [u8] {
        self.0
    }

    /// The frame, from its Ethernet header on.
    pub fn bytes(&self) -> &'a [u8] {
        &self.0[OFFLOAD_HEADER_LEN..]
    }

    /// What is left to the transmitter.
    pub fn offload(&self) -> Offload {
        Offload::read(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_round_trip_keeps_header_and_frame() {
        let offload = Offload {
            flags: Offload::NEEDS_CSUM,
            gso_type: 1,
            hdr_len: 66,
            gso_size: 1448,
            csum_start: 34,
            csum_offset: 16,
        };
        let mut frame = FrameBuf::new();
        assert!(frame.set_bytes(&[7; 60]));
        assert_eq!(frame.offload(), Offload::default());
        frame.set_offload(offload);
        let mut copy = FrameBuf::new();
        assert!(copy.set_raw(frame.as_frame().raw()));
        assert_eq!(copy.bytes(), &[7; 60]);
        assert_eq!(copy.offload(), offload);
        assert!(offload.is_partial() && offload.is_known_good());
        assert_eq!(frame.as_frame().offload(), offload);
        let verified = Offload { flags: Offload::DATA_VALID, ..Offload::default() };
        assert!(!verified.is_partial() && verified.is_known_good());
        assert!(!Offload::default().is_known_good());
    }

    #[test]
    fn a_tag_is_put_back_and_the_offsets_move_behind_it() {
        let mut plain = FrameBuf::new();
        plain.set_bytes(&(0..60).collect::<Vec<u8>>());
        let mut tagged = FrameBuf::new();
        assert!(tagged.set_raw_tagged(plain.as_frame().raw(), [0x81, 0, 0, 5]));
        assert_eq!(tagged.offload(), Offload::default());
        let expected: Vec<u8> = (0..12).chain([0x81, 0, 0, 5]).chain(12..60).collect();
        assert_eq!(tagged.bytes(), expected);
        let offload =
            Offload { hdr_len: 54, csum_start: 34, csum_offset: 16, gso_size: 1448, ..Offload::default() };
        plain.set_offload(offload);
        assert!(tagged.set_raw_tagged(plain.as_frame().raw(), [0x81, 0, 0, 5]));
        assert_eq!(tagged.offload(), Offload { hdr_len: 58, csum_start: 38, ..offload });
        assert!(!tagged.set_raw_tagged(&[0; OFFLOAD_HEADER_LEN + 11], [0; 4]));
        assert!(!tagged.set_raw_tagged(&vec![0; OFFLOAD_HEADER_LEN + MAX_FRAME_LEN - 3], [0; 4]));
        assert!(tagged.bytes().is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused_and_leaves_the_frame_empty() {
        let mut frame = FrameBuf::new();
        assert!(frame.set_bytes(&vec![1; MAX_FRAME_LEN]));
        assert!(!frame.set_bytes(&vec![1; MAX_FRAME_LEN + 1]));
        assert!(frame.bytes().is_empty());
        assert!(!frame.set_raw(&[0; OFFLOAD_HEADER_LEN - 1]));
        assert!(FrameRef::new(&[0; OFFLOAD_HEADER_LEN - 1]).is_none());
        assert!(frame.set_raw(&[0; OFFLOAD_HEADER_LEN]));
        assert!(frame.bytes().is_empty());
    }
}
