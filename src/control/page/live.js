// @ts-check
// The live page: asks for /live.json once a second and draws it. Text from outside is only ever set as textContent.
"use strict";

/** @typedef {{t: number[], syns: number[], cookies: number[], validated: number[], half_open: number[],
 *   cookies_in_flight: number[], challenging: number[], attacked: number[], drops: Map<string, number[]>}} Series */

const SPAN = 900; // Seconds that are shown.
const POLL = 1000; // Milliseconds between two answers.
const PATIENCE = 4000; // Milliseconds that one may take.
const LISTED = 8; // Headlines of quiet services before they are summed up.
const REASONS = 6; // Drop reasons with a line of their own.

const KINDS = {
  spoofed_syn: "spoofed SYN flood",
  few_sources: "SYN flood from few sources",
  connections: "connection flood",
  crowd: "crowd of real clients",
};
const COLUMNS = ["syns", "cookies", "validated", "half_open", "cookies_in_flight", "challenging", "attacked"];

// ---- words ----

/** @param {number} n */
function count(n) {
  for (const [unit, name] of /** @type {[number, string][]} */ ([[1e9, "G"], [1e6, "M"], [1e3, "k"]])) {
    if (n >= unit * 0.9995) return `${digits(n / unit)}\u00a0${name}`;
  }
  return digits(n);
}

/** @param {number} n */
function digits(n) {
  return n >= 99.95 || Number.isInteger(n) ? String(Math.round(n)) : n.toFixed(n >= 9.995 ? 0 : 1).replace(/\.0$/, "");
}

/** @param {number} seconds */
function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return s % 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s / 60} min`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

/** @param {number} seconds since 1970 */
function clock(seconds, withSeconds = true) {
  return new Date(seconds * 1000).toTimeString().slice(0, withSeconds ? 8 : 5);
}

/** @param {number} seconds since 1970 */
function date(seconds) {
  const at = new Date(seconds * 1000);
  const isToday = at.toDateString() === new Date().toDateString();
  return isToday ? clock(seconds) : `${at.toLocaleDateString("sv")} ${clock(seconds, false)}`;
}

/** @param {number} share 0 to 1 */
function percent(share) {
  return share > 0 && share < 0.01 ? "< 1 %" : `${Math.round(share * 100)} %`;
}

/** The state of a service in a word, what is done about it, and how bad it is. */
function state(service, answer) {
  const attack = answer.attacks.find((event) => event.service === service.name && event.ended === null);
  const lasts = attack ? ` for ${duration(answer.time - attack.started)}` : "";
  const challenging = service.is_challenging
    ? service.mode === "always" ? "challenging every SYN" : "challenging"
    : service.is_under_pressure && service.mode === "monitor" ? "only counting (mode monitor)" : "";
  let what = { level: "good", word: service.is_challenging ? "protected" : "quiet", lasts: "", challenging };
  if (attack && attack.kind !== "crowd") {
    what = { level: "bad", word: `under attack (${KINDS[attack.kind] ?? attack.kind})`, lasts, challenging };
  } else if (attack) {
    what = { level: "warn", word: KINDS.crowd, lasts, challenging };
  } else if (service.is_attacked) {
    what = { level: "bad", word: "under attack", lasts: "", challenging };
  } else if (service.is_under_pressure) {
    what = { level: "warn", word: "under pressure", lasts: "", challenging };
  } else if (service.mode === "off") {
    what = { level: "good", word: "not protected (mode off)", lasts: "", challenging: "" };
  }
  if (service.backend_up) return what;
  return { ...what, level: "bad", challenging: [what.challenging, "its server does not answer"].filter(Boolean).join(", ") };
}

/** What follows the state: how much comes, and who gets through. */
function rates(service) {
  const parts = [];
  if (service.syn_rate > 0) parts.push(`${count(service.syn_rate)}\u00a0SYN/s`);
  const proved = Math.round(service.validated_rate);
  if (proved > 0) {
    const through = Math.min(proved, Math.round(service.connected_rate));
    parts.push(`${count(through)} of ${count(proved)} clients a second get through`);
  }
  return parts;
}

// ---- elements ----

/** @param {string} id */
function element(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** @param {string} name @param {string} [text] @param {string} [className] */
function make(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** @param {string} name */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// ---- the data ----

const select = /** @type {HTMLSelectElement} */ (element("service"));
/** @type {Series} */
let series = nothing();
let chosen = decodeURIComponent(location.hash.slice(1)); // The service that is shown; all together if empty.
let isChosen = chosen !== ""; // Whether somebody chose, or the page did because there is only one.
let lostBefore = null; // Frames lost by the ports at the last answer.
let spoken = new Map(); // What was said of each service to those who listen.

function nothing() {
  const empty = Object.fromEntries(COLUMNS.map((column) => [column, []]));
  return /** @type {any} */ ({ t: [], ...empty, drops: new Map() });
}

/** Adds the samples that are new and forgets those that are too old. */
function take(answer) {
  const fresh = answer.series;
  if (!fresh) return void (series = nothing());
  const before = series.t.length;
  series.t.push(...fresh.t);
  for (const column of COLUMNS) series[column].push(...fresh[column]);
  const drops = new Map(fresh.drops);
  for (const reason of drops.keys()) {
    if (!series.drops.has(reason)) series.drops.set(reason, new Array(before).fill(0));
  }
  for (const [reason, values] of series.drops) values.push(...(drops.get(reason) ?? fresh.t.map(() => 0)));
  const old = series.t.findIndex((t) => t > answer.time - SPAN);
  const surplus = old < 0 ? series.t.length : old;
  if (surplus === 0) return;
  for (const values of [series.t, ...COLUMNS.map((column) => series[column]), ...series.drops.values()]) values.splice(0, surplus);
}

async function ask() {
  const wanted = chosen;
  const after = series.t.at(-1) ?? 0;
  const query = new URLSearchParams({ after: String(after), service: wanted });
  const response = await fetch(`/live.json?${query}`, { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" });
  if (!response.ok) throw new Error(`status ${response.status}`);
  const answer = await response.json();
  if (chosen !== wanted) return; // Somebody chose another one meanwhile.
  if (answer.time + 2 < after) series = nothing(); // The host's clock was set back: all anew with the next answer.
  else take(answer);
  show(answer);
}

// ---- what is shown ----

function show(answer) {
  element("clock").textContent = `live · ${clock(answer.time)}`;
  element("version").textContent = `synwall ${answer.version}`;
  showPorts(answer.ports);
  showChoice(answer.services);
  showHeadlines(answer);
  const service = answer.service ? answer.services.find((one) => one.name === answer.service) : undefined;
  showFigures(service ?? answer.all, answer);
  showCharts();
  showPrefixes(answer);
  showAttacks(answer);
}

function showPorts(ports) {
  const items = ports.map((port) =>
    make("li", [...new Set([port.port, port.interface]), port.up ? "up" : "down"].join(" "), port.up ? "" : "down"));
  const lost = ports.reduce((sum, port) => sum + port.receive_dropped + port.send_failed, 0);
  const now = lostBefore === null ? 0 : Math.max(0, lost - lostBefore);
  lostBefore = lost;
  items.push(make("li", now ? `${count(now)} frames/s lost at the ports` : "no frames lost", now ? "losing" : ""));
  element("ports").replaceChildren(...items);
}

function showChoice(services) {
  const names = services.filter((service) => service.has_series).map((service) => service.name);
  const listed = [...select.options].slice(1).map((option) => option.value);
  if (names.join("\n") !== listed.join("\n")) {
    const options = names.map((name) => {
      const option = /** @type {HTMLOptionElement} */ (make("option", name));
      option.value = name;
      return option;
    });
    select.replaceChildren(select.options[0], ...options);
    if (names.length === 1 && !isChosen) choose(names[0]);
    else if (!names.includes(chosen)) choose("");
    select.value = chosen;
  }
  element("choice").hidden = names.length < 2;
}

/** @param {string} name */
function choose(name) {
  if (name === chosen) return;
  [chosen, isChosen] = [name, true];
  series = nothing();
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
}

function showHeadlines(answer) {
  const all = answer.services.map((service) => ({ service, ...state(service, answer) }));
  const listed = all.length <= LISTED ? all : all.filter((one) => one.level !== "good").slice(0, 4 * LISTED);
  const items = listed.map((one) => {
    const item = make("li", `${one.service.name}: `, one.level === "good" ? "" : one.level);
    item.dataset.service = one.service.name;
    const rest = [one.challenging, ...rates(one.service)].filter(Boolean).map((part) => `, ${part}`);
    item.append(make("b", one.word), one.lasts + rest.join(""));
    return item;
  });
  if (listed.length < all.length) {
    const rest = all.length - listed.length;
    items.push(make("li", `${rest} ${listed.length ? "other " : ""}services: quiet`, "more"));
  }
  if (all.length === 0) items.push(make("li", "No service is configured: everything crosses unchanged.", "more"));
  element("headlines").replaceChildren(...items);
  const worst = all.find((one) => one.level === "bad") ?? all.find((one) => one.level === "warn");
  document.title = worst ? `${worst.service.name}: ${worst.word} · synwall` : "synwall";
  speak(all);
}

/** Says what changed, and only that: a voice that reads every second helps nobody. */
function speak(all) {
  const now = new Map(all.map((one) => [one.service.name, [one.word, one.challenging].filter(Boolean).join(", ")]));
  const changed = [...now].filter(([name, said]) => spoken.get(name) !== said);
  if (changed.length && changed.length <= LISTED) {
    element("news").textContent = changed.map(([name, said]) => `${name}: ${said}`).join(". ");
  }
  spoken = now;
}

function showFigures(present, answer) {
  const traffic = answer.traffic.filter((one) => !answer.service || one.service === answer.service);
  const sources = traffic.reduce((sum, one) => sum + one.distinct_sources, 0);
  const figures = [
    ["SYNs a second", count(present.syn_rate), ""],
    ["Validated clients a second", count(present.validated_rate), `${count(present.connected_rate)} connected`],
    ["Half-open", count(present.half_open), `of at most ${count(present.max_half_open)}`],
    ["Cookies in flight", count(present.cookies_in_flight), ""],
    ["Dropped frames a second", count(present.dropped_rate), ""],
  ];
  if (traffic.length) figures.push(["Sources", count(sources), traffic.length === 1 ? `${percent(traffic[0].new_source_share)} never seen` : ""]);
  element("figures").replaceChildren(...figures.map(([name, value, note]) => {
    const group = make("div");
    group.append(make("dt", name), make("dd", value), make("dd", note, "note"));
    return group;
  }));
}

function showPrefixes(answer) {
  const traffic = answer.traffic.filter((one) => !answer.service || one.service === answer.service);
  element("sources").textContent = traffic
    .filter((one) => one.syn_rate > 0)
    .map((one) => `${answer.service ? "" : `${one.service}: `}${count(one.distinct_sources)} sources, ${percent(one.new_source_share)} never seen, ${percent(one.completed_share)} completed`)
    .join(" · ");
  element("prefixes").className = answer.service ? "one" : "";
  fill("prefixes", "No SYNs were sampled lately.", traffic.flatMap((one) => one.top_prefixes.map((heavy) => {
    const share = make("td", undefined, "number");
    const bar = make("span", undefined, "bar");
    const part = make("i");
    part.style.width = `${100 * heavy.share}%`; // Set on the element itself, which the policy allows.
    bar.append(part);
    share.append(bar, percent(heavy.share));
    return [make("td", heavy.prefix), make("td", one.service, "of-all"), share];
  })));
}

function showAttacks(answer) {
  const events = answer.attacks.filter((one) => !answer.service || one.service === answer.service);
  fill("attacks", "None since synwall was started.", events.map((event) => {
    const lasted = duration((event.ended ?? answer.time) - event.started);
    return [
      make("td", date(event.started)),
      event.ended === null ? make("td", `${lasted}, goes on`, "now") : make("td", lasted),
      make("td", KINDS[event.kind] ?? event.kind),
      make("td", event.service),
      make("td", count(event.peak_syn_rate), "number"),
      make("td", count(event.distinct_sources), "number"),
    ];
  }));
}

/** Replaces the rows of a table. @param {string} id @param {string} empty @param {HTMLElement[][]} rows */
function fill(id, empty, rows) {
  const body = /** @type {HTMLTableElement} */ (element(id)).tBodies[0];
  const made = rows.map((cells) => {
    const row = make("tr");
    row.append(...cells);
    return row;
  });
  if (made.length === 0) {
    const cell = /** @type {HTMLTableCellElement} */ (make("td", empty, "empty"));
    cell.colSpan = 6;
    const row = make("tr");
    row.append(cell);
    made.push(row);
  }
  body.replaceChildren(...made);
}

// ---- charts ----

/** A chart with its legend; made anew when its lines or the colours change. */
class Chart {
  /** @param {string} name @param {() => {label: string, values: number[], colour: string, fill?: boolean}[]} lines */
  constructor(name, lines, hasShade = false) {
    this.place = element(`chart-${name}`);
    this.legend = element(`legend-${name}`);
    this.lines = lines;
    this.hasShade = hasShade;
    this.plot = null;
    this.key = "";
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.place);
  }

  size() {
    return { width: this.place.clientWidth, height: this.place.clientHeight };
  }

  draw() {
    const lines = this.lines();
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
        x: { time: true, range: () => [Math.max(Math.min(series.t[0] ?? 0, now() - 60), now() - SPAN), now()] },
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
        drawClear: [(u) => this.hasShade && shade(u)],
        setCursor: [(u) => this.explain(this.lines(), u.cursor.left >= 0 ? u.cursor.idx ?? null : null)],
      },
    };
  }
}

function now() {
  return series.t.at(-1) ?? Date.now() / 1000;
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

/** The times of challenges behind the lines, those of attacks as a strip at the top. */
function shade(u) {
  const { left, top, width, height } = u.bbox;
  const paint = (flags, fill, depth) => {
    u.ctx.fillStyle = fill;
    for (let at = 0; at < flags.length; at++) {
      if (!flags[at]) continue;
      const first = at;
      while (flags[at + 1]) at++;
      const begin = Math.max(left, u.valToPos(series.t[first] - 1, "x", true));
      const end = Math.min(left + width, u.valToPos(series.t[at], "x", true));
      u.ctx.fillRect(begin, top, Math.max(1, end - begin), depth);
    }
  };
  paint(series.challenging, colour("--shade"), height);
  paint(series.attacked, colour("--strip"), 4 * devicePixelRatio);
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

function dropLines() {
  const sum = (values) => values.reduce((all, value) => all + value, 0);
  const reasons = [...series.drops].filter(([, values]) => sum(values) > 0).sort((a, b) => sum(b[1]) - sum(a[1]));
  const lines = reasons.slice(0, REASONS).map(([reason, values], number) =>
    ({ label: reason.replaceAll("_", " "), values, colour: colour(`--c${(number + 2) % 7}`) }));
  const rest = reasons.slice(REASONS);
  if (rest.length) {
    const values = series.t.map((_, at) => rest.reduce((all, [, row]) => all + row[at], 0));
    lines.push({ label: `${rest.length} others`, values, colour: colour("--c1") });
  }
  return lines;
}

const charts = [
  new Chart("syns", () => [
    { label: "SYNs", values: series.syns, colour: colour("--c0"), fill: true },
    { label: "validated clients", values: series.validated, colour: colour("--c1") },
    { label: "cookies sent", values: series.cookies, colour: colour("--c2") },
  ], true),
  new Chart("open", () => [
    { label: "half-open", values: series.half_open, colour: colour("--c4") },
    { label: "cookies in flight", values: series.cookies_in_flight, colour: colour("--c2") },
  ]),
  new Chart("drops", dropLines),
];

function showCharts() {
  for (const chart of charts) chart.draw();
}

// ---- the course of time ----

let answered = 0; // When the last answer came.

async function poll() {
  if (!document.hidden) {
    try {
      await ask();
      answered = Date.now();
      tell("");
    } catch (error) {
      console.debug(error);
      const since = answered ? ` since ${clock(answered / 1000)}. What is shown is from then.` : ".";
      tell(`synwall does not answer${since}`);
    }
  }
  setTimeout(poll, POLL);
}

/** @param {string} problem */
function tell(problem) {
  document.documentElement.dataset.state = problem ? "silent" : "live";
  const place = element("problem");
  if (place.textContent !== problem) place.textContent = problem;
  place.hidden = !problem;
  if (problem) {
    element("clock").textContent = "no answer";
    document.title = "no answer · synwall";
  }
}

select.addEventListener("change", () => choose(select.value));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showCharts);
poll();
