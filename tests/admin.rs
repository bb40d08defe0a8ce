//! The admin socket as a program meets it: real sockets, a real engine's state behind them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests are tests")]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use synwall::config::{Config, parse_prefix};
use synwall::control::admin::{self, Admin};
use synwall::control::attacks::{Board, HookRun, Traffic};
use synwall::control::in_force::InForce;
use synwall::control::rotate::Rotation;
use synwall::control::socket::{Socket, SocketError};
use synwall::control::state::Checkpoint;
use synwall::control::status::{Health, State, Status};
use synwall::cookie::MasterKey;
use synwall::engine::export::{FlowKey, LinkHeader, Past, SavedEnd, SavedFlow, SavedServices};
use synwall::engine::policy::Mode;
use synwall::engine::policy::filter::Rule;
use synwall::engine::{DropReason, Engine, Shared, Side};
use synwall::io::{Clock, MonotonicClock, PortStats, ReceiveDrop};
use synwall::metrics::{PlaneSample, Reload, Sample};

const CONFIG: &str = "[bridge]\noutside = \"eth0\"\ninside = \"eth1\"\n\
    [[service]]\nname = \"web\"\naddress = \"198.18.0.1\"\nports = [80]\nmode = \"always\"\n\
    [[service]]\nname = \"six\"\naddress = \"2001:db8::1\"\nports = [80]\nmode = \"monitor\"\n\
    [filter]\nallow = [\"198.18.9.0/24\"]\ndeny = [\"198.18.8.0/24\"]\n";

/// An empty directory that no other test has.
fn directory() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("admin-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// An appliance without ports: the engine's state, and an admin socket on a thread that ends with the test process.
struct Appliance {
    socket: PathBuf,
    shared: Arc<Shared>,
    in_force: Arc<InForce>,
    file: PathBuf,
}

fn flow(client: &str, port: u16, server: &str, state: u8, is_direct: bool) -> SavedFlow {
    SavedFlow {
        key: FlowKey::new(client.parse().unwrap(), port, server.parse().unwrap(), 80),
        service: 0,
        idle: Duration::from_secs(5),
        state,
        is_direct,
        client_iss: 1,
        server_iss: 0,
        client_tsval: None,
        delta: 2,
        ts_delta: 3,
        clock: [0; 2],
        server_window: [7, 7],
        client_window: [7, 7],
        strips_sack: false,
        strips_ecn: false,
        client: SavedEnd::default(),
        server: SavedEnd::default(),
        link: LinkHeader::of(&[3; 14], 14),
    }
}

impl Appliance {
    /// With these flows in its table, and what `change` makes of each sample.
    fn start(flows: Vec<SavedFlow>, change: impl Fn(&mut Sample) + Send + Sync + 'static) -> Appliance {
        let directory = directory();
        let file = directory.join("synwall.toml");
        std::fs::write(&file, CONFIG).unwrap();
        let config = Config::load(&file).unwrap();
        let shared = Arc::new(Shared::new(config.policy(1500).unwrap(), 2, [1, 2]));
        let clock = MonotonicClock::new();
        let mut rotation = Rotation::new(MasterKey::from_bytes([1; 32]), Duration::from_secs(32));
        rotation.turn(&shared, &clock, Duration::from_secs(3200));
        let past = Past { age: Duration::ZERO, is_exact: true, is_kept: false };
        Engine::new(shared.clone(), 0).import(clock.now(), past, &SavedServices::default(), flows);
        let io = PortStats::new("eth0", "eth1");
        io.count_receive_dropped(Side::Client, ReceiveDrop::Kernel, 5);
        let counted = shared.clone();
        let sample = move || {
            let mut sample = Sample {
                plane: PlaneSample::default(),
                engine: counted.snapshot(),
                io: io.snapshot(),
                reload: Reload { success: true, succeeded_at: Duration::ZERO },
                workers: 2,
                checkpoint: None,
                key: (Duration::ZERO, Duration::from_secs(32)),
                attacks: Vec::new(),
                traffic: vec![Traffic { service: "web".into(), syn_rate: 7.0, ..Traffic::default() }],
                hook_runs: HookRun::ALL.map(|run| (run, 0)),
            };
            change(&mut sample);
            sample
        };
        let in_force = Arc::new(InForce::new(config, shared.clone(), clock, || true, || ()));
        let admin = Admin {
            sample: Box::new(sample),
            shared: shared.clone(),
            board: Arc::new(Board::default()),
            in_force: in_force.clone(),
            clock,
            started: clock.now(),
            workers: 2,
        };
        let socket = directory.join("admin.sock");
        let bound = Socket::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { admin::serve(&bound, admin).unwrap().await })
        });
        Appliance { socket, shared, in_force, file }
    }

    fn quiet() -> Appliance {
        Appliance::start(Vec::new(), |_| {})
    }

    /// Sends these octets and reads to the end.
    fn raw(&self, text: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // A server that has heard enough may hang up first.
        let _ = stream.write_all(text.as_bytes());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    /// The status and the JSON of the answer.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let answer = self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-type: application/json"), "{answer}");
        (status, serde_json::from_str(body).unwrap())
    }

    fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask("GET", path, "");
        assert_eq!(status, 200, "{answer}");
        answer
    }

    fn status(&self) -> Status {
        serde_json::from_value(self.get("/v1/status")).unwrap()
    }

    /// The status and the error's code; the message must say something.
    fn refused(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let (status, answer) = self.ask(method, path, body);
        assert!(answer["error"]["message"].as_str().unwrap().len() > 5, "{answer}");
        (status, answer["error"]["code"].as_str().unwrap().to_owned())
    }

    fn rule(&self, address: &str) -> Option<Rule> {
        self.shared.policy().filter.decide(address.parse().unwrap())
    }

    fn modes(&self) -> Vec<Mode> {
        self.shared.policy().services().iter().map(|service| service.mode).collect()
    }
}

#[test]
fn status_says_what_the_snapshot_says() {
    let flows = vec![flow("198.18.0.7", 1000, "198.18.0.1", 0, false)];
    let appliance = Appliance::start(flows, |sample| {
        sample.engine.ports[0].forwarded = 3;
        sample.engine.unserved.dropped[DropReason::Malformed.index()] = 4;
        let service = &mut sample.engine.services[0];
        service.values.counters.syn_received = 9;
        service.values.dropped[DropReason::CookieReplayed.index()] = 6;
        (service.half_open, service.cookies_in_flight) = (8, 11);
        sample.engine.services[1].is_under_pressure = true;
    });
    let status = appliance.status();
    let snapshot = appliance.shared.snapshot();
    assert_eq!((status.health, &status.problems[..]), (Health::Healthy, &[][..]));
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert!(status.time > 1.7e9 && status.uptime_seconds < 3600.0);
    let ports: Vec<_> =
        status.ports.iter().map(|port| (port.name.as_str(), port.interface.as_str(), port.up)).collect();
    assert_eq!(ports, [("outside", "eth0", true), ("inside", "eth1", true)]);
    assert_eq!((status.ports[0].counters["forwarded"], status.ports[0].receive_dropped["kernel"]), (3, 5));
    assert_eq!(status.ports[0].counters.len(), snapshot.ports[0].entries().len());
    let [web, six] = &status.services[..] else { panic!("{:?}", status.services) };
    assert_eq!((web.name.as_str(), web.mode.as_str(), web.state), ("web", "always", State::Challenging));
    assert_eq!(
        (six.mode.as_str(), six.configured_mode.as_str(), six.state),
        ("monitor", "monitor", State::Pressure)
    );
    assert_eq!((web.half_open, web.max_half_open, web.cookies_in_flight), (8, 65_536, 11));
    assert_eq!(web.counter("syn_received"), 9);
    assert_eq!(web.counter("flows_restored"), 1);
    assert_eq!(web.counters.len(), snapshot.services[0].values.counters.entries().len());
    assert_eq!(
        web.dropped.iter().map(|(reason, n)| (reason.as_str(), *n)).collect::<Vec<_>>(),
        [("cookie_replayed", 6)]
    );
    assert_eq!(status.unserved_dropped["malformed"], 4);
    assert_eq!((web.server_options["wscale"], web.backend_up, web.under_attack), (7, true, false));
    assert_eq!((status.flows["established"], status.flow_table_capacity), (1, 1_000_000));
    assert_eq!((status.key_epoch, status.early_data_bytes, status.workers), (Some(100), 0, 2));
    assert_eq!(status.traffic[0].syn_rate, 7.0);
    assert!(status.events.is_empty() && status.recent_events.is_empty() && status.blocks.is_empty());
}

#[test]
fn what_is_wrong_makes_it_degraded_or_down() {
    type Change = fn(&mut Sample);
    let table: [(Change, Health, &str); 7] = [
        (|sample| sample.io.ports[1].up = false, Health::Down, "port inside (eth1) is down"),
        (
            |sample| (sample.io.ports[1].up, sample.io.ports[1].held_down) = (false, true),
            Health::Down,
            "port inside (eth1) is down: held so because outside has no carrier",
        ),
        (|sample| sample.engine.key_epoch = None, Health::Down, "there is no cookie key"),
        (|sample| sample.workers = 1, Health::Down, "1 of 2 packet threads ended"),
        (
            |sample| sample.engine.services[1].backend_up = false,
            Health::Degraded,
            "the server of six does not answer",
        ),
        (|sample| sample.reload.success = false, Health::Degraded, "the last reload failed"),
        (
            |sample| sample.checkpoint = Some(Checkpoint::default()),
            Health::Degraded,
            "connections cannot be saved",
        ),
    ];
    for (change, health, problem) in table {
        let status = Appliance::start(Vec::new(), change).status();
        assert_eq!((status.health, status.problems.len()), (health, 1), "{:?}", status.problems);
        assert!(status.problems[0].starts_with(problem), "{:?}", status.problems);
    }
}

#[test]
fn flows_are_listed_by_prefix_service_state_and_limit() {
    let flows = vec![
        flow("198.18.3.7", 1000, "198.18.0.1", 0, false),
        flow("198.18.3.8", 1001, "198.18.0.1", 1, true),
        flow("198.18.4.7", 1002, "198.18.0.1", 0, false),
        flow("2001:db8:3::7", 1003, "2001:db8::1", 0, false),
    ];
    let appliance = Appliance::start(flows, |_| {});
    let ports = |query: &str| {
        let answer = appliance.get(&format!("/v1/flows{query}"));
        let mut ports: Vec<u64> = answer["flows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|flow| flow["client_port"].as_u64().unwrap())
            .collect();
        ports.sort_unstable();
        (ports, answer["is_truncated"].as_bool().unwrap())
    };
    assert_eq!(ports(""), (vec![1000, 1001, 1002, 1003], false));
    assert_eq!(ports("?prefix=198.18.3.0/24"), (vec![1000, 1001], false));
    assert_eq!(ports("?prefix=198.18.3.0%2F24&state=half_closed"), (vec![1001], false));
    assert_eq!(ports("?prefix=2001:db8:3::7"), (vec![1003], false));
    assert_eq!(ports("?service=six"), (vec![1003], false));
    assert_eq!(ports("?state=time_wait"), (vec![], false));
    assert_eq!(ports("?limit=4"), (vec![1000, 1001, 1002, 1003], false));
    let (three, is_truncated) = ports("?limit=3");
    assert_eq!((three.len(), is_truncated), (3, true));
    let mut one = appliance.get("/v1/flows?prefix=198.18.3.8")["flows"][0].clone();
    let idle = one["idle_seconds"].take().as_f64().unwrap();
    assert!((5.0..600.0).contains(&idle), "{idle}");
    assert_eq!(
        one,
        json!({"client": "198.18.3.8", "client_port": 1001, "server": "198.18.0.1", "server_port": 80, "service": "web",
               "state": "half_closed", "kind": "direct", "age_seconds": null, "idle_seconds": null})
    );
    for (query, status, code) in [
        ("prefix=198.18.3.7/24", 400, "bad_prefix"),
        ("prefix=x", 400, "bad_prefix"),
        ("service=wbe", 404, "no_such_service"),
        ("state=open", 400, "bad_request"),
        ("limit=0", 400, "bad_request"),
        ("limit=10001", 400, "bad_request"),
        ("limit=-1", 400, "bad_request"),
        ("colour=red", 400, "bad_request"),
    ] {
        assert_eq!(
            appliance.refused("GET", &format!("/v1/flows?{query}"), ""),
            (status, code.to_owned()),
            "{query}"
        );
    }
}

#[test]
fn blocks_are_in_force_at_once_and_end_when_asked_or_over() {
    let appliance = Appliance::quiet();
    assert_eq!(appliance.get("/v1/blocks"), json!({"blocks": []}));
    let (status, answer) = appliance.ask("POST", "/v1/blocks", r#"{"prefix":"198.18.3.0/24"}"#);
    assert_eq!(
        (status, answer),
        (200, json!({"blocks": [{"prefix": "198.18.3.0/24", "remaining_seconds": null}]}))
    );
    let (status, answer) =
        appliance.ask("POST", "/v1/blocks", r#"{"prefix":"2001:db8:3::7","for_seconds":600}"#);
    let left = answer["blocks"][1]["remaining_seconds"].as_f64().unwrap();
    assert!(status == 200 && left > 1.0 && left <= 600.0, "{answer}");
    assert_eq!(answer["blocks"][1]["prefix"], "2001:db8:3::7/128");
    assert_eq!(appliance.rule("198.18.3.1"), Some(Rule::Deny));
    assert_eq!(appliance.rule("2001:db8:3::7"), Some(Rule::Deny));
    assert_eq!(appliance.rule("2001:db8:3::8"), None);
    assert_eq!(appliance.status().blocks.len(), 2);
    // The new time counts.
    appliance.in_force.block(parse_prefix("2001:db8:3::7").unwrap(), Some(Duration::ZERO)).unwrap();
    appliance.in_force.expire();
    assert_eq!(appliance.rule("2001:db8:3::7"), None);
    let (status, answer) = appliance.ask("DELETE", "/v1/blocks", r#"{"prefix":"198.18.3.0/24"}"#);
    assert_eq!((status, answer), (200, json!({"blocks": []})));
    assert_eq!(appliance.rule("198.18.3.1"), None);
    // The configuration's own rules are as they were.
    assert_eq!(
        (appliance.rule("198.18.8.1"), appliance.rule("198.18.9.1")),
        (Some(Rule::Deny), Some(Rule::Allow))
    );
    for (method, body, status, code) in [
        ("POST", r#"{"prefix":"0.0.0.0/0"}"#, 400, "bad_prefix"),
        ("POST", r#"{"prefix":"198.18.3.1/24"}"#, 400, "bad_prefix"),
        ("POST", r#"{"prefix":"198.18.9.0/24"}"#, 409, "allowed"),
        ("POST", r#"{"prefix":"198.18.8.0/24"}"#, 409, "denied"),
        ("POST", r#"{"prefix":"198.18.3.0/24","for_seconds":0}"#, 400, "bad_request"),
        ("POST", r#"{"prefix":"198.18.3.0/24","for":60}"#, 400, "bad_request"),
        ("POST", "{", 400, "bad_request"),
        ("POST", "", 400, "bad_request"),
        ("DELETE", r#"{"prefix":"198.18.3.0/24"}"#, 404, "not_blocked"),
        ("DELETE", r#"{"prefix":"198.18.8.0/24"}"#, 404, "not_blocked"),
    ] {
        assert_eq!(
            appliance.refused(method, "/v1/blocks", body),
            (status, code.to_owned()),
            "{method} {body}"
        );
    }
    assert_eq!(appliance.get("/v1/blocks"), json!({"blocks": []}));
}

#[test]
fn modes_change_and_survive_a_reload_as_blocks_do() {
    let appliance = Appliance::quiet();
    let mode = |name: &str, mode: &str| {
        appliance.ask("PUT", &format!("/v1/services/{name}/mode"), &json!({"mode": mode}).to_string())
    };
    assert_eq!(
        mode("six", "always"),
        (200, json!({"service": "six", "mode": "always", "configured_mode": "monitor"}))
    );
    assert_eq!(appliance.modes(), [Mode::Always, Mode::Always]);
    assert_eq!(appliance.status().services[1].configured_mode, "monitor");
    appliance.ask("POST", "/v1/blocks", r#"{"prefix":"198.18.3.0/24"}"#);
    std::fs::write(&appliance.file, CONFIG.replace("ports = [80]", "ports = [80, 81]")).unwrap();
    assert_eq!(appliance.in_force.reload(&appliance.file).unwrap(), 2);
    assert_eq!(
        (appliance.modes(), appliance.rule("198.18.3.1")),
        (vec![Mode::Always, Mode::Always], Some(Rule::Deny))
    );
    assert!(
        appliance.shared.policy().find("198.18.0.1".parse().unwrap(), 81).is_some(),
        "the new file is in force"
    );
    appliance.in_force.set_mtus([1400, 1500]);
    assert_eq!((appliance.rule("198.18.3.1"), appliance.shared.policy().mtu), (Some(Rule::Deny), 1400));
    assert_eq!(mode("six", "configured").1["mode"], "monitor");
    assert_eq!((appliance.modes(), appliance.shared.policy().mtu), (vec![Mode::Always, Mode::Monitor], 1400));
    // A service that goes takes its mode with it.
    mode("six", "off");
    std::fs::write(&appliance.file, CONFIG.replace("name = \"six\"", "name = \"seven\"")).unwrap();
    appliance.in_force.reload(&appliance.file).unwrap();
    let names: Vec<String> = appliance.status().services.into_iter().map(|service| service.name).collect();
    assert_eq!(names, ["web", "seven"]);
    std::fs::write(&appliance.file, CONFIG).unwrap();
    appliance.in_force.reload(&appliance.file).unwrap();
    assert_eq!(appliance.status().services[1].mode, "monitor");
    let refused = |path, body| appliance.refused("PUT", path, body);
    assert_eq!(refused("/v1/services/wbe/mode", r#"{"mode":"off"}"#), (404, "no_such_service".into()));
    assert_eq!(refused("/v1/services/web/mode", r#"{"mode":"on"}"#), (400, "bad_mode".into()));
    assert_eq!(refused("/v1/services/web/mode", "[]"), (400, "bad_request".into()));
    // A bad file changes nothing.
    std::fs::write(&appliance.file, CONFIG.replace("eth0", "eth7")).unwrap();
    assert!(appliance.in_force.reload(&appliance.file).is_err());
    assert_eq!(appliance.rule("198.18.3.1"), Some(Rule::Deny));
}

#[test]
fn what_is_no_request_is_refused_and_nothing_falls_over() {
    let appliance = Appliance::quiet();
    assert_eq!(appliance.refused("GET", "/", ""), (404, "no_such_path".into()));
    assert_eq!(appliance.refused("GET", "/v2/status", ""), (404, "no_such_path".into()));
    for (method, path) in [
        ("POST", "/v1/status"),
        ("DELETE", "/v1/attacks"),
        ("PUT", "/v1/flows"),
        ("PUT", "/v1/blocks"),
        ("GET", "/v1/services/web/mode"),
    ] {
        assert_eq!(appliance.refused(method, path, ""), (405, "wrong_method".into()), "{method} {path}");
    }
    assert_eq!(appliance.get("/v1/attacks")["attacks"], json!([]));
    assert_eq!(appliance.refused("GET", "/v1/attacks?service=wbe", ""), (404, "no_such_service".into()));
    let long = format!("{{\"prefix\":\"{}\"}}", "1".repeat(5000));
    assert_eq!(appliance.refused("POST", "/v1/blocks", &long), (413, "too_large".into()));
    for nonsense in
        ["nonsense\r\n\r\n", "GET /v1/status HTTP/3\r\n\r\n", "\0\0\0\0\r\n\r\n", "GET  HTTP/1.1\r\n\r\n"]
    {
        assert!(appliance.raw(nonsense).starts_with("HTTP/1.1 400 "), "{nonsense:?}");
    }
    assert!(
        appliance
            .raw(&format!("GET /v1/status HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000)))
            .starts_with("HTTP/1.1 431 ")
    );
    // Cut off in the middle of head or body.
    for part in ["GET /v1/st", "POST /v1/blocks HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"pre"] {
        let mut stream = UnixStream::connect(&appliance.socket).unwrap();
        stream.write_all(part.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    }
    appliance.get("/v1/status");
}

#[test]
fn idle_connections_keep_nobody_out() {
    let appliance = Appliance::quiet();
    let idle: Vec<UnixStream> = (0..600).map(|_| UnixStream::connect(&appliance.socket).unwrap()).collect();
    appliance.get("/v1/status");
    // The oldest were closed for it.
    idle[0].set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!((&idle[0]).read(&mut [0; 1]).unwrap_or(0), 0);
}

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_socket_is_its_owners_alone_and_goes_with_its_value() {
    let directory = directory();
    let path = directory.join("made/admin.sock");
    let socket = Socket::bind(&path).unwrap();
    assert_eq!(mode_of(&path), 0o600);
    assert_eq!(mode_of(path.parent().unwrap()) & 0o022, 0, "nobody else may put another in its place");
    drop(socket);
    assert!(!path.exists() && !directory.join("made").exists(), "the host is left as it was found");
    let deep = Socket::bind(&directory.join("not/there/admin.sock")).unwrap_err().to_string();
    assert!(deep.contains("not/there/admin.sock cannot be made: No such file"), "{deep}");
}

#[test]
fn a_dead_sockets_place_is_taken_a_live_ones_is_not() {
    let path = directory().join("admin.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "what a killed process leaves");
    let live = Socket::bind(&path).unwrap();
    let refused = Socket::bind(&path).unwrap_err();
    assert!(matches!(&refused, SocketError::InUse(taken) if *taken == path), "{refused}");
    assert!(refused.to_string().contains("is in use by another synwall"), "{refused}");
    // The one that was refused has not taken it away.
    UnixStream::connect(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let other = Socket::bind(&path).unwrap();
    drop(live);
    UnixStream::connect(&path).expect("only its own socket is removed");
    drop(other);
    std::fs::write(&path, "precious").unwrap();
    let refused = Socket::bind(&path).unwrap_err().to_string();
    assert!(refused.contains("is there and no socket"), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}
