//! A TCP for the simulation, with what smoltcp lacks: every option on or off, any ISS, PAWS and SACK as Linux does them,
//! TIME-WAIT that is reused, challenge ACKs without a limit.
//!
//! Its second job is to distrust: SEG.ACK, SACK edges and TSecr must lie in the space of what it has sent, and what lies
//! outside is a violation, for then somebody on the way has translated wrongly.
//!
//! RFC 9293, RFC 7323 (timestamps, PAWS, window scale), RFC 2018 and 2883 (SACK), RFC 5961 (challenges), RFC 6298 (RTO),
//! RFC 6582 (NewReno).

use std::collections::BTreeMap;
use std::time::Duration;

use synwall::time::Instant;
use synwall::wire::tcp::Segment;
use synwall::wire::tcp_options::SynOptions;

use super::ecn::{self, Codepoint, Ecn};
use super::host::{End, Foreign, Host};
use super::packet::{ACK, FIN, Outgoing, PSH, RST, SYN, Socket, before, sack_blocks, valid, within};

/// How a TCP is built.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub mss: u16,
    pub wscale: Option<u8>,
    pub sack: bool,
    pub timestamps: bool,
    /// Octets of the receive buffer.
    pub buffer: u32,
    pub iss: u32,
    /// Where its clock of timestamps starts.
    pub ts_offset: u32,
    pub keep_alive: bool,
    /// RFC 3168.
    pub ecn: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Listen,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

/// One end.
pub struct Tcp {
    settings: Settings,
    local: Socket,
    remote: Socket,
    is_server: bool,
    state: State,
    end: Option<End>,
    was_open: bool,
    /// A TSecr has come that echoes a TSval of this end.
    was_proved: bool,
    send: Send,
    receive: Receive,
    ecn: Ecn,
    /// What both have agreed on.
    scales: bool,
    timestamps: bool,
    sack: bool,
    timer: Option<Instant>,
    retries: u32,
    keep_alive_at: Instant,
    unanswered: u32,
    /// Until then no empty segment that is unacceptable is answered.
    quiet_until: Instant,
    wants_ack: bool,
    wants_reset: bool,
    foreign: Option<Foreign>,
    /// SYN-ACKs sent of this connection.
    answers: u32,
    /// ISS and SND.NXT of connections before this one.
    past: Vec<(u32, u32)>,
}

struct Send {
    iss: u32,
    una: u32,
    /// Next to send; behind `max` while sending again.
    next: u32,
    /// Behind the highest ever sent.
    max: u32,
    window: u32,
    /// The largest that the peer announced.
    max_window: u32,
    wl1: u32,
    wl2: u32,
    scale: u8,
    mss: u32,
    stream: Vec<u8>,
    closed: bool,
    sacked: Vec<(u32, u32)>,
    cwnd: u32,
    ssthresh: u32,
    duplicates: u32,
    recover: Option<u32>,
    rto: Duration,
    srtt: Option<(Duration, Duration)>,
    timed: Option<(u32, Instant)>,
    /// TSvals sent, the first and the last.
    tsvals: Option<(u32, u32)>,
}

struct Receive {
    irs: u32,
    next: u32,
    ts_recent: u32,
    last_ack_sent: u32,
    delivered: Vec<u8>,
    /// By distance from IRS + 1.
    ahead: BTreeMap<u32, Vec<u8>>,
    fin: Option<u32>,
    duplicate: Option<(u32, u32)>,
    latest: u32,
}

impl Send {
    fn new(iss: u32) -> Send {
        Send {
            iss,
            una: iss,
            next: iss,
            max: iss,
            window: 0,
            max_window: 65_535,
            wl1: 0,
            wl2: 0,
            scale: 0,
            mss: 536,
            stream: Vec::new(),
            closed: false,
            sacked: Vec::new(),
            cwnd: 14_600,
            ssthresh: u32::MAX,
            duplicates: 0,
            recover: None,
            rto: FIRST_RTO,
            srtt: None,
            timed: None,
            tsvals: None,
        }
    }

    /// Behind the last octet written: where FIN has its number.
    fn stream_end(&self) -> u32 {
        self.iss.wrapping_add(1).wrapping_add(self.stream.len() as u32)
    }

    fn in_flight(&self) -> u32 {
        self.max.wrapping_sub(self.una)
    }

    /// RFC 6298 §2.
    fn sample(&mut self, rtt: Duration) {
        let (srtt, var) = match self.srtt {
            None => (rtt, rtt / 2),
            Some((srtt, var)) => ((srtt * 7 + rtt) / 8, (var * 3 + srtt.abs_diff(rtt)) / 4),
        };
        self.srtt = Some((srtt, var));
        self.rto = (srtt + (var * 4).max(MIN_RTO)).min(MAX_RTO);
    }

    /// Notes blocks of the peer; it may know them in any order and repeat itself.
    fn note_sack(&mut self, blocks: &[(u32, u32)]) {
        let una = self.una;
        self.sacked.extend(blocks.iter().filter(|(left, _)| !before(*left, una)));
        self.sacked.retain(|(left, _)| !before(*left, una));
        self.sacked.sort_by_key(|(left, _)| left.wrapping_sub(una));
        self.sacked.dedup();
    }

    /// Steps over what the peer has.
    fn skip_sacked(&mut self) {
        for (left, right) in &self.sacked {
            if !before(self.next, *left) && before(self.next, *right) {
                self.next = *right;
            }
        }
    }

    fn next_sacked(&self) -> Option<u32> {
        self.sacked.iter().map(|(left, _)| *left).find(|left| before(self.next, *left))
    }
}

impl Receive {
    fn new(irs: u32, tsval: u32) -> Receive {
        let next = irs.wrapping_add(1);
        Receive {
            irs,
            next,
            ts_recent: tsval,
            last_ack_sent: next,
            delivered: Vec::new(),
            ahead: BTreeMap::new(),
            fin: None,
            duplicate: None,
            latest: next,
        }
    }

    fn base(&self) -> u32 {
        self.irs.wrapping_add(1)
    }

    /// Takes octets at `seq`; those before RCV.NXT are a duplicate.
    fn take(&mut self, seq: u32, octets: &[u8]) {
        let end = seq.wrapping_add(octets.len() as u32);
        self.latest = seq;
        // What lies before the first octet is of an earlier connection.
        if before(seq, self.next) && !before(seq, self.base()) {
            let right = if before(end, self.next) { end } else { self.next };
            self.duplicate = Some((seq, right));
        }
        if !before(self.next, end) {
            return;
        }
        let octets =
            if before(seq, self.next) { &octets[self.next.wrapping_sub(seq) as usize..] } else { octets };
        let at = end.wrapping_sub(octets.len() as u32).wrapping_sub(self.base());
        let known = self.ahead.entry(at).or_default();
        if known.len() < octets.len() {
            *known = octets.to_vec();
        }
        self.advance();
    }

    fn advance(&mut self) {
        let mut at = self.next.wrapping_sub(self.base());
        while let Some(entry) = self.ahead.first_entry() {
            let (start, octets) = (*entry.key(), entry.get());
            if start > at {
                break;
            }
            let new = octets.get((at - start) as usize..).unwrap_or(&[]);
            self.delivered.extend(new);
            at += new.len() as u32;
            entry.remove();
        }
        self.next = self.base().wrapping_add(at);
    }

    /// Blocks to report: a duplicate first (RFC 2883 §4), then the block of the latest arrival, then the others.
    fn blocks(&mut self, most: usize) -> Vec<(u32, u32)> {
        let mut blocks: Vec<(u32, u32)> = Vec::new();
        for (start, octets) in &self.ahead {
            let left = self.base().wrapping_add(*start);
            let right = left.wrapping_add(octets.len() as u32);
            match blocks.last_mut() {
                Some((_, end)) if !before(*end, left) => {
                    if before(*end, right) {
                        *end = right;
                    }
                }
                _ => blocks.push((left, right)),
            }
        }
        if let Some(at) =
            blocks.iter().position(|(left, right)| !before(self.latest, *left) && before(self.latest, *right))
        {
            blocks[..=at].rotate_right(1);
        }
        if let Some(duplicate) = self.duplicate.take() {
            blocks.insert(0, duplicate);
        }
        blocks.truncate(most);
        blocks
    }
}

impl Tcp {
    /// A server that waits for the first SYN.
    pub fn listen(settings: Settings, local: Socket, remote: Socket) -> Tcp {
        Tcp::new(settings, local, remote, true)
    }

    /// A client that sends its SYN when it is polled.
    pub fn connect(settings: Settings, local: Socket, remote: Socket) -> Tcp {
        let mut tcp = Tcp::new(settings, local, remote, false);
        tcp.state = State::SynSent;
        tcp.timer = Some(Instant::ZERO);
        tcp
    }

    fn new(settings: Settings, local: Socket, remote: Socket, is_server: bool) -> Tcp {
        Tcp {
            settings,
            local,
            remote,
            is_server,
            state: State::Listen,
            end: None,
            was_open: false,
            was_proved: false,
            send: Send::new(settings.iss),
            receive: Receive::new(0, 0),
            ecn: Ecn::default(),
            scales: false,
            timestamps: false,
            sack: false,
            timer: None,
            retries: 0,
            keep_alive_at: Instant::ZERO,
            unanswered: 0,
            quiet_until: Instant::ZERO,
            wants_ack: false,
            wants_reset: false,
            foreign: None,
            answers: 0,
            past: Vec::new(),
        }
    }

    fn clock(&self, now: Instant) -> u32 {
        self.settings.ts_offset.wrapping_add((now.as_nanos() / 1_000_000) as u32)
    }

    /// Notes a number that is not of this connection; one that was taken weighs more than one that was discarded.
    fn blame(&mut self, is_taken: bool, what: &str) {
        if self.foreign.as_ref().is_none_or(|foreign| is_taken && !foreign.is_taken) {
            let (state, una, max) = (self.state, self.send.una, self.send.max);
            let what = format!("{what} (in {state:?}, SND.UNA {una}, SND.NXT {max})");
            self.foreign = Some(Foreign { what, is_taken });
        }
    }

    fn free(&self) -> u32 {
        self.settings.buffer.saturating_sub(self.receive.delivered.len() as u32)
    }

    fn window_field(&self, is_syn: bool) -> u16 {
        let shift = if is_syn || !self.scales { 0 } else { self.settings.wscale.unwrap_or(0) };
        (self.free() >> shift).min(65_535) as u16
    }

    /// A segment with the fields that nearly every one has.
    fn segment(&mut self, now: Instant, flags: u8, seq: u32) -> Outgoing<'static> {
        let value = self.clock(now);
        let timestamps = self.timestamps.then(|| {
            let (first, _) = self.send.tsvals.unwrap_or((value, value));
            self.send.tsvals = Some((first, value));
            (value, self.receive.ts_recent)
        });
        self.receive.last_ack_sent = self.receive.next;
        let flags = flags | if flags & SYN == 0 { self.ecn.of_segment(false) } else { 0 };
        Outgoing {
            flags: flags | ACK,
            seq,
            ack: self.receive.next,
            window: self.window_field(flags & SYN != 0),
            timestamps,
            ..Outgoing::default()
        }
    }

    fn put(&self, segment: &Outgoing<'_>, out: &mut Vec<Vec<u8>>) {
        out.push(segment.frame(self.local, self.remote));
    }

    fn put_syn(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        let is_answer = self.is_server;
        if !is_answer {
            self.timestamps = self.settings.timestamps;
        }
        let syn = self.segment(now, SYN, self.send.iss);
        let syn = Outgoing {
            flags: if is_answer { SYN | ACK } else { SYN } | self.ecn.of_syn(is_answer, self.settings.ecn),
            ack: if is_answer { syn.ack } else { 0 },
            mss: Some(self.settings.mss),
            wscale: self.settings.wscale.filter(|_| !is_answer || self.scales),
            sack_permitted: self.settings.sack && (!is_answer || self.sack),
            timestamps: syn.timestamps.map(|(value, echo)| (value, if is_answer { echo } else { 0 })),
            ..syn
        };
        self.send.max = self.send.iss.wrapping_add(1);
        self.send.next = self.send.max;
        self.answers += u32::from(is_answer);
        // What is sent twice is no measure (Karn's algorithm, RFC 6298 §3).
        let is_first = self.retries == 0 && self.answers <= 1;
        self.send.timed = is_first.then_some((self.send.max, now));
        self.put(&syn, out);
    }

    fn put_ack(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        self.wants_ack = false;
        let mut ack = self.segment(now, ACK, self.send.max);
        if self.sack {
            ack.sack = self.receive.blocks(if self.timestamps { 3 } else { 4 });
        }
        self.put(&ack, out);
    }

    /// A segment that repeats an octet, or none, below SND.UNA: the peer will answer it (RFC 9293 §3.8.4).
    fn put_probe(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        let probe = self.segment(now, ACK, self.send.una.wrapping_sub(1));
        self.put(&probe, out);
    }

    /// RST in answer to a segment that is unacceptable whatever it is (RFC 9293 §3.10.7.1).
    fn put_reset(&self, answered: &Segment<'_>, out: &mut Vec<Vec<u8>>) {
        let flags = answered.flags().0;
        if flags & RST != 0 {
            return;
        }
        let reset = if flags & ACK != 0 {
            Outgoing { flags: RST, seq: answered.ack().0, ..Outgoing::default() }
        } else {
            Outgoing { flags: RST | ACK, ack: answered.end().0, ..Outgoing::default() }
        };
        self.put(&reset, out);
    }

    fn agree(&mut self, options: &SynOptions) {
        self.scales = self.settings.wscale.is_some() && options.wscale.is_some();
        self.send.scale = options.wscale.filter(|_| self.scales).unwrap_or(0);
        self.timestamps = self.settings.timestamps && options.timestamps.is_some();
        self.sack = self.settings.sack && options.sack;
        let overhead = if self.timestamps { 12 } else { 0 };
        self.send.mss = u32::from(options.mss.unwrap_or(536).min(self.settings.mss)) - overhead;
        self.send.cwnd = self.send.mss * 10;
    }

    fn accept(&mut self, now: Instant, segment: &Segment<'_>, out: &mut Vec<Vec<u8>>) {
        // The next connection's numbers lie above those of the last one (RFC 6191, as Linux leaves TIME-WAIT).
        let iss =
            if self.send.max == self.send.iss { self.send.iss } else { self.send.max.wrapping_add(65_537) };
        let options = SynOptions::parse(segment.options());
        let next = Tcp::listen(self.settings, self.local, self.remote);
        *self = Tcp { foreign: self.foreign.take(), past: self.with_this_past(), ..next };
        self.send = Send::new(iss);
        self.receive = Receive::new(segment.seq().0, options.timestamps.map_or(0, |(value, _)| value));
        self.agree(&options);
        self.ecn.agree(segment.flags().0, self.settings.ecn);
        self.send.window = u32::from(segment.window());
        self.state = State::SynReceived;
        self.put_syn(now, out);
        self.timer = Some(now.after(FIRST_RTO));
    }

    fn handle(&mut self, now: Instant, segment: &Segment<'_>, codepoint: Codepoint, out: &mut Vec<Vec<u8>>) {
        let flags = segment.flags().0;
        let is_opening = flags & (SYN | ACK | RST) == SYN;
        match self.state {
            State::Listen | State::Closed if self.is_server && is_opening => self.accept(now, segment, out),
            State::Listen | State::Closed => self.put_reset(segment, out),
            State::SynSent => self.syn_sent(now, segment, out),
            State::TimeWait if self.is_server && is_opening && self.may_reuse(segment) => {
                self.accept(now, segment, out);
            }
            State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck
            | State::TimeWait => self.synchronized(now, segment, codepoint, out),
        }
    }

    /// RFC 6191 §2, and numbers above the old ones (RFC 9293 §3.6.1).
    fn may_reuse(&self, segment: &Segment<'_>) -> bool {
        let is_newer = segment
            .options()
            .timestamps()
            .is_some_and(|(value, _)| self.timestamps && before(self.receive.ts_recent, value));
        is_newer || !before(segment.seq().0, self.receive.next)
    }

    fn syn_sent(&mut self, now: Instant, segment: &Segment<'_>, out: &mut Vec<Vec<u8>>) {
        let flags = segment.flags().0;
        let acknowledges =
            flags & ACK != 0 && segment.ack().0 == self.send.max && self.send.max != self.send.iss;
        if flags & ACK != 0 && !acknowledges {
            self.put_reset(segment, out);
        } else if flags & RST != 0 {
            if acknowledges {
                self.finish(End::Reset);
            }
        } else if flags & SYN != 0 && acknowledges {
            let options = SynOptions::parse(segment.options());
            if let Some((_, echo)) = options.timestamps {
                self.check_echo(echo);
            }
            self.receive = Receive::new(segment.seq().0, options.timestamps.map_or(0, |(value, _)| value));
            self.agree(&options);
            self.ecn.agree(flags, self.settings.ecn);
            self.send.una = segment.ack().0;
            self.send.window = u32::from(segment.window());
            (self.send.wl1, self.send.wl2) = (segment.seq().0, segment.ack().0);
            if let Some((_, at)) = self.send.timed.take() {
                self.send.sample(now.since(at));
            }
            self.open(now);
            self.wants_ack = true;
        }
    }

    fn open(&mut self, now: Instant) {
        self.state = State::Established;
        self.was_open = true;
        self.retries = 0;
        self.timer = None;
        self.keep_alive_at = now.after(KEEP_ALIVE);
    }

    fn finish(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.state = State::Closed;
        self.timer = None;
    }

    /// Whether TSecr echoes what was sent. If not, it spoils a round-trip sample at most, and an end that does no PAWS, as
    /// smoltcp, echoes whatever came last: so it is a fault only of whoever translated it.
    fn check_echo(&mut self, echo: u32) -> bool {
        let (first, last) = self.send.tsvals.unwrap_or_default();
        // 0 is what a server is told that keeps the connection in mind, and as Linux it does not look at it.
        let is_ours = within(echo, first, last) || (echo == 0 && self.answers > 0);
        if !is_ours {
            self.blame(false, &format!("TSecr {echo} echoes no TSval of {first} to {last}"));
        }
        is_ours
    }

    /// RFC 9293 §3.10.7.4.
    fn synchronized(
        &mut self,
        now: Instant,
        segment: &Segment<'_>,
        codepoint: Codepoint,
        out: &mut Vec<Vec<u8>>,
    ) {
        let flags = segment.flags().0;
        let (seq, end) = (segment.seq().0, segment.end().0);
        let timestamps = segment.options().timestamps().filter(|_| self.timestamps);
        if self.state == State::SynReceived && flags & (SYN | ACK) == SYN && seq == self.receive.irs {
            self.put_syn(now, out);
            return;
        }
        if flags & RST == 0 && self.timestamps {
            // PAWS (RFC 7323 §5.3), and no segment without the option (§3.2).
            let Some((value, _)) = timestamps else { return };
            if before(value, self.receive.ts_recent) {
                self.put_ack(now, out);
                return;
            }
        }
        if !self.is_acceptable(seq, end) {
            if flags & RST == 0 {
                if before(seq, self.receive.next) && !segment.payload().is_empty() {
                    self.receive.take(seq, segment.payload());
                }
                self.restart_time_wait(now);
                // Two ends that find each other's empty ACKs wrong would go on for ever; as Linux limits it.
                if !segment.is_empty() || self.quiet_until <= now {
                    self.quiet_until = now.after(ACK_PAUSE);
                    self.put_ack(now, out);
                }
            }
            return;
        }
        if flags & RST != 0 {
            self.reset_by(seq, now, out);
            return;
        }
        if flags & SYN != 0 {
            self.put_ack(now, out);
            return;
        }
        if flags & ACK == 0 {
            return;
        }
        let ack = segment.ack().0;
        if self.state == State::SynReceived {
            if ack != self.send.max {
                self.put_reset(segment, out);
                return;
            }
            // As Linux since 6.15: the third segment must echo one of our SYN-ACKs, or nothing.
            let echo = timestamps.map_or(0, |(_, echo)| echo);
            if echo != 0 && !self.check_echo(echo) {
                return;
            }
            (self.send.wl1, self.send.wl2) = (seq, ack);
            self.send.window = u32::from(segment.window()) << self.send.scale;
            self.send.una = ack;
            self.send.timed = None;
            self.open(now);
        }
        // RFC 5961 §5.2.
        if !within(ack, self.send.una.wrapping_sub(self.send.max_window), self.send.max) {
            if !within(ack, self.send.iss, self.send.max) {
                self.blame(false, &format!("SEG.ACK {ack} acknowledges what was never sent"));
            }
            self.put_ack(now, out);
            return;
        }
        if let Some((value, echo)) = timestamps {
            // Linux does not look at a TSecr of 0; data of an open connection always echoes.
            if echo != 0 || (self.was_proved && !segment.payload().is_empty()) {
                self.check_echo(echo);
            }
            self.was_proved |= echo != 0;
            if !before(self.receive.last_ack_sent, seq) {
                self.receive.ts_recent = value;
            }
        }
        if let Err(what) = self.ecn.note(codepoint, flags) {
            self.blame(true, what);
        }
        if self.ecn.is_to_reduce(flags, ack, self.send.max) {
            self.send.ssthresh = (self.send.in_flight() / 2).max(2 * self.send.mss);
            self.send.cwnd = self.send.cwnd.min(self.send.ssthresh);
        }
        self.unanswered = 0;
        if self.send.in_flight() == 0 {
            self.retries = 0;
        }
        self.keep_alive_at = now.after(KEEP_ALIVE);
        self.acknowledge(now, segment, ack, out);
        self.take(now, segment);
    }

    fn is_acceptable(&self, seq: u32, end: u32) -> bool {
        let (next, window) = (self.receive.next, self.free());
        let edge = next.wrapping_add(window);
        match (seq == end, window) {
            (true, 0) => seq == next,
            (true, _) => !before(seq, next) && before(seq, edge),
            (false, 0) => false,
            (false, _) => before(next, end) && before(seq, edge),
        }
    }

    /// RFC 5961 §3.2.
    fn reset_by(&mut self, seq: u32, now: Instant, out: &mut Vec<Vec<u8>>) {
        if seq != self.receive.next {
            self.put_ack(now, out);
            return;
        }
        match self.state {
            State::SynReceived => self.state = State::Listen,
            State::Closing | State::LastAck | State::TimeWait => self.finish(End::Closed),
            _ => self.finish(End::Reset),
        }
        self.timer = None;
    }

    fn restart_time_wait(&mut self, now: Instant) {
        if self.state == State::TimeWait {
            self.timer = Some(now.after(TIME_WAIT));
        }
    }

    fn acknowledge(&mut self, now: Instant, segment: &Segment<'_>, ack: u32, out: &mut Vec<Vec<u8>>) {
        let window = u32::from(segment.window()) << self.send.scale;
        let is_duplicate = ack == self.send.una
            && segment.is_empty()
            && self.send.in_flight() != 0
            && window == self.send.window;
        self.verify_sack(segment);
        if before(self.send.una, ack) {
            self.advance(now, ack, out);
        } else if is_duplicate {
            self.send.duplicates += 1;
            if self.send.duplicates == 3 && self.send.recover.is_none() {
                self.send.ssthresh = (self.send.in_flight() / 2).max(2 * self.send.mss);
                self.send.cwnd = self.send.ssthresh;
                self.send.recover = Some(self.send.max);
                self.resend_first(now, out);
            }
        }
        let seq = segment.seq().0;
        let is_newer = before(self.send.wl1, seq) || (self.send.wl1 == seq && !before(ack, self.send.wl2));
        if is_newer && !before(ack, self.send.una) {
            self.send.window = window;
            self.send.max_window = self.send.max_window.max(window);
            (self.send.wl1, self.send.wl2) = (seq, ack);
        }
    }

    /// Blocks must lie in what was sent; a duplicate's may lie below SND.UNA (RFC 2883).
    fn verify_sack(&mut self, segment: &Segment<'_>) {
        let blocks = sack_blocks(segment);
        if blocks.is_empty() {
            return;
        }
        let first = self.send.iss.wrapping_add(1);
        for (left, right) in &blocks {
            if !self.sack {
                self.blame(true, "SACK was not agreed on");
            } else if !before(*left, *right) || before(*left, first) || before(self.send.max, *right) {
                self.blame(true, &format!("SACK block {left}:{right} lies outside of what was sent"));
                return;
            }
        }
        self.send.note_sack(&blocks);
    }

    fn advance(&mut self, now: Instant, ack: u32, out: &mut Vec<Vec<u8>>) {
        let acked = ack.wrapping_sub(self.send.una);
        self.send.una = ack;
        if before(self.send.next, ack) {
            self.send.next = ack;
        }
        self.send.note_sack(&[]);
        self.send.duplicates = 0;
        self.retries = 0;
        if let Some((seq, at)) = self.send.timed
            && !before(ack, seq)
        {
            self.send.timed = None;
            self.send.sample(now.since(at));
        }
        match self.send.recover {
            Some(recover) if before(ack, recover) => self.resend_first(now, out),
            Some(_) => self.send.recover = None,
            None if self.send.cwnd < self.send.ssthresh => self.send.cwnd += acked.min(self.send.mss),
            None => self.send.cwnd += (self.send.mss * self.send.mss / self.send.cwnd).max(1),
        }
        self.timer = (self.send.in_flight() != 0).then(|| now.after(self.send.rto));
        if self.send.closed && ack == self.send.stream_end().wrapping_add(1) {
            match self.state {
                State::FinWait1 => {
                    self.state = State::FinWait2;
                    self.timer = Some(now.after(FIN_WAIT));
                }
                State::Closing => self.enter_time_wait(now),
                State::LastAck => self.finish(End::Closed),
                _ => {}
            }
        }
    }

    fn enter_time_wait(&mut self, now: Instant) {
        self.state = State::TimeWait;
        self.end = Some(End::Closed);
        self.timer = Some(now.after(TIME_WAIT));
    }

    fn take(&mut self, now: Instant, segment: &Segment<'_>) {
        if segment.is_empty() {
            return;
        }
        self.wants_ack = true;
        let payload = segment.payload();
        let room = self.receive.next.wrapping_add(self.free()).wrapping_sub(segment.seq().0) as usize;
        if !payload.is_empty() {
            let payload = &payload[..payload.len().min(room)];
            self.receive.take(segment.seq().0, payload);
        }
        if segment.flags().0 & FIN != 0 {
            self.receive.fin = Some(segment.end().0.wrapping_sub(1));
        }
        if self.receive.fin == Some(self.receive.next) {
            self.receive.next = self.receive.next.wrapping_add(1);
            match self.state {
                State::Established => self.state = State::CloseWait,
                State::FinWait1 => self.state = State::Closing,
                State::FinWait2 => self.enter_time_wait(now),
                _ => {}
            }
        }
    }

    /// The segment at SND.UNA, once more.
    fn resend_first(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        let next = self.send.next;
        self.send.next = self.send.una;
        self.put_next(now, self.send.window.max(1), out);
        self.send.next = if before(next, self.send.next) { self.send.next } else { next };
        self.send.timed = None;
    }

    /// Sends the segment at SND.NXT, at most `room` octets of it; whether there was something to send.
    fn put_next(&mut self, now: Instant, room: u32, out: &mut Vec<Vec<u8>>) -> bool {
        let seq = self.send.next;
        let left = self.send.stream_end().wrapping_sub(seq);
        if left > 1 << 30 {
            return false; // FIN was sent.
        }
        let until_sacked = self.send.next_sacked().map_or(u32::MAX, |sacked| sacked.wrapping_sub(seq));
        let len = left.min(self.send.mss).min(room).min(until_sacked);
        let fin = self.send.closed && len == left;
        if len == 0 && !fin {
            return false;
        }
        let is_new = !before(seq, self.send.max);
        // What would be sent in dribbles waits (RFC 9293 §3.8.6.2.1).
        if is_new && len < self.send.mss && len < left && self.send.in_flight() != 0 {
            return false;
        }
        let flags = if fin { FIN } else { 0 } | if len == left && len != 0 { PSH } else { 0 };
        let start = seq.wrapping_sub(self.send.iss.wrapping_add(1)) as usize;
        let segment = self.segment(now, flags, seq);
        let payload = &self.send.stream[start..start + len as usize];
        let is_markable = self.ecn.is_agreed() && is_new && len != 0;
        let word = self.ecn.of_segment(is_markable);
        let mut frame =
            Outgoing { payload, flags: segment.flags | word, ..segment }.frame(self.local, self.remote);
        if is_markable {
            ecn::set(&mut frame, ECT);
        }
        out.push(frame);
        self.send.next = seq.wrapping_add(len).wrapping_add(u32::from(fin));
        if before(self.send.max, self.send.next) {
            self.send.max = self.send.next;
        }
        if is_new && self.send.timed.is_none() {
            self.send.timed = Some((self.send.next, now));
        }
        true
    }

    fn send_what_fits(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        loop {
            if before(self.send.next, self.send.max) {
                self.send.skip_sacked();
            }
            let edge = self.send.una.wrapping_add(self.send.window.min(self.send.cwnd));
            let room = if before(self.send.next, edge) { edge.wrapping_sub(self.send.next) } else { 0 };
            if !self.put_next(now, room, out) {
                return;
            }
            self.wants_ack = false;
        }
    }

    fn transmit(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        let sends = matches!(
            self.state,
            State::Established | State::CloseWait | State::FinWait1 | State::Closing | State::LastAck
        );
        if sends {
            self.send_what_fits(now, out);
        }
        let waits = self.send.in_flight() != 0
            || (sends && self.send.next != self.send.stream_end().wrapping_add(u32::from(self.send.closed)));
        if sends && waits && self.timer.is_none() {
            self.timer = Some(now.after(self.send.rto));
        }
        if self.wants_ack && self.state != State::Closed {
            self.put_ack(now, out);
        }
    }

    fn time_out(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        self.timer = None;
        match self.state {
            State::SynSent => {
                if self.send.max == self.send.iss {
                    self.timer = Some(now.after(FIRST_RTO));
                    self.put_syn(now, out);
                } else if self.retries >= SYN_RETRIES {
                    self.finish(End::TimedOut);
                } else {
                    self.retries += 1;
                    self.timer = Some(now.after(FIRST_RTO * (1 << self.retries)));
                    self.put_syn(now, out);
                }
            }
            State::SynReceived if self.retries >= SYN_ACK_RETRIES => self.state = State::Listen,
            State::SynReceived => {
                self.retries += 1;
                self.timer = Some(now.after(FIRST_RTO * (1 << self.retries)));
                self.put_syn(now, out);
            }
            State::TimeWait => self.finish(End::Closed),
            State::Established | State::CloseWait | State::FinWait1 | State::Closing | State::LastAck => {
                self.retransmit(now, out);
            }
            State::FinWait2 => self.finish(End::TimedOut),
            State::Listen | State::Closed => {}
        }
    }

    fn retransmit(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        if self.retries >= RETRIES {
            // Whoever has got all and only lacks the last ACK has closed, as its application sees it.
            let lacks_last_ack = matches!(self.state, State::LastAck | State::Closing)
                && self.send.una == self.send.stream_end();
            self.finish(if lacks_last_ack { End::Closed } else { End::TimedOut });
            return;
        }
        self.retries += 1;
        self.send.rto = (self.send.rto * 2).min(MAX_RTO);
        self.timer = Some(now.after(self.send.rto));
        self.send.timed = None;
        if self.send.in_flight() == 0 {
            self.put_probe(now, out);
            return;
        }
        self.send.ssthresh = (self.send.in_flight() / 2).max(2 * self.send.mss);
        self.send.cwnd = self.send.mss;
        self.send.recover = None;
        self.send.duplicates = 0;
        self.send.next = self.send.una;
        self.put_next(now, self.send.window.max(1), out);
    }

    fn keep_alive(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        self.keep_alive_at = now.after(KEEP_ALIVE);
        self.unanswered += 1;
        if self.unanswered > KEEP_ALIVES {
            self.finish(End::TimedOut);
        } else {
            self.put_probe(now, out);
        }
    }

    fn with_this_past(&mut self) -> Vec<(u32, u32)> {
        self.past.push((self.send.iss, self.send.max));
        std::mem::take(&mut self.past)
    }

    /// A client's next connection.
    fn begin(&mut self, now: Instant) {
        let mut next = Tcp::connect(self.settings, self.local, self.remote);
        (next.foreign, next.past) = (self.foreign.take(), self.with_this_past());
        next.timer = Some(now);
        *self = next;
    }

    fn keeps_alive(&self) -> bool {
        self.settings.keep_alive
            && (self.timer.is_none() || self.state == State::FinWait2)
            && matches!(self.state, State::Established | State::FinWait2 | State::CloseWait)
    }
}

impl Host for Tcp {
    fn receive(&mut self, now: Instant, frame: &[u8], out: &mut Vec<Vec<u8>>) {
        if let Some(layout) = valid(frame) {
            self.handle(now, &Segment::new(frame, layout), ecn::of_packet(frame), out);
            self.transmit(now, out);
        }
    }

    fn poll(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        if self.wants_reset {
            self.wants_reset = false;
            let reset = Outgoing {
                flags: RST | ACK,
                seq: self.send.max,
                ack: self.receive.next,
                ..Outgoing::default()
            };
            self.put(&reset, out);
        }
        if self.timer.is_some_and(|at| at <= now) {
            self.time_out(now, out);
        } else if self.keeps_alive() && self.keep_alive_at <= now {
            self.keep_alive(now, out);
        }
        self.transmit(now, out);
    }

    fn deadline(&self) -> Option<Instant> {
        let keep_alive = self.keeps_alive().then_some(self.keep_alive_at);
        self.timer.into_iter().chain(keep_alive).min()
    }

    fn client_iss(&self) -> Option<u32> {
        match self.is_server {
            true => (self.state != State::Listen).then_some(self.receive.irs),
            false => Some(self.send.iss),
        }
    }

    fn is_half_open(&self) -> bool {
        self.state == State::SynReceived
    }

    fn is_open(&self) -> bool {
        self.was_open
    }

    fn room(&self) -> usize {
        usize::MAX
    }

    fn write(&mut self, octets: &[u8]) -> usize {
        self.send.stream.extend(octets);
        octets.len()
    }

    fn read(&mut self, into: &mut Vec<u8>) {
        // A window that was closed is opened with a word (RFC 9293 §3.8.6.2.2).
        self.wants_ack |= self.free() < 2 * self.send.mss && self.state != State::Closed;
        into.append(&mut self.receive.delivered);
    }

    fn is_at_end(&self) -> bool {
        self.receive.fin.is_some_and(|fin| self.receive.next == fin.wrapping_add(1))
            && self.receive.delivered.is_empty()
    }

    fn close(&mut self) {
        self.send.closed = true;
        self.state = match self.state {
            State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            other => other,
        };
    }

    fn abort(&mut self) {
        self.wants_reset = true;
        self.finish(End::Reset);
    }

    fn end(&self) -> Option<End> {
        self.end
    }

    fn reopen(&mut self, now: Instant, advance: u32) -> bool {
        self.settings.iss = self.send.max.wrapping_add(advance);
        self.begin(now);
        true
    }

    fn forget(&mut self, now: Instant, iss: u32, ts_offset: u32) -> bool {
        self.settings = Settings { iss, ts_offset, ..self.settings };
        self.begin(now);
        true
    }

    fn hear_too_big(&mut self, now: Instant, mtu: u16, seq: u32, out: &mut Vec<Vec<u8>>) -> bool {
        let headers = if self.local.0.is_ipv4() { 40 } else { 60 } + if self.timestamps { 12 } else { 0 };
        let mss = u32::from(mtu).saturating_sub(headers);
        // RFC 5927 §7: only what is in flight can be too big.
        if within(seq, self.send.una, self.send.max.wrapping_sub(1))
            && LEAST_MSS <= mss
            && mss < self.send.mss
        {
            self.send.mss = mss;
            self.resend_first(now, out);
        }
        let is_late = self.past.iter().any(|(iss, max)| within(seq, *iss, *max));
        is_late || within(seq, self.send.iss, self.send.max)
    }

    fn foreign(&mut self) -> Option<Foreign> {
        self.foreign.take()
    }
}

/// ECT(0).
const ECT: u8 = 2;
/// Of an MTU of 552, Linux's least, less than which no honest router has.
const LEAST_MSS: u32 = 480;
const FIRST_RTO: Duration = Duration::from_secs(1);
const MIN_RTO: Duration = Duration::from_millis(200);
/// Short of what RFC 6298 §2.5 allows: on links that lose a third, pauses of a minute add up to more than a table may
/// keep a connection whose FINs have passed (RFC 5382 §5: 4 minutes), and it is not timeouts that are to be compared.
const MAX_RTO: Duration = Duration::from_secs(20);
/// As Linux: 127 s for the SYN, 63 s for the SYN-ACK.
const SYN_RETRIES: u32 = 6;
const SYN_ACK_RETRIES: u32 = 5;
/// More than any Linux, so that a stream that ends early does not hide a stuck one.
const RETRIES: u32 = 40;
/// 1 MSL twice would be 4 minutes; Linux takes one.
const TIME_WAIT: Duration = Duration::from_secs(60);
/// How long the peer's FIN is waited for: longer than any answer takes.
const FIN_WAIT: Duration = Duration::from_secs(6 * 3_600);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const ACK_PAUSE: Duration = Duration::from_millis(500);
const KEEP_ALIVES: u32 = 24;
