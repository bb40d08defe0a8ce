//! What follows the server's SYN-ACK: its acknowledgement, and the early data in order.

use super::Step;
use super::backend::{Completion, Subject};
use super::service::{default_mss, mss_of_mtu};
use super::translate::Rescale;
use super::verdict::Side;
use crate::cookie::layout::SMALLEST_MSS;
use crate::wire::build::SegmentSpec;
use crate::wire::frame::Version;
use crate::wire::seq::SeqNumber;
use crate::wire::tcp::Flags;
use crate::wire::tcp_options::SynOptions;

impl Step<'_> {
    /// ACKs the server's SYN-ACK, with the early data if there is any: as much as its window takes. What is left the
    /// client sends again, for nobody has acknowledged it.
    pub(super) fn replay(&mut self, subject: &Subject<'_>, completion: &Completion) {
        let (handshake, said, answer) = (&completion.handshake, &completion.said, &completion.said.options);
        let timestamps =
            answer.timestamps.map(|(value, _)| (handshake.client_tsval, completion.echo.of(value)));
        let ack = SegmentSpec {
            seq: handshake.client_iss.add(1),
            ack: Some(said.iss.add(1)),
            window: completion.client_window().apply(handshake.window),
            options: SynOptions { timestamps, ..SynOptions::default() },
            ..handshake.segment_to_server(&subject.key)
        };
        // As if the client had sent it in these segments: the pointer counts from each (RFC 9293 §3.8.5).
        let urgent = |seq: SeqNumber| {
            let end = completion.urgent.filter(|end| end.is_after(seq))?;
            u16::try_from(end.distance_from(seq)).ok()
        };
        let ack = SegmentSpec { urgent: urgent(ack.seq), ..ack };
        let octets = completion.early.octets();
        let octets_in_window = octets.get(..octets.len().min(usize::from(said.window))).unwrap_or(octets);
        let version = if subject.key.server().is_ipv4() { Version::V4 } else { Version::V6 };
        let mss = answer.mss.unwrap_or(default_mss(version)).max(SMALLEST_MSS);
        let mss = mss.min(mss_of_mtu(self.policy.mtu, version));
        let room =
            usize::from(mss.saturating_sub(u16::try_from(ack.options.encode().octets().len()).unwrap_or(0)));
        let has_all = octets_in_window.len() == octets.len();
        let mut seq = ack.seq;
        let mut chunks = octets_in_window.chunks(room.max(1)).peekable();
        if chunks.peek().is_none() {
            let flags = if completion.fin && has_all { Flags::FIN } else { Flags::default() };
            self.send(Side::Server, &SegmentSpec { flags, ..ack });
        }
        while let Some(chunk) = chunks.next() {
            let is_last = chunks.peek().is_none();
            let mut flags = if is_last { Flags::PSH } else { Flags::default() };
            if is_last && has_all && completion.fin {
                flags = flags.with(Flags::FIN);
            }
            self.send(Side::Server, &SegmentSpec { seq, flags, urgent: urgent(seq), payload: chunk, ..ack });
            seq = seq.add(u32::try_from(chunk.len()).unwrap_or(0));
        }
        self.counters(subject.id).early_data_replayed.add(octets_in_window.len() as u64);
        self.update_window(subject, completion);
    }

    /// Tells a client that has used most of the window it was given what the server really takes, so that it need not
    /// wait for the server's acknowledgement to learn it.
    fn update_window(&mut self, subject: &Subject<'_>, completion: &Completion) {
        let (given, window) = (subject.service.early_data, completion.said.window);
        if completion.early.octets().len() <= usize::from(given) / 2 || window <= given {
            return;
        }
        let handshake = &completion.handshake;
        let told = Rescale { from: 0, to: completion.server_window().to };
        let update = SegmentSpec {
            seq: handshake.cookie_iss.add(1),
            ack: Some(handshake.client_iss.add(1)),
            window: told.apply(window),
            options: SynOptions {
                timestamps: completion
                    .said
                    .options
                    .timestamps
                    .map(|_| (handshake.cookie_ts, handshake.client_tsval)),
                ..SynOptions::default()
            },
            ..handshake.segment_to_client(&subject.key)
        };
        self.send(Side::Client, &update);
    }
}
