//! The attack hook with real processes: what it is told, and that it can neither hold up nor outlive anybody.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests are tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use synwall::config::Hook;
use synwall::control::attacks::{Attack, Board, HeavyPort, HeavyPrefix, Kind, Totals};
use synwall::control::hook::{self, HookError, MAX_WAITING, Occasion, Runner};
use tokio::runtime::Runtime;

/// A hook, the board that counts its runs, and the runtime that both live on.
struct Bench {
    directory: PathBuf,
    board: Arc<Board>,
    runner: Runner,
    runtime: Runtime,
}

impl Bench {
    /// A hook that runs `script` with the name of a new directory as its argument.
    fn new(name: &str, script: &str, timeout: Duration) -> Bench {
        let directory = directory(name);
        let program = directory.join("hook");
        fs::write(&program, format!("#!/bin/sh\ncd \"$1\" || exit 1\n{script}\n")).unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let arguments = vec![directory.display().to_string()];
        Bench::of(directory, Hook { program, arguments, timeout })
    }

    fn of(directory: PathBuf, hook: Hook) -> Bench {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let board = Arc::new(Board::default());
        let runner = runtime.block_on(async { Runner::start(hook, board.clone()) });
        Bench { directory, board, runner, runtime }
    }

    fn tell(&self, occasion: Occasion) {
        self.runner.tell(occasion, &event());
    }

    fn runs(&self) -> [u64; 4] {
        self.board.hook_runs().map(|(_, count)| count)
    }

    /// Waits until `condition` holds, while the hook's task goes on.
    fn eventually(&self, what: &str, condition: impl Fn() -> bool) {
        let wait = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let outcome = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, wait).await });
        assert!(outcome.is_ok(), "not within {PATIENCE:?}: {what}; runs: {:?}", self.runs());
    }

    fn eventually_runs(&self, runs: [u64; 4]) {
        self.eventually(&format!("{runs:?}"), || self.runs() == runs);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The number that a process wrote of itself into the file `name`.
    fn process(&self, name: &str) -> u32 {
        let read = || fs::read_to_string(self.path(name)).ok()?.trim_end().parse().ok();
        self.eventually(name, || read().is_some());
        read().unwrap()
    }
}

fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hook").join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn event() -> Attack {
    Attack {
        id: "1790000000-1".to_owned(),
        service: "web".to_owned(),
        kind: Kind::FewSources,
        started: 1_790_000_000.25,
        ended: None,
        peak_syn_rate: 5_000.5,
        peak_half_open: 128,
        totals: Totals { syns: 9, cookies_sent: 8, completed: 7, dropped: 6 },
        distinct_sources: 5,
        new_source_share: 0.5,
        completed_share: 0.25,
        top_prefixes: vec![HeavyPrefix { prefix: "198.18.3.0/24".to_owned(), share: 0.75 }],
        source_ports: 4,
        top_ports: vec![HeavyPort { port: 443, share: 1.0 }],
        hop_limits: [57, 64],
    }
}

/// Whether the process is gone, but perhaps for its exit status.
fn is_dead(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with(['Z', 'X']))
}

#[test]
fn it_gets_the_event_as_json_and_the_start_before_the_end() {
    let script = "cat >\"$SYNWALL_EVENT.json\"\nsleep 0.1\necho \"$SYNWALL_EVENT\" >>order";
    let bench = Bench::new("told", script, PATIENCE);
    bench.tell(Occasion::Start);
    bench.tell(Occasion::End);
    bench.eventually_runs([2, 0, 0, 0]);
    for occasion in ["start", "end"] {
        let text = fs::read_to_string(bench.path(&format!("{occasion}.json"))).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json, serde_json::to_value(event()).unwrap());
        assert_eq!((&json["kind"], &json["totals"]["syns"]), (&"few_sources".into(), &9.into()));
    }
    assert_eq!(fs::read_to_string(bench.path("order")).unwrap(), "start\nend\n");
}

#[test]
fn its_failures_are_counted_and_the_next_event_is_told() {
    for (name, script) in [("status", "exit 3"), ("signal", "kill -9 $$")] {
        let bench = Bench::new(name, &format!("[ \"$SYNWALL_EVENT\" = end ] && exit 0\n{script}"), PATIENCE);
        bench.tell(Occasion::Start);
        bench.tell(Occasion::End);
        bench.eventually_runs([1, 1, 0, 0]);
    }
    let program = PathBuf::from("/nonexistent/hook");
    let missing = Bench::of(directory("missing"), Hook { program, arguments: Vec::new(), timeout: PATIENCE });
    missing.tell(Occasion::Start);
    missing.eventually_runs([0, 1, 0, 0]);
}

#[test]
fn it_need_not_read_what_it_is_told() {
    let bench = Bench::new("deaf", "exec <&-", PATIENCE);
    (0..10).for_each(|_| bench.tell(Occasion::Start));
    bench.eventually_runs([10, 0, 0, 0]);
}

/// A script that writes its own and a child's number, and neither ends.
const HANG: &str = "sleep 1000 &\necho $! >child\necho $$ >parent\nwait";

#[test]
fn it_is_killed_with_its_children_when_it_hangs() {
    let bench = Bench::new("hang", HANG, Duration::from_secs(2));
    bench.tell(Occasion::Start);
    bench.eventually_runs([0, 0, 1, 0]);
    for name in ["parent", "child"] {
        let process = bench.process(name);
        bench.eventually(name, || is_dead(process));
    }
}

#[test]
fn it_ends_with_synwall() {
    let bench = Bench::new("orphan", HANG, Duration::from_secs(300));
    bench.tell(Occasion::Start);
    let processes = ["parent", "child"].map(|name| bench.process(name));
    assert!(processes.iter().all(|process| !is_dead(*process)));
    drop(bench.runtime);
    for _ in 0..PATIENCE.as_millis() / 10 {
        if processes.iter().all(|process| is_dead(*process)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{processes:?} live on");
}

#[test]
fn events_beyond_those_that_may_wait_are_dropped_at_once() {
    let script = "touch began\nuntil [ -e go ]; do sleep 0.05; done";
    let bench = Bench::new("busy", script, PATIENCE);
    bench.tell(Occasion::Start);
    bench.eventually("the first runs", || bench.path("began").exists());
    (0..MAX_WAITING + 5).for_each(|_| bench.tell(Occasion::End));
    assert_eq!(bench.runs(), [0, 0, 0, 5]);
    fs::write(bench.path("go"), "").unwrap();
    bench.eventually_runs([MAX_WAITING as u64 + 1, 0, 0, 5]);
}

#[test]
fn it_inherits_no_socket() {
    let bench = Bench::new("descriptors", "ls -l /proc/self/fd >fds.part && mv fds.part fds", PATIENCE);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
    bench.tell(Occasion::Start);
    bench.eventually_runs([1, 0, 0, 0]);
    let listed = fs::read_to_string(bench.path("fds")).unwrap();
    assert!(listed.contains("pipe:["), "{listed}");
    assert!(!listed.contains(link.to_str().unwrap()), "{listed}");
}

#[test]
fn a_program_that_cannot_run_is_noticed_beforehand() {
    let directory = directory("examine");
    let program = directory.join("program");
    assert!(matches!(hook::examine(&program), Err(HookError::Missing { .. })));
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o644)).unwrap();
    let refused = hook::examine(&program).unwrap_err().to_string();
    assert!(refused.contains("chmod +x"), "{refused}");
    assert!(matches!(hook::examine(&directory), Err(HookError::NotExecutable { .. })));
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    assert!(hook::examine(&program).is_ok());
}

/// The request that `deploy/hooks/webhook` makes of a server that answers `status`, and whether it was content.
fn webhook(status: &'static str) -> (String, bool) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            let mut octets = [0; 4096];
            let len = stream.read(&mut octets).unwrap();
            assert!(len > 0, "{}", String::from_utf8_lossy(&request));
            request.extend_from_slice(&octets[..len]);
        }
        stream
            .write_all(
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes(),
            )
            .unwrap();
        String::from_utf8(request).unwrap()
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/hooks/webhook");
    let mut child = Command::new(script)
        .arg(format!("http://{address}/alerts"))
        .env("SYNWALL_EVENT", "start")
        .env("no_proxy", "*")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(&event()).unwrap()).unwrap();
    let is_content = child.wait().unwrap().success();
    (server.join().unwrap(), is_content)
}

#[test]
fn the_webhook_posts_the_event_and_fails_when_it_is_refused() {
    let (request, is_content) = webhook("204 No Content");
    assert!(is_content && request.starts_with("POST /alerts HTTP/1.1\r\n"), "{request}");
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("Content-Type: application/json") && head.contains("X-Synwall-Event: start"),
        "{head}"
    );
    let json: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(json, serde_json::to_value(event()).unwrap());
    assert!(!webhook("500 Internal Server Error").1);
}

/// Far more than a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(120);
