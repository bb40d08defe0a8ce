//! What control is made to suffer, the packet path does not notice.
//!
//! Malformed requests, two thousand idle connections, readers of the page and a hook that hangs, all at a time, while real
//! clients connect as fast as they can. Their rate is measured by turns with and without all that, on the same program.

use std::fs;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::lab::{CONFIG, Lab, SERVER, eventually};
use crate::operator::synwall;
use crate::traffic::{address, visit};

/// Longer than anything may take here, even on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a rate is measured.
const TURN: Duration = Duration::from_secs(3);
/// Clients that visit one after the other without a pause.
const CLIENTS: usize = 8;
/// Idle connections to each of the two listeners.
const IDLE: usize = 1000;
/// Two listeners with at most 256 connections each, and what a quiet synwall has open.
const MAX_DESCRIPTORS: u64 = 600;

#[test]
fn clients_do_not_notice_what_control_is_made_to_suffer() {
    let mut lab = Lab::up(&[]);
    lab.start(&with_hook(&lab));
    raise_own_limit();
    lab.script(&["flood", "60"]);
    let pid = lab.state().join("hook.pid");
    let hook = || fs::read_to_string(&pid).ok().and_then(|text| text.trim().parse::<u32>().ok());
    assert!(eventually(PATIENCE, || hook().is_some()), "the hook was not run:\n{}", lab.log());
    let hook = hook().unwrap();
    lab.script(&["stop", "flood"]);
    // The tables grow to what these clients need before anything is measured.
    rate(&lab);
    let mut residents = vec![lab.resident_kib()];

    let repeated = lab.kernel_counter("client", "TcpExtTCPSynRetrans");
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        rates[0].push(rate(&lab));
        let abuse = Abuse::start(&lab);
        assert!(eventually(PATIENCE, || abuse.has_begun()), "{:?}", abuse.counts());
        rates[1].push(rate(&lab));
        control_answers(&lab);
        residents.push(lab.resident_kib());
        println!("{:?}", abuse.counts());
        abuse.stop();
    }
    assert!(Path::new(&format!("/proc/{hook}")).exists(), "the hook hung all the time:\n{}", lab.log());
    let [quiet, abused] = rates.map(median);
    let ratio = abused / quiet;
    println!(
        "{quiet:.0} visits a second while quiet, {abused:.0} under abuse: {ratio:.3}; KiB: {residents:?}"
    );
    // What bothers control takes its time on the same two cores, and so do the clients: half of the rate is what is left to them
    // at the least. A packet path that waits for control loses frames, and clients repeat their SYNs: none may.
    assert!(ratio >= 0.5, "{ratio}");
    let repeated = lab.kernel_counter("client", "TcpExtTCPSynRetrans") - repeated;
    assert!(repeated <= 5, "{repeated} SYNs were sent again");
    let grown = residents[3].saturating_sub(residents[0]);
    assert!(grown <= 32 << 10, "resident memory grew: {residents:?} KiB");

    let killed = || lab.metric("synwall_hook_runs_total", "timeout") >= 1;
    assert!(eventually(4 * PATIENCE, killed), "{}", lab.log());
    assert!(!Path::new(&format!("/proc/{hook}")).exists(), "the hook was killed");
    let descriptors = || lab.metric("process_open_fds", "");
    assert!(eventually(2 * PATIENCE, || descriptors() < 100), "{} are open", descriptors());
    lab.assert_metrics(&[("synwall_backend_handshake_failed_total", 0)]);
    assert!(synwall(&lab, &["status"]).status.success(), "{}", lab.log());
    assert!(!lab.log().contains("panic"), "{}", lab.log());
    lab.stop();
}

/// Mode always, with a hook that never ends by itself and says who it is.
fn with_hook(lab: &Lab) -> String {
    let (script, pid) = (lab.state().join("hook"), lab.state().join("hook.pid"));
    fs::write(&script, format!("#!/bin/sh\necho $$ > {}\nsleep 3600\n", pid.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{CONFIG}\n[attack]\nhook = [{script:?}]\nhook_timeout = \"60s\"\n")
}

/// The idle connections' other ends are this process's.
fn raise_own_limit() {
    let id = std::process::id().to_string();
    let raised = std::process::Command::new("prlimit").args(["--pid", &id, "--nofile=8192:"]).status();
    assert!(raised.unwrap().success(), "prlimit");
}

/// Visits a second, none of which may fail.
fn rate(lab: &Lab) -> f64 {
    let begun = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let server = address(SERVER[client % 2], 80);
            lab.spawn("client", move || {
                let mut visits = 0;
                while begun.elapsed() < TURN {
                    visit(server).unwrap_or_else(|error| panic!("visit {visits} of {server}: {error}"));
                    visits += 1;
                }
                visits
            })
        })
        .collect();
    let visits: u32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    f64::from(visits) / begun.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Under abuse: the operator and Prometheus still get their answers, and what is held is bounded.
fn control_answers(lab: &Lab) {
    let status = synwall(lab, &["status", "--json"]);
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(said.starts_with('{'), "{} {said}{}", status.status, String::from_utf8_lossy(&status.stderr));
    let descriptors = lab.metric("process_open_fds", "");
    assert!(descriptors <= MAX_DESCRIPTORS, "{descriptors} descriptors are open");
    assert!(descriptors > 300, "the idle connections are held: {descriptors} descriptors");
}

/// Everybody who bothers control, each in a thread of the box's namespace.
struct Abuse {
    is_over: Arc<AtomicBool>,
    done: [Arc<AtomicU64>; 4],
    threads: Vec<JoinHandle<()>>,
}

impl Abuse {
    fn start(lab: &Lab) -> Abuse {
        let is_over = Arc::new(AtomicBool::new(false));
        let done: [Arc<AtomicU64>; 4] = Default::default();
        let (socket, page) = (lab.state().join("admin.sock"), address("127.0.0.1", 10910));
        let work: [Box<dyn FnMut() -> u64 + Send>; 4] = [
            Box::new(malformed(socket.clone(), page)),
            Box::new(idle(move || TcpStream::connect(page), TcpStream::set_nonblocking)),
            Box::new(idle(move || UnixStream::connect(&socket), UnixStream::set_nonblocking)),
            Box::new(move || ask(TcpStream::connect(page), b"GET /live.json HTTP/1.1\r\nHost: a\r\n\r\n")),
        ];
        let pauses = [10, 1000, 1000, 50].map(Duration::from_millis);
        let threads = work.into_iter().zip(pauses).zip(&done).map(|((mut work, pause), done)| {
            let (is_over, done) = (is_over.clone(), done.clone());
            lab.spawn("box", move || {
                while !is_over.load(Ordering::Relaxed) {
                    done.fetch_add(work(), Ordering::Relaxed);
                    thread::sleep(pause);
                }
            })
        });
        Abuse { threads: threads.collect(), is_over, done }
    }

    /// Malformed requests, idle connections to the page and to the admin socket, answers of the page.
    fn counts(&self) -> [u64; 4] {
        self.done.each_ref().map(|done| done.load(Ordering::Relaxed))
    }

    fn has_begun(&self) -> bool {
        let [malformed, pages, admins, lives] = self.counts();
        malformed > 10 && pages >= IDLE as u64 && admins >= IDLE as u64 && lives > 1
    }

    fn stop(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// Sends one malformed request after the other, by turns to the admin socket and to the page.
fn malformed(socket: PathBuf, page: SocketAddr) -> impl FnMut() -> u64 + Send {
    let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 100_000], b"\r\n\r\n"].concat();
    let body = [
        b"POST /v1/blocks HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n".as_slice(),
        &[b'['; 9_000],
    ];
    let requests: Vec<Vec<u8>> = vec![
        b"GET /v1/status\r\n\r\n".to_vec(),
        b"\0\xff\x16\x03\x01\r\n\r\n".to_vec(),
        b"POST /v1/blocks HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n{\"prefix\": 1}".to_vec(),
        b"PUT /v1/services/%ff/mode HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"POST /v1/blocks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"
            .to_vec(),
        b"GET /v1/flows?limit=99999999999999999999 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100),
        long,
        body.concat(),
    ];
    let mut turn = 0;
    move || {
        let request = &requests[turn / 2 % requests.len()];
        turn += 1;
        if turn % 2 == 0 {
            ask(UnixStream::connect(&socket), request)
        } else {
            ask(TcpStream::connect(page), request)
        }
    }
}

/// Sends a request and reads what comes, whatever it is; 1 if it could connect. Being thrown out half-way is an answer, too.
fn ask<S: Read + Write>(stream: Result<S>, request: &[u8]) -> u64 {
    let Ok(mut stream) = stream else { return 0 };
    let _ = stream.write_all(request);
    let _ = stream.read(&mut [0; 4096]);
    1
}

/// Holds [`IDLE`] connections that say nothing, and opens those anew that were closed: how many it opened.
fn idle<S: Read + Send>(
    mut connect: impl FnMut() -> Result<S> + Send,
    set_nonblocking: impl Fn(&S, bool) -> Result<()> + Send,
) -> impl FnMut() -> u64 + Send {
    let mut open: Vec<S> = Vec::new();
    move || {
        open.retain_mut(|stream| stream.read(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock));
        let before = open.len();
        open.extend(
            (before..IDLE)
                .filter_map(|_| connect().ok())
                .filter(|stream| set_nonblocking(stream, true).is_ok()),
        );
        (open.len() - before) as u64
    }
}
