//! A tuple's connections in a world: their ends, what became of them, and why.

use std::time::Duration;

use synwall::engine::Side;
use synwall::time::Instant;

use super::app::App;
use super::grid::{Close, Plan};
use super::host::{End, Host};

/// One tuple's connections, one after the other, with both their ends.
pub struct Connection {
    pub plan: Plan,
    pub number: u64,
    pub hosts: Option<[Box<dyn Host>; 2]>,
    pub apps: [App; 2],
    pub woken: [Option<Instant>; 2],
    pub close_at: Instant,
    /// The client's ISS of each generation.
    pub issues: Vec<u32>,
    pub is_reopening: bool,
    /// What became of each end of each generation that is past.
    pub past: Vec<App>,
    /// Generations of which the client forgot all before they were over.
    pub forgotten: Vec<usize>,
    /// Generations of which a RST of synwall's took longer to the server than it takes one to be beside it.
    pub overtaken: Vec<usize>,
    /// Frames of it that were lost or bent since an end last got on, for each generation.
    pub losses: Vec<u32>,
    progress: u32,
}

impl Connection {
    pub fn new(plan: &Plan, number: u64) -> Connection {
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
            forgotten: Vec::new(),
            overtaken: Vec::new(),
            losses: Vec::new(),
            progress: 0,
        }
    }

    /// The server has accepted a connection: which of the client's is it.
    pub fn follow_server(&mut self) {
        let Some(hosts) = &self.hosts else { return };
        let Some(iss) = hosts[1].client_iss() else { return };
        let Some(generation) = self.issues.iter().position(|known| *known == iss) else { return };
        if generation != self.apps[1].generation {
            let next = App::new(Side::Server, generation, self.number);
            self.past.push(std::mem::replace(&mut self.apps[1], next));
        }
    }

    pub fn ends(&self, side: Side, generation: usize) -> impl Iterator<Item = &App> {
        let now = [&self.apps[side.index()]];
        let past = self.past.iter().filter(move |app| app.side() == side);
        past.chain(now).filter(move |app| app.generation == generation)
    }

    /// Whether the connection went as planned. One that the next on the tuple has cut off in its last moments did, and
    /// so did one that an end has left with RST and the other at the latest when nobody answered.
    pub fn is_complete(&self, generation: usize) -> bool {
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
    pub fn is_stuck(&self) -> bool {
        let last = self.issues.len() - 1;
        // A duplicate of its SYN may have made the server begin once more, after it was over.
        let ends = |side| self.ends(side, last).filter_map(|app| app.end).last();
        let (client, server) = (ends(Side::Client), ends(Side::Server));
        let server_is_in = self.ends(Side::Server, last).any(|app| app.opened.is_some());
        let gave_up = client == Some(End::TimedOut) || server == Some(End::TimedOut);
        !gave_up && (client.is_none() || (server_is_in && server.is_none()))
    }

    /// The next connection begins.
    pub fn begin(&mut self) {
        self.losses.push(0);
        self.progress = 0;
    }

    /// A RST of synwall's is on its way to the server, and takes so long.
    pub fn note_reset(&mut self, takes: Duration) {
        if takes >= NEAR {
            self.overtaken.push(self.issues.len().saturating_sub(1));
        }
    }

    /// A frame of the newest connection was lost or bent.
    pub fn note_loss(&mut self) {
        if let Some(losses) = self.losses.last_mut() {
            *losses += 1;
        }
    }

    /// Counts losses anew whenever the connection has got on: both ends are in, or an octet has come.
    pub fn note_progress(&mut self) {
        let newest = self.issues.len().saturating_sub(1);
        // Behind an end that has given up nothing gets on: the server may hear of its client after that.
        let is_past = |app: &App| app.generation != newest || app.end == Some(End::TimedOut);
        if self.apps.iter().any(is_past) {
            return;
        }
        let both_are_in = self.apps.iter().all(|app| app.opened.is_some());
        let progress = self.apps.iter().map(|app| app.received).sum::<u32>() + u32::from(both_are_in);
        if progress != self.progress {
            self.progress = progress;
            if let Some(losses) = self.losses.last_mut() {
                *losses = 0;
            }
        }
    }

    /// Why a connection failed: the network lost its frames until an end gave up, one of the TCPs has a fault of its own, or,
    /// `None`, no reason is known.
    pub fn cause(&self, generation: usize) -> Option<Cause> {
        let hosts = self.hosts.as_ref()?;
        if hosts.iter().any(|host| host.is_faulty()) {
            Some(Cause::Host)
        } else if self.overtaken.contains(&generation) {
            Some(Cause::LateReset)
        } else if self.losses.get(generation).is_some_and(|losses| *losses >= PATIENCE) {
            Some(Cause::Loss)
        } else {
            None
        }
    }
}

/// Why a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Loss,
    Host,
    /// Row NEW-1 of `docs/faults.md`: synwall counts on a server that is beside it.
    LateReset,
}

/// In which a RST of synwall's is at the server: `RESET_SETTLES` of the engine.
const NEAR: Duration = Duration::from_millis(500);

/// The least number of losses that makes an end give up: the SYNs that synwall sends to a server.
const PATIENCE: u32 = 4;
