//! A world: clients, servers, the links between them and the middle, until everything is quiet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use synwall::engine::{Side, Snapshot};
use synwall::time::Instant;
use synwall::wire::pretty::Pretty;
use synwall::wire::tcp::Segment;

use super::app::App;
use super::grid::{self, Close, Plan, Stack};
use super::host::{End, Host};
use super::middle::{Departure, Middle};
use super::network::{Event, Frame, Link, Queue};
use super::packet::{Socket, valid};
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
    /// Of those, the ones that moved at least 10,000 octets each way.
    pub transfers: u64,
    /// Frames that hosts and the middle sent.
    pub frames: u64,
    /// Whatever must not happen.
    pub violations: Vec<String>,
    /// Connections that did not complete, in words.
    pub failures: Vec<String>,
    /// The engine's counters at the end.
    pub snapshot: Option<Snapshot>,
}

/// Runs a world with the engine in the middle, or with a plain wire; `trace` prints the packets of the connection with
/// that number, or of all.
pub fn run(plan: &grid::World, with_engine: bool, trace: Option<Option<usize>>) -> Outcome {
    let mut world = World::new(plan, with_engine, trace);
    world.run_until_quiet();
    world.conclude()
}

struct World<'a> {
    plan: &'a grid::World,
    now: Instant,
    queue: Queue,
    random: Random,
    middle: Option<Middle>,
    /// Towards and from the middle, by side.
    links: [[Link; 2]; 2],
    connections: Vec<Connection>,
    frames: u64,
    violations: Vec<String>,
    trace: Option<Option<usize>>,
}

struct Connection {
    plan: Plan,
    number: u64,
    hosts: Option<[Box<dyn Host>; 2]>,
    apps: [App; 2],
    woken: [Option<Instant>; 2],
    close_at: Instant,
    /// The client's ISS of each generation.
    issues: Vec<u32>,
    is_reopening: bool,
    /// What became of each end of each generation that is past.
    past: Vec<App>,
}

impl Connection {
    fn new(plan: &Plan, number: u64) -> Connection {
        Connection {
            plan: plan.clone(),
            number,
            hosts: None,
            apps: [App::new(Side::Client, 0, number), App::new(Side::Server, 0, number)],
            woken: [None; 2],
            close_at: Instant::ZERO,
            issues: Vec::new(),
            is_reopening: false,
            past: Vec::new(),
        }
    }

    /// The server has accepted a connection: which of the client's is it.
    fn follow_server(&mut self) {
        let Some(hosts) = &self.hosts else { return };
        let Some(iss) = hosts[1].client_iss() else { return };
        let Some(generation) = self.issues.iter().position(|known| *known == iss) else { return };
        if generation != self.apps[1].generation {
            let next = App::new(Side::Server, generation, self.number);
            self.past.push(std::mem::replace(&mut self.apps[1], next));
        }
    }

    fn ends(&self, side: Side, generation: usize) -> impl Iterator<Item = &App> {
        let now = [&self.apps[side.index()]];
        let past = self.past.iter().filter(move |app| app.side() == side);
        past.chain(now).filter(move |app| app.generation == generation)
    }

    /// Whether the connection went as planned. One that the next on the tuple has cut off in its last moments did, and
    /// so did one that an end has left with RST and the other at the latest when nobody answered.
    fn is_complete(&self, generation: usize) -> bool {
        let is_last = generation + 1 == self.issues.len();
        let resets = matches!(self.plan.close, Close::ResetByClient | Close::ResetByServer);
        let client_opened = self.ends(Side::Client, generation).any(|app| app.opened.is_some());
        client_opened
            && Side::ALL.iter().all(|side| {
                let mut ends = self.ends(*side, generation).peekable();
                let never_was = ends.peek().is_none() && self.plan.close == Close::ResetByClient;
                never_was
                    || ends.any(|app| {
                        let is_over =
                            !is_last || matches!(app.end, Some(End::Closed)) || (resets && app.end.is_some());
                        let has_data = resets || app.has_all(&self.plan);
                        // A client may be gone before its server has heard of it.
                        let needs_no_server =
                            self.plan.close == Close::ResetByClient && *side == Side::Server;
                        (app.opened.is_some() && is_over && has_data)
                            || (app.opened.is_none() && needs_no_server)
                    })
            })
    }

    /// Whether an end waits for ever though neither gave up.
    fn is_stuck(&self) -> bool {
        let last = self.issues.len() - 1;
        let ends = |side| self.ends(side, last).map(|app| app.end).last().flatten();
        let (client, server) = (ends(Side::Client), ends(Side::Server));
        let server_is_in = self.ends(Side::Server, last).any(|app| app.opened.is_some());
        let gave_up = client == Some(End::TimedOut) || server == Some(End::TimedOut);
        !gave_up && (client.is_none() || (server_is_in && server.is_none()))
    }
}

impl<'a> World<'a> {
    fn new(plan: &'a grid::World, with_engine: bool, trace: Option<Option<usize>>) -> World<'a> {
        let start = Instant::from_nanos(7_000_000_000);
        let mut world = World {
            plan,
            now: start,
            queue: Queue::default(),
            random: Random::new(plan.seed ^ 0xabcd_ef01),
            middle: with_engine.then(|| Middle::new(start, server(plan.v6).0, plan)),
            links: Default::default(),
            connections: Vec::new(),
            frames: 0,
            violations: Vec::new(),
            trace,
        };
        for (number, connection) in plan.plans.iter().enumerate() {
            world.queue.push(start.after(connection.start), Event::Open(number));
            let unique = plan.seed * 64 + number as u64;
            world.connections.push(Connection::new(connection, unique));
        }
        world
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
        let fate =
            self.links[away][side.index()].carry(self.now, &self.plan.network, &mut self.random, &mut frame);
        self.print(away, side, &frame, fate.word, fate.flipped);
        for at in fate.arrivals {
            let copy = Frame { octets: frame.octets.clone(), is_corrupt: frame.is_corrupt };
            let event = if away == 1 { Event::Host(side, copy) } else { Event::Middle(side, copy) };
            self.queue.push(at, event);
        }
    }

    fn print(&self, away: usize, side: Side, frame: &Frame, word: &str, flipped: Option<usize>) {
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
        if valid(&frame.octets).is_none() {
            return;
        }
        let Some(number) =
            number_of(side, 1, &frame.octets).filter(|number| *number < self.connections.len())
        else {
            return;
        };
        let mut out = Vec::new();
        if let Some(hosts) = &mut self.connections[number].hosts {
            hosts[side.index()].receive(self.now, &frame.octets, &mut out);
        }
        self.emit(side, out);
        self.touch(number, side);
    }

    fn emit(&mut self, side: Side, frames: Vec<Vec<u8>>) {
        for octets in frames {
            self.transmit(0, side, Frame { octets, is_corrupt: false });
        }
    }

    /// Lets application and TCP of one end do what they can.
    fn touch(&mut self, number: usize, side: Side) {
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
        let wrong = app.wrong.take().into_iter().chain(host.violation());
        self.violations.extend(wrong.map(|wrong| format!("connection {number}: {side:?}: {wrong}")));
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
                let (client, server) = (client(number, v6), server(v6));
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
        self.touch(number, Side::Client);
    }

    fn conclude(self) -> Outcome {
        let mut outcome = Outcome { frames: self.frames, violations: self.violations, ..Outcome::default() };
        outcome.violations.extend(self.middle.as_ref().and_then(Middle::leftovers));
        outcome.snapshot = self.middle.as_ref().map(Middle::snapshot);
        for (number, connection) in self.connections.iter().enumerate() {
            for generation in 0..connection.issues.len() {
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
                    outcome
                        .failures
                        .push(format!("connection {number}.{generation}: {ends:?} {:?}", connection.plan));
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

fn client(number: usize, v6: bool) -> Socket {
    let host = number as u16 + 1;
    let address: IpAddr = match v6 {
        false => Ipv4Addr::new(198, 18, 0, host as u8).into(),
        true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).into(),
    };
    (address, FIRST_PORT + number as u16)
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

const FIRST_PORT: u16 = 40_000;
/// How often application and TCP take turns at one moment.
const ROUNDS: usize = 64;
/// The least time between two looks at a host that always wants one.
const GRAIN: Duration = Duration::from_millis(1);
/// Longer than any timer of a host or the engine, one after the other.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
