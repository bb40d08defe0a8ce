//! Frames as they are from the attacker's port.

use std::thread::JoinHandle;

use synwall::engine::Side;
use synwall::io::FrameIo;
use synwall::io::af_packet::AfPacket;
use synwall::wire::buffer::FrameBuf;

use crate::lab::Lab;

/// The server's port in every laboratory.
pub(crate) const SERVER_MAC: [u8; 6] = [2, 0x53, 0x57, 0, 0, 2];

/// The attacker's port.
pub(crate) struct Sender(AfPacket);

impl Sender {
    /// Sends all of these.
    pub(crate) fn send(&mut self, frames: &[FrameBuf]) {
        frames.iter().for_each(|frame| self.0.send(Side::Client, frame.as_frame()));
        self.0.flush();
    }
}

/// Runs `work` with the attacker's port in a thread of its own.
pub(crate) fn send_as_attacker<T: Send + 'static>(
    lab: &Lab,
    work: impl FnOnce(&mut Sender) -> T + Send + 'static,
) -> JoinHandle<T> {
    // The sockets want two ports; nothing is ever sent on the second.
    let unused = ["unused0", "type", "veth", "peer", "name", "unused1"];
    let has_port = lab.command("attacker", "ip").args(["link", "show", unused[0]]).output().unwrap();
    if !has_port.status.success() {
        lab.run("attacker", &[&["ip", "link", "add"], &unused[..]].concat());
        lab.run("attacker", &["ip", "link", "set", unused[0], "up"]);
    }
    lab.spawn("attacker", move || {
        work(&mut Sender(AfPacket::open("eth0", unused[0], 1).unwrap().0.remove(0)))
    })
}
