// @ts-check
// How figures and times are written, and elements made: text is only ever set as textContent.

/** @param {number} n */
export function count(n) {
  for (const [unit, name] of /** @type {[number, string][]} */ ([[1e9, "G"], [1e6, "M"], [1e3, "k"]])) {
    if (n >= unit * 0.9995) return `${digits(n / unit)}\u00a0${name}`;
  }
  return digits(n);
}

/** @param {number} n */
export function digits(n) {
  return n >= 99.95 || Number.isInteger(n) ? String(Math.round(n)) : n.toFixed(n >= 9.995 ? 0 : 1).replace(/\.0$/, "");
}

/** @param {number} seconds */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return s % 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s / 60} min`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

/** @param {number} seconds since 1970 */
export function clock(seconds, withSeconds = true) {
  return new Date(seconds * 1000).toTimeString().slice(0, withSeconds ? 8 : 5);
}

/** @param {number} seconds since 1970 */
export function date(seconds) {
  const at = new Date(seconds * 1000);
  const isToday = at.toDateString() === new Date().toDateString();
  return isToday ? clock(seconds) : `${at.toLocaleDateString("sv")} ${clock(seconds, false)}`;
}

/** @param {number} share 0 to 1 */
export function percent(share) {
  return share > 0 && share < 0.01 ? "< 1 %" : `${Math.round(share * 100)} %`;
}

/** @param {string} id */
export function element(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** @param {string} name @param {string} [text] @param {string} [className] */
export function make(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** @param {string} name */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
