//! Synwall ends and begins again while connections go on: stopped, killed, and put in front of a busy server.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::capture::Capture;
use crate::lab::{CONFIG, Lab, SERVER, eventually, plane};
use crate::traffic::{address, open, read, receive_hashed, send_hashed_while, serve};

/// The configuration with a state directory of the laboratory's own.
fn config(lab: &Lab) -> String {
    let directory = lab.state().join("state");
    CONFIG.replace(
        "directory = \"off\"",
        &format!("directory = \"{}\"\ncheckpoint = \"1s\"", directory.display()),
    )
}

/// A checkpoint that began after this call has been written.
fn await_checkpoint(lab: &Lab) {
    let written = || lab.metric("synwall_checkpoint_success_timestamp_seconds", "");
    let before = written();
    assert!(eventually(Duration::from_secs(10), || written() > before + 1), "no checkpoint:\n{}", lab.log());
}

/// A transfer each way goes on over the end of a synwall by `signal` and the start of the next, twice, octet for
/// octet.
fn assert_transfers_survive(signal: Signal) {
    let mut lab = Lab::up(&[]);
    let config = config(&lab);
    lab.start(&config);
    let is_over = Arc::new(AtomicBool::new(false));
    let send = |is_over: &Arc<AtomicBool>| {
        let is_over = is_over.clone();
        move |stream: TcpStream| send_hashed_while(&stream, || !is_over.load(Ordering::Relaxed)).unwrap()
    };
    let receive = |stream: TcpStream| receive_hashed(&stream).unwrap().1;
    let [up, down] = [8000, 8001].map(|port| address(SERVER[0], port));
    let receiver = serve(&lab, up, 1, receive);
    let sender = serve(&lab, down, 1, send(&is_over));
    let send = send(&is_over);
    let client_sends = lab.spawn("client", move || send(open(up).unwrap()));
    let client_receives = lab.spawn("client", move || receive(open(down).unwrap()));
    for _ in 0..2 {
        await_transfers(&lab);
        await_checkpoint(&lab);
        let status = lab.signal(signal);
        assert_eq!(status.success(), signal == Signal::SIGTERM, "{status}");
        lab.start(&config);
        lab.assert_metrics(&[("synwall_flows_restored_total", 2)]);
    }
    await_transfers(&lab);
    is_over.store(true, Ordering::Relaxed);
    assert_eq!(vec![client_sends.join().unwrap()], receiver.join().unwrap());
    assert_eq!(vec![client_receives.join().unwrap()], sender.join().unwrap());
    // Both ends have seen the other's FIN: as after any connection, nothing stays.
    assert!(eventually(Duration::from_secs(10), || lab.metric("synwall_flows", "") == 0));
    lab.assert_metrics(&[("synwall_grace_packets_total", 0), ("synwall_grace_flows_total", 0)]);
    lab.stop();
}

/// Waits until 20 MB have come from either side since synwall was started.
fn await_transfers(lab: &Lab) {
    for port in ["outside", "inside"] {
        let has_come = || lab.metric("synwall_bytes_total", port) > 20_000_000;
        assert!(eventually(Duration::from_secs(15), has_come), "nothing comes from {port}:\n{}", lab.log());
    }
}

/// Row 69.
#[test]
fn transfers_survive_a_stop_and_a_start() {
    assert_transfers_survive(Signal::SIGTERM);
}

/// Row 69.
#[test]
fn transfers_survive_a_kill_and_a_start() {
    assert_transfers_survive(Signal::SIGKILL);
}

/// Row 69: the connection began after the last checkpoint that could be kept. Its segments must not pass untranslated, by
/// no grace either.
#[test]
fn connection_that_a_crash_lost_passes_nothing() {
    let mut lab = Lab::up(&[]);
    // No checkpoint but the one at the start, and nothing that the kernel keeps.
    let config = config(&lab).replace("checkpoint = \"1s\"", "checkpoint = \"1h\"");
    let config = format!("{config}\n[plane]\nkind = {:?}\nmode = \"native\"\npin = \"none\"\n", plane());
    lab.start(&config);
    let server = serve(&lab, address(SERVER[0], 8000), 1, |mut stream| {
        let hello = read(&mut stream, 5).unwrap();
        stream.write_all(&hello).unwrap();
        (hello, stream)
    });
    let mut client = lab.within("client", || {
        let mut stream = open(address(SERVER[0], 8000)).unwrap();
        stream.write_all(b"hello").unwrap();
        assert_eq!(read(&mut stream, 5).unwrap(), b"hello");
        stream
    });
    let (_, mut server) = server.join().unwrap().remove(0);
    lab.signal(Signal::SIGKILL);
    let at_client = Capture::start(&lab, "client");
    let at_server = Capture::start(&lab, "server");
    lab.start(&config);
    assert!(lab.log().contains("synwall had not been stopped"), "{}", lab.log());
    client.write_all(b"more").unwrap();
    server.write_all(b"more").unwrap();
    // Both are repeated several times within this.
    assert!(eventually(Duration::from_secs(10), || lab.metric("synwall_dropped_total", "no_flow") >= 3
        && lab.metric("synwall_dropped_total", "reason=\"cookie_invalid\"") >= 3));
    for (mut capture, incoming) in
        [(at_client, "ip.src == 198.18.255.2"), (at_server, "ip.dst == 198.18.255.2")]
    {
        capture.end();
        let passed = capture.select(&format!("tcp.port == 8000 and {incoming}"));
        assert!(passed.is_empty(), "{passed:#?}");
    }
    lab.assert_metrics(&[("synwall_grace_packets_total", 0), ("synwall_grace_flows_total", 0)]);
    // A clean restart does not make it forget that connections may be out there.
    lab.stop();
    lab.start(&config);
    assert!(lab.log().contains("connections that began before this start are dropped"), "{}", lab.log());
}

/// Rows 21 and 78: off, so that nobody tracks them; then on.
#[test]
fn connections_from_before_go_on_when_the_service_is_switched_on() {
    let mut lab = Lab::up(&[]);
    let always = config(&lab);
    lab.start(&always.replace("mode = \"always\"", "mode = \"off\""));
    for host in SERVER {
        let server = serve(&lab, address(host, 8000), 2, |stream| stream);
        let (mut one, mut other) =
            lab.within("client", || (open(address(host, 8000)).unwrap(), open(address(host, 8000)).unwrap()));
        let mut served = server.join().unwrap();
        // Two workers may open translated connections in either order.
        served.sort_by_key(|stream| stream.peer_addr().unwrap() != one.local_addr().unwrap());
        if host == SERVER[0] {
            fs::write(lab.state().join("synwall.toml"), lab.with_socket(&always)).unwrap();
            kill(lab.pid(), Signal::SIGHUP).unwrap();
            let is_on = || lab.metric("synwall_mode", "always") == 2;
            assert!(eventually(Duration::from_secs(5), is_on), "{}", lab.log());
        } else {
            // The connections of this round are translated already.
            lab.assert_metrics(&[("synwall_grace_flows_total", 2)]);
        }
        // The server is the first to speak on one, the client on the other.
        served[0].write_all(b"from the server").unwrap();
        assert_eq!(read(&mut one, 15).unwrap(), b"from the server");
        other.write_all(b"from the client").unwrap();
        assert_eq!(read(&mut served[1], 15).unwrap(), b"from the client");
        one.shutdown(Shutdown::Write).unwrap();
        assert_eq!(served[0].read(&mut [0]).unwrap(), 0);
    }
    lab.assert_metrics(&[("synwall_grace_flows_total", 2), ("synwall_grace_packets_total", 1)]);
    assert_eq!(lab.metric("synwall_flows_admitted_total", "proxied"), 2);
    lab.stop();
}

/// Row 78: one that began before the first synwall was started at all.
#[test]
fn connection_from_before_the_first_start_goes_on() {
    let mut lab = Lab::up(&[]);
    lab.script(&["box", "plain"]);
    let server = serve(&lab, address(SERVER[0], 8000), 1, |stream| stream);
    let mut client = lab.within("client", || open(address(SERVER[0], 8000)).unwrap());
    let mut served = server.join().unwrap().remove(0);
    lab.script(&["box", "bridge"]);
    let config = config(&lab);
    lab.start(&config);
    client.write_all(b"ping").unwrap();
    assert_eq!(read(&mut served, 4).unwrap(), b"ping");
    served.write_all(b"pong").unwrap();
    assert_eq!(read(&mut client, 4).unwrap(), b"pong");
    lab.assert_metrics(&[("synwall_grace_flows_total", 1)]);
    // Direct flows, too, outlive synwall.
    lab.stop();
    lab.start(&config);
    lab.assert_metrics(&[("synwall_flows_restored_total", 1)]);
    client.write_all(b"ping").unwrap();
    assert_eq!(read(&mut served, 4).unwrap(), b"ping");
    let modes = ["flows", "cookie.key", "lock"].map(|name| {
        fs::metadata(lab.state().join("state").join(name)).unwrap().permissions().mode() & 0o7777
    });
    assert_eq!(modes, [0o600; 3]);
    lab.stop();
}
