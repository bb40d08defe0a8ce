//! The loop that joins two ports to an engine: receive a batch, decide, send, serve timers, sleep when idle.
//!
//! The packet threads are plain threads, one a worker, pinned if asked. Nothing in the loop allocates after warm-up,
//! locks or logs. A worker that panics ends its thread: whoever joins the handle of [`spawn`] gets the panic.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::{Clock, FrameIo, Received};
use crate::engine::{Engine, Outbox, Side, Verdict};
use crate::time::Instant;
use crate::wire::buffer::FrameBuf;

/// What a worker drives: the [`Engine`], or a test's stand-in.
pub trait Handler {
    /// See [`Engine::handle_frame`].
    fn handle_frame(&mut self, now: Instant, side: Side, frame: &mut FrameBuf, out: &mut Outbox) -> Verdict;
    /// See [`Engine::handle_timers`].
    fn handle_timers(&mut self, now: Instant, out: &mut Outbox) -> bool;
    /// See [`Engine::next_timer`].
    fn next_timer(&self) -> Option<Instant>;
}

impl Handler for Engine {
    fn handle_frame(&mut self, now: Instant, side: Side, frame: &mut FrameBuf, out: &mut Outbox) -> Verdict {
        Engine::handle_frame(self, now, side, frame, out)
    }

    fn handle_timers(&mut self, now: Instant, out: &mut Outbox) -> bool {
        Engine::handle_timers(self, now, out)
    }

    fn next_timer(&self) -> Option<Instant> {
        Engine::next_timer(self)
    }
}

/// Starts worker number `index` on a thread of its own, named `synwall-<index>`, which ends soon after `stop` is set.
///
/// # Errors
///
/// When the system cannot start a thread. A core that cannot be had is logged, and the worker runs unpinned.
pub fn spawn<H, Io, C>(
    index: usize,
    core: Option<usize>,
    handler: H,
    io: Io,
    clock: C,
    stop: Arc<AtomicBool>,
) -> io::Result<JoinHandle<()>>
where
    H: Handler + Send + 'static,
    Io: FrameIo + Send + 'static,
    C: Clock + Send + 'static,
{
    Builder::new().name(format!("synwall-{index}")).spawn(move || {
        if let Some(core) = core {
            pin(index, core);
        }
        Worker::new(handler, io).run(&clock, &stop);
    })
}

/// One worker: a handler, its ports and the buffers that it reuses.
pub struct Worker<H, Io> {
    handler: H,
    io: Io,
    frame: FrameBuf,
    out: Outbox,
    sleep: Duration,
}

impl<H: Handler, Io: FrameIo> Worker<H, Io> {
    /// A worker that has not run yet.
    pub fn new(handler: H, io: Io) -> Worker<H, Io> {
        Worker { handler, io, frame: FrameBuf::new(), out: Outbox::new(), sleep: Duration::ZERO }
    }

    /// Works until `stop` is set, which it notices within [`MAX_SLEEP`].
    pub fn run(&mut self, clock: &impl Clock, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.turn(clock);
        }
    }

    /// Waits for frames until the next timer is due, then serves one batch of each side and the timers.
    pub fn turn(&mut self, clock: &impl Clock) {
        // Returns at once if the last turn left frames behind, so a busy worker does not sleep.
        self.io.wait(self.sleep);
        let now = clock.now();
        for side in Side::ALL {
            self.serve(now, side);
        }
        self.sleep = if self.serve_timers(now) {
            Duration::ZERO
        } else {
            self.handler.next_timer().map_or(MAX_SLEEP, |due| due.since(now).min(MAX_SLEEP))
        };
    }

    /// The ports, for what a test wants to push or pop between turns.
    pub fn io_mut(&mut self) -> &mut Io {
        &mut self.io
    }

    /// Handles at most [`BATCH`] frames of `side`.
    fn serve(&mut self, now: Instant, side: Side) {
        for _ in 0..BATCH {
            match self.io.receive(side, &mut self.frame) {
                Received::Frame => self.handle(now, side),
                Received::Discarded => {}
                Received::Empty | Received::Down => return,
            }
        }
    }

    fn handle(&mut self, now: Instant, side: Side) {
        self.out.clear();
        match self.handler.handle_frame(now, side, &mut self.frame, &mut self.out) {
            Verdict::Forward => self.io.send(side.peer(), self.frame.as_frame()),
            Verdict::Consume | Verdict::Drop(_) => {}
        }
        self.send_originated();
    }

    /// Serves timers that are due; whether more are waiting.
    fn serve_timers(&mut self, now: Instant) -> bool {
        self.out.clear();
        let more = self.handler.handle_timers(now, &mut self.out);
        self.send_originated();
        more
    }

    fn send_originated(&mut self) {
        for (side, frame) in self.out.frames() {
            self.io.send(side, frame);
        }
    }
}

fn pin(index: usize, core: usize) {
    let mut cores = CpuSet::new();
    let pinned = cores.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores));
    if let Err(error) = pinned {
        tracing::warn!(worker = index, core, %error, "worker runs unpinned: the core cannot be had");
    }
}

/// The most frames of one side that are handled before the other side and the timers get their turn: bounds how late a
/// timer or the quiet direction can be under a flood on one port.
pub const BATCH: usize = 64;

/// The longest sleep; bounds how late a worker notices that it is to stop, or a policy that armed no timer.
pub const MAX_SLEEP: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::engine::policy::{Limits, Policy};
    use crate::engine::{DropReason, Shared};
    use crate::io::memory::Memory;

    #[test]
    fn engine_forwards_frames_in_order_both_ways() {
        let policy = Policy::new(Vec::new(), Limits::default(), 1500).unwrap();
        let engine = Engine::new(Arc::new(Shared::new(policy, 1, [1, 2])), 0);
        let mut worker = Worker::new(engine, Memory::new());
        for number in 0..100_u8 {
            worker.io_mut().push(Side::Client, &[number; 60]);
            worker.io_mut().push(Side::Server, &[number | 0x80; 60]);
        }
        worker.turn(&TestClock::default());
        worker.turn(&TestClock::default());
        for number in 0..100_u8 {
            assert_eq!(worker.io_mut().pop(Side::Server).unwrap(), [number; 60]);
            assert_eq!(worker.io_mut().pop(Side::Client).unwrap(), [number | 0x80; 60]);
        }
        assert_eq!(worker.io_mut().pop(Side::Server), None);
        assert_eq!(worker.io_mut().pop(Side::Client), None);
    }

    #[test]
    fn one_turn_takes_one_batch_and_serves_timers_under_load() {
        let mut worker = Worker::new(Script::default(), Memory::new());
        for _ in 0..3 * BATCH {
            worker.io_mut().push(Side::Client, &[2]);
        }
        worker.io_mut().push(Side::Server, &[1]);
        worker.turn(&TestClock::default());
        assert_eq!((worker.handler.frames, worker.handler.timer_calls), (BATCH + 1, 1));
        for _ in 0..3 {
            worker.turn(&TestClock::default());
        }
        assert_eq!((worker.handler.frames, worker.handler.timer_calls), (3 * BATCH + 1, 4));
    }

    #[test]
    fn verdict_decides_about_the_frame_and_the_outbox_is_sent_after_it() {
        let mut worker = Worker::new(Script::default(), Memory::new());
        for kind in [FORWARD, CONSUME, DROP, REPLY] {
            worker.io_mut().push(Side::Client, &[kind]);
        }
        worker.turn(&TestClock::default());
        assert_eq!(worker.io_mut().pop(Side::Server).unwrap(), [FORWARD]);
        assert_eq!(worker.io_mut().pop(Side::Server).unwrap(), [REPLY]);
        assert_eq!(worker.io_mut().pop(Side::Server).unwrap(), b"after");
        assert_eq!(worker.io_mut().pop(Side::Server), None);
        assert_eq!(worker.io_mut().pop(Side::Client).unwrap(), b"reply");
        assert_eq!(worker.io_mut().pop(Side::Client), None);
    }

    #[test]
    fn sleep_ends_with_the_next_timer_and_more_timers_forbid_it() {
        let clock = TestClock::default();
        let due = clock.now().after(Duration::from_millis(7));
        let mut worker = Worker::new(Script { next_timer: Some(due), ..Script::default() }, Memory::new());
        worker.turn(&clock);
        assert_eq!(worker.sleep, Duration::from_millis(7));
        clock.0.set(due.after(Duration::from_millis(1)));
        worker.turn(&clock);
        assert_eq!(worker.sleep, Duration::ZERO, "an overdue timer");
        worker.handler = Script { more_timers: true, ..Script::default() };
        worker.turn(&clock);
        assert_eq!(worker.sleep, Duration::ZERO, "more timers");
    }

    #[test]
    fn timers_send_too() {
        let mut worker = Worker::new(Script { timer_sends: true, ..Script::default() }, Memory::new());
        worker.turn(&TestClock::default());
        assert_eq!(worker.io_mut().pop(Side::Client).unwrap(), b"timer");
    }

    #[test]
    fn thread_is_named_pinned_and_stops_when_told() {
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, told) = std::sync::mpsc::channel();
        let io = Spy(Some(tell));
        let worker =
            spawn(7, Some(0), Script::default(), io, super::super::MonotonicClock::new(), stop.clone())
                .unwrap();
        let (name, cores) = told.recv().unwrap();
        assert_eq!((name.as_str(), cores), ("synwall-7", vec![0]));
        stop.store(true, Ordering::Relaxed);
        worker.join().unwrap();
    }

    #[test]
    fn panic_reaches_whoever_joins() {
        let mut io = Memory::new();
        io.push(Side::Client, &[PANIC]);
        let stop = Arc::new(AtomicBool::new(false));
        let worker =
            spawn(0, None, Script::default(), io, super::super::MonotonicClock::new(), stop).unwrap();
        assert!(worker.join().is_err());
    }

    const FORWARD: u8 = 0;
    const CONSUME: u8 = 1;
    const DROP: u8 = 2;
    const REPLY: u8 = 3;
    const PANIC: u8 = 4;

    /// Does what the first octet of each frame says.
    #[derive(Default)]
    struct Script {
        frames: usize,
        timer_calls: usize,
        timer_sends: bool,
        more_timers: bool,
        next_timer: Option<Instant>,
    }

    impl Handler for Script {
        fn handle_frame(
            &mut self,
            _now: Instant,
            side: Side,
            frame: &mut FrameBuf,
            out: &mut Outbox,
        ) -> Verdict {
            self.frames += 1;
            match frame.bytes()[0] {
                FORWARD => Verdict::Forward,
                CONSUME => Verdict::Consume,
                DROP => Verdict::Drop(DropReason::Malformed),
                REPLY => {
                    push(out, side, b"reply");
                    push(out, side.peer(), b"after");
                    Verdict::Forward
                }
                PANIC => panic!("as told"),
                other => unreachable!("no such kind {other}"),
            }
        }

        fn handle_timers(&mut self, _now: Instant, out: &mut Outbox) -> bool {
            self.timer_calls += 1;
            if self.timer_sends {
                push(out, Side::Client, b"timer");
            }
            self.more_timers
        }

        fn next_timer(&self) -> Option<Instant> {
            self.next_timer
        }
    }

    fn push(out: &mut Outbox, side: Side, bytes: &[u8]) {
        out.push(side, bytes.len(), |room| {
            room.copy_from_slice(bytes);
            bytes.len()
        });
    }

    struct TestClock(Cell<Instant>);

    impl Default for TestClock {
        fn default() -> TestClock {
            TestClock(Cell::new(Instant::from_nanos(1_000_000_000)))
        }
    }

    impl Clock for TestClock {
        fn now(&self) -> Instant {
            self.0.get()
        }
    }

    /// Ports without frames that tell, once, on which thread and cores they are waited for.
    struct Spy(Option<std::sync::mpsc::Sender<(String, Vec<usize>)>>);

    impl FrameIo for Spy {
        fn receive(&mut self, _side: Side, _frame: &mut FrameBuf) -> Received {
            Received::Empty
        }

        fn send(&mut self, _side: Side, _frame: crate::wire::buffer::FrameRef<'_>) {}

        fn flush(&mut self) {}

        fn wait(&mut self, _timeout: Duration) {
            let Some(tell) = self.0.take() else { return std::thread::yield_now() };
            let cores = nix::sched::sched_getaffinity(Pid::from_raw(0)).unwrap();
            let cores = (0..CpuSet::count()).filter(|core| cores.is_set(*core).unwrap()).collect();
            tell.send((std::thread::current().name().unwrap().to_owned(), cores)).unwrap();
        }
    }
}
