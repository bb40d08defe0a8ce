//! A segment as a script writes it: numbers relative to where each end began.

use std::fmt;

use synwall::wire::tcp;
use synwall::wire::tcp_options::TcpOption;

use crate::lab::{ACK, FIN, PSH, RST, SYN, Seg, URG, parse, seg};

/// A segment with relative numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub flags: u8,
    pub seq: i32,
    /// Octets of payload.
    pub len: u32,
    pub ack: i32,
    pub window: u16,
    pub options: Vec<Opt>,
}

/// An option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opt {
    Mss(u16),
    WindowScale(u8),
    SackPermitted,
    Sack(Vec<(i32, i32)>),
    /// TSval and TSecr; `None` is an echo of no time, 0 in a segment with ACK.
    Timestamps(i32, Option<i32>),
    /// A kind that synwall passes over.
    Unknown(u8),
    /// Octets as they are, padding among them: only to be sent.
    Octets(Vec<u8>),
}

/// Where the numbers of a segment's sender and of its receiver begin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bases {
    pub sender: Base,
    pub receiver: Base,
}

/// Where the numbers of one end begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Base {
    pub iss: u32,
    pub ts: u32,
}

/// The letters of the flags, in the order of `synwall::wire::pretty`.
pub const LETTERS: [(u8, char); 8] =
    [(SYN, 'S'), (FIN, 'F'), (RST, 'R'), (PSH, 'P'), (0x40, 'E'), (0x80, 'W'), (URG, 'U'), (ACK, '.')];

impl Segment {
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// SEG.SEQ + SEG.LEN: SYN and FIN count.
    pub fn end(&self) -> i32 {
        let controls = i32::from(self.has(SYN)) + i32::from(self.has(FIN));
        self.seq.wrapping_add_unsigned(self.len).wrapping_add(controls)
    }

    /// TSval, if it has one.
    pub fn tsval(&self) -> Option<i32> {
        self.options.iter().find_map(|option| match option {
            Opt::Timestamps(value, _) => Some(*value),
            _ => None,
        })
    }

    /// Without what only pads: as it would be read off a frame.
    pub fn read_back(&self) -> Segment {
        let is_read = |option: &&Opt| !matches!(option, Opt::Octets(_));
        Segment { options: self.options.iter().filter(is_read).cloned().collect(), ..self.clone() }
    }

    /// Reads the segment of a frame.
    pub fn of(frame: &[u8], bases: Bases, mss_shift: u16) -> Segment {
        let segment = tcp::Segment::new(frame, parse(frame));
        let flags = segment.flags().0;
        let receiver = if flags & ACK == 0 { Base::default() } else { bases.receiver };
        let relative = |number: u32, base: u32| number.wrapping_sub(base) as i32;
        let options = segment.options().map(|option| match option {
            TcpOption::Mss(mss) => Opt::Mss(mss.saturating_add(mss_shift)),
            TcpOption::WindowScale(scale) => Opt::WindowScale(scale),
            TcpOption::SackPermitted => Opt::SackPermitted,
            TcpOption::Sack { at, len } => Opt::Sack(
                segment
                    .options()
                    .sack_blocks(at, len)
                    .map(|(left, right)| (relative(left, receiver.iss), relative(right, receiver.iss)))
                    .collect(),
            ),
            TcpOption::Timestamps { value, echo, .. } => {
                let echo = (echo != 0 || flags & ACK == 0).then(|| relative(echo, receiver.ts));
                Opt::Timestamps(relative(value, bases.sender.ts), echo)
            }
            TcpOption::Unknown(kind) => Opt::Unknown(kind),
        });
        Segment {
            flags,
            seq: relative(segment.seq().0, bases.sender.iss),
            len: segment.payload().len() as u32,
            ack: relative(segment.ack().0, receiver.iss),
            window: segment.window(),
            options: options.collect(),
        }
    }

    /// The segment to be sent.
    pub fn absolute(&self, bases: Bases, mss_shift: u16, payload: &[u8]) -> Seg {
        let receiver = if self.has(ACK) { bases.receiver } else { Base::default() };
        let number = |base: u32, offset: i32| base.wrapping_add_signed(offset);
        let mut octets = Vec::new();
        for option in &self.options {
            match option {
                Opt::Mss(mss) => {
                    octets.extend([2, 4]);
                    octets.extend(mss.saturating_sub(mss_shift).to_be_bytes());
                }
                Opt::WindowScale(scale) => octets.extend([3, 3, *scale]),
                Opt::SackPermitted => octets.extend([4, 2]),
                Opt::Sack(blocks) => {
                    octets.extend([5, 2 + 8 * blocks.len() as u8]);
                    for edge in blocks.iter().flat_map(|(left, right)| [*left, *right]) {
                        octets.extend(number(receiver.iss, edge).to_be_bytes());
                    }
                }
                Opt::Timestamps(value, echo) => {
                    octets.extend([8, 10]);
                    octets.extend(number(bases.sender.ts, *value).to_be_bytes());
                    octets.extend(echo.map_or(0, |echo| number(receiver.ts, echo)).to_be_bytes());
                }
                Opt::Unknown(kind) => octets.extend([*kind, 2]),
                Opt::Octets(raw) => octets.extend(raw),
            }
        }
        let mut sent = seg(self.flags, number(bases.sender.iss, self.seq));
        sent.ack = number(receiver.iss, self.ack);
        sent.window(self.window).raw(&octets).data(payload)
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (_, letter) in LETTERS.iter().filter(|(flag, _)| self.has(*flag)) {
            write!(f, "{letter}")?;
        }
        if self.flags == 0 {
            f.write_str("-")?;
        }
        write!(f, " {}:{}({})", self.seq, self.end(), self.len)?;
        if self.has(ACK) {
            write!(f, " ack {}", self.ack)?;
        }
        write!(f, " win {}", self.window)?;
        let options: Vec<String> = self.options.iter().map(Opt::to_string).collect();
        if options.is_empty() { Ok(()) } else { write!(f, " <{}>", options.join(",")) }
    }
}

impl fmt::Display for Opt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Opt::Mss(mss) => write!(f, "mss {mss}"),
            Opt::WindowScale(scale) => write!(f, "wscale {scale}"),
            Opt::SackPermitted => f.write_str("sackOK"),
            Opt::Sack(blocks) => {
                f.write_str("sack")?;
                blocks.iter().try_for_each(|(left, right)| write!(f, " {left}:{right}"))
            }
            Opt::Timestamps(value, Some(echo)) => write!(f, "TS val {value} ecr {echo}"),
            Opt::Timestamps(value, None) => write!(f, "TS val {value} ecr none"),
            Opt::Unknown(kind) => write!(f, "kind {kind}"),
            Opt::Octets(raw) => {
                f.write_str("hex ")?;
                raw.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
            }
        }
    }
}
