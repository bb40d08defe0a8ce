//! Rewrites the segments of an established flow, so that each end sees the sequence numbers it knows.
//!
//! `delta = server_iss - cookie_iss`: client to server it is added to SEG.ACK and to every SACK edge, server to client
//! it is subtracted from SEG.SEQ. `ts_delta = server_ts - cookie_ts` does the same for TSecr and TSval (RFC 7323 §3).

use super::classify::{Arrival, verify};
use crate::wire::icmp::QuotedSegmentMut;
use crate::wire::tcp::{Flags, Segment, SegmentMut};
use crate::wire::tcp_options::TcpOption;

/// How a flow is translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Translation {
    pub(super) delta: u32,
    pub(super) ts_delta: u32,
    /// What a TSecr may echo.
    pub(super) server_clock: ServerClock,
    /// For the window that the server announces.
    pub(super) server_window: Rescale,
    /// For the window that the client announces.
    pub(super) client_window: Rescale,
    /// The client was granted SACK and the server does not know it: its blocks become NOPs.
    pub(super) strips_sack: bool,
    /// The client was promised ECN and the server does not do it: its packets are marked as not capable, or the
    /// congestion that they met would never be heard of (RFC 3168 §6.1.1).
    pub(super) strips_ecn: bool,
}

/// The TSvals that the server has sent.
///
/// A client whose SYN was repeated was given two cookies, with TSvals of two seconds, and may echo either, now the one and
/// now the other. `ts_delta` belongs to one of them; translated by it the other would echo what the server never sent. A
/// server in SYN-RECEIVED drops such an ACK, and a later one takes it for a round trip of half an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerClock {
    latest: u32,
    /// How far back TSvals count: to the SYN-ACK's, or `REACH`.
    reach: u32,
}

impl ServerClock {
    /// The clock of a server whose SYN-ACK said `tsval`.
    pub(super) fn new(tsval: u32) -> ServerClock {
        ServerClock { latest: tsval, reach: 0 }
    }

    /// A clock that has gone on, unseen, since it said `tsval`: any echo may be its own.
    pub(super) fn unseen_since(tsval: u32) -> ServerClock {
        ServerClock { latest: tsval, reach: u32::MAX }
    }

    /// A clock whose latest TSval and reach are known.
    pub(super) fn at(latest: u32, reach: u32) -> ServerClock {
        ServerClock { latest, reach }
    }

    /// The latest TSval, and how far back TSvals count.
    pub(super) fn parts(self) -> (u32, u32) {
        (self.latest, self.reach)
    }

    /// The latest TSval.
    pub(super) fn latest(self) -> u32 {
        self.latest
    }

    /// Notes a TSval. One that is a little behind was overtaken; a clock that seems to have gone back further has gone
    /// around. A leap counts only in a segment that `is_whole`: a bit that was flipped on the way would make the client's
    /// next echoes look like a cookie's.
    fn note(&mut self, tsval: u32, is_whole: impl FnOnce() -> bool) {
        let (ahead, behind) = (tsval.wrapping_sub(self.latest), self.latest.wrapping_sub(tsval));
        if (behind == 0 || behind >= REACH) && (ahead < LEAP || is_whole()) {
            self.latest = tsval;
            self.reach = self.reach.saturating_add(ahead).min(REACH);
        }
    }

    /// What the server is to see of an echo: itself if the server has sent it, else it was a cookie's, which stands for
    /// the SYN-ACK.
    fn echo(self, tsecr: u32) -> u32 {
        let is_its_own = self.latest.wrapping_sub(tsecr) <= self.reach;
        if is_its_own { tsecr } else { self.latest.wrapping_sub(self.reach) }
    }
}

/// How far TSvals are remembered: a quarter of the circle, 12 days of a clock of milliseconds.
const REACH: u32 = 1 << 30;
/// More than a clock of milliseconds moves in a minute.
const LEAP: u32 = 1 << 16;

/// The change of a window field between the scale of who says it and the scale that its reader applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rescale {
    /// The scale of who says it.
    pub(super) from: u8,
    /// The scale that the reader applies.
    pub(super) to: u8,
}

impl Rescale {
    /// The field that says to the reader what `window` says: at most 65535, and never 0 unless it was 0, or the reader
    /// would stop and probe.
    pub(super) fn apply(self, window: u16) -> u16 {
        let octets = u64::from(window).wrapping_shl(u32::from(self.from));
        let field = u16::try_from(octets.wrapping_shr(u32::from(self.to))).unwrap_or(u16::MAX);
        if window == 0 { 0 } else { field.max(1) }
    }

    fn changes(self) -> bool {
        self.from != self.to
    }
}

impl Translation {
    /// The client's segment as the server is to see it.
    pub(super) fn client_to_server(&self, arrival: &Arrival<'_>, frame: &mut [u8]) {
        let has_ack = arrival.flags.has(Flags::ACK);
        if self.strips_ecn {
            arrival.layout.network.clear_ecn(frame);
        }
        let mut segment = SegmentMut::new(frame, arrival.layout);
        if has_ack {
            segment.set_ack(arrival.ack.add(self.delta));
        }
        if self.client_window.changes() {
            segment.set_window(self.client_window.apply(arrival.window));
        }
        for option in segment.as_segment().options().to_octets().iter() {
            match option {
                TcpOption::Sack { at, len } if self.strips_sack => segment.erase_in_options(at, len),
                TcpOption::Sack { at, len } => {
                    for edge in (at.saturating_add(2)..at.saturating_add(len)).step_by(4) {
                        segment.add_in_options(edge, self.delta);
                    }
                }
                // Without ACK the field means nothing (RFC 7323 §3.2).
                TcpOption::Timestamps { at, echo, .. } if has_ack => {
                    let told = self.server_clock.echo(echo.wrapping_add(self.ts_delta));
                    segment.add_in_options(at.saturating_add(6), told.wrapping_sub(echo));
                }
                _ => {}
            }
        }
        segment.finish(&arrival.offload);
    }

    /// The server's segment as the client is to see it.
    pub(super) fn server_to_client(&mut self, arrival: &Arrival<'_>, frame: &mut [u8]) {
        if let Some((value, _)) = Segment::new(frame, arrival.layout).options().timestamps() {
            self.server_clock.note(value, || verify(arrival, frame).is_ok());
        }
        let mut segment = SegmentMut::new(frame, arrival.layout);
        segment.set_seq(arrival.seq.sub(self.delta));
        if self.server_window.changes() {
            segment.set_window(self.server_window.apply(arrival.window));
        }
        for option in segment.as_segment().options().to_octets().iter() {
            if let TcpOption::Timestamps { at, .. } = option {
                segment.add_in_options(at.saturating_add(2), self.ts_delta.wrapping_neg());
            }
        }
        segment.finish(&arrival.offload);
    }

    /// What an error quotes of a server's segment, as the server sent it. A window that was rounded or cut stays near;
    /// nobody reads it there.
    pub(super) fn restore_server(&self, quoted: &mut QuotedSegmentMut<'_>) {
        quoted.add_to_seq(self.delta);
        restore_window(quoted, self.server_window);
        for option in quoted.as_segment().options().iter() {
            if let TcpOption::Timestamps { at, .. } = option {
                quoted.add_in_options(at.saturating_add(2), self.ts_delta);
            }
        }
    }

    /// What an error quotes of a client's segment, as the client sent it.
    pub(super) fn restore_client(&self, quoted: &mut QuotedSegmentMut<'_>) {
        let has_ack = quoted.as_segment().ack().is_some();
        quoted.add_to_ack(self.delta.wrapping_neg());
        restore_window(quoted, self.client_window);
        for option in quoted.as_segment().options().iter() {
            match option {
                TcpOption::Sack { at, len } => {
                    for edge in (at.saturating_add(2)..at.saturating_add(len)).step_by(4) {
                        quoted.add_in_options(edge, self.delta.wrapping_neg());
                    }
                }
                TcpOption::Timestamps { at, .. } if has_ack => {
                    quoted.add_in_options(at.saturating_add(6), self.ts_delta.wrapping_neg());
                }
                _ => {}
            }
        }
    }
}

fn restore_window(quoted: &mut QuotedSegmentMut<'_>, rescale: Rescale) {
    if let Some(window) = quoted.as_segment().window().filter(|_| rescale.changes()) {
        quoted.set_window(Rescale { from: rescale.to, to: rescale.from }.apply(window));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::classify::{self, Class};
    use crate::engine::policy::{Limits, Policy, PortSet, Prefix, Service};
    use crate::engine::verdict::Side;
    use crate::wire::buffer::Offload;
    use crate::wire::build::SegmentSpec;
    use crate::wire::checksum;
    use crate::wire::ethernet::LinkHeader;
    use crate::wire::frame::{self, Layout, Parsed};
    use crate::wire::seq::SeqNumber;
    use crate::wire::tcp::Segment;
    use crate::wire::tcp_options::Options;

    const CLIENT: [u8; 4] = [198, 18, 0, 1];
    const SERVER: [u8; 4] = [198, 18, 255, 2];

    fn policy() -> Policy {
        let service = Service {
            name: "web".into(),
            prefix: Prefix::host(SERVER.into()),
            ports: PortSet::all(),
            ..Service::default()
        };
        Policy::new(vec![service], Limits::default(), 1500).unwrap()
    }

    fn layout(frame: &[u8]) -> Layout {
        match frame::parse(frame) {
            Parsed::Tcp(layout) => layout,
            other => panic!("{other:?}"),
        }
    }

    /// A segment of `side` with any octets as options.
    fn frame(side: Side, flags: u8, numbers: (u32, u32, u16), options: &[u8]) -> Vec<u8> {
        let (source, destination) = match side {
            Side::Client => (CLIENT, SERVER),
            Side::Server => (SERVER, CLIENT),
        };
        let spec = SegmentSpec {
            link: LinkHeader::of(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0], 14),
            source: source.into(),
            destination: destination.into(),
            hop_limit: 61,
            flow_label: 0,
            source_port: 4000,
            destination_port: 80,
            seq: SeqNumber(numbers.0),
            ack: None,
            flags: Flags(flags),
            window: numbers.2,
            urgent: None,
            options: Default::default(),
            payload: b"payload",
        };
        let mut frame = vec![0; spec.room()];
        frame.truncate(spec.write(&mut frame.clone()));
        assert_eq!(spec.write(&mut frame), frame.len());
        let tail = frame.split_off(54);
        frame.extend(options);
        frame.extend(tail);
        frame[42..46].copy_from_slice(&numbers.1.to_be_bytes());
        frame[46] = ((20 + options.len()) << 2) as u8;
        let total = u16::try_from(frame.len() - 14).unwrap();
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        frame[24..26].fill(0);
        let header = !checksum::sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&header.to_be_bytes());
        frame[50..52].fill(0);
        let pseudo = checksum::pseudo_header(source.into(), destination.into(), frame.len() - 34);
        let tcp = !checksum::add(checksum::sum(&frame[34..]), pseudo);
        frame[50..52].copy_from_slice(&tcp.to_be_bytes());
        frame
    }

    /// The frame after its translation; everything but sequence numbers, window, options and checksum is as before.
    fn translated(translation: &Translation, side: Side, before: &[u8]) -> Vec<u8> {
        let policy = policy();
        let mut frame = before.to_vec();
        let Class::Segment(arrival) = classify::classify(&policy, side, before, Offload::default()) else {
            panic!("a segment of the service")
        };
        match side {
            Side::Client => translation.client_to_server(&arrival, &mut frame),
            Side::Server => (*translation).clone().server_to_client(&arrival, &mut frame),
        }
        let layout = layout(before);
        assert!(layout.has_valid_tcp_checksum(&frame) && layout.has_valid_ip_checksum(&frame));
        assert_eq!((&frame[..38], &frame[layout.payload..]), (&before[..38], &before[layout.payload..]));
        assert_eq!((&frame[46..48], &frame[52..54]), (&before[46..48], &before[52..54]));
        frame
    }

    /// Port unreachable, about the packet in `frame`.
    fn quoting(frame: &[u8]) -> Vec<u8> {
        let packet = &frame[14..];
        let total = u16::try_from(28 + packet.len()).unwrap().to_be_bytes();
        let mut error = [&[2; 12], &[8, 0, 0x45, 0][..], &total, &[0, 0, 0x40, 0, 64, 1, 0, 0]].concat();
        error.extend([CLIENT, SERVER].concat());
        let header = !checksum::sum(&error[14..34]);
        error[24..26].copy_from_slice(&header.to_be_bytes());
        error.extend([3, 3, 0, 0, 0, 0, 0, 0]);
        error.extend(packet);
        let message = !checksum::sum(&error[34..]);
        error[36..38].copy_from_slice(&message.to_be_bytes());
        error
    }

    /// A list of options: padding, timestamps, SACK and kinds that nobody knows, at any alignment.
    fn any_options() -> impl Strategy<Value = Vec<u8>> {
        let one = prop_oneof![
            Just(vec![1]),
            any::<[u8; 8]>().prop_map(|octets| [&[8, 10], &octets[..]].concat()),
            (1..=4u8, any::<[u8; 32]>()).prop_map(|(blocks, octets)| {
                let len = blocks * 8;
                [&[5, len + 2], &octets[..usize::from(len)]].concat()
            }),
            any::<[u8; 2]>().prop_map(|octets| [&[254, 4], &octets[..]].concat()),
            Just(vec![8, 9, 1, 2, 3, 4, 5, 6, 7]),
        ];
        proptest::collection::vec(one, 0..6).prop_map(|list| {
            let mut octets = Vec::new();
            for option in list {
                if octets.len() + option.len() <= 40 {
                    octets.extend(option);
                }
            }
            octets.resize(octets.len().next_multiple_of(4), 1);
            octets
        })
    }

    fn any_translation() -> impl Strategy<Value = Translation> {
        (any::<(u32, u32, bool)>(), [0..=14u8, 0..=14, 0..=14, 0..=14]).prop_map(|(n, scales)| Translation {
            delta: n.0,
            ts_delta: n.1,
            strips_sack: n.2,
            server_clock: ServerClock::unseen_since(0),
            server_window: Rescale { from: scales[0], to: scales[1] },
            client_window: Rescale { from: scales[2], to: scales[3] },
            strips_ecn: false,
        })
    }

    /// The options as they are to be, octet by octet.
    fn expected_options(options: &[u8], edit: impl Fn(TcpOption, &mut [u8])) -> Vec<u8> {
        let mut octets = options.to_vec();
        Options::new(options).for_each(|option| edit(option, &mut octets));
        octets
    }

    fn add(octets: &mut [u8], at: usize, delta: u32) {
        let field: &mut [u8; 4] = (&mut octets[at..at + 4]).try_into().unwrap();
        *field = u32::from_be_bytes(*field).wrapping_add(delta).to_be_bytes();
    }

    proptest! {
        #[test]
        fn the_servers_view_is_seq_ack_and_edges_plus_delta(
            translation in any_translation(), flags: u8, numbers: (u32, u32, u16), options in any_options(),
        ) {
            let before = frame(Side::Client, flags, numbers, &options);
            let after = translated(&translation, Side::Client, &before);
            let segment = Segment::new(&after, layout(&after));
            let has_ack = flags & 16 != 0;
            let ack = if has_ack { numbers.1.wrapping_add(translation.delta) } else { numbers.1 };
            prop_assert_eq!((segment.seq().0, segment.ack().0), (numbers.0, ack));
            prop_assert_eq!(segment.window(), translation.client_window.apply(numbers.2));
            let expected = expected_options(&options, |option, octets| match option {
                TcpOption::Sack { at, len } if translation.strips_sack => octets[at..at + len].fill(1),
                TcpOption::Sack { at, len } => {
                    (at + 2..at + len).step_by(4).for_each(|edge| add(octets, edge, translation.delta));
                }
                TcpOption::Timestamps { at, .. } if has_ack => add(octets, at + 6, translation.ts_delta),
                _ => {}
            });
            prop_assert_eq!(&after[54..54 + options.len()], &expected[..]);
        }

        #[test]
        fn the_clients_view_is_seq_and_tsval_minus_delta(
            translation in any_translation(), flags: u8, numbers: (u32, u32, u16), options in any_options(),
        ) {
            let before = frame(Side::Server, flags, numbers, &options);
            let after = translated(&translation, Side::Server, &before);
            let segment = Segment::new(&after, layout(&after));
            let seq = numbers.0.wrapping_sub(translation.delta);
            prop_assert_eq!((segment.seq().0, segment.ack().0), (seq, numbers.1));
            prop_assert_eq!(segment.window(), translation.server_window.apply(numbers.2));
            let expected = expected_options(&options, |option, octets| {
                if let TcpOption::Timestamps { at, .. } = option {
                    add(octets, at + 2, translation.ts_delta.wrapping_neg());
                }
            });
            prop_assert_eq!(&after[54..54 + options.len()], &expected[..]);
        }

        #[test]
        fn what_the_client_echoes_comes_back_to_the_server_as_it_was_sent(
            translation in any_translation(), seq: u32, value: u32,
        ) {
            let timestamps = |value: u32, echo: u32| {
                [&[1, 1, 8, 10], &value.to_be_bytes()[..], &echo.to_be_bytes()].concat()
            };
            let sent = frame(Side::Server, 16, (seq, 7, 1), &timestamps(value, 0));
            let told = translated(&translation, Side::Server, &sent);
            let told = Segment::new(&told, layout(&told));
            let echo = told.options().timestamps().unwrap().0;
            let answer = frame(Side::Client, 16, (7, told.end().0, 1), &timestamps(0, echo));
            let heard = translated(&translation, Side::Client, &answer);
            let heard = Segment::new(&heard, layout(&heard));
            prop_assert_eq!(heard.ack(), SeqNumber(seq).add(7));
            prop_assert_eq!(heard.options().timestamps(), Some((0, value)));
        }

        #[test]
        fn an_error_quotes_to_each_end_what_it_sent(
            translation in any_translation(), is_server: bool, flags: u8, numbers: (u32, u32, u16),
            options in any_options(),
        ) {
            // What becomes of a window that is rounded, and of blocks that were stripped, is not undone.
            let same = Rescale::default();
            let translation =
                Translation { client_window: same, server_window: same, strips_sack: false, ..translation };
            let side = if is_server { Side::Server } else { Side::Client };
            let before = frame(side, flags, numbers, &options);
            let mut error = quoting(&translated(&translation, side, &before));
            let Parsed::IcmpError(parsed) = frame::parse(&error) else { panic!("{:?}", frame::parse(&error)) };
            let mut quoted = QuotedSegmentMut::new(&mut error, &parsed, parsed.segment.unwrap());
            match side {
                Side::Client => translation.restore_client(&mut quoted),
                Side::Server => translation.restore_server(&mut quoted),
            }
            quoted.finish(&Offload::default());
            prop_assert!(parsed.has_valid_checksum(&error));
            let (quote, whole) = (&error[42..], &before[14..]);
            // The checksum may be 0 in the one form or the other; everything else is as it was.
            prop_assert_eq!((&quote[..36], &quote[38..]), (&whole[..36], &whole[38..]));
        }

        #[test]
        fn a_rescaled_window_is_the_largest_that_does_not_promise_more(window: u16, from in 0..=14u8, to in 0..=14u8) {
            let octets = u64::from(window) << from;
            let field = u64::from(Rescale { from, to }.apply(window));
            prop_assert_eq!(field == 0, window == 0);
            // More is promised only where nothing would be, and less only where the field is full.
            prop_assert!(field << to <= octets || field == 1);
            prop_assert!((field + 1) << to > octets || field == 65_535);
        }
    }

    #[test]
    fn a_window_that_needs_no_change_and_a_partial_checksum_stay() {
        let before = frame(Side::Client, 16, (1, 2, 500), &[]);
        let policy = policy();
        let partial = Offload { flags: Offload::NEEDS_CSUM, ..Offload::default() };
        let Class::Segment(arrival) = classify::classify(&policy, Side::Client, &before, partial) else {
            panic!("a segment of the service")
        };
        let mut after = before.clone();
        Translation { delta: 5, ..Translation::default() }.client_to_server(&arrival, &mut after);
        assert_eq!((after[50..52].to_vec(), after[45]), (before[50..52].to_vec(), before[45] + 5));
        assert!(!Rescale { from: 7, to: 7 }.changes() && Rescale { from: 7, to: 8 }.changes());
    }
}
