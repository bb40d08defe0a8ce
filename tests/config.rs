//! The configuration: what is accepted, what is effective, and what exactly is said about a mistake.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests are tests")]

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use synwall::config::{Config, LogFormat, PlaneKind, PlaneMode, PlanePin};
use synwall::engine::policy::{Budgets, Limits, Mode, Prefix, ServerOptions, Threshold};

const BRIDGE: &str = "[bridge]\noutside = \"a\"\ninside = \"b\"\n";

/// The complaints about `text`, which follows the three lines of a good `[bridge]`.
fn complaints(text: &str) -> String {
    complaints_of_all(&format!("{BRIDGE}{text}"))
}

fn complaints_of_all(text: &str) -> String {
    Config::parse("synwall.toml", text).map(|_| ()).expect_err("accepted").to_string()
}

/// The complaint about one more line in a `[[service]]` that is otherwise good; the line is number 8.
fn service_complaint(line: &str) -> String {
    complaints(&format!("[[service]]\nname = \"web\"\naddress = \"198.18.0.1\"\nports = [80]\n{line}\n"))
}

#[test]
fn mistakes_in_a_service_are_named_with_line_and_column() {
    let table = [
        (
            "prots = [1]",
            "8:1: service \"web\": unknown key \"prots\"; known here: name, address, ports, mode, early_data, \
                         require_timestamps, mss, wscale, sack, timestamps, ecn, max_flows, max_half_open, activate_at, \
                         deactivate_at, min_active, syn_timeout, budgets, server_speaks_first, second_syn, \
                         reset_unknown, refuse_silent",
        ),
        (
            "mode = \"clever\"",
            "8:8: service \"web\": mode: \"clever\" is none of \"off\", \"monitor\", \"adaptive\", \"always\"",
        ),
        ("mode = 1", "8:8: service \"web\": mode: must be a string, not an integer"),
        ("early_data = 535", "8:14: service \"web\": early_data: 535 is out of range, 536 to 65535"),
        ("early_data = \"64KiB\"", "8:14: service \"web\": early_data: 64KiB is out of range, 536 to 65535"),
        (
            "early_data = \"1 KB\"",
            "8:14: service \"web\": early_data: \"1 KB\" is not a size; write octets, or for example \
                                  \"16KiB\" or \"64MiB\"",
        ),
        ("sack = \"yes\"", "8:8: service \"web\": sack: must be true or false, not a string"),
        ("wscale = 15", "8:10: service \"web\": wscale: 15 is out of range, 0 to 14"),
        ("wscale = -1", "8:10: service \"web\": wscale: -1 is out of range, 0 to 14"),
        (
            "wscale = \"no\"",
            "8:10: service \"web\": wscale: \"no\" is neither \"none\" nor an integer, 0 to 14",
        ),
        ("mss = 63", "8:7: service \"web\": mss: 63 is out of range, 64 to 65495"),
        ("max_flows = 0", "8:13: service \"web\": max_flows: 0 is out of range, 1 to 50000000"),
        (
            "max_flows = 1000001",
            "8:13: service \"web\": max_flows: 1000001 is more than limits.max_flows, 1000000",
        ),
        ("max_half_open = 0", "8:17: service \"web\": max_half_open: 0 is out of range, 1 to 4000000"),
        (
            "max_half_open = 65537",
            "8:17: service \"web\": max_half_open: 65537 is more than limits.max_half_open, 65536",
        ),
        (
            "require_timestamps = true\ntimestamps = false",
            "8:22: service \"web\": require_timestamps: needs timestamps = true: without timestamps no client could connect",
        ),
        (
            "activate_at.half_open = 100\ndeactivate_at = { half_open = 101, syn_rate = 1001 }",
            "9:17: service \"web\": deactivate_at: half_open: 101 is above activate_at.half_open, 100\n\
             synwall.toml:9:17: service \"web\": deactivate_at: syn_rate: 1001 is above activate_at.syn_rate, 1000",
        ),
        ("budgets = 1000", "8:11: service \"web\": budgets: must be a table, not an integer"),
        ("budgets.synack = 0", "8:18: service \"web\": budgets: synack: 0 is out of range, 1 to 1000000000"),
        (
            "budgets.syn = 1",
            "8:9: service \"web\": budgets: unknown key \"syn\"; known here: backend_syn, synack, syn_per_source, connections_per_source, reset",
        ),
        (
            "budgets.reset = \"none\"",
            "8:17: service \"web\": budgets: reset: \"none\" is neither \"unlimited\" nor an integer, 1 to 1000000000",
        ),
    ];
    for (line, complaint) in table {
        assert_eq!(service_complaint(line), format!("synwall.toml:{complaint}"), "{line}");
    }
}

#[test]
fn mistakes_in_ports_are_placed_at_the_entry() {
    let table = [
        ("[80, 70000]", "14: service \"web\": ports: 70000 is out of range, 1 to 65535"),
        ("[0]", "10: ... 0 is out of range, 1 to 65535"),
        ("[-5]", "10: ... -5 is out of range, 1 to 65535"),
        ("[0xffff_ffff_ffff_ffff_ff]", "10: ... 0xffffffffffffffffff is out of range, 1 to 65535"),
        ("[80, \"90-80\"]", "14: ... \"90-80\" runs backwards; write \"80-90\""),
        ("[\"1-65536\"]", "10: ... 65536 is out of range, 1 to 65535"),
        ("[\"http\"]", "10: ... \"http\" is neither a port nor a range such as \"8000-8099\""),
        ("[\"1-2-3\"]", "10: ... \"1-2-3\" is neither a port nor a range such as \"8000-8099\""),
        ("[\"+1-2\"]", "10: ... \"+1-2\" is neither a port nor a range such as \"8000-8099\""),
        ("[80.5]", "10: ... holds a float; write integers and ranges such as \"8000-8099\""),
        ("[]", "9: ... is empty; list ports, or write \"all\""),
        ("80", "9: ... must be a list such as [80, \"8000-8099\"], or \"all\", not an integer"),
        ("\"any\"", "9: ... must be a list such as [80, \"8000-8099\"], or \"all\", not a string"),
    ];
    for (ports, complaint) in table {
        let text = format!("[[service]]\nname = \"web\"\naddress = \"198.18.0.1\"\nports = {ports}\n");
        let complaint = complaint.replace("...", "service \"web\": ports:");
        assert_eq!(complaints(&text), format!("synwall.toml:7:{complaint}"), "{ports}");
    }
}

#[test]
fn addresses_that_no_server_can_have_are_refused() {
    let table = [
        (
            "198.18.3.7/24",
            "198.18.3.7/24 has host bits set; write 198.18.3.0/24 for the network or 198.18.3.7 for one address",
        ),
        (
            "2001:db8::1/32",
            "2001:db8::1/32 has host bits set; write 2001:db8::/32 for the network or 2001:db8::1 for one address",
        ),
        ("198.18.0.0/33", "\"198.18.0.0/33\" has a prefix length out of range, 0 to 32"),
        ("2001:db8::/129", "\"2001:db8::/129\" has a prefix length out of range, 0 to 128"),
        ("example.org", "\"example.org\" is not an IPv4 or IPv6 address or prefix"),
        ("::ffff:198.18.0.1", "::ffff:198.18.0.1 is an IPv4-mapped address; write 198.18.0.1"),
        ("::ffff:0:0/96", "::ffff:0:0/96 is an IPv4-mapped prefix; write the IPv4 prefix"),
        ("224.0.0.1", "224.0.0.1 is multicast, TCP has no multicast"),
        ("ff02::1", "ff02::1 is multicast, TCP has no multicast"),
        ("127.0.0.1", "127.0.0.1 is loopback, it never crosses a bridge"),
        ("::1", "::1 is loopback, it never crosses a bridge"),
        ("0.0.0.0", "0.0.0.0 is unspecified, no server has it"),
        ("::", ":: is unspecified, no server has it"),
        ("255.255.255.255", "255.255.255.255 is the broadcast address, no server has it"),
    ];
    for (address, complaint) in table {
        let text = format!("[[service]]\nname = \"web\"\naddress = \"{address}\"\nports = [80]\n");
        assert_eq!(complaints(&text), format!("synwall.toml:6:11: service \"web\": address: {complaint}"));
    }
}

#[test]
fn mistakes_outside_services_are_named_with_line_and_column() {
    let table = [
        (
            "[limit]\n",
            "4:2: unknown key \"limit\"; known here: bridge, limits, service, filter, cookie, state, attack, metrics, admin, log, plane",
        ),
        ("[limits]\nmax_flows = 0\n", "5:13: limits: max_flows: 0 is out of range, 1 to 50000000"),
        ("[limits]\nstartup_grace = \"2d\"\n", "5:17: limits: startup_grace: 2d is out of range, 0s to 1d"),
        (
            "[state]\ndirectory = \"state\"\n",
            "5:13: state: directory: \"state\" is neither an absolute path nor \"off\"",
        ),
        ("[state]\ndirectory = true\n", "5:13: state: directory: must be a string, not a boolean"),
        ("[state]\ncheckpoint = \"999ms\"\n", "5:14: state: checkpoint: 999ms is out of range, 1s to 1h"),
        (
            "[state]\ninterval = \"1s\"\n",
            "5:1: state: unknown key \"interval\"; known here: directory, checkpoint",
        ),
        ("[limits]\nmax_flows = 1.5\n", "5:13: limits: max_flows: must be an integer, not a float"),
        (
            "[limits]\nearly_data_total = \"1KiB\"\n",
            "5:20: limits: early_data_total: 1KiB is out of range, 64KiB to 64GiB",
        ),
        (
            "[limits]\ntime_wait = 120\n",
            "5:13: limits: time_wait: has no unit; write a string such as \"120s\" or \"120ms\"",
        ),
        (
            "[limits]\ntime_wait = \"2 min\"\n",
            "5:13: limits: time_wait: \"2 min\" is not a duration; write for example \"250ms\", \"32s\" or \"2h4m\"",
        ),
        ("[limits]\ntime_wait = \"0s\"\n", "5:13: limits: time_wait: 0s is out of range, 100ms to 1h"),
        (
            "[limits]\nestablished_timeout = \"31d\"\n",
            "5:23: limits: established_timeout: 31d is out of range, 1s to 30d",
        ),
        (
            "[limits]\nmax_flows = 10\nmax_flows_per_source = 11\n",
            "6:24: limits: max_flows_per_source: 11 is out of range, 1 to 10",
        ),
        (
            "[filter]\ndeny = [\"198.18.0.0/24\", \"198.18.0.1/24\"]\n",
            "5:26: filter: deny: 198.18.0.1/24 has host bits set; write 198.18.0.0/24 for the network or 198.18.0.1 for \
             one address",
        ),
        (
            "[filter]\ndeny = \"198.18.0.0/24\"\n",
            "5:8: filter: deny: must be a list such as [\"198.18.0.0/24\"], not a string",
        ),
        ("[filter]\nallow = [80]\n", "5:10: filter: allow: must be a string, not an integer"),
        (
            "[filter]\ndeny = [\"198.18.0.0/24\"]\nallow = [\"198.18.0.0/24\"]\n",
            "6:9: filter: allow: 198.18.0.0/24 is denied, too",
        ),
        ("[cookie]\nepoch = \"7s\"\n", "5:9: cookie: epoch: 7s is out of range, 8s to 1h"),
        ("[cookie]\nepoch = \"8s500ms\"\n", "5:9: cookie: epoch: 8s500ms is not whole seconds"),
        (
            "[cookie]\nkey_file = \"key\"\n",
            "5:12: cookie: key_file: \"key\" is neither an absolute path nor \"none\"",
        ),
        (
            "[attack]\nhook = [\"/a\", \"b\"]\nhooks = 1\n",
            "6:1: attack: unknown key \"hooks\"; known here: hook, hook_timeout",
        ),
        ("[attack]\nhook = [\"hook\"]\n", "5:9: attack: hook: \"hook\" is not an absolute path"),
        ("[attack]\nhook = [\"/a\", 1]\n", "5:15: attack: hook: must be a string, not an integer"),
        (
            "[attack]\nhook = [\"/a\", \"b\\u0000\"]\n",
            "5:15: attack: hook: \"b\\0\" holds a NUL, which no argument can",
        ),
        (
            "[attack]\nhook = []\n",
            "5:8: attack: hook: is empty; name a program by its absolute path, or write \"none\"",
        ),
        (
            "[attack]\nhook = \"/a\"\n",
            "5:8: attack: hook: must be a list such as [\"/etc/synwall/hook\", \"argument\"], or \"none\", not a string",
        ),
        ("[attack]\nhook_timeout = \"6m\"\n", "5:16: attack: hook_timeout: 6m is out of range, 1s to 5m"),
        (
            "[metrics]\nlisten = \"localhost\"\n",
            "5:10: metrics: listen: \"localhost\" is neither an address with port such as \"127.0.0.1:10910\" nor \"off\"",
        ),
        ("[metrics]\nlisten = \"[::1]:0\"\n", "5:10: metrics: listen: 0 is out of range, 1 to 65535"),
        (
            "[admin]\nsocket = \"admin.sock\"\n",
            "5:10: admin: socket: \"admin.sock\" is neither an absolute path nor \"off\"",
        ),
        ("[admin]\nport = 1\n", "5:1: admin: unknown key \"port\"; known here: socket"),
        (
            "[log]\nlevel = \"loud\"\n",
            "5:9: log: level: \"loud\" is none of \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
        ),
        ("[plane]\nkind = \"dpdk\"\n", "5:8: plane: kind: \"dpdk\" is none of \"auto\", \"pnet\", \"xdp\""),
        (
            "[plane]\nmode = \"skb\"\n",
            "5:8: plane: mode: \"skb\" is none of \"auto\", \"native\", \"generic\"",
        ),
        (
            "[plane]\npin = \"synwall\"\n",
            "5:7: plane: pin: \"synwall\" is neither an absolute path nor \"auto\" or \"none\"",
        ),
        (
            "[plane]\npin = \"/sys/fs/bpf/\"\n",
            "5:7: plane: pin: \"/sys/fs/bpf/\" is neither an absolute path nor \"auto\" or \"none\"",
        ),
        ("[plane]\npin = false\n", "5:7: plane: pin: must be a string, not a boolean"),
        ("[plane]\nworkers = 65\n", "5:11: plane: workers: 65 is out of range, 0 to 64"),
        ("[service]\nname = \"a\"\n", "4:1: service: must be written [[service]], not a table"),
        ("[[log]]\nlevel = \"info\"\n", "4:1: log: must be a table, not an array"),
    ];
    for (text, complaint) in table {
        assert_eq!(complaints(text), format!("synwall.toml:{complaint}"), "{text}");
    }
}

#[test]
fn the_bridge_needs_two_different_ports() {
    let table = [
        ("", "synwall.toml:1:1: bridge: outside is missing\nsynwall.toml:1:1: bridge: inside is missing"),
        ("[bridge]\noutside = \"a\"\n", "synwall.toml:1:1: bridge: inside is missing"),
        (
            "[bridge]\noutside = \"a\"\ninside = \"a\"\n",
            "synwall.toml:3:10: bridge: inside: \"a\" is the same interface as outside; a bridge needs two",
        ),
        (
            "[bridge]\noutside = \"a b\"\ninside = \"a\"\n",
            "synwall.toml:2:11: bridge: outside: \"a b\" is not the name of an interface",
        ),
        (
            "bridge = 1\n",
            "synwall.toml:1:10: bridge: must be a table, not an integer\n\
                          synwall.toml:1:10: bridge: outside is missing\nsynwall.toml:1:10: bridge: inside is missing",
        ),
    ];
    for (text, complaint) in table {
        assert_eq!(complaints_of_all(text), complaint, "{text}");
    }
}

#[test]
fn services_may_not_share_a_name_or_an_address_with_a_port() {
    let text = "
[[service]]
name = \"a\"
address = \"198.18.0.0/24\"
ports = [22, \"80-90\"]
[[service]]
name = \"a\"
address = \"198.18.0.9\"
ports = [85, 90]
";
    assert_eq!(
        complaints(text),
        "synwall.toml:10:8: service \"a\": name: is taken by an earlier service\n\
         synwall.toml:11:11: service \"a\": address: overlaps service \"a\": both protect 198.18.0.9 port 85"
    );
    for (name, complaint) in [
        ("", "\"\" is not a name: 1 to 64 letters, digits, \"_\", \".\" and \"-\""),
        ("ä", "\"ä\" is not a name: 1 to 64 letters, digits, \"_\", \".\" and \"-\""),
        ("-", "\"-\" is reserved for what belongs to no service"),
    ] {
        let text = format!("[[service]]\nname = \"{name}\"\naddress = \"198.18.0.1\"\nports = [80]\n");
        assert_eq!(complaints(&text), format!("synwall.toml:5:8: service #1: name: {complaint}"));
    }
    assert!(complaints(&format!("[[service]]\nname = \"{}\"\n", "x".repeat(65))).contains("is not a name"));
}

#[test]
fn at_most_256_services_are_accepted() {
    let services = |count: u32| -> String {
        (1..=count)
            .map(|port| {
                format!("[[service]]\nname = \"s{port}\"\naddress = \"198.18.0.1\"\nports = [{port}]\n")
            })
            .collect()
    };
    assert!(Config::parse("", &format!("{BRIDGE}{}", services(256))).is_ok());
    assert_eq!(complaints(&services(257)), "synwall.toml:1028:1: 257 services are too many, at most 256");
}

#[test]
fn every_mistake_is_reported_in_the_order_of_the_file() {
    let text =
        "[plane]\nworkers = 65\n[[service]]\nname = \"web\"\nports = [0]\nmode = \"x\"\n[log]\nlevle = 1\n";
    assert_eq!(
        complaints(text),
        "synwall.toml:5:11: plane: workers: 65 is out of range, 0 to 64\n\
         synwall.toml:6:1: service \"web\": address is missing\n\
         synwall.toml:8:10: service \"web\": ports: 0 is out of range, 1 to 65535\n\
         synwall.toml:9:8: service \"web\": mode: \"x\" is none of \"off\", \"monitor\", \"adaptive\", \"always\"\n\
         synwall.toml:11:1: log: unknown key \"levle\"; known here: level, format"
    );
}

#[test]
fn broken_toml_is_placed_too() {
    for (text, start) in [
        ("[bridge\n", "synwall.toml:1:"),
        ("[bridge]\noutside = \n", "synwall.toml:2:"),
        (
            "[log]\nlevel = \"info\"\nlevel = \"warn\"\n",
            "synwall.toml:3:1: duplicate key \"level\": it is there already; keep one",
        ),
        ("[log]\n[log]\n", "synwall.toml:2:2: duplicate key \"log\": it is there already; keep one"),
        (
            "a = { \"b\" = 1, b = 2 }\n",
            "synwall.toml:1:16: duplicate key \"b\": it is there already; keep one",
        ),
        ("a = \"", "synwall.toml:1:"),
    ] {
        let complaint = complaints_of_all(text);
        assert!(complaint.starts_with(start), "{text:?}: {complaint}");
    }
    // Deep nesting is refused, not followed until the stack ends.
    assert!(complaints_of_all(&format!("a = {}", "[".repeat(100_000))).starts_with("synwall.toml:1:"));
}

#[test]
fn what_is_not_said_has_the_engines_defaults() {
    let text = format!("{BRIDGE}[[service]]\nname = \"web\"\naddress = \"198.18.0.1\"\nports = [80]\n");
    let config = Config::parse("", &text).unwrap();
    assert_eq!(config.limits, Limits::default());
    let service = &config.services[0];
    assert_eq!(
        (service.mode, service.early_data, service.require_timestamps),
        (Mode::Adaptive, 14_600, false)
    );
    assert_eq!(
        (service.activate_at, service.deactivate_at),
        (Threshold { half_open: 256, syn_rate: 1_000 }, Threshold { half_open: 128, syn_rate: 500 })
    );
    assert_eq!((service.min_active, service.syn_timeout), (Duration::from_secs(60), Duration::from_secs(20)));
    assert_eq!(service.budgets, Budgets::default());
    assert_eq!(service.server, ServerOptions::default());
    assert_eq!(service.max_flows, Limits::default().max_flows);
    assert_eq!(service.max_half_open, Limits::default().max_half_open);
    assert_eq!(config.cookie.epoch, Duration::from_secs(32));
    assert_eq!(config.metrics.listen, Some("127.0.0.1:10910".parse().unwrap()));
    assert_eq!(config.admin.socket, Some(PathBuf::from("/run/synwall/admin.sock")));
}

#[test]
fn every_key_is_effective() {
    let text = "
[bridge]
outside = 'eth0'
inside = 'eth1.5'
[[service]]
name = 'x'
address = '2001:db8::/32'
ports = [1, '5-7']
mode = 'monitor'
early_data = '16KiB'
require_timestamps = true
mss = 1400
wscale = 'none'
sack = false
timestamps = true
ecn = true
max_flows = 20
max_half_open = 5
server_speaks_first = true
second_syn = false
reset_unknown = true
refuse_silent = true
activate_at = { half_open = 300, syn_rate = 2_000 }
deactivate_at = { half_open = 299, syn_rate = 1 }
min_active = '5m'
syn_timeout = '1500ms'
budgets = { synack = 'unlimited', syn_per_source = 1, connections_per_source = 2, backend_syn = 1_000_000_000, reset = 7 }
[limits]
max_flows = 1_000
max_half_open = 0x10
max_flows_per_source = 1_000
max_half_open_per_source = 3
early_data_total = '1MiB'
established_timeout = '1s'
half_closed_timeout = '2s'
closing_timeout = '3s'
time_wait = '4s'
reset_timeout = '5s'
refused_timeout = '60ms'
startup_grace = '0s'
reset_expired = true
[filter]
deny = ['198.18.0.0/16', '2001:db8::/32', '0.0.0.0/0']
allow = ['198.18.0.7']
[cookie]
epoch = '8s'
key_file = '/k'
[state]
directory = 'off'
checkpoint = '1m'
[attack]
hook = ['/h', 'a \"b\"']
hook_timeout = '1s'
[metrics]
listen = 'off'
[admin]
socket = '/s'
[log]
level = 'trace'
format = 'json'
[plane]
kind = 'pnet'
mode = 'generic'
pin = '/sys/fs/bpf/x'
workers = 64
";
    let config = Config::parse("", text).unwrap();
    let service = &config.services[0];
    assert_eq!(service.ports.ranges(), [(1, 1), (5, 7)]);
    assert_eq!(service.prefix.to_string(), "2001:db8::/32");
    assert_eq!((service.mode, service.early_data, service.max_half_open), (Mode::Monitor, 16_384, 5));
    assert_eq!(service.max_flows, 20);
    assert_eq!(
        service.server,
        ServerOptions { mss: Some(1400), wscale: None, sack: false, timestamps: true, ecn: true }
    );
    let seconds = Duration::from_secs;
    let limits = Limits {
        max_flows: 1000,
        max_half_open: 16,
        max_flows_per_source: 1000,
        max_half_open_per_source: 3,
        early_data_total: 1 << 20,
        established: seconds(1),
        half_closed: seconds(2),
        closing: seconds(3),
        time_wait: seconds(4),
        reset: seconds(5),
        refused: Duration::from_millis(60),
        startup_grace: Duration::ZERO,
        reset_expired: true,
    };
    assert_eq!(config.limits, limits);
    assert!(
        service.server_speaks_first && !service.second_syn && service.reset_unknown && service.refuse_silent
    );
    let rate = NonZeroU32::new;
    let budgets = Budgets {
        synack: None,
        syn_per_source: rate(1),
        connections_per_source: rate(2),
        backend_syn: rate(1_000_000_000),
        reset: rate(7),
    };
    assert_eq!(service.activate_at, Threshold { half_open: 300, syn_rate: 2_000 });
    assert_eq!(service.deactivate_at, Threshold { half_open: 299, syn_rate: 1 });
    assert_eq!((service.min_active, service.syn_timeout), (seconds(300), Duration::from_millis(1500)));
    assert_eq!(service.budgets, budgets);
    let shown = |prefixes: &[Prefix]| prefixes.iter().map(Prefix::to_string).collect::<Vec<_>>();
    assert_eq!(shown(&config.filter.deny), ["198.18.0.0/16", "2001:db8::/32", "0.0.0.0/0"]);
    assert_eq!(shown(&config.filter.allow), ["198.18.0.7/32"]);
    assert_eq!((config.state.directory.clone(), config.state.checkpoint), (None, seconds(60)));
    let hook = config.attack.hook().unwrap();
    assert_eq!(
        (hook.program, hook.arguments, hook.timeout),
        ("/h".into(), vec!["a \"b\"".to_owned()], seconds(1))
    );
    assert_eq!(config.cookie.key_file, Some(PathBuf::from("/k")));
    assert_eq!(config.admin.socket, Some(PathBuf::from("/s")));
    assert_eq!((config.metrics.listen, config.log.format, config.plane.workers), (None, LogFormat::Json, 64));
    assert_eq!(config.plane.kind, PlaneKind::Pnet);
    assert_eq!(config.plane.mode, PlaneMode::Generic);
    assert_eq!(config.plane.pin, PlanePin::At(PathBuf::from("/sys/fs/bpf/x")));
    let shown = config.to_toml();
    assert!(
        !shown.contains("true                                     # default"),
        "nothing here is a default: {shown}"
    );
    assert_eq!(Config::parse("", &shown).unwrap(), config);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let complaint = |path: &Path| Config::load(path).unwrap_err().to_string();
    assert_eq!(
        complaint(Path::new("/nonexistent/x.toml")),
        "/nonexistent/x.toml: cannot be read: No such file or directory (os error 2): begin with a copy of \
         config/synwall.toml, or name another file by --config FILE"
    );
    assert_eq!(complaint(Path::new("/")), "/: cannot be read: Is a directory (os error 21)");
    assert_eq!(
        complaint(Path::new("/dev/zero")),
        "/dev/zero: is longer than 1048576 octets; no configuration needs that"
    );
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("latin1.toml");
    std::fs::write(&path, b"# ok\n# caf\xe9\n").unwrap();
    assert_eq!(complaint(&path), format!("{}:2:6: is not UTF-8 text", path.display()));
}

#[test]
fn every_file_in_config_loads_and_reads_back_as_it_is_shown() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut files: Vec<PathBuf> = [root.clone(), root.join("examples")]
        .iter()
        .flat_map(|directory| std::fs::read_dir(directory).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 5);
    for file in files {
        let config = Config::load(&file).unwrap_or_else(|error| panic!("{error}"));
        let shown = config.to_toml();
        let again = Config::parse("shown", &shown).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again, config, "{}", file.display());
        assert_eq!(again.to_toml(), shown, "{}", file.display());
        assert!(config.policy(1500).is_ok());
    }
}

/// The commented keys of `synwall.toml` are every key there is, with the defaults that are in effect.
#[test]
fn the_commented_file_shows_every_key_with_its_default() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/synwall.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let uncommented: String = text
        .lines()
        .map(|line| {
            match line.strip_prefix("# ").and_then(|rest| rest.split_once(" = ").map(|(key, _)| (key, rest)))
            {
                Some((key, rest))
                    if key
                        .bytes()
                        .all(|octet| octet.is_ascii_lowercase() || octet == b'_' || octet == b'.') =>
                {
                    rest
                }
                _ => line,
            }
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let plain = Config::load(&file).unwrap();
    assert_eq!(Config::parse("uncommented", &uncommented).unwrap_or_else(|error| panic!("{error}")), plain);
    for line in plain.to_toml().lines().filter(|line| !line.starts_with('#')) {
        let Some((key, _)) = line.split_once(" = ") else { continue };
        assert!(uncommented.contains(&format!("\n{key} = ")), "{key} is not in {}", file.display());
    }
}
