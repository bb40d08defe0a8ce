//! What follows the server's SYN-ACK: its acknowledgement, and the early data in order.

use super::Step;
use super::backend::Completion;
use super::classify::Arrival;
use super::service::{default_mss, mss_of_mtu};
use super::translate::Rescale;
use super::verdict::Side;
use crate::cookie::layout::SMALLEST_MSS;
use crate::wire::build::SegmentSpec;
use crate::wire::tcp::Flags;
use crate::wire::tcp_options::SynOptions;

impl Step<'_> {
    /// ACKs the server's SYN-ACK, with the early data if there is any: as much as its window takes. What is left the
    /// client sends again, for nobody has acknowledged it.
    pub(super) fn replay(&mut self, arrival: &Arrival<'_>, completion: &Completion) {
        let (handshake, answer) = (&completion.handshake, &completion.said.options);
        let timestamps = answer.timestamps.map(|(value, _)| (handshake.client_tsval, value));
        let ack = SegmentSpec {
            seq: handshake.client_iss.add(1),
            ack: Some(arrival.seq.add(1)),
            window: completion.client_window().apply(handshake.window),
            options: SynOptions { timestamps, ..SynOptions::default() },
            ..handshake.segment_to_server(&arrival.key)
        };
        let octets = completion.early.octets();
        // The window of a SYN-ACK is never scaled (RFC 7323 §2.2).
        let octets_in_window = octets.get(..octets.len().min(usize::from(arrival.window))).unwrap_or(octets);
        let version = arrival.layout.network.version;
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
            self.send(Side::Server, &SegmentSpec { seq, flags, payload: chunk, ..ack });
            seq = seq.add(u32::try_from(chunk.len()).unwrap_or(0));
        }
        self.counters(arrival.id).early_data_replayed.add(octets_in_window.len() as u64);
        self.update_window(arrival, completion);
    }

    /// Tells a client that has used most of the window it was given what the server really takes, so that it need not
    /// wait for the server's acknowledgement to learn it.
    fn update_window(&mut self, arrival: &Arrival<'_>, completion: &Completion) {
        let given = usize::from(arrival.service.early_data);
        if completion.early.octets().len() <= given / 2 || arrival.window <= arrival.service.early_data {
            return;
        }
        let handshake = &completion.handshake;
        let told = Rescale { from: 0, to: completion.server_window().to };
        let update = SegmentSpec {
            seq: handshake.cookie_iss.add(1),
            ack: Some(handshake.client_iss.add(1)),
            window: told.apply(arrival.window),
            options: SynOptions {
                timestamps: completion
                    .said
                    .options
                    .timestamps
                    .map(|_| (handshake.cookie_ts, handshake.client_tsval)),
                ..SynOptions::default()
            },
            ..handshake.segment_to_client(&arrival.key)
        };
        self.send(Side::Client, &update);
    }
}
