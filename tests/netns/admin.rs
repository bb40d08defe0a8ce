//! The operator's commands against the program in the lab: what they show, and what they change while connections go on.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::lab::{CONFIG, Lab, SERVER, eventually};
use crate::operator::{json, said, synwall};
use crate::screen::Screen;
use crate::traffic::{address, get, open, visit};

/// Longer than anything may take here, even on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(30);

fn connects(lab: &Lab) -> bool {
    let server = address(SERVER[0], 80);
    lab.within("client", move || TcpStream::connect_timeout(&server, Duration::from_millis(700))).is_ok()
}

#[test]
fn an_operator_sees_a_connection_blocks_its_client_and_lets_it_again() {
    let mut lab = Lab::protected(&[]);
    let mut stream = lab.within("client", || open(address(SERVER[0], 80)).unwrap());
    get(&mut stream).unwrap();
    let status = said(&lab, &["status"]);
    assert!(status.contains(": healthy, up ") && status.lines().count() <= 24, "{status}");
    assert_eq!(json(&lab, &["status"])["services"][0]["counters"]["flows_proxied"], 1);
    let flows = json(&lab, &["flows", "--prefix", "198.18.255.0/24", "--state", "established"]);
    let flow = &flows["flows"][0];
    assert_eq!((&flow["client"], &flow["kind"]), (&"198.18.255.10".into(), &"proxied".into()), "{flows}");
    assert_eq!(flow["client_port"], stream.local_addr().unwrap().port());
    assert!(said(&lab, &["flows", "--service", "four"]).contains("198.18.255.2:80"));
    assert_eq!(said(&lab, &["flows", "--service", "six"]), "0 connections\n");
    assert_eq!(said(&lab, &["attacks"]), "no attacks\n");

    assert_eq!(said(&lab, &["block", "198.18.255.10"]), "198.18.255.10 is blocked until a restart\n");
    assert!(!connects(&lab));
    let denied = lab.metric("synwall_dropped_total", "denied");
    assert!(denied > 0, "{}", lab.log());
    assert_eq!(json(&lab, &["status"])["services"][0]["dropped"]["denied"].as_u64().unwrap(), denied);
    assert_eq!(said(&lab, &["unblock", "198.18.255.10"]), "198.18.255.10 is no longer blocked\n");
    lab.within("client", || visit(address(SERVER[0], 80)).unwrap());
    get(&mut stream).expect("what was open goes on");

    said(&lab, &["block", "198.18.255.0/24", "--for", "3s"]);
    assert!(!connects(&lab));
    assert!(eventually(PATIENCE, || said(&lab, &["blocks"]) == "nothing is blocked\n"));
    lab.within("client", || visit(address(SERVER[0], 80)).unwrap());
    let refused = synwall(&lab, &["unblock", "198.18.255.10"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&refused.stderr), "198.18.255.10/32 is not blocked\n");
    for line in ["blocked uid=0", "unblocked uid=0", "block ended: its time is over prefix=198.18.255.0/24"] {
        assert!(lab.log().contains(line), "{line} is not in\n{}", lab.log());
    }
    let socket = lab.state().join("admin.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    lab.stop();
    assert!(!socket.exists());
    let gone = synwall(&lab, &["status"]);
    assert_eq!(gone.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("cannot be reached at "));
}

#[test]
fn connections_begun_in_any_mode_go_on_in_every_other() {
    let mut lab = Lab::up(&[]);
    let directory = lab.state().join("state");
    lab.start(&CONFIG.replace("directory = \"off\"", &format!("directory = {directory:?}")));
    let mut streams: Vec<(&str, TcpStream)> = Vec::new();
    for mode in ["always", "monitor", "off", "adaptive", "off", "always", "adaptive", "monitor", "configured"]
    {
        said(&lab, &["mode", "four", mode]);
        let shown = json(&lab, &["status"])["services"][0]["mode"].clone();
        assert_eq!(shown, if mode == "configured" { "always" } else { mode });
        streams.push((mode, lab.within("client", || open(address(SERVER[0], 80)).unwrap())));
        for (begun, stream) in &mut streams {
            let page = get(stream);
            assert!(page.is_ok(), "begun in {begun}, now {mode}: {page:?}\n{}", lab.log());
        }
    }
    assert_eq!(lab.log().matches("mode changed uid=0 service=\"four\"").count(), 9, "{}", lab.log());
    lab.stop();
}

#[test]
fn somebody_else_is_turned_away() {
    let mut lab = Lab::protected(&[]);
    let socket = lab.state().join("admin.sock");
    let ask = |lab: &Lab| {
        let words = ["--reuid", "65534", "--clear-groups", "curl", "-s", "--max-time", "10", "--unix-socket"];
        lab.command("box", "setpriv")
            .args(words)
            .arg(&socket)
            .arg("http://synwall/v1/status")
            .output()
            .unwrap()
    };
    assert_eq!(ask(&lab).status.code(), Some(7), "the file is closed to others");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let answer = String::from_utf8(ask(&lab).stdout).unwrap();
    assert!(answer.contains("\"code\":\"forbidden\"") && answer.contains("user 65534 may not"), "{answer}");
    lab.stop();
}

#[test]
fn top_shows_a_flood_and_a_synwall_that_goes_and_comes() {
    let mut lab = Lab::protected(&[]);
    let typed = lab.state().join("top");
    let socket = lab.state().join("admin.sock");
    let program = env!("CARGO_BIN_EXE_synwall");
    let command = format!("stty rows 30 cols 110; '{program}' top --socket '{}'", socket.display());
    let mut top = lab
        .command("box", "script")
        .args(["-qefc", &command])
        .arg(&typed)
        .env("TERM", "xterm-256color")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut keys = top.stdin.take().unwrap();
    let screen = || Screen::of(&fs::read(&typed).unwrap_or_default(), 30, 110);
    let shows = |what: &str| {
        let is_shown = eventually(PATIENCE, || screen().text().contains(what));
        assert!(is_shown, "{what} is not on the screen:\n{}", screen().text());
    };
    shows("healthy");
    lab.script(&["flood", "60"]);
    let floods = || {
        let text = screen().text();
        let row = text.lines().find(|line| line.starts_with("four")).unwrap_or_default().to_owned();
        let rate = row.split_whitespace().nth(3).unwrap_or_default().to_owned();
        rate.ends_with('k') || rate.parse::<u64>().is_ok_and(|rate| rate > 1000)
    };
    assert!(eventually(PATIENCE, floods), "no flood on the screen:\n{}", screen().text());
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("top.txt");
    fs::write(&kept, screen().text()).unwrap();
    println!("kept in {}:\n{}", kept.display(), screen().text());
    keys.write_all(b"\x1b[B").unwrap();
    shows("drops a second: six");
    lab.script(&["stop", "flood"]);
    lab.stop();
    shows("cannot be reached at");
    lab.start(CONFIG);
    shows("q quit");
    keys.write_all(b"q").unwrap();
    assert!(eventually(PATIENCE, || top.try_wait().unwrap().is_some()), "{}", screen().text());
    assert!(top.wait().unwrap().success());
    let written = fs::read(&typed).unwrap();
    let leaves = b"\x1b[?1049l";
    assert!(written.windows(leaves.len()).any(|part| part == leaves), "the terminal is put back");
    lab.stop();
}
