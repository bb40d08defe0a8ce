//! The program in the kernel, a frame at a time.

use std::borrow::Cow;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aya::programs::{ProgramInfo, TestRun, TestRunOptions, Xdp, loaded_programs};
use aya_obj::programs::XdpAttachType;
use nix::sched::{CloneFlags, unshare};

use synwall::engine::{Shared, Side};
use synwall::io::xdp::{Attachment, HASH_KEYS, Options, Path, Plane};
use synwall::time::Instant;

pub struct Program {
    pub path: Arc<Path>,
    /// By side.
    entries: [Xdp; 2],
    _plane: Plane,
}

/// What the program did with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes up to the engine.
    Up,
    /// It goes back out of the port that it came in at.
    Transmit,
    /// It crosses.
    Redirect,
    Drop,
}

/// A frame that the program has seen: what it did, what the frame is now, and the time that it took.
#[derive(Debug)]
pub struct Run {
    pub action: Action,
    pub frame: Vec<u8>,
    pub duration: Duration,
}

impl Program {
    /// Loads it, in a network namespace of this thread's own.
    pub fn load() -> Program {
        unshare(CloneFlags::CLONE_NEWNET).expect("this needs root");
        for port in PORTS {
            ip(&["link", "add", port, "type", "veth", "peer", "name", &format!("{port}-peer")]);
        }
        let options = Options {
            outside: PORTS[0].into(),
            inside: PORTS[1].into(),
            max_flows: 10_000,
            max_half_open: 10_000,
            attachment: Attachment::Generic,
            pin: None,
            hash_keys: std::array::from_fn::<u64, HASH_KEYS, _>(|n| 0x9e37_79b9_7f4a_7c15 ^ (n as u64) << 17),
        };
        let mut plane = Plane::open(&options).unwrap_or_else(|error| panic!("{error}"));
        // The links tell which of the machine's programs are ours.
        plane.attach().unwrap_or_else(|error| panic!("{error}"));
        let entries = PORTS.map(|port| {
            let info = info_of(port);
            let name = Cow::Owned(info.name_as_str().unwrap().to_owned());
            Xdp::from_program_info(info, name, XdpAttachType::Interface).unwrap()
        });
        Program { path: plane.path(), entries, _plane: plane }
    }

    /// Tells the program the policy, promises and keys of `shared`.
    pub fn configure(&self, shared: &Shared, now: Instant) {
        self.path
            .set_policy(&shared.policy(), &shared.promises(now))
            .unwrap_or_else(|error| panic!("{error}"));
        if let Some(keys) = shared.keys() {
            self.path.set_keys(&keys.ring);
        }
    }

    /// What was learned of servers since, and that somebody is there.
    pub fn beat(&self, shared: &Shared, now: Instant) {
        self.path.set_promises(&shared.policy(), &shared.promises(now));
        let unix = shared.keys().map_or(Duration::ZERO, |keys| keys.clock.unix_at(now));
        self.path.heartbeat(unix);
        // The engine's clock does not move by itself.
        self.path.set_clock(unix, u64::MAX);
    }

    pub fn run(&self, side: Side, frame: &[u8]) -> Run {
        self.repeat(side, frame, 1)
    }

    /// Runs a frame that stays as it is so many times; what becomes of the last.
    pub fn repeat(&self, side: Side, frame: &[u8], times: u32) -> Run {
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.repeat = times;
        let result = self.entries[side.index()].test_run(options).unwrap_or_else(|error| {
            panic!("a frame of {} octets: {error}", frame.len());
        });
        out.truncate(result.data_size_out as usize);
        let action = match result.return_value {
            1 => Action::Drop,
            2 => Action::Up,
            3 => Action::Transmit,
            4 => Action::Redirect,
            other => panic!("XDP action {other}"),
        };
        Run { action, frame: out, duration: result.duration }
    }
}

/// What the kernel says of the program on a port.
pub fn info_of(port: &str) -> ProgramInfo {
    let output = Command::new("ip").args(["-d", "link", "show", port]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let id = said.split("prog/xdp id ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let id: u32 = id.unwrap_or_else(|| panic!("no program on {port}: {said}")).parse().unwrap();
    let found = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    found.expect("the program that is attached is loaded")
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().unwrap();
    assert!(output.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub const PORTS: [&str; 2] = ["outside", "inside"];
