//! The metrics as Prometheus reads them, and the HTTP around them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests are tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use synwall::config::Config;
use synwall::control::attacks::{HookRun, Kind, Traffic};
use synwall::control::http::{self, Answers, Readiness};
use synwall::control::live::Live;
use synwall::control::rotate::Rotation;
use synwall::control::state::Checkpoint;
use synwall::cookie::MasterKey;
use synwall::engine::{DropReason, Shared, Side};
use synwall::io::{MonotonicClock, PortStats, ReceiveDrop, SendFailure};
use synwall::metrics::{Exporter, PlaneSample, Reload, Sample};

/// A sample with services `count` services, after a key was set and something was counted everywhere.
fn sample(count: u16) -> Sample {
    let mut text = "[bridge]\noutside = \"eth0\"\ninside = \"eth1\"\n".to_owned();
    for port in 1..=count {
        text += &format!("[[service]]\nname = \"s{port}\"\naddress = \"198.18.0.1\"\nports = [{port}]\n");
    }
    let policy = Config::parse("", &text).unwrap().policy(1500).unwrap();
    let shared = Shared::new(policy, 2, [1, 2]);
    let mut rotation = Rotation::new(MasterKey::from_bytes([1; 32]), Duration::from_secs(32));
    rotation.turn(&shared, &MonotonicClock::new(), Duration::from_secs(3200));
    let io = PortStats::new("eth0", "eth1");
    io.count_receive_dropped(Side::Client, ReceiveDrop::Kernel, 5);
    io.count_send_failed(Side::Server, SendFailure::QueueFull);
    io.set_up(Side::Server, false);
    io.set_held_down(Side::Server, true);
    let mut engine = shared.snapshot();
    engine.ports[0].forwarded = 3;
    engine.ports[0].received_octets = 180;
    engine.unserved.dropped[DropReason::Malformed.index()] = 4;
    let service = &mut engine.services[0];
    service.values.counters.backend_timeout = 2;
    service.values.dropped[DropReason::CookieReplayed.index()] = 6;
    service.values.handshake.buckets = [1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    service.values.handshake.sum_nanos = 17_500_000_000;
    let checkpoint = Some(Checkpoint {
        success: true,
        succeeded_at: Duration::from_secs(2000),
        took: Duration::from_millis(250),
        octets: 1300,
    });
    let reload = Reload { success: true, succeeded_at: Duration::from_secs(1000) };
    Sample {
        engine,
        io: io.snapshot(),
        plane: PlaneSample { kind: "xdp", mode: "native", reason: None, passed_up: [7, 8] },
        reload,
        workers: 2,
        checkpoint,
        key: (Duration::from_secs(1_790_000_000), Duration::from_secs(32)),
        attacks: Kind::ALL.map(|kind| ("s1".to_owned(), kind, u64::from(count))).to_vec(),
        traffic: vec![Traffic { service: "s1".to_owned(), is_attacked: true, ..Traffic::default() }],
        hook_runs: HookRun::ALL.map(|run| (run, 9)),
    }
}

fn render(count: u16) -> String {
    let sample = sample(count);
    Exporter::new(move || sample.clone()).unwrap().render().unwrap()
}

#[test]
fn promtool_finds_nothing_to_say() {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is needed for this test (package prometheus)");
    promtool.stdin.take().unwrap().write_all(render(2).as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn a_plane_that_was_not_chosen_says_why() {
    let plane = PlaneSample { reason: Some("no_hardware"), ..PlaneSample::default() };
    let sample = Sample { plane, ..sample(1) };
    let text = Exporter::new(move || sample.clone()).unwrap().render().unwrap();
    assert!(text.contains("synwall_plane{plane=\"pnet\",mode=\"none\"} 1\n"), "{text}");
    assert!(text.contains("synwall_plane_reason{reason=\"no_hardware\"} 1\n"), "{text}");
    assert!(!text.contains("synwall_passed_up_total"), "{text}");
    assert!(!render(1).contains("synwall_plane_reason"));
}

#[test]
fn values_stand_where_they_belong() {
    let text = render(2);
    for line in [
        "synwall_packets_total{port=\"outside\",verdict=\"forward\"} 3",
        "synwall_packets_total{port=\"inside\",verdict=\"drop\"} 0",
        "synwall_bytes_total{port=\"outside\"} 180",
        "synwall_dropped_total{service=\"-\",reason=\"malformed\"} 4",
        "synwall_dropped_total{service=\"s2\",reason=\"no_flow\"} 0",
        "synwall_cookie_invalid_total{service=\"s1\",reason=\"replayed\"} 6",
        "synwall_backend_handshake_failed_total{service=\"s1\",reason=\"timeout\"} 2",
        "synwall_handshake_seconds_bucket{service=\"s1\",le=\"0.0005\"} 1",
        "synwall_handshake_seconds_bucket{service=\"s1\",le=\"16\"} 3",
        "synwall_handshake_seconds_bucket{service=\"s1\",le=\"+Inf\"} 4",
        "synwall_handshake_seconds_sum{service=\"s1\"} 17.5",
        "synwall_handshake_seconds_count{service=\"s1\"} 4",
        "synwall_mode{service=\"s1\",mode=\"adaptive\"} 1",
        "synwall_mode{service=\"s1\",mode=\"monitor\"} 0",
        "synwall_backend_options{service=\"s1\",option=\"wscale\"} 7",
        "synwall_flows{state=\"syn_sent\"} 0",
        "synwall_flow_table_capacity 1000000",
        "synwall_key_epoch 100",
        "synwall_port_up{port=\"outside\"} 1",
        "synwall_plane{plane=\"xdp\",mode=\"native\"} 1",
        "synwall_passed_up_total{port=\"outside\"} 7",
        "synwall_passed_up_total{port=\"inside\"} 8",
        "synwall_port_up{port=\"inside\"} 0",
        "synwall_port_held_down{port=\"outside\"} 0",
        "synwall_port_held_down{port=\"inside\"} 1",
        "synwall_receive_dropped_total{port=\"outside\",where=\"kernel\"} 5",
        "synwall_send_failed_total{port=\"inside\",cause=\"queue_full\"} 1",
        "synwall_config_reload_success 1",
        "synwall_config_reload_success_timestamp_seconds 1000",
        "synwall_workers 2",
        "synwall_checkpoint_success 1",
        "synwall_checkpoint_success_timestamp_seconds 2000",
        "synwall_checkpoint_duration_seconds 0.25",
        "synwall_checkpoint_bytes 1300",
        "synwall_flows_restored_total{service=\"s1\"} 0",
        "synwall_grace_packets_total{service=\"s1\"} 0",
        "synwall_grace_flows_total{service=\"s1\"} 0",
        "synwall_hook_runs_total{result=\"ok\"} 9",
        "synwall_hook_runs_total{result=\"dropped\"} 9",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    for name in ["synwall_build_info{", "process_cpu_seconds_total ", "process_open_fds "] {
        assert!(text.lines().any(|found| found.starts_with(name)), "{name} is not in\n{text}");
    }
}

#[test]
fn no_address_is_a_label_and_many_services_do_not_explode() {
    let text = render(256);
    assert!(!text.contains("198.18."), "{text}");
    let drops = text.lines().filter(|line| line.starts_with("synwall_dropped_total{")).count();
    assert_eq!(drops, 2, "only what was counted");
    let lines = text.lines().count();
    assert!(lines < 256 * 90, "{lines} lines for 256 services");
}

/// An HTTP server with fixed answers, on a thread of its own that ends with the test process.
fn server(readiness: Readiness) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sample = Arc::new(sample(1));
    let exporter = Exporter::new(move || Sample::clone(&sample)).unwrap();
    let policy = Config::parse("", "[bridge]\noutside = \"eth0\"\ninside = \"eth1\"\n").unwrap().policy(1500);
    let live = Live::new(
        Arc::new(Shared::new(policy.unwrap(), 1, [1, 2])),
        Arc::new(PortStats::new("eth0", "eth1")),
        Arc::default(),
    );
    let answers = Answers {
        metrics: Box::new(move || exporter.render()),
        readiness: Box::new(move || readiness),
        live,
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { http::serve(listener, answers).unwrap().await })
    });
    address
}

fn request(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(address: SocketAddr, path: &str) -> String {
    request(address, &format!("GET {path} HTTP/1.1\r\nHost: synwall\r\n\r\n"))
}

const READY: Readiness = Readiness { outside_up: true, inside_up: true, keys: true, workers: true };

#[test]
fn paths_answer_and_others_are_not_found() {
    let address = server(READY);
    let metrics = get(address, "/metrics");
    assert!(
        metrics.starts_with("HTTP/1.1 200 ")
            && metrics.contains("content-type: text/plain; version=0.0.4\r\n")
    );
    assert!(metrics.contains("synwall_port_up{port=\"outside\"} 1\n"));
    assert!(get(address, "/healthz").ends_with("\r\n\r\nok\n"));
    assert!(get(address, "/readyz").starts_with("HTTP/1.1 200 "));
    assert!(get(address, "/nothing").starts_with("HTTP/1.1 404 "));
    assert!(
        request(address, "POST /metrics HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n")
            .starts_with("HTTP/1.1 405 ")
    );
    assert!(request(address, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let long = request(address, &format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(7000)));
    assert!(long.starts_with("HTTP/1.1 200 "), "{long}");
}

#[test]
fn readyz_says_what_is_missing() {
    let address = server(Readiness { inside_up: false, ..READY });
    let answer = get(address, "/readyz");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let body = "{\"ready\":false,\"outside_up\":true,\"inside_up\":false,\"keys\":true,\"workers\":true}\n";
    assert!(answer.ends_with(body), "{answer}");
    assert!(get(address, "/healthz").starts_with("HTTP/1.1 200 "));
}

#[test]
fn idle_connections_do_not_keep_a_scrape_out() {
    let address = server(READY);
    let idle: Vec<TcpStream> = (0..400).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert!(get(address, "/metrics").starts_with("HTTP/1.1 200 "));
    drop(idle);
}

#[test]
fn silent_connections_are_closed() {
    let address = server(READY);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test of a real timeout")]
    let started = std::time::Instant::now();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("closed, not timed out");
    assert!(started.elapsed() >= Duration::from_secs(5));
}
