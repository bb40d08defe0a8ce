//! The laboratory and the program in it, from a test's point of view.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) const SERVER: [&str; 2] = ["198.18.255.2", "2001:db8:255::2"];

/// A laboratory; it goes when it is dropped.
pub(crate) struct Lab {
    name: String,
    program: Option<Child>,
    _turn: Flock<File>,
}

impl Lab {
    /// Makes one with nothing in the box; `options` as `lab up` takes them.
    pub(crate) fn up(options: &[&str]) -> Lab {
        Lab::up_in_turn(FlockArg::LockExclusive, options)
    }

    /// The same for a test that mostly waits, beside others of its kind.
    pub(crate) fn up_to_wait(options: &[&str]) -> Lab {
        Lab::up_in_turn(FlockArg::LockShared, options)
    }

    /// Laboratories share the machine's cores, those of other runs, too.
    fn up_in_turn(turn: FlockArg, options: &[&str]) -> Lab {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let file = File::create("/run/lock/synwall-lab").unwrap();
        let turn = Flock::lock(file, turn).map_err(|(_, error)| error).unwrap();
        remove_leftovers();
        let name = format!("t{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let lab = Lab { name, program: None, _turn: turn };
        let fit: &[&str] = if plane() == "xdp" { &["--xdp"] } else { &[] };
        lab.script(&[&["up"], fit, options].concat());
        lab
    }

    /// Makes one with synwall protecting the server, [`CONFIG`] as its configuration.
    pub(crate) fn protected(options: &[&str]) -> Lab {
        let mut lab = Lab::up(options);
        lab.start(CONFIG);
        lab
    }

    /// Starts synwall in the box and waits until it is ready.
    pub(crate) fn start(&mut self, config: &str) {
        let file = self.write("synwall.toml", &self.with_socket(config));
        let log = File::create(self.state().join("synwall.log")).unwrap();
        let program = self
            .command("box", env!("CARGO_BIN_EXE_synwall"))
            .args(["run".as_ref(), "--config".as_ref(), file.as_os_str()])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        // So that `lab down` ends it even if this process is killed before it can.
        self.write("pids/synwall", &program.id().to_string());
        self.program = Some(program);
        let ready = eventually(Duration::from_secs(10), || self.curl("readyz").status.success());
        assert!(ready, "synwall is not ready after 10 s:\n{}", self.log());
    }

    /// A configuration with an admin socket and pins of the laboratory's own, since the file system is not a namespace's, on the
    /// plane that is tested.
    pub(crate) fn with_socket(&self, config: &str) -> String {
        let mut config = config.to_owned();
        if !config.contains("[admin]") {
            let _ = write!(config, "\n[admin]\nsocket = {:?}\n", self.state().join("admin.sock"));
        }
        if !config.contains("[plane]") {
            let _ = write!(config, "\n{}", self.plane_table());
        }
        config
    }

    /// `[plane]` for the plane that is tested: in the driver, for which the links were made fit, unless frames are too long.
    pub(crate) fn plane_table(&self) -> String {
        self.plane_table_of(&plane())
    }

    /// The same for a plane by name.
    pub(crate) fn plane_table_of(&self, kind: &str) -> String {
        let mtu: u32 = fs::read_to_string(self.state().join("mtu")).unwrap().trim().parse().unwrap();
        let mode = if mtu > 3000 { "generic" } else { "native" };
        format!("[plane]\nkind = {kind:?}\nmode = {mode:?}\npin = {:?}\n", self.pins())
    }

    /// Where the XDP plane is pinned.
    pub(crate) fn pins(&self) -> PathBuf {
        self.state().join("bpf/synwall")
    }

    /// Stops synwall as an operator does and asserts that it went well.
    pub(crate) fn stop(&mut self) {
        let status = self.signal(Signal::SIGTERM);
        assert!(status.success(), "{status} after SIGTERM:\n{}", self.log());
    }

    /// Sends a signal to synwall and waits at most 10 s for its end.
    pub(crate) fn signal(&mut self, signal: Signal) -> ExitStatus {
        let mut program = self.program.take().expect("synwall runs");
        kill(Pid::from_raw(program.id().cast_signed()), signal).unwrap();
        let ended = eventually(Duration::from_secs(10), || program.try_wait().unwrap().is_some());
        if !ended {
            program.kill().unwrap();
        }
        let status = program.wait().unwrap();
        fs::remove_file(self.state().join("pids/synwall")).unwrap();
        assert!(ended, "synwall did not end within 10 s of {signal}:\n{}", self.log());
        status
    }

    /// Runs synwall in the box to its end: (exit status, what it said).
    pub(crate) fn run_to_end(&self, prefix: &[&str], config: &str) -> (Option<i32>, String) {
        let file = self.write("bad.toml", &self.with_socket(config));
        let program = env!("CARGO_BIN_EXE_synwall");
        let words = [&["timeout", "10"], prefix, &[program, "run", "--config"]].concat();
        let output = self.command("box", words[0]).args(&words[1..]).arg(file).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    /// The process that is synwall.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.program.as_ref().expect("synwall runs").id().cast_signed())
    }

    /// What synwall has written so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.state().join("synwall.log")).unwrap_or_default()
    }

    /// Resident memory of synwall in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let id = self.program.as_ref().expect("synwall runs").id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The sum of the samples of a metric whose labels contain `label`; 0 if there is none.
    pub(crate) fn metric(&self, name: &str, label: &str) -> u64 {
        let output = self.curl("metrics");
        assert!(output.status.success(), "no metrics:\n{}", self.log());
        let text = String::from_utf8(output.stdout).unwrap();
        let samples: Vec<(&str, f64)> = text
            .lines()
            .filter_map(|line| {
                let (sample, value) = line.rsplit_once(' ')?;
                let labels = sample.strip_prefix(name)?;
                let is_metric = labels.is_empty() || labels.starts_with('{');
                is_metric.then(|| (labels, value.parse().unwrap()))
            })
            .collect();
        assert!(!samples.is_empty(), "no metric of the name {name}");
        let values = samples.iter().filter(|(labels, _)| labels.contains(label)).map(|(_, value)| value);
        values.sum::<f64>() as u64
    }

    /// Asserts that each of these metrics, all labels summed, has this value.
    pub(crate) fn assert_metrics(&self, expected: &[(&str, u64)]) {
        for (name, value) in expected {
            assert_eq!(self.metric(name, ""), *value, "{name}");
        }
    }

    /// What the kernel of a namespace has counted, in the words of `nstat`.
    pub(crate) fn kernel_counter(&self, namespace: &str, name: &str) -> u64 {
        let line = self.run(namespace, &["nstat", "-asz", name]);
        let value = line.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()).unwrap();
        value.parse().unwrap()
    }

    /// How often the server's kernel saw a SYN on its interface.
    pub(crate) fn syns_at_server(&self) -> u64 {
        self.script(&["syns"]).trim().parse().unwrap()
    }

    /// Runs `deploy/lab/lab` and returns its output.
    pub(crate) fn script(&self, args: &[&str]) -> String {
        let output = self.script_command(args).output().unwrap();
        assert!(output.status.success(), "lab {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command in a namespace to its end, successfully, and returns its output.
    pub(crate) fn run(&self, namespace: &str, words: &[&str]) -> String {
        let output = self.command(namespace, words[0]).args(&words[1..]).output().unwrap();
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        let _ = write!(said, "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words:?} in {namespace}: {}: {said}", output.status);
        said
    }

    /// A command that will run in a namespace; the child's pid is the command's own.
    pub(crate) fn command(&self, namespace: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(namespace), program]).stdin(Stdio::null());
        command
    }

    /// Runs `work` in a thread of its own that has entered the namespace.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        namespace: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let file = self.open(namespace);
        thread::spawn(move || {
            enter(&file);
            work()
        })
    }

    /// Runs `work` in the namespace and waits for it.
    pub(crate) fn within<T: Send>(&self, namespace: &str, work: impl FnOnce() -> T + Send) -> T {
        let file = self.open(namespace);
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                enter(&file);
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The laboratory's directory of logs and pids.
    pub(crate) fn state(&self) -> PathBuf {
        Path::new("/run/synwall-lab").join(&self.name)
    }

    /// Prints what synwall said and counted, and keeps the captures of a test that failed.
    fn keep_evidence(&self) {
        let metrics = String::from_utf8_lossy(&self.curl("metrics").stdout).into_owned();
        let counted = metrics.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0"));
        eprintln!("synwall said:\n{}and counted:\n{}", self.log(), counted.collect::<Vec<_>>().join("\n"));
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&self.name);
        let _ = fs::create_dir_all(&kept);
        for file in fs::read_dir(self.state()).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if file.extension().is_some_and(|extension| extension == "pcap") {
                let _ = fs::copy(&file, kept.join(file.file_name().unwrap()));
                eprintln!("capture kept in {}", kept.display());
            }
        }
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let file = self.state().join(name);
        fs::write(&file, content).unwrap();
        file
    }

    fn curl(&self, page: &str) -> Output {
        let page = format!("http://127.0.0.1:10910/{page}");
        self.command("box", "curl").args(["-sf", "--max-time", "2", &page]).output().unwrap()
    }

    fn script_command(&self, args: &[&str]) -> Command {
        script(&self.name, args)
    }

    fn open(&self, namespace: &str) -> File {
        File::open(Path::new("/run/netns").join(self.namespace(namespace))).unwrap()
    }

    fn namespace(&self, namespace: &str) -> String {
        format!("{}-{namespace}", self.name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(mut program) = self.program.take() {
            if thread::panicking() {
                self.keep_evidence();
            }
            let _ = program.kill();
            let _ = program.wait();
            let _ = fs::remove_file(self.state().join("pids/synwall"));
        }
        let _ = self.script_command(&["down"]).status();
    }
}

/// The plane that is tested: `SYNWALL_PLANE`, the raw sockets unless it says otherwise.
pub(crate) fn plane() -> String {
    let plane = std::env::var("SYNWALL_PLANE").unwrap_or_else(|_| "pnet".into());
    assert!(["pnet", "xdp"].contains(&plane.as_str()), "SYNWALL_PLANE={plane}: pnet or xdp");
    plane
}

/// Asks until the answer is yes, or until the time is over; says which.
pub(crate) fn eventually(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Takes down laboratories of test runs that were killed: `t`, the pid of a process that is gone, a number.
fn remove_leftovers() {
    for entry in fs::read_dir("/run/synwall-lab").into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let id = name.strip_prefix('t').and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
        if id.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            let _ = script(&name, &["down"]).status();
        }
    }
}

fn script(lab: &str, args: &[&str]) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/lab/lab"));
    command.env("LAB", lab).args(args).stdin(Stdio::null());
    command
}

fn enter(namespace: &File) {
    setns(namespace, CloneFlags::CLONE_NEWNET).expect("root, to enter a network namespace");
}

/// Both addresses of the server, ports 80 and 8000 to 8099 proxied, timeouts that a test can wait for.
pub(crate) const CONFIG: &str = r#"
[bridge]
outside = "outside"
inside = "inside"

[[service]]
name = "four"
address = "198.18.255.2"
ports = [80, "8000-8099"]
mode = "always"

[[service]]
name = "six"
address = "2001:db8:255::2"
ports = [80, "8000-8099"]
mode = "always"

[limits]
time_wait = "2s"
reset_timeout = "2s"
closing_timeout = "5s"

[metrics]
listen = "127.0.0.1:10910"

[state]
directory = "off"
"#;
