//! The raw-socket plane on real interfaces, each test in network namespaces of its own. Needs root, iproute2, tcpdump
//! and setpriv; fails without.
//!
//! A lab is three sealed namespaces: `left` and `right` play the peers, `middle` between them holds the two ports.
#![expect(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test")]

#[path = "af_packet/lab.rs"]
mod lab;

use std::process::Command;
use std::thread;
use std::time::Duration;

use lab::{Lab, ethernet, tagged, untagged};
use synwall::engine::Side;
use synwall::io::FrameIo;
use synwall::io::af_packet::{AfPacket, OpenError};
use synwall::wire::buffer::Offload;

#[test]
fn untagged_frames_cross_whole_both_ways_and_once() {
    frames_cross(1, &untagged);
    frames_cross(2, &untagged);
}

#[test]
fn tagged_frames_cross_whole_both_ways_and_once() {
    frames_cross(1, &|number| tagged(number, &[(0x8100, 0xa064)]));
    frames_cross(2, &|number| tagged(number, &[(0x8100, 0xa064)]));
}

#[test]
fn doubly_tagged_frames_cross_whole_both_ways_and_once() {
    for outer in [0x88a8, 0x8100] {
        frames_cross(1, &|number| tagged(number, &[(outer, 0x2007), (0x8100, 0xa064)]));
        frames_cross(2, &|number| tagged(number, &[(outer, 0x2007), (0x8100, 0xa064)]));
    }
}

#[test]
fn priority_tags_and_unknown_types_cross() {
    frames_cross(1, &|number| tagged(number, &[(0x8100, 0xe000)]));
    frames_cross(1, &|number| ethernet(0x88b5, &[number; 60]));
}

#[test]
fn both_directions_of_a_flow_meet_in_one_worker_and_both_have_work() {
    let lab = Lab::new();
    let plane = lab.start(2);
    let (left, right) = (lab.left.tap("l0"), lab.right.tap("r0"));
    let mut busy = [0_u64; 2];
    for tags in [&[][..], &[(0x8100, 5)]] {
        for number in 0..32 {
            let before = plane.frames();
            left.send(&tagged(number, tags));
            let there = plane.frames_since(before);
            right.send(&lab::reverse(&tagged(number, tags)));
            let back = plane.frames_since([before[0] + there[0], before[1] + there[1]]);
            assert_eq!(there, back, "flow {number}");
            busy[0] += there[0];
            busy[1] += there[1];
        }
    }
    assert!(busy.iter().all(|frames| *frames > 8), "{busy:?} of 64 flows");
    plane.stop();
}

#[test]
fn super_frames_with_partial_checksums_cross() {
    for workers in [1, 2] {
        let lab = Lab::new();
        let plane = lab.start(workers);
        lab.give_addresses();
        lab.transfer(24 << 20);
        let [outside, inside] = plane.snapshot();
        assert_eq!((outside.lost(), inside.lost()), (0, 0), "{outside:?} {inside:?}");
        let mean = lab.mean_frame_received();
        assert!(mean > 5000, "frames of {mean} octets: segmentation was not left to the receiver");
        plane.stop();
    }
}

#[test]
fn tagged_super_frame_keeps_its_offsets() {
    for tags in [&[][..], &[(0x8100, 0xa064)], &[(0x88a8, 7), (0x8100, 8)]] {
        let lab = Lab::new();
        let plane = lab.start(1);
        let (mut left, mut right) = (lab.left.end("l0"), lab.right.end("r0"));
        let sent = lab::super_frame(tags);
        left.send(Side::Client, sent.as_frame());
        let received = lab::receive(&mut right, Side::Client);
        assert_eq!(received.bytes(), sent.bytes());
        // How much of the frame lies in one piece of the kernel's memory is its affair.
        let hdr_len = received.offload().hdr_len;
        assert_eq!(received.offload(), Offload { hdr_len, ..sent.offload() });
        plane.stop();
    }
}

#[test]
fn link_that_goes_down_is_reported_and_recovers() {
    for workers in [1, 2] {
        let lab = Lab::new();
        let plane = lab.start(workers);
        lab.expect_crossing();
        // The far end, so that the port loses its carrier; then the port itself.
        for (namespace, interface) in [(&lab.right, "r0"), (&lab.middle, "p1")] {
            namespace.ip(&["link", "set", interface, "down"]);
            plane.wait_until(|[outside, inside]| !inside.up && (outside.up || interface == "r0"));
            lab.left.tap("l0").send(&untagged(1));
            namespace.ip(&["link", "set", interface, "up"]);
            plane.wait_until(|[outside, inside]| outside.up && inside.up);
            lab.expect_crossing();
        }
        plane.stop();
    }
}

#[test]
fn idle_down_and_vanished_ports_do_not_spin() {
    let lab = Lab::new();
    let plane = lab.start(1);
    assert!(plane.waits_in_a_second() < 50);
    lab.middle.ip(&["link", "set", "p1", "down"]);
    plane.wait_until(|[_, inside]| !inside.up);
    assert!(plane.waits_in_a_second() < 50);
    lab.middle.ip(&["link", "delete", "p1"]);
    lab.left.tap("l0").send(&untagged(1));
    assert!(plane.waits_in_a_second() < 50);
    let [outside, inside] = plane.snapshot();
    assert!(outside.up && !inside.up, "{outside:?} {inside:?}");
    assert!(inside.send_failed.contains(&("port_down", 1)), "{inside:?}");
    plane.stop();
}

#[test]
fn frame_too_long_for_the_other_port_is_counted() {
    let lab = Lab::new();
    let plane = lab.start(1);
    lab.left.ip(&["link", "set", "l0", "mtu", "3000"]);
    lab.middle.ip(&["link", "set", "p0", "mtu", "3000"]);
    lab.left.tap("l0").send(&ethernet(0x88b5, &[1; 2500]));
    plane.wait_until(|[_, inside]| inside.send_failed.contains(&("too_long", 1)));
    lab.expect_crossing();
    plane.stop();
}

#[test]
fn promiscuity_ends_with_the_plane() {
    let lab = Lab::new();
    assert_eq!(lab.promiscuity(), [0, 0]);
    let plane = lab.start(2);
    assert_eq!(lab.promiscuity(), [2, 2]);
    plane.stop();
    // Another test that starts a command at this moment holds copies of all descriptors until it has executed it.
    let ended = (0..50).any(|_| {
        thread::sleep(Duration::from_millis(20));
        lab.promiscuity() == [0, 0]
    });
    assert!(ended, "{:?}", lab.promiscuity());
}

#[test]
fn opening_says_what_is_wrong_and_leaves_nothing_behind() {
    let lab = Lab::new();
    let message = |outside, inside, workers| lab.open_error(outside, inside, workers).to_string();
    assert!(message("p0", "nosuch0", 1).starts_with("there is no interface \"nosuch0\" here"));
    assert!(message("p0", "p0", 1).starts_with("outside and inside are both \"p0\""));
    assert!(message("lo", "p1", 1).starts_with("interface \"lo\" is not Ethernet (link type 772)"));
    assert!(message("p0", "p1", 0).starts_with("0 workers"));
    lab.middle.ip(&["link", "set", "p1", "down"]);
    assert_eq!(message("p0", "p1", 1), "interface \"p1\" is down; bring it up with `ip link set p1 up`");
    assert_eq!(lab.promiscuity(), [0, 0]);
}

#[test]
fn opening_without_privilege_names_the_capability() {
    let lab = Lab::new();
    let this = std::env::current_exe().unwrap();
    let status = Command::new("ip")
        .args(["netns", "exec", lab.middle.name(), "setpriv", "--bounding-set=-net_raw"])
        .arg(this)
        .args(["--ignored", "--exact", "helper_opens_without_privilege"])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Runs in a process of its own, for the test above.
#[test]
#[ignore = "a helper that needs a prepared environment"]
fn helper_opens_without_privilege() {
    let error = AfPacket::open("p0", "p1", 1).err().unwrap();
    assert!(matches!(error, OpenError::NoPermission), "{error}");
    assert!(error.to_string().contains("CAP_NET_RAW"));
}

/// Sends numbered frames both ways and expects each on the other side, whole and once.
fn frames_cross(workers: usize, frame: &dyn Fn(u8) -> Vec<u8>) {
    const COUNT: u8 = 40;
    let lab = Lab::new();
    let plane = lab.start(workers);
    let captures = [lab.left.capture("l0"), lab.right.capture("r0")];
    let (left, right) = (lab.left.tap("l0"), lab.right.tap("r0"));
    for number in 0..COUNT {
        left.send(&frame(number));
        right.send(&frame(number + 100));
    }
    // Long enough for copies to arrive, too.
    thread::sleep(Duration::from_millis(400));
    for (capture, first) in captures.into_iter().zip([100, 0]) {
        let mut seen = capture.stop();
        seen.sort();
        let mut expected: Vec<Vec<u8>> = (first..first + COUNT).map(frame).collect();
        expected.sort();
        assert_eq!(
            seen.len(),
            expected.len(),
            "frames, with {workers} workers: {:?} {:?}",
            plane.snapshot(),
            plane.waits_in_a_second()
        );
        assert!(seen == expected, "{:02x?}\n{:02x?}", seen[0], expected[0]);
    }
    plane.stop();
}
