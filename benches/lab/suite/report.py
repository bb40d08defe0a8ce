"""The results as a table on the terminal, and as a table and a plot in docs/performance.md."""

import dataclasses
import os

from . import plot
from .figures import GOALS, LABELS, Spread, write
from .lab import ROOT

PEERS = {
    "reflector": "XDP_TX reflector", "drop": "XDP_DROP", "drop-read": "XDP_DROP that reads", "redirect": "XDP redirect",
    "redirect-read": "XDP redirect that reads", "plain": "plain forwarding",
    "synproxy": "nftables synproxy", "pnet": "synwall on pnet", "xdp": "synwall on XDP",
}  # fmt: skip
DOCUMENT, PICTURE = ROOT / "docs/performance.md", ROOT / "docs/performance.svg"
BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"


@dataclasses.dataclass
class Results:
    # By name and peer, a value by the number of the round.
    figures: dict = dataclasses.field(default_factory=dict)
    # What could not be measured, by peer and row, and why.
    failures: dict = dataclasses.field(default_factory=dict)

    def add(self, number, peer, figures):
        for figure, value in figures.items():
            self.figures.setdefault(figure, {}).setdefault(peer, {})[number] = value


def goals(results):
    """The ratios: of synwall on XDP with the verdict, and on pnet for comparison."""
    rows = [["", "goal", PEERS["xdp"], "", PEERS["pnet"]]]
    for goal in GOALS:
        cells = []
        for subject in ("xdp", "pnet"):
            spread = goal.spread(results.figures, subject)
            cells.append(spread.written(lambda value: write(value, goal.unit)) if spread else "–")
            if subject == "xdp":
                cells.append("not measured" if spread is None else "met" if goal.is_met(spread) else "MISSED")
        rows.append([goal.what, goal.goal(), *cells])
    return rows


def figures(results):
    """What they are made of: medians, with the least and the most."""
    rows = [["", *PEERS.values()]]
    for figure, (label, unit) in LABELS.items():
        measured = {peer: Spread.of(rounds.values()) for peer, rounds in results.figures.get(figure, {}).items()}
        if measured:
            cells = [measured[peer].written(lambda value: write(value, unit)) if peer in measured else "" for peer in PEERS]
            rows.append([f"{label}, {unit}" if unit == "/s" else label, *cells])
    return rows


def how(settings):
    return (
        f"`make bench`: medians of {settings.rounds} interleaved rounds of {settings.seconds} s each (least..most); "
        f"{settings.clients:,} clients, many flows are {settings.many_flows:,}, the long flood is "
        f"{settings.memory_flood:,} SYNs; {os.cpu_count()} cores ({processor()}), Linux {os.uname().release}."
    )


def processor():
    with open("/proc/cpuinfo") as info:
        return next((line.split(":")[1].strip() for line in info if line.startswith("model name")), os.uname().machine)


def failures(results):
    """Of each peer the first reason: what does not start fails in every row."""
    reasons, places = {}, {}
    for (peer, row, number), why in results.failures.items():
        reasons.setdefault(peer, why.splitlines()[0])
        places.setdefault(peer, []).append(f"{row} in round {number}")
    return [f"Not measured: {PEERS[peer]} ({', '.join(places[peer])}): {why}" for peer, why in reasons.items()]


def text(results, settings):
    return "\n\n".join([aligned(goals(results)), aligned(figures(results)), *failures(results), how(settings)])


def aligned(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def document(results, settings):
    """Replaces what stands between the markers, and draws the plot."""
    PICTURE.write_text(plot.draw(results, how(settings).replace("`", "")))
    written = DOCUMENT.read_text()
    before, rest = written.split(BEGIN)
    after = rest.split(END)[1]
    parts = [
        BEGIN, markdown(goals(results)), how(settings), *failures(results), "![The same as a plot](performance.svg)",
        markdown(figures(results)), END,
    ]  # fmt: skip
    DOCUMENT.write_text(before + "\n\n".join(parts) + after)


def markdown(rows):
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])
