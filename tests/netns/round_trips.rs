//! How many round trips a client waits, and what it had to send twice.

use std::io::Write;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::capture::Capture;
use crate::lab::{CONFIG, Lab, SERVER};
use crate::traffic::{address, get, open, open_without_a_bare_ack, read, serve};

/// Row 23.
#[test]
fn data_in_the_third_segment_and_behind_it_is_sent_once() {
    let lab = Lab::protected(&[]);
    without_loss_probes(&lab);
    for host in SERVER {
        let server = serve(&lab, address(host, 8000), 2, |mut stream| read(&mut stream, 8).unwrap());
        let _evidence = Capture::start(&lab, "server");
        let mut capture = Capture::start(&lab, "client");
        lab.within("client", || {
            for connect in [open_without_a_bare_ack, open] {
                let mut stream = connect(address(host, 8000)).unwrap();
                stream.write_all(b"data").unwrap();
                stream.write_all(b"more").unwrap();
                assert_eq!(stream.peek(&mut [0]).unwrap(), 0, "the server closes");
            }
        });
        assert_eq!(server.join().unwrap(), [b"datamore", b"datamore"]);
        capture.end();
        let frames = capture.frames();
        let syn_ack = frames.iter().position(|frame| is_tcp(frame, 0x12)).expect("a SYN-ACK");
        assert!(frames[syn_ack + 1].ends_with(b"data"), "the third segment carries data");
        let repeated = capture.select("tcp.analysis.retransmission or tcp.analysis.out_of_order");
        assert!(repeated.is_empty(), "sent twice: {repeated:#?}");
    }
    lab.assert_metrics(&[("synwall_dropped_total", 0)]);
}

#[test]
fn ten_early_segments_behind_the_third_arrive_once_and_in_order() {
    let lab = Lab::protected(&[]);
    without_loss_probes(&lab);
    let upload: Vec<u8> = (0..14_000u32).map(|number| number as u8).collect();
    let server = serve(&lab, address(SERVER[0], 8000), 1, |mut stream| read(&mut stream, 14_000).unwrap());
    let mut capture = Capture::start(&lab, "client");
    lab.within("client", || open(address(SERVER[0], 8000)).unwrap().write_all(&upload).unwrap());
    assert_eq!(server.join().unwrap(), [upload]);
    capture.end();
    let repeated = capture.select("tcp.analysis.retransmission");
    assert!(repeated.is_empty(), "sent twice: {repeated:#?}");
}

#[test]
fn first_answer_takes_as_many_round_trips_as_without_synwall() {
    let mut lab = Lab::up(&["--plain", "--delay", "50"]);
    let direct = round_trips(&lab);
    lab.script(&["box", "bridge"]);
    lab.start(CONFIG);
    let through = round_trips(&lab);
    // Connecting is one, and so is the answer to a request; a greeting comes behind the third segment.
    assert_eq!(direct, [2, 2, 2], "without synwall");
    assert_eq!(through, direct, "through synwall, without it");
}

/// Round trips until the first octet of an answer: request after connecting, request in the third segment, greeting.
fn round_trips(lab: &Lab) -> [u32; 3] {
    let web = address(SERVER[0], 80);
    let greeter = address(SERVER[0], 8000);
    let server = serve(lab, greeter, 1, |mut stream| stream.write_all(b"hello").unwrap());
    let rounds = lab.within("client", || {
        // Neighbours resolve in their own round trip, before the first packet goes: not in this count.
        get(&mut open(web).unwrap()).unwrap();
        thread::sleep(ROUND_TRIP * 3);
        [
            rounds(|| get(&mut open(web).unwrap()).map(drop)),
            rounds(|| get(&mut open_without_a_bare_ack(web).unwrap()).map(drop)),
            rounds(|| greeting(greeter)),
        ]
    });
    server.join().unwrap();
    rounds
}

/// A client that probes for lost segments after a few milliseconds (RFC 8985 §7) would do so on a busy machine, too.
fn without_loss_probes(lab: &Lab) {
    lab.run("client", &["sysctl", "-qw", "net.ipv4.tcp_early_retrans=0"]);
}

/// Whether a frame without IP options is TCP with exactly these control bits.
fn is_tcp(frame: &[u8], flags: u8) -> bool {
    let (protocol, bits) = if frame[12] == 0x08 { (23, 47) } else { (20, 67) };
    frame.get(protocol) == Some(&6) && frame.get(bits) == Some(&flags)
}

fn greeting(server: SocketAddr) -> std::io::Result<()> {
    read(&mut open(server)?, 5).map(drop)
}

fn rounds(visit: impl FnOnce() -> std::io::Result<()>) -> u32 {
    let begun = Instant::now();
    visit().unwrap();
    (begun.elapsed().as_secs_f64() / ROUND_TRIP.as_secs_f64()).round() as u32
}

/// The lab's wire holds every frame for 50 ms each way.
const ROUND_TRIP: Duration = Duration::from_millis(100);
