//! TCP options: a bounded iterator, what a SYN offers, and what we write.
//!
//! RFC 9293 §3.2 (MSS), RFC 7323 (window scale, timestamps), RFC 2018 (SACK). Whatever is behind an option with a
//! broken length is ignored, as Linux does; unknown options are passed over.

use super::{read_u16, read_u32};

/// The most octets of options that a header can hold.
pub const MAX_LEN: usize = 40;

/// The largest window scale (RFC 7323 §2.3); larger offers count as this.
pub const MAX_WINDOW_SCALE: u8 = 14;

/// One option, and where its fields are, counted from the first octet of the options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpOption {
    /// Maximum segment size, octets.
    Mss(u16),
    /// Window scale, as it stands.
    WindowScale(u8),
    /// SACK permitted.
    SackPermitted,
    /// SACK blocks of two edges each.
    Sack {
        /// Offset of the option's kind.
        at: usize,
        /// Octets of the whole option.
        len: usize,
    },
    /// Timestamps.
    Timestamps {
        /// TSval.
        value: u32,
        /// TSecr.
        echo: u32,
        /// Offset of the option's kind; TSval is 2 octets on, TSecr 6.
        at: usize,
    },
    /// A kind that is passed over, or one of the above with a length that it cannot have.
    Unknown(u8),
}

/// Iterates over the options of a segment.
#[derive(Clone)]
pub struct Options<'a> {
    octets: &'a [u8],
    at: usize,
}

impl<'a> Options<'a> {
    /// A copy that does not borrow the segment.
    pub fn to_octets(&self) -> OptionOctets {
        OptionOctets::of(self.octets)
    }

    /// The options in `octets`, which reach from the end of the fixed header to the payload.
    pub fn new(octets: &'a [u8]) -> Options<'a> {
        Options { octets, at: 0 }
    }

    /// TSval and TSecr of the first timestamps option.
    pub fn timestamps(self) -> Option<(u32, u32)> {
        for option in self {
            if let TcpOption::Timestamps { value, echo, .. } = option {
                return Some((value, echo));
            }
        }
        None
    }

    /// Whether the segment is signed (TCP MD5, RFC 2385, or TCP-AO, RFC 5925): only who holds the key can answer it.
    pub fn has_signature(mut self) -> bool {
        self.any(|option| matches!(option, TcpOption::Unknown(MD5 | AUTHENTICATION)))
    }

    /// The edges of the SACK option found at `at`, `len` octets long.
    pub fn sack_blocks(self, at: usize, len: usize) -> impl Iterator<Item = (u32, u32)> {
        let octets = self.octets.get(at.saturating_add(2)..at.saturating_add(len)).unwrap_or(&[]);
        octets.as_chunks::<8>().0.iter().map(|block| (read_u32(block, 0), read_u32(block, 4)))
    }
}

impl Iterator for Options<'_> {
    type Item = TcpOption;

    fn next(&mut self) -> Option<TcpOption> {
        loop {
            let at = self.at;
            match *self.octets.get(at)? {
                END => {
                    self.at = self.octets.len();
                    return None;
                }
                NOP => self.at = at.saturating_add(1),
                kind => {
                    let len = self.octets.get(at.saturating_add(1)).map_or(0, |len| usize::from(*len));
                    let end = at.saturating_add(len);
                    if len < 2 || end > self.octets.len() {
                        self.at = self.octets.len();
                        return None;
                    }
                    self.at = end;
                    return Some(self.read(kind, at, len));
                }
            }
        }
    }
}

impl Options<'_> {
    fn read(&self, kind: u8, at: usize, len: usize) -> TcpOption {
        match (kind, len) {
            (MSS, 4) => TcpOption::Mss(read_u16(self.octets, at.saturating_add(2))),
            (WINDOW_SCALE, 3) => TcpOption::WindowScale(self.octets[at.saturating_add(2)]),
            (SACK_PERMITTED, 2) => TcpOption::SackPermitted,
            (SACK, 10 | 18 | 26 | 34) => TcpOption::Sack { at, len },
            (TIMESTAMPS, 10) => TcpOption::Timestamps {
                value: read_u32(self.octets, at.saturating_add(2)),
                echo: read_u32(self.octets, at.saturating_add(6)),
                at,
            },
            _ => TcpOption::Unknown(kind),
        }
    }
}

/// What a SYN or SYN-ACK says of its sender; of repeated options the last counts, as in Linux.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SynOptions {
    /// Maximum segment size, octets.
    pub mss: Option<u16>,
    /// Window scale, at most [`MAX_WINDOW_SCALE`]. Absent is not 0: it forbids scaling both ways.
    pub wscale: Option<u8>,
    /// SACK permitted.
    pub sack: bool,
    /// TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
}

impl SynOptions {
    /// Reads them.
    pub fn parse(options: Options<'_>) -> SynOptions {
        let mut found = SynOptions::default();
        for option in options {
            match option {
                TcpOption::Mss(mss) => found.mss = Some(mss),
                TcpOption::WindowScale(scale) => found.wscale = Some(scale.min(MAX_WINDOW_SCALE)),
                TcpOption::SackPermitted => found.sack = true,
                TcpOption::Timestamps { value, echo, .. } => found.timestamps = Some((value, echo)),
                TcpOption::Sack { .. } | TcpOption::Unknown(_) => {}
            }
        }
        found
    }

    /// Their octets in the order of Linux, padded with NOP; never more than any sender needs for the same options.
    pub fn encode(&self) -> OptionOctets {
        let mut writer = OptionOctets { octets: [0; MAX_LEN], len: 0 };
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            writer.put(&[MSS, 4, high, low]);
        }
        match (self.sack, self.timestamps) {
            (true, Some(_)) => writer.put(&[SACK_PERMITTED, 2]),
            (true, None) => writer.put(&[NOP, NOP, SACK_PERMITTED, 2]),
            (false, Some(_)) => writer.put(&[NOP, NOP]),
            (false, None) => {}
        }
        if let Some((value, echo)) = self.timestamps {
            writer.put(&[TIMESTAMPS, 10]);
            writer.put(&value.to_be_bytes());
            writer.put(&echo.to_be_bytes());
        }
        if let Some(scale) = self.wscale {
            writer.put(&[NOP, WINDOW_SCALE, 3, scale]);
        }
        writer
    }
}

/// The octets of a segment's options by themselves: written, or copied to be read while the segment is edited.
#[derive(Clone, Copy, Debug)]
pub struct OptionOctets {
    octets: [u8; MAX_LEN],
    len: usize,
}

impl OptionOctets {
    /// A copy of `octets`, cut at [`MAX_LEN`].
    pub fn of(octets: &[u8]) -> OptionOctets {
        let mut copy = OptionOctets { octets: [0; MAX_LEN], len: 0 };
        copy.put(&octets[..octets.len().min(MAX_LEN)]);
        copy
    }

    /// The octets.
    pub fn octets(&self) -> &[u8] {
        &self.octets[..self.len]
    }

    /// The options in them.
    pub fn iter(&self) -> Options<'_> {
        Options::new(self.octets())
    }

    fn put(&mut self, octets: &[u8]) {
        super::write(&mut self.octets, self.len, octets);
        self.len = self.len.saturating_add(octets.len()).min(MAX_LEN);
    }
}

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
const MD5: u8 = 19;
const AUTHENTICATION: u8 = 29;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(octets: &[u8]) -> Vec<TcpOption> {
        Options::new(octets).collect()
    }

    #[test]
    fn a_linux_syn_is_read_and_written_back() {
        let octets = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7];
        let options = SynOptions::parse(Options::new(&octets));
        let expected = SynOptions { mss: Some(1460), wscale: Some(7), sack: true, timestamps: Some((9, 0)) };
        assert_eq!(options, expected);
        assert_eq!(options.encode().octets(), octets);
    }

    /// Row 5.
    #[test]
    fn broken_options_end_the_list_and_keep_what_came_before() {
        let mss = TcpOption::Mss(536);
        for rest in [&[3u8][..], &[3, 0], &[3, 1], &[3, 4, 0], &[8, 10, 1, 2, 3], &[5, 255, 0, 0]] {
            let octets = [&[2, 4, 2, 24], rest].concat();
            assert_eq!(list(&octets), vec![mss], "{rest:?}");
        }
        assert_eq!(list(&[0, 2, 4, 2, 24]), vec![], "nothing behind the end of the list counts");
        assert_eq!(list(&[1, 1, 1]), vec![]);
    }

    #[test]
    fn known_kinds_with_foreign_lengths_are_unknown() {
        assert_eq!(list(&[2, 3, 1]), vec![TcpOption::Unknown(2)]);
        assert_eq!(list(&[5, 4, 0, 0]), vec![TcpOption::Unknown(5)]);
        assert_eq!(list(&[34, 2]), vec![TcpOption::Unknown(34)]);
    }

    /// Row 9.
    #[test]
    fn the_last_of_repeated_options_counts_and_large_scales_are_14() {
        let options = SynOptions::parse(Options::new(&[3, 3, 2, 3, 3, 200, 2, 4, 1, 0, 2, 4, 2, 0]));
        assert_eq!((options.wscale, options.mss), (Some(14), Some(512)));
    }

    proptest! {
        /// Row 5.
        #[test]
        fn any_octets_terminate_within_bounds(octets in proptest::collection::vec(any::<u8>(), 0..=40)) {
            for option in Options::new(&octets) {
                match option {
                    TcpOption::Sack { at, len } => prop_assert!(at + len <= octets.len()),
                    TcpOption::Timestamps { at, .. } => prop_assert!(at + 10 <= octets.len()),
                    _ => {}
                }
            }
        }

        #[test]
        fn written_options_read_back(
            mss in proptest::option::of(any::<u16>()), wscale in proptest::option::of(0u8..=14),
            sack: bool, timestamps in proptest::option::of(any::<(u32, u32)>()),
        ) {
            let options = SynOptions { mss, wscale, sack, timestamps };
            let encoded = options.encode();
            prop_assert_eq!(encoded.octets().len() % 4, 0);
            prop_assert_eq!(SynOptions::parse(encoded.iter()), options);
        }
    }
}
