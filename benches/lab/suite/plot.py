"""The results as an SVG: a panel for each kind of figure, a bar for each peer, a line where a goal is."""

import math
from html import escape

from .figures import GOALS, LABELS, Spread, write

PANELS = ["syn", "ack", "established", "established_many", "connect", "p99_both", "up", "down"]
NAMES = {
    "reflector": "bare reflector", "drop": "bare drop", "redirect": "bare redirect", "plain": "plain bridge",
    "synproxy": "nft synproxy", "pnet": "synwall, pnet", "xdp": "synwall, XDP",
}  # fmt: skip
COLORS = {"plain": "#8e8e8e", "synproxy": "#f2a900", "pnet": "#3274d9", "xdp": "#56a64b"}
BARE, INK, FAINT, RED = "#c4c8ce", "#24292e", "#6e7077", "#e02f44"
WIDTH, MARGIN, GAP, BAR, HEAD, FOOT = 1200, 12, 10, 22, 30, 26
TITLE = "synwall beside its peers"


def draw(results, how):
    """Two columns of panels under a title."""
    shown = [figure for figure in PANELS if results.figures.get(figure)]
    width = (WIDTH - 2 * MARGIN - GAP) / 2
    body, y = [], 34
    for left, right in zip(shown[::2], [*shown[1::2], None]):
        pair = [figure for figure in (left, right) if figure]
        height = max(HEAD + BAR * len(results.figures[figure]) + FOOT for figure in pair)
        for number, figure in enumerate(pair):
            body.append(panel(figure, results.figures[figure], MARGIN + number * (width + GAP), y, width, height))
        y += height + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 16:.0f}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="11"><title>{TITLE}</title>'
        f'<rect width="{WIDTH}" height="{y + 16:.0f}" fill="#f4f5f5"/>'
        + label(MARGIN, 22, TITLE, size=15, weight="bold")
        + label(WIDTH - MARGIN, 22, "whiskers: least and most of the rounds; red: goals", anchor="end", fill=FAINT)
        + "".join(body)
        + label(MARGIN, y + 6, how, size=9, fill=FAINT)
        + "</svg>\n"
    )


def panel(figure, measured, x, y, width, height):
    name, unit = LABELS[figure]
    spreads = {peer: Spread.of(measured[peer].values()) for peer in NAMES if peer in measured}
    goals = [
        (goal, goal.limit * spreads[goal.reference].median)
        for goal in GOALS
        if goal.figure == figure and goal.reference in spreads
    ]
    finite = [spread.most for spread in spreads.values() if math.isfinite(spread.most)]
    top = 1.02 * max([*finite, *(at for _, at in goals)], default=1)
    left, right = x + 110, x + width - 130
    across = lambda value: left + min(value, top) / top * (right - left)
    parts = [box(x, y, width, height), label(x + 8, y + 18, f"{name}, {unit}", weight="bold")]
    for number, (peer, spread) in enumerate(spreads.items()):
        parts.append(bar(NAMES[peer], COLORS.get(peer, BARE), spread, unit, across, left, y + HEAD + number * BAR))
    bottom = y + HEAD + BAR * len(spreads)
    for number, (goal, at) in enumerate(goals):
        parts.append(
            f'<path d="M{across(at):.1f} {y + HEAD - 4:.0f}V{bottom:.0f}" stroke="{RED}" stroke-dasharray="5 3"/>'
            + label(across(at), bottom + 12, f"{goal.limit:g} × {NAMES[goal.reference]}", 9, anchor="middle", fill=RED)
        )
    return "".join(parts)


def bar(name, color, spread, unit, across, left, y):
    end, middle = across(spread.median), y + BAR / 2 - 2
    return (
        label(left - 6, middle + 4, name, anchor="end", fill=FAINT)
        + f'<rect x="{left:.1f}" y="{y:.0f}" width="{end - left:.1f}" height="{BAR - 6}" fill="{color}"/>'
        + f'<path d="M{across(spread.least):.1f} {middle:.0f}H{across(spread.most):.1f}" stroke="{INK}"/>'
        + label(max(end, across(spread.most)) + 6, middle + 4, write(spread.median, unit))
    )


def box(x, y, width, height):
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="3" fill="#ffffff" stroke="#dcdfe3"/>'
    )


def label(x, y, text, size=11, anchor="start", fill=INK, weight="normal"):
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )
