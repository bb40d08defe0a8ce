//! Captures: any octets as a file, and what is read is written and read again.

use std::time::Duration;

use synwall::engine::Side;
use synwall::io::pcap::{Reader, Replay, Writer};
use synwall::io::{BySide, FrameIo, Received};
use synwall::wire::buffer::FrameBuf;

/// Reads `octets` as a capture to its end or first mistake, and plays it.
pub fn run(octets: &[u8]) {
    let records = read(octets);
    let mut writer = Writer::new(Vec::new()).expect("memory takes what is written");
    for (time, frame) in &records {
        writer.write_record(*time, frame).expect("no record is longer than the reader allows");
    }
    let written = writer.finish().expect("memory takes what is written");
    let again = read(&written);
    assert_eq!(again.len(), records.len());
    for ((time, frame), (before, expected)) in again.iter().zip(&records) {
        assert_eq!(frame, expected);
        // Ticks beyond a second are carried over, and past the year 2106 the format has no seconds.
        assert!(time == before || before.as_secs() > u64::from(u32::MAX));
    }
    play(octets, records.len());
}

fn read(file: &[u8]) -> Vec<(Duration, Vec<u8>)> {
    let Ok(mut reader) = Reader::new(file) else { return Vec::new() };
    let (mut records, mut octets) = (Vec::new(), Vec::new());
    while let Ok(Some(time)) = reader.next_record(&mut octets) {
        records.push((time, octets.clone()));
    }
    records
}

fn play(file: &[u8], records: usize) {
    let Ok(source) = Reader::new(file) else { return };
    let recorder = || Writer::new(Vec::new()).expect("memory takes what is written");
    let mut io = Replay::new(source, Side::Client, BySide::new(recorder(), recorder()));
    let (mut frame, mut played) = (FrameBuf::new(), 0);
    loop {
        match io.receive(Side::Client, &mut frame) {
            Received::Frame => io.send(Side::Server, frame.as_frame()),
            Received::Discarded => {}
            Received::Empty | Received::Down => break,
        }
        played += 1;
    }
    assert!(io.is_finished());
    assert_eq!(played, records);
}
