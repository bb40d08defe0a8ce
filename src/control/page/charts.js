// @ts-check
// A chart of the live page: lines over the last minutes, by uPlot, and a legend with their values.

import { clock, colour, count, element, make } from "/words.js";

/** @typedef {{t: number[], challenging: number[], attacked: number[], [column: string]: any}} Series */
/** @typedef {{label: string, values: number[], colour: string, fill?: boolean}} Line */

export const SPAN = 900; // Seconds that are shown.

/** A chart with its legend; made anew when its lines or the colours change. */
export class Chart {
  /** @param {string} name @param {(series: Series) => Line[]} lines */
  constructor(name, lines, hasShade = false) {
    this.place = element(`chart-${name}`);
    this.legend = element(`legend-${name}`);
    this.lines = lines;
    this.hasShade = hasShade;
    this.series = /** @type {any} */ (null);
    this.plot = null;
    this.key = "";
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.place);
  }

  size() {
    return { width: this.place.clientWidth, height: this.place.clientHeight };
  }

  /** @param {Series} series */
  draw(series) {
    this.series = series;
    const lines = this.lines(series);
    const key = lines.map((line) => line.label + line.colour).join("|");
    const data = [series.t, ...lines.map((line) => line.values)];
    if (key !== this.key || !this.plot) {
      this.plot?.destroy();
      this.key = key;
      // @ts-ignore: uPlot comes from its own script.
      this.plot = new uPlot(this.options(lines), data, this.place);
    } else {
      this.plot.setData(data);
    }
    this.place.dataset.samples = String(series.t.length);
    this.explain(lines, null);
  }

  /** The lines' names and values: at the cursor, else the latest. */
  explain(lines, at) {
    const series = this.series;
    const items = lines.map((line, number) => {
      const item = make("li");
      const value = line.values[at ?? line.values.length - 1];
      item.append(sample(line.colour, dash(number)), `${line.label} `, make("b", value === undefined ? "–" : count(value)));
      return item;
    });
    if (this.hasShade) {
      const marks = /** @type {[string, string, number, number[]][]} */ (
        [["--shade", "challenging", 10, series.challenging], ["--strip", "attack", 4, series.attacked]]);
      for (const [name, what, height, flags] of marks) {
        if (!flags.includes(1)) continue;
        const item = make("li");
        item.append(block(colour(name), height), what);
        items.push(item);
      }
    }
    if (lines.length === 0) items.push(make("li", "nothing was dropped"));
    if (at !== null) items.push(make("li", `at ${clock(series.t[at])}`));
    this.legend.replaceChildren(...items);
  }

  /** A minute at least, SPAN at most, up to the latest sample. */
  span() {
    const { t } = this.series;
    const now = t.at(-1) ?? Date.now() / 1000;
    return [Math.max(Math.min(t[0] ?? 0, now - 60), now - SPAN), now];
  }

  options(lines) {
    const [soft, grid] = [colour("--soft"), colour("--grid")];
    const font = "12px system-ui, sans-serif";
    const axis = { stroke: soft, font, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 } };
    return {
      ...this.size(),
      legend: { show: false },
      cursor: { sync: { key: "live" }, drag: { x: false, y: false }, points: { size: 6 } },
      padding: [6, 28, 0, 0],
      scales: {
        x: { time: true, range: () => this.span() },
        // Like a logarithm, but with a zero: ten clients are to be seen beside a hundred thousand SYNs.
        y: { distr: 4, asinh: 1, range: (_, _least, most) => [0, Math.max(10, 1.5 * (most ?? 0))] },
      },
      axes: [
        { ...axis, space: 70, size: 28, values: (_, splits) => splits.map((t) => clock(t, splits.length < 2 || splits[1] - splits[0] < 60)) },
        { ...axis, size: 52, splits: (u) => decades(u.scales.y.max), filter: (_, splits) => splits, values: (_, splits) => splits.map(label) },
      ],
      series: [{}, ...lines.map((line, number) => ({
        stroke: line.colour,
        width: 2,
        dash: dash(number),
        fill: line.fill ? `${line.colour}22` : undefined,
        points: { show: false },
      }))],
      hooks: {
        drawClear: [(u) => this.hasShade && paint(u, this.series.t, this.series.challenging, colour("--shade"), u.bbox.height)],
        draw: [(u) => this.hasShade && paint(u, this.series.t, this.series.attacked, colour("--strip"), 4 * devicePixelRatio)],
        setCursor: [(u) => this.explain(this.lines(this.series), u.cursor.left >= 0 ? u.cursor.idx ?? null : null)],
      },
    };
  }
}

/** Zero and the powers of ten up to `most`. @param {number} most */
function decades(most) {
  const splits = [0];
  for (let power = 1; power <= most; power *= 10) splits.push(power);
  return splits;
}

/** Zero and one would stand on each other where there are many decades. */
function label(/** @type {number} */ value, /** @type {number} */ _, /** @type {number[]} */ all) {
  return value === 1 && all.length > 4 ? "" : count(value);
}

/** Lines differ by more than their colour. @param {number} number */
function dash(number) {
  return [[], [8, 4], [2, 3], [10, 3, 2, 3], [4, 4], [14, 4], [1, 5]][number % 7];
}

/** Marks the times at which a flag stands, from the top on, so deep. */
function paint(u, t, flags, fill, depth) {
  const { left, top, width } = u.bbox;
  u.ctx.fillStyle = fill;
  for (let at = 0; at < flags.length; at++) {
    if (!flags[at]) continue;
    const first = at;
    while (flags[at + 1]) at++;
    const begin = Math.max(left, u.valToPos(t[first] - 1, "x", true));
    const end = Math.min(left + width, u.valToPos(t[at], "x", true));
    u.ctx.fillRect(begin, top, Math.max(1, end - begin), depth);
  }
}

/** A piece of line for the legend. @param {string} stroke @param {number[]} pattern */
function sample(stroke, pattern) {
  return drawing("line", { x1: 0, x2: 20, y1: 5, y2: 5, stroke, "stroke-width": 2.5, "stroke-dasharray": pattern.join(" ") });
}

/** @param {string} fill @param {number} height */
function block(fill, height) {
  return drawing("rect", { x: 0, y: (10 - height) / 2, width: 20, height, fill });
}

function drawing(shape, attributes) {
  const image = document.createElementNS(SVG, "svg");
  image.setAttribute("viewBox", "0 0 20 10");
  image.setAttribute("aria-hidden", "true");
  const drawn = document.createElementNS(SVG, shape);
  for (const [name, value] of Object.entries(attributes)) drawn.setAttribute(name, String(value));
  image.append(drawn);
  return image;
}

const SVG = "http://www.w3.org/2000/svg"; // A name, not an address.
