//! A world: clients, servers, the links between them and the middle, until everything is quiet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use synwall::engine::fast::Promises;
use synwall::engine::{Side, Snapshot};
use synwall::time::Instant;
use synwall::wire::pretty::Pretty;
use synwall::wire::tcp::Segment;

use super::app::App;
use super::attack::Actor;
use super::connection::{Cause, Connection};
use super::grid::{self, Close, Plan, Stack};
use super::host::Host;
use super::listener::Listener;
use super::middle::{Departure, Middle};
use super::network::{Event, Frame, Link, Queue};
use super::packet::{RST, Socket, sockets, valid};
use super::random::Random;
use super::smol::Smol;
use super::tcp::Tcp;

/// What came of a world.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Connections that were tried.
    pub tried: u64,
    /// Connections whose client saw the handshake complete.
    pub opened: u64,
    /// Connections that went as planned to their end.
    pub completed: u64,
    /// Connections that their client forgot, which are not among those.
    pub forgotten: u64,
    /// Frames that an honest router found too big, and that one marked.
    pub too_big: u64,
    pub marked: u64,
    /// Of those, the ones that moved at least 10,000 octets each way.
    pub transfers: u64,
    /// Frames that hosts and the middle sent.
    pub frames: u64,
    /// How many frames the worst of the links lost, of a million.
    pub loss: u64,
    /// Whatever must not happen.
    pub violations: Vec<String>,
    /// Connections that did not complete.
    pub failures: Vec<Failure>,
    /// What is said in the server's name at the end.
    pub promises: Option<Promises>,
    /// The engine's counters at the end.
    pub snapshot: Option<Snapshot>,
}

/// A connection that did not complete.
#[derive(Debug)]
pub struct Failure {
    pub cause: Option<Cause>,
    /// Which, and how far it came.
    pub story: String,
}

/// Runs a world with the engine in the middle, or with a plain wire; `trace` prints the packets of the connection with
/// that number, or of all.
pub fn run(plan: &grid::World, with_engine: bool, trace: Option<Option<usize>>) -> Outcome {
    let mut world = World::new(plan, with_engine, trace);
    world.run_until_quiet();
    world.conclude()
}

pub(super) struct World<'a> {
    pub(super) plan: &'a grid::World,
    pub(super) now: Instant,
    pub(super) queue: Queue,
    pub(super) random: Random,
    pub(super) middle: Option<Middle>,
    /// Towards and from the middle, by side.
    pub(super) links: [[Link; 2]; 2],
    pub(super) connections: Vec<Connection>,
    pub(super) frames: u64,
    pub(super) violations: Vec<String>,
    pub(super) trace: Option<Option<usize>>,
    pub(super) actors: Vec<Actor>,
    pub(super) listener: Listener,
    pub(super) sockets: Vec<Socket>,
    /// What an attacker may have guessed of the connections.
    pub(super) seen: Vec<[Option<(u32, u32)>; 2]>,
    /// Frames that were longer than the link of an honest router.
    pub(super) too_big: u64,
}

impl<'a> World<'a> {
    fn new(plan: &'a grid::World, with_engine: bool, trace: Option<Option<usize>>) -> World<'a> {
        let start = START;
        let mut world = World {
            plan,
            now: start,
            queue: Queue::default(),
            random: Random::new(plan.seed ^ 0xabcd_ef01 ^ (plan.dice << 40)),
            middle: with_engine.then(|| Middle::new(start, server(plan.v6).0, plan)),
            links: Default::default(),
            connections: Vec::new(),
            frames: 0,
            violations: Vec::new(),
            trace,
            // On the wire there is peace: that is what synwall has to come up to.
            actors: plan.extra.attacks.iter().filter(|_| with_engine).cloned().map(Actor::new).collect(),
            listener: Listener::new(
                plan.extra.server,
                server(plan.v6),
                plan.extra.treatment,
                plan.extra.backlog,
            ),
            sockets: (0..plan.plans.len()).map(|number| client(number, plan)).collect(),
            seen: vec![[None; 2]; plan.plans.len()],
            too_big: 0,
        };
        world.schedule(start);
        for (number, connection) in plan.plans.iter().enumerate() {
            world.queue.push(start.after(connection.start), Event::Open(number));
            let unique = plan.seed * 64 + number as u64;
            world.connections.push(Connection::new(connection, unique));
        }
        world
    }

    fn schedule(&mut self, start: Instant) {
        let extra = &self.plan.extra;
        for (number, attack) in self.actors.iter().map(Actor::attack).enumerate() {
            self.queue.push(start.after(attack.start), Event::Attack(number));
        }
        extra.reloads.iter().for_each(|at| self.queue.push(start.after(*at), Event::Reload));
        extra
            .reboots
            .iter()
            .for_each(|(at, number)| self.queue.push(start.after(*at), Event::Reboot(*number)));
        extra.restarts.iter().for_each(|at| self.queue.push(start.after(*at), Event::Restart));
    }

    fn run_until_quiet(&mut self) {
        let last = self.now.after(LONGEST);
        loop {
            let timer = self.middle.as_ref().and_then(Middle::next_timer);
            let next = match (self.queue.next(), timer) {
                (Some(event), Some(timer)) => event.min(timer),
                (Some(at), None) | (None, Some(at)) => at,
                (None, None) => return,
            };
            if next > last {
                self.violations.push("the world does not become quiet".into());
                return;
            }
            self.now = self.now.max(next);
            if timer.is_some_and(|timer| timer <= self.now) {
                let done = self.middle.as_mut().map(|middle| middle.handle_timers(self.now));
                self.depart(done);
            } else if let Some((_, event)) = self.queue.pop() {
                self.handle(event);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Middle(side, frame) => match &mut self.middle {
                Some(middle) => {
                    let done = middle.handle(self.now, side, &frame);
                    self.depart(Some(done));
                }
                None => self.depart(Some((vec![(side.peer(), frame)], None))),
            },
            Event::Host(side, frame) => self.arrive(side, &frame),
            Event::Wake(number, side) => {
                if self.connections[number].woken[side.index()] == Some(self.now) {
                    self.connections[number].woken[side.index()] = None;
                    self.touch(number, side);
                }
            }
            Event::Open(number) => self.open(number),
            Event::Attack(number) => self.attack(number),
            Event::WakeStranger(from) => {
                let reaction = self.listener.wake(self.now, from);
                self.react(from, reaction);
            }
            Event::Reboot(number) => self.reboot(number),
            Event::Reload => _ = self.middle.as_mut().map(Middle::reload),
            Event::Restart => _ = self.middle.as_mut().map(|middle| middle.restart(self.now)),
        }
    }

    fn depart(&mut self, done: Option<(Vec<Departure>, Option<String>)>) {
        let Some((departures, wrong)) = done else { return };
        self.violations.extend(wrong);
        for (side, frame) in departures {
            self.transmit(1, side, frame);
        }
    }

    /// Puts a frame on the link of `side`, towards the middle (0) or away from it (1).
    fn transmit(&mut self, away: usize, side: Side, mut frame: Frame) {
        self.frames += 1;
        if self.is_too_big(away, side, &frame) {
            self.print(away, side, &frame, " [too big]", None);
            return;
        }
        let number = number_of(side, away, &frame.octets);
        let network = self.plan.network.of_link(away, side);
        let fate = self.links[away][side.index()].carry(self.now, &network, &mut self.random, &mut frame);
        self.print(away, side, &frame, fate.word, fate.flipped);
        if fate.arrivals.is_empty() || fate.flipped.is_some() {
            number.and_then(|number| self.connections.get_mut(number)).map(Connection::note_loss);
        }
        if let Some(latest) = fate.arrivals.iter().max()
            && (away, side) == (1, Side::Server)
            && !frame.is_as_sent
            && is_reset(&frame.octets)
            && let Some(connection) = number.and_then(|number| self.connections.get_mut(number))
        {
            connection.note_reset(latest.since(self.now));
        }
        for at in fate.arrivals {
            let copy = frame.clone();
            let event = if away == 1 { Event::Host(side, copy) } else { Event::Middle(side, copy) };
            self.queue.push(at, event);
        }
    }

    pub(super) fn start(&self) -> Instant {
        START
    }

    pub(super) fn server(&self) -> Socket {
        server(self.plan.v6)
    }

    pub(super) fn print(&self, away: usize, side: Side, frame: &Frame, word: &str, flipped: Option<usize>) {
        let Some(wanted) = self.trace else { return };
        let number = number_of(side, away, &frame.octets);
        if wanted.is_some_and(|wanted| number != Some(wanted)) {
            return;
        }
        let name = match (side, away) {
            (Side::Client, 0) => "client >        ",
            (Side::Client, _) => "client <        ",
            (Side::Server, 0) => "        < server",
            (Side::Server, _) => "        > server",
        };
        let at = self.now.as_nanos() as f64 / 1e9;
        let number = number.map_or(String::from("?"), |number| number.to_string());
        let flipped = flipped.map_or(String::new(), |at| format!(" (octet {at})"));
        println!("  +{at:.6} {number:>2} {name} {}{word}{flipped}", Pretty(&frame.octets));
    }

    /// A host discards what its checksums do not cover.
    fn arrive(&mut self, side: Side, frame: &Frame) {
        let Some(layout) = valid(&frame.octets) else { return self.hear(side, frame) };
        let (from, to) = sockets(&frame.octets, layout);
        let theirs = if side == Side::Client { to } else { from };
        let Some(number) = self.sockets.iter().position(|socket| *socket == theirs) else {
            return self.arrive_at_stranger(side, frame, from, to);
        };
        if side == Side::Server && self.overflows(number, frame, layout) {
            return;
        }
        let mut out = Vec::new();
        if let Some(hosts) = &mut self.connections[number].hosts {
            let host = &mut hosts[side.index()];
            host.receive(self.now, &frame.octets, &mut out);
            // What crosses as it was sent is the ends' own affair, as long as they discard what is not theirs.
            if let Some(foreign) = host.foreign().filter(|foreign| foreign.is_taken || !frame.is_as_sent) {
                self.violations.push(format!("connection {number}: {side:?}: {}", foreign.what));
            }
        }
        self.emit(side, out);
        self.touch(number, side);
    }

    pub(super) fn emit(&mut self, side: Side, frames: Vec<Vec<u8>>) {
        for octets in frames {
            self.note_numbers(side, &octets);
            self.transmit(0, side, Frame::sent(octets));
        }
    }

    /// Lets application and TCP of one end do what they can.
    pub(super) fn touch(&mut self, number: usize, side: Side) {
        let now = self.now;
        let connection = &mut self.connections[number];
        if side == Side::Server {
            connection.follow_server();
        }
        let Some(hosts) = &mut connection.hosts else { return };
        let (host, app) = (&mut hosts[side.index()], &mut connection.apps[side.index()]);
        let mut out = Vec::new();
        for _ in 0..ROUNDS {
            let is_busy = app.step(now, &connection.plan, connection.close_at, host.as_mut());
            host.poll(now, &mut out);
            if !is_busy {
                break;
            }
        }
        app.note_end(host.as_ref());
        let wrong = app.wrong.take();
        self.violations.extend(wrong.map(|wrong| format!("connection {number}: {side:?}: {wrong}")));
        connection.note_progress();
        self.arm(number, side);
        self.emit(side, out);
        self.may_reopen(number);
    }

    /// Asks to be called when TCP or application next want to do something.
    fn arm(&mut self, number: usize, side: Side) {
        let connection = &mut self.connections[number];
        let Some(hosts) = &connection.hosts else { return };
        let app = &connection.apps[side.index()];
        let doze = app.opened.map(|opened| opened.after(connection.plan.dozes[side.index()]));
        let closing = (connection.plan.close == Close::Both).then_some(connection.close_at);
        let own = [doze, closing].into_iter().flatten().filter(|at| *at > self.now);
        let deadline = hosts[side.index()].deadline().map(|at| at.max(self.now.after(GRAIN)));
        let Some(at) = own.chain(deadline).min() else { return };
        if connection.woken[side.index()].is_none_or(|woken| at < woken) {
            connection.woken[side.index()] = Some(at);
            self.queue.push(at, Event::Wake(number, side));
        }
    }

    fn may_reopen(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        let client = &connection.apps[0];
        let is_over = client.end.is_some() && !client.is_dozing(self.now, &connection.plan);
        let has_more = connection.issues.len() < connection.plan.generations as usize;
        if is_over && has_more && !connection.is_reopening {
            connection.is_reopening = true;
            self.queue.push(self.now.after(connection.plan.pause), Event::Open(number));
        }
    }

    /// The client opens its first connection, or the next one on the same tuple.
    fn open(&mut self, number: usize) {
        let (now, v6) = (self.now, self.plan.v6);
        let connection = &mut self.connections[number];
        let plan = &connection.plan;
        match &mut connection.hosts {
            None => {
                let (client, server) = (self.sockets[number], server(v6));
                connection.hosts = Some([
                    host(now, plan, Side::Client, client, server),
                    host(now, plan, Side::Server, server, client),
                ]);
            }
            Some(hosts) => {
                hosts[0].reopen(now, plan.advance);
                let next = App::new(Side::Client, connection.issues.len(), connection.number);
                connection.past.push(std::mem::replace(&mut connection.apps[0], next));
                connection.is_reopening = false;
            }
        }
        connection.close_at = now.after(connection.plan.close_after);
        let iss = connection.hosts.as_ref().and_then(|hosts| hosts[0].client_iss());
        connection.issues.extend(iss);
        connection.begin();
        self.touch(number, Side::Client);
    }

    fn conclude(self) -> Outcome {
        let slowed = self.slowed();
        let loss = self.links.iter().flatten().map(Link::loss).max().unwrap_or(0);
        let marked = self.links.iter().flatten().map(Link::marked).sum();
        let mut outcome = Outcome { frames: self.frames, loss, marked, ..Outcome::default() };
        (outcome.too_big, outcome.violations) = (self.too_big, self.violations);
        outcome.violations.extend(slowed);
        outcome.violations.extend(self.middle.as_ref().and_then(Middle::leftovers));
        outcome.snapshot = self.middle.as_ref().map(Middle::snapshot);
        outcome.promises = self.middle.as_ref().map(|middle| middle.promises(self.now));
        for (number, connection) in self.connections.iter().enumerate() {
            for generation in 0..connection.issues.len() {
                if connection.forgotten.contains(&generation) {
                    outcome.forgotten += 1;
                    continue;
                }
                outcome.tried += 1;
                let mut clients = connection.ends(Side::Client, generation);
                outcome.opened += u64::from(clients.any(|app| app.opened.is_some()));
                if connection.is_complete(generation) {
                    outcome.completed += 1;
                    let is_large = connection.plan.sends.iter().all(|octets| *octets >= 10_000);
                    outcome.transfers += u64::from(is_large && !resets(&connection.plan));
                } else {
                    let ends: Vec<_> = Side::ALL
                        .iter()
                        .flat_map(|side| connection.ends(*side, generation))
                        .map(|app| (app.opened.is_some(), app.received, app.end))
                        .collect();
                    let story = format!("connection {number}.{generation}: {ends:?} {:?}", connection.plan);
                    outcome.failures.push(Failure { cause: connection.cause(generation), story });
                }
            }
            if connection.is_stuck() {
                outcome.violations.push(format!("connection {number} is stuck: {:?}", connection.apps));
            }
        }
        outcome
    }
}

fn resets(plan: &Plan) -> bool {
    matches!(plan.close, Close::ResetByClient | Close::ResetByServer)
}

fn host(now: Instant, plan: &Plan, side: Side, local: Socket, remote: Socket) -> Box<dyn Host> {
    let settings = plan.settings[side.index()];
    match (plan.stacks[side.index()], side) {
        (Stack::Smoltcp, _) => Box::new(Smol::new(now, &settings, local, remote, side == Side::Server)),
        (Stack::Own, Side::Client) => Box::new(Tcp::connect(settings, local, remote)),
        (Stack::Own, Side::Server) => Box::new(Tcp::listen(settings, local, remote)),
    }
}

fn server(v6: bool) -> Socket {
    match v6 {
        false => (Ipv4Addr::new(198, 18, 255, 2).into(), 80),
        true => (Ipv6Addr::new(0x2001, 0xdb8, 0x255, 0, 0, 0, 0, 2).into(), 80),
    }
}

fn client(number: usize, plan: &grid::World) -> Socket {
    let host = number as u16 + 1;
    let network = if plan.extra.is_spread { host } else { 0 };
    let address: IpAddr = match plan.v6 {
        false => Ipv4Addr::new(198, 18, network as u8, host as u8).into(),
        true => Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host).into(),
    };
    (address, FIRST_PORT + number as u16)
}

fn is_reset(octets: &[u8]) -> bool {
    valid(octets).is_some_and(|layout| Segment::new(octets, layout).flags().0 & RST != 0)
}

/// The connection that a frame belongs to, by the client's port.
fn number_of(side: Side, away: usize, octets: &[u8]) -> Option<usize> {
    let layout = match synwall::wire::frame::parse(octets) {
        synwall::wire::frame::Parsed::Tcp(layout) => layout,
        _ => return None,
    };
    let segment = Segment::new(octets, layout);
    let is_clients = (side == Side::Client) == (away == 0);
    let port = if is_clients { segment.source_port() } else { segment.destination_port() };
    usize::from(port).checked_sub(usize::from(FIRST_PORT))
}

/// When worlds begin.
const START: Instant = Instant::from_nanos(7_000_000_000);
const FIRST_PORT: u16 = 40_000;
/// How often application and TCP take turns at one moment.
const ROUNDS: usize = 64;
/// The least time between two looks at a host that always wants one.
const GRAIN: Duration = Duration::from_millis(1);
/// Longer than any timer of a host or the engine, one after the other.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
