//! What kind of event it is: floods of forged and of few sources, and a crowd of real clients, told apart on real packets.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::crowd::open_listener;
use crate::lab::{CONFIG, Lab, SERVER, eventually};
use crate::operator::{json, said};
use crate::sources::{Sources, connect_from};
use crate::traffic::address;

/// Random sources: named, told to the hook, and over when the flood is.
#[test]
fn a_flood_from_forged_sources_is_named_and_has_a_beginning_and_an_end() {
    let mut lab = Lab::up_to_wait(&[]);
    let hook = Hook::write(&lab);
    lab.start(&(adaptive() + &hook.config()));
    lab.script(&["flood", "10"]);
    let event = named(&lab, "spoofed_syn");
    assert!(number(&event["distinct_sources"]) > 1_000.0, "{event}");
    assert!(number(&event["completed_share"]) < 0.1 && number(&event["new_source_share"]) > 0.9, "{event}");
    assert_eq!(event["ended"], Value::Null);
    assert_eq!(lab.metric("synwall_under_attack", "four"), 1);
    // Not before the minute that challenging lasts at least.
    let latest = || json(&lab, &["attacks"])["attacks"][0].clone();
    assert!(eventually(Duration::from_secs(150), || latest()["ended"].is_number()), "{}", latest());
    let ended = latest();
    assert_eq!((&ended["id"], &ended["kind"]), (&event["id"], &event["kind"]));
    assert!(
        number(&ended["peak_syn_rate"]) > 1_000.0 && number(&ended["totals"]["syns"]) > 5_000.0,
        "{ended}"
    );
    assert_eq!(lab.metric("synwall_under_attack", ""), 0);
    assert_eq!(lab.metric("synwall_attacks_total", "spoofed_syn"), 1);
    lab.assert_metrics(&[("synwall_attacks_total", 1)]);
    let id = event["id"].as_str().unwrap();
    let lines = lab.log().lines().filter(|line| line.contains(id)).count();
    assert_eq!(lines, 2, "one line at its start, one at its end:\n{}", lab.log());
    assert!(eventually(Duration::from_secs(10), || hook.events().len() == 2));
    for (told, when) in hook.events().iter().zip(["start", "end"]) {
        assert_eq!((told.0.as_str(), &told.1["id"]), (when, &event["id"]));
    }
    assert_eq!(hook.events()[1].1, ended, "what the hook was told is what the operator sees");
    lab.stop();
}

/// A handful of sources: named, and the prefixes with it.
#[test]
fn a_flood_from_few_sources_is_named_with_its_prefixes() {
    let mut lab = Lab::up(&[]);
    lab.start(&adaptive());
    let sources = ["198.18.7.7", "198.18.8.8", "198.18.9.9"];
    for source in sources {
        let words =
            ["spawn", "attacker", source, "timeout", "--signal=INT", "--kill-after=2", "15", "hping3"];
        let options = ["--quiet", "--numeric", "--interval", "u300", "--syn", "--destport", "80"];
        lab.script(&[&words[..], &options, &["--spoof", source, SERVER[0]]].concat());
    }
    let event = named(&lab, "few_sources");
    let prefixes: Vec<_> = event["top_prefixes"].as_array().unwrap().iter().collect();
    for source in sources {
        let prefix = source.rsplit_once('.').unwrap().0.to_owned() + ".0/24";
        assert!(prefixes.iter().any(|heavy| heavy["prefix"] == *prefix), "{prefix} is not in {event}");
    }
    assert_eq!(event["top_ports"][0]["port"], 80);
    assert_eq!(lab.metric("synwall_under_attack", "four"), 1);
    assert!(said(&lab, &["attacks"]).contains("few"), "{}", said(&lab, &["attacks"]));
    lab.stop();
}

/// Five thousand real clients at once are no attack, and every one of them is served.
#[test]
fn five_thousand_real_clients_at_once_are_a_crowd() {
    let mut lab = Lab::up(&["--direct"]);
    // However slow the machine is, they come faster than this.
    lab.start(&adaptive().replace("min_active", "activate_at.syn_rate = 200\nmin_active"));
    let clients = Sources::of_attacker(&lab, "client", "198.18.64.0/18");
    let server = address(SERVER[0], 8000);
    let is_over = Arc::new(AtomicBool::new(false));
    let accepting = accept_all(&lab, server, &is_over);
    let arriving: Vec<_> = (0..50_u32)
        .map(|lane| {
            // Not two of them next to each other: 5,000 of 16,384 addresses, in all of the 64 prefixes.
            let of = move |number: u32| clients.address((lane * 100 + number) * 3);
            lab.spawn("client", move || {
                (0..100).map(|number| connect_from(of(number), server)).collect::<Result<Vec<_>, _>>()
            })
        })
        .collect();
    let connected: Vec<_> = arriving.into_iter().map(|lane| lane.join().unwrap()).collect();
    let failed: Vec<_> = connected.iter().filter_map(|lane| lane.as_ref().err()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let event = named(&lab, "crowd");
    assert!(number(&event["completed_share"]) > 0.5, "{event}");
    assert_eq!(lab.metric("synwall_under_attack", ""), 0);
    assert_eq!(lab.metric("synwall_under_pressure", "four"), 1);
    let completed = ["synwall_direct_completed_total", "synwall_backend_established_total"];
    let arrived = || completed.iter().map(|name| lab.metric(name, "four")).sum::<u64>();
    assert!(eventually(Duration::from_secs(20), || arrived() == 5_000), "{} of 5,000 arrived", arrived());
    drop(connected);
    is_over.store(true, Ordering::Relaxed);
    accepting.join().unwrap();
    lab.stop();
}

fn adaptive() -> String {
    CONFIG.replace("mode = \"always\"", "mode = \"adaptive\"\nmin_active = \"5s\"")
}

/// Waits until there is one event, of this kind.
fn named(lab: &Lab, kind: &str) -> Value {
    let events = || json(lab, &["attacks"])["attacks"].as_array().unwrap().clone();
    let is_named = || events().first().is_some_and(|event| event["kind"] == kind);
    assert!(eventually(Duration::from_secs(20), is_named), "{:?}\n{}", events(), lab.log());
    let events = events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["service"], "four");
    events[0].clone()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Accepts connections, and keeps them open until it is over.
fn accept_all(lab: &Lab, server: SocketAddr, is_over: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let listener = lab.within("server", || open_listener(server)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let is_over = is_over.clone();
    thread::spawn(move || {
        let mut open = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => open.push(stream),
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    })
}

/// A hook that keeps what it is told, an event a file.
struct Hook {
    directory: std::path::PathBuf,
}

impl Hook {
    fn write(lab: &Lab) -> Hook {
        let directory = lab.state().join("told");
        fs::create_dir(&directory).unwrap();
        let hook = Hook { directory };
        let script = "#!/bin/sh\ncat >\"$1/$SYNWALL_EVENT.tmp\" && mv \"$1/$SYNWALL_EVENT.tmp\" \"$1/$SYNWALL_EVENT\"\n";
        fs::write(hook.program(), script).unwrap();
        fs::set_permissions(hook.program(), fs::Permissions::from_mode(0o755)).unwrap();
        hook
    }

    fn program(&self) -> std::path::PathBuf {
        self.directory.join("hook")
    }

    fn config(&self) -> String {
        format!("\n[attack]\nhook = [{:?}, {:?}]\n", self.program(), self.directory)
    }

    /// What was told so far: when, and the event.
    fn events(&self) -> Vec<(String, Value)> {
        let told = |when: &&str| fs::read_to_string(self.directory.join(when)).ok();
        let parsed = |when: &str, text: String| (when.to_owned(), serde_json::from_str(&text).unwrap());
        ["start", "end"].iter().filter_map(|when| Some(parsed(when, told(when)?))).collect()
    }
}
