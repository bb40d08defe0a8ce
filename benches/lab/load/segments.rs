//! The segments of the load: templates that the BPF program completes with sources, ports, numbers and times.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use synwall::wire::build::SegmentSpec;
use synwall::wire::ethernet::LinkHeader;
use synwall::wire::seq::SeqNumber;
use synwall::wire::tcp::Flags;
use synwall::wire::tcp_options::SynOptions;

use crate::flows;

/// A shape of segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A SYN without options.
    SynBare,
    /// A SYN with an MSS.
    SynMss,
    /// A SYN as Linux sends it.
    SynLinux,
    /// The same over IPv6.
    Syn6,
    /// A bare ACK with a guessed cookie.
    Ack,
    /// The same with timestamps.
    AckTimestamps,
    /// The same over IPv6.
    Ack6,
    /// Data of the established connections that `flows` writes.
    Established,
    /// Bare ACKs of the same.
    EstablishedAck,
}

/// As the map `templates` of the BPF program has it, in words.
pub(crate) type Template = [u32; TEMPLATE_WORDS];

impl Kind {
    /// What the program makes segments of this kind from; sent to `mac` and `port`.
    pub(crate) fn template(self, mac: [u8; 6], port: u16) -> Result<Template> {
        let link = [&mac, &CLIENT_MAC, &self.ethertype()[..]].concat();
        let mut frame = [0; ROOM];
        let len = self.spec(LinkHeader::of(&link, link.len()), port).write(&mut frame);
        ensure!(len > 0, "{self:?} does not fit {ROOM} octets");
        let tcp_at = if self.is_ipv6() { 54 } else { 34 };
        let word = |at: usize| {
            frame.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |two| u16::from_ne_bytes(*two))
        };
        let mut template = [0; TEMPLATE_WORDS];
        let (head, words) = template.split_at_mut(HEAD_WORDS);
        head.copy_from_slice(&[
            u32::try_from(len)?,
            self.flags(),
            u32::from(if self.is_ipv6() { 0 } else { !word(24) }),
            u32::from(!word(tcp_at + 16)),
            flows::CLIENT_ISS + 1,
            0,
        ]);
        for (word, octets) in words.iter_mut().zip(frame.as_chunks().0) {
            *word = u32::from_ne_bytes(*octets);
        }
        Ok(template)
    }

    fn spec(self, link: LinkHeader, port: u16) -> SegmentSpec<'static> {
        let is_syn = self.is_syn();
        let timestamps =
            |value, echo| SynOptions { timestamps: Some((value, echo)), ..SynOptions::default() };
        SegmentSpec {
            link,
            source: if self.is_ipv6() {
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0).into()
            } else {
                Ipv4Addr::UNSPECIFIED.into()
            },
            destination: if self.is_ipv6() { SERVER6.into() } else { SERVER4.into() },
            hop_limit: 64,
            flow_label: 0,
            source_port: 0,
            destination_port: port,
            seq: SeqNumber(0),
            ack: (!is_syn).then_some(SeqNumber(if self == Kind::Established {
                flows::COOKIE_NEXT
            } else {
                0
            })),
            flags: match self {
                _ if is_syn => Flags::SYN,
                Kind::Established => Flags::PSH,
                _ => Flags::default(),
            },
            window: 64_240,
            urgent: None,
            options: match self {
                Kind::SynBare | Kind::Ack => SynOptions::default(),
                Kind::SynMss => SynOptions { mss: Some(1460), ..SynOptions::default() },
                Kind::SynLinux => SynOptions { mss: Some(1460), ..linux() },
                Kind::Syn6 => SynOptions { mss: Some(1440), ..linux() },
                Kind::AckTimestamps | Kind::Ack6 => timestamps(0, 0),
                Kind::Established | Kind::EstablishedAck => {
                    timestamps(flows::CLIENT_TSVAL, flows::COOKIE_TSVAL)
                }
            },
            payload: if self == Kind::Established { b"8 octets" } else { &[] },
        }
    }

    fn is_syn(self) -> bool {
        matches!(self, Kind::SynBare | Kind::SynMss | Kind::SynLinux | Kind::Syn6)
    }

    fn is_of_a_flow(self) -> bool {
        matches!(self, Kind::Established | Kind::EstablishedAck)
    }

    fn is_ipv6(self) -> bool {
        matches!(self, Kind::Syn6 | Kind::Ack6)
    }

    fn ethertype(self) -> [u8; 2] {
        if self.is_ipv6() { [0x86, 0xdd] } else { [0x08, 0x00] }
    }

    /// `enum template_flags`.
    fn flags(self) -> u32 {
        let guesses = matches!(self, Kind::Ack | Kind::AckTimestamps | Kind::Ack6);
        let has_timestamps = matches!(self, Kind::SynLinux | Kind::Syn6 | Kind::AckTimestamps | Kind::Ack6);
        let flags = [self.is_ipv6(), guesses, self.is_of_a_flow(), has_timestamps];
        (0..).zip(flags).map(|(bit, is_set)| u32::from(is_set) << bit).sum()
    }
}

fn linux() -> SynOptions {
    SynOptions { mss: None, wscale: Some(7), sack: true, timestamps: Some((0, 0)) }
}

/// Reads six octets in hexadecimal.
pub(crate) fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let octets: Vec<u8> = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16))
        .collect::<Result<_, _>>()
        .with_context(|| format!("{text}: not a MAC address"))?;
    match octets.try_into() {
        Ok(mac) => Ok(mac),
        Err(_) => bail!("{text}: not a MAC address"),
    }
}

/// The lab's server.
pub(crate) const SERVER4: Ipv4Addr = Ipv4Addr::new(198, 18, 255, 2);
/// The same.
pub(crate) const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x255, 0, 0, 0, 0, 2);
/// The lab's client, which the load claims to come from.
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0x53, 0x57, 0, 0, 0x10];
/// The server's.
pub(crate) const SERVER_MAC: [u8; 6] = [2, 0x53, 0x57, 0, 0, 0x02];
/// Octets of every frame that the program is given.
pub(crate) const ROOM: usize = 96;
const HEAD_WORDS: usize = 6;
const TEMPLATE_WORDS: usize = HEAD_WORDS + ROOM / 4;
