//! The classic BPF programs of the sockets.
//!
//! The kernel takes a frame's outer VLAN tag out before a packet socket sees it, whatever the interface's offload
//! settings, and tells it only in ancillary data, which pnet does not read. So the untagged frames of a port go to
//! pnet's socket and the tagged ones to a second socket; these filters divide them.

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

/// Which frames a socket takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// Those whose outer tag, if any, is still in the frame: there is none.
    Absent,
    /// Those whose outer tag was taken out.
    Present,
}

/// Takes no frame at all. For a socket that is bound but not yet joined to its fanout group, where it would get a copy
/// of what the other sockets get.
pub(super) fn nothing() -> [sock_filter; 1] {
    [finish(0)]
}

/// Takes what arrives with `tag`, and nothing that this host transmits. The socket option that ignores outgoing frames
/// does not cover fanout groups on older kernels, and forwarding our own transmissions would loop.
pub(super) fn incoming(tag: Tag) -> [sock_filter; 6] {
    let (absent, present) = match tag {
        Tag::Absent => (1, 0),
        Tag::Present => (0, 1),
    };
    [
        load(libc::SKF_AD_PKTTYPE),
        jump_if_equal(u32::from(libc::PACKET_OUTGOING), 3, 0),
        load(libc::SKF_AD_VLAN_TAG_PRESENT),
        jump_if_equal(0, absent ^ 1, present ^ 1),
        finish(u32::MAX),
        finish(0),
    ]
}

/// Loads one of the kernel's facts about the frame.
fn load(fact: i32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, libc::SKF_AD_OFF.wrapping_add(fact).cast_unsigned())
}

fn jump_if_equal(value: u32, then: u8, or_else: u8) -> sock_filter {
    instruction(BPF_JMP | BPF_JEQ | BPF_K, then, or_else, value)
}

/// Ends with at most `octets` of the frame.
fn finish(octets: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, 0, 0, octets)
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    // The codes are octets, declared wider than the field.
    sock_filter { code: u16::try_from(code).unwrap_or(0), jt, jf, k }
}
