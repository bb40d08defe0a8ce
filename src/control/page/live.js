// @ts-check
// The live page: asks for /live.json once a second and shows it.

import { Chart, SPAN } from "/charts.js";
import { clock, colour, count, date, duration, element, make, percent } from "/words.js";

/** @typedef {{t: number[], syns: number[], cookies: number[], validated: number[], half_open: number[],
 *   cookies_in_flight: number[], challenging: number[], attacked: number[], drops: Map<string, number[]>}} Series */

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
const LEVELS = ["bad", "warn", "good"]; // What needs a look comes first.
const COLUMNS = ["syns", "cookies", "validated", "half_open", "cookies_in_flight", "challenging", "attacked"];

// ---- what is said of a service ----

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
  const all = answer.services.map((service) => ({ service, ...state(service, answer) }))
    .sort((one, other) => LEVELS.indexOf(one.level) - LEVELS.indexOf(other.level));
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
  const worst = all[0];
  document.title = worst && worst.level !== "good" ? `${worst.service.name}: ${worst.word} · synwall` : "synwall";
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
    .map((one) => `${answer.service ? "" : `${one.service}: `}${count(one.distinct_sources)} ${one.distinct_sources === 1 ? "source" : "sources"}, ${percent(one.new_source_share)} never seen, ${percent(one.completed_share)} completed`)
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

/** @param {Series} series */
function dropLines(series) {
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
  new Chart("syns", (series) => [
    { label: "SYNs", values: series.syns, colour: colour("--c0"), fill: true },
    { label: "validated clients", values: series.validated, colour: colour("--c1") },
    { label: "cookies sent", values: series.cookies, colour: colour("--c2") },
  ], true),
  new Chart("open", (series) => [
    { label: "half-open", values: series.half_open, colour: colour("--c4") },
    { label: "cookies in flight", values: series.cookies_in_flight, colour: colour("--c2") },
  ]),
  new Chart("drops", dropLines),
];

function showCharts() {
  for (const chart of charts) chart.draw(series);
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
