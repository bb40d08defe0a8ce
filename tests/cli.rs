//! The program as an operator meets it: exit statuses, what it says, and that it leaves the host as it was.
//!
//! What needs interfaces runs in a user and network namespace of its own (`unshare -rn`), as any user may.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests are tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SYNWALL: &str = env!("CARGO_BIN_EXE_synwall");

/// A directory of this test's own.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn synwall(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(SYNWALL).current_dir(directory).args(arguments).output().unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().expect("ended by itself")
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).unwrap()
}

/// A good configuration with ports that do not exist, followed by `more`.
fn configuration(more: &str) -> String {
    format!("[bridge]\noutside = \"no-such-if0\"\ninside = \"no-such-if1\"\n{more}")
}

#[test]
fn usage_errors_end_with_2_and_help_with_0() {
    let directory = directory("usage");
    for wrong in [
        &["runn"][..],
        &[],
        &["run", "--cofnig", "x"],
        &["check-config", "--config"],
        &["block"],
        &["block", "198.18.0.1", "--for", "10"],
        &["block", "198.18.0.1", "--for", "1500ms"],
        &["block", "198.18.0.1", "--for", "0s"],
        &["block", "198.18.0.1", "--for", "366d"],
        &["mode", "web", "on"],
        &["mode", "web"],
        &["flows", "--state", "open"],
        &["flows", "--limit", "many"],
        &["completions", "tcsh"],
        &["run", "--json"],
    ] {
        assert_eq!(status(&synwall(&directory, wrong)), 2, "{wrong:?}");
    }
    let too_long = synwall(&directory, &["block", "198.18.0.1", "--for", "366d"]);
    let said = text(&too_long.stderr);
    assert!(
        said.contains("366d is out of range, 1s to 365d in whole seconds; without --for it lasts"),
        "{said}"
    );
    let version = synwall(&directory, &["--version"]);
    assert_eq!(
        (status(&version), text(&version.stdout)),
        (0, format!("synwall {}\n", env!("CARGO_PKG_VERSION")))
    );
    let help = synwall(&directory, &["--help"]);
    assert_eq!(status(&help), 0);
    let commands = "run check-config show-config doctor detach status top flows attacks block unblock blocks mode completions man";
    for word in commands.split(' ').chain(["--config", "78"]) {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
}

#[test]
fn bad_configurations_end_with_78_whatever_the_command() {
    let directory = directory("bad");
    let services = "[[service]]\nname = \"a\"\naddress = \"198.18.0.0/24\"\nports = [80]\n\
                    [[service]]\nname = \"b\"\naddress = \"198.18.0.1\"\nports = \"all\"\n";
    let table = [
        (
            "unknown.toml",
            configuration("[bridges]\n"),
            "unknown.toml:4:2: unknown key \"bridges\"; known here: bridge, limits, service, filter, cookie, state, attack, metrics, admin, log, plane\n",
        ),
        (
            "overlap.toml",
            configuration(services),
            "overlap.toml:10:11: service \"b\": address: overlaps service \"a\": both protect 198.18.0.1 port 80\n",
        ),
        (
            "twice.toml",
            "[bridge]\noutside = \"a\"\ninside = \"a\"\n".to_owned(),
            "twice.toml:3:10: bridge: inside: \"a\" is the same interface as outside; a bridge needs two\n",
        ),
    ];
    for (file, content, complaint) in table {
        std::fs::write(directory.join(file), content).unwrap();
        for command in [
            "run",
            "check-config",
            "show-config",
            "doctor",
            "detach",
            "status",
            "top",
            "flows",
            "attacks",
            "blocks",
        ] {
            let output = synwall(&directory, &[command, "--config", file]);
            assert_eq!((status(&output), text(&output.stderr).as_str()), (78, complaint), "{command}");
            assert!(output.stdout.is_empty());
        }
    }
    let output = synwall(&directory, &["--config", "none.toml", "run"]);
    let complaint = "none.toml: cannot be read: No such file or directory (os error 2): begin with a copy of \
                     config/synwall.toml, or name another file by --config FILE\n";
    assert_eq!((status(&output), text(&output.stderr).as_str()), (78, complaint));
}

#[test]
fn check_config_says_ok_and_show_config_is_a_fixed_point() {
    let directory = directory("good");
    let service = "[[service]]\nname = \"web\"\naddress = \"198.18.0.1\"\nports = [80, \"90-99\"]\nearly_data = \"16KiB\"\n";
    std::fs::write(directory.join("good.toml"), configuration(service)).unwrap();
    let output = synwall(&directory, &["check-config", "--config", "good.toml"]);
    assert_eq!((status(&output), text(&output.stdout).as_str()), (0, "good.toml: ok\n"));
    let first = synwall(&directory, &["show-config", "--config", "good.toml"]);
    assert_eq!(status(&first), 0);
    let shown = text(&first.stdout);
    let line = |line: &str| {
        shown.lines().any(|found| found.split_whitespace().collect::<Vec<_>>().join(" ") == line)
    };
    assert!(line("early_data = \"16KiB\" # file") && line("mode = \"adaptive\" # default"), "{shown}");
    std::fs::write(directory.join("shown.toml"), &first.stdout).unwrap();
    assert_eq!(status(&synwall(&directory, &["check-config", "--config", "shown.toml"])), 0);
    let second = synwall(&directory, &["show-config", "--config", "shown.toml"]);
    assert_eq!(text(&second.stdout), shown);
}

#[test]
fn a_synwall_that_is_not_there_is_named_with_what_to_do() {
    let directory = directory("unreachable");
    let socket = directory.join("admin.sock");
    let _ = std::fs::remove_file(&socket);
    std::fs::write(directory.join("x.toml"), configuration(&format!("[admin]\nsocket = {socket:?}\n")))
        .unwrap();
    let said = |words: &[&str]| {
        let output = synwall(&directory, &[words, &["--config", "x.toml"]].concat());
        assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
        (status(&output), text(&output.stderr))
    };
    let missing = format!(
        "synwall cannot be reached at {}: No such file or directory (os error 2): is it running? `systemctl status synwall` tells; if its [admin] socket is elsewhere, name it with --socket\n",
        socket.display()
    );
    assert_eq!(said(&["status"]), (2, missing.clone()));
    assert_eq!(said(&["status", "--json"]), (2, missing.clone()));
    for words in [
        &["flows"][..],
        &["attacks"],
        &["blocks"],
        &["block", "198.18.3.0/24", "--for", "10m"],
        &["unblock", "198.18.3.0/24"],
        &["mode", "web", "always"],
    ] {
        assert_eq!(said(words), (1, missing.clone()), "{words:?}");
    }
    assert_eq!(said(&["mode", "web/../..", "always"]), (1, "no service \"web/../..\"\n".to_owned()));
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let (code, complaint) = said(&["status"]);
    assert!(code == 2 && complaint.contains("the synwall that made it has ended"), "{complaint}");
    // A named socket needs no configuration.
    let output = synwall(&directory, &["status", "--socket", "other.sock", "--config", "none.toml"]);
    assert!(
        status(&output) == 2 && text(&output.stderr).starts_with("synwall cannot be reached at other.sock: ")
    );
    let top = synwall(&directory, &["top", "--socket", "other.sock"]);
    assert_eq!(
        (status(&top), text(&top.stderr)),
        (1, "top needs a terminal; `synwall status --json` is for programs\n".to_owned())
    );
    std::fs::write(directory.join("off.toml"), configuration("[admin]\nsocket = \"off\"\n")).unwrap();
    let output = synwall(&directory, &["status", "--config", "off.toml"]);
    let complaint = "off.toml says that there is no admin socket: set [admin] socket, and restart synwall\n";
    assert_eq!((status(&output), text(&output.stderr).as_str()), (2, complaint));
}

/// A non-blocking connect fails (EAGAIN) while a listener's queue is full; that is no synwall that is not there.
#[test]
fn a_synwall_with_many_others_waiting_is_waited_for() {
    let directory = directory("queue");
    let socket = directory.join("admin.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let _first = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let output = synwall(&directory, &["status", "--socket", "admin.sock"]);
    assert_eq!(status(&output), 2);
    let said = text(&output.stderr);
    assert!(said.contains("did not answer within 5 s"), "{said}");
}

#[test]
fn what_answers_in_a_foreign_tongue_is_not_taken_for_synwall() {
    let directory = directory("foreign");
    let socket = directory.join("foreign.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for (stream, answer) in
            listener.incoming().zip(["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "SSH-2.0-x\r\n"])
        {
            let mut stream = stream.unwrap();
            // Read first, or the answer comes before its request.
            std::io::Read::read(&mut stream, &mut [0; 1024]).unwrap();
            std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
        }
    });
    for _ in 0..2 {
        let output = synwall(&directory, &["status", "--socket", "foreign.sock"]);
        let said = text(&output.stderr);
        assert!(
            status(&output) == 2
                && said.starts_with("what answers at foreign.sock is not this version of synwall: "),
            "{said}"
        );
    }
}

#[test]
fn completions_and_manual_pages_come_from_the_command_line_itself() {
    let directory = directory("manual");
    for shell in ["bash", "zsh", "fish"] {
        let output = synwall(&directory, &["completions", shell, "--config", "none.toml"]);
        let script = text(&output.stdout);
        assert_eq!(status(&output), 0);
        assert!(
            ["check-config", "unblock", "half_closed"].iter().all(|word| script.contains(word)),
            "{shell}: {script}"
        );
        if shell == "bash" {
            std::fs::write(directory.join("synwall.bash"), &script).unwrap();
            let checked =
                Command::new("bash").arg("-n").arg(directory.join("synwall.bash")).output().unwrap();
            assert!(checked.status.success(), "{}", text(&checked.stderr));
        }
    }
    let page = synwall(&directory, &["man", "--config", "none.toml"]);
    let page = text(&page.stdout);
    assert!(page.lines().any(|line| line.starts_with(".TH synwall 1 ")), "{page}");
    assert!(page.contains("synwall\\-check\\-config(1)") && page.contains("Exit status"), "{page}");
    let pages = directory.join("pages");
    std::fs::create_dir_all(&pages).unwrap();
    assert_eq!(status(&synwall(&directory, &["man", "pages"])), 0);
    for name in ["synwall", "synwall-run", "synwall-status", "synwall-block", "synwall-man"] {
        let page = std::fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
        assert!(page.contains(&format!(".TH {name} 1 ")), "{name}: {page}");
    }
    let nowhere = synwall(&directory, &["man", "nowhere"]);
    let said = text(&nowhere.stderr);
    assert!(
        status(&nowhere) == 1
            && said
                == "nowhere: manual pages cannot be written: No such file or directory (os error 2): make it first, \
                    `mkdir -p nowhere`\n",
        "{said}"
    );
}

#[test]
fn run_and_doctor_name_a_missing_interface_and_end_with_1() {
    let directory = directory("missing");
    std::fs::write(directory.join("missing.toml"), configuration("")).unwrap();
    let run = synwall(&directory, &["run", "--config", "missing.toml"]);
    let said = text(&run.stderr);
    assert_eq!(status(&run), 1, "{said}");
    assert!(
        said.contains("outside port no-such-if0: no such interface: set [bridge] outside to one of: "),
        "{said}"
    );
    assert!(said.contains("inside port no-such-if1: no such interface: "), "{said}");
    assert!(
        said.contains("nothing was changed") && !said.contains('\x1b') && !said.contains("panic"),
        "{said}"
    );
    let doctor = synwall(&directory, &["doctor", "--config", "missing.toml"]);
    let said = text(&doctor.stdout);
    assert_eq!(status(&doctor), 1, "{said}");
    assert!(said.lines().all(|line| line.starts_with("ok   ") || line.starts_with("fix  ")), "{said}");
    assert!(said.contains("\nfix  outside port no-such-if0: no such interface: "), "{said}");
}

#[test]
fn json_logs_are_an_object_a_line() {
    let directory = directory("json");
    std::fs::write(directory.join("json.toml"), configuration("[log]\nformat = \"json\"\n")).unwrap();
    let output = synwall(&directory, &["run", "--config", "json.toml"]);
    let said = text(&output.stderr);
    assert!(
        said.lines().count() >= 3 && said.lines().all(|line| line.starts_with('{') && line.ends_with('}')),
        "{said}"
    );
    assert!(
        said.contains("\"level\":\"ERROR\"") && said.contains("\"message\":\"outside port no-such-if0: "),
        "{said}"
    );
}

#[test]
fn run_without_privileges_says_what_is_missing() {
    let directory = directory("unprivileged");
    std::fs::write(directory.join("x.toml"), configuration("")).unwrap();
    // Whoever runs the tests, without a single capability.
    let is_root = text(&Command::new("id").arg("-u").output().unwrap().stdout).trim() == "0";
    let mut command = if is_root { Command::new("setpriv") } else { Command::new(SYNWALL) };
    if is_root {
        command.args(["--bounding-set", "-all", "--", SYNWALL]);
    }
    let output = command.current_dir(&directory).args(["run", "--config", "x.toml"]).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(status(&output), 1, "{said}");
    assert!(said.contains("privileges: CAP_NET_RAW and CAP_NET_ADMIN missing: run as root, or "), "{said}");
}

/// Runs `script` in bash, with two veth pairs (a0-a1, b0-b1) in a namespace of their own; `a1` and `b1` are the ports.
/// What it prints. Each line that it says is checked must not fail.
fn in_namespace(name: &str, script: &str) -> String {
    in_namespaces("-rn", name, script)
}

/// The same in the namespaces that unshare(1) makes with `options`.
fn in_namespaces(options: &str, name: &str, script: &str) -> String {
    let directory = directory(name);
    let prelude = format!("{PRELUDE}{script}");
    let output = Command::new("unshare")
        .args([options, "bash", "-euc", &prelude])
        .env("SYNWALL", SYNWALL)
        .current_dir(&directory)
        .output()
        .expect("unshare is needed for this test (package util-linux)");
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}");
    said
}

const PRELUDE: &str = r#"
for pair in a b; do ip link add name ${pair}0 type veth peer name ${pair}1; done
ip link set lo up
for port in a0 a1 b0 b1; do
    echo 1 > /proc/sys/net/ipv6/conf/$port/disable_ipv6
    ip link set $port up
done
cat > synwall.toml <<X
[bridge]
outside = "a1"
inside = "b1"
[[service]]
name = "web"
address = "198.18.0.1"
ports = [80]
[plane]
workers = 2
[state]
directory = "$PWD/state"
[admin]
socket = "$PWD/admin.sock"
X
host() { ip -details address; ethtool -k a1; ethtool -k b1; }
http() { exec 3<>/dev/tcp/127.0.0.1/10910; printf 'GET %s HTTP/1.1\r\nHost: x\r\n\r\n' "$1" >&3; cat <&3; exec 3>&-; }
ready() { for _ in $(seq 100); do http /readyz 2>&1 | grep -q '"ready":true' && return 0; sleep 0.1; done; return 1; }
run() { timeout 20 "$SYNWALL" run --config synwall.toml; }
fails() { code=0; "$@" || code=$?; test $code = 1 || { echo "exit status $code, not 1"; exit 1; }; }
"#;

#[test]
fn bad_ports_are_refused_and_the_host_is_left_as_it_was() {
    let said = in_namespace(
        "ports",
        r#"
        refused() { host > before; fails run; host > after; diff before after; }
        ip link set b1 down; refused; ip link set b1 up
        ip address add 198.18.9.1/24 dev a1 label a1:x; refused; ip address flush dev a1
        ip link set a1 mtu 1400; "$SYNWALL" doctor --config synwall.toml || true; ip link set a1 mtu 1500
        ip link add name br type bridge; ip link set b1 master br; refused; ip link set b1 nomaster
        echo 0 > /proc/sys/net/ipv6/conf/b1/disable_ipv6; refused; fails "$SYNWALL" doctor --config synwall.toml
        echo 1 > /proc/sys/net/ipv6/conf/b1/disable_ipv6
        sed -i 's/inside = "b1"/inside = "lo"/' synwall.toml; refused
        "#,
    );
    for complaint in [
        "inside port b1: down: bring it up with `ip link set b1 up`",
        "outside port a1: has the address 198.18.9.1: remove it with `ip addr flush dev a1`",
        "ok   MTU: 1400 outside and 1500 inside: connections get an MSS that fits both, other packets that are too big are reported to their senders",
        "inside port b1: belongs to the bridge br, which would carry frames past synwall: release it with `ip link set b1 nomaster`",
        "fix  inside port b1: has the address fe80::",
        "turn IPv6 off with `sysctl -w net.ipv6.conf.b1.disable_ipv6=1`, or remove it",
        "inside port lo: not Ethernet (link type 772)",
    ] {
        assert!(said.contains(complaint), "{complaint}: {said}");
    }
}

#[test]
fn run_serves_reloads_and_stops_and_the_host_is_left_as_it_was() {
    let said = in_namespace(
        "run",
        r#"
        "$SYNWALL" doctor --config synwall.toml
        host > before
        "$SYNWALL" run --config synwall.toml & pid=$!
        trap 'kill -KILL $pid 2>/dev/null || true' EXIT
        ready
        # A second one is kept from the same ports, and a third from the same address.
        sed '$a [metrics]\nlisten = "off"' synwall.toml | sed 's/admin.sock/second.sock/' > second.toml
        fails timeout 20 "$SYNWALL" run --config second.toml
        ip link add name c1 type veth peer name c0; ip link add name d1 type veth peer name d0
        for port in c0 c1 d0 d1; do echo 1 > /proc/sys/net/ipv6/conf/$port/disable_ipv6; ip link set $port up; done
        sed 's/"a1"/"c1"/; s/"b1"/"d1"/' synwall.toml > third.toml
        fails timeout 20 "$SYNWALL" run --config third.toml
        ip link delete c1; ip link delete d1
        # Nor does one take the socket of another.
        for pair in e f; do ip link add name ${pair}0 type veth peer name ${pair}1; done
        for port in e0 e1 f0 f1; do echo 1 > /proc/sys/net/ipv6/conf/$port/disable_ipv6; ip link set $port up; done
        sed 's/"a1"/"e1"/; s/"b1"/"f1"/; $a [metrics]\nlisten = "off"' synwall.toml > fourth.toml
        fails timeout 20 "$SYNWALL" run --config fourth.toml
        ip link delete e1; ip link delete f1
        operate() { "$SYNWALL" "$@" --config synwall.toml; }
        ends() { code=0; wanted=$1; shift; operate "$@" || code=$?; test $code = $wanted || { echo "exit status $code, not $wanted"; exit 1; }; }
        ends 0 status
        ends 0 block 198.18.3.0/24 --for 1h; operate blocks --json
        ends 0 mode web always; ends 0 mode web configured; ends 1 mode wbe off
        # A port without carrier is not ready, and recovers.
        ip link set b0 down
        for _ in $(seq 50); do http /readyz | grep -q '"inside_up":false' && break; sleep 0.1; done
        http /readyz | grep '503 Service Unavailable'
        ends 2 status
        ip link set b0 up; ready
        # A bad file changes nothing, a good one does.
        kept=$(cat synwall.toml)
        reload() { kill -HUP $pid; sleep 0.5; }
        echo "[nonsense]" >> synwall.toml; reload
        http /metrics | grep '^synwall_config_reload_success 0'
        code=0; "$SYNWALL" status --socket admin.sock || code=$?; test $code = 1
        http /metrics | grep 'synwall_mode{service="web",mode="adaptive"} 1'
        echo "$kept" | sed 's/ports = \[80\]/ports = [80]\nmode = "monitor"/' > synwall.toml; reload
        http /metrics | grep '^synwall_config_reload_success 1'
        http /metrics | grep 'synwall_mode{service="web",mode="monitor"} 1'
        echo "$kept" | sed 's/workers = 2/workers = 3/' > synwall.toml; reload
        http /metrics | grep '^synwall_workers 2'
        operate blocks | grep -E '198.18.3.0/24 .* for (1h0m|59m|58m)'
        kill -TERM $pid
        wait $pid
        sleep 0.1; host > after; diff before after; test ! -e admin.sock
        "#,
    );
    for line in [
        "synwall runs version=",
        "port a1 belongs to another synwall that runs",
        "metrics: 127.0.0.1:10910 is in use",
        "/admin.sock is in use by another synwall: stop that one, or give each its own [admin] socket",
        ": healthy, up ",
        "198.18.3.0/24 is blocked for 1h0m",
        "{\"blocks\":[{\"prefix\":\"198.18.3.0/24\",\"remaining_seconds\":3",
        "web: always until a restart; the configuration says adaptive",
        "web: adaptive, as configured",
        "no service \"wbe\"; there are: web",
        "problem: port inside (b1) is down",
        "problem: the last reload failed and changed nothing: the log says why",
        "configuration not reloaded, nothing changed: synwall.toml:14:2: unknown key \"nonsense\"",
        "configuration reloaded services=1",
        "configuration not reloaded, nothing changed: [plane] workers changed, which takes a restart: \
         restart synwall, or take that back and reload",
        "stopping signal=\"SIGTERM\"",
        "stopped received=",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("fix  "), "doctor finds nothing: {said}");
}

#[test]
fn doctor_tries_the_xdp_program_and_detach_keeps_to_what_synwall_left() {
    // As root: no user namespace may load a program.
    let said = in_namespaces(
        "-n",
        "plane",
        r#"
        "$SYNWALL" doctor --config synwall.toml
        sed 's/workers = 2/kind = "xdp"/' synwall.toml > xdp.toml
        sed 's/workers = 2/kind = "xdp"\npin = "\/run\/synwall"/' synwall.toml > elsewhere.toml
        "$SYNWALL" doctor --config xdp.toml
        fails "$SYNWALL" doctor --config elsewhere.toml
        "$SYNWALL" detach --config xdp.toml
        mkdir -p "$PWD/mistyped"; touch "$PWD/mistyped/file"
        sed "s|workers = 2|pin = \"$PWD/mistyped\"|" synwall.toml > mistyped.toml
        fails "$SYNWALL" detach --config mistyped.toml
        test -e "$PWD/mistyped/file"
        "#,
    );
    for line in [
        "ok   plane: pnet: a1 (veth) has no hardware behind it",
        "ok   plane: xdp: the kernel takes the program; kept in /sys/fs/bpf/synwall-a1; whether",
        "fix  plane: xdp: /run: there is no bpffs; mount a bpffs there, or set [plane] pin, or set [plane] kind",
        "nothing to remove",
        "/mistyped cannot be removed: it is not in a bpffs",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[test]
fn key_files_open_to_others_are_refused() {
    let said = in_namespace(
        "key",
        r#"
        printf '%064d\n' 7 > key; chmod 640 key
        printf '[cookie]\nkey_file = "%s/key"\n' "$PWD" >> synwall.toml
        mv key away; fails run; mv away key
        fails run
        fails "$SYNWALL" doctor --config synwall.toml
        chmod 600 key
        "$SYNWALL" doctor --config synwall.toml
        echo 1234 > key
        fails run
        "#,
    );
    assert!(said.contains("is open to others (mode 0640); close it with `chmod 600 "), "{said}");
    assert!(said.contains("/key is not there; make one with `(umask 077; openssl rand -hex 32 > "), "{said}");
    assert!(said.contains("holds neither 64 hexadecimal digits nor 32 octets"), "{said}");
    assert!(!said.contains("1234") && !said.contains("00000000"), "no secret is printed: {said}");
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let said = in_namespace(
        "unread",
        r#"
        "$SYNWALL" run --config synwall.toml 2> >(exec sleep 0.2) & pid=$!
        trap 'kill -KILL $pid 2>/dev/null || true' EXIT
        ready; sleep 0.5
        ip link set b0 down; sleep 0.5; ip link set b0 up; ready
        kill -HUP $pid; sleep 0.5; ready
        http /metrics | grep '^synwall_workers 2'
        kill -TERM $pid
        wait $pid
        "#,
    );
    assert!(said.contains("synwall_workers 2"), "{said}");
}
