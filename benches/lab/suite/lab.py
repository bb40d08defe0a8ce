"""The lab that all peers share: one box between two cables, whose contents change from measurement to measurement.

Two arrangements of cores and offloads:

  cores   the load on core 1, all that the box does on core 0. Live frames go to the receiving port's ring, and NAPI
          empties it; on a veth that would run wherever the sender is. So NAPI gets threads of its own (`threaded`), the
          box's on core 0, those of the ends on core 1, where they have precedence over the generator: what comes back
          must not be lost for want of somebody to count it. The ends look after their rings by a timer (`MODERATION`),
          as a NIC moderates its interrupts: else the box would pay for waking core 1, once a frame if it is no XDP
          program. GRO is on where live frames arrive without an XDP program, since without it a veth has no NAPI.
  free    nothing pinned, for what the ends' own TCP does. The ends build whole segments (no TSO, GSO, checksum or tag
          offload), as XDP on the other end of a veth demands, for all peers alike; with `offloads` they may do as they
          like, which XDP cannot follow.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
SCRIPT = ROOT / "deploy/lab/lab"
LOAD = TARGET / "release/examples/lab_load"
SYNWALL = os.environ.get("SYNWALL", TARGET / "release/synwall")
OBJECTS = TARGET / "bench"
CLIENTS = "198.18.255.128/25"
BOX, ENDS = {0}, {1}
# The box shares its core with nobody who matters.
BOX_NICE = -10
# Nanoseconds. Less than it takes to fill a ring of 256.
MODERATION = 20_000
PORTS = [("box", "outside"), ("box", "inside"), ("client", "eth0"), ("server", "eth0")]


class Failure(Exception):
    """A peer that could not be measured, and why."""


def compile_programs():
    """The BPF programs, from C."""
    OBJECTS.mkdir(parents=True, exist_ok=True)
    for source in sorted((ROOT / "benches/lab/bpf").glob("*.bpf.c")):
        subprocess.run(
            ["clang-19", "-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3",
             f"-I/usr/include/{os.uname().machine}-linux-gnu", "-c", source, "-o", OBJECTS / f"{source.stem}.o"],
            check=True,
        )  # fmt: skip


class Lab:
    def __init__(self, name):
        self.env = {**os.environ, "LAB": name}
        self.threads = {}

    def __call__(self, *args, check=True):
        """Runs a command of deploy/lab/lab and returns what it printed."""
        done = subprocess.run([SCRIPT, *map(str, args)], env=self.env, capture_output=True, text=True)
        if check and done.returncode:
            raise Failure(f"lab {' '.join(map(str, args))}: {(done.stdout + done.stderr).strip()[-2000:]}")
        return done.stdout

    def __enter__(self):
        self("down")
        self("up", "--bridge", "--direct", "--syncookies", 1, "--backlog", 4096)
        self.state = pathlib.Path(self("path", "state").strip())
        self("spawn", "server", "iperf3", "iperf3", "--server")
        self.settle_clients()
        return self

    def settle_clients(self):
        """Gives the client's end the addresses of many clients, 198.18.255.128/25: ten thousand connections from one
        would meet each other in the server's TIME-WAIT. Where they are nobody need ask: answers would be lost in a flood."""
        self("exec", "client", "ip", "route", "add", "local", CLIENTS, "dev", "lo")
        self("exec", "client", "nft", "insert", "rule", "netdev", "lab", "ingress", "ip", "daddr", CLIENTS, "accept")
        self("exec", "server", "ip", "route", "add", CLIENTS, "via", "198.18.255.10")

    def __exit__(self, *_):
        self("down", check=False)

    def load(self, *args):
        """The arguments of `lab exec` and `lab spawn` for a command of the load."""
        return [LOAD, *args, "--objects", OBJECTS]

    def hold(self, namespace, program):
        """Holds an XDP program in a namespace until `release`."""
        name = f"{program}-{namespace}"
        self("spawn", namespace, name, *self.load("hold", program))
        self.wait_for(name, lambda log: "ready" in log)

    def release(self, namespace, program):
        """Ends it, and returns what it said last."""
        name = f"{program}-{namespace}"
        self("stop", name)
        return (self.state / f"{name}.log").read_text().splitlines()[-1]

    @contextlib.contextmanager
    def held(self, namespace, program):
        """Holds a counter while the body runs; then the mapping has what it counted."""
        counted = {}
        self.hold(namespace, program)
        try:
            yield counted
        finally:
            counted.update(json.loads(self.release(namespace, program)))

    def wait_for(self, name, is_there, seconds=5):
        """Waits until the log of what was spawned says so."""
        log = self.state / f"{name}.log"
        until = time.monotonic() + seconds
        while not is_there(log.read_text()):
            if time.monotonic() > until:
                raise Failure(f"{name}: {log.read_text().strip()[-500:] or 'said nothing'}")
            time.sleep(0.02)

    def pid(self, name):
        return int((self.state / "pids" / name).read_text())

    # ---- arrangements ----

    def arrange_cores(self, server=ENDS):
        """See above. After the box has got its programs: a thread belongs to a NAPI, and that to a program or to GRO."""
        for port in PORTS:
            self.offload(port, tx="off", tso="off", gso="off", gro="on", txvlan="off")
        self.untie()
        for port in PORTS:
            before = napi_threads()
            self.set_threaded(port, True)
            self.threads[port] = set(napi_threads()) - set(before)
        self.tie(("box", "outside"), BOX)
        self.tie(("box", "inside"), BOX)
        self.tie(("client", "eth0"), ENDS)
        self.tie(("server", "eth0"), server)
        self.moderate(("client", "eth0"), True)
        self.moderate(("server", "eth0"), server == ENDS)
        self.pin(["nginx", "iperf3"], ENDS)

    def arrange_free(self, offloads=False):
        for port in PORTS:
            is_end = port[1] == "eth0"
            own = "off" if is_end and not offloads else "on"
            gro = "on" if is_end and not offloads else "off"
            self.offload(port, tx=own, tso=own, gso=own, gro=gro, txvlan=own)
        self.untie()
        self.pin(["nginx", "iperf3"], range(os.cpu_count()))

    def reset(self):
        """Gives the box's ports new rings: what a peer left in them, awaiting a thread that has ended, would stay."""
        self.untie()
        for device in ("outside", "inside"):
            for state in ("down", "up"):
                self("exec", "box", "ip", "link", "set", device, state)

    def offload(self, port, **features):
        namespace, device = port
        self("exec", namespace, "ethtool", "-K", device, *(word for pair in features.items() for word in pair))

    def set_threaded(self, port, is_on):
        namespace, device = port
        # A port without NAPI refuses, and is not threaded anyway.
        self("exec", namespace, "sh", "-c", f"echo {int(is_on)} >/sys/class/net/{device}/threaded", check=is_on)

    def moderate(self, port, is_on):
        """Without the second, the end of one poll would wait for a wake-up; with it, for the timer."""
        namespace, device = port
        path = f"/sys/class/net/{device}"
        timeout, rounds = (MODERATION, 1 << 30) if is_on else (0, 0)
        script = f"echo {timeout} >{path}/gro_flush_timeout; echo {rounds} >{path}/napi_defer_hard_irqs"
        self("exec", namespace, "sh", "-c", script)

    def untie(self):
        for port in PORTS:
            self.moderate(port, False)
            self.set_threaded(port, False)
        self.threads = {}

    def tie(self, port, cores):
        if not self.threads[port]:
            raise Failure(f"{port[1]} in {port[0]} has no NAPI thread")
        for pid in self.threads[port]:
            os.sched_setaffinity(pid, cores)
            if cores == ENDS:
                os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
            else:
                os.setpriority(os.PRIO_PROCESS, pid, BOX_NICE)

    def pin(self, names, cores):
        for name in names:
            for pid in family(self.pid(name)):
                os.sched_setaffinity(pid, cores)

    def box_seconds(self, processes):
        """The time of core 0 that the box has had: its NAPI threads, the softirq thread, and its processes."""
        tasks = [f"/proc/{pid}" for pids in self.threads.values() for pid in pids if os.sched_getaffinity(pid) == BOX]
        tasks.append(next(f"/proc/{pid}" for pid, name in commands() if name == "ksoftirqd/0"))
        for name in processes:
            tasks += pathlib.Path(f"/proc/{self.pid(name)}/task").iterdir()
        return sum(int(pathlib.Path(task, "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def received(self):
        """Frames that `outside` has taken in."""
        statistics = self("exec", "box", "ethtool", "-S", "outside")
        lines = (line.split(":") for line in statistics.splitlines() if "rx_queue" in line and "xdp_packets" in line)
        return sum(int(value) for _, value in lines)


def commands():
    for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
        try:
            yield int(path.parent.name), path.read_text().strip()
        except OSError:
            continue


def napi_threads():
    return {pid: name for pid, name in commands() if name.startswith("napi/")}


def family(pid):
    """A process and its children."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]
