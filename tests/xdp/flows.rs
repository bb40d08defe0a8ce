//! Connections that random frames aim at.

use std::net::SocketAddr;

use synwall::engine::{Side, Verdict};

use crate::maker::Maker;
use crate::packets::frames::*;
use crate::packets::vector::Ends;
use crate::world::World;

/// A connection as its ends know it.
#[derive(Clone, Debug)]
pub struct Live {
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub tags: Vec<u8>,
    pub client_iss: u32,
    pub server_iss: u32,
    /// What the client was told: ISS and TSval. 0 is no timestamps.
    pub told: (u32, u32),
}

/// Where a connection stands.
pub struct Place {
    pub ends: Ends,
    pub delta: u32,
    pub ts_delta: u32,
}

impl Live {
    pub fn seg(&self) -> Seg {
        Seg::of(self.client, self.server).tags(&self.tags)
    }

    pub fn stamped(&self, seg: Seg, value: u32, echo: u32) -> Seg {
        if self.told.1 == 0 { seg } else { seg.timestamps(value, echo) }
    }

    /// The ACK that returns the cookie.
    pub fn cookie_ack(&self) -> Seg {
        let seg = self.seg().seq(self.client_iss.wrapping_add(1)).ack(self.told.0.wrapping_add(1));
        self.stamped(seg, 1001, self.told.1)
    }

    /// The server's SYN-ACK.
    pub fn answer(&self, options: &[u8]) -> Seg {
        let seg = self.seg().flags(SYN).seq(self.server_iss).ack(self.client_iss.wrapping_add(1));
        seg.window(65_160).raw(options)
    }

    /// Whether the client was promised what its server does not do, so that the engine edits each segment.
    pub fn is_edited(&self, world: &World) -> bool {
        let found = world.reference.flow(self.client, self.server);
        found.is_some_and(|(saved, _)| saved.strips_sack || saved.strips_ecn)
    }

    pub fn place(&self, world: &World) -> Option<Place> {
        let (saved, ends) = world.reference.flow(self.client, self.server)?;
        Some(Place { ends, delta: saved.delta, ts_delta: saved.ts_delta })
    }
}

/// Sends a frame of a story that both have to tell alike.
pub fn tell(world: &mut World, side: Side, seg: &Seg) -> Vec<(Side, Vec<u8>)> {
    let passed = world.send(side, &seg.frame(side)).unwrap_or_else(|what| panic!("{seg:?}: {what}"));
    passed.outcome.out
}

/// What a SYN-ACK tells.
pub fn told(frame: &[u8]) -> (u32, u32) {
    let tcp = network(frame);
    let tcp = tcp + if frame[tcp] >> 4 == 4 { 20 } else { 40 };
    let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    let options = &frame[tcp + 20..];
    let at = options.windows(2).position(|two| two == [8, 10]);
    (word(tcp + 4), at.map_or(0, |at| word(tcp + 20 + at + 2)))
}

/// A SYN that is answered; `None` if it is not.
pub fn challenged(maker: &mut Maker, world: &mut World) -> Option<Live> {
    let (client, server) = maker.challenged_ends();
    let tags = maker.tags();
    let (client_iss, server_iss) = (maker.number(), maker.number());
    let options = maker.syn_options();
    let ecn = if maker.random.one_in(2) { ECE | CWR } else { 0 };
    let syn = Seg::of(client, server).tags(&tags).flags(SYN | ecn).seq(client_iss);
    let syn = syn.window(64_240).raw(&options);
    let out = tell(world, Side::Client, &syn);
    let (Side::Client, answer) = out.first()? else { return None };
    let told = told(answer);
    Some(Live { client, server, tags, client_iss, server_iss, told })
}

/// Opens a connection through a cookie, and has it lent.
pub fn open(maker: &mut Maker, world: &mut World) -> Option<Live> {
    let live = challenged(maker, world)?;
    tell(world, Side::Client, &live.cookie_ack());
    let scale = maker.random.below(15) as u8;
    let options: Vec<u8> = [
        &[2, 4, 5, 0xb4][..],
        if live.told.1 == 0 { &[] } else { &[8, 10, 0, 0, 0x23, 0x28, 0, 0, 3, 0xe9] },
        if maker.random.one_in(3) { &[1, 1] } else { &[4, 2] },
        &[1, 3, 3, scale],
    ]
    .concat();
    let ecn = if maker.random.one_in(2) { ECE } else { 0 };
    tell(world, Side::Server, &live.answer(&options).flags(ecn));
    let place = live.place(world)?;
    let ack = live.seg().seq(place.ends.client[0]).ack(place.ends.client[1].wrapping_sub(place.delta));
    tell(world, Side::Client, &live.stamped(ack, 1002, live.told.1));
    Some(live)
}

/// Opens one that needs no rare edit.
pub fn open_plain(maker: &mut Maker, world: &mut World) -> Live {
    for _ in 0..64 {
        if let Some(live) = open(maker, world)
            && !live.is_edited(world)
        {
            return live;
        }
    }
    panic!("most are plain");
}

/// Opens a connection that is let through, and has it lent.
pub fn open_direct(maker: &mut Maker, world: &mut World) -> Option<Live> {
    let (client, server) = (maker.client(false), "198.18.255.7:80".parse().unwrap());
    let (client_iss, server_iss) = (maker.number(), maker.number());
    let live = Live { client, server, tags: vec![], client_iss, server_iss, told: (server_iss, 0) };
    tell(world, Side::Client, &live.seg().flags(SYN).seq(client_iss).mss(1460));
    tell(world, Side::Server, &live.answer(&[2, 4, 5, 0xb4]));
    tell(world, Side::Client, &live.cookie_ack());
    let ack = live.seg().seq(server_iss.wrapping_add(1)).ack(client_iss.wrapping_add(1));
    tell(world, Side::Server, &ack);
    live.place(world).map(|_| live)
}

/// An empty ACK back and forth is no traffic: both stop it, at the same segment.
#[test]
fn a_storm_ends_at_the_same_segment() {
    let mut world = World::new(crate::world::FEW, &[]);
    let mut maker = Maker::new(7, &crate::kinds::FEW_TARGETS);
    let live = open_plain(&mut maker, &mut world);
    let place = live.place(&world).unwrap();
    let client = live.seg().seq(place.ends.client[0]).ack(place.ends.client[1].wrapping_sub(place.delta));
    let server = live.seg().seq(place.ends.server[0]).ack(place.ends.server[1]);
    let mut verdicts = Vec::new();
    for _ in 0..40 {
        for (side, seg) in [(Side::Client, &client), (Side::Server, &server)] {
            let passed = world.send(side, &seg.frame(side)).unwrap_or_else(|what| panic!("{what}"));
            assert!(!passed.is_up);
            verdicts.push(passed.outcome.verdict);
        }
    }
    assert_eq!(verdicts.first(), Some(&Verdict::Forward));
    assert!(matches!(verdicts.last(), Some(Verdict::Drop(synwall::engine::DropReason::AckStorm))));
}
