//! Servers that refuse, are silent, or die: the client is told what it would have been told, in time.

use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::capture::Capture;
use crate::lab::{CONFIG, Lab, SERVER, eventually};
use crate::traffic::{address, open, read, serve};

/// Row 37.
#[test]
fn refused_port_resets_the_first_client_and_refuses_the_next() {
    let lab = Lab::protected(&[]);
    for host in SERVER {
        // The reset may find the client still in connect() or in read() already.
        let refusal =
            || open(address(host, 8001)).and_then(|mut stream| stream.read(&mut [0])).unwrap_err().kind();
        lab.within("client", || {
            let begun = Instant::now();
            // A cookie has promised the connection before the server was asked.
            assert_eq!(refusal(), ErrorKind::ConnectionReset);
            assert_eq!(refusal(), ErrorKind::ConnectionRefused, "within the second after");
            assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
            thread::sleep(Duration::from_millis(1100));
            assert_eq!(refusal(), ErrorKind::ConnectionReset, "forgotten after a second");
        });
    }
    assert_eq!(lab.metric("synwall_backend_handshake_failed_total", "refused"), 4);
    lab.assert_metrics(&[("synwall_half_open", 0)]);
}

/// Row 36.
#[test]
fn silent_server_gets_four_syns_and_its_client_a_reset_after_15_s() {
    let mut lab = Lab::up_to_wait(&[]);
    // Where the operator does not say that silence is a refusal, it takes three minutes.
    lab.start(&CONFIG.replace("mode = \"always\"", "mode = \"always\"\nrefuse_silent = true"));
    lab.run("server", &["nft", "add rule netdev lab ingress tcp dport 8002 drop"]);
    let before = lab.syns_at_server();
    let waited = lab.within("client", || {
        let begun = Instant::now();
        let error = open(address(SERVER[0], 8002)).unwrap().read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        begun.elapsed()
    });
    assert!((14.5..16.0).contains(&waited.as_secs_f64()), "{waited:?}");
    assert_eq!(lab.syns_at_server() - before, 4, "at 0, 1, 3 and 7 s");
    assert_eq!(lab.metric("synwall_backend_handshake_failed_total", "timeout"), 1);
    lab.assert_metrics(&[("synwall_half_open", 0)]);
}

#[test]
fn server_process_that_dies_ends_the_connection_as_without_synwall() {
    let lab = Lab::protected(&[]);
    for (port, unread, end) in [(8003, &b""[..], Ok(0)), (8004, b"unread", Err(ErrorKind::ConnectionReset))] {
        let name = format!("victim{port}");
        lab.script(&["spawn", "server", &name, "python3", "-c", VICTIM, &port.to_string()]);
        lab.within("client", || {
            let server = address(SERVER[0], port);
            assert!(
                eventually(Duration::from_secs(5), || lab_listens(&lab, port)),
                "the victim did not start"
            );
            let mut stream = open(server).unwrap();
            assert_eq!(read(&mut stream, 5).unwrap(), b"hello");
            stream.write_all(unread).unwrap();
            thread::sleep(Duration::from_millis(100));
            lab.script(&["stop", &name, "KILL"]);
            let begun = Instant::now();
            assert_eq!(stream.read(&mut [0]).map_err(|error| error.kind()), end);
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        });
    }
}

/// Row 43.
#[test]
fn repeated_syn_ack_is_answered_and_the_client_sees_but_one() {
    let lab = Lab::protected(&[]);
    let server = serve(&lab, address(SERVER[0], 8005), 1, |mut stream| stream.write_all(b"hello").unwrap());
    // The server loses the ACK of its SYN-ACK, and repeats it after a second.
    lab.run("server", &["nft", "add rule netdev lab ingress tcp dport 8005 tcp flags ack counter drop"]);
    let mut capture = Capture::start(&lab, "client");
    lab.within("client", || {
        let mut stream = open(address(SERVER[0], 8005)).unwrap();
        thread::sleep(Duration::from_millis(700));
        lab.run("server", &["nft", "flush chain netdev lab ingress"]);
        assert_eq!(read(&mut stream, 5).unwrap(), b"hello");
    });
    server.join().unwrap();
    capture.end();
    let syn_acks = capture.select("tcp.flags.syn == 1 and tcp.flags.ack == 1");
    assert_eq!(syn_acks.len(), 1, "{syn_acks:#?}");
}

#[test]
fn link_that_fails_and_returns_keeps_the_connection() {
    let lab = Lab::protected(&[]);
    for port in ["inside", "outside"] {
        let server = serve(&lab, address(SERVER[0], 8000), 1, |mut stream| read(&mut stream, 8).unwrap());
        lab.within("client", || {
            let mut stream = open(address(SERVER[0], 8000)).unwrap();
            stream.write_all(b"data").unwrap();
            thread::sleep(Duration::from_millis(200));
            lab.run("box", &["ip", "link", "set", port, "down"]);
            let label = format!("port=\"{port}\"");
            assert!(eventually(Duration::from_secs(5), || lab.metric("synwall_port_up", &label) == 0));
            stream.write_all(b"more").unwrap();
            lab.run("box", &["ip", "link", "set", port, "up"]);
            assert!(eventually(Duration::from_secs(5), || lab.metric("synwall_port_up", &label) == 1));
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the server has read all and closed");
        });
        assert_eq!(server.join().unwrap(), [b"datamore"]);
    }
}

fn lab_listens(lab: &Lab, port: u16) -> bool {
    lab.run("server", &["ss", "-Hltn", &format!("sport = :{port}")]).contains("LISTEN")
}

/// Greets one client, reads nothing and waits for its death.
const VICTIM: &str = "
import socket, sys, time
listener = socket.create_server(('', int(sys.argv[1])))
client, _ = listener.accept()
client.sendall(b'hello')
time.sleep(60)
";
