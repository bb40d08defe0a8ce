//! What the engine says of a frame, and the frames it originates.

use crate::wire::buffer::{FrameRef, OFFLOAD_HEADER_LEN};

/// Which of the two ports: the one towards the clients (outside) or the one towards the servers (inside).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The port towards the clients, `outside` in the configuration.
    Client,
    /// The port towards the protected servers, `inside` in the configuration.
    Server,
}

impl Side {
    /// Both, in the order of [`Side::index`].
    pub const ALL: [Side; 2] = [Side::Client, Side::Server];

    /// The other side.
    pub const fn peer(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }

    /// 0 for the client's side, 1 for the server's.
    pub const fn index(self) -> usize {
        match self {
            Side::Client => 0,
            Side::Server => 1,
        }
    }

    /// The port's name in the configuration and in metrics.
    pub const fn port(self) -> &'static str {
        match self {
            Side::Client => "outside",
            Side::Server => "inside",
        }
    }
}

/// What becomes of a frame that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Transmit it, as it now is, on the other port.
    Forward,
    /// It has done its work here (answered, or kept as early data): transmit nothing.
    Consume,
    /// Discard it.
    Drop(DropReason),
}

/// Declares [`DropReason`] with its labels, so that code path, metric and test expectation cannot drift apart.
macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident => $label:literal,)*) => {
        /// What was wrong with a segment that was dropped: the code path, the metric's label and the test's expectation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// Every reason, in the order of [`DropReason::index`].
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];

            /// The value of the label `reason` in `synwall_dropped_total`.
            pub const fn label(self) -> &'static str {
                match self { $(DropReason::$name => $label,)* }
            }

            /// Position in [`DropReason::ALL`].
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

drop_reasons! {
    /// The IP or TCP header is cut short or contradicts itself.
    Malformed => "malformed",
    /// The IPv4 header checksum or the TCP checksum is wrong.
    BadChecksum => "bad_checksum",
    /// Flags that no TCP sends together: SYN+FIN, SYN+RST, none at all.
    BadFlags => "bad_flags",
    /// An address that cannot be a peer's: multicast, broadcast, loopback, unspecified, or source equal to destination.
    BogusAddress => "bogus_address",
    /// Source or destination port 0.
    BogusPort => "bogus_port",
    /// A fragment that could hide a TCP header, or one that belongs to no flow.
    Fragment => "fragment",
    /// An ACK without a flow whose cookie is not ours.
    CookieInvalid => "cookie_invalid",
    /// A cookie of ours that has served its connection already.
    CookieReplayed => "cookie_replayed",
    /// The service accepts only cookies with timestamps, and this client offers none.
    TimestampsRequired => "timestamps_required",
    /// There is no cookie key: the service fails closed.
    NoKey => "no_key",
    /// A segment of no known flow.
    NoFlow => "no_flow",
    /// A segment outside the window of its flow.
    OutOfWindow => "out_of_window",
    /// A RST whose SEG.SEQ lies outside the window.
    BadReset => "bad_reset",
    /// Early data out of order, or beyond what is kept for it: unacknowledged, so the client sends it again.
    EarlyDataExceeded => "early_data_exceeded",
    /// The half-open table or the service's share of it is full.
    HalfOpenFull => "half_open_full",
    /// The flow table is full.
    FlowTableFull => "flow_table_full",
    /// An answer of the server that fits no SYN of ours.
    UnexpectedAnswer => "unexpected_answer",
    /// A packet longer than the other link carries.
    TooBig => "too_big",
    /// The operator denies this source.
    Denied => "denied",
    /// A SYN beyond the service's budget of SYN-ACKs.
    SynRateExceeded => "syn_rate_exceeded",
    /// A SYN beyond the budget of SYN-ACKs to its source prefix.
    SourceRateExceeded => "source_rate_exceeded",
    /// A completed handshake beyond the budget of its source prefix: the client tries again.
    SourceConnectionsExceeded => "source_connections_exceeded",
    /// A valid cookie beyond the service's budget of SYNs to the server: the client tries again.
    BackendRateExceeded => "backend_rate_exceeded",
    /// A SYN to a server that refuses, beyond the budget of RSTs.
    ResetRateExceeded => "reset_rate_exceeded",
    /// The source prefix holds its share of the table.
    SourceShareFull => "source_share_full",
    /// One of two ends that answer each other's empty ACKs for ever.
    AckStorm => "ack_storm",
    /// An ICMP error about no segment that is in flight.
    IcmpUnmatched => "icmp_unmatched",
    /// ICMP errors about a service's segments, more than any path has reason to report.
    IcmpRateExceeded => "icmp_rate_exceeded",
}

/// The frames that the engine originates while it handles an input, in order, ready to send.
///
/// One arena that is cleared and reused: after warm-up it does not allocate.
#[derive(Default)]
pub struct Outbox {
    arena: Vec<u8>,
    frames: Vec<(Side, core::ops::Range<usize>)>,
}

impl Outbox {
    /// An empty outbox.
    pub fn new() -> Outbox {
        Outbox::default()
    }

    /// Forgets all frames and keeps the memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.frames.clear();
    }

    /// Whether nothing was originated.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The frames with the side on which each is to be transmitted.
    pub fn frames(&self) -> impl Iterator<Item = (Side, FrameRef<'_>)> {
        self.frames.iter().filter_map(|(side, range)| {
            let raw = self.arena.get(range.clone())?;
            Some((*side, FrameRef::new(raw)?))
        })
    }

    /// Adds a frame of at most `room` octets towards `side`; `build` fills it and returns its length.
    ///
    /// A `build` that returns 0 or more than `room` adds nothing; whether one was added.
    pub fn push(&mut self, side: Side, room: usize, build: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let start = self.arena.len();
        let body = start.saturating_add(OFFLOAD_HEADER_LEN);
        self.arena.resize(body.saturating_add(room), 0);
        let len = match self.arena.get_mut(body..) {
            Some(buffer) => build(buffer),
            None => 0,
        };
        if len == 0 || len > room {
            self.arena.truncate(start);
            return false;
        }
        let end = body.saturating_add(len);
        self.arena.truncate(end);
        self.frames.push((side, start..end));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_indexed_in_order_and_labels_are_unique() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert_eq!(DropReason::ALL.iter().filter(|other| other.label() == reason.label()).count(), 1);
        }
    }

    #[test]
    fn outbox_keeps_order_and_sides_and_refuses_what_does_not_fit() {
        let mut out = Outbox::new();
        out.push(Side::Client, 4, |buffer| {
            buffer.copy_from_slice(b"abcd");
            3
        });
        out.push(Side::Server, 4, |_| 5);
        out.push(Side::Server, 4, |_| 0);
        out.push(Side::Server, 2, |buffer| {
            buffer.copy_from_slice(b"xy");
            2
        });
        assert!(!out.is_empty());
        let seen: Vec<(Side, Vec<u8>)> =
            out.frames().map(|(side, frame)| (side, frame.bytes().to_vec())).collect();
        assert_eq!(seen, vec![(Side::Client, b"abc".to_vec()), (Side::Server, b"xy".to_vec())]);
        out.clear();
        assert!(out.is_empty());
    }
}
