//! The TCP header (RFC 9293 §3.1): reading, and editing in place with an incremental checksum.

use super::buffer::Offload;
use super::checksum::Update;
use super::frame::{Layout, Malformed};
use super::seq::SeqNumber;
use super::tcp_options::Options;
use super::{read_u16, read_u32, write};

/// TCP's protocol number in IP.
pub const PROTOCOL: u8 = 6;
/// Octets of a header without options.
pub const MIN_HEADER_LEN: usize = 20;

/// The control bits (RFC 9293 §3.1, RFC 3168).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Push.
    pub const PSH: Flags = Flags(0x08);
    /// SEG.ACK is significant.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer is significant.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo.
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced.
    pub const CWR: Flags = Flags(0x80);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether any bit of `other` is set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }
}

/// Octets of the TCP header at the start of `segment`.
///
/// # Errors
/// [`Malformed`] if the data offset is below 5 or points past the end.
pub fn header_len(segment: &[u8]) -> Result<usize, Malformed> {
    let offset = *segment.get(12).ok_or(Malformed)?;
    let len = usize::from(offset >> 4).saturating_mul(4);
    if len < MIN_HEADER_LEN || len > segment.len() { Err(Malformed) } else { Ok(len) }
}

/// A segment in its frame, to be read.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    frame: &'a [u8],
    layout: Layout,
}

impl<'a> Segment<'a> {
    /// The segment that [`super::frame::parse`] found in `frame`.
    pub fn new(frame: &'a [u8], layout: Layout) -> Segment<'a> {
        Segment { frame, layout }
    }

    /// Where its parts are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The frame it lies in.
    pub fn frame(&self) -> &'a [u8] {
        self.frame
    }

    /// Source port.
    pub fn source_port(&self) -> u16 {
        read_u16(self.frame, self.layout.tcp)
    }

    /// Destination port.
    pub fn destination_port(&self) -> u16 {
        read_u16(self.frame, self.at(2))
    }

    /// SEG.SEQ.
    pub fn seq(&self) -> SeqNumber {
        SeqNumber(read_u32(self.frame, self.at(SEQ)))
    }

    /// SEG.ACK, whether or not the ACK flag makes it significant.
    pub fn ack(&self) -> SeqNumber {
        SeqNumber(read_u32(self.frame, self.at(ACK)))
    }

    /// The control bits.
    pub fn flags(&self) -> Flags {
        Flags(self.frame[self.at(FLAGS)])
    }

    /// SEG.WND as it stands in the header, not scaled.
    pub fn window(&self) -> u16 {
        read_u16(self.frame, self.at(WINDOW))
    }

    /// Behind the urgent data, SEG.SEQ + SEG.UP, if the URG flag says that there is some (RFC 9293 §3.8.5).
    pub fn urgent_end(&self) -> Option<SeqNumber> {
        let pointer = u32::from(read_u16(self.frame, self.at(URGENT)));
        self.flags().has(Flags::URG).then(|| self.seq().add(pointer))
    }

    /// Whether it carries the AE bit of Accurate ECN (RFC 9768), which once was the nonce sum.
    pub fn has_accurate_ecn(&self) -> bool {
        self.frame[self.at(DATA_OFFSET)] & 1 != 0
    }

    /// The options.
    pub fn options(&self) -> Options<'a> {
        Options::new(&self.frame[self.at(MIN_HEADER_LEN)..self.layout.payload])
    }

    /// The payload.
    pub fn payload(&self) -> &'a [u8] {
        &self.frame[self.layout.payload..self.layout.end]
    }

    /// SEG.LEN: octets of payload, SYN and FIN counted as one each (RFC 9293 §3.4).
    pub fn len(&self) -> u32 {
        let controls =
            u32::from(self.flags().has(Flags::SYN)).wrapping_add(u32::from(self.flags().has(Flags::FIN)));
        let payload = self.layout.end.saturating_sub(self.layout.payload);
        u32::try_from(payload).unwrap_or(u32::MAX).wrapping_add(controls)
    }

    /// Whether it takes no sequence number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// SEG.SEQ + SEG.LEN: the sequence number behind it.
    pub fn end(&self) -> SeqNumber {
        self.seq().add(self.len())
    }

    fn at(&self, field: usize) -> usize {
        self.layout.tcp.saturating_add(field)
    }
}

/// A segment in its frame, to be edited. The checksum follows when [`SegmentMut::finish`] is called.
pub struct SegmentMut<'a> {
    frame: &'a mut [u8],
    layout: Layout,
    update: Update,
}

impl<'a> SegmentMut<'a> {
    /// The segment that [`super::frame::parse`] found in `frame`.
    pub fn new(frame: &'a mut [u8], layout: Layout) -> SegmentMut<'a> {
        SegmentMut { frame, layout, update: Update::default() }
    }

    /// To be read, edits included.
    pub fn as_segment(&self) -> Segment<'_> {
        Segment::new(self.frame, self.layout)
    }

    /// Replaces SEG.SEQ.
    pub fn set_seq(&mut self, seq: SeqNumber) {
        self.replace_u32(SEQ, seq.0);
    }

    /// Replaces SEG.ACK.
    pub fn set_ack(&mut self, ack: SeqNumber) {
        self.replace_u32(ACK, ack.0);
    }

    /// Replaces the window field.
    pub fn set_window(&mut self, window: u16) {
        let at = self.layout.tcp.saturating_add(WINDOW);
        self.update.replace_u16(read_u16(self.frame, at), window);
        write(self.frame, at, &window.to_be_bytes());
    }

    /// Adds `delta`, modulo 2^32, to the four octets at `at` in the options (0: the first octet of the options).
    pub fn add_in_options(&mut self, at: usize, delta: u32) {
        let field = at.saturating_add(MIN_HEADER_LEN);
        let old = read_u32(self.frame, self.layout.tcp.saturating_add(field));
        self.replace_u32(field, old.wrapping_add(delta));
    }

    /// Overwrites `len` octets of the options from `at` on with NOP.
    pub fn erase_in_options(&mut self, at: usize, len: usize) {
        for offset in at..at.saturating_add(len) {
            let field = offset.saturating_add(MIN_HEADER_LEN);
            let place = self.layout.tcp.saturating_add(field);
            if place >= self.layout.payload {
                return;
            }
            let (old, new) = (self.frame[place], NOP);
            self.frame[place] = new;
            if field & 1 == 0 {
                self.update.replace_u16(u16::from_be_bytes([old, 0]), u16::from_be_bytes([new, 0]));
            } else {
                self.update.replace_u16(u16::from(old), u16::from(new));
            }
        }
    }

    /// Brings the checksum up to date with the edits (RFC 1624). A partial one covers only the pseudo-header, which
    /// none of these edits touches, and stays.
    pub fn finish(self, offload: &Offload) {
        if offload.is_partial() || self.update.is_empty() {
            return;
        }
        let at = self.layout.tcp.saturating_add(CHECKSUM);
        let checksum = self.update.apply(read_u16(self.frame, at));
        write(self.frame, at, &checksum.to_be_bytes());
    }

    fn replace_u32(&mut self, field: usize, new: u32) {
        let at = self.layout.tcp.saturating_add(field);
        self.update.replace_u32(field & 1 == 1, read_u32(self.frame, at), new);
        write(self.frame, at, &new.to_be_bytes());
    }
}

pub(super) const SEQ: usize = 4;
const ACK: usize = 8;
const DATA_OFFSET: usize = 12;
pub(super) const FLAGS: usize = 13;
const WINDOW: usize = 14;
const URGENT: usize = 18;
pub(super) const CHECKSUM: usize = 16;
const NOP: u8 = 1;
