"""What stands in the box. A context manager each: inside, the box is as that peer has it."""

import contextlib
import pathlib
import re
import shutil
import time

from .lab import BOX_NICE, CLIENTS, LOAD, SYNWALL, Failure

CONFIG = """
[bridge]
outside = "outside"
inside = "inside"
[[service]]
name = "web"
address = "198.18.255.2"
ports = [80, 5201]
mode = "always"
{budgets}
[[service]]
name = "web6"
address = "2001:db8:255::2"
ports = [80, 5201]
mode = "always"
{budgets}
[limits]
max_flows = {max_flows}
[state]
directory = "{state}"
[metrics]
listen = "127.0.0.1:10910"
[admin]
socket = "off"
[plane]
workers = {workers}
{plane}
"""

# Pins would outlive the process, and the next one would find its flows.
PLANES = {"pnet": 'kind = "pnet"', "xdp": 'kind = "xdp"\nmode = "native"\npin = "none"'}

# They are charged for every SYN, and never used up: what is measured is the plane and not the limit.
BUDGETS = "budgets.synack = 1000000000\nbudgets.syn_per_source = 1000000000"


class Peer:
    """A box that is nothing but its configuration: `box` as `lab box` takes it, and maybe a bare program."""

    mac = "02:53:57:00:00:02"
    processes = ()

    def __init__(self, lab, name, box, program=None):
        self.lab, self.name, self.box, self.program = lab, name, box, program
        self.is_slow = program is None
        if box == "synproxy":  # A router: what is for the server goes to it.
            self.mac = "02:53:57:00:00:f0"

    @contextlib.contextmanager
    def standing(self, is_alone=True, flows=0):
        self.introduce()
        if self.program:
            self.lab.hold("box", self.program)
        try:
            yield self
        finally:
            if self.program:
                self.lab.release("box", self.program)

    def introduce(self):
        """Changes the box, and tells all who their neighbours are: their answers would be lost in a flood. No peer
        inherits what the server keeps in TIME-WAIT of the one before."""
        self.lab.reset()
        self.lab("exec", "server", "ss", "--kill", "--tcp", "state", "time-wait")
        self.lab("box", self.box)
        neighbours = [("client", "eth0", "2", self.mac[-2:])]
        if self.box == "synproxy":
            neighbours += [("box", "outside", "10", "10"), ("box", "inside", "2", "02")]
            self.lab("exec", "box", "ip", "route", "replace", CLIENTS, "via", "198.18.255.10", "dev", "outside")
        for namespace, port, number, mac in neighbours:
            for address in (f"198.18.255.{number}", f"2001:db8:255::{number}"):
                entry = [address, "lladdr", f"02:53:57:00:00:{mac}", "dev", port, "nud", "permanent"]
                self.lab("exec", namespace, "ip", "neigh", "replace", *entry)

    def refused(self):
        """Segments that it has taken in and not let through."""
        return self.lab.received()


class Synwall(Peer):
    """synwall on a plane; alone on the box's core, or with all cores to itself."""

    processes = ("synwall",)

    def __init__(self, lab, plane):
        super().__init__(lab, plane, "bridge")
        self.is_slow = plane == "pnet"

    @contextlib.contextmanager
    def standing(self, is_alone=True, flows=0):
        self.introduce()
        state = self.lab.state / "connections"
        if flows:
            self.lab("exec", "box", LOAD, "flows", state, "--count", flows)
        config = self.lab.state / "synwall.toml"
        config.write_text(
            CONFIG.format(
                budgets=BUDGETS, max_flows=1_100_000, state=state if flows else "off",
                plane=PLANES[self.name], workers=1 if is_alone else 0,
            )
        )  # fmt: skip
        alone = ["taskset", "-c", 0, "nice", "-n", BOX_NICE] if is_alone else []
        self.lab("spawn", "box", "synwall", *alone, SYNWALL, "run", "--config", config)
        try:
            self.wait_until_ready()
            if flows and self.metric("synwall_flows_restored_total") != flows:
                raise Failure(f"synwall did not take up {flows} connections: {self.log()}")
            yield self
        finally:
            self.lab("stop", "synwall")
            shutil.rmtree(state, ignore_errors=True)

    def wait_until_ready(self):
        until = time.monotonic() + 60
        while not self.ask("/readyz"):
            if time.monotonic() > until or not is_alive(self.lab.pid("synwall")):
                raise Failure(f"synwall does not run on {self.name}: {self.log()}")
            time.sleep(0.05)
        link = self.lab("exec", "box", "ip", "link", "show", "outside")
        if self.name == "xdp" and " xdp " not in link:
            raise Failure(f"synwall runs, and has no XDP program in the driver of outside: {self.log()}")

    def log(self):
        return (self.lab.state / "synwall.log").read_text().strip()[-600:]

    def ask(self, path):
        return self.lab("exec", "box", "curl", "-sf", "-m", "5", f"http://127.0.0.1:10910{path}", check=False)

    def metric(self, name, *labels):
        """The sum of a metric over what has all of these labels."""
        lines = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", self.ask("/metrics"), re.M)
        return sum(float(value) for own, value in lines if all(label in own for label in labels))

    def refused(self):
        return self.metric("synwall_dropped_total", 'reason="cookie_invalid"')

    def resident(self):
        """Octets of memory that the process has, and that its BPF maps have."""
        pid = self.lab.pid("synwall")
        status = open(f"/proc/{pid}/status").read()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024, map_octets(pid)


def map_octets(pid):
    """What the kernel charges for the BPF maps that a process holds, each once."""
    maps = {}
    with contextlib.suppress(FileNotFoundError):
        for info in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir():
            fields = dict(re.findall(r"^(map_id|memlock):\s+(\d+)$", info.read_text(), re.M))
            if "map_id" in fields:
                maps[fields["map_id"]] = int(fields["memlock"])
    return sum(maps.values())


def is_alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def all_peers(lab):
    peers = [
        Peer(lab, "reflector", "bridge", "reflect"),
        Peer(lab, "drop", "bridge", "drop"),
        Peer(lab, "drop-read", "bridge", "drop-read"),
        Peer(lab, "redirect", "bridge", "redirect"),
        Peer(lab, "redirect-read", "bridge", "redirect-read"),
        Peer(lab, "plain", "plain"),
        Peer(lab, "synproxy", "synproxy"),
        Synwall(lab, "pnet"),
        Synwall(lab, "xdp"),
    ]
    return {peer.name: peer for peer in peers}
