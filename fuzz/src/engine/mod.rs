//! The engine, step by step: ends that follow the connection as it really is, and now and then do not.
//!
//! The octets are steps of a story of up to eight connections: segments of either end, which fit unless a step says by
//! how much they do not, time in leaps of any size, new keys, another policy, damaged and random frames. What the
//! engine sends is delivered to the ends, so that a cookie which it minted is redeemed and what it translated is
//! answered. After each step the engine must be consistent, and in the end nothing may be left of anything.

pub mod ends;
mod icmp;
mod world;

use arbitrary::{Arbitrary, Unstructured};

use world::World;
pub use world::peer;

/// One step; each octet means something only to some kinds of steps, and all zeros is a segment that fits.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Step {
    /// Which [`Kind`].
    pub kind: u8,
    /// Which connection.
    pub peer: u8,
    /// Control bits that are inverted.
    pub flags: u8,
    /// How far SEG.SEQ is off: see [`ends::offset`].
    pub seq: u8,
    /// How far SEG.ACK is off.
    pub ack: u8,
    /// The window field's upper octet.
    pub window: u8,
    /// Bits: see [`ends`].
    pub options: u8,
    /// How much data, how much time, which policy.
    pub amount: u8,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A segment of the client.
    Client,
    /// A segment of the server.
    Server,
    /// A SYN of the client, with a new ISS.
    Open,
    /// The server's SYN-ACK.
    Answer,
    /// Time passes.
    Wait,
    /// A new key.
    Key,
    /// Another policy.
    Policy,
    /// A segment of the client with an octet changed.
    ClientDamaged,
    /// A segment of the server with an octet changed.
    ServerDamaged,
    /// A frame made of the octets that follow.
    Raw,
    /// The clock leaps, forwards or backwards.
    Leap,
    /// The server opens a connection to the client.
    ServerOpens,
    /// A router reports an error about what came out last on a side.
    Icmp,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::Client,
        Kind::Server,
        Kind::Open,
        Kind::Answer,
        Kind::Wait,
        Kind::Key,
        Kind::Policy,
        Kind::ClientDamaged,
        Kind::ServerDamaged,
        Kind::Raw,
        Kind::Leap,
        Kind::ServerOpens,
        Kind::Icmp,
    ];

    fn of(octet: u8) -> Kind {
        Kind::ALL[usize::from(octet) % Kind::ALL.len()]
    }
}

/// Tells the story that `octets` stand for: one octet for the time at which it begins, then the steps.
pub fn run(octets: &[u8]) {
    let mut input = Unstructured::new(octets);
    let Ok(start) = u8::arbitrary(&mut input) else { return };
    let mut world = World::new(start);
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut input) else { break };
        let raw = match Kind::of(step.kind) {
            Kind::Raw => input.bytes(input.len().min(usize::from(step.amount))).unwrap_or(&[]),
            _ => &[],
        };
        world.step(Kind::of(step.kind), &step, raw);
    }
    world.finish();
}

/// Longer stories tell nothing new, and take their time.
const MAX_STEPS: usize = 400;
