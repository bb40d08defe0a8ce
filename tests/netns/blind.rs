//! Segments of every kind in the name of either end of a hundred open transfers, ten thousand a second, by an attacker who
//! knows every tuple and, for half of the segments, nearly the numbers: no transfer notices.
//!
//! The attacker never has an exact RCV.NXT, nor an acknowledgement that its receiver would take: no TCP withstands one who knows
//! those (RFC 5961 §1.2). All that the ends send has an even length, and the attacker's numbers near theirs are odd ones.

use std::io::Result;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use synwall::wire::buffer::FrameBuf;

use crate::capture::Capture;
use crate::crowd::open_listener;
use crate::frames::{Ends, ICMP, ICMPV6, TCP, link, whole};
use crate::lab::{CONFIG, Lab, SERVER, eventually};
use crate::sender::{SERVER_MAC, send_as_attacker};
use crate::traffic::{address, open, patient, receive_hashed, send_pieces_while};

#[test]
fn blind_segments_of_every_kind_on_known_tuples_change_no_transfer() {
    let mut lab = Lab::up(&[]);
    lab.start(&config());
    let mut handshakes = Capture::start(&lab, "client");
    let pairs = connect_all(&lab);
    handshakes.end();
    let frames = handshakes.frames();
    let targets: Vec<_> = pairs.iter().map(|[client, _]| Arc::new(Target::of(client, &frames))).collect();
    assert_eq!(admitted(&lab), [CONNECTIONS / 2; 2], "half of them direct, half translated");

    let is_over = Arc::new(AtomicBool::new(false));
    let before = Counted::read(&lab);
    let transfers: Vec<_> = pairs
        .iter()
        .zip(&targets)
        .map(|(pair, target)| Transfer::start_both(pair, target, &is_over))
        .collect();
    attack(&lab, targets);
    before.assert_account_for(&lab, SEGMENTS);
    let ended = ["closed", "expired", "reclaimed"];
    let ended = ended.map(|how| lab.metric(&format!("synwall_flows_{how}_total"), ""));
    assert_eq!(
        (lab.metric("synwall_flows", "established"), ended),
        (CONNECTIONS, [0; 3]),
        "all of them are open"
    );

    is_over.store(true, Ordering::Relaxed);
    for (number, ends) in transfers.into_iter().enumerate() {
        let [client, server] = ends.map(|end| end.join().unwrap_or_else(|error| panic!("{number}: {error}")));
        assert_eq!((&client[0], &client[1]), (&server[1], &server[0]), "transfer {number}");
        assert!(client[0].0.min(server[0].0) > FEW, "{number}: {} and {}", client[0].0, server[0].0);
    }
    assert_eq!(admitted(&lab), [CONNECTIONS / 2; 2], "the attacker opened none");
    for end in ["client", "server"] {
        assert_eq!(lab.kernel_counter(end, "TcpEstabResets"), 0, "{end}");
    }
    lab.stop();
}

/// All of the segments, at their rate, from the attacker's port.
fn attack(lab: &Lab, targets: Vec<Arc<Target>>) {
    let attack = send_as_attacker(lab, move |port| {
        let (mut random, begun) = (Random(77), Instant::now());
        for first in (0..SEGMENTS).step_by(BURST as usize) {
            let due = Duration::from_nanos(first * 1_000_000_000 / RATE);
            thread::sleep(due.saturating_sub(begun.elapsed()));
            let burst: Vec<_> =
                (first..first + BURST).map(|number| forge(number, &targets, &mut random)).collect();
            port.send(&burst);
        }
    });
    attack.join().unwrap();
}

/// Ports 8000 to 8099 are never challenged for, whatever comes: every forged SYN reaches the server. Port 8100 always is.
fn config() -> String {
    let quiet = "mode = \"adaptive\"\nactivate_at = { half_open = 4_000_000, syn_rate = 100_000_000 }";
    let direct = CONFIG.replace("mode = \"always\"", &format!("{quiet}\nmax_half_open = 65_536"));
    let proxied = |host: &str| {
        let family = if host.contains(':') { "six" } else { "four" };
        format!(
            "\n[[service]]\nname = \"always-{family}\"\naddress = {host:?}\nports = [8100]\nmode = \"always\"\n"
        )
    };
    direct + &SERVER.map(proxied).concat()
}

/// The client's and the server's end of each connection: direct and translated ones, IPv4 and IPv6, by turns.
fn connect_all(lab: &Lab) -> Vec<[TcpStream; 2]> {
    let [four, six] = SERVER;
    let servers =
        [(four, 8000), (six, 8000), (four, 8100), (six, 8100)].map(|(host, port)| address(host, port));
    let listeners = servers.map(|server| lab.within("server", || open_listener(server)).unwrap());
    let connect = |number: usize| {
        let which = number % servers.len();
        let client = lab.within("client", || open(servers[which])).unwrap();
        [client, patient(listeners[which].accept().unwrap().0)]
    };
    (0..CONNECTIONS as usize).map(connect).collect()
}

/// How many connections have been direct, and how many translated.
fn admitted(lab: &Lab) -> [u64; 2] {
    ["direct", "proxied"].map(|kind| lab.metric("synwall_flows_admitted_total", kind))
}

/// What an attacker knows of a connection.
struct Target {
    /// Client and server.
    ends: [SocketAddr; 2],
    /// The ISS of each, as the client sees them.
    issues: [u32; 2],
    /// Octets that each has sent.
    written: [AtomicU64; 2],
}

impl Target {
    fn of(client: &TcpStream, frames: &[Vec<u8>]) -> Target {
        let ends = [client.local_addr().unwrap(), client.peer_addr().unwrap()];
        let issues = [0, 1].map(|end: usize| {
            let [from, to] = [ends[end], ends[1 - end]].map(|end| end.port());
            iss_of(frames, [from, to], ends[0].is_ipv4()).expect("its handshake was captured")
        });
        Target { ends, issues, written: Default::default() }
    }

    /// A number near the next that this end sends, and never one at which a segment of it begins or ends.
    fn near(&self, end: usize, random: &mut Random) -> u32 {
        let next =
            self.issues[end].wrapping_add(1).wrapping_add(self.written[end].load(Ordering::Relaxed) as u32);
        next.wrapping_add(random.below(2 * NEAR) as u32 | 1).wrapping_sub(NEAR as u32)
    }

    /// An acknowledgement of what this end will not have sent for long.
    fn beyond(&self, end: usize, random: &mut Random) -> u32 {
        self.issues[end].wrapping_add(1 << 30).wrapping_add(random.below(1 << 30) as u32)
    }
}

/// The ISS in the SYN from one of these ports to the other.
fn iss_of(frames: &[Vec<u8>], ports: [u16; 2], is_v4: bool) -> Option<u32> {
    let (kind, tcp) = if is_v4 { ([8, 0], 34) } else { ([0x86, 0xdd], 54) };
    let ports = ports.map(u16::to_be_bytes).concat();
    let is_it = |frame: &&Vec<u8>| {
        frame.len() >= tcp + 20
            && frame[12..14] == kind
            && frame[tcp..tcp + 4] == ports
            && frame[tcp + 13] & SYN != 0
    };
    let frame = frames.iter().find(is_it)?;
    Some(u32::from_be_bytes(frame[tcp + 4..tcp + 8].try_into().ok()?))
}

/// One end of a connection: it sends and receives until it is told to stop.
struct Transfer {
    sending: JoinHandle<Result<(u64, String)>>,
    receiving: JoinHandle<Result<(u64, String)>>,
}

impl Transfer {
    fn start_both(pair: &[TcpStream; 2], target: &Arc<Target>, is_over: &Arc<AtomicBool>) -> [Transfer; 2] {
        [0, 1].map(|end| Transfer::start(&pair[end], target, end, is_over))
    }

    fn start(stream: &TcpStream, target: &Arc<Target>, end: usize, is_over: &Arc<AtomicBool>) -> Transfer {
        let [sender, receiver] = [(); 2].map(|()| stream.try_clone().unwrap());
        let (target, is_over) = (target.clone(), is_over.clone());
        let sending = thread::spawn(move || {
            let written = &target.written[end];
            let goes_on = || {
                thread::sleep(PAUSE);
                let goes_on = !is_over.load(Ordering::Relaxed);
                written.fetch_add(if goes_on { PIECE as u64 } else { 0 }, Ordering::Relaxed);
                goes_on
            };
            let seed = u64::from(target.issues[end]);
            let hash = send_pieces_while(&sender, (seed, PIECE), goes_on)?;
            Ok((written.load(Ordering::Relaxed), hash))
        });
        Transfer { sending, receiving: thread::spawn(move || receive_hashed(&receiver)) }
    }

    /// What it has sent and received: octets, and their hash.
    fn join(self) -> Result<[(u64, String); 2]> {
        Ok([self.sending.join().unwrap()?, self.receiving.join().unwrap()?])
    }
}

/// A segment of the next kind, or an ICMP error, about any of the connections.
fn forge(number: u64, targets: &[Arc<Target>], random: &mut Random) -> FrameBuf {
    let target = &targets[random.below(targets.len() as u64) as usize];
    let (kind, is_near) = (number % KINDS.len() as u64, random.below(2) == 0);
    // One in four is in the server's name.
    let end = usize::from(random.below(4) == 0);
    let kind = KINDS[kind as usize];
    let packet = match kind {
        Kind::Segment(flags) => segment(target, end, flags, is_near, random),
        Kind::Error => error(target, is_near, random),
    };
    whole(&link(SERVER_MAC, &packet))
}

fn segment(target: &Target, end: usize, flags: u8, is_near: bool, random: &mut Random) -> Vec<u8> {
    let [from, to] = [target.ends[end], target.ends[1 - end]];
    let numbers = if is_near {
        [target.near(end, random), target.beyond(1 - end, random)]
    } else {
        [random.next() as u32, random.next() as u32]
    };
    let stamps = [&[1, 1, 8, 10][..], &random.next().to_be_bytes()].concat();
    let options = if random.below(2) == 0 { &stamps[..] } else { &[] };
    let payload = if flags & (PSH | URG) != 0 { &b"forged"[..] } else { &[] };
    let ends = Ends(from.ip(), to.ip());
    let segment = ends.segment([from.port(), to.port()], numbers, flags, options, payload);
    ends.packet(TCP, random.next() as u16, &[], &segment)
}

/// A router's error about what the server has sent to the client.
fn error(target: &Target, is_near: bool, random: &mut Random) -> Vec<u8> {
    let [client, server] = target.ends;
    let seq = if is_near { target.near(SERVER_END, random) } else { random.next() as u32 };
    let quoted = Ends(server.ip(), client.ip());
    let segment = quoted.segment([server.port(), client.port()], [seq, random.next() as u32], ACK, &[], &[]);
    let quoted = quoted.packet(TCP, random.next() as u16, &[], &segment);
    let router = Ends(client.ip(), server.ip());
    let which = random.below(4) as usize;
    let (protocol, error) = match client.ip() {
        IpAddr::V4(_) => (ICMP, [[3, 1], [3, 3], [3, 4], [11, 0]][which]),
        IpAddr::V6(_) => (ICMPV6, [[1, 0], [1, 4], [2, 0], [3, 0]][which]),
    };
    router.packet(protocol, 0, &[], &router.icmp(error, MTU, &quoted))
}

#[derive(Clone, Copy)]
enum Kind {
    /// With these flags; with PSH or URG it carries data.
    Segment(u8),
    Error,
}

/// What arrived outside and what became of it.
struct Counted {
    arrived: u64,
    drops: [u64; 2],
    client: u64,
}

impl Counted {
    fn read(lab: &Lab) -> Counted {
        let sent = lab.run("client", &["cat", "/sys/class/net/eth0/statistics/tx_packets"]);
        let outside =
            |verdict: &str| lab.metric("synwall_packets_total", &format!("outside\",verdict=\"{verdict}"));
        let fates = ["forward", "consume", "drop"].map(outside);
        let lost = lab.metric("synwall_receive_dropped_total", "outside");
        let dropped = lab.metric("synwall_packets_total", "verdict=\"drop\"");
        Counted {
            arrived: fates.iter().sum::<u64>() + lost,
            drops: [dropped, lab.metric("synwall_dropped_total", "")],
            client: sent.trim().parse().unwrap(),
        }
    }

    /// Each frame was decided about or lost, and each that was dropped has its reason.
    fn assert_account_for(&self, lab: &Lab, sent: u64) {
        let due = sent + Counted::read(lab).client - self.client;
        let arrived = || Counted::read(lab).arrived - self.arrived;
        assert!(eventually(Duration::from_secs(10), || arrived() >= due), "{} of {due} frames", arrived());
        let now = Counted::read(lab);
        // The clients go on: what they have sent by now is more than what had arrived.
        let most = sent + Counted::read(lab).client - self.client + FOREIGN;
        assert!(now.arrived - self.arrived <= most, "{} of {most} frames", now.arrived - self.arrived);
        let [dropped, with_reason] = [0, 1].map(|at: usize| now.drops[at] - self.drops[at]);
        assert_eq!(dropped, with_reason, "each drop has its reason");
        let reasons = ["bad_flags", "bad_reset", "out_of_window", "icmp_unmatched"];
        let counts =
            reasons.map(|reason| lab.metric("synwall_dropped_total", &format!("reason=\"{reason}\"")));
        println!("{sent} forged, {} arrived: {reasons:?} {counts:?}", now.arrived - self.arrived);
        assert!(counts.iter().all(|count| *count > 1_000), "{reasons:?}: {counts:?}");
    }
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

const CONNECTIONS: u64 = 100;
/// Frames of neither client nor attacker: neighbours that look for each other.
const FOREIGN: u64 = 200;
const SERVER_END: usize = 1;
/// Twenty seconds of ten thousand a second.
const SEGMENTS: u64 = 200_000;
const RATE: u64 = 10_000;
const BURST: u64 = 50;
/// What an end writes at a time, and how long it then waits.
const PIECE: usize = 4_096;
const PAUSE: Duration = Duration::from_millis(50);
/// Less than any end sends while it is attacked.
const FEW: u64 = 40_000;
/// How far the attacker's guesses lie from the truth: windows are about as wide.
const NEAR: u64 = 64_000;
const MTU: u32 = 1_400;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
const URG: u8 = 32;

const KINDS: [Kind; 14] = [
    Kind::Segment(RST),
    Kind::Segment(RST | ACK),
    Kind::Segment(SYN),
    Kind::Segment(SYN | ACK),
    Kind::Segment(FIN),
    Kind::Segment(FIN | ACK),
    Kind::Segment(PSH | ACK),
    Kind::Segment(PSH),
    Kind::Segment(ACK),
    Kind::Segment(0),
    Kind::Segment(URG),
    Kind::Segment(URG | ACK),
    Kind::Segment(FIN | PSH | URG),
    Kind::Error,
];
