//! The classic BPF programs of the sockets.

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

/// Takes no frame at all. For a socket that is bound but not yet joined to its fanout group, where it would get a copy
/// of what the other sockets get.
pub(super) fn nothing() -> [sock_filter; 1] {
    [finish(0)]
}

/// Takes what arrives, and nothing that this host transmits. The socket option that ignores outgoing frames does not
/// cover fanout groups on older kernels, and forwarding our own transmissions would loop.
pub(super) fn incoming() -> [sock_filter; 4] {
    [
        load(libc::SKF_AD_PKTTYPE),
        jump_if_equal(u32::from(libc::PACKET_OUTGOING), 1, 0),
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
