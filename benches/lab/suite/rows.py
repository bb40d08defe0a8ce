"""What is measured. A row takes a peer and gives figures by name; see `benches/lab/run` for what each means."""

import contextlib
import dataclasses
import json
import re
import sys
import time

from .lab import BOX, ENDS, LOAD, Failure

SERVER = "198.18.255.2"
SYN = ["syn-bare", "syn-mss", "syn-linux", "syn6"]
ACK = ["ack", "ack-timestamps", "ack6"]
# Segments a second that are offered; 0 is as many as go.
OFFERED = [0, 300_000, 400_000, 500_000]
# Fewer a second than a process can handle.
WAKE_RATE = 100_000
# Segments by which the load is checked.
CHECKED = 4000
FLOODS = {"syn": SYN, "ack": ACK, "both": SYN + ACK}


@dataclasses.dataclass
class Settings:
    seconds: int
    rounds: int
    clients: int
    many_flows: int
    memory_flood: int


class Rows:
    """The measurements, each with the peers that can be measured so."""

    def __init__(self, lab, settings):
        self.lab, self.settings = lab, settings
        self.rounds = {
            self.syn: ["reflector", "plain", "synproxy", "pnet", "xdp"],
            self.ack: ["drop", "drop-read", "synproxy", "pnet", "xdp"],
            self.established: ["redirect", "redirect-read", "plain", "pnet", "xdp"],
            self.connect: ["plain", "synproxy", "pnet", "xdp"],
            self.bulk: ["plain", "synproxy", "pnet", "xdp"],
            self.bulk_offloads: ["plain", "synproxy", "pnet"],
        }
        # Behind synproxy some clients hang until they give up, minutes in all: docs/performance.md.
        self.once = {self.clients: ["plain", "pnet", "xdp"], self.memory: ["pnet", "xdp"]}

    def check_load(self, plain):
        """That what the generator makes is what a TCP takes: all of it arrives, with right checksums."""
        kinds = [*SYN, *ACK[:2], "established", "established-ack"]
        with plain.standing():
            self.lab.arrange_cores()
            self.lab("exec", "server", "nstat", "-n")
            self.flood(plain, kinds, 20_000, "--count", CHECKED)
            counters = self.lab("exec", "server", "nstat", "-z", "TcpInSegs", "TcpInErrs", "TcpInCsumErrors", "IpInHdrErrors")
        seen = {name: int(value) for name, value in re.findall(r"^(\w+)\s+(\d+)", counters, re.M)}
        if seen != {"TcpInSegs": CHECKED, "TcpInErrs": 0, "TcpInCsumErrors": 0, "IpInHdrErrors": 0}:
            raise SystemExit(f"of {CHECKED} segments of the load the server says {seen}")

    # ---- per core ----

    def syn(self, peer):
        # With the plain bridge it is the server that answers, with cookies of its own: on the box's core, then.
        server = BOX if peer.name == "plain" else ENDS
        with peer.standing():
            self.lab.arrange_cores(server)
            return {"syn": self.per_core(peer, lambda rate: self.flood(peer, SYN, rate), "syn_acks")}

    def ack(self, peer):
        with peer.standing():
            self.lab.arrange_cores()
            return {"ack": self.per_core(peer, lambda rate: self.flood(peer, ACK, rate), "refused")}

    def established(self, peer):
        figures = {}
        for name, flows in {"established": 1000, "established_many": self.settings.many_flows}.items():
            with peer.standing(flows=flows):

                def flood(rate):
                    with self.lab.held("server", "count") as counted:
                        report = self.flood(peer, ["established"], rate, "--flows", flows)
                    return {**report, "forwarded": counted["others"]}

                self.lab.arrange_cores()
                if peer.name == "xdp":
                    self.wake(peer, flows)
                figures[name] = self.per_core(peer, flood, "forwarded")
        return figures

    def wake(self, peer, flows):
        """A bare ACK of every connection, twice lest one be lost: synwall lends a flow to XDP behind one, since nothing of
        it is under way then. The server's end takes them away."""
        with self.lab.held("server", "count"):
            self.flood(peer, ["established-ack"], WAKE_RATE, "--flows", flows, "--count", 2 * flows, seconds=60)

    def per_core(self, peer, flood, counted):
        """The most that the box's core can do in a second. A box that is not busy all the time, since neither the
        generator nor the counter can keep up with it, is taken at its work: by the second of its core that it used. One
        in user space loses its core to the kernel's receive path when too much is offered, so less is tried, too."""
        reports = [flood(rate) for rate in (OFFERED if peer.is_slow else [0])]
        if not any(report[counted] for report in reports):
            raise Failure("nothing came through")
        return max(report[counted] / report["busy"] for report in reports if report["busy"])

    def flood(self, peer, kinds, rate, *options, seconds=None):
        """Floods from core 1, and says what came of it and what the box used of its core."""
        seconds = seconds or self.settings.seconds
        refused, busy = peer.refused(), self.lab.box_seconds(peer.processes)
        out = self.lab(
            "exec", "client", "taskset", "-c", 1, "nice", "-n", -10,
            *self.lab.load("flood", "eth0", "--kinds", ",".join(kinds), "--mac", peer.mac),
            "--rate", rate, "--seconds", seconds, *options,
        )  # fmt: skip
        busy = self.lab.box_seconds(peer.processes) - busy
        report = {**json.loads(out), "busy": busy, "refused": peer.refused() - refused}
        print(f"    {peer.name}: {report}", file=sys.stderr)
        return report

    # ---- the ends' own TCP ----

    @contextlib.contextmanager
    def standing_free(self, peer, offloads=False):
        """The peer with nothing pinned. A veth that answers by XDP_TX wakes the other end only if there is a program, GRO
        is not enough (`veth_xdp_flush`); so the client of such a peer has one, at the peer's cost."""
        program = self.lab.held("client", "count") if peer.name == "xdp" else contextlib.nullcontext()
        with program, peer.standing(is_alone=False):
            self.lab.arrange_free(offloads)
            yield

    def connect(self, peer):
        with self.standing_free(peer):
            out = self.lab(
                "exec", "client", "wrk", "-t1", "-c32", f"-d{self.settings.seconds}", "-H", "Connection: close",
                f"http://{SERVER}/",
            )  # fmt: skip
        if errors := re.search(r"(Socket errors|Non-2xx).*", out):
            print(f"    {peer.name}: {errors[0]}", file=sys.stderr)
        return {"connect": float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])}

    def bulk(self, peer):
        return dict(zip(["up", "down"], self.transfer(peer, False)))

    def bulk_offloads(self, peer):
        return dict(zip(["up_offloads", "down_offloads"], self.transfer(peer, True)))

    def transfer(self, peer, offloads):
        """Gbit/s from the client to the server, and back."""
        with self.standing_free(peer, offloads):
            for reverse in ([], ["--reverse"]):
                out = self.lab(
                    "exec", "client", "iperf3", "--client", SERVER, "--time", self.settings.seconds, "--json", *reverse
                )
                yield json.loads(out)["end"]["sum_received"]["bits_per_second"] / 1e9

    # ---- real clients ----

    def clients(self, peer):
        """Their share that got its page, the 99th percentile of the time to connect in milliseconds, and the flood."""
        figures = {}
        with self.lab.held("client", "count"), peer.standing():
            self.lab.arrange_cores()
            for name, kinds in {"idle": None, **FLOODS}.items():
                before, begun = self.lab.received(), time.monotonic()
                with self.flooding(peer, kinds) if kinds else contextlib.nullcontext():
                    report = self.visit()
                print(f"    {peer.name} {name}: {report}", file=sys.stderr)
                figures[f"share_{name}"] = report["served"] / report["clients"]
                figures[f"p99_{name}"] = (report["p99"] or float("inf")) * 1000
                if kinds:
                    figures[f"flood_{name}"] = (self.lab.received() - before) / (time.monotonic() - begun)
        return figures

    @contextlib.contextmanager
    def flooding(self, peer, kinds):
        """As fast as the clients and the server leave time for on core 1, while the body runs."""
        flood = self.lab.load("flood", "eth0", "--kinds", ",".join(kinds), "--mac", peer.mac, "--seconds", 300, "--no-count")
        before = self.lab.received()
        self.lab("spawn", "client", "flood", "taskset", "-c", 1, "nice", "-n", 19, *flood)
        try:
            self.lab.wait_for("flood", lambda _: self.lab.received() > before + 100_000, seconds=20)
            yield
        finally:
            self.lab("stop", "flood")

    def visit(self):
        clients = [LOAD, "clients", f"{SERVER}:80", "--count", self.settings.clients]
        return json.loads(self.lab("exec", "client", "taskset", "-c", 1, "nice", "-n", -10, *clients))

    # ---- memory ----

    def memory(self, peer):
        """By how many octets the process and its maps grew in a flood, after a first one that touched what there is."""
        with peer.standing():
            self.lab.arrange_cores()
            self.flood(peer, SYN, 0)
            resident, maps = peer.resident()
            flood = self.flood(peer, SYN, 0, "--count", self.settings.memory_flood, seconds=300)
            after, maps_after = peer.resident()
        if flood["sent"] < self.settings.memory_flood:
            raise Failure(f"{flood['sent']} SYNs of {self.settings.memory_flood} in 300 s")
        return {"resident": resident, "maps": maps, "resident_growth": after - resident, "maps_growth": maps_after - maps}
