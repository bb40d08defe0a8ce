//! Plays a script to the engine, and says where they differ.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use synwall::engine::policy::{Limits, Prefix, Service};
use synwall::engine::{DropReason, Side, Verdict};

use super::parse::{self, End, Event, Script, Step};
use super::segment::{Base, Bases, Segment};
use crate::lab::{ACK, CLIENT_ISS, Lab, SERVER_ISS, SYN, parse as layout};

/// Plays `script` over both families, or over the one that it names.
pub fn play(script: &Script) -> Result<(), String> {
    let named = |name: &str| script.settings.iter().any(|(_, words)| words == &[name]);
    if !named("--ipv6") {
        Player::new(script, false, 0)?.play(script)?;
    }
    if !named("--ipv4") {
        let mss_shift = if named("--ipv6") { 0 } else { HEADER_DIFFERENCE };
        let played = Player::new(script, true, mss_shift).and_then(|player| player.play(script));
        return played.map_err(|fault| format!("{fault}\n  over IPv6"));
    }
    Ok(())
}

struct Player {
    lab: Lab,
    /// Connection `n` at `n - 1`.
    connections: Vec<Connection>,
    /// What came out and no line has spoken of yet.
    pending: VecDeque<(Side, Vec<u8>)>,
    mss_shift: u16,
}

/// Where a connection's numbers begin.
#[derive(Clone, Copy)]
struct Connection {
    port: u16,
    client: Base,
    server: Base,
    /// Where the server's numbers begin for the client: known once it has been sent a SYN.
    told: Option<Base>,
}

impl Connection {
    /// Near the wrap, and no two connections near each other.
    fn new(number: usize) -> Connection {
        let apart = (number as u32).wrapping_sub(1) << 28;
        let base = |iss: u32, ts| Base { iss: iss.wrapping_add(apart), ts };
        Connection {
            port: 40_000,
            client: base(CLIENT_ISS, 0xffff_fffd),
            server: base(SERVER_ISS, 0xffff_fff0),
            told: None,
        }
    }

    /// Where the numbers of `sender` begin for those on the side `view`.
    fn base(&self, view: Side, sender: Side) -> Option<Base> {
        match (view, sender) {
            (_, Side::Client) => Some(self.client),
            (Side::Client, Side::Server) => self.told,
            (Side::Server, Side::Server) => Some(self.server),
        }
    }

    /// The bases of what `sender` sends, on the side `view`.
    fn bases(&self, view: Side, sender: Side) -> Bases {
        Bases {
            sender: self.base(view, sender).unwrap_or_default(),
            receiver: self.base(view, sender.peer()).unwrap_or_default(),
        }
    }
}

impl Player {
    fn new(script: &Script, v6: bool, mss_shift: u16) -> Result<Player, String> {
        let mut fault = None;
        let mut lab = Lab::with(|service, limits| {
            if v6 {
                service.prefix = Prefix::host("2001:db8:255::2".parse().unwrap());
            }
            let mut settings = script.settings.iter();
            fault = settings.find_map(|(place, words)| {
                setting(words, service, limits).err().map(|what| place.fault(what))
            });
        });
        lab.v6 = v6;
        for (place, words) in &script.settings {
            if let Some(tags) = words.strip_prefix(&["--tags".to_owned()]) {
                lab.tags = parse::hex(&tags.concat()).map_err(|what| place.fault(what))?;
            }
        }
        let player = Player { lab, connections: Vec::new(), pending: VecDeque::new(), mss_shift };
        fault.map_or(Ok(player), Err)
    }

    fn play(mut self, script: &Script) -> Result<(), String> {
        for step in &script.steps {
            self.step(step).map_err(|what| step.place.fault(what))?;
        }
        let Some(last) = script.steps.last() else { return Ok(()) };
        let stated = self.expect_counters(&BTreeMap::new());
        stated.map_err(|what| last.place.fault(format_args!("not stated at the end: {what}")))
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        if let Event::Receive(end, segment) = &step.event {
            self.wait_for_output(step.after)?;
            return self.receive(*end, segment);
        }
        self.expect_silence()?;
        self.advance(step.after);
        self.expect_silence()?;
        match &step.event {
            Event::Send(end, segment, reason) => self.send(*end, segment, *reason),
            Event::Receive(..) | Event::Wait => Ok(()),
            Event::Cross(end, segment) => self.cross(*end, segment),
            Event::Counters(expected) => self.expect_counters(expected),
            Event::LookAway => {
                self.lab.moved();
                Ok(())
            }
            Event::Rotate => {
                self.lab.rotate();
                Ok(())
            }
            Event::Mode(mode) => {
                self.lab.set_policy(|service, _| service.mode = *mode);
                Ok(())
            }
            Event::Connection { number, iss, port } => self.define(*number, *iss, *port),
            Event::Empty => self.expect_empty(),
        }
    }

    /// Lets `time` pass; what comes out must come at its end, as nearly as timers fire.
    fn wait_for_output(&mut self, time: Duration) -> Result<(), String> {
        if time.is_zero() {
            return Ok(());
        }
        self.expect_silence()?;
        self.advance(time.saturating_sub(MILLISECOND));
        self.expect_silence().map_err(|what| format!("too early: {what}"))?;
        let end = self.lab.now.after(LATENESS);
        while self.pending.is_empty() && self.lab.now < end {
            self.advance(MILLISECOND);
        }
        Ok(())
    }

    fn advance(&mut self, time: Duration) {
        self.lab.advance(time);
        self.pending.extend(self.lab.outcome());
    }

    fn send(&mut self, end: End, segment: &Segment, reason: Option<DropReason>) -> Result<(), String> {
        let frame = self.frame(end, segment)?;
        let verdict = self.lab.inject(end.side, &frame);
        self.pending.extend(self.lab.outcome());
        match (verdict, reason) {
            (Verdict::Drop(actual), Some(expected)) if actual == expected => Ok(()),
            (Verdict::Forward | Verdict::Consume, None) => Ok(()),
            (Verdict::Drop(actual), _) => Err(format!("dropped: {}", actual.label())),
            (_, Some(expected)) => Err(format!("not dropped, but expected to be: {}", expected.label())),
        }
    }

    fn cross(&mut self, end: End, segment: &Segment) -> Result<(), String> {
        self.send(end, segment, None)?;
        let frame = self.frame(end, segment)?;
        let sent = Segment::of(&frame, self.connection(end)?.bases(end.side, end.side), self.mss_shift);
        self.receive(end.peer(), &sent)
    }

    /// The frame of a segment that `end` sends.
    fn frame(&mut self, end: End, segment: &Segment) -> Result<Vec<u8>, String> {
        let connection = *self.connection(end)?;
        if end.side == Side::Client && connection.told.is_none() && segment.flags & ACK != 0 {
            return Err(format!("{end} has not been sent a SYN that it could acknowledge"));
        }
        let payload = payload(end, segment);
        let bases = connection.bases(end.side, end.side);
        let sent = segment.absolute(bases, self.mss_shift, &payload).port(connection.port);
        Ok(self.lab.frame(end.side, &sent))
    }

    /// Asserts that what came out next is `segment`, sent to `end`.
    fn receive(&mut self, end: End, segment: &Segment) -> Result<(), String> {
        let expected = segment.read_back();
        let Some((side, frame)) = self.pending.pop_front() else {
            return Err(format!("nothing came out, but expected was\n    {end} < {expected}"));
        };
        if side == end.side && expected.has(SYN) {
            self.note_told(end, &frame, &expected)?;
        }
        let bases = self.connection(end)?.bases(end.side, end.side.peer());
        let actual = Segment::of(&frame, bases, self.mss_shift);
        if side != end.side || actual != expected {
            let came = self.print(side, &frame, Some(end.connection));
            return Err(format!("came out\n    {came}\n  expected was\n    {end} < {expected}"));
        }
        let at = layout(&frame);
        if frame[at.payload..at.end] != payload(end.peer(), &expected) {
            return Err(format!("other octets than {} sent: {end} < {expected}", end.peer()));
        }
        if frame.get(12..12 + self.lab.tags.len()) != Some(&self.lab.tags) {
            return Err(format!("with other tags: {end} < {expected}"));
        }
        if port_of(&frame, side) != self.connection(end)?.port {
            return Err(format!("on another port: {end} < {expected}"));
        }
        Ok(())
    }

    /// The first SYN that the client is sent tells it where the server's numbers begin.
    fn note_told(&mut self, end: End, frame: &[u8], expected: &Segment) -> Result<(), String> {
        if end.side != Side::Client || self.connection(end)?.told.is_some() {
            return Ok(());
        }
        let told = first_base(frame, expected.seq, expected.tsval().unwrap_or(0));
        let is_known = |other: &Connection| other.told.is_some_and(|base| base.iss == told.iss);
        if let Some(earlier) = self.connections.iter().position(is_known) {
            return Err(format!("{end} was told the same number as in connection {}", earlier + 1));
        }
        self.connection(end)?.told = Some(told);
        Ok(())
    }

    fn connection(&mut self, end: End) -> Result<&mut Connection, String> {
        if end.connection == 0 {
            return Err("connections count from 1".into());
        }
        while self.connections.len() < end.connection {
            self.connections.push(Connection::new(self.connections.len() + 1));
        }
        Ok(&mut self.connections[end.connection - 1])
    }

    fn define(&mut self, number: usize, iss: Option<i32>, port: Option<u16>) -> Result<(), String> {
        let first = self.connection(End { side: Side::Client, connection: 1 })?.client.iss;
        let connection = self.connection(End { side: Side::Client, connection: number })?;
        if let Some(offset) = iss {
            connection.client.iss = first.wrapping_add_signed(offset);
        }
        connection.port = port.unwrap_or(connection.port);
        Ok(())
    }

    fn expect_silence(&mut self) -> Result<(), String> {
        match self.pending.pop_front() {
            None => Ok(()),
            Some((side, frame)) => {
                Err(format!("before this line came out\n    {}", self.print(side, &frame, None)))
            }
        }
    }

    fn expect_counters(&mut self, expected: &BTreeMap<String, i64>) -> Result<(), String> {
        let moved = self.lab.moved();
        let line = |counters: &BTreeMap<String, i64>| {
            let entries: Vec<String> =
                counters.iter().map(|(name, change)| format!("{name} {change:+}")).collect();
            format!("    counters {{ {} }}", entries.join(", ")).replace("{  }", "{ }")
        };
        match moved == *expected {
            true => Ok(()),
            false => Err(format!("moved have\n{}\n  expected was\n{}", line(&moved), line(expected))),
        }
    }

    fn expect_empty(&mut self) -> Result<(), String> {
        let snapshot = self.lab.snapshot();
        let mut left: Vec<String> = Vec::new();
        for (state, count) in snapshot.flows.iter().filter(|(_, count)| *count != 0) {
            left.push(format!("{count} in {state}"));
        }
        if snapshot.early_data_octets != 0 {
            left.push(format!("{} octets of early data", snapshot.early_data_octets));
        }
        if left.is_empty() { Ok(()) } else { Err(format!("left behind: {}", left.join(", "))) }
    }

    /// The frame as a line of a script, in the numbers of the connection that it seems to be of.
    fn print(&self, side: Side, frame: &[u8], likely: Option<usize>) -> String {
        let read = |connection: &Connection| {
            // To a client that has been told nothing yet a SYN is the beginning.
            let told = || has_syn(frame).then(|| first_base(frame, 0, 0));
            let connection = Connection { told: connection.told.or_else(told), ..*connection };
            Segment::of(frame, connection.bases(side, side.peer()), self.mss_shift)
        };
        let is_near = |connection: &Connection| {
            let segment = read(connection);
            port_of(frame, side) == connection.port && segment.seq.abs() < NEAR && segment.ack.abs() < NEAR
        };
        let numbers = likely.into_iter().chain(1..=self.connections.len());
        let mut known = numbers.filter_map(|number| Some((number, self.connections.get(number - 1)?)));
        match known.find(|(_, connection)| is_near(connection)) {
            Some((number, connection)) => {
                format!("{} < {}", End { side, connection: number }, read(connection))
            }
            None => {
                let segment = Segment::of(frame, Bases::default(), self.mss_shift);
                format!("{} < {segment} (of no connection known)", End { side, connection: 1 })
            }
        }
    }
}

/// Where the numbers of its sender begin, if the frame has `seq` and `tsval` of them.
fn first_base(frame: &[u8], seq: i32, tsval: i32) -> Base {
    let raw = Segment::of(frame, Bases::default(), 0);
    let base = |number: i32, offset: i32| number.wrapping_sub(offset) as u32;
    Base { iss: base(raw.seq, seq), ts: base(raw.tsval().unwrap_or(0), tsval) }
}

/// What a segment of `end` carries: each octet tells its place in its connection.
fn payload(end: End, segment: &Segment) -> Vec<u8> {
    let octet = |at: i64| {
        let octet = (at + 100 * end.connection as i64).rem_euclid(251) as u8;
        if end.side == Side::Client { octet } else { !octet }
    };
    (0..i64::from(segment.len)).map(|offset| octet(i64::from(segment.seq) + offset)).collect()
}

fn has_syn(frame: &[u8]) -> bool {
    Segment::of(frame, Bases::default(), 0).has(SYN)
}

/// The client's port of a frame on the side `side`, on its way to that end.
fn port_of(frame: &[u8], side: Side) -> u16 {
    let at = layout(frame).tcp + if side == Side::Client { 2 } else { 0 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

fn setting(words: &[String], service: &mut Service, limits: &mut Limits) -> Result<(), String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--ipv4"] | ["--ipv6"] | ["--tags", ..] => {}
        ["--mode", name] => service.mode = parse::mode(name)?,
        ["--early-data", octets] => service.early_data = parse::number(octets)?,
        ["--second-syn"] => service.second_syn = true,
        ["--require-timestamps"] => service.require_timestamps = true,
        ["--max-half-open", count] => service.max_half_open = parse::number(count)?,
        ["--max-flows", count] => limits.max_flows = parse::number(count)?,
        ["--server-mss", mss] => service.server.mss = Some(parse::number(mss)?),
        ["--server-wscale", "none"] => service.server.wscale = None,
        ["--server-wscale", scale] => service.server.wscale = Some(parse::number(scale)?),
        ["--server-without", "sack"] => service.server.sack = false,
        ["--server-without", "timestamps"] => service.server.timestamps = false,
        _ => return Err(format!("no setting: {}", words.join(" "))),
    }
    Ok(())
}

/// By so much an MSS is smaller over IPv6: its header is longer.
const HEADER_DIFFERENCE: u16 = 20;
/// Timers fire at the next tick of the wheel.
const LATENESS: Duration = Duration::from_millis(20);
const MILLISECOND: Duration = Duration::from_millis(1);
/// Numbers so near to where a connection began are printed as its own.
const NEAR: i32 = 1 << 26;
