//! Explicit congestion notification of the simulation's TCP (RFC 3168): agreed on in the handshake, marked by routers, echoed by
//! receivers. What comes without an agreement is a fault of whoever made one in an end's name.

use synwall::wire::checksum;

use super::packet::{ACK, CWR, ECE, LINK, RST, SYN, before};

/// The field of an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codepoint(u8);

impl Codepoint {
    /// Whether its sender understands marks.
    pub fn is_capable(self) -> bool {
        self.0 != 0
    }

    fn is_marked(self) -> bool {
        self.0 == 3
    }
}

/// The codepoint of a frame's packet.
pub fn of_packet(frame: &[u8]) -> Codepoint {
    let second = frame[LINK + 1];
    Codepoint(if frame[LINK] >> 4 == 4 { second } else { second >> 4 } & 3)
}

/// Says that the sender understands marks (2: ECT(0)), or that there was congestion (3: CE).
pub fn set(frame: &mut [u8], codepoint: u8) {
    let packet = &mut frame[LINK..];
    if packet[0] >> 4 == 6 {
        packet[1] = packet[1] & 0xcf | codepoint << 4;
        return;
    }
    packet[1] = packet[1] & 0xfc | codepoint;
    packet[10..12].fill(0);
    let sum = !checksum::sum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Marks a packet that can be marked; whether it can.
pub fn mark(frame: &mut [u8]) -> bool {
    let is_capable = of_packet(frame).is_capable();
    if is_capable {
        set(frame, 3);
    }
    is_capable
}

/// What one end knows of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ecn {
    is_agreed: bool,
    /// A mark has come, and no CWR since.
    echoes: bool,
    /// The window was reduced, and the peer does not know it yet.
    owes_word: bool,
    /// Behind what was in flight when it was.
    reduced_until: Option<u32>,
}

impl Ecn {
    /// A SYN has come, or the answer to this end's; `offers` is whether this end can.
    pub fn agree(&mut self, flags: u8, offers: bool) {
        let wanted = if flags & ACK == 0 { ECE | CWR } else { ECE };
        *self = Ecn { is_agreed: offers && flags & (ECE | CWR) == wanted, ..Ecn::default() };
    }

    /// Flags of a SYN, or SYN-ACK.
    pub fn of_syn(self, is_answer: bool, offers: bool) -> u8 {
        match is_answer {
            true if self.is_agreed => ECE,
            false if offers => ECE | CWR,
            _ => 0,
        }
    }

    /// Flags of any other segment; `is_new` if it carries what was not sent before.
    pub fn of_segment(&mut self, is_new: bool) -> u8 {
        let word = is_new && std::mem::take(&mut self.owes_word);
        (u8::from(self.echoes) * ECE) | (u8::from(word) * CWR)
    }

    /// Whether new data may be marked.
    pub fn is_agreed(self) -> bool {
        self.is_agreed
    }

    /// A segment of an open connection has been taken.
    pub fn note(&mut self, codepoint: Codepoint, flags: u8) -> Result<(), &'static str> {
        if flags & (SYN | RST) != 0 {
            return Ok(());
        }
        if !self.is_agreed && (codepoint.is_capable() || flags & (ECE | CWR) != 0) {
            return Err("ECN was not agreed on");
        }
        self.echoes = (self.echoes && flags & CWR == 0) || codepoint.is_marked();
        Ok(())
    }

    /// Whether a segment that acknowledges up to `una` calls for half of the window: once for each window.
    pub fn is_to_reduce(&mut self, flags: u8, una: u32, max: u32) -> bool {
        let is_due =
            flags & ECE != 0 && self.is_agreed && self.reduced_until.is_none_or(|until| !before(una, until));
        if is_due {
            (self.owes_word, self.reduced_until) = (true, Some(max));
        }
        is_due
    }
}
