//! Direct flows, which are notes, and cookies of clients that are let through meanwhile.

use synwall::engine::policy::{Mode, Policy};
use synwall::engine::{Side, Verdict};

use crate::flows::{challenged, open_direct, tell, told};
use crate::kinds::FEW_TARGETS;
use crate::maker::Maker;
use crate::packets::frames::*;
use crate::world::{FEW, World};

/// Changes the mode of all services in both.
fn set_mode(world: &mut World, mode: Mode) {
    for bench in [&world.reference, &world.system] {
        let policy = bench.shared.policy();
        let mut services = policy.services().to_vec();
        services.iter_mut().for_each(|service| service.mode = mode);
        bench.shared.set_policy(Policy::new(services, policy.limits, 1500).unwrap());
    }
    world.program.configure(&world.system.shared, world.system.now);
}

/// FAULTS E3: an ACK and a RST of any number, and of the number half the circle away.
#[test]
fn blind_segments_cross_and_change_nothing() {
    let mut world = World::new(FEW, &[]);
    let live = open_direct(&mut Maker::new(11, &FEW_TARGETS), &mut world).expect("it is let through");
    let before = live.place(&world).unwrap().ends;
    for x in [0x1234_5678, 0x9234_5678] {
        let blind = || live.seg().seq(x);
        for seg in [blind().ack(0x5555_5555), blind().flags(RST), blind().flags(FIN).ack(0x5555_5555)] {
            let passed = world.send(Side::Client, &seg.frame(Side::Client)).unwrap();
            assert!(!passed.is_up && passed.outcome.moved.is_empty(), "{:?}", passed.outcome);
            assert_eq!(passed.outcome.verdict, Verdict::Forward);
        }
    }
    assert_eq!(live.place(&world).unwrap().ends, before);
}

/// A SYN on the tuple of a direct flow while clients are challenged: it goes up to be answered, for the engine notes its ISS,
/// and the ACK that returns the cookie goes up. What is of the old connection does not.
#[test]
fn challenged_syn_on_a_direct_flow_is_answered_and_its_cookie_opens_the_next() {
    // A forged SYN that is challenged behind it changes nothing of that (row NEW-6 of docs/faults.md).
    for is_forged_behind in [false, true] {
        let mut world = World::new(FEW, &[]);
        let live = open_direct(&mut Maker::new(12, &FEW_TARGETS), &mut world).expect("it is let through");
        set_mode(&mut world, Mode::Always);
        let iss = live.client_iss.wrapping_add(0x0100_0000);
        let syn = |iss: u32| live.seg().flags(SYN).seq(iss).mss(1460).frame(Side::Client);
        let passed = world.send(Side::Client, &syn(iss)).unwrap();
        assert!(passed.is_up && passed.outcome.verdict == Verdict::Consume);
        let (isn, _) = told(&passed.outcome.out[0].1);
        if is_forged_behind {
            let passed = world.send(Side::Client, &syn(iss.wrapping_add(0x0200_0000))).unwrap();
            assert_eq!(passed.outcome.verdict, Verdict::Consume);
        }
        let old = live.seg().seq(live.client_iss.wrapping_add(1)).ack(live.server_iss.wrapping_add(1));
        let passed = world.send(Side::Client, &old.frame(Side::Client)).unwrap();
        assert!(!passed.is_up && passed.outcome.verdict == Verdict::Forward);
        let ack = live.seg().seq(iss.wrapping_add(1)).ack(isn.wrapping_add(1));
        let passed = world.send(Side::Client, &ack.frame(Side::Client)).unwrap();
        assert!(passed.is_up && passed.outcome.verdict == Verdict::Consume, "{:?}", passed.outcome);
        let moved = &passed.outcome.moved;
        assert_eq!(moved.get("web.cookie_valid").or(moved.get("adaptive.cookie_valid")), Some(&1));
    }
}

/// Clients that were sent a cookie before they are let through are not sent to a server that never heard of them.
#[test]
fn cookies_in_flight_are_redeemed_where_clients_are_let_through() {
    for mode in [Mode::Monitor, Mode::Off] {
        let mut world = World::new(FEW, &[]);
        let live = challenged(&mut Maker::new(13, &FEW_TARGETS[..1]), &mut world).expect("it is answered");
        set_mode(&mut world, mode);
        // What is no cookie crosses.
        let other = live.cookie_ack().seq(7);
        let passed = world.send(Side::Client, &other.frame(Side::Client)).unwrap();
        assert!(!passed.is_up && passed.outcome.verdict == Verdict::Forward, "{mode:?} {:?}", passed.outcome);
        let passed = world.send(Side::Client, &live.cookie_ack().frame(Side::Client)).unwrap();
        assert!(passed.is_up && passed.outcome.verdict == Verdict::Consume, "{mode:?} {:?}", passed.outcome);
        let out = tell(&mut world, Side::Server, &live.answer(&[2, 4, 5, 0xb4]));
        assert!(live.place(&world).is_some(), "{mode:?} {out:?}");
    }
}
