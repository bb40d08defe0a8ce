//! Prints a segment in packetdrill's notation: `S 4294967295:4294967295(0) win 64240 <mss 1460,sackOK,wscale 7>`.

use core::fmt;

use super::frame::{self, Parsed};
use super::tcp::{Flags, Segment};
use super::tcp_options::{Options, TcpOption};

/// A frame, to be printed.
#[derive(Clone, Copy)]
pub struct Pretty<'a>(pub &'a [u8]);

impl fmt::Display for Pretty<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match frame::parse(self.0) {
            Parsed::Tcp(layout) => segment(f, &Segment::new(self.0, layout)),
            Parsed::Unreadable(_, what) => write!(f, "unreadable TCP ({what:?}), {} octets", self.0.len()),
            Parsed::IcmpError(error) => write!(f, "icmp {}/{}", error.code.0, error.code.1),
            Parsed::Other => write!(f, "no TCP, {} octets", self.0.len()),
        }
    }
}

fn segment(f: &mut fmt::Formatter<'_>, segment: &Segment<'_>) -> fmt::Result {
    flags(f, segment.flags())?;
    write!(f, " {}:{}({})", segment.seq(), segment.end(), segment.payload().len())?;
    if segment.flags().has(Flags::ACK) {
        write!(f, " ack {}", segment.ack())?;
    }
    write!(f, " win {}", segment.window())?;
    options(f, segment)
}

fn flags(f: &mut fmt::Formatter<'_>, flags: Flags) -> fmt::Result {
    const LETTERS: [(Flags, &str); 7] = [
        (Flags::SYN, "S"),
        (Flags::FIN, "F"),
        (Flags::RST, "R"),
        (Flags::PSH, "P"),
        (Flags::ECE, "E"),
        (Flags::CWR, "W"),
        (Flags::URG, "U"),
    ];
    for (flag, letter) in LETTERS {
        if flags.has(flag) {
            f.write_str(letter)?;
        }
    }
    if flags.has(Flags::ACK) { f.write_str(".") } else { Ok(()) }
}

fn options(f: &mut fmt::Formatter<'_>, segment: &Segment<'_>) -> fmt::Result {
    let mut separator = " <";
    for option in segment.options() {
        f.write_str(separator)?;
        separator = ",";
        match option {
            TcpOption::Mss(mss) => write!(f, "mss {mss}")?,
            TcpOption::WindowScale(scale) => write!(f, "wscale {scale}")?,
            TcpOption::SackPermitted => f.write_str("sackOK")?,
            TcpOption::Sack { at, len } => sack(f, segment.options(), at, len)?,
            TcpOption::Timestamps { value, echo, .. } => write!(f, "TS val {value} ecr {echo}")?,
            TcpOption::Unknown(kind) => write!(f, "kind {kind}")?,
        }
    }
    if separator == "," { f.write_str(">") } else { Ok(()) }
}

fn sack(f: &mut fmt::Formatter<'_>, options: Options<'_>, at: usize, len: usize) -> fmt::Result {
    f.write_str("sack")?;
    for (left, right) in options.sack_blocks(at, len) {
        write!(f, " {left}:{right}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::build::SegmentSpec;
    use crate::wire::ethernet::LinkHeader;
    use crate::wire::seq::SeqNumber;
    use crate::wire::tcp_options::SynOptions;

    #[test]
    fn a_syn_ack_reads_like_packetdrill() {
        let link = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0];
        let spec = SegmentSpec {
            link: LinkHeader::of(&link, 14),
            source: "198.18.0.1".parse().unwrap(),
            destination: "198.18.0.2".parse().unwrap(),
            hop_limit: 64,
            flow_label: 0,
            source_port: 80,
            destination_port: 40_000,
            seq: SeqNumber(u32::MAX),
            ack: Some(SeqNumber(1)),
            flags: Flags::SYN,
            window: 14_600,
            urgent: None,
            options: SynOptions { mss: Some(1460), wscale: Some(7), sack: true, timestamps: Some((3, 4)) },
            payload: b"",
        };
        let mut buffer = [0; 128];
        let len = spec.write(&mut buffer);
        assert_eq!(
            Pretty(&buffer[..len]).to_string(),
            "S. 4294967295:0(0) ack 1 win 14600 <mss 1460,sackOK,TS val 3 ecr 4,wscale 7>"
        );
        assert_eq!(Pretty(&buffer[..20]).to_string(), "no TCP, 20 octets");
        assert_eq!(Pretty(&buffer[..50]).to_string(), "unreadable TCP (Malformed), 50 octets");
    }
}
