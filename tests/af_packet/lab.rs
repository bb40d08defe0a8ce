//! Three sealed namespaces in a row, and what the tests do in them.
#![expect(unreachable_pub, reason = "a module of one test")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket};
use nix::unistd::Pid;
use synwall::engine::policy::{Limits, Policy};
use synwall::engine::{Engine, Shared, Side};
use synwall::io::af_packet::{AfPacket, OpenError};
use synwall::io::worker::spawn;
use synwall::io::{FrameIo, MonotonicClock, PortSnapshot, PortStats, Received, pcap};
use synwall::wire::buffer::{FrameBuf, FrameRef, Offload};

/// A network namespace that ends with the value.
pub struct Namespace(String);

impl Namespace {
    fn new(role: &str) -> Namespace {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace(format!("swio-{}-{number}-{role}", std::process::id()));
        run(Command::new("ip").args(["netns", "add", &namespace.0]));
        // No frames of the hosts' own: neighbour discovery, multicast reports.
        namespace.exec(&["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
        namespace.exec(&["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
        namespace
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    pub fn ip(&self, arguments: &[&str]) -> String {
        run(Command::new("ip").args(["-n", &self.0]).args(arguments))
    }

    fn exec(&self, arguments: &[&str]) -> String {
        run(Command::new("ip").args(["netns", "exec", &self.0]).args(arguments))
    }

    /// Runs `work` on a thread inside; sockets that it opens stay inside.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(File::open(format!("/run/netns/{}", self.0)).unwrap(), CloneFlags::CLONE_NEWNET)
                    .unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// Opens a socket that sends whole frames on `interface`.
    pub fn tap(&self, interface: &str) -> Tap {
        self.enter(|| {
            let address = getifaddrs()
                .unwrap()
                .filter(|entry| entry.interface_name == interface)
                .find_map(|entry| Some(*entry.address?.as_link_addr()?))
                .unwrap();
            let tap = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
            bind(tap.as_raw_fd(), &address).unwrap();
            Tap(tap)
        })
    }

    /// Opens `interface` as the client's side of a plane, to send and receive with offload headers.
    pub fn end(&self, interface: &str) -> AfPacket {
        self.ip(&["link", "add", "unused0", "type", "veth", "peer", "name", "unused1"]);
        self.ip(&["link", "set", "unused0", "up"]);
        self.enter(|| AfPacket::open(interface, "unused0", 1)).unwrap().0.pop().unwrap()
    }

    /// Starts to record what arrives on `interface`, as tcpdump sees it: with tags put back in.
    pub fn capture(&self, interface: &str) -> Capture {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.0, "tcpdump", "-i", interface, "-Q", "in", "-w", "-", "-U"])
            // Short slots: of its default size only a few fit the buffer, and tcpdump loses frames.
            .args(["--immediate-mode", "-s", "2048", "-Z", "root"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "tcpdump does not start");
        }
        let mut stdout = child.stdout.take().unwrap();
        let output = thread::spawn(move || {
            let mut file = Vec::new();
            stdout.read_to_end(&mut file).map(|_| file)
        });
        Capture { child, output, _stderr: Box::new(stderr) }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Sends whole frames.
pub struct Tap(OwnedFd);

impl Tap {
    pub fn send(&self, frame: &[u8]) {
        assert_eq!(send(self.0.as_raw_fd(), frame, MsgFlags::empty()).unwrap(), frame.len());
    }
}

/// A running tcpdump.
pub struct Capture {
    child: Child,
    output: JoinHandle<std::io::Result<Vec<u8>>>,
    _stderr: Box<dyn Read>,
}

impl Capture {
    /// Ends it; returns the frames.
    pub fn stop(mut self) -> Vec<Vec<u8>> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
        let file = self.output.join().unwrap().unwrap();
        let mut reader = pcap::Reader::new(file.as_slice()).unwrap();
        let (mut frames, mut octets) = (Vec::new(), Vec::new());
        while reader.next_record(&mut octets).unwrap().is_some() {
            frames.push(octets.clone());
        }
        frames
    }
}

/// l0 in `left` — p0 and p1 in `middle` — r0 in `right`.
pub struct Lab {
    pub left: Namespace,
    pub middle: Namespace,
    pub right: Namespace,
}

impl Lab {
    pub fn new() -> Lab {
        let lab = Lab { left: Namespace::new("l"), middle: Namespace::new("m"), right: Namespace::new("r") };
        for (namespace, peer, port) in [(&lab.left, "l0", "p0"), (&lab.right, "r0", "p1")] {
            let middle = lab.middle.name();
            namespace.ip(&["link", "add", peer, "type", "veth", "peer", "name", port, "netns", middle]);
            namespace.ip(&["link", "set", peer, "up"]);
            lab.middle.ip(&["link", "set", port, "up"]);
        }
        lab
    }

    /// Starts `workers` forwarding workers in the middle.
    pub fn start(&self, workers: usize) -> Plane {
        let (planes, stats) = self.middle.enter(|| AfPacket::open("p0", "p1", workers)).unwrap();
        let policy = Policy::new(Vec::new(), Limits::default(), 1500).unwrap();
        let shared = Arc::new(Shared::new(policy, workers, [1, 2]));
        let stop = Arc::new(AtomicBool::new(false));
        let clock = MonotonicClock::new();
        let (mut counts, mut threads) = (Vec::new(), Vec::new());
        for (index, inner) in planes.into_iter().enumerate() {
            let count = Arc::new(Counts::default());
            let io = Counting { inner, count: count.clone() };
            let engine = Engine::new(shared.clone(), index);
            threads.push(spawn(index, None, engine, io, clock, stop.clone()).unwrap());
            counts.push(count);
        }
        Plane { stats, stop, counts, threads }
    }

    pub fn open_error(&self, outside: &str, inside: &str, workers: usize) -> OpenError {
        self.middle.enter(|| AfPacket::open(outside, inside, workers).err()).unwrap()
    }

    pub fn promiscuity(&self) -> [u32; 2] {
        ["p0", "p1"].map(|port| {
            let description = self.middle.ip(&["-d", "link", "show", port]);
            let (_, rest) = description.split_once("promiscuity ").unwrap();
            rest.split_whitespace().next().unwrap().parse().unwrap()
        })
    }

    pub fn give_addresses(&self) {
        self.left.ip(&["address", "add", "198.18.0.1/24", "dev", "l0"]);
        self.right.ip(&["address", "add", "198.18.0.2/24", "dev", "r0"]);
    }

    /// Moves `octets` over one TCP connection from left to right, and an answer back.
    pub fn transfer(&self, octets: usize) {
        let listener = self.right.enter(|| TcpListener::bind("198.18.0.2:5000").unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut chunk = vec![0; 1 << 16];
            let mut received = 0;
            while received < octets {
                let len = stream.read(&mut chunk).unwrap();
                assert!(len > 0 && chunk[..len].iter().all(|octet| *octet == 0x5a));
                received += len;
            }
            stream.write_all(b"done").unwrap();
        });
        let mut stream = self.left.enter(|| TcpStream::connect("198.18.0.2:5000").unwrap());
        stream.write_all(&vec![0x5a; octets]).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"done");
        server.join().unwrap();
    }

    /// The mean length of the frames that arrived on the right.
    pub fn mean_frame_received(&self) -> u64 {
        let read = |name: &str| -> u64 {
            let path = format!("/sys/class/net/r0/statistics/{name}");
            self.right.exec(&["cat", &path]).trim().parse().unwrap()
        };
        read("rx_bytes") / read("rx_packets")
    }

    /// Expects frames with and without a tag to cross both ways, once.
    pub fn expect_crossing(&self) {
        let captures = [self.left.capture("l0"), self.right.capture("r0")];
        let frames = [untagged(7), tagged(8, &[(0x8100, 9)])];
        for frame in &frames {
            self.left.tap("l0").send(frame);
            self.right.tap("r0").send(frame);
        }
        thread::sleep(Duration::from_millis(200));
        for capture in captures {
            let mut seen = capture.stop();
            seen.sort();
            let mut expected = frames.to_vec();
            expected.sort();
            assert_eq!(seen, expected);
        }
    }
}

/// Workers that forward.
pub struct Plane {
    stats: Arc<PortStats>,
    stop: Arc<AtomicBool>,
    counts: Vec<Arc<Counts>>,
    threads: Vec<JoinHandle<()>>,
}

impl Plane {
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }

    pub fn snapshot(&self) -> [PortSnapshot; 2] {
        self.stats.snapshot().ports
    }

    pub fn wait_until(&self, condition: impl Fn(&[PortSnapshot; 2]) -> bool) {
        for _ in 0..100 {
            if condition(&self.snapshot()) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("not within two seconds: {:?}", self.snapshot());
    }

    /// Frames that each of two workers has received.
    pub fn frames(&self) -> [u64; 2] {
        [0, 1].map(|worker: usize| self.counts[worker].frames.load(Ordering::Relaxed))
    }

    /// Waits for one more frame than `before`; by worker.
    pub fn frames_since(&self, before: [u64; 2]) -> [u64; 2] {
        for _ in 0..200 {
            let now = self.frames();
            if now != before {
                return [now[0] - before[0], now[1] - before[1]];
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("no frame within a second");
    }

    /// How often the workers looked for frames.
    pub fn waits_in_a_second(&self) -> u64 {
        let waits = || self.counts.iter().map(|count| count.waits.load(Ordering::Relaxed)).sum::<u64>();
        let before = waits();
        thread::sleep(Duration::from_secs(1));
        waits() - before
    }
}

#[derive(Default)]
struct Counts {
    frames: AtomicU64,
    waits: AtomicU64,
}

/// Counts what a worker does with its ports.
struct Counting {
    inner: AfPacket,
    count: Arc<Counts>,
}

impl FrameIo for Counting {
    fn receive(&mut self, side: Side, frame: &mut FrameBuf) -> Received {
        let received = self.inner.receive(side, frame);
        if received == Received::Frame {
            self.count.frames.fetch_add(1, Ordering::Relaxed);
        }
        received
    }

    fn send(&mut self, side: Side, frame: FrameRef<'_>) {
        self.inner.send(side, frame);
    }

    fn flush(&mut self) {
        self.inner.flush();
    }

    fn wait(&mut self, timeout: Duration) {
        self.count.waits.fetch_add(1, Ordering::Relaxed);
        self.inner.wait(timeout);
    }
}

/// A frame of type `kind`.
pub fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], kind.to_be_bytes().as_slice(), payload].concat()
}

/// A TCP segment of flow `number`.
pub fn untagged(number: u8) -> Vec<u8> {
    tagged(number, &[])
}

/// A TCP segment of flow `number` behind `tags`, outermost first.
pub fn tagged(number: u8, tags: &[(u16, u16)]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 60, 0, number, 0, 0, 64, 6, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2];
    packet.extend([0x80, number, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    packet.extend([number; 20]);
    let kinds = tags.iter().map(|tag| tag.0).chain([0x0800]).collect::<Vec<_>>();
    let mut behind = Vec::new();
    for ((_, tci), kind) in tags.iter().zip(&kinds[1..]) {
        behind.extend([tci.to_be_bytes(), kind.to_be_bytes()].concat());
    }
    behind.extend(packet);
    ethernet(kinds[0], &behind)
}

/// A TCP segment of 40 times 1000 octets behind `tags`, to be cut up and checksummed by whoever transmits it.
pub fn super_frame(tags: &[(u16, u16)]) -> FrameBuf {
    let mut bytes = tagged(1, tags);
    bytes.truncate(bytes.len() - 20);
    let headers = bytes.len();
    bytes.extend((0..40_000_u32).map(|number| (number % 251) as u8));
    bytes[headers - 38..headers - 36].copy_from_slice(&40_040_u16.to_be_bytes());
    let mut frame = FrameBuf::new();
    assert!(frame.set_bytes(&bytes));
    frame.set_offload(Offload {
        flags: Offload::NEEDS_CSUM,
        gso_type: 1,
        hdr_len: headers as u16,
        gso_size: 1000,
        csum_start: headers as u16 - 20,
        csum_offset: 16,
    });
    frame
}

/// Waits for one frame.
pub fn receive(io: &mut impl FrameIo, side: Side) -> FrameBuf {
    let mut frame = FrameBuf::new();
    for _ in 0..50 {
        io.wait(Duration::from_millis(20));
        if io.receive(side, &mut frame) == Received::Frame {
            return frame;
        }
    }
    panic!("no frame within a second");
}

/// The same flow's other direction: addresses and ports change places.
pub fn reverse(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let addresses = frame.len() - 60 + 12;
    let (source, destination) = frame[addresses..addresses + 8].split_at_mut(4);
    source.swap_with_slice(destination);
    let (source, destination) = frame[addresses + 8..addresses + 12].split_at_mut(2);
    source.swap_with_slice(destination);
    frame
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
