//! What only the XDP plane does: the flood is answered in the kernel, connections go on while no process tends to them, and
//! the plane comes and goes in a running process.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};

use crate::crossing::transfer_both_ways;
use crate::lab::{CONFIG, Lab, SERVER, eventually, plane};
use crate::traffic::{address, open, open_from, read, receive_hashed, send_hashed_while, serve, visit};

/// A lab whose synwall has XDP attached.
fn protected() -> Lab {
    assert_eq!(plane(), "xdp", "tests of the XDP plane: SYNWALL_PLANE=xdp, or --skip xdp::");
    let lab = Lab::protected(&[]);
    assert_eq!(lab.metric("synwall_plane", "plane=\"xdp\""), 1, "{}", lab.log());
    lab
}

/// Transfers each way that go on until they are told to end.
struct Transfers {
    is_over: Arc<AtomicBool>,
    sent: [thread::JoinHandle<String>; 2],
    came: [thread::JoinHandle<String>; 2],
}

impl Transfers {
    fn start(lab: &Lab) -> Transfers {
        let is_over = Arc::new(AtomicBool::new(false));
        let send = || {
            let is_over = is_over.clone();
            move |stream: &TcpStream| send_hashed_while(stream, || !is_over.load(Ordering::Relaxed)).unwrap()
        };
        let receive = || |stream: &TcpStream| receive_hashed(stream).unwrap().1;
        let [up, down] = [(SERVER[0], 8000), (SERVER[1], 8001)].map(|(host, port)| address(host, port));
        let (at_server, from_server) = (receive(), send());
        let receiver = serve(lab, up, 1, move |stream| at_server(&stream));
        let sender = serve(lab, down, 1, move |stream| from_server(&stream));
        let (from_client, at_client) = (send(), receive());
        let client_sends = lab.spawn("client", move || from_client(&open(up).unwrap()));
        let client_receives = lab.spawn("client", move || at_client(&open(down).unwrap()));
        let only =
            |thread: thread::JoinHandle<Vec<String>>| thread::spawn(|| thread.join().unwrap().remove(0));
        Transfers { is_over, sent: [client_sends, only(sender)], came: [only(receiver), client_receives] }
    }

    /// Waits until 20 MB more have gone through the server's interface each way.
    fn await_progress(&self, lab: &Lab) {
        for counter in ["rx_bytes", "tx_bytes"] {
            let file = format!("/sys/class/net/eth0/statistics/{counter}");
            let seen = || lab.run("server", &["cat", &file]).trim().parse::<u64>().unwrap();
            let before = seen();
            assert!(
                eventually(Duration::from_secs(15), || seen() > before + 20_000_000),
                "{counter} stands still"
            );
        }
    }

    /// Ends them, octet for octet.
    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        for (sent, came) in self.sent.into_iter().zip(self.came) {
            assert_eq!(sent.join().unwrap(), came.join().unwrap());
        }
    }
}

/// Row 69: what the process does not see for a while goes on without it.
fn assert_transfers_go_on_without_a_process(signal: Signal) {
    let mut lab = protected();
    let transfers = Transfers::start(&lab);
    transfers.await_progress(&lab);
    lab.signal(signal);
    transfers.await_progress(&lab);
    lab.start(CONFIG);
    assert!(lab.log().contains("connections taken over"), "{}", lab.log());
    lab.assert_metrics(&[("synwall_flows_restored_total", 2)]);
    transfers.await_progress(&lab);
    transfers.end();
    assert!(eventually(Duration::from_secs(10), || lab.metric("synwall_flows", "") == 0), "nothing stays");
    lab.stop();
    assert!(!lab.pins().exists());
}

#[test]
fn transfers_go_on_over_a_kill_without_a_process_and_with_the_next() {
    assert_transfers_go_on_without_a_process(Signal::SIGKILL);
}

#[test]
fn transfers_go_on_over_an_upgrade() {
    assert_transfers_go_on_without_a_process(Signal::SIGUSR2);
}

/// Containers' links: no hardware behind them, and senders that count on some. The program is attached where the kernel still
/// knows what is to be done for a frame, and `auto` leaves such ports to the raw sockets.
#[test]
fn checksums_that_were_left_undone_are_completed_behind_ports_without_hardware() {
    let mut lab = Lab::up(&["--direct"]);
    assert_eq!(plane(), "xdp");
    for end in ["client", "server"] {
        lab.run(end, &["ip", "link", "set", "eth0", "xdp", "off"]);
        lab.run(end, &["ethtool", "-K", "eth0", "tx", "on", "txvlan", "on", "tso", "on", "gso", "on"]);
    }
    let direct = CONFIG.replace("mode = \"always\"", "mode = \"adaptive\"");
    for (config, kind, expected) in [
        (CONFIG, "xdp", "mode=\"generic\""),
        (&direct, "xdp", "mode=\"generic\""),
        (CONFIG, "auto", "plane=\"pnet\""),
    ] {
        lab.start(&format!("{config}\n[plane]\nkind = {kind:?}\npin = {:?}\n", lab.pins()));
        assert_eq!(lab.metric("synwall_plane", expected), 1, "{}", lab.log());
        for host in SERVER {
            for port in [8000, 9000] {
                transfer_both_ways(&lab, host, port);
            }
        }
        let is_direct = config != CONFIG;
        lab.assert_metrics(&[("synwall_cookie_valid_total", if is_direct { 0 } else { 2 })]);
        if kind == "auto" {
            assert_eq!(lab.metric("synwall_plane_reason", "no_hardware"), 1);
        }
        lab.stop();
    }
}

/// A SYN that nobody would tend to is not answered; its client repeats it, and is served by the next run.
#[test]
fn nobody_is_promised_what_nobody_tends_to() {
    let mut lab = protected();
    let before = lab.syns_at_server();
    lab.signal(Signal::SIGKILL);
    // The program believes in the process for two seconds.
    thread::sleep(Duration::from_secs(3));
    let (sent, client) = (Arc::new(AtomicBool::new(false)), address(SERVER[0], 80));
    let is_sent = sent.clone();
    let visitor = lab.spawn("client", move || {
        is_sent.store(true, Ordering::Relaxed);
        visit(client)
    });
    assert!(eventually(Duration::from_secs(5), || sent.load(Ordering::Relaxed)));
    lab.start(CONFIG);
    visitor.join().unwrap().unwrap();
    assert_eq!(lab.syns_at_server() - before, 2, "and the second SYN");
    lab.assert_metrics(&[("synwall_cookie_valid_total", 1)]);
    lab.stop();
}

#[test]
fn a_flood_is_answered_in_the_kernel() {
    let mut lab = protected();
    lab.script(&["flood", "5"]);
    let received = || lab.metric("synwall_syn_received_total", "");
    assert!(eventually(Duration::from_secs(10), || received() > 50_000), "{} SYNs", received());
    for host in SERVER.iter().cycle().take(100) {
        lab.within("client", || visit(address(host, 80))).unwrap();
    }
    lab.script(&["stop", "flood"]);
    let (received, sent) = (received(), lab.metric("synwall_synack_sent_total", ""));
    // What hping3 makes up is now and then no address, or port 0.
    let bogus = lab.metric("synwall_dropped_total", "reason=\"bogus_");
    assert_eq!(received, sent + bogus, "each SYN got its SYN-ACK");
    // ACK, request, FIN and what acknowledges them: no SYN comes up.
    let up = lab.metric("synwall_passed_up_total", "outside");
    assert!((200..1_000).contains(&up), "{up} of {received} frames came up");
    lab.assert_metrics(&[("synwall_cookie_valid_total", 100), ("synwall_backend_syn_total", 100)]);
    lab.stop();
}

#[test]
fn an_open_connection_is_translated_in_the_kernel() {
    let mut lab = protected();
    let transfers = Transfers::start(&lab);
    transfers.await_progress(&lab);
    let before = [
        lab.metric("synwall_passed_up_total", ""),
        lab.metric("synwall_packets_total", "verdict=\"forward\""),
    ];
    transfers.await_progress(&lab);
    let after = [
        lab.metric("synwall_passed_up_total", ""),
        lab.metric("synwall_packets_total", "verdict=\"forward\""),
    ];
    let [up, forwarded] = [after[0] - before[0], after[1] - before[1]];
    assert!(forwarded > 20_000 && up < forwarded / 1_000, "{up} of {forwarded} frames came up");
    transfers.end();
    lab.stop();
}

/// One port, connection after connection, each ended by RST: the slot in the kernel's table is the same each time.
#[test]
fn a_client_that_resets_and_connects_again_from_its_port_is_served_each_time() {
    const TIMES: usize = 50;
    const LEN: usize = 100;
    let mut lab = protected();
    for host in SERVER {
        let server = address(host, 8000);
        let echo = serve(&lab, server, TIMES, |mut stream| {
            let request = read(&mut stream, LEN).unwrap();
            stream.write_all(&request).unwrap();
            // The client's RST.
            stream.read(&mut [0; 1]).unwrap_err().kind()
        });
        let client = lab.spawn("client", move || {
            let any = if server.is_ipv4() { "0.0.0.0:50000" } else { "[::]:50000" };
            for n in 0..TIMES {
                let mut stream = open_from(any.parse().unwrap(), server).unwrap();
                let request = vec![n as u8; LEN];
                stream.write_all(&request).unwrap();
                assert_eq!(read(&mut stream, LEN).unwrap(), request, "connection {n}");
                let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
                setsockopt(&stream, sockopt::Linger, &at_once).unwrap();
            }
        });
        client.join().unwrap();
        assert_eq!(echo.join().unwrap(), vec![ErrorKind::ConnectionReset; TIMES]);
    }
    assert_eq!(lab.metric("synwall_flows_admitted_total", "proxied"), 2 * TIMES as u64);
    assert_eq!(lab.metric("synwall_dropped_total", "flow_table_full"), 0);
    lab.stop();
}

/// The plane changes again and again under transfers and new connections, and none of them notices.
#[test]
fn the_plane_comes_and_goes_under_load() {
    let mut lab = protected();
    let transfers = Transfers::start(&lab);
    let is_over = Arc::new(AtomicBool::new(false));
    let visitors: Vec<_> = SERVER
        .iter()
        .map(|host| {
            let (is_over, server) = (is_over.clone(), address(host, 80));
            lab.spawn("client", move || {
                let mut visits = 0;
                while !is_over.load(Ordering::Relaxed) {
                    visit(server).unwrap();
                    visits += 1;
                }
                visits
            })
        })
        .collect();
    for kind in ["pnet", "xdp", "pnet", "xdp"] {
        transfers.await_progress(&lab);
        let config = format!("{CONFIG}\n{}", lab.plane_table_of(kind));
        fs::write(lab.state().join("synwall.toml"), lab.with_socket(&config)).unwrap();
        kill(lab.pid(), Signal::SIGHUP).unwrap();
        let is_there = || lab.metric("synwall_plane", &format!("plane={kind:?}")) == 1;
        assert!(eventually(Duration::from_secs(10), is_there), "no {kind}:\n{}", lab.log());
        assert_eq!(lab.pins().exists(), kind == "xdp");
    }
    transfers.await_progress(&lab);
    is_over.store(true, Ordering::Relaxed);
    let visits: u64 = visitors.into_iter().map(|visitor| visitor.join().unwrap()).sum();
    assert!(visits > 100, "{visits} visits");
    transfers.end();
    assert!(eventually(Duration::from_secs(10), || lab.metric("synwall_flows", "") == 0), "nothing stays");
    lab.assert_metrics(&[("synwall_flows_expired_total", 0)]);
    lab.stop();
}
