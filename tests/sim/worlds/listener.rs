//! The server as strangers meet it: a listener with a backlog, and the connections that it accepts of them.

use std::collections::HashMap;
use std::time::Duration;

use synwall::time::Instant;
use synwall::wire::tcp::Segment;

use super::attack::Treatment;
use super::host::Host;
use super::icmp::Complaint;
use super::packet::{ACK, LINK, Outgoing, RST, SYN, Socket, sockets, valid};
use super::tcp::{Settings, Tcp};

/// What listens.
pub struct Listener {
    settings: Settings,
    local: Socket,
    treatment: Treatment,
    backlog: usize,
    ends: HashMap<Socket, Accepted>,
    half_open: usize,
    /// SYNs that found the backlog full.
    pub overflows: u64,
}

struct Accepted {
    tcp: Tcp,
    /// When the server gives up on a client that says nothing.
    give_up_at: Instant,
    is_closed: bool,
    woken: Option<Instant>,
}

/// What a listener did: frames to send, and when it wants to be woken for that client.
pub struct Reaction {
    pub frames: Vec<Vec<u8>>,
    pub wake: Option<Instant>,
}

impl Listener {
    pub fn new(settings: Settings, local: Socket, treatment: Treatment, backlog: usize) -> Listener {
        Listener { settings, local, treatment, backlog, ends: HashMap::new(), half_open: 0, overflows: 0 }
    }

    /// Whether a SYN finds room, with so many half-open connections that are kept elsewhere.
    pub fn has_room(&mut self, elsewhere: usize) -> bool {
        let has_room = self.half_open + elsewhere < self.backlog;
        self.overflows += u64::from(!has_room);
        has_room
    }

    /// A stranger's segment.
    pub fn receive(&mut self, now: Instant, frame: &[u8], elsewhere: usize) -> Option<(Socket, Reaction)> {
        let layout = valid(frame)?;
        let (from, _) = sockets(frame, layout);
        let segment = Segment::new(frame, layout);
        let is_opening = segment.flags().0 & (SYN | ACK | RST) == SYN;
        if is_opening && self.treatment != Treatment::Serves {
            let answer = self.refuse(frame, &segment, from);
            return Some((from, Reaction { frames: answer.into_iter().collect(), wake: None }));
        }
        if is_opening && !self.ends.contains_key(&from) {
            if !self.has_room(elsewhere) {
                return None;
            }
            let settings = Settings { iss: u32::from(from.1).wrapping_mul(0x9e37_79b1), ..self.settings };
            let tcp = Tcp::listen(settings, self.local, from);
            let give_up_at = now.after(PATIENCE);
            self.ends.insert(from, Accepted { tcp, give_up_at, is_closed: false, woken: None });
        }
        Some((from, self.step(now, from, Some(frame))))
    }

    /// The server's packet filter answers in its name.
    fn refuse(&self, frame: &[u8], segment: &Segment<'_>, from: Socket) -> Option<Vec<u8>> {
        match self.treatment {
            Treatment::Resets => {
                let reset = Outgoing { flags: RST | ACK, ack: segment.end().0, ..Outgoing::default() };
                Some(reset.frame(self.local, from))
            }
            Treatment::Rejects => Complaint::PortUnreachable.frame(self.local.0, &frame[LINK..]),
            Treatment::Serves | Treatment::Ignores => None,
        }
    }

    /// Time has passed for a stranger's connection.
    pub fn wake(&mut self, now: Instant, from: Socket) -> Reaction {
        if let Some(end) = self.ends.get_mut(&from) {
            end.woken = None;
        }
        self.step(now, from, None)
    }

    fn step(&mut self, now: Instant, from: Socket, frame: Option<&[u8]>) -> Reaction {
        let mut frames = Vec::new();
        let Some(end) = self.ends.get_mut(&from) else {
            return Reaction { frames, wake: None };
        };
        let was_half_open = end.tcp.is_half_open();
        if let Some(frame) = frame {
            end.tcp.receive(now, frame, &mut frames);
        }
        end.tcp.read(&mut Vec::new());
        if !end.is_closed && end.tcp.is_open() && end.give_up_at <= now {
            end.is_closed = true;
            end.tcp.close();
        }
        end.tcp.poll(now, &mut frames);
        self.half_open = self.half_open + usize::from(end.tcp.is_half_open()) - usize::from(was_half_open);
        let give_up = (!end.is_closed && end.tcp.is_open()).then_some(end.give_up_at);
        let wanted = end.tcp.deadline().into_iter().chain(give_up).min().map(|at| at.max(now.after(GRAIN)));
        let wake = wanted.filter(|at| end.woken.is_none_or(|woken| *at < woken));
        end.woken = wake.or(end.woken);
        Reaction { frames, wake }
    }
}

/// As long as web servers wait for a request.
const PATIENCE: Duration = Duration::from_secs(60);
const GRAIN: Duration = Duration::from_millis(1);
