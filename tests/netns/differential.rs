//! The same conversations without synwall, through the kernel's synproxy, and through synwall, field by field as each end
//! saw them. What differs is exactly what `docs/differential.md` lists, each with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::TcpStreamExt;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect, send, setsockopt, socket,
    sockopt,
};

use crate::capture::Capture;
use crate::lab::{CONFIG, Lab, SERVER, eventually};
use crate::segments::{Described, of_client_port};
use crate::traffic::{address, read};

#[test]
fn what_differs_from_a_plain_wire_is_what_is_documented() {
    let mut lab = Lab::up(&["--plain", "--direct"]);
    for end in ["client", "server"] {
        // Nobody probes early for lost segments, and what one sends and the other answers can be told apart.
        lab.run(end, &["sysctl", "-qw", "net.ipv4.tcp_early_retrans=0"]);
    }
    lab.run("client", &["sysctl", "-qw", "net.ipv4.ip_default_ttl=61", "net.ipv6.conf.all.hop_limit=61"]);
    lab.run("server", &["sysctl", "-qw", "net.ipv4.ip_default_ttl=60", "net.ipv6.conf.all.hop_limit=60"]);
    lab.run("client", &["sysctl", "-qw", "net.ipv6.conf.eth0.hop_limit=61"]);
    lab.run("server", &["sysctl", "-qw", "net.ipv6.conf.eth0.hop_limit=60"]);
    // Each telling has client ports of its own: those of the one before are in TIME-WAIT.
    let mut first_ports = (40_000..).step_by(1_000);
    let mut tell = |lab: &Lab| tell_all(lab, first_ports.next().unwrap());
    let (direct, usual) = told_twice(&lab, || tell(&lab));
    lab.script(&["box", "synproxy"]);
    print(&differences(&direct, &tell(&lab)), "nftables synproxy");
    lab.script(&["box", "bridge"]);
    // Chance adds a segment that is sent again, or an ACK, if an end was not scheduled in time, and the kernel counts both: only a
    // telling that has other counts than the plain wire's is told again.
    let mut unlike = Vec::new();
    for _ in 0..TELLINGS {
        lab.start(&CONFIG.replace(ALWAYS, &format!("{ALWAYS}\nwscale = 10\necn = true\nsecond_syn = false")));
        // The first connection teaches synwall what the server supports.
        lab.run("client", &["curl", "-sf", "--max-time", "5", "-o", "/dev/null", "http://198.18.255.2/"]);
        lab.run(
            "client",
            &["curl", "-sf", "--max-time", "5", "-o", "/dev/null", "http://[2001:db8:255::2]/"],
        );
        let before = chances(&lab);
        let synwall = differences(&direct, &tell(&lab));
        let chances = moved(&lab, before);
        lab.stop();
        print(&synwall, "synwall");
        match unlike_the_document(&synwall) {
            None => return,
            Some(difference) if usual.contains(&chances) => panic!("{chances:?} by chance: {difference}"),
            Some(difference) => {
                unlike.push(format!("{chances:?}, and not {usual:?}, by chance: {difference}"))
            }
        }
    }
    panic!("{}", unlike.join("\n"));
}

/// What a plain wire does, twice the same.
/// With what chance added to each of them: see [`chances`].
fn told_twice(lab: &Lab, mut tell: impl FnMut() -> Told) -> (Told, [Chances; 2]) {
    let mut tell = || {
        let before = chances(lab);
        (tell(), moved(lab, before))
    };
    let (mut told, mut added) = tell();
    for _ in 0..4 {
        let (again, now) = tell();
        let found = differences(&told, &again);
        print(&found, "a plain wire, again");
        if found.is_empty() {
            return (again, [added, now]);
        }
        (told, added) = (again, now);
    }
    panic!("not even the same twice");
}

/// Segments sent again, and ACKs that were sent late, by client and server.
type Chances = [u64; 4];

fn chances(lab: &Lab) -> Chances {
    let of = |end| ["TcpRetransSegs", "TcpExtDelayedACKs"].map(|name| lab.kernel_counter(end, name));
    let [client, server] = [of("client"), of("server")];
    [client[0], client[1], server[0], server[1]]
}

fn moved(lab: &Lab, before: Chances) -> Chances {
    let now = chances(lab);
    [0, 1, 2, 3].map(|at: usize| now[at] - before[at])
}

/// How often chance may get in between.
const TELLINGS: usize = 5;

/// One conversation.
struct Story {
    name: &'static str,
    host: &'static str,
    /// Keys below net.ipv4 at the client or the server, for this story.
    settings: &'static [(&'static str, &'static str)],
    visits: usize,
    /// Whether the client's first data are in the third segment, or wait until the server has accepted.
    is_early: bool,
    client: fn(TcpStream) -> Result<()>,
    /// What the server does, if one listens.
    server: Option<fn(TcpStream) -> Result<()>>,
}

const STORIES: &[Story] = &[
    Story { name: "request and answer", ..EXCHANGE },
    Story { name: "over IPv6", host: SERVER[1], ..EXCHANGE },
    Story { name: "data in the third segment", is_early: true, ..EXCHANGE },
    Story { name: "no timestamps", settings: &[("client", "tcp_timestamps=0")], ..EXCHANGE },
    Story { name: "no SACK", settings: &[("client", "tcp_sack=0")], ..EXCHANGE },
    Story { name: "no window scaling", settings: &[("client", "tcp_window_scaling=0")], ..EXCHANGE },
    Story { name: "ECN", settings: &[("client", "tcp_ecn=1"), ("server", "tcp_ecn=1")], ..EXCHANGE },
    Story { name: "the tuple again", visits: 2, client: wait_for_end, server: Some(greet), ..EXCHANGE },
    Story { name: "server speaks first", client: wait_for_end, server: Some(greet), ..EXCHANGE },
    Story { name: "half-close", client: half_close, server: Some(answer_after_end), ..EXCHANGE },
    Story {
        name: "client resets",
        client: reset_after_answer,
        server: Some(answer_and_be_reset),
        ..EXCHANGE
    },
    Story {
        name: "server resets",
        client: request_and_be_reset,
        server: Some(reset_after_request),
        ..EXCHANGE
    },
    Story { name: "closed port", client: request_and_be_reset, server: None, is_early: true, ..EXCHANGE },
    Story { name: "keep-alive", client: keep_alive, server: Some(answer_twice), ..EXCHANGE },
    Story { name: "urgent data", client: urgent, server: Some(answer_urgent), ..EXCHANGE },
    // The last, for synwall learns from it what the server supports.
    Story { name: "a server without timestamps", settings: &[("server", "tcp_timestamps=0")], ..EXCHANGE },
];

const EXCHANGE: Story = Story {
    name: "",
    host: SERVER[0],
    settings: &[],
    visits: 1,
    is_early: false,
    client: request,
    server: Some(answer),
};

/// What each end saw of each story: by the story's name and the end.
type Told = BTreeMap<(&'static str, &'static str), std::result::Result<Vec<Described>, String>>;

/// Tells every story, each from a client port of its own.
fn tell_all(lab: &Lab, first_port: u16) -> Told {
    let mut told = Told::new();
    for (number, story) in (0..).zip(STORIES) {
        let mut captures = ["client", "server"].map(|end| (end, Capture::start(lab, end)));
        for (end, setting) in story.settings {
            lab.run(end, &["sysctl", "-qw", &format!("net.ipv4.{setting}")]);
        }
        let visit = |_| story.tell(lab, address(story.host, 8000 + number), first_port + number);
        let outcome = (0..story.visits).try_for_each(visit);
        for (end, setting) in story.settings {
            let (key, _) = setting.split_once('=').unwrap();
            let default = if key == "tcp_ecn" { 2 } else { 1 };
            lab.run(end, &["sysctl", "-qw", &format!("net.ipv4.{key}={default}")]);
        }
        for (end, capture) in &mut captures {
            capture.end();
            let segments = of_client_port(&capture.frames(), first_port + number);
            told.insert((story.name, end), outcome.as_ref().map(|()| segments).map_err(ToString::to_string));
        }
    }
    told
}

impl Story {
    /// Lets it happen, and waits until neither end has anything to say any more; says what went wrong.
    fn tell(&self, lab: &Lab, server: SocketAddr, port: u16) -> Result<()> {
        let (accepted, has_accepted) = mpsc::channel();
        let serving = self.server.map(|serve| {
            let listener = lab.within("server", || TcpListener::bind(server)).unwrap();
            std::thread::spawn(move || {
                let stream = accept(&listener)?;
                accepted.send(()).map_err(Error::other)?;
                serve(patient(stream))
            })
        });
        let told = lab.within("client", move || {
            let stream = match self.connect(server, port) {
                Ok(stream) => patient(stream),
                Err(_) if self.server.is_none() => return Ok(()),
                Err(error) => return Err(error),
            };
            if !self.is_early {
                has_accepted.recv_timeout(PATIENCE).map_err(Error::other)?;
            }
            (self.client)(stream)
        });
        let served = serving.map_or(Ok(()), |serving| serving.join().unwrap());
        let its = format!("( sport = :{port} or dport = :{port} )");
        let is_quiet = |end| {
            let sockets = lab.run(end, &["ss", "-Htn", "exclude", "listening", "exclude", "time-wait", &its]);
            sockets.trim().is_empty()
        };
        let has_ended = eventually(PATIENCE, || is_quiet("client") && is_quiet("server"));
        told.and(served).and(if has_ended { Ok(()) } else { Err(ErrorKind::TimedOut.into()) })
    }

    fn connect(&self, server: SocketAddr, port: u16) -> Result<TcpStream> {
        let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let stream = TcpStream::from(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?);
        let any = SocketAddr::new(if server.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() }, port);
        setsockopt(&stream, sockopt::ReuseAddr, &true)?;
        bind(stream.as_raw_fd(), &SockaddrStorage::from(any))?;
        stream.set_quickack(!self.is_early)?;
        connect(stream.as_raw_fd(), &SockaddrStorage::from(server))?;
        Ok(stream)
    }
}

fn request(mut stream: TcpStream) -> Result<()> {
    stream.write_all(REQUEST)?;
    read(&mut stream, ANSWER.len()).map(drop)
}

fn answer(mut stream: TcpStream) -> Result<()> {
    read(&mut stream, REQUEST.len())?;
    stream.write_all(ANSWER)?;
    wait_for_end(stream)
}

fn answer_twice(mut stream: TcpStream) -> Result<()> {
    read(&mut stream, REQUEST.len())?;
    stream.write_all(ANSWER)?;
    // Nobody can see from here that the client has asked whether the server is alive.
    std::thread::sleep(Duration::from_millis(1500));
    answer_again(stream)
}

fn answer_again(mut stream: TcpStream) -> Result<()> {
    stream.write_all(ANSWER)?;
    wait_for_end(stream)
}

fn keep_alive(mut stream: TcpStream) -> Result<()> {
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &1)?;
    stream.write_all(REQUEST)?;
    read(&mut stream, 2 * ANSWER.len()).map(drop)
}

fn half_close(mut stream: TcpStream) -> Result<()> {
    stream.write_all(REQUEST)?;
    stream.shutdown(Shutdown::Write)?;
    wait_for_end(stream)
}

fn answer_after_end(mut stream: TcpStream) -> Result<()> {
    stream.read_to_end(&mut Vec::new())?;
    stream.write_all(ANSWER)
}

fn greet(mut stream: TcpStream) -> Result<()> {
    stream.write_all(b"hello")
}

fn wait_for_end(mut stream: TcpStream) -> Result<()> {
    stream.read_to_end(&mut Vec::new()).map(drop)
}

fn reset_after_answer(mut stream: TcpStream) -> Result<()> {
    stream.write_all(REQUEST)?;
    read(&mut stream, ANSWER.len())?;
    reset(stream)
}

fn answer_and_be_reset(mut stream: TcpStream) -> Result<()> {
    read(&mut stream, REQUEST.len())?;
    stream.write_all(ANSWER)?;
    stream.read(&mut [0]).unwrap_err();
    Ok(())
}

fn request_and_be_reset(mut stream: TcpStream) -> Result<()> {
    stream.write_all(REQUEST)?;
    stream.read(&mut [0]).unwrap_err();
    Ok(())
}

fn reset_after_request(mut stream: TcpStream) -> Result<()> {
    read(&mut stream, REQUEST.len())?;
    reset(stream)
}

fn urgent(mut stream: TcpStream) -> Result<()> {
    send(stream.as_raw_fd(), REQUEST, MsgFlags::MSG_OOB)?;
    read(&mut stream, ANSWER.len()).map(drop)
}

fn answer_urgent(mut stream: TcpStream) -> Result<()> {
    read(&mut stream, REQUEST.len() - 1)?;
    stream.write_all(ANSWER)?;
    wait_for_end(stream)
}

/// Closes with RST.
fn reset(stream: TcpStream) -> Result<()> {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    Ok(setsockopt(&stream, sockopt::Linger, &at_once)?)
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let mut accepted = Err(ErrorKind::TimedOut.into());
    eventually(PATIENCE, || {
        accepted = listener.accept();
        accepted.is_ok()
    });
    let (stream, _) = accepted?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// What differs in a kind of segment, with the stories in which it does: (what, field, direct, otherwise).
type Differences = BTreeMap<[String; 4], BTreeSet<&'static str>>;

fn differences(direct: &Told, other: &Told) -> Differences {
    let mut found = Differences::new();
    for ((story, end), segments) in direct {
        let segments = segments.as_ref().expect("a plain wire carries every conversation");
        let Ok(others) = &other[&(*story, *end)] else {
            let row =
                [&format!("the conversation \"{story}\""), "outcome", "ends", "fails"].map(str::to_owned);
            found.entry(row).or_default().insert(*story);
            continue;
        };
        for (whose, from_client) in [("client", true), ("server", false)] {
            let [mut here, mut there] = [segments, others].map(|told| by_name(told, from_client));
            let names: BTreeSet<_> = here.keys().chain(there.keys()).cloned().collect();
            for name in names {
                let (here, there) = (here.remove(&name), there.remove(&name));
                let kind = here.as_ref().or(there.as_ref()).unwrap().0;
                let what = format!("the {whose}'s {kind} at the {end}");
                for [field, direct, otherwise] in fields_that_differ(here, there) {
                    found.entry([what.clone(), field, direct, otherwise]).or_default().insert(*story);
                }
            }
        }
    }
    found
}

type Named = (&'static str, BTreeMap<&'static str, BTreeSet<String>>);

/// One side's segments by name. Of acknowledgements without data it is chance how many there are and of what: they are
/// taken together.
fn by_name(segments: &[Described], from_client: bool) -> BTreeMap<String, Named> {
    let mut named = BTreeMap::<String, Named>::new();
    for segment in segments.iter().filter(|segment| segment.from_client == from_client) {
        let is_bare = matches!(segment.kind, "ACK");
        let name = if is_bare { "ACK".to_owned() } else { segment.name.clone() };
        let fields = &mut named.entry(name).or_insert_with(|| (segment.kind, BTreeMap::new())).1;
        for (field, value) in &segment.fields {
            if !(is_bare && matches!(*field, "ack" | "window")) {
                fields.entry(field).or_default().insert(value.clone());
            }
        }
    }
    named
}

fn fields_that_differ(here: Option<Named>, there: Option<Named>) -> Vec<[String; 3]> {
    let (here, there) = match (here, there) {
        (Some(here), Some(there)) => (here.1, there.1),
        (here, _) => {
            let [direct, otherwise] = if here.is_some() { ["sent", "none"] } else { ["none", "sent"] };
            return vec![["segment", direct, otherwise].map(str::to_owned)];
        }
    };
    let join = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(" or ");
    let pairs = here.iter().map(|(field, values)| [(*field).to_owned(), join(values), join(&there[field])]);
    pairs.filter(|[_, direct, otherwise]| direct != otherwise).collect()
}

fn print(found: &Differences, whose: &str) {
    println!("{whose}:");
    for (row, stories) in found {
        let stories: Vec<_> = stories.iter().copied().collect();
        println!("| {} | {} |", row.join(" | "), stories.join(", "));
    }
}

/// What is not as in the first table of the document, in which each difference has a reason.
fn unlike_the_document(found: &Differences) -> Option<String> {
    let documented = documented();
    let reasonless: Vec<_> = documented.iter().filter(|(_, why)| why.is_empty()).collect();
    assert!(reasonless.is_empty(), "without a reason: {reasonless:#?}");
    let unexplained: Vec<_> = found.keys().filter(|row| !documented.contains_key(*row)).collect();
    let gone: Vec<_> = documented.keys().filter(|row| !found.contains_key(*row)).collect();
    let is_alike = unexplained.is_empty() && gone.is_empty();
    (!is_alike).then(|| format!("new: {unexplained:#?}\ngone: {gone:#?}"))
}

/// The rows of the table: what, field, direct, through synwall; and why.
fn documented() -> BTreeMap<[String; 4], String> {
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let (_, section) = document.split_once("\n## synwall\n").expect("its heading");
    let table = section.lines().take_while(|line| !line.starts_with("## "));
    let rows = table.filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.skip(1)
        .map(|row| {
            let cells: Vec<_> = row.split(" | ").map(|cell| cell.trim().to_owned()).collect();
            let [what, field, direct, otherwise, why] = cells.try_into().expect("five columns");
            ([what, field, direct, otherwise], why)
        })
        .collect()
}

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/differential.md");
/// The server of the lab as an operator describes it: what is not said would be learned, the scale at the next key epoch.
const ALWAYS: &str = "mode = \"always\"";
const REQUEST: &[u8] = b"request";
const ANSWER: &[u8] = b"answer";
const PATIENCE: Duration = Duration::from_secs(8);
