//! The XDP plane on real interfaces, each test in network namespaces and a bpffs of its own. Needs root, iproute2, ethtool,
//! tcpdump and setpriv; fails without.
#![expect(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test")]

#[path = "xdp_plane/host.rs"]
mod host;
#[allow(dead_code, reason = "shared with the test of the raw-socket plane, which uses all of it")]
#[path = "af_packet/lab.rs"]
mod lab;

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData};
use host::Host;
use lab::{ethernet, untagged};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use synwall::cookie::{KeyRing, MasterKey};
use synwall::engine::Side;
use synwall::engine::fast::{FastEnd, FastEnds, FastFlow, FastPath, Promises};
use synwall::engine::policy::filter::Filter;
use synwall::engine::policy::{Limits, Mode, Policy, PortSet, Prefix, Service, ServiceId};
use synwall::engine::stats::PortValues;
use synwall::io::xdp::{self, Attachment, Plane, XdpError};
use synwall::table::flow_key::FlowKey;

#[test]
fn attaching_and_detaching_leaves_the_host_as_it_was() {
    for attachment in [Attachment::Native, Attachment::Generic] {
        let host = Host::new();
        let before = host.state();
        assert!(host.has_rx_vlan("p0"), "or the test shows nothing");
        let mut plane = host.start(attachment);
        let mode = plane.mode().unwrap().label();
        for port in ["p0", "p1"] {
            assert_eq!(host.program(port).unwrap().0, mode);
            assert!(!host.has_rx_vlan(port));
        }
        assert_eq!(host.pinned().len(), 18 + 3, "{:?}", host.pinned());
        host.inside(|| plane.detach()).unwrap();
        assert_eq!(host.state(), before);
    }
}

#[test]
fn without_pins_the_program_goes_with_the_plane() {
    let host = Host::new();
    let before = host.state();
    let mut plane = host.open(&xdp::Options { pin: None, ..host.options(Attachment::Auto) });
    host.inside(|| plane.attach()).unwrap();
    assert!(host.program("p0").is_some() && host.program("p1").is_some());
    host.inside(|| drop(plane));
    assert_eq!(host.state(), before);
}

#[test]
fn what_a_run_left_goes_on_and_the_next_takes_it_over() {
    let host = Host::new();
    let before = host.state();
    let plane = host.start(Attachment::Auto);
    assert!(!plane.is_adopted());
    let (key, flow) = (key(1), flow());
    assert!(plane.path().admit(&key, &flow));
    drop(plane);
    let left = host.program("p0").expect("attached while nobody is there");
    let mut plane = host.open(&host.options(Attachment::Auto));
    assert!(plane.is_adopted() && plane.drained().is_none());
    assert_eq!(host.program("p0"), Some(left.clone()), "until this one attaches");
    let found = plane.path().flows();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].0, found[0].1.ends.client), (key, flow.ends.client));
    host.inside(|| plane.attach()).unwrap();
    let (mode, number) = host.program("p0").unwrap();
    assert!(mode == left.0 && number != left.1, "the new program in the old one's place");
    host.inside(|| plane.detach()).unwrap();
    assert_eq!(host.state(), before, "with the offloads that the first run found");
}

#[test]
fn another_mode_than_that_of_the_earlier_run_is_attached_anew() {
    let host = Host::new();
    let before = host.state();
    drop(host.start(Attachment::Native));
    let mut plane = host.start(Attachment::Generic);
    assert!(plane.is_adopted());
    assert_eq!(host.program("p1").unwrap().0, "generic");
    host.inside(|| plane.detach()).unwrap();
    assert_eq!(host.state(), before);
}

#[test]
fn maps_of_another_version_or_size_are_drained() {
    let host = Host::new();
    let before = host.state();
    let plane = host.start(Attachment::Auto);
    plane.path().admit(&key(1), &flow());
    drop(plane);
    let mut settings: [u8; SETTINGS] = host.entry("settings", 0);
    settings[0] ^= 0x80;
    host.set_entry("settings", 0, settings);
    let plane = host.open(&host.options(Attachment::Auto));
    assert!(!plane.is_adopted() && plane.drained().unwrap().contains("version"), "{:?}", plane.drained());
    assert!(plane.path().flows().is_empty());
    assert!(host.program("p0").is_none() && host.has_rx_vlan("p0"), "the old program went with its maps");
    drop(plane);
    let larger = xdp::Options { max_flows: 2_000, ..host.options(Attachment::Auto) };
    let mut plane = host.open(&larger);
    assert!(plane.drained().unwrap().starts_with("map tags"), "{:?}", plane.drained());
    host.inside(|| plane.detach()).unwrap();
    assert_eq!(host.state(), before);
}

#[test]
fn maps_of_other_ports_are_drained() {
    let host = Host::new();
    drop(host.start(Attachment::Auto));
    let swapped =
        xdp::Options { outside: "p1".to_owned(), inside: "p0".to_owned(), ..host.options(Attachment::Auto) };
    let mut plane = host.open(&swapped);
    assert_eq!(plane.drained(), Some("the ports are others"));
    host.inside(|| plane.detach()).unwrap();
}

#[test]
fn what_a_crashed_run_left_is_removed_and_named() {
    let host = Host::new();
    let before = host.state();
    drop(host.start(Attachment::Auto));
    let done = host.inside(|| xdp::remove(&host.pin())).unwrap();
    assert_eq!(
        done,
        [
            "program detached from outside port p0".to_owned(),
            "program detached from inside port p1".to_owned(),
            "rx-vlan-offload of p0 on again".to_owned(),
            "rx-vlan-offload of p1 on again".to_owned(),
            format!("19 maps removed from {}", host.pin().display()),
        ]
    );
    assert_eq!(host.state(), before);
    assert_eq!(host.inside(|| xdp::remove(&host.pin())).unwrap(), Vec::<String>::new());
}

#[test]
fn a_port_without_native_mode_makes_both_generic_and_says_so() {
    let host = Host::new();
    host.lab.middle.ip(&["link", "add", "d0", "type", "bridge"]);
    let options = |attachment| xdp::Options { inside: "d0".to_owned(), ..host.options(attachment) };
    let mut plane = host.open(&options(Attachment::Auto));
    assert_eq!(host.inside(|| plane.attach()).unwrap(), xdp::Mode::Generic);
    let reason = plane.fallback().unwrap();
    assert!(reason.starts_with("the XDP program cannot be attached to d0 in native mode: "), "{reason}");
    assert_eq!(host.program("p0").unwrap().0, "generic");
    host.inside(|| plane.detach()).unwrap();
    let mut plane = host.open(&options(Attachment::Native));
    let error = host.inside(|| plane.attach()).unwrap_err();
    assert!(matches!(error, XdpError::Attach { mode: "native", .. }), "{error}");
    assert!(host.program("p0").is_none() && host.has_rx_vlan("p0"));
    host.inside(|| plane.detach()).unwrap();
}

#[test]
fn frames_cross_and_are_counted_and_go_up_until_there_is_a_policy() {
    for attachment in [Attachment::Native, Attachment::Generic] {
        let host = Host::new();
        let plane = host.start(attachment);
        let path = plane.path();
        // A veth takes redirected frames when its peer has NAPI.
        host.lab.right.ip(&["link", "set", "r0", "promisc", "on"]);
        host.lab.right.enter(|| command("ethtool", &["-K", "r0", "gro", "on"]));
        let frame = ethernet(0x88b5, &[7; 60]);
        host.lab.left.tap("l0").send(&frame);
        wait_until(|| path.passed_up() == [1, 0]);
        path.set_policy(&policy(), &[]).unwrap();
        let capture = host.lab.right.capture("r0");
        host.lab.left.tap("l0").send(&frame);
        let count = || {
            let mut sum = PortValues::default();
            path.add_port_to(Side::Client, &mut sum);
            sum
        };
        wait_until(|| count().forwarded == 1);
        let octets = frame.len() as u64;
        let expected =
            PortValues { received: 1, received_octets: octets, forwarded: 1, ..PortValues::default() };
        assert_eq!(count(), expected);
        thread::sleep(Duration::from_millis(200));
        assert_eq!(capture.stop(), [frame]);
        // The next run counts from its own beginning.
        drop(plane);
        let mut plane = host.open(&host.options(attachment));
        let mut sum = PortValues::default();
        plane.path().add_port_to(Side::Client, &mut sum);
        assert_eq!((sum, plane.path().passed_up()), (PortValues::default(), [0, 0]));
        host.inside(|| plane.detach()).unwrap();
    }
}

#[test]
fn syns_that_the_program_settles_are_sighted() {
    let host = Host::new();
    let plane = host.start(Attachment::Auto);
    let path = plane.path();
    path.set_policy(&policy(), &promises()).unwrap();
    path.set_keys(&KeyRing::at(&MasterKey::from_bytes([1; 32]), 1));
    path.heartbeat(Duration::from_secs(1_700_000_000));
    assert_eq!(path.next_sighting(), None);
    host.lab.left.tap("l0").send(&syn());
    let mut found = None;
    wait_until(|| {
        found = found.or_else(|| path.next_sighting());
        found.is_some()
    });
    let found = found.unwrap();
    assert_eq!((found.source, found.service), ("198.18.0.1".parse().unwrap(), ServiceId(0)));
    assert_eq!((found.source_port, found.port, found.hop_limit), (0x8001, 80, 64));
}

#[test]
fn the_table_is_the_kernel_s_too() {
    let host = Host::new();
    let plane = host.open(&host.options(Attachment::Auto));
    let path = plane.path();
    assert!((0..1_000).all(|number| path.admit(&key(number), &flow())));
    assert_eq!((path.flow_count(), path.flows().len()), (1_000, 1_000));
    let ends = path.ends(&key(7)).unwrap();
    assert_eq!((ends.client, ends.server), (flow().ends.client, flow().ends.server));
    let slots: Vec<[u8; 104]> = (0..1_200).map(|index| host.entry("slots", index)).collect();
    let taken = slots.iter().filter(|slot| slot[36] % 2 == 0 && slot[36] != 0).count();
    assert_eq!(taken, 1_000);
    let seventh = slots.iter().find(|slot| slot[32..36] == [0x10, 7, 0, 80]).unwrap();
    assert_eq!(seventh[8..16], [0, 0, 0xff, 0xff, 198, 18, 0, 1]);
    assert_eq!(u32::from_ne_bytes(seventh[40..44].try_into().unwrap()), flow().delta);
    let tags: usize = (0..300)
        .map(|index| {
            let word: [u8; 8] = host.entry("tags", index);
            word.as_chunks::<2>().0.iter().filter(|tag| **tag != [0, 0]).count()
        })
        .sum();
    assert_eq!(tags, 1_000);
    (0..1_000).for_each(|number| path.remove(&key(number)));
    assert_eq!((path.flow_count(), path.ends(&key(7))), (0, None));
}

#[test]
fn the_policy_is_in_the_maps() {
    let host = Host::new();
    let plane = host.open(&host.options(Attachment::Auto));
    let path = plane.path();
    let prefix = |text: &str, len| Prefix::new(text.parse().unwrap(), len).unwrap();
    let filter = Filter::new(&[prefix("198.18.9.0", 24), prefix("::", 0)], &[]).unwrap();
    path.set_policy(&policy().with_filter(filter), &promises()).unwrap();
    let rule = |address: &str| -> Option<u32> {
        let octets = match address.parse().unwrap() {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            std::net::IpAddr::V6(v6) => v6.octets(),
        };
        let words: Vec<u32> =
            octets.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word)).collect();
        let map = Map::LpmTrie(MapData::from_pin(host.pin().join("filter")).unwrap());
        let trie: LpmTrie<MapData, [u32; 4], u32> = map.try_into().unwrap();
        trie.get(&Key::new(128, words.try_into().unwrap()), 0).ok()
    };
    assert_eq!(["198.18.9.1", "198.18.8.1", "2001:db8::1"].map(rule), [Some(1), Some(0), Some(1)]);
    let block: [u8; 64] = host.entry("ports", 80 / 32);
    assert_eq!(u16::from_ne_bytes([block[32], block[33]]), 1, "service 0 on port 80");
    let service: [u8; 56] = host.entry("services", 0);
    assert_eq!((service[0], service[2..4].to_vec()), (3, vec![7, 9]));
    let settings: [u8; SETTINGS] = host.entry("settings", 0);
    assert_eq!(settings[4], 2, "a filter, and no bypass");
    path.set_policy(&policy(), &promises()).unwrap();
    assert_eq!(rule("198.18.9.1"), None);
    path.press(ServiceId(0), true);
    assert!(path.is_pressed(ServiceId(0)) && !path.is_pressed(ServiceId(1)));
    path.mark_pending(&key(1));
    path.note_refusal(("198.18.0.2".parse().unwrap(), 80), None, Duration::from_secs(1));
}

#[test]
fn more_rules_than_fit_leave_everything_to_the_engine() {
    let host = Host::new();
    let plane = host.open(&host.options(Attachment::Auto));
    let prefix = |number: u32| Prefix::host(std::net::Ipv4Addr::from(0xc612_0000 + number).into());
    let many = Filter::new(&(0..65_536).map(prefix).collect::<Vec<_>>(), &[]).unwrap();
    let error = plane.path().set_policy(&policy().with_filter(many), &promises()).unwrap_err();
    assert!(
        error.to_string().starts_with("[filter] has 65536 prefixes, and the XDP program holds 65535"),
        "{error}"
    );
    let bypass = || host.entry::<SETTINGS>("settings", 0)[4] & 1;
    assert_eq!(bypass(), 1);
    plane.path().set_policy(&policy(), &promises()).unwrap();
    assert_eq!(bypass(), 0);
}

#[test]
fn opening_and_attaching_say_what_is_wrong_and_leave_nothing_behind() {
    let host = Host::new();
    let before = host.state();
    let error = |options: &xdp::Options| host.try_open(options).err().unwrap().to_string();
    let options = host.options(Attachment::Auto);
    let unknown = xdp::Options { inside: "nosuch0".to_owned(), ..options.clone() };
    assert_eq!(error(&unknown), "there is no interface \"nosuch0\" here: No such device");
    let elsewhere = xdp::Options { pin: Some(std::env::temp_dir().join("synwall-none")), ..options.clone() };
    assert!(error(&elsewhere).contains("there is no bpffs; mount a bpffs there"), "{}", error(&elsewhere));
    let huge = xdp::Options { max_flows: u32::MAX, ..options.clone() };
    assert!(error(&huge).starts_with("the kernel does not make the maps"), "{}", error(&huge));
    assert_eq!(host.state(), before);
    let first = host.start(Attachment::Auto);
    let mut second = host.open(&xdp::Options { pin: None, ..options });
    let taken = host.inside(|| second.attach()).unwrap_err();
    assert!(matches!(taken, XdpError::Taken { .. }), "{taken}");
    drop((first, second));
}

#[test]
fn without_privilege_the_error_names_it() {
    let this = std::env::current_exe().unwrap();
    let status = Command::new("setpriv")
        .args(["--bounding-set=-bpf,-sys_admin"])
        .arg(this)
        .args(["--ignored", "--exact", "helper_probes_without_privilege"])
        .status()
        .unwrap();
    assert!(status.success());
    xdp::probe().unwrap();
}

/// Runs in a process of its own, for the test above.
#[test]
#[ignore = "a helper that needs a prepared environment"]
fn helper_probes_without_privilege() {
    let error = xdp::probe().unwrap_err();
    assert!(matches!(error, XdpError::Permission(_)), "{error}");
    assert!(error.to_string().contains("CAP_BPF"));
}

#[test]
fn a_bpffs_that_is_not_there_is_mounted_and_unmounted() {
    let host = Host::new();
    let is_bpffs =
        || std::fs::read_to_string("/proc/thread-self/mounts").unwrap().contains("/sys/fs/bpf bpf");
    host.inside(|| {
        // What is mounted here nobody else sees.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        mount(Some("none"), "/sys/fs/bpf", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let options =
            xdp::Options { pin: Some("/sys/fs/bpf/synwall-p0".into()), ..host.options(Attachment::Auto) };
        assert!(!is_bpffs());
        let mut plane = Plane::open(&options).unwrap();
        plane.attach().unwrap();
        assert!(is_bpffs() && Path::new("/sys/fs/bpf/synwall-p0/link_outside").exists());
        plane.detach().unwrap();
        assert!(!is_bpffs());
    });
}

#[test]
fn the_driver_is_known() {
    let host = Host::new();
    assert_eq!(host.inside(|| xdp::driver("p0")).as_deref(), Some("veth"));
    assert_eq!(host.inside(|| xdp::driver("nosuch0")), None);
}

fn policy() -> Policy {
    let mut ports = PortSet::empty();
    ports.insert_range(80, 80);
    let prefix = Prefix::host("198.18.0.2".parse().unwrap());
    let service = Service { prefix, ports, mode: Mode::Always, ..Service::default() };
    Policy::new(vec![service], Limits::default(), 1500).unwrap()
}

fn promises() -> [Promises; 1] {
    [Promises { server: Service::default().server, wscale: [7, 9], has_grace: false }]
}

fn key(number: u16) -> FlowKey {
    FlowKey::new("198.18.0.1".parse().unwrap(), 0x1000 + number, "198.18.0.2".parse().unwrap(), 80)
}

fn flow() -> FastFlow {
    let end = |base: u32| FastEnd { next: base, acked: base + 1, edge: base + 2, max_window: 3 };
    let ends = FastEnds { client: end(10), server: end(20), ..FastEnds::default() };
    FastFlow {
        service: ServiceId(0),
        is_up: true,
        is_direct: false,
        challenged: None,
        client_iss: 1,
        delta: 0x1234_5678,
        ts_delta: 3,
        server_window: [7, 7],
        client_window: [7, 7],
        ends,
    }
}

/// A SYN with checksums.
fn syn() -> Vec<u8> {
    let mut frame = untagged(1);
    frame.truncate(54);
    frame[17] = 40;
    frame[47] = 2;
    frame[42..46].fill(0);
    let header = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    let pseudo = [&frame[26..34], &[0, 6, 0, 20], &frame[34..54]].concat();
    frame[50..52].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    frame
}

fn checksum(octets: &[u8]) -> u16 {
    let words = octets.as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

fn command(program: &str, arguments: &[&str]) {
    let run = Command::new(program).args(arguments).output().unwrap();
    assert!(run.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    for _ in 0..200 {
        if condition() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("not within two seconds");
}

/// Octets of `struct settings` in `src/bpf/abi.h`.
const SETTINGS: usize = 184;
