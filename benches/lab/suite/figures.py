"""What figures are called, what they must reach, and how they are written."""

import contextlib
import dataclasses
import math
import statistics

# Figures of the table, in its order: name, unit.
LABELS = {
    "syn": ("SYN answered, one core", "/s"),
    "ack": ("forged ACK refused, one core", "/s"),
    "established": ("established segments forwarded, one core", "/s"),
    "established_many": ("established segments, many flows, one core", "/s"),
    "connect": ("new HTTP connections", "/s"),
    "up": ("bulk TCP to the server", "Gbit/s"),
    "down": ("bulk TCP to the client", "Gbit/s"),
    "up_offloads": ("the same to the server, all offloads", "Gbit/s"),
    "down_offloads": ("the same to the client, all offloads", "Gbit/s"),
    "share_idle": ("clients served, quiet", "share"),
    "share_syn": ("clients served, SYN flood", "share"),
    "share_ack": ("clients served, ACK flood", "share"),
    "share_both": ("clients served, both", "share"),
    "p99_idle": ("p99 of connecting, quiet", "ms"),
    "p99_syn": ("p99 of connecting, SYN flood", "ms"),
    "p99_ack": ("p99 of connecting, ACK flood", "ms"),
    "p99_both": ("p99 of connecting, both", "ms"),
    "flood_syn": ("SYN flood beside the clients, taken in", "/s"),
    "flood_ack": ("ACK flood beside the clients, taken in", "/s"),
    "flood_both": ("both beside the clients, taken in", "/s"),
    "resident": ("memory of the process", "octets"),
    "maps": ("memory of its maps", "octets"),
    "resident_growth": ("growth of the process in the long flood", "octets"),
    "maps_growth": ("growth of its maps in it", "octets"),
}


@dataclasses.dataclass
class Spread:
    """The median of the rounds, the least and the most."""

    median: float
    least: float
    most: float

    @staticmethod
    def of(values):
        values = list(values)
        return Spread(statistics.median(values), min(values), max(values))

    def written(self, write):
        if self.least == self.most:
            return write(self.median)
        return f"{write(self.median)} ({write(self.least)}..{write(self.most)})"


@dataclasses.dataclass
class Goal:
    """`value` makes one number of a round's figures: a function of the figure by name and peer."""

    what: str
    sign: str
    limit: float
    unit: str
    value: object
    # For a part of what a peer does: which figure of whom.
    figure: str = ""
    reference: str = ""

    def spread(self, figures, subject):
        """Over the rounds; `None` where something was not measured."""
        numbers = {number for by in figures.values() for rounds in by.values() for number in rounds}
        rounds = []
        for number in sorted(numbers):
            with contextlib.suppress(KeyError):
                rounds.append(self.value(lambda figure, peer=subject: figures[figure][peer][number]))
        return Spread.of(rounds) if rounds else None

    def is_met(self, spread):
        return spread.median >= self.limit if self.sign == "≥" else spread.median <= self.limit

    def goal(self):
        return f"{self.sign} {write(self.limit, self.unit)}"


def part(what, limit, figure, peer):
    """At least `limit` times what `peer` does."""
    return Goal(what, "≥", limit, "×", lambda at: at(figure) / at(figure, peer), figure, peer)


def p99(flood):
    return lambda at: at(f"p99_{flood}") / at("p99_idle")


def added_ns(at):
    return 1e9 / at("syn") - 1e9 / at("syn", "reflector")


GOALS = [
    part("SYN answered per core / bare reflector", 0.75, "syn", "reflector"),
    part("SYN answered per core / nftables synproxy", 10, "syn", "synproxy"),
    Goal("added time a SYN over the bare reflector", "≤", 90, "ns", added_ns),
    part("forged ACK refused per core / bare XDP_DROP", 0.7, "ack", "drop"),
    part("the same / XDP_DROP that reads the headers", 0.7, "ack", "drop-read"),
    part("established segments per core / bare XDP redirect", 0.8, "established", "redirect"),
    part("the same / XDP redirect that reads the headers", 0.8, "established", "redirect-read"),
    part("new HTTP connections / plain forwarding", 0.9, "connect", "plain"),
    part("new HTTP connections / nftables synproxy", 10, "connect", "synproxy"),
    part("bulk TCP to the server / plain forwarding", 0.9, "up", "plain"),
    part("bulk TCP to the client / plain forwarding", 0.9, "down", "plain"),
    *(
        Goal(f"real clients served under {name}", "≥", 0.999, "share", lambda at, flood=flood: at(f"share_{flood}"))
        for flood, name in (("syn", "a SYN flood"), ("ack", "an ACK flood"), ("both", "both"))
    ),
    *(
        Goal(f"their p99 of connecting under {name} / quiet", "≤", 3, "×", p99(flood))
        for flood, name in (("syn", "a SYN flood"), ("ack", "an ACK flood"), ("both", "both"))
    ),
    Goal("cost of a segment, many flows / few", "≤", 1.5, "×", lambda at: at("established") / at("established_many")),
    # Of a hundred million SYNs, each remembered one would be a hundred octets and more.
    Goal("growth of the process in the long flood", "≤", 1 << 20, "octets", lambda at: at("resident_growth")),
    Goal("growth of its maps in it", "≤", 0, "octets", lambda at: at("maps_growth")),
]


def write(value, unit):
    """As people write it."""
    if not math.isfinite(value):
        return "∞"
    if unit == "octets":
        return "0" if value == 0 else f"{value / (1 << 20):.1f} MiB"
    if unit == "share":
        return f"{100 * value:.2f} %".replace(".00 %", " %")
    if unit == "/s":
        return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.0f} k" if value >= 1e5 else f"{value:,.0f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {unit}".replace(" ×", "×")
