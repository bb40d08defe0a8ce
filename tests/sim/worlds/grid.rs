//! The grid: what each world and each connection is made of, all of it from one number.

use std::time::Duration;

use synwall::engine::Side;
use synwall::engine::policy::ServerOptions;

use super::attack::{Attack, Treatment};
use super::random::Random;
use super::tcp::Settings;

pub const LOSS: [u64; 6] = [0, 10_000, 50_000, 100_000, 200_000, 300_000];
pub const REORDER: [u64; 3] = [0, 50_000, 250_000];
pub const DUPLICATION: [u64; 2] = [0, 50_000];

/// Cells of the grid that whole worlds differ in.
pub const CELLS: u64 = (LOSS.len() * REORDER.len() * DUPLICATION.len() * 2) as u64;

/// What a network does to frames, in a million, on each of its links.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    pub loss: u64,
    pub reorder: u64,
    pub duplication: u64,
    pub corruption: u64,
    /// Of a link, one way.
    pub delay: Duration,
    /// After a loss, all is lost for so long.
    pub burst: Duration,
    /// In a hundredth, how much of the loss and of the delay each link has, towards and from the middle, by side.
    pub shares: [[u64; 2]; 2],
    /// Octets a second that a link carries.
    pub bandwidth: Option<u64>,
    /// How often a router marks a packet that can be marked, in a million (RFC 3168).
    pub marking: u64,
}

/// Who talks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    Client,
    Server,
    Both,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    ByClient,
    ByServer,
    /// The client's FIN follows its data; the server answers only then.
    Half,
    /// Both at the same moment.
    Both,
    ResetByClient,
    ResetByServer,
}

/// Whose TCP an end runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    Own,
    Smoltcp,
}

/// One tuple's connections.
#[derive(Clone, Debug)]
pub struct Plan {
    pub start: Duration,
    pub talk: Talk,
    pub close: Close,
    /// Octets that client and server send.
    pub sends: [u32; 2],
    pub stacks: [Stack; 2],
    pub settings: [Settings; 2],
    /// Connections on the tuple, one after the other.
    pub generations: u32,
    /// From the end of one to the start of the next.
    pub pause: Duration,
    /// By how much the next ISS lies above the last SND.NXT.
    pub advance: u32,
    /// How long an end leaves its first octets unread.
    pub dozes: [Duration; 2],
    /// When both close, if that is how it ends.
    pub close_after: Duration,
}

/// One world: a network, and the connections in it.
#[derive(Clone, Debug)]
pub struct World {
    pub seed: u64,
    /// Which dice the network throws.
    pub dice: u64,
    pub v6: bool,
    pub network: Network,
    /// What the configuration says of the server. Window scale and SACK may be wrong: that is made good.
    pub told: ServerOptions,
    /// The service's option `server_speaks_first`.
    pub repeats_syn_acks: bool,
    /// Whether the service challenges only under pressure, of which a little is enough.
    pub is_adaptive: bool,
    /// Until the first key rotation.
    pub first_epoch: Duration,
    pub plans: Vec<Plan>,
    /// Beyond the grid: see [`super::rich`].
    pub extra: Extra,
}

/// What worlds of the grid have not.
#[derive(Clone, Debug)]
pub struct Extra {
    /// Each client in a network of its own.
    pub is_spread: bool,
    /// Engines that share tables; each frame meets any of them.
    pub workers: usize,
    /// A reload with another mode at each of these moments, and a restart.
    pub reloads: Vec<Duration>,
    pub restarts: Vec<Duration>,
    pub attacks: Vec<Attack>,
    pub treatment: Treatment,
    /// Of the server, in half-open connections.
    pub backlog: usize,
    /// Tables that an attacker could fill.
    pub has_small_tables: bool,
    /// The server's settings, for strangers.
    pub server: Settings,
    /// No client may need a second SYN.
    pub is_prompt: bool,
    /// The router on that side has a link with an MTU of so many octets.
    pub narrow: Option<(Side, u16)>,
    /// When a client is gone without a word, and another begins on its tuple.
    pub reboots: Vec<(Duration, usize)>,
    /// Where the ends of flows are is kept by a fast path.
    pub is_lent: bool,
}

impl World {
    pub fn in_words(&self) -> String {
        let mode = if self.is_adaptive { "adaptive" } else { "always" };
        let version = if self.v6 { 6 } else { 4 };
        let extra = if self.seed < RICH { String::new() } else { format!(" {:?}", self.extra) };
        format!("{:?} IPv{version} {mode}{extra}", self.network)
    }
}

/// The one kind of server behind a service.
struct Server {
    stack: Stack,
    settings: Settings,
}

impl Server {
    fn options(&self) -> ServerOptions {
        let Settings { mss, wscale, sack, timestamps, .. } = self.settings;
        match self.stack {
            Stack::Own => ServerOptions { mss: Some(mss), wscale, sack, timestamps, ecn: false },
            Stack::Smoltcp => {
                ServerOptions { mss: Some(mss), wscale: Some(0), sack: true, timestamps, ecn: false }
            }
        }
    }
}

/// The world of that number. One in eight moves whole transfers, the others open and close.
pub fn world(seed: u64) -> World {
    let mut random = Random::new(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let cell = seed % CELLS;
    let (loss, cell) = (LOSS[(cell % 6) as usize], cell / 6);
    let (reorder, cell) = (REORDER[(cell % 3) as usize], cell / 3);
    let (duplication, v6) = (DUPLICATION[(cell % 2) as usize], cell / 2 == 1);
    let network = Network {
        loss,
        reorder,
        duplication,
        corruption: random.pick(&[0, 5_000]),
        delay: Duration::from_micros(u64::from(random.octave(200, 60_000))),
        burst: Duration::ZERO,
        shares: [[100; 2]; 2],
        bandwidth: None,
        marking: 0,
    };
    let is_bulk = (seed / CELLS) % 8 == 7;
    let server = Server {
        stack: random.pick(&[Stack::Own, Stack::Own, Stack::Smoltcp]),
        settings: settings(&mut random, is_bulk, v6),
    };
    let told = ServerOptions {
        timestamps: server.settings.timestamps,
        ..random.pick(&[ServerOptions::default(), server.options()])
    };
    let count = if is_bulk { 20 } else { 32 };
    let mut world = World {
        seed,
        dice: 0,
        v6,
        network,
        told,
        repeats_syn_acks: random.below(2) == 0,
        first_epoch: random.duration(Duration::from_secs(32)),
        plans: (0..count).map(|_| plan(&mut random, &server, is_bulk, v6)).collect(),
        is_adaptive: seed / CELLS % 3 == 2,
        extra: Extra {
            is_spread: false,
            workers: 1,
            reloads: Vec::new(),
            restarts: Vec::new(),
            attacks: Vec::new(),
            treatment: Treatment::Serves,
            backlog: usize::MAX,
            has_small_tables: false,
            server: server.settings,
            is_prompt: false,
            narrow: None,
            reboots: Vec::new(),
            is_lent: false,
        },
    };
    if seed >= WIDE {
        super::wide::widen(&mut world, &mut Random::new(seed ^ 0x5eed));
    } else if seed >= RICH {
        super::rich::enrich(&mut world, &mut Random::new(seed ^ 0x5eed));
    }
    world
}

/// Worlds from this number on have what those of the grid have not.
pub const RICH: u64 = 1 << 32;

/// Worlds from this number on have what the richer ones have not, see [`super::wide`].
pub const WIDE: u64 = 1 << 33;

fn plan(random: &mut Random, server: &Server, is_bulk: bool, v6: bool) -> Plan {
    let talk = random.pick(&[Talk::Client, Talk::Client, Talk::Server, Talk::Both]);
    let close = match random.below(12) {
        0..=3 => Close::ByClient,
        4..=6 => Close::ByServer,
        7 => Close::Half,
        8 | 9 => Close::Both,
        10 => Close::ResetByClient,
        _ => Close::ResetByServer,
    };
    // A half-close is the client's question and the server's answer to the end of it.
    let talk = if close == Close::Half { Talk::Client } else { talk };
    let resets = matches!(close, Close::ResetByClient | Close::ResetByServer);
    let stacks = [random.pick(&[Stack::Own, Stack::Own, Stack::Smoltcp]), server.stack];
    let generations = if stacks == [Stack::Own; 2] && !is_bulk { random.pick(&[1, 1, 2, 3]) } else { 1 };
    // Nobody repeats an ACK that is lost behind a cookie, so a client that waits for its server must say that it is
    // there (docs/simulation.md). Whoever is reset must ask, or it never learns it.
    let keep_alive = [talk == Talk::Server || resets, resets];
    let sends = if is_bulk {
        [random.octave(10_000, 200_000), random.octave(10_000, 200_000)]
    } else {
        [random.octave(1, 4_000), random.octave(1, 12_000)]
    };
    Plan {
        start: random.duration(Duration::from_secs(if is_bulk { 2 } else { 8 })),
        talk,
        close,
        sends,
        stacks,
        settings: [
            Settings { keep_alive: keep_alive[0], ..settings(random, is_bulk, v6) },
            Settings {
                keep_alive: keep_alive[1],
                iss: initial(random),
                ts_offset: initial(random),
                ..server.settings
            },
        ],
        generations,
        pause: random.duration(Duration::from_secs(4)),
        advance: random.octave(1, 100_000),
        dozes: [(); 2].map(|()| Duration::from_secs(random.pick(&[0, 0, 0, 0, 0, 0, 0, 3]))),
        close_after: Duration::from_secs(3) + random.duration(Duration::from_secs(5)),
    }
}

fn settings(random: &mut Random, is_bulk: bool, v6: bool) -> Settings {
    let largest = if v6 { 1440 } else { 1460 };
    let mss = match is_bulk {
        true => random.pick(&[536, 1220, 1400, largest, largest]),
        false => random.pick(&[536, 1000, 1220, 1360, 1400, largest, largest, largest]),
    };
    let wscale = random.pick(&[None, Some(0), Some(2), Some(7), Some(7), Some(10), Some(14)]);
    Settings {
        // IPv6 guarantees more (RFC 8200 §5), and smoltcp keeps to it.
        mss: if v6 { mss.max(1220) } else { mss },
        wscale,
        sack: random.below(4) != 0,
        timestamps: random.below(3) != 0,
        // Never so small that its scaled window would be 0.
        buffer: random
            .pick(&[8_192, 32_768, 65_535, if is_bulk { 262_144 } else { 65_535 }])
            .max(4 << wscale.unwrap_or(0)),
        iss: initial(random),
        ts_offset: initial(random),
        keep_alive: false,
        ecn: false,
    }
}

/// Mostly around the wrap and the half of the circle.
fn initial(random: &mut Random) -> u32 {
    let near = random.below(6_000) as u32;
    match random.below(4) {
        0 => 0u32.wrapping_sub(near),
        1 => 0x8000_0000u32.wrapping_sub(near),
        2 => near.wrapping_sub(3_000),
        _ => random.next() as u32,
    }
}
