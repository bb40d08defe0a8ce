//! smoltcp as a host: a TCP that shares no line with this crate.
//!
//! Each end has an interface of its own with one socket, so that its ISS can be chosen: the interface's random numbers
//! are a linear congruence, which is solved for the seed.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket as TcpSocket, SocketBuffer, State};
use smoltcp::time::{Duration as SmolDuration, Instant as SmolInstant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use synwall::time::Instant;
use synwall::wire::tcp::Segment;

use super::host::{End, Foreign, Host};
use super::packet::{FIN, LINK, RST, SYN, Socket, on_link, valid};
use super::tcp::Settings;

/// One end.
pub struct Smol {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    wire: Wire,
    is_server: bool,
    client_iss: Option<u32>,
    was_open: bool,
    was_reset: bool,
    /// The peer's FIN has come.
    has_fin: bool,
    aborted: bool,
    /// It failed by itself: see [`ENDLESS`], [`SILENCE`] and [`Smol::overflows`].
    is_faulty: bool,
    /// It gave up, whatever smoltcp says of it.
    has_given_up: bool,
    last_sent: Instant,
    due: Option<Instant>,
}

/// More frames than any window holds, in one poll: smoltcp repeats a FIN for ever, without a pause, when the window closes
/// on it in an unlucky moment. Such an end counts as one that gave up, with synwall and without.
const ENDLESS: usize = 4096;

/// smoltcp can forget that octets of its own are unacknowledged: it says nothing more until its timeout resets the connection.
/// No TCP that works is silent for as long.
const SILENCE: Duration = Duration::from_secs(600);

#[derive(Default)]
struct Wire {
    arrived: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    mtu: usize,
}

impl Smol {
    /// A client, or a server that waits for it. Of the settings the window scale follows from the buffer, and SACK is
    /// always permitted.
    pub fn new(now: Instant, settings: &Settings, local: Socket, remote: Socket, is_server: bool) -> Smol {
        let headers = if local.0.is_ipv4() { 40 } else { 60 };
        let mut wire = Wire { mtu: usize::from(settings.mss) + headers, ..Wire::default() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed_for(settings.iss);
        let mut interface = Interface::new(config, &mut wire, instant(now));
        interface.update_ip_addrs(|addresses| {
            let prefix = if local.0.is_ipv4() { 32 } else { 128 };
            addresses.push(IpCidr::new(IpAddress::from(local.0), prefix)).expect("room for one");
        });
        let routes = interface.routes_mut();
        match remote.0 {
            std::net::IpAddr::V4(gateway) => _ = routes.add_default_ipv4_route(gateway),
            std::net::IpAddr::V6(gateway) => _ = routes.add_default_ipv6_route(gateway),
        }
        let buffer = |octets: u32| SocketBuffer::new(vec![0; octets as usize]);
        let mut socket = TcpSocket::new(buffer(settings.buffer), buffer(16_384));
        socket.set_timeout(Some(SmolDuration::from_secs(900)));
        if settings.timestamps {
            socket.set_tsval_generator(Some(milliseconds));
        }
        if settings.keep_alive {
            socket.set_keep_alive(Some(SmolDuration::from_secs(5)));
        }
        if is_server {
            socket.listen(local.1).expect("a port");
        } else {
            socket.connect(interface.context(), remote, local.1).expect("a route");
        }
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Smol {
            interface,
            sockets,
            handle,
            wire,
            is_server,
            client_iss: (!is_server).then_some(settings.iss),
            was_open: false,
            was_reset: false,
            has_fin: false,
            aborted: false,
            is_faulty: false,
            has_given_up: false,
            last_sent: now,
            due: Some(now),
        }
    }

    fn socket(&mut self) -> &mut TcpSocket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Whether a frame carries a FIN behind more octets than there is room for: smoltcp takes the FIN all the same, as if it
    /// stood where the room ends, and the octets between are lost.
    fn overflows(&self, frame: &[u8]) -> bool {
        let socket = self.sockets.get::<TcpSocket<'static>>(self.handle);
        let room = socket.recv_capacity() - socket.recv_queue();
        valid(frame).is_some_and(|layout| {
            let segment = Segment::new(frame, layout);
            segment.flags().0 & FIN != 0 && segment.payload().len() > room
        })
    }

    fn state(&self) -> State {
        self.sockets.get::<TcpSocket<'static>>(self.handle).state()
    }
}

impl Host for Smol {
    fn receive(&mut self, now: Instant, frame: &[u8], out: &mut Vec<Vec<u8>>) {
        // It checks checksums itself; what is not even IP it would not be handed.
        if frame.len() <= LINK {
            return;
        }
        let before = self.state();
        if self.is_server
            && before == State::Listen
            && let Some(layout) = valid(frame)
            && Segment::new(frame, layout).flags().0 == SYN
        {
            self.client_iss = Some(Segment::new(frame, layout).seq().0);
        }
        let overflows = self.overflows(frame);
        let is_reset = valid(frame).is_some_and(|layout| Segment::new(frame, layout).flags().0 & RST != 0);
        self.wire.arrived.push_back(frame[LINK..].to_vec());
        self.poll(now, out);
        let is_over = self.state() == State::Closed;
        let was_closing = matches!(before, State::Closing | State::LastAck | State::TimeWait | State::Closed);
        self.was_reset |= is_over && is_reset && !was_closing;
        self.is_faulty |= overflows && self.has_fin;
    }

    fn poll(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        MILLIS.set((now.as_nanos() / 1_000_000) as u32);
        let at = instant(now);
        self.interface.poll(at, &mut self.wire, &mut self.sockets);
        if self.wire.sent.len() >= ENDLESS {
            (self.is_faulty, self.has_given_up) = (true, true);
            self.wire.sent.clear();
            self.socket().abort();
        }
        if !self.wire.sent.is_empty() {
            self.is_faulty |= now.since(self.last_sent) > SILENCE;
            self.last_sent = now;
        }
        out.extend(self.wire.sent.drain(..).map(|packet| on_link(&packet)));
        self.was_open |=
            !matches!(self.state(), State::Closed | State::Listen | State::SynSent | State::SynReceived);
        self.has_fin |=
            matches!(self.state(), State::CloseWait | State::Closing | State::LastAck | State::TimeWait);
        self.due = self
            .interface
            .poll_at(at, &self.sockets)
            .map(|due| Instant::from_nanos(due.total_micros().max(0) as u64 * 1_000));
    }

    fn deadline(&self) -> Option<Instant> {
        self.due
    }

    fn client_iss(&self) -> Option<u32> {
        self.client_iss
    }

    fn is_half_open(&self) -> bool {
        self.state() == State::SynReceived
    }

    fn is_open(&self) -> bool {
        self.was_open
    }

    fn room(&self) -> usize {
        let socket = self.sockets.get::<TcpSocket<'static>>(self.handle);
        socket.send_capacity() - socket.send_queue()
    }

    fn write(&mut self, octets: &[u8]) -> usize {
        self.due = Some(Instant::ZERO);
        self.socket().send_slice(octets).unwrap_or(0)
    }

    fn read(&mut self, into: &mut Vec<u8>) {
        while let Ok(true) = self.socket().recv(|octets| {
            into.extend(&*octets);
            (octets.len(), !octets.is_empty())
        }) {
            self.due = Some(Instant::ZERO);
        }
    }

    fn is_at_end(&self) -> bool {
        let unread = self.sockets.get::<TcpSocket<'static>>(self.handle).recv_queue();
        self.has_fin && unread == 0 && !self.was_reset && !self.aborted
    }

    fn close(&mut self) {
        self.due = Some(Instant::ZERO);
        self.socket().close();
    }

    fn abort(&mut self) {
        self.due = Some(Instant::ZERO);
        self.aborted = true;
        self.socket().abort();
    }

    fn end(&self) -> Option<End> {
        match self.state() {
            _ if self.has_given_up => Some(End::TimedOut),
            _ if self.aborted || self.was_reset => Some(End::Reset),
            State::TimeWait => Some(End::Closed),
            State::Closed if self.has_fin => Some(End::Closed),
            State::Closed => Some(End::TimedOut),
            _ => None,
        }
    }

    fn foreign(&mut self) -> Option<Foreign> {
        None
    }

    fn is_faulty(&self) -> bool {
        self.is_faulty
    }
}

impl Device for Wire {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Arrived, Sending<'_>)> {
        self.arrived.pop_front().map(|packet| (Arrived(packet), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Sending<'_>> {
        (self.sent.len() < ENDLESS).then_some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

struct Arrived(Vec<u8>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut packet = vec![0; len];
        let result = fill(&mut packet);
        self.0.push(packet);
        result
    }
}

thread_local! {
    /// smoltcp asks a plain function for its TSval.
    static MILLIS: Cell<u32> = const { Cell::new(0) };
}

fn milliseconds() -> u32 {
    MILLIS.get()
}

fn instant(at: Instant) -> SmolInstant {
    SmolInstant::from_micros((at.as_nanos() / 1_000) as i64)
}

/// The seed with which the interface's second number, its first ISS, is `iss`: `state = state * M + A`, and the number
/// is `state >> 29` as long as the top three bits are clear.
fn seed_for(iss: u32) -> u64 {
    const M: u64 = 0xbb2e_fcec_3c39_611d;
    const A: u64 = 0x7590_ef39;
    // Newton's iteration doubles the right bits of the inverse modulo 2^64.
    let inverse = (0..6).fold(M, |x, _| x.wrapping_mul(2u64.wrapping_sub(M.wrapping_mul(x))));
    let back = |state: u64| state.wrapping_sub(A).wrapping_mul(inverse);
    back(back((u64::from(iss) << 29) | 0x1234_5678))
}
