//! Two million frames that nobody sends: random octets, cut frames, and real segments with a few octets changed.

use std::time::Duration;

use synwall::engine::{Side, Verdict};
use synwall::wire::buffer::Offload;

use crate::lab::*;

/// A generator with a seed, so that a failure repeats (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn frame(random: &mut Random, lab: &Lab, cookie: Cookie, port: u16) -> (Side, Vec<u8>) {
    let side = Side::ALL[random.below(2)];
    if random.below(8) == 0 {
        return (side, (0..random.below(200)).map(|_| random.next() as u8).collect());
    }
    let mut options = vec![0; random.below(6) * 4];
    options.iter_mut().for_each(|octet| *octet = [0, 1, 2, 3, 4, 5, 8, 10, 255][random.below(9)]);
    let near = |random: &mut Random, base: u32| base.wrapping_add(random.below(8) as u32).wrapping_sub(3);
    let seq = if side == Side::Client { near(random, CLIENT_ISS) } else { near(random, SERVER_ISS) };
    let ack = if side == Side::Client { near(random, cookie.iss) } else { near(random, CLIENT_ISS) };
    let mut seg = seg(random.next() as u8, seq).ack(ack).data(&[7; 40][..random.below(40)]).port(port);
    seg.flags = random.next() as u8;
    seg.options = options;
    if random.below(2) == 0 {
        seg = seg.ts(1001, cookie.tsval);
    }
    seg.options.truncate(40);
    let mut frame = lab.frame(side, &seg);
    for _ in 0..random.below(4) {
        let at = random.below(frame.len());
        frame[at] = random.next() as u8;
    }
    if random.below(4) == 0 {
        frame.truncate(random.below(frame.len() + 1));
    }
    (side, frame)
}

/// A new connection to aim at: open, half-open, or only a cookie.
fn open(lab: &mut Lab, round: u32, port: u16) -> (Cookie, u16) {
    let mut port = port;
    lab.offload.flags = Offload::DATA_VALID;
    let cookie = loop {
        port = port.checked_add(1).unwrap_or(1);
        // A tuple on which nonsense looked like a connection of the server's own is not answered.
        if lab.client(linux_syn().port(port)) == Verdict::Consume {
            break lab.told();
        }
    };
    if !round.is_multiple_of(300) {
        lab.client(lab.client_ack(cookie).port(port));
    }
    if round % 300 == 100 {
        lab.server(lab.server_syn_ack().port(port));
    }
    lab.skip();
    lab.advance(Duration::from_millis(100));
    lab.skip();
    (cookie, port)
}

#[test]
fn two_million_nonsense_frames_are_counted_and_break_nothing() {
    let mut random = Random(2);
    let mut verdicts = [0u64; 3];
    for mut lab in [Lab::new(), Lab::v6()] {
        let (mut cookie, mut port) = (Cookie { iss: 0, tsval: 0 }, 0);
        for round in 0..1_000_000u32 {
            if round % 100 == 0 {
                (cookie, port) = open(&mut lab, round, port);
            }
            let (side, frame) = frame(&mut random, &lab, cookie, port);
            // Half of them claim a good checksum, or few would get far.
            lab.offload.flags = if round % 2 == 0 { Offload::DATA_VALID } else { 0 };
            match lab.inject_unchecked(side, &frame) {
                Verdict::Forward => verdicts[0] += 1,
                Verdict::Consume => verdicts[1] += 1,
                Verdict::Drop(_) => verdicts[2] += 1,
            }
        }
        lab.advance(Duration::from_secs(10_000));
        let snapshot = lab.snapshot();
        let received: u64 = snapshot.ports.iter().map(|port| port.received).sum();
        assert!(received >= 1_000_000);
        assert_eq!(snapshot.flows.iter().map(|(_, count)| count).sum::<u64>(), 0, "{:?}", snapshot.flows);
        assert_eq!(snapshot.early_data_octets, 0);
    }
    assert!(verdicts.iter().all(|count| *count > 5_000), "every kind of verdict was reached: {verdicts:?}");
}
