//! Captures in the classic pcap format: to keep what crossed, and to play it again.
//!
//! Reads both byte orders and both resolutions, writes the machine's order in nanoseconds. Only Ethernet. A capture is
//! input from anywhere: lengths are bounded before anything is allocated, and nonsense is an error, never a panic. The
//! format has no place for an offload header: super-frames are kept whole, partial checksums as they are.
//!
//! Read first: draft-ietf-opsawg-pcap.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use thiserror::Error;

use super::{BySide, FrameIo, Received};
use crate::engine::Side;
use crate::wire::buffer::{FrameBuf, FrameRef};

/// Why a capture cannot be read any further.
#[derive(Debug, Error)]
pub enum PcapError {
    /// It does not start as a classic pcap file does.
    #[error(
        "not a pcap file: it starts with {magic:#010x} (pcapng has to be converted: `editcap -F nsecpcap`)"
    )]
    Magic {
        /// The first four octets as a big-endian number.
        magic: u32,
    },
    /// Its frames are not Ethernet.
    #[error("link type {link_type}: only Ethernet (1) can be played")]
    LinkType {
        /// The type in the file's header.
        link_type: u32,
    },
    /// A record claims to be longer than any frame.
    #[error("a record of {len} octets: at most {MAX_RECORD_LEN} are possible, so the file is damaged")]
    RecordLength {
        /// The length in the record's header.
        len: u32,
    },
    /// It ends in the middle of a header or a record.
    #[error("the file is cut off in the middle of a record")]
    Truncated,
    /// It cannot be read.
    #[error("cannot read: {0}")]
    Io(io::Error),
}

/// Reads a capture, frame by frame.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    is_little_endian: bool,
    nanos_per_tick: u32,
}

impl<R: Read> Reader<R> {
    /// Reads the file's header.
    ///
    /// # Errors
    ///
    /// When it is not a classic pcap file of Ethernet frames.
    pub fn new(mut source: R) -> Result<Reader<R>, PcapError> {
        let magic: [u8; 4] = read_array(&mut source)?;
        let (is_little_endian, nanos_per_tick) = match u32::from_be_bytes(magic) {
            MAGIC_MICROS => (false, 1000),
            MAGIC_NANOS => (false, 1),
            other => match other.swap_bytes() {
                MAGIC_MICROS => (true, 1000),
                MAGIC_NANOS => (true, 1),
                _ => return Err(PcapError::Magic { magic: other }),
            },
        };
        // Version, two fields that nobody uses and the snapshot length do not change how records are read.
        let _: [u8; 16] = read_array(&mut source)?;
        let mut reader = Reader { source, is_little_endian, nanos_per_tick };
        // The upper half tells of frame check sequences.
        let link_type = reader.read_word()? & 0xffff;
        if link_type != LINK_TYPE_ETHERNET {
            return Err(PcapError::LinkType { link_type });
        }
        Ok(reader)
    }

    /// Reads the next record into `octets` and returns its time since the Unix epoch, or `None` at the end.
    ///
    /// # Errors
    ///
    /// When the file is damaged or cut off; reading on makes no sense then.
    pub fn next_record(&mut self, octets: &mut Vec<u8>) -> Result<Option<Duration>, PcapError> {
        let first = match read_array::<1>(&mut self.source) {
            Ok([first]) => first,
            Err(PcapError::Truncated) => return Ok(None),
            Err(error) => return Err(error),
        };
        let [second, third, fourth] = read_array(&mut self.source)?;
        let seconds = self.word([first, second, third, fourth]);
        let ticks = self.read_word()?;
        let len = self.read_word()?;
        let _original_len = self.read_word()?;
        if len > MAX_RECORD_LEN {
            return Err(PcapError::RecordLength { len });
        }
        octets.clear();
        let read = self.source.by_ref().take(len.into()).read_to_end(octets).map_err(PcapError::Io)?;
        if u32::try_from(read) != Ok(len) {
            return Err(PcapError::Truncated);
        }
        let nanos = u64::from(ticks).saturating_mul(self.nanos_per_tick.into());
        Ok(Some(Duration::from_secs(seconds.into()).saturating_add(Duration::from_nanos(nanos))))
    }

    fn read_word(&mut self) -> Result<u32, PcapError> {
        let octets = read_array(&mut self.source)?;
        Ok(self.word(octets))
    }

    fn word(&self, octets: [u8; 4]) -> u32 {
        if self.is_little_endian { u32::from_le_bytes(octets) } else { u32::from_be_bytes(octets) }
    }
}

/// Writes a capture with nanosecond timestamps.
#[derive(Debug)]
pub struct Writer<W> {
    target: W,
}

impl<W: Write> Writer<W> {
    /// Writes the file's header.
    ///
    /// # Errors
    ///
    /// Those of `target`.
    pub fn new(mut target: W) -> io::Result<Writer<W>> {
        // Magic, version 2.4 as two halves, time zone, accuracy, snapshot length, link type.
        target.write_all(&MAGIC_NANOS.to_ne_bytes())?;
        target.write_all(&2_u16.to_ne_bytes())?;
        target.write_all(&4_u16.to_ne_bytes())?;
        for word in [0, 0, MAX_RECORD_LEN, LINK_TYPE_ETHERNET] {
            target.write_all(&word.to_ne_bytes())?;
        }
        Ok(Writer { target })
    }

    /// Writes a frame that was seen `time` after the Unix epoch.
    ///
    /// # Errors
    ///
    /// Those of `target`; and a frame longer than the format's customary limit of 256 KiB, of which nothing is written.
    pub fn write_record(&mut self, time: Duration, bytes: &[u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).ok().filter(|len| *len <= MAX_RECORD_LEN);
        let len = len.ok_or(ErrorKind::InvalidInput)?;
        // The format's own limit is the year 2106.
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        for word in [seconds, time.subsec_nanos(), len, len] {
            self.target.write_all(&word.to_ne_bytes())?;
        }
        self.target.write_all(bytes)
    }

    /// Ends the capture and gives back where it was written.
    ///
    /// # Errors
    ///
    /// Those of `target` when it is flushed.
    pub fn finish(mut self) -> io::Result<W> {
        self.target.flush()?;
        Ok(self.target)
    }
}

/// Ports that play a capture into one side and record what is sent on both.
///
/// What is sent bears the time of the frame that was played last, so that a replay gives the same octets each time.
pub struct Replay<R, W> {
    source: Option<Reader<R>>,
    side: Side,
    sent: BySide<Writer<W>>,
    time: Duration,
    octets: Vec<u8>,
    failure: Option<PcapError>,
}

impl<R: Read, W: Write> Replay<R, W> {
    /// Ports on which the frames of `source` arrive on `side`; what is sent goes to the recorder of its side.
    pub fn new(source: Reader<R>, side: Side, sent: BySide<Writer<W>>) -> Replay<R, W> {
        Replay { source: Some(source), side, sent, time: Duration::ZERO, octets: Vec::new(), failure: None }
    }

    /// Whether everything was played, or the capture could not be read any further.
    pub fn is_finished(&self) -> bool {
        self.source.is_none()
    }

    /// The time of the frame that was played last, since the Unix epoch.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Ends the replay and gives back the recordings.
    ///
    /// # Errors
    ///
    /// The first thing that went wrong in reading or recording.
    pub fn finish(self) -> Result<BySide<W>, PcapError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let BySide { client, server } = self.sent;
        let client = client.finish().map_err(PcapError::Io)?;
        Ok(BySide::new(client, server.finish().map_err(PcapError::Io)?))
    }

    /// Keeps the first failure and ends the replay.
    fn fail(&mut self, failure: PcapError) {
        self.source = None;
        self.failure.get_or_insert(failure);
    }
}

impl<R: Read, W: Write> FrameIo for Replay<R, W> {
    fn receive(&mut self, side: Side, frame: &mut FrameBuf) -> Received {
        if side != self.side {
            return Received::Empty;
        }
        let Some(source) = &mut self.source else { return Received::Empty };
        match source.next_record(&mut self.octets) {
            Ok(Some(time)) => self.time = time,
            Ok(None) => {
                self.source = None;
                return Received::Empty;
            }
            Err(failure) => {
                self.fail(failure);
                return Received::Empty;
            }
        }
        if frame.set_bytes(&self.octets) { Received::Frame } else { Received::Discarded }
    }

    fn send(&mut self, side: Side, frame: FrameRef<'_>) {
        if let Err(error) = self.sent.at_mut(side).write_record(self.time, frame.bytes()) {
            self.fail(PcapError::Io(error));
        }
    }

    /// Returns at once: a capture is always ready.
    fn flush(&mut self) {}

    fn wait(&mut self, _timeout: Duration) {}
}

fn read_array<const N: usize>(source: &mut impl Read) -> Result<[u8; N], PcapError> {
    let mut octets = [0; N];
    source.read_exact(&mut octets).map_err(explain)?;
    Ok(octets)
}

fn explain(error: io::Error) -> PcapError {
    match error.kind() {
        ErrorKind::UnexpectedEof => PcapError::Truncated,
        _ => PcapError::Io(error),
    }
}

/// The longest record that is read, as in libpcap (`MAXIMUM_SNAPLEN`): a damaged length must not fill the memory.
pub const MAX_RECORD_LEN: u32 = 262_144;

const MAGIC_MICROS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
const LINK_TYPE_ETHERNET: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::buffer::MAX_FRAME_LEN;

    #[test]
    fn round_trip_keeps_octets_and_nanoseconds() {
        let frames: [(Duration, Vec<u8>); 3] = [
            (Duration::new(1, 999_999_999), vec![1; 60]),
            (Duration::new(u32::MAX.into(), 0), Vec::new()),
            (Duration::ZERO, vec![3; MAX_FRAME_LEN]),
        ];
        let mut writer = Writer::new(Vec::new()).unwrap();
        for (time, bytes) in &frames {
            writer.write_record(*time, bytes).unwrap();
        }
        let file = writer.finish().unwrap();
        assert_eq!(read_all(&file).unwrap(), frames);
    }

    #[test]
    fn both_byte_orders_and_resolutions_are_read() {
        let big: fn(u32) -> [u8; 4] = u32::to_be_bytes;
        for (magic, nanos) in [(MAGIC_MICROS, 123_000), (MAGIC_NANOS, 123)] {
            for order in [big, u32::to_le_bytes] {
                let file = capture(order, magic, 1, &[(7, 123, 4, b"abcd")]);
                assert_eq!(read_all(&file).unwrap(), [(Duration::new(7, nanos), b"abcd".to_vec())]);
            }
        }
    }

    #[test]
    fn file_cut_off_at_any_length_is_an_error_except_between_records() {
        let file = capture(u32::to_le_bytes, MAGIC_NANOS, 1, &[(1, 2, 3, b"abc"), (1, 2, 5, b"defgh")]);
        for len in 0..file.len() {
            let result = read_all(&file[..len]);
            match len {
                24 => assert!(result.unwrap().is_empty()),
                43 => assert_eq!(result.unwrap().len(), 1),
                _ => assert!(matches!(result, Err(PcapError::Truncated)), "{len} octets: {result:?}"),
            }
        }
    }

    #[test]
    fn other_formats_and_nonsense_are_refused() {
        let pcapng = capture(u32::to_be_bytes, 0x0a0d_0d0a, 1, &[]);
        assert!(matches!(read_all(&pcapng), Err(PcapError::Magic { magic: 0x0a0d_0d0a })));
        let raw_ip = capture(u32::to_be_bytes, MAGIC_MICROS, 101, &[]);
        assert!(matches!(read_all(&raw_ip), Err(PcapError::LinkType { link_type: 101 })));
        for len in [MAX_RECORD_LEN + 1, 0x8000_0000, u32::MAX] {
            let file = capture(u32::to_be_bytes, MAGIC_MICROS, 1, &[(0, 0, len, b"")]);
            assert!(
                matches!(read_all(&file), Err(PcapError::RecordLength { len: claimed }) if claimed == len)
            );
        }
        let file = capture(u32::to_be_bytes, MAGIC_MICROS, 1, &[(u32::MAX, u32::MAX, 1, b"x")]);
        assert_eq!(read_all(&file).unwrap().len(), 1, "ticks beyond a second are carried over");
    }

    #[test]
    fn replay_plays_one_side_and_records_both() {
        let file = capture(u32::to_be_bytes, MAGIC_MICROS, 1, &[(5, 6, 3, b"one"), (7, 8, 3, b"two")]);
        let recorder = || Writer::new(Vec::new()).unwrap();
        let source = Reader::new(file.as_slice()).unwrap();
        let mut io = Replay::new(source, Side::Server, BySide::new(recorder(), recorder()));
        let mut frame = FrameBuf::new();
        assert_eq!(io.receive(Side::Client, &mut frame), Received::Empty);
        while io.receive(Side::Server, &mut frame) == Received::Frame {
            io.send(Side::Client, frame.as_frame());
        }
        io.send(Side::Server, frame.as_frame());
        assert!(io.is_finished());
        let sent = io.finish().unwrap();
        let [one, two] = [Duration::new(5, 6000), Duration::new(7, 8000)];
        assert_eq!(
            read_all(sent.at(Side::Client)).unwrap(),
            [(one, b"one".to_vec()), (two, b"two".to_vec())]
        );
        assert_eq!(read_all(sent.at(Side::Server)).unwrap(), [(two, b"two".to_vec())]);
    }

    #[test]
    fn replay_of_a_damaged_file_ends_and_tells() {
        let file = capture(u32::to_be_bytes, MAGIC_MICROS, 1, &[(5, 6, 3, b"one"), (7, 8, 9, b"two")]);
        let source = Reader::new(file.as_slice()).unwrap();
        let recorder = || Writer::new(Vec::new()).unwrap();
        let mut io = Replay::new(source, Side::Client, BySide::new(recorder(), recorder()));
        let mut frame = FrameBuf::new();
        assert_eq!(io.receive(Side::Client, &mut frame), Received::Frame);
        assert_eq!(io.receive(Side::Client, &mut frame), Received::Empty);
        assert!(io.is_finished());
        assert!(matches!(io.finish(), Err(PcapError::Truncated)));
    }

    fn read_all(file: &[u8]) -> Result<Vec<(Duration, Vec<u8>)>, PcapError> {
        let mut reader = Reader::new(file)?;
        let mut frames = Vec::new();
        let mut octets = Vec::new();
        while let Some(time) = reader.next_record(&mut octets)? {
            frames.push((time, octets.clone()));
        }
        Ok(frames)
    }

    fn capture(
        order: fn(u32) -> [u8; 4],
        magic: u32,
        link_type: u32,
        records: &[(u32, u32, u32, &[u8])],
    ) -> Vec<u8> {
        let mut file: Vec<u8> = [magic, 0x0002_0004, 0, 0, 65_535, link_type].map(order).concat();
        for (seconds, ticks, len, octets) in records {
            file.extend([*seconds, *ticks, *len, *len].map(order).concat());
            file.extend_from_slice(octets);
        }
        file
    }
}
