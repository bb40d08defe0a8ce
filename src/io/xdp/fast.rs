//! What the program does for the engine: flows, marks and refusals in its maps.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU32};
use std::time::Duration;

use super::abi::{self, Slot, flow_flag, setting};
use super::table::{self, Key, key_of};
use super::{Path, clock, locked, millis};
use crate::engine::Side;
use crate::engine::fast::{FastCounts, FastEnd, FastEnds, FastFlow, FastPath};
use crate::engine::policy::ServiceId;
use crate::engine::stats::{PortValues, ServiceRowValues};
use crate::table::flow_key::FlowKey;
use crate::table::prefix;

impl FastPath for Path {
    fn admit(&self, key: &FlowKey, flow: &FastFlow) -> bool {
        let now = millis(clock());
        self.table.admit(now, &words(key), |slot| write_flow(slot, flow, now))
    }

    fn ends(&self, key: &FlowKey) -> Option<FastEnds> {
        let now = millis(clock());
        self.table.with(&words(key), |slot| read_ends(slot, now))
    }

    fn note(&self, key: &FlowKey, ends: &FastEnds, is_up: bool) {
        let now = millis(clock());
        self.table.with(&words(key), |slot| note_ends(slot, ends, is_up, now));
    }

    fn challenge(&self, key: &FlowKey, iss: u32) {
        self.table.with(&words(key), |slot| {
            slot.ts_delta.store(iss, Relaxed);
            set_bit(&slot.flags, flow_flag::CHALLENGED, true);
        });
    }

    fn remove(&self, key: &FlowKey) {
        self.table.remove(millis(clock()), &words(key));
    }

    fn mark_pending(&self, key: &FlowKey) {
        let (words, now) = (words(key), millis(clock()));
        // The kernel refuses only what it has no memory for: the next segment of the connection tries again.
        let _ = locked(&self.pending).insert(words, now, 0);
        self.table.hint_pending(now, &words);
    }

    fn note_refusal(&self, (server, port): (IpAddr, u16), client: Option<IpAddr>, life: Duration) {
        let until = clock().saturating_add(nanos(life));
        let [a, b, c, d] = address_words(server);
        let [e, f] = client.map_or([0; 2], prefix_words);
        let [high, low] = port.to_be_bytes();
        let key = [a, b, c, d, e, f, u32::from_ne_bytes([high, low, 0, 0])];
        // As above: a server that refuses again is noted again.
        let _ = locked(&self.refused).insert(key, until, 0);
        self.settings().refused_until.fetch_max(until, Relaxed);
    }

    fn note_known(&self, client: IpAddr, ago: Duration) {
        self.known.note(client, clock().saturating_sub(nanos(ago)));
    }

    fn press(&self, service: ServiceId, is_pressed: bool) {
        if let Some(service) = self.services.get(service.index()) {
            service.pressed.store(u32::from(is_pressed), Relaxed);
        }
    }

    fn is_pressed(&self, service: ServiceId) -> bool {
        self.services.get(service.index()).is_some_and(|service| service.pressed.load(Relaxed) != 0)
    }

    fn counts(&self, service: ServiceId) -> FastCounts {
        let mut sum = ServiceRowValues::default();
        self.counters.add_service_to(Some(service), &mut sum);
        FastCounts { syn_received: sum.counters.syn_received, synack_sent: sum.counters.synack_sent }
    }

    fn set_direct_flows(&self, are_there: bool) {
        self.set_flag(setting::DIRECT_FLOWS, are_there);
    }

    fn set_sampling(&self, log2: u8) {
        self.settings().sampling_log2.store(log2.min(MOST_SAMPLING), Relaxed);
    }

    fn add_service_to(&self, service: Option<ServiceId>, sum: &mut ServiceRowValues) {
        self.counters.add_service_to(service, sum);
    }

    fn add_port_to(&self, side: Side, sum: &mut PortValues) {
        self.counters.add_port_to(side, sum);
    }
}

impl Path {
    /// How many flows are in the table.
    pub fn flow_count(&self) -> usize {
        self.table.len()
    }

    /// How many frames were passed to the engine, which counts them as received, by [`Side::index`].
    pub fn passed_up(&self) -> [u64; 2] {
        Side::ALL.map(|side| self.counters.passed_up(side))
    }

    /// All flows in the table: after an adoption those of the earlier run.
    pub fn flows(&self) -> Vec<(FlowKey, FastFlow)> {
        let now = millis(clock());
        self.table.flows(|slot| (flow_key(&key_of(slot)), read_flow(slot, now)))
    }
}

/// The words of a key as the program compares them.
fn words(key: &FlowKey) -> Key {
    let ([a, b, c, d], [e, f, g, h]) = (address_words(key.client()), address_words(key.server()));
    let ([m, n], [o, p]) = (key.client_port().to_be_bytes(), key.server_port().to_be_bytes());
    [a, b, c, d, e, f, g, h, u32::from_ne_bytes([m, n, o, p])]
}

fn flow_key(words: &Key) -> FlowKey {
    let [a, b, c, d, e, f, g, h, ports] = *words;
    let [m, n, o, p] = ports.to_ne_bytes();
    let (client, server) = (address([a, b, c, d]), address([e, f, g, h]));
    FlowKey::new(client, u16::from_be_bytes([m, n]), server, u16::from_be_bytes([o, p]))
}

/// An address as IPv6 has it, IPv4 mapped, in words as they lie in a packet.
pub(super) fn address_words(address: IpAddr) -> [u32; 4] {
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let (chunks, _) = octets.as_chunks::<4>();
    std::array::from_fn(|n| chunks.get(n).map_or(0, |chunk| u32::from_ne_bytes(*chunk)))
}

/// The prefix of a client as `prefix_of` in `src/bpf/hash.h` has it.
pub(super) fn prefix_words(client: IpAddr) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = prefix::octets(client);
    // The engine has the family's mark in the same four octets, and behind them one of padding in front of the /24's three.
    let low = if client.is_ipv4() { [f, g, h, 0] } else { [e, f, g, h] };
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes(low)]
}

/// The address in such words.
pub(super) fn address(words: [u32; 4]) -> IpAddr {
    let mut octets = [0; 16];
    for (to, from) in octets.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    IpAddr::from(octets).to_canonical()
}

fn write_flow(slot: &Slot, flow: &FastFlow, now: u32) {
    let FastFlow { ends, server_window: [a, b], client_window: [c, d], .. } = flow;
    let scales = [a, b, c, d].into_iter().rev().fold(0_u16, |all, scale| all << 4 | u16::from(scale & 0xf));
    slot.delta.store(flow.delta, Relaxed);
    slot.ts_delta.store(flow.challenged.unwrap_or(flow.ts_delta), Relaxed);
    for (to, from) in slot.ends.iter().zip([ends.client, ends.server]) {
        to.next.store(from.next, Relaxed);
        to.acked.store(from.acked, Relaxed);
        to.edge.store(from.edge, Relaxed);
        to.max_window.store(from.max_window, Relaxed);
    }
    slot.clock_latest.store(ends.clock_latest, Relaxed);
    slot.clock_reach.store(ends.clock_reach, Relaxed);
    slot.last_seen.store(now.wrapping_sub(idle_millis(ends.idle)), Relaxed);
    slot.client_iss.store(flow.client_iss, Relaxed);
    slot.scales.store(scales, Relaxed);
    slot.service.store(flow.service.0, Relaxed);
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    let flags = flag(flow.is_up, flow_flag::UP)
        | flag(flow.is_direct, flow_flag::DIRECT)
        | flag(flow.challenged.is_some(), flow_flag::CHALLENGED);
    slot.flags.store(flags, Relaxed);
    slot.storm.store(0, Relaxed);
    slot.marks.store(ends.marks, Relaxed);
    slot.last_server.store(0, Relaxed);
}

fn read_flow(slot: &Slot, now: u32) -> FastFlow {
    let (scales, flags) = (slot.scales.load(Relaxed), slot.flags.load(Relaxed));
    let [a, b, c, d] = [0, 4, 8, 12].map(|shift| (scales >> shift & 0xf) as u8);
    let ts_delta = slot.ts_delta.load(Relaxed);
    let challenged = (flags & flow_flag::CHALLENGED != 0).then_some(ts_delta);
    FastFlow {
        service: ServiceId(slot.service.load(Relaxed)),
        is_up: flags & flow_flag::UP != 0,
        is_direct: flags & flow_flag::DIRECT != 0,
        challenged,
        client_iss: slot.client_iss.load(Relaxed),
        delta: slot.delta.load(Relaxed),
        ts_delta: if challenged.is_some() { 0 } else { ts_delta },
        server_window: [a, b],
        client_window: [c, d],
        ends: read_ends(slot, now),
    }
}

fn read_ends(slot: &Slot, now: u32) -> FastEnds {
    let [client, server] = slot.ends.each_ref().map(|end| FastEnd {
        next: end.next.load(Relaxed),
        acked: end.acked.load(Relaxed),
        edge: end.edge.load(Relaxed),
        max_window: end.max_window.load(Relaxed),
    });
    let idle = table::idle(now, slot.last_seen.load(Relaxed));
    FastEnds {
        client,
        server,
        clock_latest: slot.clock_latest.load(Relaxed),
        clock_reach: slot.clock_reach.load(Relaxed),
        idle: Duration::from_millis(u64::from(idle)),
        marks: slot.marks.load(Relaxed),
    }
}

/// The program may note a segment at the same moment: numbers only move on, whoever moves them.
fn note_ends(slot: &Slot, ends: &FastEnds, is_up: bool, now: u32) {
    for (to, from) in slot.ends.iter().zip([ends.client, ends.server]) {
        let numbers = [(&to.next, from.next), (&to.acked, from.acked), (&to.edge, from.edge)];
        // Of an end that nothing was seen of: there is nothing to move on from.
        let is_unknown = numbers.iter().all(|(number, _)| number.load(Relaxed) == 0);
        for (number, value) in numbers {
            if is_unknown { number.store(value, Relaxed) } else { move_on(number, value) }
        }
        to.max_window.fetch_max(from.max_window, Relaxed);
    }
    note_clock(slot, ends);
    let idle = idle_millis(ends.idle);
    if table::idle(now, slot.last_seen.load(Relaxed)) > idle {
        slot.last_seen.store(now.wrapping_sub(idle), Relaxed);
    }
    slot.marks.store(ends.marks, Relaxed);
    set_bit(&slot.flags, flow_flag::UP, is_up);
}

/// As `ServerClock::note`: a value that is a little behind was overtaken, unless nothing was known yet.
fn note_clock(slot: &Slot, ends: &FastEnds) {
    let behind = slot.clock_latest.load(Relaxed).wrapping_sub(ends.clock_latest);
    let is_unknown = slot.clock_reach.load(Relaxed) == u32::MAX;
    if is_unknown || behind == 0 || behind >= CLOCK_REACH {
        slot.clock_latest.store(ends.clock_latest, Relaxed);
        slot.clock_reach.store(ends.clock_reach, Relaxed);
    }
}

/// Moves a serial number (RFC 1982) on, never back, whatever the program does at the same time.
fn move_on(to: &AtomicU32, value: u32) {
    // Half the circle apart the newer counts, as with `SeqNumber::max`.
    let is_behind = |number: u32| number.wrapping_sub(value).cast_signed() < 0;
    // Nothing to do is no failure.
    let _ = to.fetch_update(Relaxed, Relaxed, |number| is_behind(number).then_some(value));
}

fn set_bit(flags: &AtomicU8, bit: u8, is_set: bool) {
    if is_set {
        flags.fetch_or(bit, Relaxed);
    } else {
        flags.fetch_and(!bit, Relaxed);
    }
}

fn idle_millis(idle: Duration) -> u32 {
    u32::try_from(idle.as_millis()).unwrap_or(u32::MAX).min(table::LONGEST_IDLE)
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A quarter of the circle, as in `engine::translate`.
const CLOCK_REACH: u32 = 1 << 30;

/// One SYN in 2^16, as for the engine.
const MOST_SAMPLING: u8 = 16;

const _: () = assert!(abi::KEY_WORDS * 4 == 36);

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(base: u32) -> FastEnds {
        let end = |base: u32| FastEnd {
            next: base,
            acked: base.wrapping_add(1),
            edge: base.wrapping_add(2),
            max_window: base & 0xffff,
        };
        FastEnds {
            client: end(base),
            server: end(base.wrapping_add(10)),
            clock_latest: base.wrapping_add(20),
            clock_reach: 3,
            idle: Duration::from_millis(500),
            marks: 7,
        }
    }

    #[test]
    fn keys_come_back_as_they_were_and_lie_as_in_a_packet() {
        for (client, server) in [("198.18.0.1", "198.18.0.2"), ("2001:db8::1", "2001:db8::2")] {
            let key = FlowKey::new(client.parse().unwrap(), 0x1234, server.parse().unwrap(), 0x5678);
            assert_eq!(flow_key(&words(&key)), key);
            assert_eq!(words(&key)[8].to_ne_bytes(), [0x12, 0x34, 0x56, 0x78]);
        }
        assert_eq!(address_words("198.18.0.1".parse().unwrap())[3].to_ne_bytes(), [198, 18, 0, 1]);
        assert_eq!(address_words("198.18.0.1".parse().unwrap())[2].to_ne_bytes(), [0, 0, 0xff, 0xff]);
    }

    #[test]
    fn a_client_s_prefix_lies_as_in_a_packet() {
        let octets = |text: &str| prefix_words(text.parse().unwrap()).map(u32::to_ne_bytes);
        assert_eq!(octets("198.18.3.7"), [[0xff, 0, 0, 4], [198, 18, 3, 0]]);
        assert_eq!(octets("2001:db8:1:2::7"), [[0x20, 1, 0xd, 0xb8], [0, 1, 0, 2]]);
    }

    #[test]
    fn a_flow_comes_back_as_it_was() {
        let slot = Slot::default();
        let flow = FastFlow {
            service: ServiceId(256),
            is_up: true,
            is_direct: false,
            challenged: None,
            client_iss: 1,
            delta: 2,
            ts_delta: 3,
            server_window: [7, 14],
            client_window: [0, 9],
            ends: ends(u32::MAX),
        };
        write_flow(&slot, &flow, 100);
        assert_eq!(slot.scales.load(Relaxed), 0x90e7);
        assert_eq!(read_flow(&slot, 100), flow);
        let direct = FastFlow { is_up: false, is_direct: true, ts_delta: 0, challenged: Some(5), ..flow };
        write_flow(&slot, &direct, 100);
        assert_eq!(read_flow(&slot, 100), direct);
    }

    fn translated(ends: FastEnds) -> FastFlow {
        FastFlow {
            service: ServiceId(0),
            is_up: false,
            is_direct: false,
            challenged: None,
            client_iss: 0,
            delta: 0,
            ts_delta: 0,
            server_window: [0; 2],
            client_window: [0; 2],
            ends,
        }
    }

    #[test]
    fn ends_only_move_on_even_where_numbers_go_around() {
        let slot = Slot::default();
        let flow = translated(ends(u32::MAX - 5));
        write_flow(&slot, &flow, 10_000);
        let older = ends(u32::MAX - 50);
        note_ends(&slot, &FastEnds { marks: 8, idle: Duration::from_secs(3), ..older }, true, 10_000);
        let max_window = flow.ends.client.max_window;
        let seen = read_ends(&slot, 10_000);
        assert_eq!((seen.client, seen.clock_latest), (flow.ends.client, flow.ends.clock_latest));
        assert_eq!((seen.marks, seen.idle), (8, flow.ends.idle));
        assert!(read_flow(&slot, 10_000).is_up);
        note_ends(&slot, &ends(100), false, 10_000);
        let seen = read_ends(&slot, 10_000);
        assert_eq!(seen.client, FastEnd { max_window, ..ends(100).client });
        assert_eq!((seen.clock_latest, read_flow(&slot, 10_000).is_up), (120, false));
    }

    #[test]
    fn ends_of_which_nothing_was_seen_begin_wherever_they_are() {
        let slot = Slot::default();
        slot.clock_reach.store(u32::MAX, Relaxed);
        note_ends(&slot, &ends(3 << 30), false, 10_000);
        let seen = read_ends(&slot, 10_000);
        assert_eq!((seen.client, seen.server), (ends(3 << 30).client, ends(3 << 30).server));
        assert_eq!((seen.clock_latest, seen.clock_reach), (ends(3 << 30).clock_latest, 3));
    }

    #[test]
    fn a_segment_from_the_future_came_now() {
        let slot = Slot::default();
        slot.last_seen.store(1_005, Relaxed);
        assert_eq!(read_ends(&slot, 1_000).idle, Duration::ZERO);
        assert_eq!(read_ends(&slot, 1_105).idle, Duration::from_millis(100));
    }

    #[test]
    fn a_month_without_a_segment_is_a_month_wherever_the_clock_goes_around() {
        const DAY: u32 = 86_400_000;
        for last_seen in [0, 1, 1 << 31, u32::MAX] {
            let slot = Slot::default();
            slot.last_seen.store(last_seen, Relaxed);
            for days in [24, 25, 30, 49] {
                let idle = read_ends(&slot, last_seen.wrapping_add(days * DAY)).idle;
                assert_eq!(idle, Duration::from_millis(u64::from(days) * u64::from(DAY)));
            }
        }
    }

    #[test]
    fn a_segment_after_a_month_counts() {
        let slot = Slot::default();
        slot.last_seen.store(1_000, Relaxed);
        note_ends(&slot, &ends(7), false, 1_000 + 26 * 86_400_000);
        assert_eq!(read_ends(&slot, 1_000 + 26 * 86_400_000).idle, ends(7).idle);
    }

    #[test]
    fn a_flow_comes_in_with_the_month_that_it_was_idle_for() {
        let slot = Slot::default();
        let idle = Duration::from_secs(30 * 86_400);
        let flow = translated(FastEnds { idle, ..ends(7) });
        write_flow(&slot, &flow, 100);
        assert_eq!(read_ends(&slot, 100).idle, idle);
    }
}
