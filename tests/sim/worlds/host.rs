//! What the world wants of a host's TCP, whoever wrote it.

use synwall::time::Instant;

/// How a connection ended for one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both FINs were acknowledged, as far as this end can know.
    Closed,
    /// A RST came, or this end sent one.
    Reset,
    /// Nobody answered for too long.
    TimedOut,
}

/// A number in a segment that the receiving TCP's peer cannot have meant for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    pub what: String,
    /// Whether the TCP went on with the segment. If not, it discarded it, as a TCP does with an old duplicate.
    pub is_taken: bool,
}

/// One end of a connection with the TCP below it: frames in, frames out, and a stream of octets.
pub trait Host {
    /// A frame arrives; a wrong checksum makes it nothing.
    fn receive(&mut self, now: Instant, frame: &[u8], out: &mut Vec<Vec<u8>>);
    /// Sends what is to be sent, and serves timers.
    fn poll(&mut self, now: Instant, out: &mut Vec<Vec<u8>>);
    /// When [`Host::poll`] should be called next.
    fn deadline(&self) -> Option<Instant>;
    /// The ISS of the client whose connection this is.
    fn client_iss(&self) -> Option<u32>;
    /// Whether it waits for the last segment of a handshake.
    fn is_half_open(&self) -> bool;
    /// Whether the handshake has completed.
    fn is_open(&self) -> bool;
    /// How many octets it has room for.
    fn room(&self) -> usize;
    /// Takes octets to send; how many it had room for.
    fn write(&mut self, octets: &[u8]) -> usize;
    /// Appends what has come to `into`.
    fn read(&mut self, into: &mut Vec<u8>);
    /// Whether the peer's FIN has come and all before it was read.
    fn is_at_end(&self) -> bool;
    /// Nothing more will be written.
    fn close(&mut self);
    /// RST.
    fn abort(&mut self);
    /// How it ended, if it has.
    fn end(&self) -> Option<End>;
    /// The next connection of a client on the same tuple, if this TCP can have one.
    fn reopen(&mut self, _now: Instant, _advance: u32) -> bool {
        false
    }
    /// The client has lost all that it knew and begins anew on the same tuple, if this TCP can.
    fn forget(&mut self, _now: Instant, _iss: u32, _ts_offset: u32) -> bool {
        false
    }
    /// A router says that a packet of this end with that SEG.SEQ was longer than `mtu`; whether this end has sent it.
    fn hear_too_big(&mut self, _now: Instant, _mtu: u16, _seq: u32, _out: &mut Vec<Vec<u8>>) -> bool {
        true
    }
    /// What came with a right checksum and yet cannot have been meant for this end, since the last question.
    fn foreign(&mut self) -> Option<Foreign>;
    /// Whether this TCP is known to have failed by a fault of its own.
    fn is_faulty(&self) -> bool {
        false
    }
}
