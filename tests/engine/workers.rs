//! Two workers: each has what the other left off, and the server's answer and the client's data meet in whatever order.

use std::sync::Arc;
use std::sync::Barrier;

use synwall::engine::{DropReason, Engine, Outbox, Side, Verdict};
use synwall::time::Instant;
use synwall::wire::buffer::FrameBuf;
use synwall::wire::pretty::Pretty;
use synwall::wire::tcp::Segment;

use crate::lab::*;

/// A worker of its own and what it sent.
struct Worker {
    engine: Engine,
    frame: FrameBuf,
    out: Outbox,
}

impl Worker {
    /// The worker `number` of those that share what the lab's own does.
    fn beside(lab: &Lab, number: usize) -> Worker {
        let engine = Engine::new(Arc::clone(&lab.shared), number);
        Worker { engine, frame: FrameBuf::new(), out: Outbox::new() }
    }

    fn run(&mut self, now: Instant, side: Side, bytes: &[u8]) -> (Verdict, Vec<Vec<u8>>) {
        self.out.clear();
        assert!(self.frame.set_bytes(bytes));
        let verdict = self.engine.handle_frame(now, side, &mut self.frame, &mut self.out);
        let mut sent: Vec<Vec<u8>> = self.out.frames().map(|(_, frame)| frame.bytes().to_vec()).collect();
        if verdict == Verdict::Forward {
            sent.push(self.frame.bytes().to_vec());
        }
        (verdict, sent)
    }
}

fn carries_data(frames: &[Vec<u8>]) -> bool {
    frames.iter().any(|frame| Segment::new(frame, parse(frame)).payload() == b"GET")
}

/// Row 49: the client's data is replayed, forwarded, or dropped so that the client repeats it; it is never taken and
/// forgotten, and no second entry is left to ask the server again.
#[test]
fn data_that_meets_the_server_s_answer_in_another_worker_is_not_lost() {
    const ROUNDS: u16 = 4_000;
    let mut lab = Lab::with(|service, limits| {
        service.budgets.syn_per_source = None;
        limits.refused = std::time::Duration::from_millis(10);
    });
    let mut other = Worker::beside(&lab, 1);
    let mut first = Worker::beside(&lab, 0);
    for round in 0..ROUNDS {
        let port = 2_000 + round;
        lab.syn_with(linux_syn().port(port));
        let cookie = lab.told_client();
        assert_eq!(lab.client(lab.client_ack(cookie).port(port)), Verdict::Consume);
        let answer = lab.frame(Side::Server, &lab.server_syn_ack().port(port));
        let data = lab.client_ack(cookie).port(port).data(b"GET");
        let data = lab.frame(Side::Client, &data);
        lab.skip();
        let (now, barrier) = (lab.now, Barrier::new(2));
        let (answered, (fate, sent)) = std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                barrier.wait();
                other.run(now, Side::Server, &answer)
            });
            barrier.wait();
            // A little later in every round, over the time that the answer takes.
            (0..(round % 64) * 8).for_each(|_| std::hint::spin_loop());
            let fate = first.run(now, Side::Client, &data);
            (server.join().expect("no panic"), fate)
        });
        assert_eq!(answered.0, Verdict::Consume, "the answer opens the flow");
        let is_delivered = carries_data(&answered.1) || carries_data(&sent);
        match fate {
            Verdict::Consume | Verdict::Forward => assert!(is_delivered, "round {round}: {fate:?}"),
            Verdict::Drop(DropReason::EarlyDataExceeded) => assert!(!is_delivered),
            Verdict::Drop(reason) => panic!("round {round}: {reason:?}"),
        }
        assert_eq!(lab.snapshot().services[0].half_open, 0, "round {round}");
    }
    let open = lab.snapshot().flows.iter().find(|(state, _)| *state == "established").unwrap().1;
    assert_eq!(open, u64::from(ROUNDS));
}

/// Row 49: SYN and SYN-ACK come to one worker, the rest to another.
#[test]
fn workers_share_keys_and_tables() {
    let mut lab = Lab::new();
    let mut other = Worker::beside(&lab, 1);
    let cookie = lab.syn();
    lab.skip();
    let ack = lab.frame(Side::Client, &lab.client_ack(cookie));
    let (verdict, sent) = other.run(lab.now, Side::Client, &ack);
    let syn = format!("S {}:{}(0) win 64256 <mss 1460,sackOK,TS val 1001 ecr 0,wscale 7>", c(0), c(1));
    assert_eq!((verdict, print(&sent)), (Verdict::Consume, vec![syn]));
    assert_eq!(lab.server(lab.server_syn_ack()), Verdict::Consume);
    let crossed = format!(". {}:{}(0) ack {} win 502 <TS val 1001 ecr 9000>", c(1), c(1), s(1));
    lab.expect(&[format!("server > {crossed}")]);
    let (verdict, sent) = other.run(lab.now, Side::Client, &ack);
    assert_eq!((verdict, print(&sent)), (Verdict::Forward, vec![crossed]));
    lab.expect_counters(&[
        ("cookie_valid", 1),
        ("backend_syn", 1),
        ("backend_established", 1),
        ("flows_proxied", 1),
        ("handshakes", 1),
        ("flows.established", 1),
        ("inside.originated", 2),
    ]);
}

fn print(frames: &[Vec<u8>]) -> Vec<String> {
    frames.iter().map(|frame| Pretty(frame).to_string()).collect()
}
